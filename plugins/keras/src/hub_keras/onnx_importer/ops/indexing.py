"""Choosing elements by index: gathers, extremes, one-hot, compressions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_keras.onnx_importer.applied import added, along, cast, dtype_of, is_float, number, size_of, wide_dtype
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, fixed, graph_of, known, plain, scalar, value_of
from hub_onnxgraph import refuse_if
from hub_onnxgraph.tensors import positive_axis

if TYPE_CHECKING:
    from keras import KerasTensor


def from_front(indices: KerasTensor, size: int) -> KerasTensor:
    """Indices counted from the front, in a type in which TensorFlow computes."""
    if not hasattr(indices, "_keras_history"):
        return np.where(indices < 0, indices + size, indices)
    return ops.where(ops.less(indices, 0), ops.add(indices, np.asarray(size, str(indices.dtype))), indices)


@op("GatherElements", 11, 13)
def gather_elements(x: Item, indices: Item, *, axis: int = 0) -> KerasValue:
    """One element along the axis for each index; the indices may cover a part of the other axes."""
    graph = graph_of(x, indices)
    value = value_of(graph, x)
    where = positive_axis(axis, value.ndim)
    tensor = value.plain()
    for other, (have, wanted) in enumerate(zip(value.shape, indices.shape, strict=True)):
        if other != where and have != wanted:
            refuse_if(wanted is None, "indices of open size over a part of an axis")
            tensor = tensor[tuple([slice(None)] * other + [slice(0, wanted)])]
    index = from_front(plain(graph, indices), size_of(value, where, "GatherElements"))
    return value.made(ops.take_along_axis(tensor, index, axis=where))


@op("GatherND", 11, 12, 13)
def gather_nd(x: Item, indices: Item, *, batch_dims: int = 0) -> KerasValue:
    """Slices picked by index tuples, below batch_dims common axes: one row number for each, and a choice of rows."""
    graph = graph_of(x, indices)
    value = value_of(graph, x)
    depth = fixed(indices, -1)
    picked = [size_of(value, axis, "GatherND") for axis in range(batch_dims + depth)]
    inner = [size_of(value, axis, "GatherND") for axis in range(batch_dims + depth, value.ndim)]
    refuse_if(batch_dims and None in indices.shape, "indices of open size below common axes")
    rows = flat_rows(plain(graph, indices), picked, batch_dims)
    table = ops.reshape(value.plain(), [int(np.prod(picked)), *inner])
    return value.made(ops.take(table, rows, axis=0))


def flat_rows(indices: KerasTensor, sizes: list[int], batch_dims: int = 0) -> KerasTensor:
    """The row numbers of index tuples, when the first axes of these sizes are made one."""
    depth, rank = int(indices.shape[-1]), len(indices.shape)
    strides = [int(np.prod(sizes[i + 1 :])) for i in range(len(sizes))]
    total = np.zeros([] if None in indices.shape else indices.shape[:-1], str(indices.dtype))
    for axis in range(batch_dims):
        total = total + along(np.arange(sizes[axis], dtype=total.dtype), axis, rank - 1) * strides[axis]
    for place in range(depth):
        column = from_front(indices[(..., place)], sizes[batch_dims + place])
        step = np.asarray(strides[batch_dims + place], str(indices.dtype))
        total = added(ops.multiply(column, step), total)
    return total


@op("OneHot", 9, 11, 28)
def one_hot(indices: Item, depth: Item, values: Item, *, axis: int = -1) -> KerasValue:
    """values[1] at each index along a new axis, values[0] elsewhere."""
    size = int(scalar(depth, "depth"))
    graph = graph_of(indices, values)
    index = plain(graph, indices)
    where = positive_axis(axis, indices.ndim + 1)
    steps = along(np.arange(size, dtype=wide_dtype(str(index.dtype))), where, indices.ndim + 1)
    expanded = ops.expand_dims(from_front(cast(index, str(steps.dtype)), size), axis=where)
    pair = plain(graph, values)
    chosen = ops.where(ops.equal(expanded, steps), pair[(slice(1, 2),)], pair[(slice(0, 1),)])
    return KerasValue(graph, cast(chosen, dtype_of(values)), tuple(range(indices.ndim + 1)))


@op("TopK", 1)
def top_k_attribute(x: KerasValue, *, k: int, axis: int = -1) -> tuple[KerasValue, KerasValue]:
    """The k largest."""
    return _top_k(x, k, axis, largest=True)


@op("TopK", 10, 11, 24)
def top_k(
    x: KerasValue,
    k: Item,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,  # noqa: A002 the attribute's name
) -> tuple[KerasValue, KerasValue]:
    """The k extremes along an axis and their indices; equal values come lower index first, as the standard says."""
    del sorted  # a sorted answer is a valid unsorted one
    return _top_k(x, number(scalar(k, "k"), "k"), axis, largest=bool(largest))


def _top_k(x: KerasValue, k: int, axis: int, *, largest: bool) -> tuple[KerasValue, KerasValue]:
    where = x.axis(axis)
    last = x.ndim - 1
    permutation = [*(i for i in range(x.ndim) if i != where), where]
    source = ops.transpose(x.tensor, permutation) if where != last else x.tensor
    keys = cast(source, wide_dtype(x.dtype))
    keys = keys if largest else (ops.negative(keys) if is_float(x.dtype) else ops.bitwise_not(keys))
    found, places = ops.top_k(keys, k, sorted=True)
    found = found if largest else (ops.negative(found) if is_float(x.dtype) else ops.bitwise_not(found))
    order = [x.order[i] for i in permutation]
    return x.made(cast(found, x.dtype), order), x.made(cast(places, "int64"), order, nonnegative=True)


@op("NonZero", 9, 13)
def non_zero(x: Item) -> Item:
    """Indices of the non-zero elements, of a constant only: the result's shape depends on the values."""
    return np.stack(np.nonzero(np.asarray(known(x, "the input of NonZero, whose elements make the result's shape,"))))


@op("Compress", 9, 11, 28)
def compress(x: Item, condition: Item, *, axis: int | None = None) -> KerasValue:
    """The slices that a constant condition keeps."""
    kept = np.flatnonzero(known(condition, "condition")).astype("int32")
    value = value_of(graph_of(x), x)
    if axis is None:
        return value.made(ops.take(ops.reshape(value.plain(), [-1]), kept, axis=0))
    return value.like(ops.take(value.tensor, kept, axis=value.axis(axis)))


@op("ReverseSequence", 10, 28)
def reverse_sequence(x: Item, lengths: Item, *, batch_axis: int = 1, time_axis: int = 0) -> KerasValue:
    """Reverse the first steps of each sequence."""
    graph = graph_of(x, lengths)
    value = value_of(graph, x)
    steps = along(np.arange(size_of(value, time_axis, "ReverseSequence")), time_axis, value.ndim)
    ends = plain(graph, lengths)
    ends = ops.reshape(ends, [-1 if i == batch_axis else 1 for i in range(value.ndim)])
    index = ops.where(ops.less(steps, ends), ops.subtract(ops.subtract(ends, 1), steps), steps)
    return value.made(ops.take_along_axis(value.plain(), cast(index, "int64"), axis=time_axis))
