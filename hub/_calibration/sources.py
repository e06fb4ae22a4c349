"""Read data of any form as chunks of arrays, without ever unpickling anything."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from hub._calibration import images
from hub._calibration.places import DataSpec, npz_files, unused_files
from hub._calibration.rows import Chunk
from hub._request import did_you_mean
from hub.spec import CalibrationError, Remark, TensorSpec

if TYPE_CHECKING:
    from hub._calibration.rows import Array

IN_MEMORY_BYTES = 64 << 20
LABELS = ("label", "labels")
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


class DataSource(NamedTuple):
    """Where data comes from, and what the model wants of it.

    Attributes:
        place: The spec, taken apart.
        wanted: The inputs that the data must hold.
        constants: Inputs that are frozen away; arrays of their names are passed over.
        call_function: Runs `package.module:function` in a worker and writes .npz files to a folder.
        scratch: Folder for what does not fit into memory.
    """

    place: DataSpec
    wanted: tuple[TensorSpec, ...]
    constants: Container[str]
    call_function: Callable[[str, Path], int]
    scratch: Path

    def chunks(self, notes: dict[Remark, int] | None = None) -> Iterator[Chunk]:
        """Read the chunks in order; `notes` collects what is worth a warning, with how often it was met.

        Raises:
            CalibrationError: A file cannot be read, or an array is missing.
        """
        return _READERS[self.place.kind](self, {} if notes is None else notes)


def _npz(source: DataSource, notes: dict[Remark, int]) -> Iterator[Chunk]:
    file = source.place.path
    yield _chunk(source, notes, file.name, read_npz(file, source.scratch), one_sample=False)


def _npy(source: DataSource, notes: dict[Remark, int]) -> Iterator[Chunk]:
    file = source.place.path
    if len(source.wanted) > 1:
        names = [tensor.name for tensor in source.wanted]
        pairs = ", ".join(f"{name!r}: ..." for name in names)
        raise CalibrationError(
            f"{file.name} holds one array, the model takes {len(names)} inputs: {', '.join(names)}",
            hint=f"write an array for each: np.savez('data.npz', **{{{pairs}}})",
        )
    yield _chunk(source, notes, file.name, {source.wanted[0].name: read_npy(file)}, one_sample=False)


def _folder(source: DataSource, notes: dict[Remark, int]) -> Iterator[Chunk]:
    folder = source.place.path
    unused = unused_files(folder, npz_files(folder), ".npz files")
    notes.update(dict.fromkeys(unused, 1))
    yield from _files(source, notes, folder, "")


def _files(source: DataSource, notes: dict[Remark, int], folder: Path, prefix: str) -> Iterator[Chunk]:
    for file in npz_files(folder):
        with tempfile.TemporaryDirectory(dir=source.scratch) as scratch:
            arrays = read_npz(file, Path(scratch))
            yield _chunk(source, notes, f"{prefix}{file.name}", arrays, one_sample=True)


def _function(source: DataSource, notes: dict[Remark, int]) -> Iterator[Chunk]:
    folder = source.scratch / "function"
    folder.mkdir()
    reference = source.place.spec
    if source.call_function(reference, folder) < 1:
        raise CalibrationError(
            f"{reference} gave no samples", hint="return or yield dicts of arrays by input name, one for each sample"
        )
    yield from _files(source, notes, folder, f"{reference}, ")


def _images(source: DataSource, notes: dict[Remark, int]) -> Iterator[Chunk]:
    return images.read(images.plan(source.place, source.wanted), notes)


_READERS: dict[str, Callable[[DataSource, dict[Remark, int]], Iterator[Chunk]]] = {
    "npz": _npz,
    "npy": _npy,
    "npz-folder": _folder,
    "function": _function,
    "images": _images,
}


def read_npz(file: Path, scratch: Path) -> dict[str, Array]:
    """Read the arrays of an .npz file; large ones are unpacked to `scratch` and mapped.

    Raises:
        CalibrationError: It is no such file, is truncated, or holds objects.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return {info.filename.removesuffix(".npy"): _member(archive, info, scratch) for info in archive.infolist()}
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, scratch: Path) -> Array:
    if info.file_size <= IN_MEMORY_BYTES:
        with archive.open(info) as stream:
            return _array(stream)
    with (
        tempfile.NamedTemporaryFile(dir=scratch, suffix=".npy", delete=False) as unpacked,
        archive.open(info) as stream,
    ):
        while block := stream.read(1 << 20):
            unpacked.write(block)
    return _mapped(Path(unpacked.name))


def _array(stream: IO[bytes]) -> Array:
    import numpy as np

    array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    stream.read()  # to the end, so that the archive's checksum is checked
    return array


def _mapped(file: Path) -> Array:
    import numpy as np

    return np.lib.format.open_memmap(file, mode="r")


def read_npy(file: Path) -> Array:
    """Read an .npy file; a large one is mapped.

    Raises:
        CalibrationError: It is no such file, is truncated, or holds objects.
    """
    try:
        if file.stat().st_size > IN_MEMORY_BYTES:
            return _mapped(file)
        with file.open("rb") as stream:
            return _array(stream)
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: BaseException) -> CalibrationError:
    reason = str(error) or type(error).__name__
    if "pickle" in reason or "Python objects" in reason or "Object arrays" in reason:
        return CalibrationError(
            f"{file} holds Python objects (a pickle), which hub does not load: they can run code",
            hint="write plain arrays of one dtype: array.astype('float32')",
        )
    return CalibrationError(
        f"{file} cannot be read ({file.stat().st_size} bytes): {reason}",
        hint="write it again with np.savez or np.save, or leave it out",
    )


def _chunk(
    source: DataSource, notes: dict[Remark, int], origin: str, found: dict[str, Array], *, one_sample: bool
) -> Chunk:
    names = [tensor.name for tensor in source.wanted]
    labels = next((name for name in LABELS if name in found and name not in names), "")
    arrays = {name: array for name, array in found.items() if name != labels and name not in source.constants}
    if list(arrays) == ["arr_0"] and len(names) == 1:
        arrays = {names[0]: arrays["arr_0"]}
    for name in names:
        if name not in arrays:
            raise _missing(name, names, arrays, origin)
    for name in sorted(set(arrays) - set(names)):
        text = f"the array {name} in the data is no input of the model ({', '.join(names)}) and was not used"
        note = Remark("warning", "data-array-unused", text)
        notes[note] = notes.get(note, 0) + 1
    label = found.get(labels) if labels not in source.constants else None
    return Chunk(origin, {name: arrays[name] for name in names}, one_sample, label)


def _missing(name: str, names: list[str], arrays: dict[str, Array], origin: str) -> CalibrationError:
    extra = sorted(set(arrays) - set(names))
    has = f"it has {', '.join(extra)}" if extra else "it has no other array"
    guess = did_you_mean(name, extra) if extra else ""
    known = f"the model takes {', '.join(names)}"
    hint = f"{guess.removesuffix('?')} for {name}? {known}" if guess.startswith("did you mean") else known
    return CalibrationError(f"{origin} has no array {name}; {has}", hint=f"{hint}: name the arrays so")
