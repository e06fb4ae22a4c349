"""Element types that torch lacks, or has without arithmetic: 2- and 4-bit numbers, 8-bit floats.

A 2- or 4-bit number is held in the 8-bit type that has all its values, and remembers which type it stands for. It
can be moved, converted, quantized to and dequantized; any other operator on it is refused, since it would compute
in 8 bits.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeVar

from hub_onnxgraph import Refused, refuse_if
from hub_pytorch.onnx_importer.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from hub_pytorch.onnx_importer.tracing import TracedValue

# Numbers of onnx.TensorProto.DataType.
FLOAT4 = 23
_E8M0 = 24
_E4M3FN = 17
_E4M3FN_ROUNDED = 464  # halfway between the largest number, 448, and what would come next; it rounds to 448
# onnx.TensorProto.DataType -> name of the torch dtype that holds it.
CARRIERS = {21: "uint8", 22: "int8", FLOAT4: "float8_e4m3fn", 25: "uint8", 26: "int8"}
FLOATS = {17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", _E8M0: "float8_e8m0fnu"}
_LIMITS = {21: (0, 15), 22: (-8, 7), 25: (0, 3), 26: (-2, 1)}  # the least and the largest number
_FLOAT4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by their codes, without the sign

_MARK = "onnx_type"
Marked = TypeVar("Marked", "Tensor", "TracedValue")

_MOVING = frozenset({
    "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
_AWARE = frozenset({"Cast", "CastLike", "DequantizeLinear", "QuantizeLinear", "Shape", "Size"})


def kind_of(value: Any) -> int | None:
    """Return the ONNX element type that a value stands for, when torch has none for it."""
    if isinstance(value, torch.Tensor):
        return getattr(value, _MARK, None)
    node = getattr(value, "node", None) if hasattr(value, "tracer") else None
    return None if node is None else node.meta.get(_MARK)


def marked(value: Marked, kind: int) -> Marked:
    """Say of a new value which element type it stands for."""
    if isinstance(value, torch.Tensor):
        setattr(value, _MARK, kind)
    else:
        value.node.meta[_MARK] = kind
    return value


def check(name: str, inputs: tuple[Any, ...]) -> int | None:
    """Return the type that an operator's results stand for, because it only moves its first input's elements.

    Raises:
        Refused: The operator would compute with such numbers.
    """
    kinds = {kind for kind in map(kind_of, inputs) if kind is not None}
    if kinds and name not in _MOVING | _AWARE:
        raise Refused(f"{name} of element type {min(kinds)}, in which torch does not compute")
    return kind_of(inputs[0]) if kinds and name in _MOVING else None


def limits(dtype: Any, kind: int | None) -> tuple[int, int]:
    """The smallest and largest number of an integer type."""
    if kind in _LIMITS:
        return _LIMITS[kind]
    info = torch.iinfo(dtype)
    return info.min, info.max


def cast(x: Tensor, kind: int, *, saturate: bool = True, round_mode: str = "up") -> Tensor:
    """Convert to one of the types of this module.

    Args:
        x: The numbers.
        kind: The ONNX element type.
        saturate: Whether what is too large for an 8-bit float becomes its largest number, and not infinite or NaN.
        round_mode: How to round to a power of two: up, down, nearest.

    Raises:
        Refused: The conversion is not implemented.
    """
    if kind in _LIMITS:
        return marked(_to_bits(x, *_LIMITS[kind]).to(getattr(torch, CARRIERS[kind])), kind)
    if kind == FLOAT4:
        return marked(_to_float4(x.to(torch.float32)).to(getattr(torch, CARRIERS[kind])), kind)
    if kind == _E8M0:
        return _to_power_of_two(x.to(torch.float32), saturate, round_mode)
    dtype = getattr(torch, FLOATS[kind])
    wide = x if x.dtype.is_floating_point and x.dtype.itemsize > 1 else x.to(torch.float32)
    if saturate:
        largest = torch.finfo(dtype).max
        wide = torch.clamp(wide, -largest, largest)
    elif kind == _E4M3FN:  # torch saturates here, and in no other type
        wide = torch.where(torch.gt(torch.abs(wide), _E4M3FN_ROUNDED), torch.nan, wide)
    return wide.to(dtype)


def _to_bits(x: Tensor, low: int, high: int) -> Tensor:
    """The lowest bits, read as a number from low to high."""
    bits = torch.bitwise_and(x.to(torch.int32), high - low)
    return bits if not low else torch.sub(torch.bitwise_xor(bits, -low), -low)


def _to_float4(x: Tensor) -> Tensor:
    """The nearest of the fifteen values, of two equally near the one with the even code."""
    size = torch.abs(x)
    code = torch.zeros_like(size, dtype=torch.int64)
    pairs = itertools.pairwise(_FLOAT4_VALUES)
    for i, (below, above) in enumerate(pairs):
        middle = (below + above) / 2
        code = torch.add(code, torch.gt(size, middle) if i % 2 == 0 else torch.ge(size, middle))
    values = torch.index_select(torch.tensor(_FLOAT4_VALUES), 0, torch.reshape(code, [-1]))
    return torch.copysign(torch.reshape(values, list(x.shape)), x)


def _to_power_of_two(x: Tensor, saturate: bool, round_mode: str) -> Tensor:
    refuse_if(round_mode not in {"up", "down", "nearest"}, f"round_mode {round_mode}")
    bits = x.view(torch.int32)
    exponent = torch.bitwise_and(torch.bitwise_right_shift(bits, 23), 255)
    rest = torch.bitwise_and(bits, (1 << 23) - 1)
    least = {"up": 1, "down": 1 << 23, "nearest": 1 << 22}[round_mode]
    special = torch.eq(exponent, 255)
    halfway = torch.logical_and(torch.eq(exponent, 0), torch.eq(rest, 1 << 22))  # 2 ** -127, which needs no rounding
    inexact = torch.logical_and(torch.ge(rest, least), torch.logical_not(torch.logical_or(special, halfway)))
    code = torch.add(exponent, inexact.to(torch.int32))
    if saturate:
        code = torch.where(torch.isnan(x), 255, torch.clamp(torch.where(special, 254, code), 0, 254))
    else:
        code = torch.where(torch.eq(x, 0), 255, code)
    return code.to(torch.uint8).view(torch.float8_e8m0fnu)
