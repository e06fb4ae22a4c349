"""Reductions along axes, which keep the order that a tensor is stored in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hub_keras.onnx_importer.applied import cast, is_float, size_of, wide_dtype
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, graph_of, ints, value_of
from hub_onnxgraph import refuse_if
from hub_onnxgraph.since import EXTREMES_AND_SUMS, REDUCTIONS
from hub_onnxgraph.tensors import positive_axes, positive_axis

if TYPE_CHECKING:
    from keras import KerasTensor

Reduction = Callable[[Any, list[int], bool], Any]


def _by(name: str) -> Reduction:
    def reduced(tensor: KerasTensor, axes: list[int], keep: bool) -> KerasTensor:
        return getattr(ops, name)(tensor, axis=tuple(axes), keepdims=keep)

    return reduced


def _mean(tensor: KerasTensor, axes: list[int], keep: bool) -> KerasTensor:
    if is_float(str(tensor.dtype)):
        return ops.mean(tensor, axis=tuple(axes), keepdims=keep)
    refuse_if(any(tensor.shape[axis] is None for axis in axes), "a mean of integers over an open size")
    count = math.prod(tensor.shape[axis] for axis in axes)
    total = ops.sum(tensor, axis=tuple(axes), keepdims=keep)
    size = ops.floor_divide(ops.abs(total), np.asarray(count, str(total.dtype)))
    return ops.multiply(ops.sign(total), size)


def _l1(tensor: KerasTensor, axes: list[int], keep: bool) -> KerasTensor:
    return ops.sum(ops.abs(tensor), axis=tuple(axes), keepdims=keep)


def _sum_square(tensor: KerasTensor, axes: list[int], keep: bool) -> KerasTensor:
    return ops.sum(ops.square(tensor), axis=tuple(axes), keepdims=keep)


def _l2(tensor: KerasTensor, axes: list[int], keep: bool) -> KerasTensor:
    return ops.sqrt(_sum_square(tensor, axes, keep))


def _log_sum(tensor: KerasTensor, axes: list[int], keep: bool) -> KerasTensor:
    return ops.log(ops.sum(tensor, axis=tuple(axes), keepdims=keep))


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _by("logsumexp"),
    "ReduceMax": _by("max"),
    "ReduceMean": _mean,
    "ReduceMin": _by("min"),
    "ReduceProd": _by("prod"),
    "ReduceSum": _by("sum"),
    "ReduceSumSquare": _sum_square,
}
_POSITIVE = frozenset({"ReduceL1", "ReduceL2", "ReduceSumSquare"})


def _without(x: KerasValue, tensor: Item, axes: list[int], *, keepdims: bool, nonnegative: bool = False) -> KerasValue:
    if keepdims:
        return x.like(tensor, nonnegative=nonnegative)
    kept = [axis for axis in x.order if axis not in axes]
    rank = {axis: place for place, axis in enumerate(sorted(kept))}
    return x.made(tensor, [rank[axis] for axis in kept], nonnegative=nonnegative)


def _apply(name: str, reduction: Reduction, x: KerasValue, axes: list[int], keepdims: bool) -> KerasValue:
    source = x if x.ndim else x.made(ops.reshape(x.tensor, (1,)))
    over = positive_axes(axes, source.ndim) or list(range(source.ndim))
    keep = keepdims and x.ndim > 0
    tensor = reduction(_filled(name, source, over), source.axes(over), keep)
    nonnegative = name in _POSITIVE or (x.nonnegative and name in EXTREMES_AND_SUMS)
    return _without(source, cast(tensor, x.dtype), over, keepdims=keep, nonnegative=nonnegative)


def _filled(name: str, x: KerasValue, axes: list[int]) -> KerasTensor:
    """The tensor in a type in which TensorFlow reduces; the extreme of nothing is the type's own."""
    refuse_if(x.dtype == "bool" and name not in {"ReduceMax", "ReduceMin"}, f"{name} of booleans")
    wide = "int32" if x.dtype == "bool" else wide_dtype(x.dtype)
    tensor = cast(x.tensor, wide)
    if name not in {"ReduceMax", "ReduceMin"} or all(x.shape[axis] != 0 for axis in axes):
        return tensor
    refuse_if(x.dtype == "bool", "the extreme of no booleans")
    info = np.finfo(x.dtype) if is_float(x.dtype) else np.iinfo(x.dtype)
    least = -np.inf if is_float(x.dtype) else info.min
    most = np.inf if is_float(x.dtype) else info.max
    pads = [(0, 1 if axis in axes and x.shape[axis] == 0 else 0) for axis in x.order]
    return ops.pad(tensor, pads, constant_values=least if name == "ReduceMax" else most)


def _register(name: str, reduction: Reduction) -> None:
    by_attribute, by_input = REDUCTIONS[name]

    @op(name, *by_attribute)
    def with_attribute(x: KerasValue, *, axes: list[int] | None = None, keepdims: int = 1) -> KerasValue:
        return _apply(name, reduction, x, axes or [], bool(keepdims))

    @op(name, *by_input)
    def with_input(x: Item, axes: Item | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Item:
        chosen = [] if axes is None else ints(axes, "axes")
        if not chosen and noop_with_empty_axes:
            refuse_if(name not in EXTREMES_AND_SUMS, "empty axes")
            return x
        return _apply(name, reduction, value_of(graph_of(x), x), chosen, bool(keepdims))


for _row in _REDUCTIONS.items():
    _register(*_row)


def _register_arg(name: str, function: str) -> None:
    @op(name, 1, 11)
    @op(name, 12, 13)
    def arg(x: KerasValue, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> KerasValue:
        where = positive_axis(axis, x.ndim)
        source = cast(x.tensor, wide_dtype(x.dtype))
        source = ops.flip(source, axis=x.axis(where)) if select_last_index else source
        found = cast(getattr(ops, function)(source, axis=x.axis(where), keepdims=bool(keepdims)), "int64")
        if select_last_index:
            found = ops.subtract(np.asarray(size_of(x, where, name) - 1, "int64"), found)
        return _without(x, found, [where], keepdims=bool(keepdims), nonnegative=True)


_register_arg("ArgMax", "argmax")
_register_arg("ArgMin", "argmin")
