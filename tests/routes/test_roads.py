"""Every road between the four formats, through the installed command: each comes to exactly what is written here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hub._routing import FROM_FLOAT
from tests.zoo.roads import STARTS, SUFFIXES, convert, result_path

EXPECTED: dict[tuple[str, str], str] = {
    # dynamic-range int8: neither .pt2 nor Keras has a word for activations that are quantized on the fly; .pt2 has one
    # for weights alone, and what the importer made of the file tells which of both it is
    ("emotion-int8", "pytorch"): "unsupported-model",
    ("emotion-int8", "keras"): "no-route",
}
"""What a road comes to where that is not `pass`: the code of the refusal; a change in either direction fails."""

IN_CI = {
    ("digits.pt2", "onnx"),
    ("digits.pt2", "keras"),
    ("digits.keras", "onnx"),
    ("digits.keras", "pytorch"),
    ("digits-lstm", "onnx"),
    ("ocr-cls", "pytorch"),
    ("ocr-cls", "keras"),
    ("vad-onnx", "pytorch"),
    ("emotion-int8", "onnx"),
    ("digits.tflite", "onnx"),
    ("digits.tflite", "pytorch"),
    ("digits.tflite", "keras"),
}
"""One cell at least for each directed edge; the roads to TFLite are in test_real.py. The rest runs on schedule."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder and one cache for all roads."""
    made = tmp_path_factory.mktemp("roads")
    os.environ["HUB_CACHE_DIR"] = str(made / "cache")
    return made


def _roads() -> list[pytest.param]:
    return [
        pytest.param(
            start.name,
            target,
            id=f"{start.name}-to-{target}",
            marks=[] if (start.name, target) in IN_CI else [pytest.mark.scheduled],
        )
        for start in STARTS.values()
        for target in start.targets
    ]


@pytest.mark.real
@pytest.mark.parametrize(("name", "target"), _roads())
def test_road(name: str, target: str, folder: Path) -> None:
    outcome = convert(STARTS[name], target, folder)
    assert outcome.word == EXPECTED.get((name, target), "pass"), outcome.document.get("error", outcome.document)
    made = result_path(STARTS[name], target, folder)
    assert made.exists() == (outcome.status == 0)
    if outcome.status:
        assert outcome.document["error"]["hint"] == FROM_FLOAT
    if outcome.status == 0:
        assert outcome.document["parity"]["passed"]
        assert min(output["samples"] for output in outcome.document["parity"]["outputs"]) >= 1


def test_every_directed_edge_has_a_cell_in_ci() -> None:
    to_tflite = {(name, "tflite") for name in SUFFIXES}
    covered = {(STARTS[name].format, target) for name, target in IN_CI} | to_tflite
    assert covered >= {(one, two) for one in SUFFIXES for two in SUFFIXES if one != two}
