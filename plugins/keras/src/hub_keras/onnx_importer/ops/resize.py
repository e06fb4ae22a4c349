"""Resizing by interpolation along each axis, at coordinates that are computed at import time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hub_keras.onnx_importer.applied import along, cast, is_float, number, size_of
from hub_keras.onnx_importer.dims import Dim
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Value, channels_last, ints, known, positive_axes
from hub_onnxgraph import refuse_if

Array = Any
_PICTURE = 4


@dataclass(frozen=True, slots=True)
class Axis:
    """One resized axis: its sizes and the scale that its coordinates are computed with."""

    axis: int
    size: int
    wanted: int
    scale: float
    start: float = 0.0
    end: float = 1.0
    is_open: bool = False

    @property
    def unchanged(self) -> bool:
        """Whether the axis stays as it is."""
        return self.wanted == self.size and self.scale == 1 and (self.start, self.end) == (0.0, 1.0)

    @property
    def factor(self) -> int:
        """How many times its size the axis gets, where that is a whole number; else 0."""
        times = self.wanted // self.size
        return times if self.wanted % self.size == 0 and self.scale == times else 0


@dataclass(frozen=True, slots=True)
class Rule:
    """How values between the elements are found."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float = -0.75
    exclude_outside: bool = False
    outside: float = 0.0
    antialias: bool = False


def _half_pixel(x: Array, a: Axis) -> Array:
    return (x + x.dtype.type(0.5)) / x.dtype.type(a.scale) - x.dtype.type(0.5)


def _pytorch_half_pixel(x: Array, a: Axis) -> Array:
    return _half_pixel(x, a) if a.wanted > 1 else x * 0


def _half_pixel_symmetric(x: Array, a: Axis) -> Array:
    """Half pixel around the centre that the fractional output size scale * size would have."""
    adjustment = a.wanted / (a.scale * a.size)
    return _half_pixel(x, a) + x.dtype.type(a.size / 2 * (1 - adjustment))


def _align_corners(x: Array, a: Axis) -> Array:
    return x * 0 if a.wanted == 1 else x * x.dtype.type(a.size - 1) / x.dtype.type(a.wanted - 1)


def _asymmetric(x: Array, a: Axis) -> Array:
    return x / x.dtype.type(a.scale)


def _crop_and_resize(x: Array, a: Axis) -> Array:
    """TensorFlow's: corner to corner of the region of interest, or its centre for one element."""
    if a.wanted == 1:
        return x * 0 + x.dtype.type((a.start + a.end) * (a.size - 1) / 2)
    return x.dtype.type(a.start * (a.size - 1)) + x * x.dtype.type((a.end - a.start) * (a.size - 1) / (a.wanted - 1))


_COORDINATES: dict[str, Callable[[Array, Axis], Array]] = {
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "tf_crop_and_resize": _crop_and_resize,
}
_ROUNDING: dict[str, Callable[[Array], Array]] = {
    "ceil": lambda x: np.ceil(x),  # noqa: PLW0108 - numpy is imported on first use
    "floor": lambda x: np.floor(x),  # noqa: PLW0108 - as above
    "round_prefer_ceil": lambda x: np.floor(x + x.dtype.type(0.5)),
    "round_prefer_floor": lambda x: np.ceil(x - x.dtype.type(0.5)),
}


def _sources(a: Axis, rule: Rule) -> Array:
    """The input coordinate of each output element, in float32 as ONNX Runtime computes it."""
    refuse_if(rule.coordinates not in _COORDINATES, f"coordinate_transformation_mode {rule.coordinates}")
    return _COORDINATES[rule.coordinates](np.arange(a.wanted, dtype="float32"), a)


def _places(a: Axis, rule: Rule) -> Array:
    """The element that each output element takes."""
    refuse_if(rule.nearest not in _ROUNDING, f"nearest_mode {rule.nearest}")
    return np.clip(_ROUNDING[rule.nearest](_sources(a, rule)), 0, a.size - 1).astype("int32")


