"""Models of gigabytes: their large tensors stay in files, so that the graph can be worked on as a small one.

A *light* model is an ONNX model whose tensors above `KEPT_BYTES` are external data in one folder, where ONNX Runtime
and the checker find them when the model is written there. Bytes move from file to file, a piece at a time.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hub_onnxruntime.files import ExternalTensor, all_tensors, external_path, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE_BYTES = 2**30
"""From here on models are made light. One protocol buffer ends at 2 GiB, and tools copy what they are given."""

KEPT_BYTES = 2**19
"""Tensors up to this size stay in the graph: all that constant folding reads (65,536 elements of 8 bytes)."""

WEIGHTS = "weights.data"
_ALIGNMENT = 4096  # of external data, so that it can be mapped (ONNX's external data format)
_CHUNK = 2**24


def size_on_disk(path: Path, outside: list[Path]) -> int:
    """Returns the bytes of a model's file and of its external data."""
    return sum(os.path.getsize(file) for file in (path, *outside))  # noqa: PTH202 - no stat object needed


def lighten(model: Any, source: Path, folder: Path) -> int:
    """Makes a model light, in place. Its data is copied: onnx's checker refuses links, hard ones too.

    Args:
        model: Loaded without its external data.
        source: The folder of its external data.
        folder: Where the light model's data shall be, in one file.

    Returns:
        The number of bytes that stay outside.

    Raises:
        ExternalDataError: As `hub_onnxruntime.files.external_path`.
    """
    path = folder / WEIGHTS
    with path.open("wb") as file:
        for tensor in all_tensors(model):
            place = place_of(tensor)
            if place is None:
                _move_out(tensor, file, path.name)
            elif 0 < place.length <= KEPT_BYTES:
                _take_in(tensor, external_path(source, place), place)
            else:
                _append(tensor, file, path.name, _chunks(external_path(source, place), place))
    return path.stat().st_size


def move_out(model: Any, folder: Path) -> None:
    """Moves the large tensors that a light model got since it was made light into a file of their own."""
    path = folder / f"more-{WEIGHTS}"
    if any(map(_is_held, all_tensors(model))):
        with path.open("wb") as file:
            for tensor in all_tensors(model):
                _move_out(tensor, file, path.name)


def forget_data(model: Any) -> None:
    """Drops the bytes of large tensors, for a reader that needs their types and shapes only."""
    for tensor in filter(_is_held, all_tensors(model)):
        _point_to(tensor, "", 0, 0)


def write_large(model: Any, folder: Path, target: Path) -> None:
    """Writes a light model with its data beside it, in `<target>.data`.

    Args:
        model: Light, its data in `folder`. It is changed to point to the new file, and the old one is moved or read.
        folder: See `lighten`.
        target: The `.onnx` file to write.
    """
    data = target.with_name(f"{target.name}.data")
    tensors = [(tensor, place) for tensor in all_tensors(model) if (place := place_of(tensor))]
    if {place.location for _, place in tensors} == {WEIGHTS} and _is_full(folder / WEIGHTS, tensors):
        shutil.move(folder / WEIGHTS, data)
        for tensor, place in tensors:
            _point_to(tensor, data.name, place.offset, place.length)
    else:
        with data.open("wb") as file:
            for tensor, place in tensors:
                _append(tensor, file, data.name, _chunks(folder / place.location, place))
    target.write_bytes(model.SerializeToString(deterministic=True))


def _is_full(path: Path, tensors: list[tuple[Any, ExternalTensor]]) -> bool:
    """Whether the file holds hardly anything that no tensor needs any more."""
    used = sum(place.length + _ALIGNMENT for _, place in tensors)
    return path.stat().st_size <= used


def _move_out(tensor: Any, file: BinaryIO, location: str) -> None:
    if _is_held(tensor):
        _append(tensor, file, location, iter([_raw(tensor)]))


def _append(tensor: Any, file: BinaryIO, location: str, chunks: Iterator[bytes]) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))
    offset = file.tell()
    file.writelines(chunks)
    _point_to(tensor, location, offset, file.tell() - offset)


def _take_in(tensor: Any, path: Path, place: ExternalTensor) -> None:
    tensor.raw_data = b"".join(_chunks(path, place))
    tensor.ClearField("data_location")
    del tensor.external_data[:]


_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def _is_held(tensor: Any) -> bool:
    """Whether a large tensor is inside the model, in whichever field."""
    return place_of(tensor) is None and not tensor.string_data and tensor.ByteSize() > KEPT_BYTES


def _raw(tensor: Any) -> bytes:
    from onnx import numpy_helper

    if not tensor.HasField("raw_data"):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    raw: bytes = tensor.raw_data
    return raw


def _point_to(tensor: Any, location: str, offset: int, length: int) -> None:
    from onnx import TensorProto

    for field in _FIELDS:
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, text in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=text)


def _chunks(path: Path, place: ExternalTensor) -> Iterator[bytes]:
    """Yields a tensor's bytes; all to the end of the file where the length is not written (0)."""
    left = place.length or path.stat().st_size - place.offset
    with path.open("rb") as file:
        file.seek(place.offset)
        while left > 0:
            chunk = file.read(min(left, _CHUNK))
            left -= len(chunk) or left
            yield chunk
