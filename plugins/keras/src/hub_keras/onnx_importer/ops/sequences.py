"""Sequences that are joined, and made of tensors."""

from __future__ import annotations

from hub_keras.onnx_importer.applied import number, size_of
from hub_keras.onnx_importer.lazy import np
from hub_keras.onnx_importer.ops import shape
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, graph_of, ints, is_constant, value_of


@op("ConcatFromSequence", 11)
def concat_from_sequence(items: list[Item], *, axis: int, new_axis: int = 0) -> Item:
    """Join a sequence's elements along an axis, or along a new one."""
    return stacked(items, axis) if new_axis else shape.concat(*items, axis=axis)


def stacked(items: list[Item], axis: int) -> Item:
    """Elements joined along a new axis."""
    known = [item for item in items if is_constant(item)]
    if len(known) == len(items):
        return np.stack(known, axis)
    graph = graph_of(*items)
    rank = items[0].ndim + 1
    raised = [shape.unsqueeze(value_of(graph, item), np.asarray([axis % rank])) for item in items]
    return shape.concat(*raised, axis=axis % rank)


@op("SplitToSequence", 11, 24)
def split_to_sequence(x: KerasValue, split: Item | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Item]:
    """Pieces along an axis as a sequence."""
    total = size_of(x, axis, "SplitToSequence")
    pieces = [1] * total if split is None else [number(size, "a size") for size in ints(split, "split")]
    if split is not None and split.ndim == 0:
        pieces = [min(pieces[0], total - start) for start in range(0, total, pieces[0])]
    parts = shape.parted(x, axis, pieces)
    return [part if split is not None or keepdims else shape.squeeze(part, np.asarray([axis])) for part in parts]
