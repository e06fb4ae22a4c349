"""Tells an ONNX file from its bytes, without loading it and without running anything.

Protocol buffers have no magic number. So this walks the top-level fields of the file, as `ModelProto` in onnx.proto3
numbers and types them, by seeking over their payloads: a multi-gigabyte model costs a few small reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import BinaryIO, NamedTuple

_VARINT, _BYTES = 0, 2

# Field number -> wire type, from onnx.proto3 (ONNX 1.23).
_MODEL_FIELDS = {
    1: _VARINT,  # ir_version
    2: _BYTES,  # producer_name
    3: _BYTES,  # producer_version
    4: _BYTES,  # domain
    5: _VARINT,  # model_version
    6: _BYTES,  # doc_string
    7: _BYTES,  # graph
    8: _BYTES,  # opset_import
    14: _BYTES,  # metadata_props
    20: _BYTES,  # training_info
    25: _BYTES,  # functions
    26: _BYTES,  # configuration
}
_GRAPH_FIELDS = frozenset({1, 2, 5, 10, 11, 12, 13, 14, 15, 16})  # all of GraphProto is length-delimited
_IR_VERSION, _GRAPH = 1, 7
_MAX_IR_VERSION = 1000  # far above any release (13 in 2026), far below what random bytes decode to
_MAX_VARINT_BYTES = 10  # protobuf: 64 bits, seven in a byte


class Kind(Enum):
    """What the bytes are."""

    ONNX = "onnx"
    DAMAGED = "damaged"  # starts as an ONNX file does, and breaks off or goes wrong later
    OTHER = "other"


class Probe(NamedTuple):
    """The answer of `probe`, with the reason in words for an error message."""

    kind: Kind
    reason: str


class _Field(NamedTuple):
    number: int
    value: int  # of a varint, or the payload's length
    start: int  # offset of the payload


class _BadWireError(ValueError):
    """The bytes are not a protocol buffer of the expected shape."""


def _varint(stream: BinaryIO) -> int:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        byte = stream.read(1)
        if not byte:
            raise _BadWireError(f"the file ends inside a number at byte {stream.tell()}")
        value |= (byte[0] & 0x7F) << (7 * index)
        if byte[0] < 0x80:  # noqa: PLR2004 - the continuation bit of a varint
            return value
    raise _BadWireError(f"no number ends before byte {stream.tell()}")


def _fields(stream: BinaryIO, end: int) -> Iterator[_Field]:
    while stream.tell() < end:
        offset = stream.tell()
        tag = _varint(stream)
        number, wire = tag >> 3, tag & 7
        if _MODEL_FIELDS.get(number) != wire:
            raise _BadWireError(f"byte {offset} is no field of an ONNX model (field {number}, wire type {wire})")
        value = _varint(stream)
        start = stream.tell()
        if wire == _BYTES and start + value > end:
            raise _BadWireError(f"the file ends at byte {end}, and a field needs {start + value}")
        yield _Field(number, value, start)
        if wire == _BYTES:
            stream.seek(start + value)


def _starts_like_graph(stream: BinaryIO, field: _Field) -> bool:
    """Whether the payload's first tag is a field of GraphProto."""
    if field.value == 0:
        return False
    stream.seek(field.start)
    tag = _varint(stream)
    return tag & 7 == _BYTES and tag >> 3 in _GRAPH_FIELDS


def _walk(stream: BinaryIO, end: int, seen: set[int]) -> None:
    """Adds each top-level field's number to `seen`; raises `_BadWireError` at the first that cannot be."""
    for field in _fields(stream, end):
        if field.number == _IR_VERSION and not 0 < field.value <= _MAX_IR_VERSION:
            raise _BadWireError(f"IR version {field.value} does not exist")
        if field.number == _GRAPH and not _starts_like_graph(stream, field):
            raise _BadWireError("the graph is empty or is no graph")
        seen.add(field.number)


def probe(path: Path) -> Probe:
    """Says whether the file at `path` is an ONNX model, a damaged one, or something else.

    The whole chain of top-level fields must end exactly at the file's last byte, an IR version and a graph must be
    among them: random, truncated and empty files are never `Kind.ONNX`.

    Raises:
        OSError: The file cannot be read.
    """
    end = os.path.getsize(path)  # noqa: PTH202 - the same, and it takes what open() takes
    seen: set[int] = set()
    with path.open("rb") as stream:
        try:
            _walk(stream, end, seen)
        except _BadWireError as error:
            kind = Kind.DAMAGED if _IR_VERSION in seen else Kind.OTHER
            return Probe(kind, str(error))
    missing = [name for number, name in ((_IR_VERSION, "IR version"), (_GRAPH, "graph")) if number not in seen]
    if missing:
        kind = Kind.DAMAGED if _IR_VERSION in seen else Kind.OTHER
        return Probe(kind, f"the file has no {' and no '.join(missing)}")
    return Probe(Kind.ONNX, "its top-level fields are those of an ONNX model")
