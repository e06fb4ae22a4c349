"""Pooling over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hub_onnxgraph import refuse_if
from hub_onnxgraph.windows import Pool, Sliding, whole_pads
from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.ops.conv import explicit_pads, spatial_rank
from hub_pytorch.onnx_importer.ops.shape import pad_with
from hub_pytorch.onnx_importer.registry import NodeContext, op
from hub_pytorch.onnx_importer.sizes import certain, choice, is_int, plain

if TYPE_CHECKING:
    from torch import Tensor


def _whole(x: Tensor, pads: list[int], window: Sliding, ceil: int) -> list[int]:
    """Pads for the windows that ceil_mode adds."""
    return [plain(pad) for pad in whole_pads(x.shape[2:], pads, window, ceil=1, choice=choice)] if ceil else pads


def _pad_spatial(x: Tensor, pads: list[int], value: float) -> Tensor:
    rank = len(pads) // 2
    return pad_with(x, [0, 0, *pads[:rank], 0, 0, *pads[rank:]], "constant", value)


def _native(pads: list[int], kernel: Sequence[int]) -> bool:
    """Whether torch's own padding does: the same at both ends and at most half a window."""
    rank = len(kernel)
    if not all(map(is_int, pads)):
        return False
    return pads[:rank] == pads[rank:] and min(pads) >= 0 and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))


def _lowest(x: Tensor) -> float:
    return -math.inf if x.dtype.is_floating_point else torch.iinfo(x.dtype).min


@op("MaxPool", 1, 8, 10, 11, 12, 22)
def max_pool(node: NodeContext, x: Tensor, *, form: Pool, storage_order: int = 0) -> Tensor | tuple[Tensor, ...]:
    """Maximum over windows; the indices are those of the flattened input."""
    window = form.of(spatial_rank(x))
    around = explicit_pads(form, window, x)
    exact = _whole(x, around, window, form.ceil_mode)
    if node.outputs > 1:
        refuse_if(storage_order, "storage_order with indices")
        return _max_pool_with_indices(x, window, exact)
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[window.rank - 1]
    if _floor_matches(around, exact, window.strides) and _native(around, window.kernel):
        return function(x, window.kernel, window.strides, around[: window.rank], window.dilations)
    return function(_pad_spatial(x, exact, _lowest(x)), window.kernel, window.strides, 0, window.dilations)


def _floor_matches(around: list[int], exact: list[int], strides: Sequence[int]) -> bool:
    """Whether dropping the partial window, as torch does by default, gives the same windows."""
    rows = zip(around[len(strides) :], exact[len(strides) :], strides, strict=True)
    return exact is around or all(certain(a - e >= 0) and certain(a - e < s) for a, e, s in rows)


def _max_pool_with_indices(x: Tensor, window: Sliding, pads: list[int]) -> tuple[Tensor, ...]:
    functions = (
        functional.max_pool1d_with_indices,
        functional.max_pool2d_with_indices,
        functional.max_pool3d_with_indices,
    )
    padded = _pad_spatial(x, pads, _lowest(x))
    values, flat = functions[window.rank - 1](
        padded, window.kernel, window.strides, (0,) * window.rank, window.dilations
    )
    within = list(padded.shape[2:])
    index: Tensor | int = 0
    for axis, (size, begin) in enumerate(zip(x.shape[2:], pads, strict=False)):
        below = math.prod(within[axis + 1 :])
        position = torch.remainder(torch.div(flat, below, rounding_mode="floor"), within[axis])
        index = index * size + (position - begin)
    planes = torch.arange(x.shape[0] * x.shape[1]).reshape([x.shape[0], x.shape[1], *[1] * window.rank])
    return values, torch.add(index, planes * math.prod(x.shape[2:]))


@op("AveragePool", 1, 7, 10, 11, 19, 22)
def average_pool(x: Tensor, *, form: Pool, count_include_pad: int = 0) -> Tensor:
    """Mean over windows, of the elements inside the input, or inside input and pads with count_include_pad."""
    window = form.of(spatial_rank(x))
    around = explicit_pads(form, window, x)
    exact = _whole(x, around, window, form.ceil_mode)
    bare = all(map(is_int, around)) and not any(around)
    if max(window.dilations) == 1 and bare and _floor_matches(around, exact, window.strides):
        return _mean_pool(x, window)
    counted = around if count_include_pad else [0] * (2 * window.rank)
    inside = _pad_spatial(torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype), counted, 1.0)
    rest = [e - c for e, c in zip(exact, counted, strict=True)]
    share = _window_sum(_pad_spatial(inside, rest, 0.0), window)
    return torch.mul(_window_sum(_pad_spatial(x, exact, 0.0), window), torch.reciprocal(share))


def _mean_pool(x: Tensor, window: Sliding) -> Tensor:
    functions = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
    return functions[window.rank - 1](x, window.kernel, window.strides)


def _window_sum(x: Tensor, window: Sliding) -> Tensor:
    if max(window.dilations) == 1:
        return _mean_pool(x, window) * math.prod(window.kernel)
    functions = (functional.conv1d, functional.conv2d, functional.conv3d)
    ones = torch.ones([x.shape[1], 1, *window.kernel], dtype=x.dtype)
    return functions[window.rank - 1](x, ones, None, window.strides, 0, window.dilations, x.shape[1])


@op("LpPool", 2, 11, 18, 22)
def lp_pool(x: Tensor, *, form: Pool, p: int = 2) -> Tensor:
    """Lp norm over windows."""
    window = form.of(spatial_rank(x))
    exact = _whole(x, explicit_pads(form, window, x), window, form.ceil_mode)
    powers = _pad_spatial(torch.pow(torch.abs(x), p), exact, 0.0)
    return torch.pow(_window_sum(powers, window), 1.0 / p)


@op("GlobalLpPool", 2, 22)
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """Lp norm over the spatial axes."""
    powers = torch.pow(torch.abs(x), p)
    return torch.pow(torch.sum(powers, list(range(2, x.ndim)), keepdim=True), 1.0 / p)
