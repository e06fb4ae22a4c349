"""Resizing of images by interpolation along each axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hub_onnxgraph import refuse_if
from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.ops import resize_dynamic
from hub_pytorch.onnx_importer.registry import op
from hub_pytorch.onnx_importer.sizes import certain, is_int, plain
from hub_pytorch.onnx_importer.values import ints, known, positive_axes

if TYPE_CHECKING:
    from torch import Tensor

Array = Any  # a numpy array; numpy is imported where it is used


@dataclass(frozen=True, slots=True)
class Axis:
    """One resized axis: its sizes and the scale that its coordinates are computed with. Sizes may be dynamic."""

    axis: int
    size: Any
    wanted: Any
    scale: Any
    start: float = 0.0
    end: float = 1.0

    @property
    def fixed(self) -> bool:
        """Whether nothing of it is dynamic."""
        return is_int(self.size) and is_int(self.wanted)

    @property
    def factor(self) -> int | None:
        """How many times its size the axis gets, where that is a whole number at any size."""
        if self.fixed:
            whole = self.wanted % self.size == 0 and self.scale == self.wanted // self.size
            return self.wanted // self.size if whole else None
        whole = is_int(self.scale) and float(self.scale).is_integer()
        return int(self.scale) if whole and certain(self.wanted == self.size * int(self.scale)) else None

    @property
    def exact(self) -> bool:
        """Whether the scale is the ratio of the sizes, and not only near it."""
        if self.fixed:
            return bool(self.scale * self.size == self.wanted)
        return not is_int(self.scale) or self.factor is not None

    @property
    def unchanged(self) -> bool:
        """Whether the axis stays as it is."""
        same = certain(self.wanted == self.size) and (not is_int(self.scale) or self.scale == 1)
        return bool(same) and (self.start, self.end) == (0.0, 1.0)


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


def _sources(a: Axis, rule: Rule) -> Array:
    """The input coordinate of each output element, in float32 as ONNX Runtime computes it."""
    import numpy as np

    refuse_if(rule.coordinates not in _COORDINATES, f"coordinate_transformation_mode {rule.coordinates}")
    return _COORDINATES[rule.coordinates](np.arange(a.wanted, dtype=np.float32), a)


def _nearest(x: Array, rounding: str) -> Array:
    import numpy as np

    half = x.dtype.type(0.5)
    rounded = {
        "ceil": lambda: np.ceil(x),
        "floor": lambda: np.floor(x),
        "round_prefer_ceil": lambda: np.floor(x + half),
        "round_prefer_floor": lambda: np.ceil(x - half),
    }
    refuse_if(rounding not in rounded, f"nearest_mode {rounding}")
    return rounded[rounding]().astype(np.int64)


def _linear_kernel(distance: Array) -> Array:
    import numpy as np

    return np.clip(1 - np.abs(distance), 0, 1)


def _cubic_kernel(distance: Array, a: float) -> Array:
    """Keys' cubic convolution with parameter a."""
    import numpy as np

    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))  # noqa: PLR2004 - the kernel's own support


def _matrix(a: Axis, rule: Rule) -> Array:
    """The weights [wanted, size] of a linear or cubic interpolation along one axis."""
    import numpy as np

    sources = _sources(a, rule).astype(np.float64)
    shrink = min(a.scale, 1.0) if rule.antialias else 1.0
    reach = math.ceil((1 if rule.mode == "linear" else 2) / shrink)
    taps = np.floor(sources)[:, None].astype(np.int64) + np.arange(-reach, reach + 1)
    distance = (taps - sources[:, None]) * shrink
    weights = _linear_kernel(distance) if rule.mode == "linear" else _cubic_kernel(distance, rule.cubic)
    if rule.exclude_outside:
        weights = np.where((taps < 0) | (taps >= a.size), 0, weights)
    weights = weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((a.wanted, a.size))
    np.add.at(matrix, (np.arange(a.wanted)[:, None], np.clip(taps, 0, a.size - 1)), weights)
    return matrix


def _along(x: Tensor, a: Axis, rule: Rule) -> Tensor:
    """Resize one axis."""
    if not a.fixed:
        return resize_dynamic.along(x, a, rule)
    import numpy as np

    if rule.mode == "nearest":
        index = np.clip(_nearest(_sources(a, rule), rule.nearest), 0, a.size - 1)
        return torch.index_select(x, a.axis, torch.from_numpy(index))
    matrix = torch.from_numpy(_matrix(a, rule).T.astype(np.float32)).to(x.dtype)
    last = x.ndim - 1
    if a.axis == last:
        return torch.matmul(x, matrix)
    return torch.transpose(torch.matmul(torch.transpose(x, a.axis, last), matrix), a.axis, last)


