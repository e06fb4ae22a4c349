"""Element types and axes, as numbers of the standard."""

from __future__ import annotations

from collections.abc import Iterable

from hub_onnxgraph.errors import refuse_if

# onnx.TensorProto.DataType -> the name that numpy and the frameworks give the type.
ELEMENT_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip


def positive_axis(axis: int, rank: int) -> int:
    """Count an axis from the front.

    Raises:
        Refused: The axis is outside the rank.
    """
    refuse_if(not -rank <= axis < rank, f"axis {axis} is outside rank {rank}")
    return axis % rank


def positive_axes(axes: Iterable[int], rank: int) -> list[int]:
    """Count axes from the front, in the given order."""
    return [positive_axis(axis, rank) for axis in axes]


def sliced(size: int, start: int, end: int, step: int) -> range:
    """The places that Slice takes of an axis; for a negative step, an end far below means past the first element."""
    return range(size)[slice(start, None if step < 0 and end < -size else end, step)]
