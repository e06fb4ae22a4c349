"""Resizing by interpolation along each axis, at coordinates that are computed at import time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hub_keras.onnx_importer.applied import along, cast, is_float, number, size_of
from hub_keras.onnx_importer.dims import Array, OpenSize, Size
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import KerasValue, channels_last, ints, known
from hub_onnxgraph import Refused, refuse_if
from hub_onnxgraph.resize import (
    ResizedAxis,
    ResizeRule,
    first_form,
    matrix,
    outside,
    places,
    refuse_fractions,
    to_sizes,
    with_regions,
)
from hub_onnxgraph.tensors import positive_axes

_PICTURE = 4


@dataclass(frozen=True, slots=True)
class OpenAxis(ResizedAxis):
    """A whole number of times an open size, of which one element stands for all."""


def _along(x: KerasValue, a: ResizedAxis, rule: ResizeRule) -> KerasValue:
    """Resize one axis where it is stored."""
    where = x.axis(a.axis)
    if rule.mode == "nearest":
        return x.like(ops.take(x.tensor, places(a, rule).astype("int32"), axis=where), nonnegative=x.nonnegative)
    kind = x.dtype if is_float(x.dtype) else "float32"
    letters = "abcdefgh"[: x.ndim]
    result = letters.replace(letters[where], "z")
    weights = x.graph.constant(matrix(a, rule).astype(kind))
    made = ops.einsum(f"{letters},z{letters[where]}->{result}", cast(x.tensor, kind), weights)
    return x.like(made)


def _as_layer(x: KerasValue, axes: list[ResizedAxis], rule: ResizeRule) -> KerasValue | None:
    """An UpSampling2D layer where Keras means the same; None where it does not."""
    picture = x.ndim == _PICTURE and is_float(x.dtype) and all(a.axis > 1 for a in axes)
    if not picture or not all(a.factor for a in axes) or rule.antialias or rule.exclude_outside:
        return None
    coordinates = rule.coordinate_transformation_mode
    nearest = rule.mode == "nearest" and (coordinates, rule.nearest_mode) in {
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
    }
    if not nearest and (rule.mode, coordinates) != ("linear", "half_pixel"):
        return None
    factors = tuple(next((a.factor for a in axes if a.axis == axis), 1) for axis in (2, 3))
    order = channels_last(_PICTURE)
    mode = "nearest" if nearest else "bilinear"
    made = x.graph.layer("UpSampling2D", x.stored(order), size=factors, interpolation=mode, data_format="channels_last")
    for axis, factor in zip((2, 3), factors, strict=True):
        x.graph.declare(made, order.index(axis), x.sizes[axis] * factor)
    return x.made(made, order, nonnegative=x.nonnegative)


def _resize(x: KerasValue, axes: list[ResizedAxis], rule: ResizeRule) -> KerasValue:
    refuse_if(rule.mode not in {"nearest", "linear", "cubic"}, f"mode {rule.mode}")
    axes = [a for a in axes if not a.unchanged]
    layer = _as_layer(x, axes, rule) if axes else x
    if layer is not None:
        return layer
    for a in axes:
        by = rule.coordinate_transformation_mode
        refuse_if(isinstance(a, OpenAxis), f"{rule.mode} resizing, by {by}, of the open size {x.sizes[a.axis]}")
    dtype = x.dtype
    for a in axes:
        x = _along(x, a, rule)
    refuse_if(x.dtype != dtype, f"{rule.mode} interpolation of {dtype}")
    return _extrapolated(x, axes, rule)


def _extrapolated(x: KerasValue, axes: list[ResizedAxis], rule: ResizeRule) -> KerasValue:
    """Put the given value where tf_crop_and_resize looks outside of the input."""
    for a in axes:
        mask = outside(a, rule)
        if mask is not None:
            value = np.asarray(rule.extrapolation_value, x.dtype)
            x = x.like(ops.where(along(mask, x.axis(a.axis), x.ndim), value, x.tensor))
    return x


def _at_open(axis: int, times: int) -> list[ResizedAxis]:
    return [] if times == 1 else [OpenAxis(axis, 1, times, times)]


def _by_scales(x: KerasValue, axes: list[int], scales: list[float], rule: ResizeRule) -> list[ResizedAxis]:
    made = []
    for axis, scale in zip(axes, scales, strict=True):
        if x.shape[axis] is None and float(scale).is_integer() and scale > 0:
            made += _at_open(axis, int(scale))
            continue
        size = size_of(x, axis, "Resize")
        refuse_fractions(scale, size, rule)
        made.append(ResizedAxis(axis, size, math.floor(size * scale), scale))
    return made


def _by_sizes(x: KerasValue, axes: list[int], sizes: list[Size], policy: str) -> list[ResizedAxis]:
    pairs = [(axis, wanted) for axis, wanted in zip(axes, sizes, strict=True) if isinstance(wanted, int)]
    unknown = [(axis, wanted) for axis, wanted in zip(axes, sizes, strict=True) if isinstance(wanted, OpenSize)]
    times: dict[int, int] = {}
    for axis, wanted in unknown:
        found = wanted // x.sizes[axis] if x.shape[axis] is None else wanted
        if isinstance(found, OpenSize):
            raise Refused(f"axis {axis} of size {x.sizes[axis]} to {wanted}; {wanted.advice}")
        times[axis] = found
    refuse_if(unknown and policy != "stretch", f"keep_aspect_ratio_policy {policy} of open sizes")
    opened = [made for axis, _ in unknown for made in _at_open(axis, times[axis])]
    have = [size_of(x, axis, "Resize") for axis, _ in pairs]
    ratios = [number(wanted, "a size") / size for (_, wanted), size in zip(pairs, have, strict=True)]
    return opened + to_sizes([axis for axis, _ in pairs], have, [wanted for _, wanted in pairs], ratios, policy)


@op("Upsample", 7)
def upsample_attribute(x: KerasValue, *, scales: list[float], mode: str = "nearest") -> KerasValue:
    """Scales as an attribute."""
    return resize_10(x, np.asarray(scales, "float32"), mode=mode)


@op("Upsample", 9)
@op("Resize", 10)
def resize_10(x: KerasValue, scales: Array, *, mode: str = "nearest") -> KerasValue:
    """The first forms."""
    rule = first_form(mode)
    return _resize(x, _by_scales(x, list(range(x.ndim)), known(scales, "scales"), rule), rule)


@op("Resize", 11, 13, 18, 19)
def resize(
    x: KerasValue,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
    *,
    rule: ResizeRule,
) -> KerasValue:
    """By sizes or by scales; roi and extrapolation_value are for tf_crop_and_resize alone."""
    axes = list(range(x.ndim)) if rule.axes is None else positive_axes(rule.axes, x.ndim)
    if sizes is not None and math.prod(sizes.shape):
        resized = _by_sizes(x, axes, ints(sizes, "sizes"), rule.keep_aspect_ratio_policy)
    else:
        if scales is None:
            raise Refused("neither scales nor sizes")
        resized = _by_scales(x, axes, known(scales, "scales"), rule)
    if rule.crops:
        resized = with_regions(resized, None if roi is None else known(roi, "roi"))
    return _resize(x, resized, rule)
