"""`hub repair` on planted faults: the layer is told, and the new artifact passes the gate that the old one did not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import hub
from tests.faults.inject import mutants
from tests.faults.score import SUFFIXES, sites_of

SAMPLES = Path(__file__).parents[2] / "samples" / "digits_torch"
KINDS = {"channel zeroed", "largest wrapped", "channels swapped"}
"""Faults of weights that the gate of the outputs sees at no site, or at some."""


@pytest.mark.parametrize(
    "target",
    [pytest.param(target, marks=[pytest.mark.scheduled] * (target != "onnxruntime")) for target in SUFFIXES],
)
def test_planted_faults_are_repaired(target: str, tmp_path: Path) -> None:
    suffix = SUFFIXES[target]
    output = tmp_path / f"result{suffix}"
    receipt = hub.convert(
        SAMPLES / "digits.pt2",
        target,
        precision="int8",
        calibration=SAMPLES / "calibration.npz",
        test=SAMPLES / "test.npz",
        output=output,
    )
    into = tmp_path / "mutants"
    into.mkdir()
    found = [item for item in mutants(sites_of(receipt.result.state.format, output), into, 1) if item.kind in KINDS]
    assert {item.kind for item in found} == KINDS
    for mutant in found:
        beside = mutant.path.with_name(f"{mutant.path.name}.hub.json")
        shutil.copy(output.with_name(f"{output.name}.hub.json"), beside)
        report = hub.repair(mutant.path)
        assert report.parity.local
        assert report.parity.local.failed, mutant
        assert report.receipt
        assert report.receipt.parity
        assert report.receipt.parity.passed
        assert report.receipt.steps[-1].local
        assert not report.receipt.steps[-1].local.failed
        assert hub.repair(report.receipt.result.path).receipt is None
