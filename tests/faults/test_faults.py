"""The verdict on planted faults: so many are caught at least, and the sound artifact passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.verdict import PAGE, read_figures, render
from tests.faults.score import bench, sites_of

SAMPLES = Path(__file__).parents[2] / "samples"
MODELS = {"digits-torch": ("digits_torch", "digits.pt2"), "digits-keras": ("digits_keras", "digits.keras")}
TARGETS = ("tflite", "onnxruntime", "openvino")
PRECISIONS = ("int8", "int8-dynamic", "fp16")
IN_CI = {
    ("digits-torch", "tflite", "int8"),
    ("digits-keras", "onnxruntime", "int8"),
}


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(
            cell := (name, target, precision), id="-".join(cell), marks=[pytest.mark.scheduled] * (cell not in IN_CI)
        )
        for name in MODELS
        for target in TARGETS
        for precision in PRECISIONS
    ],
)
def test_faults_are_caught(cell: tuple[str, str, str], tmp_path: Path) -> None:
    name, target, precision = cell
    place, file = MODELS[name]
    kind = "int8-weights" if (target, precision) == ("openvino", "int8-dynamic") else precision
    opened = bench(str(SAMPLES / place / file), target, kind, SAMPLES / place, tmp_path)
    assert (opened.sound.failed, opened.told) == (0, 0)
    every = opened.score(sites_of(opened.result.state.format, Path(opened.result.path)), 1)
    judged = [item for item in every if not item.equivalence]
    missed = [f"{item.mutant.kind} at {item.mutant.where}" for item in judged if not item.caught]
    assert len(judged) >= 8
    assert not missed


def test_the_page_is_that_of_the_figures() -> None:
    assert PAGE.read_text() == render(read_figures())
