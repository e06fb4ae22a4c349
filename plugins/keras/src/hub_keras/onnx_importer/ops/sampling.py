"""Values of a picture at the points of a grid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from hub_keras.onnx_importer.applied import added, along, cast, size_of
from hub_keras.onnx_importer.dims import Array
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, graph_of, value_of
from hub_onnxgraph import refuse_if

if TYPE_CHECKING:
    from keras import KerasTensor

_MODES = {"linear": "linear", "bilinear": "linear", "nearest": "nearest", "cubic": "cubic", "bicubic": "cubic"}
_CUBIC = -0.75  # the coefficient that the standard gives GridSample


@op("GridSample", 16, 20, 22)
def grid_sample(
    x: Item, grid: Item, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> KerasValue:
    """Values at the points of a grid, which is in -1..1; each tap is one gather of rows of channels."""
    refuse_if(mode not in _MODES or padding_mode not in {"zeros", "border", "reflection"}, f"{mode}, {padding_mode}")
    graph = graph_of(x, grid)
    value, points = value_of(graph, x), value_of(graph, grid).plain()
    sizes = [size_of(value, axis, "GridSample") for axis in range(2, value.ndim)]
    batch, channels = size_of(value, 0, "GridSample"), size_of(value, 1, "GridSample")
    order = (0, *range(2, value.ndim), 1)
    table = ops.reshape(value.stored(order), [-1, channels])
    taps = [
        _taps(points[(..., len(sizes) - 1 - i)], size, _MODES[mode], padding_mode, bool(align_corners))
        for i, size in enumerate(sizes)
    ]
    start = along(np.arange(batch, dtype="int64"), 0, value.ndim - 1)
    total = None
    for chosen in itertools.product(*taps):
        row, weight = start, None
        for (place, factor), size in zip(chosen, sizes, strict=True):
            row = (
                added(place, row * size)
                if row is start
                else ops.add(ops.multiply(row, np.asarray(size, "int64")), place)
            )
            weight = factor if weight is None else ops.multiply(weight, factor)
        picked = ops.take(table, row, axis=0)
        part = ops.multiply(picked, ops.expand_dims(weight, axis=-1))
        total = part if total is None else ops.add(total, part)
    return value.made(total, order)


def _taps(at: KerasTensor, size: int, mode: str, padding: str, aligned: bool) -> list[tuple[KerasTensor, KerasTensor]]:
    """The places that a coordinate reads along one axis, with their weights."""
    number = _numbers(at)
    half = number(0.5)
    scaled = ops.multiply(ops.add(at, number(1)), number((size - 1) / 2 if aligned else size / 2))
    where = scaled if aligned else ops.subtract(scaled, half)
    where = ops.round(where) if mode == "nearest" else where
    where = _inside(where, size, padding, aligned)
    first = ops.floor(where)
    offsets = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}[mode]
    made = []
    for offset in offsets:
        tap = ops.add(first, number(offset))
        distance = ops.abs(ops.subtract(where, tap))
        weight = _cubic(distance, number) if mode == "cubic" else ops.subtract(number(1), distance)
        if padding == "zeros":
            within = ops.logical_and(ops.greater_equal(tap, number(0)), ops.less_equal(tap, number(size - 1)))
            weight = ops.where(within, weight, number(0))
        source = _inside(tap, size, padding, aligned)
        made.append((cast(ops.minimum(ops.maximum(source, number(0)), number(size - 1)), "int64"), weight))
    return made


def _numbers(like: KerasTensor) -> Callable[[float], Array]:
    return lambda number: np.asarray(number, str(like.dtype))


def _inside(where: KerasTensor, size: int, padding: str, aligned: bool) -> KerasTensor:
    """A coordinate brought inside by the padding mode; zeros leaves it."""
    number = _numbers(where)
    if padding == "border":
        return ops.minimum(ops.maximum(where, number(0)), number(size - 1))
    if padding == "zeros":
        return where
    low, width = (0.0, size - 1.0) if aligned else (-0.5, float(size))
    if not width:
        return ops.multiply(where, number(0))
    rest = ops.mod(ops.abs(ops.subtract(where, number(low))), number(2 * width))
    folded = ops.minimum(rest, ops.subtract(number(2 * width), rest))
    return ops.add(folded, number(low))


def _cubic(distance: KerasTensor, number: Callable[[float], Array]) -> KerasTensor:
    """Keys' cubic convolution."""

    def polynomial(*factors: float) -> KerasTensor:
        total = number(factors[0])
        for factor in factors[1:]:
            total = ops.add(ops.multiply(distance, total), number(factor))
        return total

    near = polynomial(_CUBIC + 2, -(_CUBIC + 3), 0, 1)
    far = polynomial(_CUBIC, -5 * _CUBIC, 8 * _CUBIC, -4 * _CUBIC)
    inner = ops.where(ops.less(distance, number(2)), far, number(0))
    return ops.where(ops.less_equal(distance, number(1)), near, inner)
