"""Resizing by interpolation along each axis: coordinates and weights, as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hub_onnxgraph.errors import Refused, refuse_if
from hub_onnxgraph.table import Attributes

Array: TypeAlias = NDArray[np.floating[Any]]
Places: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ResizedAxis:
    """One resized axis: its sizes and the scale that its coordinates are computed with."""

    axis: int
    size: int
    wanted: int
    scale: float
    start: float = 0.0
    end: float = 1.0

    @property
    def is_whole(self) -> bool:
        """Whether no region of it is cut out."""
        return (self.start, self.end) == (0.0, 1.0)

    @property
    def unchanged(self) -> bool:
        """Whether the axis stays as it is."""
        return self.wanted == self.size and self.scale == 1 and self.is_whole

    @property
    def factor(self) -> int:
        """How many times its size the axis gets, where that is a whole number; else 0."""
        times = self.wanted // self.size
        return times if self.wanted % self.size == 0 and self.scale == times else 0


@dataclass(frozen=True, slots=True)
class ResizeRule(Attributes):
    """How values between the elements are found."""

    antialias: int = 0
    axes: list[int] | None = None
    coordinate_transformation_mode: str = "half_pixel"
    cubic_coeff_a: float = -0.75
    exclude_outside: int = 0
    extrapolation_value: float = 0.0
    keep_aspect_ratio_policy: str = "stretch"
    mode: str = "nearest"
    nearest_mode: str = "round_prefer_floor"

    @property
    def crops(self) -> bool:
        """Whether coordinates are those of a region of interest, and may lie outside of the input."""
        return self.coordinate_transformation_mode == "tf_crop_and_resize"


def first_form(mode: str) -> ResizeRule:
    """The rule of Upsample, and of Resize 10: asymmetric coordinates, rounded down."""
    return ResizeRule(mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")


def _half_pixel(x: Array, a: ResizedAxis) -> Array:
    return (x + x.dtype.type(0.5)) / x.dtype.type(a.scale) - x.dtype.type(0.5)


def _pytorch_half_pixel(x: Array, a: ResizedAxis) -> Array:
    return _half_pixel(x, a) if a.wanted > 1 else x * 0


def _half_pixel_symmetric(x: Array, a: ResizedAxis) -> Array:
    """Half pixel around the centre that the fractional output size scale * size would have."""
    adjustment = a.wanted / (a.scale * a.size)
    return _half_pixel(x, a) + x.dtype.type(a.size / 2 * (1 - adjustment))


def _align_corners(x: Array, a: ResizedAxis) -> Array:
    return x * 0 if a.wanted == 1 else x * x.dtype.type(a.size - 1) / x.dtype.type(a.wanted - 1)


def _asymmetric(x: Array, a: ResizedAxis) -> Array:
    return x / x.dtype.type(a.scale)


def _crop_and_resize(x: Array, a: ResizedAxis) -> Array:
    """TensorFlow's: corner to corner of the region of interest, or its centre for one element."""
    if a.wanted == 1:
        return x * 0 + x.dtype.type((a.start + a.end) * (a.size - 1) / 2)
    return x.dtype.type(a.start * (a.size - 1)) + x * x.dtype.type((a.end - a.start) * (a.size - 1) / (a.wanted - 1))


_COORDINATES: dict[str, Callable[[Array, ResizedAxis], Array]] = {
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "tf_crop_and_resize": _crop_and_resize,
}
_ROUNDING: dict[str, Callable[[Array], Array]] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "round_prefer_ceil": lambda x: np.floor(x + x.dtype.type(0.5)),
    "round_prefer_floor": lambda x: np.ceil(x - x.dtype.type(0.5)),
}


def sources(a: ResizedAxis, rule: ResizeRule) -> Array:
    """The input coordinate of each output element, in float32 as ONNX Runtime computes it."""
    mode = rule.coordinate_transformation_mode
    refuse_if(mode not in _COORDINATES, f"coordinate_transformation_mode {mode}")
    return _COORDINATES[mode](np.arange(a.wanted, dtype=np.float32), a)


def places(a: ResizedAxis, rule: ResizeRule) -> Places:
    """The element that each output element takes."""
    refuse_if(rule.nearest_mode not in _ROUNDING, f"nearest_mode {rule.nearest_mode}")
    return np.clip(_ROUNDING[rule.nearest_mode](sources(a, rule)), 0, a.size - 1).astype(np.int64)


def outside(a: ResizedAxis, rule: ResizeRule) -> Mask | None:
    """Which output elements lie outside of the input, where the rule says what they are; None when none does."""
    if not rule.crops:
        return None
    found = sources(a, rule)
    beyond = (found < 0) | (found > a.size - 1)
    return beyond if beyond.any() else None


def _cubic_kernel(distance: Array, a: float) -> Array:
    """Keys' cubic convolution with parameter a."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))  # noqa: PLR2004 - the kernel's own support


def matrix(a: ResizedAxis, rule: ResizeRule) -> Array:
    """The weights [wanted, size] of a linear or cubic interpolation along one axis."""
    centres = sources(a, rule).astype(np.float64)
    shrink = min(a.scale, 1.0) if rule.antialias else 1.0
    linear = rule.mode == "linear"
    reach = math.ceil((1 if linear else 2) / shrink)
    taps = np.floor(centres)[:, None].astype(np.int64) + np.arange(-reach, reach + 1)
    distance = (taps - centres[:, None]) * shrink
    weights = np.clip(1 - np.abs(distance), 0, 1) if linear else _cubic_kernel(distance, rule.cubic_coeff_a)
    if rule.exclude_outside:
        weights = np.where((taps < 0) | (taps >= a.size), 0, weights)
    weights = weights / weights.sum(axis=1, keepdims=True)
    made = np.zeros((a.wanted, a.size))
    np.add.at(made, (np.arange(a.wanted)[:, None], np.clip(taps, 0, a.size - 1)), weights)
    return made


def with_regions(axes: Sequence[ResizedAxis], roi: Sequence[float] | None) -> list[ResizedAxis]:
    """The axes with their regions of interest: all starts, then all ends."""
    if roi is None:
        raise Refused("tf_crop_and_resize without roi")
    return [replace(a, start=roi[i], end=roi[i + len(axes)]) for i, a in enumerate(axes)]


def to_sizes(
    axes: Sequence[int], have: Sequence[int], wanted: Sequence[int], ratios: Sequence[float], policy: str
) -> list[ResizedAxis]:
    """The axes with the wanted sizes; with those nearest to one scale of all where the aspect ratio is to be kept."""
    if policy == "stretch":
        return [ResizedAxis(*parts) for parts in zip(axes, have, wanted, ratios, strict=True)]
    refuse_if(policy not in {"not_larger", "not_smaller"}, f"keep_aspect_ratio_policy {policy}")
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [
        ResizedAxis(axis, size, math.floor(size * scale + 0.5), scale) for axis, size in zip(axes, have, strict=True)
    ]


def refuse_fractions(scale: float, size: int, rule: ResizeRule) -> None:
    """Refuse corners that are aligned by a scale that is not the ratio of the sizes."""
    fraction = scale != 1 and not (size * scale).is_integer()
    aligned = rule.coordinate_transformation_mode == "align_corners"
    refuse_if(fraction and aligned, f"align_corners with scale {scale}: runtimes disagree on it")
