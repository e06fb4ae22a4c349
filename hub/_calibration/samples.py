"""Write checked samples one at a time, and hash them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hub._calibration.checks import Digests, Watch
from hub._calibration.rows import Chunk, Cut, cuts_of
from hub._calibration.sources import DataSource
from hub.spec import CalibrationError, InternalError, Remark, SampleFolder, write_sample

if TYPE_CHECKING:
    from hub._calibration.rows import Array


@dataclass(frozen=True)
class Written:
    """What is in the folder."""

    count: int
    fingerprint: str
    remarks: tuple[Remark, ...]
    labels: tuple[int, ...]


def file_of(folder: Path, index: int) -> Path:
    """The file of a sample."""
    return folder / f"{index:08d}.npz"


def fingerprint_of(folder: Path) -> str:
    """Hash the samples in a folder, in order."""
    digests = Digests()
    for arrays in SampleFolder(folder):
        digests.add(arrays)
    return digests.fingerprint


def write(source: DataSource, into: Path, *, calibrates: bool) -> Written:
    """Check and write every sample of a source.

    Raises:
        CalibrationError: See `hub._calibration.load_samples`.
    """
    if any(into.iterdir()):
        raise InternalError(f"samples would mix with what is in {into}")
    return _Writer(source, into, calibrates=calibrates).run()


class _Writer:
    def __init__(self, source: DataSource, into: Path, *, calibrates: bool) -> None:
        self.source = source
        self.calibrates = calibrates
        self.into = into
        self.watches = [Watch(tensor) for tensor in source.wanted]
        self.digests = Digests()
        self.notes: dict[Remark, int] = {}
        self.labels = _Labels()
        self.dropped = 0

    def run(self) -> Written:
        largest = 0
        for chunk in self.source.chunks(self.notes):
            cuts = cuts_of(chunk, self.source.wanted)
            largest = max(largest, *(cut.dropped for cut in cuts.values()))
            self._write(chunk, cuts)
        if not self.digests.every:
            spec, takes = self.source.place.spec, ", ".join(map(str, self.source.wanted))
            rows = f" ({largest} rows are less than a batch)" if largest else ""
            raise CalibrationError(f"{spec} holds no samples{rows}; the model takes {takes}", hint="give real inputs")
        return Written(len(self.digests.every), self.digests.fingerprint, tuple(self._remarks()), self.labels.all())

    def _write(self, chunk: Chunk, cuts: dict[str, Cut]) -> None:
        first = next(iter(cuts.values()))
        self.dropped += max(cut.dropped for cut in cuts.values())
        self.labels.add(chunk, first)
        for index in range(first.count):
            where = chunk.origin if first.count == 1 else f"{chunk.origin}, sample {index}"
            arrays = {
                watch.name: watch.see(cuts[watch.name].sample(chunk.arrays[watch.name], index), where)
                for watch in self.watches
            }
            write_sample(self.into, len(self.digests.every), arrays)
            self.digests.add(arrays)

    def _remarks(self) -> Iterator[Remark]:
        for note, count in self.notes.items():
            yield note if count == 1 else Remark(note.kind, note.code, f"{note.text} ({count} times)")
        if self.dropped:
            text = f"{self.dropped} rows were left over from the last batch and dropped"
            yield Remark("warning", "data-rows-dropped", text)
        stuck = [watch for watch in self.watches if watch.has_no_range] if self.calibrates else []
        if stuck:
            values = ", ".join(f"{watch.name} is {watch.low:g}" for watch in stuck)
            freeze = " ".join(f"--constant {watch.name}={watch.low:g}" for watch in stuck)
            raise CalibrationError(
                f"{values} throughout, in all {stuck[0].samples} samples: that is no range to calibrate",
                hint=f"give real data; if the model always gets this, freeze it: {freeze}",
            )
        for watch in self.watches:
            yield from watch.remarks()
        yield from self.labels.remarks()
        yield from self.digests.remarks(calibrates=self.calibrates)


class _Labels:
    def __init__(self) -> None:
        self.values: list[int] = []
        self.warnings: list[Remark] = []
        self.chunks = self.labelled = 0

    def add(self, chunk: Chunk, cut: Cut) -> None:
        """Take over the labels of a chunk, as far as its samples go."""
        self.chunks += 1
        if chunk.labels is None or (self.warnings and not self.values):
            return
        if chunk.labels.dtype.kind not in "iu":
            text = f"labels in {chunk.origin} are {chunk.labels.dtype.name}, no integers: not used"
            self.warnings.append(Remark("warning", "labels-not-integers", text))
            return
        self.labelled += 1
        self.values.extend(_aligned(chunk, cut, chunk.labels))

    def remarks(self) -> Iterator[Remark]:
        """Yield why labels were not used."""
        yield from self.warnings
        if 0 < self.labelled < self.chunks:
            text = f"labels were not used: only {self.labelled} of {self.chunks} files have them"
            yield Remark("warning", "labels-incomplete", text)

    def all(self) -> tuple[int, ...]:
        """The labels, when every chunk had some."""
        if self.labelled < self.chunks:
            return ()
        return tuple(self.values)


def _aligned(chunk: Chunk, cut: Cut, labels: Array) -> list[int]:
    flat = labels.reshape(-1)
    kept = flat[: flat.size - cut.dropped]
    per_sample = cut.shape[0] if cut.shape else 1
    if kept.size not in {cut.count, cut.count * per_sample}:
        raise CalibrationError(
            f"{chunk.origin}: {flat.size} labels for {cut.count * cut.batch + cut.dropped} rows",
            hint="give one label per row, as class indices",
        )
    return [int(value) for value in kept]
