"""How often the check layer by layer takes a sound artifact for a faulty one, what it costs, and how much it compares.

`python -m tests.faults.alarms FOLDER...` looks for receipts in folders, and holds every artifact that still has its
float model against it. All of them passed the gate of the outputs, so that an alarm is false unless proved otherwise.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from hub._bindings import to_artifact
from hub._corrections import CorrectionSamples
from hub._local import SAMPLES, LayerCheck
from hub._plugins import Registry
from hub.spec import Feeds, LocalReport, ModelArtifact, Numerics, Receipt, RuntimeOptions

_SAMPLES_OF_OURS = Path(__file__).parents[2] / "samples"


class Found(NamedTuple):
    """What was found of one artifact: the report, the seconds and bytes that it took, and the conversion's seconds."""

    file: str
    numerics: str
    report: LocalReport
    seconds: float
    peak_bytes: int
    converted_seconds: float


def float_model_of(receipt: Receipt) -> ModelArtifact | None:
    """The float model of the result's format that it was made of, where it is still there."""
    models = [receipt.source, *(step.artifact for step in receipt.steps)]
    same = [item for item in models if item.state.format == receipt.result.state.format]
    floats = [item for item in same if item.state.numerics is Numerics.FP32 and Path(item.path).exists()]
    return floats[-1] if floats else None


def receipts_in(folders: Iterable[str]) -> Iterator[tuple[Path, Receipt]]:
    """Receipts of quantized artifacts that can be judged here; each artifact once."""
    seen = set()
    for file in sorted(itertools.chain.from_iterable(Path(folder).rglob("*.hub.json") for folder in folders)):
        artifact = file.with_name(file.name.removesuffix(".hub.json"))
        try:
            receipt = msgspec.json.decode(file.read_bytes(), type=Receipt)
        except msgspec.DecodeError:
            continue  # of another version, or no receipt
        result = receipt.result
        if result.state.numerics is Numerics.FP32 or result.sha256 in seen or not artifact.exists():
            continue
        if float_model_of(receipt):
            seen.add(result.sha256)
            yield artifact, receipt


def feeds_of(receipt: Receipt, count: int = SAMPLES) -> list[Feeds]:
    """Samples in the artifact's terms: the data's where it is still there, else noise."""
    places = [Path(receipt.calibration.spec).with_name("test.npz")] if receipt.calibration else []
    places += [_SAMPLES_OF_OURS / name / "test.npz" for name in ("digits_torch", "digits_keras")]
    for place in places:
        if found := _read(place, receipt, count):
            return found
    draw = np.random.default_rng(0)
    return [
        {
            spec.name: draw.uniform(0, 1, [dim.size or 1 for dim in spec.shape]).astype(spec.dtype.value)
            for spec in receipt.result.signature.inputs
        }
        for _ in range(SAMPLES)
    ]


def calibration_of(receipt: Receipt) -> CorrectionSamples | None:
    """All samples that the quantizer had, in the artifact's terms; None where they are not there any more."""
    made_on = receipt.calibration
    found = _read(Path(made_on.spec), receipt, made_on.calibration_samples) if made_on else []
    whole = made_on and len(found) == made_on.calibration_samples
    return CorrectionSamples(lambda: found, len(found)) if whole else None


def _read(place: Path, receipt: Receipt, count: int) -> list[Feeds]:
    """The first samples of a file, in the artifact's terms; none where it is not there, or is of another model."""
    if not place.exists():
        return []
    arrays, chain = np.load(place), tuple(step.bindings for step in receipt.steps)
    sources = [bound.source for bound in receipt.contract if bound.direction == "input"]
    named = {source.name: [dim.size or 1 for dim in source.shape] for source in sources if source}
    if len(named) < len(sources) or not all(name in arrays for name in named):
        return []
    return [
        to_artifact({name: _batched(arrays[name][row], shape) for name, shape in named.items()}, chain)
        for row in range(min(count, *(len(arrays[name]) for name in named)))
    ]


def _batched(row: np.ndarray, shape: list[int]) -> np.ndarray:
    """A sample in its model's rank: with a batch of one, or in the model's own shape where that has its size."""
    return row.reshape(shape) if row.size == np.prod(shape) else row[None] if row.ndim < len(shape) else row


def judge(artifact: Path, receipt: Receipt) -> Found:
    """Hold one artifact against its float model."""
    registry, float_model = Registry(), float_model_of(receipt)
    assert float_model
    result = msgspec.structs.replace(receipt.result, path=str(artifact))
    kind = result.state.format
    check = LayerCheck(registry.formats[kind], registry.runtime_for(kind), float_model, result, RuntimeOptions())
    start = time.perf_counter()
    report = check.report(feeds_of(receipt), calibration_of(receipt))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Found(
        str(artifact), result.state.numerics, report, seconds, peak, sum(step.seconds for step in receipt.steps)
    )


def main() -> None:
    """Print what was found, artifact by artifact, and the sum of it."""
    context = multiprocessing.get_context("spawn")
    found: list[Found] = []
    with concurrent.futures.ProcessPoolExecutor(2, context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(judge, *item): item[0] for item in receipts_in(sys.argv[1:])}
        for done in concurrent.futures.as_completed(waiting):
            try:
                item = done.result()
            except Exception as error:  # noqa: BLE001 said, and the others go on
                print(f"ERROR {waiting[done]}: {error!r}", flush=True)  # noqa: T201 a program for people
                continue
            found.append(item)
            report = item.report
            word = "ALARM" if report.failed else report.lack or "passes"
            figures = f"{report.layers}/{report.of} layers, {report.constants} constants"
            cost = f"{item.seconds:.1f} s of {item.converted_seconds:.0f} s, {item.peak_bytes >> 20} MiB"
            print(f"{word} {item.file} {item.numerics}: {figures}; {cost}", flush=True)  # noqa: T201 a program
            for why, number in report.left_out.items():
                print(f"    {number} left out: {why}")  # noqa: T201
            for remark in report.remarks:
                print(f"    {remark.code}: {remark.text}")  # noqa: T201
            for worst in report.worst[: report.failed]:
                words = "; ".join(worst.failures)
                print(f"    {worst.layer} ({worst.operator}) {worst.what} {worst.tensor}: {words}", flush=True)  # noqa: T201
    alarms = sum(bool(item.report.failed) for item in found)
    share = statistics.median(item.seconds / max(item.converted_seconds, 0.1) for item in found)
    print(f"{alarms} alarms at {len(found)} artifacts; median cost {share:.2f} of the conversion's steps")  # noqa: T201


if __name__ == "__main__":
    main()
