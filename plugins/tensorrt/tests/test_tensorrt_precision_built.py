"""Each precision of a real classifier through the installed command: proved in ONNX Runtime, found in the layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorrt_rtx", reason="the ahead-of-time builder is not installed: pip install hub-tensorrt[rtx]")

from hub_tensorrt.report import read_report

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "samples" / "digits_torch"
LEAST_DB = {"int8": 38, "int8-mixed": 38, "fp16": 65, "bf16": 45, "fp8": 24, "int4-weights": 25}
"""Of the precision ONNX, on samples that no step saw."""

_IN_CI = "int8"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for the whole module: the way to ONNX is the same for every precision, and goes once."""
    monkeypatch.setenv("HUB_CACHE_DIR", str(kept))
    return kept


@pytest.mark.parametrize(
    "precision", [pytest.param(word, marks=() if word == _IN_CI else pytest.mark.scheduled) for word in LEAST_DB]
)
def test_each_precision_is_proved_and_is_in_the_engines_layers(
    hub: Callable[..., Any], tmp_path: Path, precision: str
) -> None:
    plan = tmp_path / "digits.engine"
    data = ["--calibration", DIGITS / "calibration.npz", "--test", DIGITS / "test.npz"]
    words = ["--to", "tensorrt", "--precision", precision, *data, "-o", plan, "--json"]
    ran = hub("convert", DIGITS / "digits.pt2", *words)
    assert ran.status == 0, ran.err
    assert min(row["sqnr_db"] for row in ran.json["not_run"]["parity"]["outputs"]) > LEAST_DB[precision]
    assert precision.removesuffix("-mixed") in read_report(plan).multiplied_in
