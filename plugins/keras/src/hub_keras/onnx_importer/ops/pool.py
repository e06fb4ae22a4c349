"""Pooling over windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import reduce

from hub_keras.onnx_importer.dims import Array
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import NodeContext, op
from hub_keras.onnx_importer.values import KerasValue, channels_last
from hub_keras.onnx_importer.windows import explicit_pads, is_same, known_sizes, pad_spatial, spatial_rank
from hub_onnxgraph import refuse_if
from hub_onnxgraph.windows import Pool, Sliding, pairs, whole_pads


@op("MaxPool", 1, 8, 10, 11, 12, 22)
def max_pool(node: NodeContext, x: KerasValue, *, form: Pool, storage_order: int = 0) -> KerasValue:
    """Maximum over windows."""
    window = form.of(spatial_rank(x))
    refuse_if(node.outputs > 1, "the indices of a maximum")
    del storage_order  # it says how the indices count
    refuse_if(x.dtype in {"int8", "uint8"}, f"the maximum over windows of {x.dtype}")
    given = explicit_pads(form, window, x)
    if max(window.dilations) > 1:
        # No layer pools with dilation: the maximum of slices.
        whole = whole_pads(known_sizes(x, "a pool with dilation"), given, window, ceil=form.ceil_mode)
        padded = _pad_low(pad_spatial(x, _negative(whole)), whole)
        slices = [padded.tensor[key] for key in _window_slices(padded, window)]
        return padded.like(reduce(ops.maximum, slices), nonnegative=False)
    around = _exact(x, window, given, form.ceil_mode)
    if any(around) and is_same(x, around, window):
        return _pooled(x, "MaxPooling", window, "same")
    return _pooled(_pad_for_max(x, around, window.kernel), "MaxPooling", window, "valid")


def _exact(x: KerasValue, window: Sliding, pads: list[int], ceil: int) -> list[int]:
    """Pads for the windows that ceil_mode adds; those given, where the last window needs no more of them."""
    if not ceil or max(window.strides) == 1:
        return pads
    exact = whole_pads(known_sizes(x, "ceil_mode"), pads, window, ceil=ceil)
    return pads if all(e <= p for e, p in zip(exact, pads, strict=True)) else exact


def _pooled(x: KerasValue, kind: str, window: Sliding, padding: str) -> KerasValue:
    order = channels_last(x.ndim)
    result = x.graph.layer(
        f"{kind}{window.rank}D",
        x.stored(order),
        pool_size=window.kernel if window.rank > 1 else window.kernel[0],
        strides=window.strides if window.rank > 1 else window.strides[0],
        padding=padding,
    )
    return x.made(result, order, nonnegative=x.nonnegative)


def _pad_for_max(x: KerasValue, pads: list[int], kernel: Sequence[int]) -> KerasValue:
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


def _pad_low(x: KerasValue, pads: list[int]) -> KerasValue:
    return _around(x, [max(pad, 0) for pad in pads], "constant", -math.inf)


def _around(x: KerasValue, pads: list[int], mode: str, value: float | None = None) -> KerasValue:
    order = channels_last(x.ndim)
    width = ((0, 0), *pairs(pads), (0, 0))
    return x.made(ops.pad(x.stored(order), width, mode=mode, constant_values=value), order)


def _window_slices(x: KerasValue, window: Sliding) -> list[tuple[slice, ...]]:
    """For each place in the window, the elements that it meets."""
    kernel, strides, dilations = window.kernel, window.strides, window.dilations
    counts = [(n - w) // s + 1 for n, w, s in zip(x.tensor.shape[1:-1], window.extents, strides, strict=True)]
    keys = []
    for place in itertools.product(*map(range, kernel)):
        starts = [p * d for p, d in zip(place, dilations, strict=True)]
        spans = [slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, counts, strides, strict=True)]
        keys.append((slice(None), *spans, slice(None)))
    return keys


@op("AveragePool", 1, 7, 10, 11, 19, 22)
def average_pool(x: KerasValue, *, form: Pool, count_include_pad: int = 0) -> KerasValue:
    """Mean over windows, of the elements inside the input, or inside input and pads with count_include_pad."""
    window = form.of(spatial_rank(x))
    refuse_if(max(window.dilations) > 1, "the mean over windows with dilation")
    given = explicit_pads(form, window, x)
    around = _exact(x, window, given, form.ceil_mode)
    if not any(around):
        return _pooled(x, "AveragePooling", window, "valid")
    if around == given and not count_include_pad and is_same(x, around, window):
        return _pooled(x, "AveragePooling", window, "same")
    mean = _pooled(pad_spatial(x, around), "AveragePooling", window, "valid")
    if count_include_pad and around == given:
        return mean
    factor = _factor(x, window, around, given if count_include_pad else [0] * (2 * window.rank))
    return mean.like(ops.multiply(mean.tensor, x.graph.constant(factor)), nonnegative=x.nonnegative)


def _factor(x: KerasValue, window: Sliding, around: list[int], counted: list[int]) -> Array:
    """How much larger a window is than its part that counts, for each place; shape (1, *spatial, 1)."""
    result = np.ones((1,) * x.ndim, dtype=x.dtype)
    sizes = known_sizes(x, "a mean over padded windows")
    parts = zip(sizes, window.kernel, window.strides, pairs(around), pairs(counted), strict=True)
    for axis, (size, width, stride, (begin, end), (before, after)) in enumerate(parts):
        marks = np.zeros(size + begin + end)
        marks[max(begin - before, 0) : begin + size + after] = 1
        counts = [marks[i : i + width].sum() for i in range(0, len(marks) - width + 1, stride)]
        shape = [1, *[-1 if i == axis else 1 for i in range(window.rank)], 1]
        result = result * (width / np.asarray(counts)).reshape(shape).astype(x.dtype)
    return result


def _global(x: KerasValue, kind: str) -> KerasValue:
    rank, order = spatial_rank(x), channels_last(x.ndim)
    result = x.graph.layer(f"Global{kind}Pooling{rank}D", x.stored(order), keepdims=True)
    return x.made(result, order, nonnegative=x.nonnegative)


@op("GlobalAveragePool", 1, 22)
def global_average_pool(x: KerasValue) -> KerasValue:
    """Mean over the spatial axes."""
    return _global(x, "Average")


@op("GlobalMaxPool", 1, 22)
def global_max_pool(x: KerasValue) -> KerasValue:
    """Maximum over the spatial axes."""
    return _global(x, "Max")
