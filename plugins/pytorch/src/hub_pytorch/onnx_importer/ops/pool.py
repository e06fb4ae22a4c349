"""Pooling over windows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hub_onnxgraph import refuse_if
from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.ops.conv import explicit_pads, extents, spatial_rank
from hub_pytorch.onnx_importer.ops.shape import pad_with
from hub_pytorch.onnx_importer.registry import NodeContext, op
from hub_pytorch.onnx_importer.sizes import certain, choice, is_int, plain

if TYPE_CHECKING:
    from torch import Tensor


def _window_pads(
    pads: list[Any], sizes: tuple[Any, ...], windows: list[int], strides: list[int], ceil: int
) -> list[Any]:
    """Pads whose ends are moved so that whole windows exactly cover the axis, where ceil_mode asks for more windows.

    The number of windows is ONNX's: with ceil_mode, a last partial window counts unless it starts in the end padding.
    """
    if not ceil:
        return pads
    rank = len(windows)
    begins, ends = pads[:rank], pads[rank:]
    exact = []
    for size, window, stride, begin, end in zip(sizes, windows, strides, begins, ends, strict=True):
        steps = -((size + begin + end - window) // -stride)
        steps = choice(steps * stride >= size + begin, steps - 1, steps)
        exact.append(plain(steps * stride + window - size - begin))
    return begins + exact


def _pad_spatial(x: Tensor, pads: list[int], value: float) -> Tensor:
    rank = len(pads) // 2
    return pad_with(x, [0, 0, *pads[:rank], 0, 0, *pads[rank:]], "constant", value)


def _native(pads: list[int], kernel: list[int]) -> bool:
    """Whether torch's own padding does: the same at both ends and at most half a window."""
    rank = len(kernel)
    if not all(map(is_int, pads)):
        return False
    return pads[:rank] == pads[rank:] and min(pads) >= 0 and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))


def _lowest(x: Tensor) -> float:
    return -math.inf if x.dtype.is_floating_point else torch.iinfo(x.dtype).min


@op("MaxPool", 1, 8, 10, 11, 12, 22)
def max_pool(  # noqa: PLR0913 - the operator's own parameters
    node: NodeContext,
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Maximum over windows; the indices are those of the flattened input."""
    rank = spatial_rank(x)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    windows = extents(kernel_shape, dilations)
    around = explicit_pads(auto_pad, pads, x.shape[2:], windows, strides)
    exact = _window_pads(around, x.shape[2:], windows, strides, ceil_mode)
    if node.outputs > 1:
        refuse_if(storage_order, "storage_order with indices")
        return _max_pool_with_indices(x, kernel_shape, strides, exact, dilations)
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
    if _floor_matches(around, exact, strides) and _native(around, kernel_shape):
        return function(x, kernel_shape, strides, around[:rank], dilations)
    return function(_pad_spatial(x, exact, _lowest(x)), kernel_shape, strides, 0, dilations)


def _floor_matches(around: list[int], exact: list[int], strides: list[int]) -> bool:
    """Whether dropping the partial window, as torch does by default, gives the same windows."""
    rows = zip(around[len(strides) :], exact[len(strides) :], strides, strict=True)
    return exact is around or all(certain(a - e >= 0) and certain(a - e < s) for a, e, s in rows)


def _max_pool_with_indices(
    x: Tensor, kernel: list[int], strides: list[int], pads: list[int], dilations: list[int]
) -> tuple[Tensor, ...]:
    rank = len(kernel)
    functions = (
        functional.max_pool1d_with_indices,
        functional.max_pool2d_with_indices,
        functional.max_pool3d_with_indices,
    )
    padded = _pad_spatial(x, pads, _lowest(x))
    values, flat = functions[rank - 1](padded, kernel, strides, 0, dilations)
    within = list(padded.shape[2:])
    index = 0
    for axis, (size, begin) in enumerate(zip(x.shape[2:], pads, strict=False)):
        below = math.prod(within[axis + 1 :])
        position = torch.remainder(torch.div(flat, below, rounding_mode="floor"), within[axis])
        index = index * size + (position - begin)
    planes = torch.arange(x.shape[0] * x.shape[1]).reshape([x.shape[0], x.shape[1], *[1] * rank])
    return values, torch.add(index, planes * math.prod(x.shape[2:]))


@op("AveragePool", 1, 7, 10, 11)
@op("AveragePool", 19, 22)
def average_pool(  # noqa: PLR0913 - the operator's own parameters
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Mean over windows, of the elements inside the input, or inside input and pads with count_include_pad."""
    rank = spatial_rank(x)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    windows = extents(kernel_shape, dilations)
    around = explicit_pads(auto_pad, pads, x.shape[2:], windows, strides)
    exact = _window_pads(around, x.shape[2:], windows, strides, ceil_mode)
    if max(dilations) == 1 and all(map(is_int, around)) and not any(around) and _floor_matches(around, exact, strides):
        return _mean_pool(x, kernel_shape, strides)
    counted = around if count_include_pad else [0] * (2 * rank)
    inside = _pad_spatial(torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype), counted, 1.0)
    rest = [e - c for e, c in zip(exact, counted, strict=True)]
    share = _window_sum(_pad_spatial(inside, rest, 0.0), kernel_shape, strides, dilations)
    total = _window_sum(_pad_spatial(x, exact, 0.0), kernel_shape, strides, dilations)
    return torch.mul(total, torch.reciprocal(share))


def _mean_pool(x: Tensor, kernel: list[int], strides: list[int]) -> Tensor:
    functions = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
    return functions[len(kernel) - 1](x, kernel, strides)


def _window_sum(x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> Tensor:
    if max(dilations) == 1:
        return _mean_pool(x, kernel, strides) * math.prod(kernel)
    functions = (functional.conv1d, functional.conv2d, functional.conv3d)
    ones = torch.ones([x.shape[1], 1, *kernel], dtype=x.dtype)
    return functions[len(kernel) - 1](x, ones, None, strides, 0, dilations, x.shape[1])


@op("LpPool", 2, 11, 18, 22)
def lp_pool(  # noqa: PLR0913 - the operator's own parameters
    x: Tensor,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    p: int = 2,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Lp norm over windows."""
    rank = spatial_rank(x)
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    windows = extents(kernel_shape, dilations)
    around = explicit_pads(auto_pad, pads, x.shape[2:], windows, strides)
    exact = _window_pads(around, x.shape[2:], windows, strides, ceil_mode)
    powers = _pad_spatial(torch.pow(torch.abs(x), p), exact, 0.0)
    return torch.pow(_window_sum(powers, kernel_shape, strides, dilations), 1.0 / p)


@op("GlobalLpPool", 2, 22)
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """Lp norm over the spatial axes."""
    powers = torch.pow(torch.abs(x), p)
    return torch.pow(torch.sum(powers, list(range(2, x.ndim)), keepdim=True), 1.0 / p)
