"""Operators on known numbers: what an ONNX graph computes of its tensors' shapes is computed at import time.

A number here is an int, a bool, or torch's symbolic form of one. Floats take part only where they are whole, because
torch would compute with them in another precision than the model does.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from hub_pytorch.onnx_importer.sizes import either, is_symbolic, plain
from hub_pytorch.onnx_importer.tracing import Known
from hub_pytorch.onnx_importer.values import torch_dtype

if TYPE_CHECKING:
    from hub_pytorch.onnx_importer.tracing import GraphBuilder

Array = npt.NDArray[np.object_]
Folded = tuple[Array, torch.dtype]
"""Numbers, and the type that they have in the model."""
Operation = Callable[..., Folded]
_MOST = 4096  # more numbers than any shape has are left to torch


class _Unable(Exception):
    """The operator cannot be computed on known numbers."""


def fold(
    builder: GraphBuilder, name: str, arguments: Sequence[object], attributes: dict[str, Any]
) -> Known | torch.Tensor | None:
    """Compute an operator whose inputs are all known, up to dynamic sizes; None when it must be left to torch."""
    function = _FUNCTIONS.get(name)
    if function is None or not any(isinstance(value, Known) for value in arguments):
        return None
    known = [value for value in arguments if value is None or isinstance(value, Known | torch.Tensor)]
    if len(known) < len(arguments):
        return None
    try:
        contents = [None if value is None else _content(value) for value in known]
        result, dtype = function(*contents, dtype=_dtype(name, known), **attributes)
    except _Unable:
        return None
    return builder.known(result, dtype)


def _dtype(name: str, inputs: Sequence[Any]) -> torch.dtype:
    """The result's dtype, where the operator does not set it: that of the first input, of Where's second."""
    dtype: torch.dtype = inputs[1 if name == "Where" else 0].dtype
    return dtype


def _content(value: Known | torch.Tensor) -> Array:
    if math.prod(value.shape) > _MOST:
        raise _Unable
    if isinstance(value, Known):
        return value.content
    array = np.empty(tuple(value.shape), dtype=object)
    array.reshape(-1)[:] = [_whole(item) for item in value.reshape(-1).tolist()]
    return array


def _whole(item: Any) -> Any:
    if isinstance(item, float):
        if not item.is_integer():
            raise _Unable
        return int(item)
    return item


def _each(function: Callable[..., int], *arrays: Array) -> Array:
    """Apply a function element by element, with broadcasting."""
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    result = np.empty(shape, dtype=object)
    columns = [np.broadcast_to(array, shape).reshape(-1) for array in arrays]
    result.reshape(-1)[:] = [plain(function(*items)) for items in zip(*columns, strict=True)]
    return result


def _holds(condition: Any) -> bool:
    """Whether a condition is certain; what depends on the sizes is not."""
    known = plain(condition)
    return known if isinstance(known, bool) else False


def _divided(a: int, b: int) -> int:
    """Division of integers: rounding down and rounding to zero are the same where neither is negative."""
    if is_symbolic(b) or b == 0:
        raise _Unable
    if not is_symbolic(a):
        return int(a / b) if a % b else a // b
    if not (b > 0 and _holds(a >= 0)):
        raise _Unable
    return a // b


def _exactly_divided(a: int, b: int) -> int:
    if is_symbolic(b) or b == 0 or not _holds(a % b == 0):
        raise _Unable
    return a // b


def _remainder(a: int, b: int) -> int:
    if is_symbolic(b) or b <= 0 or not _holds(a >= 0):
        raise _Unable
    return a % b


def _chosen(condition: bool, a: int, b: int) -> int:
    if not is_symbolic(condition):
        return a if condition else b
    return a if a is b or _holds(a == b) else either(condition, a, b)


def _where(condition: Array, a: Array, b: Array, *, dtype: torch.dtype) -> Folded:
    return _each(_chosen, condition, a, b), dtype


def _truth(value: Any) -> Any:
    return value if isinstance(value, bool | torch.SymBool) else value != 0


def _not(value: Any) -> Any:
    return torch.sym_not(_truth(value))


def _both(a: Any, b: Any) -> Any:
    if isinstance(a, bool) or isinstance(b, bool):
        fixed, other = (a, b) if isinstance(a, bool) else (b, a)
        return other if fixed else False
    return a & b


def _either(a: Any, b: Any) -> Any:
    return _not(_both(_not(a), _not(b)))


def _elementwise(function: Callable[..., int], *, dtype: torch.dtype | None = None) -> Operation:
    fixed = dtype

    def compute(*arrays: Array, dtype: torch.dtype) -> Folded:
        return _each(function, *arrays), fixed or dtype

    return compute


def _folded(function: Callable[[int, int], int]) -> Operation:
    def compute(*arrays: Array, dtype: torch.dtype) -> Folded:
        return reduce(lambda a, b: _each(function, a, b), arrays), dtype

    return compute


def _div(a: Array, b: Array, *, dtype: torch.dtype) -> Folded:
    return _each(_exactly_divided if dtype.is_floating_point else _divided, a, b), dtype


def _mod(a: Array, b: Array, *, dtype: torch.dtype, fmod: int = 0) -> Folded:
    del fmod  # both are the same where nothing is negative
    return _each(_remainder, a, b), dtype


def _cast(x: Array, *, dtype: torch.dtype, to: int, **others: int | str) -> Folded:
    del dtype, others
    wanted = torch_dtype(to)
    return _each(_truth if wanted == torch.bool else _as_number, x), wanted


def _as_number(item: Any) -> Any:
    if isinstance(item, torch.SymBool):
        return torch.sym_ite(item, 1, 0)
    return int(item) if isinstance(item, bool) else item


def _ints(array: Array) -> npt.NDArray[np.int64]:
    """Plain integers only."""
    if any(is_symbolic(item) for item in array.reshape(-1)):
        raise _Unable
    return array.astype(np.int64)


def _axes_of(axes: Array | list[int] | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(int(axis) for axis in np.reshape(_ints(np.asarray(axes, dtype=object)), -1))


def _gather(x: Array, indices: Array, *, dtype: torch.dtype, axis: int = 0) -> Folded:
    return _array(np.take(x, _ints(indices), axis=axis)), dtype


def _array(item: Array | int) -> Array:
    """A single object as an array of rank 0."""
    if isinstance(item, np.ndarray):
        return item
    result = np.empty((), dtype=object)
    result[()] = item
    return result


def _concat(*xs: Array, dtype: torch.dtype, axis: int) -> Folded:
    return np.concatenate(xs, axis=axis), dtype


def _squeeze(x: Array, axes: Array | None = None, *, dtype: torch.dtype, **attributes: list[int]) -> Folded:
    return _array(np.squeeze(x, _axes_of(attributes.get("axes", axes)))), dtype


def _unsqueeze(x: Array, axes: Array | None = None, *, dtype: torch.dtype, **attributes: list[int]) -> Folded:
    return np.expand_dims(x, _axes_of(attributes.get("axes", axes)) or ()), dtype


def _reshape(x: Array, shape: Array, *, dtype: torch.dtype, allowzero: int = 0) -> Folded:
    wanted = [int(size) for size in _ints(shape)]
    sizes = [x.shape[i] if size == 0 and not allowzero else size for i, size in enumerate(wanted)]
    return x.reshape(sizes), dtype


def _transpose(x: Array, *, dtype: torch.dtype, perm: list[int] | None = None) -> Folded:
    return np.transpose(x, perm), dtype


def _expand(x: Array, shape: Array, *, dtype: torch.dtype) -> Folded:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(_ints(shape)))), dtype


def _slice(
    x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None, *, dtype: torch.dtype
) -> Folded:
    bounds = [_ints(starts), _ints(ends)]
    chosen = range(len(bounds[0])) if axes is None else _ints(axes)
    strides = np.ones(len(bounds[0]), dtype=np.int64) if steps is None else _ints(steps)
    index: list[Any] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(chosen, *bounds, strides, strict=True):
        past = step < 0 and end < -x.shape[axis]  # for a negative step, far below means past the first element
        index[axis] = slice(int(start), None if past else int(end), int(step))
    return x[tuple(index)], dtype


def _reduction(function: Callable[[int, int], int]) -> Operation:
    def compute(
        x: Array,
        axes: Array | None = None,
        *,
        dtype: torch.dtype,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
        **old: list[int],
    ) -> Folded:
        chosen = _axes_of(old.get("axes", axes)) or tuple(range(x.ndim))
        if noop_with_empty_axes or x.ndim != 1 or chosen not in {(0,), (-1,)} or not x.size:
            raise _Unable
        total = _array(plain(reduce(function, x.reshape(-1))))
        return (total.reshape(1) if keepdims else total), dtype

    return compute


_FUNCTIONS: dict[str, Operation] = {
    "Abs": _elementwise(lambda a: a if _holds(a >= 0) else torch.sym_max(a, -a)),
    "Add": _elementwise(operator.add),
    "And": _elementwise(_both),
    "Cast": _cast,
    "Ceil": _elementwise(lambda a: a),
    "Concat": _concat,
    "Div": _div,
    "Equal": _elementwise(operator.eq, dtype=torch.bool),
    "Expand": _expand,
    "Floor": _elementwise(lambda a: a),
    "Gather": _gather,
    "Greater": _elementwise(operator.gt, dtype=torch.bool),
    "GreaterOrEqual": _elementwise(operator.ge, dtype=torch.bool),
    "Identity": _elementwise(lambda a: a),
    "Less": _elementwise(operator.lt, dtype=torch.bool),
    "LessOrEqual": _elementwise(operator.le, dtype=torch.bool),
    "Max": _folded(torch.sym_max),
    "Min": _folded(torch.sym_min),
    "Mod": _mod,
    "Mul": _elementwise(operator.mul),
    "Neg": _elementwise(operator.neg),
    "Not": _elementwise(_not),
    "Or": _elementwise(_either),
    "ReduceMax": _reduction(torch.sym_max),
    "ReduceMin": _reduction(torch.sym_min),
    "ReduceProd": _reduction(operator.mul),
    "ReduceSum": _reduction(operator.add),
    "Reshape": _reshape,
    "Round": _elementwise(lambda a: a),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(operator.sub),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
