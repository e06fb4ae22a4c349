"""Resizing of images by interpolation along each axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hub_onnxgraph import refuse_if
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
from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.ops import resize_dynamic
from hub_pytorch.onnx_importer.registry import op
from hub_pytorch.onnx_importer.sizes import certain, is_int, plain
from hub_pytorch.onnx_importer.values import ints, known

if TYPE_CHECKING:
    from torch import Tensor


def _fixed(a: ResizedAxis) -> bool:
    """Whether nothing of an axis is dynamic."""
    return is_int(a.size) and is_int(a.wanted)


def _factor(a: ResizedAxis) -> int:
    """How many times its size an axis gets, where that is a whole number at any size; else 0."""
    if _fixed(a):
        return a.factor
    whole = is_int(a.scale) and float(a.scale).is_integer()
    return int(a.scale) if whole and certain(a.wanted == a.size * int(a.scale)) else 0


def _exact(a: ResizedAxis) -> bool:
    """Whether the scale is the ratio of the sizes, and not only near it."""
    if _fixed(a):
        return bool(a.scale * a.size == a.wanted)
    return not is_int(a.scale) or _factor(a) > 0


def _along(x: Tensor, a: ResizedAxis, rule: ResizeRule) -> Tensor:
    """Resize one axis."""
    if not _fixed(a):
        return resize_dynamic.along(x, a, rule)
    if rule.mode == "nearest":
        return torch.index_select(x, a.axis, torch.from_numpy(places(a, rule)))
    weights = torch.from_numpy(matrix(a, rule).T.astype("float32")).to(x.dtype)
    last = x.ndim - 1
    if a.axis == last:
        return torch.matmul(x, weights)
    return torch.transpose(torch.matmul(torch.transpose(x, a.axis, last), weights), a.axis, last)


def _by_torch(x: Tensor, axes: list[ResizedAxis], rule: ResizeRule) -> Tensor | None:
    """The same by torch's interpolate, where it means the same; None where it does not."""
    sizes = [next((a.wanted for a in axes if a.axis == i), x.shape[i]) for i in range(2, x.ndim)]
    spatial = 3 <= x.ndim <= 5 and all(a.axis > 1 for a in axes)  # noqa: PLR2004 - NCL, NCHW, NCDHW
    if not spatial or not x.dtype.is_floating_point or rule.antialias:
        return None
    coordinates = rule.coordinate_transformation_mode
    if rule.mode == "nearest":
        whole = all(_factor(a) > 0 for a in axes)
        same = (coordinates, rule.nearest_mode) in {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")}
        return functional.interpolate(x, sizes, mode="nearest") if whole and same else None
    if (
        rule.mode != "linear"
        or rule.exclude_outside
        or not all(map(_exact, axes))
        or coordinates not in {"half_pixel", "align_corners"}
    ):
        return None
    mode = ("linear", "bilinear", "trilinear")[x.ndim - 3]
    return functional.interpolate(x, sizes, mode=mode, align_corners=coordinates == "align_corners")


def _resize(x: Tensor, axes: list[ResizedAxis], rule: ResizeRule) -> Tensor:
    refuse_if(rule.mode not in {"nearest", "linear", "cubic"}, f"mode {rule.mode}")
    axes = [
        a
        for a in axes
        if not (bool(certain(a.wanted == a.size)) and (not is_int(a.scale) or a.scale == 1) and a.is_whole)
    ]
    native = _by_torch(x, axes, rule) if axes else x
    if native is not None:
        return native
    for a in axes:
        x = _along(x, a, rule)
    for a in axes:
        mask = outside(a, rule)
        if mask is not None:
            inside = torch.reshape(torch.from_numpy(~mask), [-1 if i == a.axis else 1 for i in range(x.ndim)])
            x = torch.where(inside, x, rule.extrapolation_value)
    return x


def _by_scales(x: Tensor, axes: list[int], scales: list[float], rule: ResizeRule) -> list[ResizedAxis]:
    made = []
    for axis, scale in zip(axes, scales, strict=True):
        size = x.shape[axis]
        refuse_fractions(scale, size if is_int(size) else 1, rule)
        made.append(ResizedAxis(axis, size, _scaled(size, scale), scale))
    return made


_MOST_EXACT = 64  # a float32 times a fraction of such a divisor is exact up to sizes of 2 ** 18


def _scaled(size: int, scale: float) -> int:
    """The size times the scale, rounded down."""
    if is_int(size):
        return math.floor(size * scale)
    above, below = scale.as_integer_ratio()
    refuse_if(below > _MOST_EXACT, f"scale {scale} of a dynamic size")
    wanted: int = plain(size * above // below)
    return wanted


def _by_sizes(x: Tensor, axes: list[int], sizes: list[int], policy: str) -> list[ResizedAxis]:
    have = [x.shape[axis] for axis in axes]
    pairs = zip(sizes, have, strict=True)
    ratios = [new / old if is_int(new) and is_int(old) else torch.sym_float(new) / old for new, old in pairs]
    fixed = policy == "stretch" or all(map(is_int, ratios))
    refuse_if(not fixed, f"keep_aspect_ratio_policy {policy} of dynamic sizes")
    return to_sizes(axes, have, sizes, ratios, policy)


@op("Upsample", 9)
@op("Resize", 10)
def resize_10(x: Tensor, scales: Tensor, *, mode: str = "nearest") -> Tensor:
    """The first forms."""
    rule = first_form(mode)
    return _resize(x, _by_scales(x, list(range(x.ndim)), known(scales, "scales"), rule), rule)


@op("Resize", 11, 13, 18, 19)
def resize(
    x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None, *, rule: ResizeRule
) -> Tensor:
    """By sizes or by scales; roi and extrapolation_value are for tf_crop_and_resize alone."""
    axes = list(range(x.ndim)) if rule.axes is None else positive_axes(rule.axes, x.ndim)
    if sizes is not None and 0 not in sizes.shape:
        resized = _by_sizes(x, axes, ints(sizes, "sizes"), rule.keep_aspect_ratio_policy)
    else:
        refuse_if(scales is None, "neither scales nor sizes")
        resized = _by_scales(x, axes, known(scales, "scales"), rule)
    if rule.crops:
        resized = with_regions(resized, None if roi is None else known(roi, "roi"))
    return _resize(x, resized, rule)
