"""Unpacks constants that are stored sparse (`SparsityParameters` of the schema)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hub_tflite.to_onnx.lazy import np
from hub_tflitefile.schema import numbers

if TYPE_CHECKING:
    from hub_tflite.to_onnx.builder import Array
    from hub_tflitefile.tables import DimensionMetadataT, SparsityParametersT

_DENSE = 0


def densified(values: Array, sparsity: SparsityParametersT, shape: Sequence[int]) -> Array:
    """Return the full array of a sparse constant.

    The stored values are the leaves of a tree with a level for each axis, in `traversal_order`: a dense level has all
    its places, a compressed one those that its segments list. Axes past the tensor's rank are places within blocks
    of the axis that `block_map` names.

    Args:
        values: The stored values in the order of the tree's leaves.
        sparsity: The schema's object.
        shape: The full shape.
    """
    order, blocks = numbers(sparsity.traversalOrder), numbers(sparsity.blockMap)
    places = np.zeros((1, 0), np.int64)
    for level in sparsity.dimMetadata:
        places = _children(places, level)
    full = np.zeros(shape, values.dtype)
    rank = len(shape)
    columns = dict(zip(order, places.T, strict=True))
    sizes = {axis: int(level.denseSize) for axis, level in zip(order, sparsity.dimMetadata, strict=True)}
    index = [columns[axis] for axis in range(rank)]
    for number, axis in enumerate(blocks):
        index[axis] = index[axis] * sizes[rank + number] + columns[rank + number]
    full[tuple(index)] = values
    return full


def _children(places: Array, level: DimensionMetadataT) -> Array:
    """Add a level's coordinate to every place so far, once for each of its children."""
    count = len(places)
    if int(level.format) == _DENSE:
        size = int(level.denseSize)
        return np.column_stack([np.repeat(places, size, axis=0), np.tile(np.arange(size), count)])
    segments = np.asarray(numbers(level.arraySegments.values))
    lengths = np.diff(segments)
    return np.column_stack([np.repeat(places, lengths, axis=0), np.asarray(numbers(level.arrayIndices.values))])