def _cubic_kernel(distance: Array, a: float) -> Array:
    """Keys' cubic convolution with parameter a."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))  # noqa: PLR2004 - the kernel's own support


def _matrix(a: Axis, rule: Rule) -> Array:
    """The weights [wanted, size] of a linear or cubic interpolation along one axis."""
    sources = _sources(a, rule).astype("float64")
    shrink = min(a.scale, 1.0) if rule.antialias else 1.0
    reach = math.ceil((1 if rule.mode == "linear" else 2) / shrink)
    taps = np.floor(sources)[:, None].astype("int64") + np.arange(-reach, reach + 1)
    distance = (taps - sources[:, None]) * shrink
    linear = rule.mode == "linear"
    weights = np.clip(1 - np.abs(distance), 0, 1) if linear else _cubic_kernel(distance, rule.cubic)
    if rule.exclude_outside:
        weights = np.where((taps < 0) | (taps >= a.size), 0, weights)
    weights = weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((a.wanted, a.size))
    np.add.at(matrix, (np.arange(a.wanted)[:, None], np.clip(taps, 0, a.size - 1)), weights)
    return matrix


def _along(x: Value, a: Axis, rule: Rule) -> Value:
    """Resize one axis where it is stored."""
    where = x.axis(a.axis)
    if rule.mode == "nearest":
        return x.like(ops.take(x.tensor, _places(a, rule), axis=where), nonnegative=x.nonnegative)
    kind = x.dtype if is_float(x.dtype) else "float32"
    letters = "abcdefgh"[: x.ndim]
    result = letters.replace(letters[where], "z")
    matrix = x.graph.constant(_matrix(a, rule).astype(kind))
    made = ops.einsum(f"{letters},z{letters[where]}->{result}", cast(x.tensor, kind), matrix)
    return x.like(made)


def _as_layer(x: Value, axes: list[Axis], rule: Rule) -> Value | None:
    """An UpSampling2D layer where Keras means the same; None where it does not."""
    picture = x.ndim == _PICTURE and is_float(x.dtype) and all(a.axis > 1 for a in axes)
    if not picture or not all(a.factor for a in axes) or rule.antialias or rule.exclude_outside:
        return None
    nearest = rule.mode == "nearest" and (rule.coordinates, rule.nearest) in {
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
    }
    if not nearest and (rule.mode, rule.coordinates) != ("linear", "half_pixel"):
        return None
    factors = tuple(next((a.factor for a in axes if a.axis == axis), 1) for axis in (2, 3))
    order = channels_last(_PICTURE)
    mode = "nearest" if nearest else "bilinear"
    made = x.graph.layer("UpSampling2D", x.stored(order), size=factors, interpolation=mode, data_format="channels_last")
    for axis, factor in zip((2, 3), factors, strict=True):
        x.graph.declare(made, order.index(axis), x.sizes[axis] * factor)
    return x.made(made, order, nonnegative=x.nonnegative)


def _resize(x: Value, axes: list[Axis], rule: Rule) -> Value:
    refuse_if(rule.mode not in {"nearest", "linear", "cubic"}, f"mode {rule.mode}")
    axes = [a for a in axes if not a.unchanged]
    layer = _as_layer(x, axes, rule) if axes else x
    if layer is not None:
        return layer
    for a in axes:
        size = x.sizes[a.axis]
        refuse_if(a.is_open, f"{rule.mode} resizing, by {rule.coordinates}, of the open size {size}")
    dtype = x.dtype
    for a in axes:
        x = _along(x, a, rule)
    refuse_if(x.dtype != dtype, f"{rule.mode} interpolation of {dtype}")
    return _extrapolated(x, axes, rule)


def _extrapolated(x: Value, axes: list[Axis], rule: Rule) -> Value:
    """Put the given value where tf_crop_and_resize looks outside of the input."""
    if rule.coordinates != "tf_crop_and_resize":
        return x
    for a in axes:
        sources = _sources(a, rule)
        inside = (sources >= 0) & (sources <= a.size - 1)
        if not inside.all():
            mask = along(inside, x.axis(a.axis), x.ndim)
            x = x.like(ops.where(mask, x.tensor, np.asarray(rule.outside, x.dtype)))
    return x


def _with_regions(axes: list[Axis], roi: Any) -> list[Axis]:
    """The axes with their regions of interest: all starts, then all ends."""
    refuse_if(roi is None, "tf_crop_and_resize without roi")
    ends = known(roi, "roi")
    return [replace(a, start=ends[i], end=ends[i + len(axes)]) for i, a in enumerate(axes)]


def _at_open(axis: int, times: int) -> list[Axis]:
    """A whole number of times an open size, of which one element stands for all."""
    return [] if times == 1 else [Axis(axis, 1, times, times, is_open=True)]


def _by_scales(x: Value, axes: list[int], scales: list[float], coordinates: str) -> list[Axis]:
    made = []
    for axis, scale in zip(axes, scales, strict=True):
        if x.shape[axis] is None and float(scale).is_integer() and scale > 0:
            made += _at_open(axis, int(scale))
            continue
        size = size_of(x, axis, "Resize")
        broken = scale != 1 and not (size * scale).is_integer()
        refuse_if(broken and coordinates == "align_corners", f"align_corners with scale {scale}: runtimes disagree")
        made.append(Axis(axis, size, math.floor(size * scale), scale))
    return made


def _by_sizes(x: Value, axes: list[int], sizes: list[Any], policy: str) -> list[Axis]:
    pairs = [(axis, wanted) for axis, wanted in zip(axes, sizes, strict=True) if isinstance(wanted, int)]
    unknown = [(axis, wanted) for axis, wanted in zip(axes, sizes, strict=True) if isinstance(wanted, Dim)]
    times: dict[int, Any] = {}
    for axis, wanted in unknown:
        times[axis] = wanted // x.sizes[axis] if x.shape[axis] is None else wanted
        refuse_if(not isinstance(times[axis], int), f"axis {axis} of size {x.sizes[axis]} to {wanted}; {wanted.advice}")
    refuse_if(unknown and policy != "stretch", f"keep_aspect_ratio_policy {policy} of open sizes")
    opened = [made for axis, _ in unknown for made in _at_open(axis, times[axis])]
    have = {axis: size_of(x, axis, "Resize") for axis, _ in pairs}
    ratios = [number(wanted, "a size") / have[axis] for axis, wanted in pairs]
    if policy == "stretch":
        return opened + [Axis(axis, have[axis], wanted, r) for (axis, wanted), r in zip(pairs, ratios, strict=True)]
    refuse_if(policy not in {"not_larger", "not_smaller"}, f"keep_aspect_ratio_policy {policy}")
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [Axis(axis, have[axis], math.floor(have[axis] * scale + 0.5), scale) for axis, _ in pairs]


@op("Upsample", 7)
def upsample_attribute(x: Value, *, scales: list[float], mode: str = "nearest") -> Any:
    """Scales as an attribute."""
    return resize_10(x, np.asarray(scales, "float32"), mode=mode)


@op("Upsample", 9)
@op("Resize", 10)
def resize_10(x: Value, scales: Any, *, mode: str = "nearest") -> Value:
    """The first forms: asymmetric coordinates, rounded down."""
    axes = _by_scales(x, list(range(x.ndim)), known(scales, "scales"), "asymmetric")
    return _resize(x, axes, Rule(mode, "asymmetric", "floor"))


@op("Resize", 11, 13)
@op("Resize", 18, 19)
def resize(  # noqa: PLR0913 - the operator's own parameters
    x: Value,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    antialias: int = 0,
    axes: list[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Value:
    """By sizes or by scales; roi and extrapolation_value are for tf_crop_and_resize alone."""
    chosen = list(range(x.ndim)) if axes is None else positive_axes(axes, x.ndim)
    rule = Rule(
        mode=mode,
        coordinates=coordinate_transformation_mode,
        nearest=nearest_mode,
        cubic=cubic_coeff_a,
        exclude_outside=bool(exclude_outside),
        outside=extrapolation_value,
        antialias=bool(antialias),
    )
    refuse_if(sizes is None and scales is None, "neither scales nor sizes")
    if sizes is not None and math.prod(sizes.shape):
        resized = _by_sizes(x, chosen, ints(sizes, "sizes"), keep_aspect_ratio_policy)
    else:
        resized = _by_scales(x, chosen, known(scales, "scales"), rule.coordinates)
    cropped = coordinate_transformation_mode == "tf_crop_and_resize"
    return _resize(x, _with_regions(resized, roi) if cropped else resized, rule)
