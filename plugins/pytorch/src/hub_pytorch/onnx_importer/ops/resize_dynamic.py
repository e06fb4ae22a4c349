"""Resizing along an axis whose size, or wanted size, is dynamic: coordinates are computed in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hub_onnxgraph import refuse_if
from hub_onnxgraph.resize import ResizedAxis, ResizeRule
from hub_pytorch.onnx_importer.lazy import torch
from hub_pytorch.onnx_importer.sizes import choice, largest

if TYPE_CHECKING:
    from torch import Tensor


def _half_pixel(x: Tensor, a: ResizedAxis) -> Tensor:
    return torch.sub(torch.div(torch.add(x, 0.5), a.scale), 0.5)


def _pytorch_half_pixel(x: Tensor, a: ResizedAxis) -> Tensor:
    return torch.mul(_half_pixel(x, a), choice(a.wanted > 1, 1, 0))


def _align_corners(x: Tensor, a: ResizedAxis) -> Tensor:
    return torch.div(torch.mul(x, a.size - 1), largest(a.wanted - 1, 1))


def _asymmetric(x: Tensor, a: ResizedAxis) -> Tensor:
    return torch.div(x, a.scale)


_COORDINATES: dict[str, Callable[[Tensor, ResizedAxis], Tensor]] = {
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": _pytorch_half_pixel,
}
_ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    "ceil": lambda x: torch.ceil(x),  # noqa: PLW0108 - torch is imported on first use
    "floor": lambda x: torch.floor(x),  # noqa: PLW0108 - as above
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
}


def along(x: Tensor, a: ResizedAxis, rule: ResizeRule) -> Tensor:
    """Resize one axis.

    Raises:
        Refused: The way of finding coordinates or values is not implemented for dynamic sizes.
    """
    coordinates = rule.coordinate_transformation_mode
    refuse_if(coordinates not in _COORDINATES, f"{coordinates} with dynamic sizes")
    refuse_if(rule.antialias, "antialias with dynamic sizes")
    sources = _COORDINATES[coordinates](torch.arange(a.wanted, dtype=torch.float32), a)
    if rule.mode == "nearest":
        refuse_if(rule.nearest_mode not in _ROUNDING, f"nearest_mode {rule.nearest_mode}")
        return torch.index_select(x, a.axis, _inside(_ROUNDING[rule.nearest_mode](sources), a))
    first = torch.floor(sources)
    offsets = (0, 1) if rule.mode == "linear" else (-1, 0, 1, 2)
    weights = [_weight(sources, first + offset, a, rule) for offset in offsets]
    parts = [
        torch.mul(torch.index_select(x, a.axis, _inside(first + offset, a)), _spread(weight.to(x.dtype), x, a))
        for offset, weight in zip(offsets, weights, strict=True)
    ]
    total = _sum(parts)
    if not rule.exclude_outside:
        return total
    return torch.div(total, _spread(_sum(weights).to(x.dtype), x, a))


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = torch.add(total, part)
    return total


def _inside(positions: Tensor, a: ResizedAxis) -> Tensor:
    return torch.clamp(positions.to(torch.int64), 0, a.size - 1)


def _spread(values: Tensor, x: Tensor, a: ResizedAxis) -> Tensor:
    """A vector along the axis, in a shape that broadcasts to x."""
    return torch.reshape(values, [-1 if axis == a.axis else 1 for axis in range(x.ndim)])


def _weight(sources: Tensor, taps: Tensor, a: ResizedAxis, rule: ResizeRule) -> Tensor:
    distance = torch.abs(torch.sub(sources, taps))
    weight = torch.clamp(1 - distance, 0.0, 1.0) if rule.mode == "linear" else _cubic(distance, rule.cubic_coeff_a)
    if not rule.exclude_outside:
        return weight
    outside = torch.logical_or(torch.lt(taps, 0), torch.ge(taps, a.size))
    return torch.where(outside, torch.zeros_like(weight), weight)


def _cubic(d: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution with parameter a."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    zero = torch.zeros_like(d)
    return torch.where(torch.le(d, 1), near, torch.where(torch.lt(d, 2), far, zero))
