"""Arithmetic of unsigned integers of 16, 32 and 64 bits, which torch stores but does not compute in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hub_onnxgraph import Refused
from hub_pytorch.onnx_importer.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

_LONG = 64  # bits: torch has no wider type to compute these in


def apply(name: str, *xs: Tensor, **options: Any) -> Tensor:
    """Compute a torch function of tensors of one unsigned type.

    Raises:
        Refused: It is not implemented for the type.
    """
    dtype = xs[0].dtype
    if torch.iinfo(dtype).bits == _LONG:
        return _of_64_bits(name, *xs)
    if name not in _WIDER:
        raise Refused(f"torch has no {name} for {dtype}")
    wide = torch.int32 if dtype == torch.uint16 else torch.int64
    result: Tensor = getattr(torch, name)(*(x.to(wide) for x in xs), **options)
    return result if result.dtype == torch.bool else result.to(dtype)


# What, computed in a wider signed type, has the right lowest bits; a shift is by less than the width.
_WIDER = frozenset({
    "add", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor",
    "div", "fmod", "ge", "gt", "le", "lt", "maximum", "minimum", "mul", "remainder", "sub",
})  # fmt: skip


def _of_64_bits(name: str, *xs: Tensor) -> Tensor:
    """The same bits read as signed integers, with another order and another division."""
    if name not in _SIGNED | _LONG_FUNCTIONS.keys():
        raise Refused(f"torch has no {name} for torch.uint64")
    function = _LONG_FUNCTIONS.get(name, getattr(torch, name))
    result: Tensor = function(*(x.view(torch.int64) for x in xs))
    return result if result.dtype == torch.bool else result.view(torch.uint64)


_SIGNED = frozenset(
    {"add", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_xor", "mul", "sub"}
)


def _ordered(x: Tensor) -> Tensor:
    """Signed numbers in the order of the unsigned ones."""
    return torch.bitwise_xor(x, torch.iinfo(torch.int64).min)


def _less(a: Tensor, b: Tensor) -> Tensor:
    return torch.lt(_ordered(a), _ordered(b))


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """Halve, divide, double, and correct by one; a divisor of more than 63 bits goes in once or not at all."""
    half = torch.bitwise_and(torch.bitwise_right_shift(a, 1), torch.iinfo(torch.int64).max)
    small = torch.where(torch.lt(b, 0), torch.ones_like(b), b)
    guess = torch.bitwise_left_shift(torch.div(half, small, rounding_mode="trunc"), 1)
    rest = torch.sub(a, torch.mul(guess, small))
    exact = torch.add(guess, torch.logical_not(_less(rest, small)).to(torch.int64))
    return torch.where(torch.lt(b, 0), torch.logical_not(_less(a, b)).to(torch.int64), exact)


def _remainder(a: Tensor, b: Tensor) -> Tensor:
    return torch.sub(a, torch.mul(_quotient(a, b), b))


def _right_shift(a: Tensor, b: Tensor) -> Tensor:
    """Zeros come in from the left."""
    mask = torch.bitwise_left_shift(torch.full_like(b, -1), torch.sub(_LONG - 1, b) + 1)
    kept = torch.bitwise_not(torch.where(torch.eq(b, 0), torch.zeros_like(b), mask))
    return torch.bitwise_and(torch.bitwise_right_shift(a, b), kept)


_LONG_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "bitwise_right_shift": _right_shift,
    "div": _quotient,
    "fmod": _remainder,
    "ge": lambda a, b: torch.logical_not(_less(a, b)),
    "gt": lambda a, b: _less(b, a),
    "le": lambda a, b: torch.logical_not(_less(b, a)),
    "lt": _less,
    "maximum": lambda a, b: torch.where(_less(a, b), b, a),
    "minimum": lambda a, b: torch.where(_less(a, b), a, b),
    "remainder": _remainder,
}
