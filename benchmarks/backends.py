"""hub against each backend's own tool with its default settings, side by side: `python -m benchmarks.backends FOLDER`.

`--models NAME,…` and `--backends NAME,…` measure a part; what was measured before is kept in docs/backends.json.
Accuracy, size and time are taken here, on the bare runtimes and the bare sources, so they check hub's own figures too.
All models of one backend take turns in one process: a turn is at least 30 ms and yields its fastest run, a ratio is
taken round by round against the float form in the same round, and the median of the rounds is kept. The first round
warms up and counts for nothing. On a busy machine, where threads wait for each other's turn on a core, wall time tells
nothing: `--busy` takes the processor's time of one thread instead, and the page says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import bare_onnxruntime, bare_openvino
from benchmarks.bare_sources import Source, open_source
from docs import backends as page
from docs.backends import Cell, Measured
from tests.zoo.backends import BACKENDS, CLASSIFIERS, MODELS, convert, place_of, samples_of
from tests.zoo.cells import ROOT, Case

BARE: dict[str, Any] = {"onnxruntime": bare_onnxruntime, "openvino": bare_openvino}
QUIET, BUSY = "two threads, wall time", "one thread, processor time"
TURN = 0.03  # seconds
ROUNDS, LEAST_ROUNDS, LONGEST = 25, 9, 15.0  # the last in seconds, for all rounds of one process
FLOAT, SOURCE = "float", "source"
Outputs = list[list[np.ndarray[Any, Any]]]  # by sample, by output


class Job(msgspec.Struct, kw_only=True):
    """What one measuring process does: `base` is the float form, `files` are the artifacts by `precision/who`."""

    model: str
    source: str
    backend: str
    base: str
    files: dict[str, str]
    test: str
    timing: str = QUIET

    @property
    def threads(self) -> int:
        """Threads of every runtime."""
        return 2 if self.timing == QUIET else 1


class Result(msgspec.Struct, kw_only=True):
    """What it found: figures by `precision/who`, milliseconds of one run of the float form and of the source."""

    cells: dict[str, Cell]
    float_ms: float
    source_ms: float
    source_accuracy: float | None = None


# Making the artifacts


class Made(msgspec.Struct, frozen=True):
    """An artifact or the reason why there is none, and the seconds it took."""

    path: str
    error: str
    seconds: float
    said_slower: bool = False
    claimed_db: float | None = None
    claimed_speedup: float | None = None


def by_hub(case: Case, target: str, precision: str, output: Path, *, keep: bool = False) -> Made:
    """`hub convert`; with `keep`, what it made in this folder before is taken as it is."""
    noted = output.with_name(f"{output.name}.made.json")
    if keep and noted.exists():
        return msgspec.json.decode(noted.read_bytes(), type=Made)
    made = _converted(case, target, precision, output)
    noted.write_bytes(msgspec.json.encode(made))
    return made


def _converted(case: Case, target: str, precision: str, output: Path) -> Made:
    start = time.perf_counter()
    outcome = convert(case, target, precision, output)
    seconds = time.perf_counter() - start
    if outcome.status:
        error = outcome.document["error"]
        return Made(str(output), f"{error['code']}: {error['message']}"[:300], seconds)
    receipt = outcome.document
    return Made(
        str(output),
        "",
        seconds,
        "is slower here" in json.dumps(receipt),
        _claimed(receipt["parity"]["outputs"]),
        (receipt.get("speed") or {}).get("speedup"),
    )


def _claimed(outputs: list[dict[str, Any]]) -> float:
    """The worst output's SQNR on the test samples; a receipt also tells of two samples at a second size."""
    most = max(found["samples"] for found in outputs)
    return float(min(found["sqnr_db"] for found in outputs if found["samples"] == most))


