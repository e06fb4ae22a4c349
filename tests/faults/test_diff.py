"""`hub diff` on planted faults: the layer that is guilty comes first, and what it says fits what was done."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest

from hub._insides import InsideComparison, open_inside
from hub._matching import root_of
from hub.spec import InsideDiff, ModelArtifact, OpensInside, RuntimeOptions, StepError
from hub_tflitefile.interface import unique_names
from hub_tflitefile.schema import parse, read_bytes
from tests.faults.inject import Mutant, mutants
from tests.faults.score import Bench, bench, sites_of
from tests.faults.test_faults import IN_CI, MODELS, SAMPLES, TARGETS

FITS = {
    "channel zeroed": {"channel-scaled"},
    "channel negated": {"channel-scaled"},
    "channels swapped": {"constant-permuted", "constant-differs"},  # in a grid for each channel it is a scale too
    "kernel transposed": {"constant-transposed"},
    "weights 1 % off": {"constant-scaled"},
    "weights 5 % off": {"constant-scaled"},
    "bias zeroed": {"constant-scaled"},
    "bias 10 % off": {"constant-scaled"},
    "range halved": {"range-cuts"},
    "range a quarter": {"range-cuts"},
}
"""What may explain a fault that was planted; anything else that is wrong with a constant for the others."""
NO_FAULT = {"bias zeroed", "bias 10 % off", "biases swapped"}
"""Where OpenVINO's biases lie on no grid, NNCF has moved them by as much."""


def compared(opened: Bench, model: ModelArtifact) -> InsideDiff:
    feeds = [(sample, sample) for sample in opened.feeds[:8]]
    with contextlib.ExitStack() as stack:
        one, other = (
            open_inside(opened.reader, opened.runtime, item, RuntimeOptions(), stack)
            for item in (opened.float_model, model)
        )
        return InsideComparison(one, other, feeds, 4).report()


def guilty(opened: Bench, mutant: Mutant) -> set[str]:
    """The layers that read what was changed, or give what has another range."""
    reader, where = opened.reader, mutant.where
    assert isinstance(reader, OpensInside)
    if where.startswith("operator "):
        return set()  # a relative has no name of its own in TFLite
    if opened.result.state.format == "tflite":
        where = unique_names(parse(read_bytes(mutant.path)).subgraphs[0])[int(where)]
    inside = reader.inside(mutant.path)
    moves = where in inside.tensors and not inside.tensors[where].constant
    found = {
        layer.name
        for layer in inside.layers
        if layer.name == where or where in (layer.outputs if moves else layer.inputs)
    }
    if moves:
        root = root_of(inside, where)
        found |= {layer.name for layer in inside.layers if root in {root_of(inside, name) for name in layer.outputs}}
        found |= {name for name, tensor in inside.inputs.items() if tensor == root}
    return found


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(
            name, target, id=f"{name}-{target}", marks=[pytest.mark.scheduled] * ((name, target, "int8") not in IN_CI)
        )
        for name in MODELS
        for target in TARGETS
    ],
)
def test_the_planted_layer_is_named_first_and_explained(name: str, target: str, tmp_path: Path) -> None:
    place, file = MODELS[name]
    opened = bench(str(SAMPLES / place / file), target, "int8", SAMPLES / place, tmp_path)
    sound = compared(opened, opened.result)
    assert sound.first is None
    assert len(sound.layers) > sound.of[1] // 2
    wrong, judged = [], 0
    for mutant in mutants(sites_of(opened.result.state.format, Path(opened.result.path)), _made(tmp_path), 1, seed=1):
        wanted = guilty(opened, mutant)
        if not wanted or (target == "openvino" and mutant.kind in NO_FAULT):
            continue  # a range of ONNX Runtime's is named by its scale, not by a tensor
        try:
            first = compared(opened, msgspec.structs.replace(opened.result, path=str(mutant.path))).first
        except StepError:
            continue  # the runtime does not open it
        judged += 1
        codes = {cause.code for cause in first.causes} if first else set()
        fits = FITS.get(mutant.kind, {"channel-scaled", "constant-wrapped", "constant-differs", "constant-permuted"})
        if first is None or first.layer not in wanted or not codes & fits:
            wrong.append((mutant.kind, wanted, first and (first.layer, first.causes)))
    assert judged >= 6
    assert not wrong


def _made(folder: Path) -> Path:
    into = folder / "mutants"
    into.mkdir()
    return into
