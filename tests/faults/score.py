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
from typing import Literal, NamedTuple

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
    ParityReport,
    Receipt,
    RuntimeOptions,
    SampleFolder,
    write_sample,
)
from tests.faults.alarms import calibration_of, feeds_of, float_model_of
from tests.faults.inject import FaultSites, Mutant, mutants

SUFFIXES = {"tflite": ".tflite", "onnxruntime": ".onnx", "openvino": ".xml"}


Equivalence = Literal["", "equal", "below rounding", "no worse range"]
"""Why a mutant is no fault: its outputs are the sound artifact's, or nearer to them than a tenth of their rounding.

A range is the quantizer's choice: another one, with finer steps, is no fault where the outputs are as near to the float
model's as they were.
"""

_LOST = 1e6
"""Excess of what is NaN, or does not run."""


class Judged(NamedTuple):
    """What the verdict said of one mutant, and how much of what is allowed its outputs and its layers are off."""

    mutant: Mutant
    equivalence: Equivalence
    outputs: float
    layers: float
    told: bool

    @property
    def by_outputs(self) -> bool:
        """Whether the outputs' gate refuses it."""
        return self.outputs > 1

    @property
    def refused(self) -> bool:
        """Whether the verdict refuses it."""
        return max(self.outputs, self.layers) > 1

    @property
    def caught(self) -> bool:
        """Whether the user hears of it."""
        return self.refused or self.told


def excess_of(report: ParityReport) -> float:
    """How much of what is allowed the outputs are off, as amplitudes; what is counted in rows is off, or is not."""
    policy, found = report.policy, 0.0
    for item in report.outputs:
        if any("NaN" in failure for failure in item.failures):
            return _LOST
        bounds = (
            (policy.sqnr_min_db, item.sqnr_db),
            (policy.single_min_db, item.worst_db),
            (policy.centred_min_db, item.centred_sqnr_db),
        )
        found = max(found, *(10 ** ((least - db) / 20) for least, db in bounds if least is not None and db is not None))
        found = max(found, 1.001 if item.failures else 0.0)
    return min(found, _LOST)


class Bench:
    """A sound artifact, the float model that it was made of, and samples."""

    def __init__(self, receipt: Receipt, feeds: Sequence[Feeds], folder: Path) -> None:
        self.registry, self.folder, self.feeds = Registry(), folder, feeds
        self.noise, self.calibration = noise_like(feeds), calibration_of(receipt)
        self.result = receipt.result
        float_model = float_model_of(receipt)
        assert float_model
        self.float_model = float_model
        self.reader = self.registry.formats[self.result.state.format]
        self.runtime = self.registry.runtime_for(self.result.state.format)
        self._run(self.float_model, "float")
        self.sound_excess = self.outputs_excess(self._run(self.result, "sound"))
        self.sound = self.layers(self.result)
        self.told = told_of(self.sound)

    def _run(self, model: ModelArtifact, name: str) -> Path:
        """Folder of a model's outputs on the samples; those on noise lie beside it."""
        session = self.runtime.open(model, RuntimeOptions())
        for where, feeds in ((name, self.feeds), (f"{name} noise", self.noise)):
            into = self.folder / where
            into.mkdir()
            for index, sample in enumerate(feeds):
                write_sample(into, index, session.run(sample))
        session.close()
        return self.folder / name

    def layers(self, model: ModelArtifact) -> LocalReport:
        """What the check layer by layer says of a model."""
        check = LayerCheck(self.reader, self.runtime, self.float_model, model, RuntimeOptions())
        report = check.report(self.feeds, self.calibration)
        assert not report.lack, report.lack
        return report

    def outputs_excess(self, outputs: Path) -> float:
        """How much of what is allowed a model's outputs are off."""
        policy = POLICIES[self.result.state.numerics]
        try:
            return excess_of(
                compare(
                    self.folder / "float", {"": outputs}, policy, inputs="given", reference_runtime=self.runtime.name
                )
            )
        except HubError:
            return _LOST

    def equivalence(self, name: str, kind: str) -> Equivalence:
        """Whether a mutant is no fault, on the samples and on noise as wide as those."""
        off: dict[str, np.ndarray] = {}
        for where in ("", " noise"):
            models = (SampleFolder(self.folder / f"{model}{where}") for model in (name, "sound", "float"))
            for one, sound, real in zip(*models, strict=True):
                for output, array in one.items():
                    wide = sound[output].astype(np.float64)
                    powers = [np.square(wide - other).sum() for other in (array, real[output])]
                    powers.append(np.square(array - real[output].astype(np.float64)).sum())
                    off[output] = off.get(output, np.zeros(3)) + powers
        if not any(mutated for mutated, _, _ in off.values()):
            return "equal"
        if all(mutated <= 0.01 * own for mutated, own, _ in off.values()):
            return "below rounding"
        ranges = kind.startswith("range") and all(now <= own for _, own, now in off.values())
        return "no worse range" if ranges else ""

    def judge(self, mutant: Mutant) -> Judged | None:
        """Judge a mutant; None where the runtime refuses to open it."""
        model = msgspec.structs.replace(self.result, path=str(mutant.path))
        try:
            outputs = self._run(model, mutant.path.parent.name)
        except (HubError, RuntimeError, ValueError):  # runtimes say no in their own ways
            return None
        equivalence = self.equivalence(outputs.name, mutant.kind)
        if equivalence:
            return Judged(mutant, equivalence, 0.0, 0.0, told=False)
        report = self.layers(model)
        layers = max(report.excess, 1.001 if report.failed else 0.0)
        return Judged(mutant, "", self.outputs_excess(outputs), layers, told_of(report) > self.told)

    def score(self, sites: FaultSites, most: int) -> list[Judged]:
        """Judge mutants of the artifact; those that are no faults say so."""
        into = self.folder / "mutants"
        into.mkdir()
        judged = (self.judge(mutant) for mutant in mutants(sites, into, most))
        return [item for item in judged if item]


def noise_like(feeds: Sequence[Feeds], count: int = 8) -> list[Feeds]:
    """Samples whose numbers are drawn evenly from the range of each input."""
    draw = np.random.default_rng(0)

    def drawn(name: str) -> np.ndarray:
        arrays = [sample[name] for sample in feeds]
        low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
        return draw.uniform(low, high, arrays[0].shape).astype(arrays[0].dtype)

    return [{name: drawn(name) for name in feeds[0]} for _ in range(count)]


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
        every = opened.score(sites_of(receipt.result.state.format, Path(file)), int(*count or ["1"]))
        judged = [item for item in every if not item.equivalence]
        print(f"{len(every) - len(judged)} mutants are no faults")  # noqa: T201 a program for people
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
