"""Reductions over axes, cumulated sums and the choice of extremes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hub_onnxgraph import refuse_if
from hub_onnxgraph.since import EXTREMES_AND_SUMS, REDUCTIONS
from hub_onnxgraph.tensors import positive_axes, positive_axis
from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.registry import op
from hub_pytorch.onnx_importer.values import ints, scalar

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Callable[["Tensor", list[int], bool], "Tensor"]


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.dtype.is_floating_point:
        return torch.mean(x, axes, keepdim=keep)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc")


def _max(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.amax(x, axes, keepdim=keep)


def _min(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.amin(x, axes, keepdim=keep)


def _l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(torch.abs(x), axes, keep)


def _sum_square(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(torch.mul(x, x), axes, keep)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sqrt(_sum_square(x, axes, keep)).to(x.dtype)


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.log(_sum(x, axes, keep)).to(x.dtype)


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep).to(x.dtype)


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _max,
    "ReduceMean": _mean,
    "ReduceMin": _min,
    "ReduceProd": _prod,
    "ReduceSum": _sum,
    "ReduceSumSquare": _sum_square,
}


def _apply(reduction: Reduction, x: Tensor, axes: list[int], keepdims: int) -> Tensor:
    source = x.reshape(1) if x.ndim == 0 else x
    chosen = positive_axes(axes, source.ndim) or list(range(source.ndim))
    return reduction(source, chosen, bool(keepdims and x.ndim))


def _register(name: str, reduction: Reduction) -> None:
    by_attribute, by_input = REDUCTIONS[name]

    @op(name, *by_attribute)
    def with_attribute(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
        return _apply(reduction, x, axes or [], keepdims)

    @op(name, *by_input)
    def with_input(
        x: Tensor, axes: Tensor | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        chosen = [] if axes is None else ints(axes, "axes")
        if not chosen and noop_with_empty_axes:
            refuse_if(name not in EXTREMES_AND_SUMS, "empty axes")
            return x
        return _apply(reduction, x, chosen, keepdims)


for _row in _REDUCTIONS.items():
    _register(*_row)


def _register_arg(name: str, torch_name: str) -> None:
    @op(name, 1, 11)
    @op(name, 12, 13)
    def arg(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        axis = positive_axis(axis, x.ndim)
        source = torch.flip(x, [axis]) if select_last_index else x
        found = getattr(torch, torch_name)(source, axis, keepdim=bool(keepdims))
        return torch.add(torch.neg(found), x.shape[axis] - 1) if select_last_index else found


_register_arg("ArgMax", "argmax")
_register_arg("ArgMin", "argmin")


@op("CumProd", 26)
def cumprod(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Product of the elements up to each one, itself left out when exclusive."""
    along = positive_axis(scalar(axis, "axis"), x.ndim)
    source = torch.flip(x, [along]) if reverse else x
    if exclusive:
        before = torch.ones_like(torch.narrow(source, along, 0, 1))
        source = torch.cat([before, torch.narrow(source, along, 0, x.shape[along] - 1)], along)
    total = torch.cumprod(source, along, dtype=x.dtype)
    return torch.flip(total, [along]) if reverse else total


@op("CumSum", 11, 14)
def cumsum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Sum of the elements up to each one, itself left out when exclusive."""
    along = positive_axis(scalar(axis, "axis"), x.ndim)
    source = torch.flip(x, [along]) if reverse else x
    total = torch.cumsum(source, along, dtype=x.dtype)
    if exclusive:
        total = torch.sub(total, source)
    return torch.flip(total, [along]) if reverse else total


@op("GlobalAveragePool", 1, 22)
def global_average_pool(x: Tensor) -> Tensor:
    """Mean over the spatial axes."""
    return torch.mean(x, list(range(2, x.ndim)), keepdim=True)


@op("GlobalMaxPool", 1, 22)
def global_max_pool(x: Tensor) -> Tensor:
    """Maximum over the spatial axes."""
    return torch.amax(x, list(range(2, x.ndim)), keepdim=True)


@op("TopK", 10, 11, 24)
def top_k(x: Tensor, k: Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:  # noqa: A002
    """The k extremes along an axis and their indices; equal values come lower index first, as the standard says."""
    del sorted  # a sorted answer is a valid unsorted one
    count = scalar(k, "k")
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    axis = positive_axis(axis, x.ndim)
    return torch.narrow(values, axis, 0, count), torch.narrow(indices, axis, 0, count)


def _softmax_like(name: str, torch_name: str) -> None:
    @op(name, 1, 11)
    def flattened(x: Tensor, *, axis: int = 1) -> Tensor:
        """Over all axes from the given one on."""
        axis = axis + x.ndim if axis < 0 else axis
        flat = torch.flatten(x, axis) if axis < x.ndim else x
        result: Tensor = getattr(functional, torch_name)(flat, dim=axis)
        return result.reshape(x.shape)

    @op(name, 13)
    def plain(x: Tensor, *, axis: int = -1) -> Tensor:
        result: Tensor = getattr(functional, torch_name)(x, dim=axis)
        return result


_softmax_like("Softmax", "softmax")
_softmax_like("LogSoftmax", "log_softmax")


@op("Hardmax", 13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """One at the first maximum along the axis, zero elsewhere."""
    axis = positive_axis(axis, x.ndim)
    best = torch.argmax(x, axis, keepdim=True)
    steps = torch.arange(x.shape[axis]).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return torch.eq(best, steps).to(x.dtype)
