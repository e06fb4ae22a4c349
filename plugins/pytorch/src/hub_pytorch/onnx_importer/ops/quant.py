"""Quantized operators, computed as the standard defines them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hub_onnxgraph import refuse_if
from hub_onnxgraph.tensors import positive_axis
from hub_onnxgraph.windows import Convolution, carrier
from hub_pytorch.onnx_importer import narrow, values
from hub_pytorch.onnx_importer.lazy import torch
from hub_pytorch.onnx_importer.ops.conv import conv
from hub_pytorch.onnx_importer.registry import op
from hub_pytorch.onnx_importer.values import torch_dtype

if TYPE_CHECKING:
    from torch import Tensor


_UINT8 = 2


def _spread(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point in a shape that broadcasts to x: per tensor, per axis, or per block along the axis."""
    if parameter.ndim == 0 or (parameter.ndim == 1 and parameter.shape[0] == 1 and not block):
        return torch.reshape(parameter, [])
    along = positive_axis(axis, x.ndim)
    if parameter.ndim == 1 and not block:
        return torch.reshape(parameter, [-1 if i == along else 1 for i in range(x.ndim)])
    refuse_if(not block, f"scale of rank {parameter.ndim} without block_size")
    return torch.narrow(torch.repeat_interleave(parameter, block, along), along, 0, x.shape[along])


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, kind: int | None = None) -> Tensor:
    """Divide by the scale, rounded half to even, plus the zero point, within the zero point's type."""
    low, high = narrow.limits(zero_point.dtype, kind)
    whole = torch.add(torch.round(torch.div(x, scale)), zero_point.to(scale.dtype))
    return torch.clamp(whole, low, high).to(zero_point.dtype)


def dequantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Subtract the zero point and multiply by the scale."""
    if x.dtype.is_floating_point:
        return torch.mul(torch.sub(x.to(scale.dtype), zero_point.to(scale.dtype)), scale)
    return torch.mul(torch.sub(x.to(torch.int32), zero_point.to(torch.int32)).to(scale.dtype), scale)


@op("QuantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28)
def quantize_linear(  # noqa: PLR0913 - the operator's own parameters
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    """To integers of 2 to 16 bits, or floats of 4 or 8."""
    refuse_if(precision not in {0, values.element_type(scale)}, f"precision {precision}")
    kind = values.element_type(zero_point) if zero_point is not None else output_dtype or _UINT8
    refuse_if(output_dtype not in {0, kind}, f"output_dtype {output_dtype} with a zero point of type {kind}")
    spread = _spread(scale, x, axis, block_size)
    if kind in narrow.FLOATS or kind == narrow.FLOAT4:  # whose zero point is zero
        return values.cast(torch.div(x.to(scale.dtype), spread), kind, saturate=bool(saturate))
    zero = torch.zeros(list(scale.shape), dtype=values.held_dtype(kind)) if zero_point is None else zero_point
    result = quantize(x.to(scale.dtype), spread, _spread(zero, x, axis, block_size), kind)
    return narrow.marked(result, kind) if kind in narrow.CARRIERS else result


@op("DequantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28)
def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """From integers of 2 to 32 bits, or floats of 4 or 8."""
    zero = torch.zeros(list(scale.shape), dtype=x.dtype) if zero_point is None else zero_point
    refuse_if(x.dtype.is_floating_point and x.dtype.itemsize > 1, f"input of {x.dtype}")
    real = dequantize(x, _spread(scale, x, axis, block_size), _spread(zero, x, axis, block_size))
    return real.to(torch_dtype(output_dtype)) if output_dtype else real


@op("DynamicQuantizeLinear", 11)
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To uint8 with the scale of the data's own range, zero included; 1 for data that are all zero, as ONNX Runtime."""
    high = torch.clamp(torch.amax(x), min=0.0)
    low = torch.clamp(torch.amin(x), max=0.0)
    width = torch.sub(high, low)
    scale = torch.where(torch.eq(width, 0), 1.0, width / 255.0)
    zero = torch.clamp(torch.round(torch.div(-low, scale)), 0.0, 255.0).to(torch.uint8)
    return quantize(x, scale, zero), scale, zero


def _centred(x: Tensor, zero_point: Tensor | None) -> Tensor:
    """Give x minus its zero point, in int32."""
    wide = x.to(torch.int32)
    return wide if zero_point is None else torch.sub(wide, zero_point.to(torch.int32))


@op("MatMulInteger", 10)
def matmul_integer(
    a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    """Product of integers in int32; a's zero point may be per row, b's per column."""
    if a_zero_point is not None and a_zero_point.ndim == 1 and a_zero_point.shape[0] > 1:
        a_zero_point = torch.unsqueeze(a_zero_point, -1)
    return torch.matmul(_centred(a, a_zero_point), _centred(b, b_zero_point))


def _exact_conv(x: Tensor, w: Tensor, form: Convolution) -> Tensor:
    """Convolve integers in floats that hold every partial sum exactly; torch convolves no integers."""
    wide = getattr(torch, carrier(math.prod(w.shape[1:])))
    return torch.round(conv(x.to(wide), w.to(wide), form=form)).to(torch.int32)


def _per_channel(parameter: Tensor, rank: int, axis: int) -> Tensor:
    """A parameter per tensor, or one for each index of an axis, that broadcasts to the rank."""
    many = parameter.ndim == 1 and parameter.shape[0] > 1
    return torch.reshape(parameter, [-1 if many and i == axis else 1 for i in range(rank)])


@op("ConvInteger", 10)
def conv_integer(
    x: Tensor,
    w: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    form: Convolution,
) -> Tensor:
    """Convolution of integers in int32; w's zero point may be per output channel."""
    zero = None if w_zero_point is None else _per_channel(w_zero_point, w.ndim, 0)
    return _exact_conv(_centred(x, x_zero_point), _centred(w, zero), form)


@op("QLinearConv", 10)
def qlinear_conv(  # noqa: PLR0913, PLR0917 - the operator's own parameters
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    b: Tensor | None = None,
    *,
    form: Convolution,
) -> Tensor:
    """Convolution of integers, requantized; the bias is int32 in units of both scales."""
    zero = _per_channel(w_zero_point, w.ndim, 0)
    total = _exact_conv(_centred(x, x_zero_point), _centred(w, zero), form)
    total = total if b is None else torch.add(total, _per_channel(b, x.ndim, 1))
    ratio = torch.div(torch.mul(x_scale, _per_channel(w_scale, x.ndim, 1)), y_scale)
    return _requantized(total, ratio, y_zero_point)


def _requantized(total: Tensor, ratio: Tensor, zero_point: Tensor) -> Tensor:
    limits = torch.iinfo(zero_point.dtype)
    whole = torch.round(torch.mul(total.to(ratio.dtype), ratio)) + zero_point.to(ratio.dtype)
    return torch.clamp(whole, limits.min, limits.max).to(zero_point.dtype)


@op("QLinearMatMul", 10, 21)
def qlinear_matmul(  # noqa: PLR0913, PLR0917 - the operator's own parameters
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """Product of integers, requantized."""
    total = torch.matmul(_centred(a, a_zero_point), _centred(b, b_zero_point))
    ratio = torch.div(torch.mul(a_scale, b_scale), y_scale)
    return _requantized(total, ratio, y_zero_point)
