"""Normalizations that Keras has no layer for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hub_keras.onnx_importer.applied import added, elementwise, mapped
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.ops.pool import average_pool
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue
from hub_onnxgraph import refuse_if
from hub_onnxgraph.windows import Pool

if TYPE_CHECKING:
    from keras import KerasTensor


@op("LpNormalization", 1, 22)
def lp_normalization(x: KerasValue, *, axis: int = -1, p: int = 2) -> KerasValue:
    """Division by the norm along an axis; what has no length stays zero."""
    refuse_if(p not in {1, 2}, f"p {p}")
    where = x.axis(axis)

    def normalized(t: KerasTensor) -> KerasTensor:
        norm = ops.sum(ops.abs(t) if p == 1 else ops.square(t), axis=where, keepdims=True)
        norm = norm if p == 1 else ops.sqrt(norm)
        zero, one = np.zeros((), x.dtype), np.ones((), x.dtype)
        return ops.where(ops.equal(norm, zero), zero, ops.divide(t, ops.where(ops.equal(norm, zero), one, norm)))

    return mapped(normalized, x)


@op("LRN", 1, 13)
def lrn(x: KerasValue, *, size: int, alpha: float = 0.0001, beta: float = 0.75, bias: float = 1.0) -> KerasValue:
    """Division by a power of the mean square over neighbouring channels."""
    where, before = x.axis(1), (size - 1) // 2
    pads = [(before, size - 1 - before) if i == where else (0, 0) for i in range(x.ndim)]
    count = x.tensor.shape[where]
    refuse_if(count is None, "an open number of channels")

    def normalized(t: KerasTensor) -> KerasTensor:
        squares = ops.pad(ops.square(t), pads)
        total = None
        for start in range(size):
            part = squares[tuple([slice(None)] * where + [slice(start, start + count)])]
            total = part if total is None else ops.add(total, part)
        scaled = ops.multiply(total, np.asarray(alpha / size, x.dtype))
        return ops.divide(t, ops.power(ops.add(scaled, np.asarray(bias, x.dtype)), np.asarray(beta, x.dtype)))

    return mapped(normalized, x)


def with_statistics(
    x: KerasValue, scale: Item, bias: Item | None, axes: list[int], epsilon: float
) -> tuple[KerasValue, KerasValue, KerasValue]:
    """Layer normalization that also gives the mean and the inverse deviation, as training graphs ask for."""
    over = tuple(x.axes(axes))
    mean = ops.mean(x.tensor, axis=over, keepdims=True)
    centred = ops.subtract(x.tensor, mean)
    variance = ops.mean(ops.square(centred), axis=over, keepdims=True)
    inverse = ops.rsqrt(ops.add(variance, np.asarray(epsilon, x.dtype)))
    scaled = elementwise(ops.multiply, x.like(ops.multiply(centred, inverse)), scale)
    return scaled if bias is None else elementwise(added, scaled, bias), x.like(mean), x.like(inverse)


@op("LpPool", 11, 18, 22)
def lp_pool(x: KerasValue, *, form: Pool, p: int = 2) -> KerasValue:
    """The norm of each window: the mean of the powers, of all places padded or not, times their number."""
    refuse_if(form.ceil_mode, "ceil_mode")
    powers = mapped(lambda t: ops.power(ops.abs(t), np.asarray(p, x.dtype)), x)
    mean = average_pool(powers, form=form, count_include_pad=1)
    count = np.asarray(math.prod(form.kernel_shape), x.dtype)
    return mapped(lambda t: ops.power(ops.multiply(t, count), np.asarray(1 / p, x.dtype)), mean, nonnegative=True)
