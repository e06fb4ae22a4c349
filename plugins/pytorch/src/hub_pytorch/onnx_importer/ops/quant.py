"""Quantized operators, computed as the standard defines them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_pytorch.onnx_importer.errors import refuse_if
from hub_pytorch.onnx_importer.lazy import torch
from hub_pytorch.onnx_importer.registry import op
from hub_pytorch.onnx_importer.values import positive_axis, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor


def _spread(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point in a shape that broadcasts to x: per tensor, per axis, or per block along the axis."""
    if parameter.ndim == 0 or (parameter.ndim == 1 and parameter.shape[0] == 1 and not block):
        return torch.reshape(parameter, [])
    along = positive_axis(axis, x.ndim)
    if parameter.ndim == 1 and not block:
        return torch.reshape(parameter, [-1 if i == along else 1 for i in range(x.ndim)])
    refuse_if(not block, f"scale of rank {parameter.ndim} without block_size")
    return torch.narrow(torch.repeat_interleave(parameter, block, along), along, 0, x.shape[along])


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Divide by the scale, rounded half to even, plus the zero point, within the zero point's type."""
    limits = torch.iinfo(zero_point.dtype)
    whole = torch.add(torch.round(torch.div(x, scale)), zero_point.to(scale.dtype))
    return torch.clamp(whole, limits.min, limits.max).to(zero_point.dtype)


def dequantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Subtract the zero point and multiply by the scale."""
    return torch.mul(torch.sub(x.to(torch.int32), zero_point.to(torch.int32)).to(scale.dtype), scale)


@op("QuantizeLinear", 10)
@op("QuantizeLinear", 13, 19, 21, 23, 24, 25, 28)
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
    """To integers of 8 or 16 bits."""
    del saturate  # for 8-bit floats, which are refused
    refuse_if(precision, f"precision {precision}")
    dtype = torch_dtype(output_dtype) if output_dtype else torch.uint8
    zero = torch.zeros(list(scale.shape), dtype=dtype) if zero_point is None else zero_point
    refuse_if(zero.dtype.is_floating_point, f"zero point of {zero.dtype}")
    return quantize(x.to(scale.dtype), _spread(scale, x, axis, block_size), _spread(zero, x, axis, block_size))


@op("DequantizeLinear", 10)
@op("DequantizeLinear", 13, 19, 21, 23, 24, 25, 28)
def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """From integers of 8, 16 or 32 bits."""
    refuse_if(x.dtype.is_floating_point, f"input of {x.dtype}")
    zero = torch.zeros(list(scale.shape), dtype=x.dtype) if zero_point is None else zero_point
    real = dequantize(x, _spread(scale, x, axis, block_size), _spread(zero, x, axis, block_size))
    return real.to(torch_dtype(output_dtype)) if output_dtype else real


@op("DynamicQuantizeLinear", 11)
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To uint8 with the scale of the data's own range, zero included."""
    high = torch.clamp(torch.amax(x), min=0.0)
    low = torch.clamp(torch.amin(x), max=0.0)
    scale = torch.sub(high, low) / 255.0
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
    limits = torch.iinfo(y_zero_point.dtype)
    whole = torch.round(torch.mul(total.to(ratio.dtype), ratio)) + y_zero_point.to(ratio.dtype)
    return torch.clamp(whole, limits.min, limits.max).to(y_zero_point.dtype)