def _by_torch(x: Tensor, axes: list[Axis], rule: Rule) -> Tensor | None:
    """The same by torch's interpolate, where it means the same; None where it does not."""
    sizes = [next((a.wanted for a in axes if a.axis == i), x.shape[i]) for i in range(2, x.ndim)]
    spatial = 3 <= x.ndim <= 5 and all(a.axis > 1 for a in axes)  # noqa: PLR2004 - NCL, NCHW, NCDHW
    if not spatial or not x.dtype.is_floating_point or rule.antialias:
        return None
    if rule.mode == "nearest":
        whole = all(a.factor is not None for a in axes)
        same = (rule.coordinates, rule.nearest) in {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")}
        return functional.interpolate(x, sizes, mode="nearest") if whole and same else None
    if (
        rule.mode != "linear"
        or rule.exclude_outside
        or not all(a.exact for a in axes)
        or rule.coordinates not in {"half_pixel", "align_corners"}
    ):
        return None
    mode = ("linear", "bilinear", "trilinear")[x.ndim - 3]
    return functional.interpolate(x, sizes, mode=mode, align_corners=rule.coordinates == "align_corners")


def _resize(x: Tensor, axes: list[Axis], rule: Rule) -> Tensor:
    refuse_if(rule.mode not in {"nearest", "linear", "cubic"}, f"mode {rule.mode}")
    axes = [a for a in axes if not a.unchanged]
    native = _by_torch(x, axes, rule) if axes else x
    if native is not None:
        return native
    for a in axes:
        x = _along(x, a, rule)
    return _extrapolated(x, axes, rule)


def _extrapolated(x: Tensor, axes: list[Axis], rule: Rule) -> Tensor:
    """Put the given value where tf_crop_and_resize looks outside of the input."""
    if rule.coordinates != "tf_crop_and_resize":
        return x
    for a in axes:
        refuse_if(not a.fixed, "tf_crop_and_resize of dynamic sizes")
        sources = _sources(a, rule)
        inside = torch.from_numpy((sources >= 0) & (sources <= a.size - 1))
        if not bool(inside.all()):
            shape = [-1 if i == a.axis else 1 for i in range(x.ndim)]
            x = torch.where(torch.reshape(inside, shape), x, rule.outside)
    return x


def _with_regions(axes: list[Axis], roi: Tensor | None) -> list[Axis]:
    """The axes with their regions of interest: all starts, then all ends."""
    refuse_if(roi is None, "tf_crop_and_resize without roi")
    ends = known(roi, "roi")
    return [replace(a, start=ends[i], end=ends[i + len(axes)]) for i, a in enumerate(axes)]


def _by_scales(x: Tensor, axes: list[int], scales: list[float], coordinates: str) -> list[Axis]:
    pairs = [(x.shape[axis], scale) for axis, scale in zip(axes, scales, strict=True)]
    broken = [s for size, s in pairs if s != 1 and not (is_int(size) and (size * s).is_integer())]
    refuse_if(broken and coordinates == "align_corners", f"align_corners with scales {broken}: runtimes disagree on it")
    return [Axis(axis, size, _scaled(size, scale), scale) for axis, (size, scale) in zip(axes, pairs, strict=True)]


_MOST_EXACT = 64  # a float32 times a fraction of such a divisor is exact up to sizes of 2 ** 18


def _scaled(size: Any, scale: float) -> Any:
    """The size times the scale, rounded down."""
    if is_int(size):
        return math.floor(size * scale)
    above, below = scale.as_integer_ratio()
    refuse_if(below > _MOST_EXACT, f"scale {scale} of a dynamic size")
    return plain(size * above // below)


def _by_sizes(x: Tensor, axes: list[int], sizes: list[Any], policy: str) -> list[Axis]:
    pairs = [(size, x.shape[axis]) for axis, size in zip(axes, sizes, strict=True)]
    ratios = [size / have if is_int(size) and is_int(have) else torch.sym_float(size) / have for size, have in pairs]
    if policy == "stretch":
        return [Axis(axis, x.shape[axis], s, r) for axis, s, r in zip(axes, sizes, ratios, strict=True)]
    refuse_if(policy not in {"not_larger", "not_smaller"}, f"keep_aspect_ratio_policy {policy}")
    refuse_if(not all(map(is_int, ratios)), f"keep_aspect_ratio_policy {policy} of dynamic sizes")
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [Axis(axis, x.shape[axis], math.floor(x.shape[axis] * scale + 0.5), scale) for axis in axes]


@op("Upsample", 9)
@op("Resize", 10)
def resize_10(x: Tensor, scales: Tensor, *, mode: str = "nearest") -> Tensor:
    """The first forms: asymmetric coordinates, rounded down."""
    return _resize(
        x, _by_scales(x, list(range(x.ndim)), known(scales, "scales"), "asymmetric"), Rule(mode, "asymmetric", "floor")
    )


@op("Resize", 11, 13)
@op("Resize", 18, 19)
def resize(  # noqa: PLR0913 - the operator's own parameters
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
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
) -> Tensor:
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
