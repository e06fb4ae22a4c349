"""Constants of a result held against the float model's: by the steps of their grids, and what is added by means."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hub._corrections import Correction, is_added
from hub._counterparts import LayerPair, SharedConstant, Stored
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


def with_moved_biases(
    found: Sequence[LayerParity],
    shared: Sequence[tuple[LayerPair, SharedConstant]],
    stored: tuple[Stored, Stored],
    corrections: Callable[[Mapping[int, tuple[LayerPair, SharedConstant]]], Mapping[int, Correction]],
    means: "Callable[[Sequence[LayerPair]], dict[str, tuple[Reals, Reals]]]",
) -> Iterator[LayerParity]:
    """Judge again what layers of a model with integers add: no grid bounds it, but what it is moved for does.

    Quantizers move biases by the mean error that they have measured (bias correction). How NNCF does it is known, so
    that it can be done again. Moved otherwise it is told, and refused where the layer's means are further from the
    float model's by it.

    Args:
        found: What was said of each constant.
        shared: The constants, in the same order.
        stored: Their values.
        corrections: By how much biases are moved where they are corrected, by their places, as far as that is known.
        means: What layers of either model give in the mean over the samples, laid out as the float model has it, by the
            result's names; empty where a runtime does not show it.
    """
    moved = {
        index: (pair, item)
        for index, ((pair, item), parity) in enumerate(zip(shared, found, strict=True))
        if parity.failures and is_added(pair, item) and not stored[1][item.name].step.any()
    }
    by = {
        index: item.order.laid_out(stored[1][item.name].values) - stored[0][item.float_name].values
        for index, (_, item) in moved.items()
    }
    predicted = corrections(moved) if moved else {}
    known = {index: item for index, item in predicted.items() if item.moved.size == by[index].size}
    corrected = {index for index, correction in known.items() if correction.explains(by[index])}
    others = {index: pair for index, (pair, _) in moved.items() if index not in corrected}
    given = means(list(others.values())) if others else {}
    for index, parity in enumerate(found):
        if index in corrected:
            yield msgspec.structs.replace(parity, failures=(), excess=0.0)
        elif index in others and others[index].layer.outputs[0] in given:
            both = given[others[index].layer.outputs[0]]
            yield _by_means(others[index], parity, by[index], both, known.get(index))
        else:
            yield parity


def _by_means(
    pair: LayerPair, parity: LayerParity, by: "Reals", means: "tuple[Reals, Reals]", known: Correction | None
) -> LayerParity:
    """Judge a bias that is moved by what it makes of the layer's means; one that no correction moves so is told."""
    one, other = means
    along = _along(pair, by.shape, one.shape)
    if along is None:
        return parity
    rest = tuple(place for place, size in enumerate(along) if size == 1)
    off, by = (other - one).mean(axis=rest, keepdims=True), by.reshape(along)
    after, before = float(np.square(off).mean()) ** 0.5, float(np.square(off - by).mean()) ** 0.5
    size = float(np.square(one).mean()) ** 0.5
    said = f"its means are {after:.2g} off by another bias than the float model's, {before:.2g} with the same"
    if after < before:
        if known is None:
            return msgspec.structs.replace(parity, failures=(), excess=0.0)
        most = float(np.abs(by.ravel() - known.moved).max())
        said = f"its bias is moved, and up to {most:.2g} off what a bias correction makes of it"
    excess = (after - before) / (BIAS_SHARE * size) if size else MOST_EXCESS
    excess = min(max(excess, 0.0), MOST_EXCESS) if math.isfinite(excess) else 1.0  # infinite means say nothing: told
    failures = (said,) if excess > 1 else ()
    return msgspec.structs.replace(parity, failures=failures, excess=excess, cautions=() if failures else (said,))


def _along(pair: LayerPair, shape: tuple[int, ...], given: tuple[int, ...]) -> tuple[int, ...] | None:
    """What a layer adds, in the shape that broadcasts over its result; None where it does not."""
    along = [1] * len(given)
    if len(shape) == 1:
        along[1 if pair.layer.operator.startswith("Conv") else -1] = shape[0]
    else:
        along[len(given) - len(shape) :] = shape
    fits = len(along) == len(given) and all(size in {1, most} for size, most in zip(along, given, strict=True))
    return tuple(along) if fits else None
