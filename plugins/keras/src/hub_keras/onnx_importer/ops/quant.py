"""Quantized operators, computed as the standard defines them; only integers of 8, 16 and 32 bits, as Keras has them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hub_keras.onnx_importer.applied import added, cast, dtype_of, elementwise, is_float
from hub_keras.onnx_importer.dims import Array
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.ops.conv import conv
from hub_keras.onnx_importer.ops.dense import matmul
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, dtype_name, fixed, graph_of, is_constant, value_of
from hub_onnxgraph import refuse_if
from hub_onnxgraph.tensors import positive_axis
from hub_onnxgraph.windows import Convolution, carrier

if TYPE_CHECKING:
    from keras import KerasTensor


def _reshaped(item: Item, shape: list[int]) -> Item:
    """A parameter in a shape that broadcasts."""
    if is_constant(item):
        return item.reshape(shape)
    return item if not shape and not item.ndim else item.made(ops.reshape(item.plain(), shape))


def _spread(parameter: Item, x: Item, axis: int, block: int) -> Item:
    """A scale or zero point in a shape that broadcasts to x: per tensor, per axis, or per block along the axis."""
    if not block and (parameter.ndim == 0 or tuple(parameter.shape) == (1,)):
        return _reshaped(parameter, [])
    along = positive_axis(axis, x.ndim)
    if parameter.ndim == 1 and not block:
        return _reshaped(parameter, [-1 if i == along else 1 for i in range(x.ndim)])
    refuse_if(not block, f"scale of rank {parameter.ndim} without block_size")
    places = np.arange(fixed(x, along)) // block
    if is_constant(parameter):
        return np.take(parameter, places, axis=along)
    return parameter.made(ops.take(parameter.plain(), places.astype("int32"), axis=along))


def quantize(x: Item, scale: Item, zero_point: Item, kind: str) -> KerasValue:
    """Divide by the scale, rounded half to even, plus the zero point, within the type."""
    return _limited(elementwise(lambda t, s: ops.round(ops.divide(t, s)), x, scale), zero_point, kind)


def _limited(whole: KerasValue, zero_point: Item, kind: str) -> KerasValue:
    limits = np.iinfo(kind)

    def shifted(t: KerasTensor, zero: KerasTensor) -> KerasTensor:
        total = added(t, cast(zero, str(t.dtype)))
        bounded = ops.maximum(total, np.asarray(limits.min, str(t.dtype)))
        return cast(ops.minimum(bounded, np.asarray(limits.max, str(t.dtype))), "int32")

    return elementwise(shifted, whole, zero_point, dtype=kind)


def dequantize(x: Item, scale: Item, zero_point: Item) -> KerasValue:
    """Subtract the zero point and multiply by the scale."""
    kind = dtype_of(scale)
    return elementwise(
        lambda t, s, zero: ops.multiply(cast(ops.subtract(cast(t, "int32"), cast(zero, "int32")), kind), s),
        x,
        scale,
        zero_point,
        dtype=kind,
    )


@op("QuantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28)
def quantize_linear(  # noqa: PLR0913 - the operator's own parameters
    x: Item,
    scale: Item,
    zero_point: Item | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> KerasValue:
    """To integers of 8 or 16 bits."""
    del saturate  # for floats of 8 bits
    refuse_if(precision and dtype_name(precision) != dtype_of(scale), f"precision {precision}")
    kind = dtype_of(zero_point) if zero_point is not None else dtype_name(output_dtype or 2)
    refuse_if(kind not in {"int8", "uint8", "int16", "uint16"}, f"quantization to {kind}")
    refuse_if(output_dtype and dtype_name(output_dtype) != kind, f"output_dtype {output_dtype} with {kind}")
    zero = np.zeros((), kind) if zero_point is None else _spread(zero_point, x, axis, block_size)
    value = value_of(graph_of(x, scale), x)
    source = value.like(cast(value.tensor, dtype_of(scale)))
    return quantize(source, _spread(scale, x, axis, block_size), zero, kind)


@op("DequantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28)
def dequantize_linear(
    x: Item, scale: Item, zero_point: Item | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> KerasValue:
    """From integers of 8 to 32 bits."""
    kind = dtype_of(x)
    refuse_if(is_float(kind), f"input of {kind}")
    zero = np.zeros((), kind) if zero_point is None else _spread(zero_point, x, axis, block_size)
    real = dequantize(x, _spread(scale, x, axis, block_size), zero)
    return real.like(cast(real.tensor, dtype_name(output_dtype))) if output_dtype else real


@op("DynamicQuantizeLinear", 11)
def dynamic_quantize_linear(x: KerasValue) -> tuple[KerasValue, KerasValue, KerasValue]:
    """To uint8 with the scale of the data's own range, zero included; 1 for data that are all zero, as ONNX Runtime."""
    zero_point = np.asarray(0, x.dtype)
    high = ops.maximum(ops.max(x.tensor), zero_point)
    low = ops.minimum(ops.min(x.tensor), zero_point)
    width = ops.subtract(high, low)
    quotient = ops.divide(width, np.asarray(255, x.dtype))
    scale = x.made(ops.where(ops.equal(width, zero_point), np.asarray(1, x.dtype), quotient))
    place = ops.round(ops.divide(ops.negative(low), scale.tensor))
    zero = x.made(cast(cast(ops.clip(place, 0.0, 255.0), "int32"), "uint8"))
    return quantize(x, scale, zero, "uint8"), scale, zero