def by_tool(backend: str, model: Path, samples: Path, outputs: dict[str, Path]) -> dict[str, Made]:
    """The backend's own tool, by precision, in a process of its own; what lies in the folder from before is kept."""
    missing = {precision: path for precision, path in outputs.items() if not path.with_suffix(".json").exists()}
    found = _tool_process(backend, model, samples, missing) if missing else 0
    alone = {precision: path for precision, path in missing.items() if not path.with_suffix(".json").exists()}
    for precision, path in alone.items():  # a native crash takes those along that come after it
        found = _tool_process(backend, model, samples, {precision: path})
        if not path.with_suffix(".json").exists():
            note = Made(str(path), f"the process dies with status {found}", 0.0)
            path.with_suffix(".json").write_bytes(msgspec.json.encode(note))
    return {
        precision: msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Made)
        for precision, path in outputs.items()
    }


def _tool_process(backend: str, model: Path, samples: Path, outputs: dict[str, Path]) -> int:
    wanted = [f"{precision}={path}" for precision, path in outputs.items()]
    words = [sys.executable, "-m", f"benchmarks.bare_{backend}", str(model), str(samples), *wanted]
    return subprocess.run(words, cwd=ROOT, capture_output=True, timeout=1200, check=False).returncode


def plain_onnx(case: Case, folder: Path) -> Path:
    """The float ONNX file that the tools get: the model itself, or what its vendor's exporter makes of it."""
    source = case.model(place_of(case, folder))
    if source.endswith(".onnx"):
        return Path(source)
    output = place_of(case, folder) / "float.onnx"
    if not output.exists():
        made = by_hub(case, "onnx", "fp32", output)
        if made.error:
            raise RuntimeError(f"{case.name} has no ONNX form: {made.error}")
    return output


def make_all(case: Case, backend: str, folder: Path, *, keep: bool) -> dict[str, Made]:
    """Every artifact by `precision/who`."""
    place, suffix = place_of(case, folder), BACKENDS[backend].suffix
    samples, model = samples_of(case, folder), plain_onnx(case, folder)
    outputs = {p: place / f"tool.{backend}.{p}{suffix}" for p in BACKENDS[backend].precisions}
    tool = by_tool(backend, model, samples.calibration, outputs)
    hub = {p: by_hub(case, backend, p, place / f"hub.{backend}.{p}{suffix}", keep=keep) for p in outputs}
    return {f"{p}/{who}": made[p] for p in outputs for who, made in (("hub", hub), ("tool", tool))}


def size_of(path: Path) -> int:
    """Bytes of an artifact with the files beside it that hold its weights."""
    beside = [path.with_suffix(".bin"), *path.parent.glob(f"{path.name}*.data"), *path.parent.glob(f"{path.stem}.data")]
    return sum(file.stat().st_size for file in {path, *beside} if file.exists())


# Comparing


def sqnr(source: np.ndarray[Any, Any], result: np.ndarray[Any, Any]) -> float:
    """Signal to quantization noise ratio in dB, 300 at most."""
    noise = float(((source - result) ** 2).sum())
    return min(300.0, float(10 * np.log10(float((source**2).sum()) / noise))) if noise else 300.0


def cosine(source: np.ndarray[Any, Any], result: np.ndarray[Any, Any]) -> float:
    """Cosine of the angle between two tensors."""
    lengths = float(np.linalg.norm(source) * np.linalg.norm(result))
    return float((source * result).sum()) / lengths if lengths else 0.0


def _all_samples(outputs: Outputs, place: int) -> np.ndarray[Any, Any]:
    return np.concatenate([np.asarray(sample[place], np.float64).ravel() for sample in outputs])


def _answers(outputs: Outputs) -> np.ndarray[Any, Any]:
    return np.concatenate([np.asarray(sample[0]).argmax(-1).ravel() for sample in outputs])


