"""Reductions along axes, which keep the order that a tensor is stored in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hub_keras.onnx_importer.lazy import ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Value, ints, positive_axes, positive_axis


def _without(x: Value, tensor: Any, axes: list[int], *, keepdims: bool, nonnegative: bool = False) -> Value:
    if keepdims:
        return x.like(tensor, nonnegative=nonnegative)
    kept = [axis for axis in x.order if axis not in axes]
    rank = {axis: place for place, axis in enumerate(sorted(kept))}
    return x.made(tensor, [rank[axis] for axis in kept], nonnegative=nonnegative)


def _reduce(x: Value, keras_name: str, axes: list[int] | None, keepdims: int, noop: int) -> Value:
    if not axes and noop:
        return x
    over = positive_axes(axes, x.ndim) if axes else list(range(x.ndim))
    tensor = getattr(ops, keras_name)(x.tensor, axis=tuple(x.axes(over)), keepdims=bool(keepdims))
    return _without(x, tensor, over, keepdims=bool(keepdims), nonnegative=x.nonnegative)


def _register(name: str, keras_name: str, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    @op(name, *old)
    def by_attribute(x: Value, *, axes: list[int] | None = None, keepdims: int = 1) -> Value:
        return _reduce(x, keras_name, axes, keepdims, 0)

    @op(name, *new)
    def by_input(x: Value, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:
        return _reduce(x, keras_name, None if axes is None else ints(axes, "axes"), keepdims, noop_with_empty_axes)


for _name, _keras_name, _old, _new in (
    ("ReduceMean", "mean", (1, 11, 13), (18,)),
    ("ReduceSum", "sum", (1, 11), (13,)),
    ("ReduceMax", "max", (1, 11, 12, 13), (18, 20)),
    ("ReduceMin", "min", (1, 11, 12, 13), (18, 20)),
    ("ReduceProd", "prod", (1, 11, 13), (18,)),
):
    _register(_name, _keras_name, _old, _new)


def _register_arg(name: str, function: Callable[..., Any]) -> None:
    @op(name, 1, 11, 12, 13)
    def arg(x: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
        where = positive_axis(axis, x.ndim)
        tensor = x.tensor
        place = x.axis(where)
        if select_last_index:
            tensor = ops.flip(tensor, axis=place)
        found = ops.cast(function(tensor, place, bool(keepdims)), "int64")
        if select_last_index:
            found = ops.subtract(_last(x, place), found)
        return _without(x, found, [where], keepdims=bool(keepdims))


def _last(x: Value, place: int) -> Any:
    from hub_keras.onnx_importer.lazy import np
    from hub_keras.onnx_importer.values import sizes

    return np.asarray(sizes(x, [x.order[place]], "select_last_index")[0] - 1, "int64")


_register_arg("ArgMax", lambda tensor, axis, keep: ops.argmax(tensor, axis=axis, keepdims=keep))
_register_arg("ArgMin", lambda tensor, axis, keep: ops.argmin(tensor, axis=axis, keepdims=keep))