def _centred(x: Item, zero_point: Item | None, dtype: str) -> Item:
    """Give x minus its zero point, in a type that holds it."""
    if zero_point is None:
        return x.like(cast(x.tensor, dtype)) if isinstance(x, KerasValue) else x.astype(dtype)
    if is_constant(x) and is_constant(zero_point):
        known: Array = x.astype(dtype) - zero_point.astype(dtype)
        return known
    return elementwise(lambda a, b: ops.subtract(cast(a, dtype), cast(b, dtype)), x, zero_point, dtype=dtype)


def _whole(total: KerasValue) -> KerasValue:
    return total.like(cast(ops.round(total.tensor), "int32"))


def _product(a: Item, b: Item, a_zero_point: Item | None, b_zero_point: Item | None) -> KerasValue:
    wide = carrier(b.shape[0 if b.ndim == 1 else -2])
    rows = a_zero_point
    if rows is not None and rows.ndim == 1 and fixed(rows, 0) > 1:
        rows = _reshaped(rows, [-1, 1])
    return _whole(matmul(_centred(a, rows, wide), _centred(b, b_zero_point, wide)))


@op("MatMulInteger", 10)
def matmul_integer(a: Item, b: Item, a_zero_point: Item | None = None, b_zero_point: Item | None = None) -> KerasValue:
    """Product of integers in int32; a's zero point may be per row, b's per column."""
    return _product(a, b, a_zero_point, b_zero_point)


def _per_channel(parameter: Item, rank: int, axis: int) -> Item:
    """A parameter per tensor, or one for each index of an axis, that broadcasts to the rank."""
    many = parameter.ndim == 1 and fixed(parameter, 0) > 1
    return _reshaped(parameter, [-1 if i == axis else 1 for i in range(rank)] if many else [])


def _exact_conv(x: Item, w: Item, zeros: tuple[Item | None, Item | None], form: Convolution) -> KerasValue:
    """Convolve integers in floats that hold every partial sum exactly."""
    wide = carrier(math.prod(fixed(w, axis) for axis in range(1, w.ndim)))
    x_zero, w_zero = zeros
    kernel = _centred(w, None if w_zero is None else _per_channel(w_zero, w.ndim, 0), wide)
    source = _centred(x, None if x_zero is None else _per_channel(x_zero, x.ndim, 1), wide)
    return _whole(conv(source, kernel, form=form))


@op("ConvInteger", 10)
def conv_integer(
    x: Item,
    w: Item,
    x_zero_point: Item | None = None,
    w_zero_point: Item | None = None,
    *,
    form: Convolution,
) -> KerasValue:
    """Convolution of integers in int32; w's zero point may be per output channel."""
    return _exact_conv(x, w, (x_zero_point, w_zero_point), form)


@op("QLinearConv", 10)
def qlinear_conv(  # noqa: PLR0913, PLR0917 - the operator's own parameters
    x: Item,
    x_scale: Item,
    x_zero_point: Item,
    w: Item,
    w_scale: Item,
    w_zero_point: Item,
    y_scale: Item,
    y_zero_point: Item,
    b: Item | None = None,
    *,
    form: Convolution,
) -> KerasValue:
    """Convolution of integers, requantized; the bias is int32 in units of both scales."""
    total = _exact_conv(x, w, (x_zero_point, w_zero_point), form)
    total = total if b is None else elementwise(added, total, _per_channel(b, x.ndim, 1))
    return _requantized(total, x_scale, _per_channel(w_scale, x.ndim, 1), y_scale, y_zero_point)


def _requantized(total: KerasValue, a_scale: Item, b_scale: Item, y_scale: Item, zero_point: Item) -> KerasValue:
    """Multiply by the scales' ratio, which is computed first, and round."""
    kind = dtype_of(a_scale)

    def rounded(t: KerasTensor, a: KerasTensor, b: KerasTensor, y: KerasTensor) -> KerasTensor:
        return ops.round(ops.multiply(cast(t, kind), ops.divide(ops.multiply(a, b), y)))

    whole = elementwise(rounded, total, a_scale, b_scale, y_scale, dtype=kind)
    return _limited(whole, zero_point, dtype_of(zero_point))


@op("QLinearMatMul", 10, 21)
def qlinear_matmul(  # noqa: PLR0913, PLR0917 - the operator's own parameters
    a: Item,
    a_scale: Item,
    a_zero_point: Item,
    b: Item,
    b_scale: Item,
    b_zero_point: Item,
    y_scale: Item,
    y_zero_point: Item,
) -> KerasValue:
    """Product of integers, requantized."""
    total = _product(a, b, _flat(a_zero_point), _flat(b_zero_point))
    return _requantized(total, _flat(a_scale), _flat(b_scale), _flat(y_scale), _flat(y_zero_point))


def _flat(parameter: Item) -> Item:
    """A parameter of one element, without axes."""
    return _reshaped(parameter, []) if tuple(parameter.shape) == (1,) else parameter
