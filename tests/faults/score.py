"""How many planted faults the verdict catches, and how often it takes a sound artifact for a faulty one.

`python -m tests.faults.score ARTIFACT [COUNT]` plants faults of each kind at COUNT places of an artifact that was
converted on this machine, and prints a table. A fault that is told (a range that cuts values off, a bias that was
moved) does not refuse the artifact; it is counted by itself.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

import hub
from hub._local import LayerCheck
from hub._parity import POLICIES, compare
from hub._plugins import Registry
from hub.spec import (
    Feeds,
    HubError,
    LocalReport,
    ModelArtifact,
    Receipt,
    RuntimeOptions,
    SampleFolder,
    write_sample,
)
from tests.faults.alarms import feeds_of, float_model_of
from tests.faults.inject import FaultSites, Mutant, mutants

SUFFIXES = {"tflite": ".tflite", "onnxruntime": ".onnx", "openvino": ".xml"}


class Judged(NamedTuple):
    """What the verdict said of one mutant: whether it computes something else at all, and what of it saw that."""

    mutant: Mutant
    differs: bool
    by_outputs: bool
    by_layers: bool
    told: bool

    @property
    def refused(self) -> bool:
        """Whether the verdict refuses it."""
        return self.by_outputs or self.by_layers

    @property
    def caught(self) -> bool:
        """Whether the user hears of it."""
        return self.refused or self.told


class Bench:
    """A sound artifact, the float model that it was made of, and samples."""

    def __init__(self, receipt: Receipt, feeds: Sequence[Feeds], folder: Path) -> None:
        self.registry, self.folder, self.feeds = Registry(), folder, feeds
        self.result = receipt.result
        float_model = float_model_of(receipt)
        assert float_model
        self.float_model = float_model
        self.reader = self.registry.formats[self.result.state.format]
        self.runtime = self.registry.runtime_for(self.result.state.format)
        self._run(self.float_model, "float")
        self._run(self.result, "sound")
        self.sound = self.layers(self.result)
        self.told = told_of(self.sound)

    def _run(self, model: ModelArtifact, name: str) -> Path:
        into = self.folder / name
        into.mkdir()
        session = self.runtime.open(model, RuntimeOptions())
        for index, sample in enumerate(self.feeds):
            write_sample(into, index, session.run(sample))
        session.close()
        return into

    def layers(self, model: ModelArtifact) -> LocalReport:
        """What the check layer by layer says of a model."""
        report = LayerCheck(self.reader, self.runtime, self.float_model, model, RuntimeOptions()).report(self.feeds)
        assert not report.lack, report.lack
        return report

    def passes_outputs(self, outputs: Path) -> bool:
        """Whether the gate of the outputs holds."""
        policy = POLICIES[self.result.state.numerics]
        try:
            return compare(
                self.folder / "float", {"": outputs}, policy, inputs="given", reference_runtime=self.runtime.name
            ).passed
        except HubError:
            return False

    def judge(self, mutant: Mutant) -> Judged | None:
        """Judge a mutant; None where the runtime refuses to open it."""
        model = msgspec.structs.replace(self.result, path=str(mutant.path))
        try:
            outputs = self._run(model, mutant.path.parent.name)
        except HubError:
            return None
        pairs = zip(SampleFolder(outputs), SampleFolder(self.folder / "sound"), strict=True)
        differs = any(not np.array_equal(one[name], other[name]) for one, other in pairs for name in one)
        report = self.layers(model)
        told = told_of(report) > self.told
        return Judged(mutant, differs, not self.passes_outputs(outputs), report.failed > 0, told)

    def score(self, sites: FaultSites, most: int) -> list[Judged]:
        """Judge mutants of the artifact that compute something else; those that do not are no faults."""
        into = self.folder / "mutants"
        into.mkdir()
        judged = (self.judge(mutant) for mutant in mutants(sites, into, most))
        return [item for item in judged if item and item.differs]


def told_of(report: LocalReport) -> int:
    """How many layers something is told of that refuses nothing."""
    return sum(bool(item.cautions) for item in report.worst)


def sites_of(target: str, path: Path) -> FaultSites:
    """The sites of an artifact; its format's libraries are imported here."""
    if target == "tflite":
        from tests.faults.tflite_sites import TfliteSites

        return TfliteSites(path)
    if target == "openvino":
        from tests.faults.openvino_sites import OpenvinoSites

        return OpenvinoSites(path)
    from tests.faults.onnx_sites import OnnxSites

    return OnnxSites(path)


def bench(source: str, target: str, precision: str, data: Path, folder: Path, samples: int = 64) -> Bench:
    """Convert a model and open the bench with it."""
    output = folder / f"result{SUFFIXES[target]}"
    receipt = hub.convert(
        source, target, precision=precision, calibration=data / "calibration.npz", test=data / "test.npz", output=output
    )
    return Bench(receipt, feeds_of(receipt, samples), folder)


def main() -> None:
    """Print a table."""
    file, *count = sys.argv[1:]
    receipt = msgspec.json.decode(Path(f"{file}.hub.json").read_bytes(), type=Receipt)
    receipt = msgspec.structs.replace(receipt, result=msgspec.structs.replace(receipt.result, path=file))
    with tempfile.TemporaryDirectory() as folder:
        opened = Bench(receipt, feeds_of(receipt, 64), Path(folder))
        print("sound:", f"{opened.sound.failed} failures, {opened.told} told")  # noqa: T201 a program for people
        judged = opened.score(sites_of(receipt.result.state.format, Path(file)), int(*count or ["1"]))
        for kind in [*dict.fromkeys(item.mutant.kind for item in judged), ""]:
            own = [item for item in judged if kind in {item.mutant.kind, ""}]
            outputs, refused, caught = (
                sum(one) for one in zip(*((i.by_outputs, i.refused, i.caught) for i in own), strict=True)
            )
            figures = f"{len(own):3} faults, outputs {outputs:3}, with layers {refused:3}, told {caught - refused:3}"
            print(f"{kind or 'all':22} {figures}")  # noqa: T201 a program for people
        missed = [f"{item.mutant.kind} at {item.mutant.where}" for item in judged if not item.caught]
        print("missed:", "; ".join(missed) or "none")  # noqa: T201 a program for people


if __name__ == "__main__":
    main()
