"""Pooling over windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import NodeContext, op
from hub_keras.onnx_importer.values import Value, channels_last
from hub_keras.onnx_importer.windows import (
    ceil_pads,
    explicit_pads,
    extents,
    is_same,
    known_sizes,
    numbers,
    pad_spatial,
    pairs,
    spatial_rank,
)
from hub_onnxgraph import refuse_if


@op("MaxPool", 1, 8, 10, 11, 12, 22)
def max_pool(  # noqa: PLR0913 - the operator's own parameters
    node: NodeContext,
    x: Value,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
) -> Value:
    """Maximum over windows."""
    rank = spatial_rank(x)
    steps = numbers(strides, rank)
    refuse_if(node.outputs > 1, "the indices of a maximum")
    del storage_order  # it says how the indices count
    refuse_if(x.dtype in {"int8", "uint8"}, f"the maximum over windows of {x.dtype}")
    if max(numbers(dilations, rank)) > 1:
        return _dilated_max(x, kernel_shape, steps, numbers(dilations, rank), (auto_pad, pads, ceil_mode))
    around = _exact(x, kernel_shape, steps, explicit_pads(auto_pad, pads, x, kernel_shape, steps), ceil_mode)
    if any(around) and is_same(x, around, kernel_shape, steps):
        return _pooled(x, "MaxPooling", kernel_shape, steps, "same")
    return _pooled(_pad_for_max(x, around, kernel_shape), "MaxPooling", kernel_shape, steps, "valid")


def _exact(x: Value, kernel: Sequence[int], strides: Sequence[int], pads: list[int], ceil: int) -> list[int]:
    """Pads for the windows that ceil_mode adds."""
    if not ceil or max(strides) == 1:
        return pads
    exact = ceil_pads(known_sizes(x, "ceil_mode"), pads, kernel, strides, ceil)
    return [max(found, given) for found, given in zip(exact, pads, strict=True)] if _covers(x, exact, pads) else exact


def _covers(x: Value, exact: list[int], pads: list[int]) -> bool:
    """Whether the last window needs no more than the pads that are there."""
    del x
    return all(e <= p for e, p in zip(exact, pads, strict=True))


def _pooled(x: Value, kind: str, kernel: Sequence[int], strides: Sequence[int], padding: str) -> Value:
    order = channels_last(x.ndim)
    rank = len(kernel)
    result = x.graph.layer(
        f"{kind}{rank}D",
        x.stored(order),
        pool_size=tuple(kernel) if rank > 1 else kernel[0],
        strides=tuple(strides) if rank > 1 else strides[0],
        padding=padding,
    )
    return x.made(result, order, nonnegative=x.nonnegative)


def _pad_for_max(x: Value, pads: list[int], kernel: Sequence[int]) -> Value:
    """Padding that no maximum sees: zeros where nothing is negative, a mirror inside the window, else -infinity.

    Infinity would spoil the ranges that a quantizer measures, so it comes last.
    """
    if not any(pads):
        return x
    if min(pads) < 0 or x.nonnegative:
        return (
            pad_spatial(x, pads) if x.nonnegative or max(pads) <= 0 else _pad_low(pad_spatial(x, _negative(pads)), pads)
        )
    sizes = [size or 0 for size in x.shape[2:]]
    parts = zip(pairs(pads), kernel, sizes, strict=True)
    if all(2 * max(a, b) <= k and max(a, b) <= size for (a, b), k, size in parts):
        return _around(x, pads, "symmetric")
    return _pad_low(x, pads)


def _negative(pads: list[int]) -> list[int]:
    return [min(pad, 0) for pad in pads]


def _pad_low(x: Value, pads: list[int]) -> Value:
    return _around(x, [max(pad, 0) for pad in pads], "constant", -math.inf)


def _around(x: Value, pads: list[int], mode: str, value: float | None = None) -> Value:
    order = channels_last(x.ndim)
    width = ((0, 0), *pairs(pads), (0, 0))
    return x.made(ops.pad(x.stored(order), width, mode=mode, constant_values=value), order)


def _dilated_max(
    x: Value, kernel: list[int], strides: list[int], dilations: list[int], rest: tuple[str, list[int] | None, int]
) -> Value:
    """The maximum of slices: no layer pools with dilation."""
    auto_pad, pads, ceil = rest
    windows = extents(kernel, dilations)
    sizes = known_sizes(x, "a pool with dilation")
    around = ceil_pads(sizes, explicit_pads(auto_pad, pads, x, windows, strides), windows, strides, ceil)
    padded = _pad_low(pad_spatial(x, _negative(around)), around)
    slices = [padded.tensor[key] for key in _window_slices(padded, kernel, strides, dilations)]
    return padded.like(_reduced(slices), nonnegative=False)


def _reduced(tensors: list[Any]) -> Any:
    result = tensors[0]
    for tensor in tensors[1:]:
        result = ops.maximum(result, tensor)
    return result


def _window_slices(x: Value, kernel: list[int], strides: list[int], dilations: list[int]) -> list[tuple[slice, ...]]:
    """For each place in the window, the elements that it meets."""
    windows = extents(kernel, dilations)
    counts = [(size - w) // s + 1 for size, w, s in zip(x.tensor.shape[1:-1], windows, strides, strict=True)]
    keys = []
    for place in itertools.product(*map(range, kernel)):
        starts = [p * d for p, d in zip(place, dilations, strict=True)]
        spans = [slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, counts, strides, strict=True)]
        keys.append((slice(None), *spans, slice(None)))
    return keys


@op("AveragePool", 1, 7, 10, 11, 19, 22)
def average_pool(  # noqa: PLR0913 - the operator's own parameters
    x: Value,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Value:
    """Mean over windows, of the elements inside the input, or inside input and pads with count_include_pad."""
    rank = spatial_rank(x)
    steps = numbers(strides, rank)
    refuse_if(max(numbers(dilations, rank)) > 1, "the mean over windows with dilation")
    given = explicit_pads(auto_pad, pads, x, kernel_shape, steps)
    around = _exact(x, kernel_shape, steps, given, ceil_mode)
    if not any(around):
        return _pooled(x, "AveragePooling", kernel_shape, steps, "valid")
    if around == given and not count_include_pad and is_same(x, around, kernel_shape, steps):
        return _pooled(x, "AveragePooling", kernel_shape, steps, "same")
    mean = _pooled(pad_spatial(x, around), "AveragePooling", kernel_shape, steps, "valid")
    if count_include_pad and around == given:
        return mean
    factor = _factor(x, kernel_shape, steps, around, given if count_include_pad else [0] * (2 * rank))
    return mean.like(ops.multiply(mean.tensor, x.graph.constant(factor)), nonnegative=x.nonnegative)


def _factor(x: Value, kernel: list[int], strides: list[int], around: list[int], counted: list[int]) -> Any:
    """How much larger a window is than its part that counts, for each place; shape (1, *spatial, 1)."""
    result = np.ones((1,) * x.ndim, dtype=x.dtype)
    sizes = known_sizes(x, "a mean over padded windows")
    parts = zip(sizes, kernel, strides, pairs(around), pairs(counted), strict=True)
    for axis, (size, window, stride, (begin, end), (before, after)) in enumerate(parts):
        marks = np.zeros(size + begin + end)
        marks[max(begin - before, 0) : begin + size + after] = 1
        counts = [marks[i : i + window].sum() for i in range(0, len(marks) - window + 1, stride)]
        shape = [1, *[-1 if i == axis else 1 for i in range(len(kernel))], 1]
        result = result * (window / np.asarray(counts)).reshape(shape).astype(x.dtype)
    return result


def _global(x: Value, kind: str) -> Value:
    rank, order = spatial_rank(x), channels_last(x.ndim)
    result = x.graph.layer(f"Global{kind}Pooling{rank}D", x.stored(order), keepdims=True)
    return x.made(result, order, nonnegative=x.nonnegative)


@op("GlobalAveragePool", 1, 22)
def global_average_pool(x: Value) -> Value:
    """Mean over the spatial axes."""
    return _global(x, "Average")


@op("GlobalMaxPool", 1, 22)
def global_max_pool(x: Value) -> Value:
    """Maximum over the spatial axes."""
    return _global(x, "Max")