def compare(model: str, reference: Outputs, result: Outputs, labels: np.ndarray[Any, Any] | None) -> Cell:
    """Figures of the worst output over all samples."""
    count = len(reference[0])
    if len(result[0]) != count:
        return Cell(error=f"{len(result[0])} outputs instead of {count}")
    if not all(np.isfinite(array).all() for sample in result for array in sample):
        return Cell(error="results that are not finite")
    pairs = [(_all_samples(reference, place), _all_samples(result, place)) for place in range(count)]
    if any(source.shape != got.shape for source, got in pairs):
        return Cell(error="results of another shape")
    answers = _answers(result) if model in CLASSIFIERS else None
    return Cell(
        sqnr_db=min(sqnr(*pair) for pair in pairs),
        cosine=min(cosine(*pair) for pair in pairs),
        agreement=None if answers is None else float((answers == _answers(reference)).mean()),
        accuracy=None if labels is None or answers is None else float((answers == labels).mean()),
    )


# Timing


Clock = Callable[[], float]


def timed(turns: dict[str, Callable[[], object]], clock: Clock = time.perf_counter) -> dict[str, list[float]]:
    """Seconds of one run in each round; in a round every model has one turn, in the same order."""
    warm = {name: _turn(turn, clock)[1] for name, turn in turns.items()}
    rounds = max(LEAST_ROUNDS, min(ROUNDS, int(LONGEST / sum(warm.values()))))
    found: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            found[name].append(_turn(turn, clock)[0])
    return found


def _turn(turn: Callable[[], object], clock: Clock) -> tuple[float, float]:
    """Seconds of one run, and of the whole turn.

    By the wall's clock it is the fastest run, which other programs disturb least; by the processor's clock, which they
    do not disturb and which is too coarse for one run, it is the mean.
    """
    start = before = clock()
    fastest, count = float("inf"), 0
    while before - start < TURN:
        turn()
        count += 1
        now = clock()
        fastest, before = min(fastest, now - before), now
    whole = before - start
    return (fastest if clock is time.perf_counter else whole / count), whole


def against(base: list[float], other: list[float]) -> float:
    """Median over the rounds of how many times faster than the base."""
    return statistics.median(a / b for a, b in zip(base, other, strict=True))


# One measuring process


def _samples(path: str) -> tuple[list[bare_onnxruntime.Arrays], np.ndarray[Any, Any] | None]:
    with np.load(path) as file:
        labels = file["label"] if "label" in file.files else None
    return list(bare_onnxruntime.rows(Path(path))), labels


def _opened(job: Job, samples: list[bare_onnxruntime.Arrays]) -> tuple[dict[str, Any], dict[str, Cell]]:
    """Models that run, and the failures of those that do not."""
    models: dict[str, Any] = {}
    failed: dict[str, Cell] = {}
    for name, path in job.files.items():
        try:
            models[name] = BARE[job.backend].Model(Path(path), job.threads)
            models[name].run(samples[0])
        except Exception as error:  # noqa: BLE001 whatever a runtime raises is the cell's result
            models.pop(name, None)
            failed[name] = Cell(error=f"does not run: {' '.join(str(error).split())}"[:200])
    return models, failed


def measure(job: Job) -> Result:
    """Compare and time every artifact of one model in one backend."""
    samples, labels = _samples(job.test)
    source = open_source(job.source, job.threads)
    reference = [source.run(sample) for sample in samples]
    models, cells = _opened(job, samples)
    for name, model in models.items():
        cells[name] = compare(job.model, reference, [model.run(sample) for sample in samples], labels)
    return _with_times(job, cells, source, models, samples[0], _accuracy(job, reference, labels))


def _accuracy(job: Job, reference: Outputs, labels: np.ndarray[Any, Any] | None) -> float | None:
    return compare(job.model, reference, reference, labels).accuracy


def _with_times(
    job: Job, cells: dict[str, Cell], source: Source, models: dict[str, Any], sample: Any, accuracy: float | None
) -> Result:
    base = BARE[job.backend].Model(Path(job.base), job.threads)
    turns = {SOURCE: source.turn(sample), FLOAT: base.turn(sample)}
    turns |= {name: model.turn(sample) for name, model in models.items()}
    times = timed(turns, time.perf_counter if job.timing == QUIET else time.process_time)
    for name in models:
        cells[name] = msgspec.structs.replace(cells[name], speedup=against(times[FLOAT], times[name]))
    middle = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    return Result(cells=cells, float_ms=middle[FLOAT], source_ms=middle[SOURCE], source_accuracy=accuracy)


