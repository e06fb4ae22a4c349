"""Writing elements at indices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_keras.onnx_importer.applied import added, along, cast, size_of, wide_dtype
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.ops.indexing import flat_rows, from_front
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, fixed, graph_of, plain, value_of
from hub_onnxgraph import refuse_if
from hub_onnxgraph.tensors import positive_axis

if TYPE_CHECKING:
    from keras import KerasTensor

_REDUCTIONS = frozenset({"none", "add", "mul", "max", "min"})


def _written(rows: KerasTensor, places: KerasTensor, news: KerasTensor, reduction: str) -> KerasTensor:
    """Rows with others written into, or combined with, the given places."""
    refuse_if(reduction not in _REDUCTIONS, f"reduction {reduction}")
    kind = str(rows.dtype)
    wide = wide_dtype(kind)
    index = ops.reshape(places, [-1, 1])
    mode = None if reduction == "none" else reduction
    return cast(ops.scatter_update(cast(rows, wide), index, cast(news, wide), reduction=mode), kind)


@op("ScatterElements", 16, 18)
def scatter_elements(x: Item, indices: Item, updates: Item, *, axis: int = 0, reduction: str = "none") -> KerasValue:
    """A copy of x with elements along the axis replaced or combined."""
    graph = graph_of(x, indices, updates)
    value = value_of(graph, x)
    where = positive_axis(axis, value.ndim)
    shape = [size_of(value, i, "ScatterElements") for i in range(value.ndim)]
    refuse_if(None in indices.shape, "indices of open size")
    strides = [int(np.prod(shape[i + 1 :])) for i in range(value.ndim)]
    index = from_front(plain(graph, indices), shape[where])
    others = np.zeros(tuple(indices.shape), str(index.dtype))
    for i, size in enumerate(indices.shape):
        if i != where:
            others = others + along(np.arange(size, dtype=others.dtype), i, value.ndim) * strides[i]
    places = added(ops.multiply(index, np.asarray(strides[where], others.dtype)), others)
    flat = ops.reshape(value.plain(), [-1])
    written = _written(flat, places, ops.reshape(plain(graph, updates), [-1]), reduction)
    return value.made(ops.reshape(written, shape))


def _register_scatter(name: str, *versions: int) -> None:
    @op(name, *versions)
    def scatter(x: Item, indices: Item, updates: Item, *, axis: int = 0) -> Item:
        return scatter_elements(x, indices, updates, axis=axis)


_register_scatter("ScatterElements", 11, 13)
_register_scatter("Scatter", 9, 11)


@op("ScatterND", 11, 13, 16, 18)
def scatter_nd(x: Item, indices: Item, updates: Item, *, reduction: str = "none") -> KerasValue:
    """A copy of x with slices at index tuples replaced or combined."""
    graph = graph_of(x, indices, updates)
    value = value_of(graph, x)
    depth = fixed(indices, -1)
    shape = [size_of(value, i, "ScatterND") for i in range(value.ndim)]
    refuse_if(None in indices.shape, "indices of open size")
    places = flat_rows(plain(graph, indices), shape[:depth])
    rows = ops.reshape(value.plain(), [int(np.prod(shape[:depth])), *shape[depth:]])
    news = ops.reshape(plain(graph, updates), [-1, *shape[depth:]])
    return value.made(ops.reshape(_written(rows, places, news, reduction), shape))


@op("TensorScatter", 24)
def tensor_scatter(
    past: Item, update: Item, indices: Item | None = None, *, axis: int = -2, mode: str = "linear"
) -> KerasValue:
    """A cache with an update written from given positions on, one for each element of the batch."""
    graph = graph_of(past, update, indices)
    value = value_of(graph, past)
    where = positive_axis(axis, value.ndim)
    refuse_if(mode not in {"linear", "circular"} or not where, f"mode {mode}, axis {axis}")
    batch, size, count = (
        size_of(value, 0, "TensorScatter"),
        size_of(value, where, "TensorScatter"),
        fixed(update, where),
    )
    starts = np.zeros(batch, "int64") if indices is None else plain(graph, indices)
    steps = added(ops.reshape(starts, [batch, 1]), np.arange(count, dtype="int64").reshape(1, -1))
    steps = steps if mode == "linear" else ops.mod(steps, np.asarray(size, "int64"))
    rows = ops.reshape(added(steps, np.arange(batch, dtype="int64").reshape(-1, 1) * size), [-1])
    order = [0, where, *(i for i in range(1, value.ndim) if i != where)]
    rest = [size_of(value, i, "TensorScatter") for i in order[2:]]
    cache = ops.reshape(value.stored(order), [batch * size, *rest])
    news = ops.reshape(value_of(graph, update).stored(order), [batch * count, *rest])
    return value.made(ops.reshape(_written(cache, rows, news, "none"), [batch, size, *rest]), order)
