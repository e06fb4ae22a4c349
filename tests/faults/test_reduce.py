"""`hub reduce` on planted faults: the planted layer is what is left, and it fails under the vendor's runtime alone."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from hub._insides import open_inside
from hub._matching import INPUT
from hub._reduction import CaseSearch
from hub.spec import ModelArtifact, ReducedCase, RuntimeOptions, StepError
from tests.faults.inject import mutants
from tests.faults.score import Bench, bench, sites_of
from tests.faults.test_diff import NO_FAULT, guilty
from tests.faults.test_faults import MODELS, SAMPLES, TARGETS

FLOOR = 6
"""Faults that become a case, at least: those of inputs and those below rounding do not."""
SCRIPTS = 3
"""Scripts that are run in a process of their own; hub has run every one."""


def search(opened: Bench, model: ModelArtifact, stack: contextlib.ExitStack) -> CaseSearch:
    one, other = (
        open_inside(opened.reader, opened.runtime, item, RuntimeOptions(), stack)
        for item in (opened.float_model, model)
    )
    return CaseSearch(one, other, [(sample, sample) for sample in opened.feeds[:8]], 1)


def searched(opened: Bench, model: ModelArtifact, into: Path) -> ReducedCase:
    into.mkdir()
    with contextlib.ExitStack() as stack:
        return search(opened, model, stack).find(into)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(
            name,
            target,
            id=f"{name}-{target}",
            marks=[pytest.mark.scheduled] * ((name, target) != ("digits-torch", "tflite")),
        )
        for name in MODELS
        for target in TARGETS
    ],
)
def test_the_planted_layer_is_left_and_fails(name: str, target: str, tmp_path: Path) -> None:
    place, file = MODELS[name]
    opened = bench(str(SAMPLES / place / file), target, "int8", SAMPLES / place, tmp_path)
    with contextlib.ExitStack() as stack:
        asked = search(opened, opened.result, stack)
        layers = [item for item in asked.report().layers if item.local_db is not None and item.other_operator != INPUT]
        wrong = [item.layer for item in layers if asked.cut_out(item, _fresh(tmp_path / "layers"))]
    assert layers
    assert not wrong or target == "openvino"  # NNCF moves biases, which is told and does not diverge
    sound = searched(opened, opened.result, tmp_path / "no case")
    assert sound.layer is None
    assert "adds up" in sound.lack
    assert not list((tmp_path / "no case").iterdir())
    takes = {item.name for item in opened.float_model.signature.inputs}
    made, shown = tmp_path / "mutants", 0
    made.mkdir()
    for count, mutant in enumerate(
        mutants(sites_of(opened.result.state.format, Path(opened.result.path)), made, 1, seed=1)
    ):
        wanted = guilty(opened, mutant)
        if not wanted or wanted <= takes or (target == "openvino" and mutant.kind in NO_FAULT):
            continue  # no layer of the float model stands for what rounds an input
        into = tmp_path / f"case{count}"
        try:
            case = searched(opened, msgspec.structs.replace(opened.result, path=str(mutant.path)), into)
        except StepError:
            continue  # the runtime does not open it
        if case.layer is None:
            assert not list(into.iterdir())
            continue
        assert case.layer.layer in wanted, mutant
        assert len(case.parts[1]) <= 2
        assert case.sqnr_db < case.least_db
        shown += 1
        if shown > SCRIPTS:
            continue
        done = subprocess.run(
            [sys.executable, "-I", str(into / "repro.py")], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, done.stderr
        assert "hub" not in (into / "repro.py").read_text()
    assert shown >= FLOOR


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