def measured_apart(job: Job, folder: Path) -> Result:
    """`measure` in a process of its own; an artifact that kills it is found out and left out.

    Raises:
        RuntimeError: The process fails whatever it measures.
    """
    done = _process(job, folder)
    if done is not None:
        return done
    culprits = [n for n in job.files if _process(_only(job, n), folder) is None]
    if len(culprits) in {0, len(job.files)}:
        raise RuntimeError(f"{job.model} cannot be measured in {job.backend}")
    kept = {name: path for name, path in job.files.items() if name not in culprits}
    result = measured_apart(msgspec.structs.replace(job, files=kept), folder)
    result.cells |= {name: Cell(error="kills the process that runs it") for name in culprits}
    return result


def _only(job: Job, name: str) -> Job:
    return msgspec.structs.replace(job, files={name: job.files[name]})


def _process(job: Job, folder: Path) -> Result | None:
    """The result; None where the process died."""
    asked, answer = folder / "job.json", folder / "result.json"
    answer.unlink(missing_ok=True)
    asked.write_bytes(msgspec.json.encode(job))
    words = [sys.executable, "-m", "benchmarks.backends", str(folder), "--measure"]
    calm = os.environ | {"OMP_WAIT_POLICY": "passive"}  # PyTorch's idle threads take no time from the others
    done = subprocess.run(words, cwd=ROOT, env=calm, capture_output=True, text=True, timeout=1200, check=False)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    return msgspec.json.decode(answer.read_bytes(), type=Result)


# The whole


def run(case: Case, backend: str, folder: Path, *, keep: bool, timing: str = QUIET) -> Measured:
    """Make and measure everything of one model in one backend."""
    made = make_all(case, backend, folder, keep=keep)
    base = next(Path(made[name].path) for name in ("fp32/tool", "fp32/hub") if not made[name].error)
    files = {name: one.path for name, one in made.items() if not one.error}
    place = place_of(case, folder)
    job = Job(
        model=case.name,
        source=case.model(place),
        backend=backend,
        base=str(base),
        files=files,
        test=str(samples_of(case, folder).test),
        timing=timing,
    )
    result = measured_apart(job, place)
    cells: dict[str, dict[str, Cell]] = {}
    for name, one in made.items():
        precision, who = name.split("/")
        cell = Cell(error=one.error) if one.error else result.cells[name]
        cells.setdefault(precision, {})[who] = _noted(cell, one, base)
    return Measured(
        cells=cells,
        float_ms=result.float_ms,
        source_ms=result.source_ms,
        source_accuracy=result.source_accuracy,
        timing=timing,
    )


def _noted(cell: Cell, made: Made, base: Path) -> Cell:
    return msgspec.structs.replace(
        cell,
        smaller=None if cell.error else size_of(base) / size_of(Path(made.path)),
        seconds=made.seconds,
        said_slower=made.said_slower,
        claimed_db=made.claimed_db,
        claimed_speedup=made.claimed_speedup,
    )


def main() -> None:
    """Measure, keep, write; or be the process that measures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--keep", action="store_true", help="measure again what hub made in FOLDER before")
    parser.add_argument("--busy", action="store_true", help="time one thread by the processor's clock")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    if asked.measure:
        job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
        (folder / "result.json").write_bytes(msgspec.json.encode(measure(job)))
        return
    for name in asked.models.split(","):
        for backend in asked.backends.split(","):
            start = time.perf_counter()
            measured = run(MODELS[name], backend, folder, keep=asked.keep, timing=BUSY if asked.busy else QUIET)
            page.keep(name, backend, measured)
            print(f"{name} {backend} {time.perf_counter() - start:.0f} s: {page.in_a_line(measured)}", flush=True)


if __name__ == "__main__":
    main()
