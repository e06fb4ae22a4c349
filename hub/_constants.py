"""Constants of a result held against the float model's: by the steps of their grids, and what is added by means."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hub._counterparts import ADDS, LayerPair, SharedConstant, Stored
from hub._layer_bounds import LocalBounds
from hub.spec import LayerParity

if TYPE_CHECKING:
    import numpy.typing as npt

    Reals = npt.NDArray[np.float64]

MOST_EXCESS = 1e6
BIAS_SHARE = 0.2
"""Of a layer's mean signal, by which another bias may move its means away from the float model's."""

_HUGE = 1e4
"""What stands for minus infinity in masks, which a narrower type keeps as its own largest number."""

_INT4_LEVELS = 8
_INT32_END = 2**31 - 3
_BYTE_LEVELS = 255
_BIAS_SLOT = 2  # of convolutions and products that add one themselves


def judge_constant(
    pair: LayerPair, item: SharedConstant, stored: tuple[Stored, Stored], bounds: LocalBounds
) -> LayerParity:
    """Hold a constant against the float model's: by the steps of its grid, or the rounding of its type."""
    other = stored[1][item.name]
    one = item.there(stored[0][item.float_name].values, other.values.shape)
    alike = (one == other.values) | ((np.abs(one) > _HUGE) & (np.abs(other.values) > _HUGE) & (one * other.values > 0))
    off = np.abs(np.where(alike, 0, one) - np.where(alike, 0, other.values))
    on_grid = bool(other.step.any())
    rounding = np.abs(np.where(alike, 0, one)) * (1e-6 if on_grid else bounds.relative) + bounds.smallest
    step = np.abs(other.step)  # a scale may be negative, and then it is no grid of its own
    step = np.where(step > 0, step, np.inf)
    levels = np.nan_to_num(other.values, posinf=0, neginf=0) / step
    over = np.maximum(off - rounding - np.abs(levels) * bounds.scale_smallest, 0)
    failures: tuple[str, ...] = ()
    steps = excess = 0.0
    if on_grid:
        by_channel = other.step.shape if other.step.ndim == levels.ndim else (1,) * levels.ndim
        rest = tuple(place for place, size in enumerate(by_channel) if size == 1)
        least, most = levels.min(axis=rest, keepdims=True), levels.max(axis=rest, keepdims=True)
        beyond = ((levels > most - 1.5) & (one > other.values)) | ((levels < least + 1.5) & (one < other.values))
        narrow = np.maximum(np.abs(least), np.abs(most)) <= _BYTE_LEVELS  # what int32 holds it does not cut off
        ends = ((most > least) & narrow) | (np.abs(levels) > _INT32_END)  # a single number is no end of anything
        cut = beyond & ends & (one * other.values > 0) & (np.abs(one) > np.abs(other.values))
        cut_power = float(np.square(off[cut]).sum()) / (float(np.square(one).sum()) or 1.0)
        in_steps = over / step
        steps = float(np.max(in_steps, where=~cut, initial=0))
        share = float(np.mean((in_steps > bounds.constant_steps) & ~cut))
        excess = steps / bounds.constant_steps
        if steps > bounds.constant_steps:
            failures += (f"{share:.1%} of its values are up to {steps:.1f} steps off; rounding is half a step",)
        if np.abs(levels).max() > _INT4_LEVELS:
            excess = max(excess, (cut_power / bounds.cut_noise) ** 0.5)
        if cut_power > bounds.cut_noise and np.abs(levels).max() > _INT4_LEVELS:  # four bits are cut off on purpose
            failures += (f"its grid cuts off {cut_power:.1%} of its power",)
    else:
        excess = float(np.max(off / rounding, initial=0))
    if not on_grid and over.any():
        failures = (f"off by up to {off.max():.3g}, its largest value is {np.abs(one).max():.3g}",)
    return LayerParity(
        layer=pair.layer.name,
        operator=pair.layer.operator,
        tensor=item.float_name,
        what="constant",
        steps=steps,
        excess=min(MOST_EXCESS, excess),
        failures=failures,
    )


def _adds(pair: LayerPair, item: SharedConstant) -> bool:
    """Whether a constant is what a layer adds."""
    return pair.layer.operator in ADDS or (
        item.read.result == pair.float_layer.outputs[0] and item.read.slot == _BIAS_SLOT
    )


def with_moved_biases(
    found: Sequence[LayerParity],
    shared: Sequence[tuple[LayerPair, SharedConstant]],
    stored: tuple[Stored, Stored],
    means: "Callable[[Sequence[LayerPair]], dict[str, tuple[Reals, Reals]]]",
) -> Iterator[LayerParity]:
    """Judge again what layers of a model with integers add: no grid bounds it, but means do.

    Quantizers move biases by the mean error that they have measured (bias correction). That is right where the layer's
    means come nearer to the float model's, over all channels.

    Args:
        found: What was said of each constant.
        shared: The constants, in the same order.
        stored: Their values.
        means: What layers of either model give in the mean over the samples, laid out as the float model has it, by the
            result's names; empty where a runtime does not show it.
    """
    moved = {
        index: pair
        for index, ((pair, item), parity) in enumerate(zip(shared, found, strict=True))
        if parity.failures and _adds(pair, item) and not stored[1][item.name].step.any()
    }
    given = means(list(moved.values())) if moved else {}
    for index, parity in enumerate(found):
        if index not in moved or not given:
            yield parity
            continue
        pair, item = shared[index]
        one, other = given[pair.layer.outputs[0]]
        float_values = stored[0][item.float_name].values
        by = item.order.laid_out(stored[1][item.name].values) - float_values
        along = _along(pair, float_values.shape, one.shape)
        if along is None:
            yield parity
            continue
        rest = tuple(place for place, size in enumerate(along) if size == 1)
        off, by = (other - one).mean(axis=rest, keepdims=True), by.reshape(along)
        after, before = float(np.square(off).mean()) ** 0.5, float(np.square(off - by).mean()) ** 0.5
        if after < before:
            yield msgspec.structs.replace(parity, failures=(), excess=0.0)
            continue
        size = float(np.square(one).mean()) ** 0.5
        said = f"its means are {after:.2g} off by another bias than the float model's, {before:.2g} with the same"
        excess = (after - before) / (BIAS_SHARE * size) if size else MOST_EXCESS
        excess = min(excess, MOST_EXCESS) if math.isfinite(excess) else 1.0  # infinite means say nothing: told
        failures = (said,) if excess > 1 else ()
        yield msgspec.structs.replace(parity, failures=failures, excess=excess, cautions=() if failures else (said,))


def _along(pair: LayerPair, shape: tuple[int, ...], given: tuple[int, ...]) -> tuple[int, ...] | None:
    """What a layer adds, in the shape that broadcasts over its result; None where it does not."""
    along = [1] * len(given)
    if len(shape) == 1:
        along[1 if pair.layer.operator.startswith("Conv") else -1] = shape[0]
    else:
        along[len(given) - len(shape) :] = shape
    fits = len(along) == len(given) and all(size in {1, most} for size, most in zip(along, given, strict=True))
    return tuple(along) if fits else None
