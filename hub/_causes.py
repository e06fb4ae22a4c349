"""What explains that a constant, or what a layer gives, is another one than in the model before."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hub._layer_bounds import LocalBounds
from hub._matching import AxisOrder, axis_orders, best_order, relative_noise
from hub.spec import CauseCode, DiffCause, StoredConstant

if TYPE_CHECKING:
    import numpy.typing as npt

    Reals = npt.NDArray[np.float64]

MOST_NAMED = 4
"""Channels that a sentence names."""

MOST_CHANNELS = 4096
"""Channels in which another order is looked for: every one is held against every other."""

CLEAR = 0.05
"""What is explained leaves less than this part of the noise unexplained."""

STRUCTURAL: frozenset[CauseCode] = frozenset({"norm-folded", "constant-permuted", "constant-transposed"})
"""What a converter may do to a constant on purpose, where it does something to the layer's neighbours too."""


class HeldConstant(NamedTuple):
    """A constant of the second model beside the first model's, laid out alike.

    Attributes:
        name: The second model's name.
        one: The first model's values.
        other: The second's.
        tolerance: How far rounding may have moved each.
    """

    name: str
    one: "Reals"
    other: "Reals"
    tolerance: "Reals"

    @property
    def off(self) -> "npt.NDArray[np.bool_]":
        """Which values are further off than rounding; what a grid's end cuts off is not."""
        ends = np.abs(self.other) >= np.abs(self.other).max(initial=0) * (1 - 1e-6)
        cut = ends & (self.one * self.other > 0) & (np.abs(self.one) > np.abs(self.other)) & (self.one.size > 1)
        most = np.square(self.one).sum() * CLEAR / 5
        cut &= np.square(np.where(cut, self.one - self.other, 0)).sum() <= most
        off: npt.NDArray[np.bool_] = (np.abs(self.one - self.other) > self.tolerance) & ~cut
        return off

    def fits(self, changed: "Reals") -> bool:
        """Whether `changed`, which is made of the first's values, is what the second has, also where that is off."""
        wrong = np.abs(changed - self.other) > 1.6 * self.tolerance + 2e-3 * np.abs(changed)
        return bool(wrong.mean() < CLEAR and wrong[self.off].mean() < CLEAR)


class ConstantOrder(NamedTuple):
    """In what order of axes a constant was held against the first model's, and which others have its sizes."""

    name: str
    kind: str
    order: tuple[int, ...]
    possible: tuple[tuple[int, ...], ...]


class ConstantCause(NamedTuple):
    """What is to be said of a constant.

    Attributes:
        cause: What it is.
        moved: By how much it is moved (root mean square), where it lies on no grid.
        noise: Power of the difference over that of the first model's.
        largest: By how much a value of it is moved at most, where it lies on no grid.
        vector: Whether it has values along one axis at most, as a bias has.
    """

    cause: DiffCause
    moved: float = math.inf
    noise: float = 0.0
    largest: float = math.inf
    vector: bool = False


class PairConstants(NamedTuple):
    """The constants that a layer of either model reads, held against each other.

    Attributes:
        causes: What is off by more than rounding.
        folded: Whether one of them reads a constant that the other has not, so that one may be folded into another.
        orders: For models of different formats, which keep axes in orders of their own.
    """

    causes: tuple[ConstantCause, ...] = ()
    folded: bool = False
    orders: tuple[ConstantOrder, ...] = ()


def hold_constants(
    ones: Mapping[str, StoredConstant], others: Mapping[str, StoredConstant], bounds: LocalBounds, *, kind: str
) -> PairConstants:
    """Hold each constant of the second against the nearest of the first that has its sizes.

    Args:
        ones: The first model's.
        others: The second's.
        bounds: How far rounding moves one.
        kind: What kind of layer it is; empty where both models are of one format, so that axes are in one order.
    """
    causes, orders = [], []
    pairs = list(paired_constants(ones, others, kind=kind))
    for found, name, order in pairs:
        other = others[name]
        one, laid = ones[found].values, order.laid_out(other.values)
        steps = order.laid_out(np.broadcast_to(other.step, other.values.shape)) + np.abs(ones[found].step)
        tolerance = steps * bounds.constant_steps + np.abs(one) * bounds.relative + bounds.smallest
        cause = constant_cause(HeldConstant(found, one, laid, tolerance))
        if cause:
            off = np.abs(one - laid) if not other.step.any() else np.full((), math.inf)
            vector = sum(size > 1 for size in one.shape) <= 1
            moved, largest = float(np.sqrt(np.square(off).mean())), float(off.max(initial=0))
            causes.append(ConstantCause(cause, moved, relative_noise(one, laid), largest, vector))
        if kind and not cause:
            possible = tuple(item.order for item in axis_orders(one.shape, other.values.shape))
            orders.append(ConstantOrder(found, kind, order.order, possible))
    return PairConstants(tuple(causes), len(pairs) < len(ones), tuple(orders))


def paired_constants(
    ones: Mapping[str, StoredConstant], others: Mapping[str, StoredConstant], *, kind: str
) -> Iterator[tuple[str, str, AxisOrder]]:
    """Names of each constant of the second and of the nearest of the first that has its sizes; as `hold_constants`."""
    free = list(ones)
    for name, other in others.items():
        fitting = [(one, order) for one in free if (order := _order(ones[one].values, other.values, kind))]
        if fitting:
            noise = [relative_noise(ones[one].values, order.laid_out(other.values)) for one, order in fitting]
            found, order = fitting[int(np.argmin(noise))]
            free.remove(found)
            yield found, name, order


def _order(one: "Reals", other: "Reals", kind: str) -> AxisOrder | None:
    plain = next(axis_orders(one.shape, other.shape), None)
    return plain if not kind and one.shape == other.shape else best_order(one, other)


def with_odd_orders(found: Mapping[int, PairConstants]) -> dict[int, PairConstants]:
    """Add what stands in another order of axes than the same constant of most layers of its kind does."""
    votes: dict[tuple[str, int], Counter[tuple[int, ...]]] = {}
    for constants in found.values():
        for item in constants.orders:
            votes.setdefault((item.kind, len(item.order)), Counter())[item.order] += 1
    added = {}
    for place, constants in found.items():
        odd = []
        for item in constants.orders:
            usual = votes[item.kind, len(item.order)].most_common(1)[0][0]
            if item.order != usual and usual in item.possible:
                text = f"its constant {item.name} has axes in another order than others: {list(item.order)}"
                cause = DiffCause(code="constant-transposed", text=f"{text}, not {list(usual)}")
                odd.append(ConstantCause(cause))
        added[place] = constants._replace(causes=(*constants.causes, *odd))
    return added


def constant_cause(held: HeldConstant) -> DiffCause | None:
    """Why a constant is off by more than rounding; None where it is not."""
    off = held.off
    if not off.any():
        return None
    factor = float((held.one * held.other).sum() / (np.square(held.one).sum() or 1.0))
    lost = held.other.size > 1 and not held.other.any()
    if lost or (factor and held.fits(held.one * factor)):
        how = "all zero" if lost else f"{factor:.4g} times A's"
        return DiffCause(code="constant-scaled", text=f"its constant {held.name} is {how}")
    for order in list(axis_orders(held.one.shape, held.one.shape))[1:]:
        if held.fits(order.laid_out(held.one)):
            text = f"its constant {held.name} has axes in another order: {list(order.order)}"
            return DiffCause(code="constant-transposed", text=text)
    for axis in range(held.one.ndim):
        cause = _channel_cause(held, off, axis)
        if cause:
            return cause
    mirrored = np.abs(held.one + held.other) <= np.maximum(2 * held.tolerance, CLEAR * np.abs(held.one))
    if mirrored[off].mean() > 1 - CLEAR:
        text = f"{int(off.sum())} values of its constant {held.name} have the other sign"
        return DiffCause(code="constant-wrapped", text=text)
    largest, share = float(np.abs(held.one - held.other).max()), float(off.mean())
    text = f"{share:.1%} of its constant {held.name} are other values{_where(off)}, up to {largest:.3g} off"
    return DiffCause(code="constant-differs", text=f"{text}; the largest is {np.abs(held.one).max():.3g}")


def _where(off: "npt.NDArray[np.bool_]") -> str:
    """In which channels all that is off lies, where those are few."""
    for axis in range(off.ndim):
        found = np.flatnonzero(off.any(axis=tuple(place for place in range(off.ndim) if place != axis)))
        if len(found) <= min(MOST_NAMED, off.shape[axis] // 4):
            return f", all in channel {', '.join(map(str, found))} of axis {axis}"
    return ""


def _channel_cause(held: HeldConstant, off: "npt.NDArray[np.bool_]", axis: int) -> DiffCause | None:
    """Whether all that is off lies in channels along an axis that have a factor, or another channel's values."""
    one, other = (np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (held.one, held.other))
    tolerance = np.moveaxis(held.tolerance, axis, 0).reshape(one.shape)
    wrong = np.flatnonzero(np.moveaxis(off, axis, 0).reshape(one.shape).any(axis=1))
    if len(one) < 2:  # noqa: PLR2004 there is one channel alone
        return None
    moved = _moved(one, other, tolerance, wrong)
    if moved:
        pairs = ", ".join(f"{to} is A's {came}" for to, came in list(moved.items())[:MOST_NAMED])
        more = f", and {len(moved) - MOST_NAMED} more" if len(moved) > MOST_NAMED else ""
        text = f"channels of its constant {held.name} are in another order (axis {axis}): {pairs}{more}"
        return DiffCause(code="constant-permuted", text=text)
    if one.shape[1] < 2:  # noqa: PLR2004 a single number is always another one times something
        return None
    factors = (one * other).sum(axis=1) / np.maximum(np.square(one).sum(axis=1), 1e-300)
    slack = 1.6 * tolerance + 2e-3 * np.abs(one * factors[:, None])
    if (np.abs(one * factors[:, None] - other) > slack)[wrong].mean() > CLEAR:
        return None
    if len(wrong) > max(2, len(one) // 2):
        text = f"every channel of its constant {held.name} has a factor of its own, {factors.min():.3g} to"
        return DiffCause(code="norm-folded", text=f"{text} {factors.max():.3g}, as a folded normalization leaves it")
    said = ", ".join(f"{index} by {factors[index]:.3g}" for index in wrong[:MOST_NAMED])
    more = f", and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
    zero = not np.abs(other[wrong]).any()
    what = "are zero" if zero else "are scaled"
    names = ", ".join(map(str, wrong[:MOST_NAMED])) if zero else said
    text = f"channels of its constant {held.name} {what} (axis {axis}): {names}{more}"
    return DiffCause(code="channel-scaled", text=text)


def _moved(one: "Reals", other: "Reals", tolerance: "Reals", wrong: "npt.NDArray[np.intp]") -> dict[int, int]:
    """Channels of the second that are other channels of the first, where all that are wrong are."""
    if len(wrong) > MOST_CHANNELS or len(wrong) < 2:  # noqa: PLR2004 two are in each other's place
        return {}
    found = {}
    for index in wrong:
        slack = 1.6 * tolerance[wrong] + 2e-3 * np.abs(one[wrong])
        near = (np.abs(one[wrong] - other[index]) <= slack).mean(axis=1)
        best = int(near.argmax())
        if near[best] < 1 - CLEAR:
            return {}
        found[int(index)] = int(wrong[best])
    moved = {to: came for to, came in found.items() if to != came}
    return moved if len(set(found.values())) == len(found) else {}


def result_causes(one: "Reals", other: "Reals") -> Iterator[DiffCause]:
    """What explains that a result is another one on the same inputs; `other` is laid out as `one`.

    Args:
        one: What the first model's layer gives.
        other: The second's, with the samples along the first axis as in `one`.
    """
    if not np.isfinite(other).all() and np.isfinite(one).all():
        yield DiffCause(code="not-finite", text=f"{(~np.isfinite(other)).mean():.1%} of its values are NaN or infinite")
        return
    noise = relative_noise(one, other)
    plain = other[0].reshape([size for size in other[0].shape if size > 1])
    for another in list(axis_orders(plain.shape, plain.shape))[1:]:
        if relative_noise(one[0].reshape(plain.shape), another.laid_out(plain)) < CLEAR * noise:
            yield DiffCause(code="axes-permuted", text=f"its axes are in another order: {list(another.order)}")
            return
    moved = _moved_channels(one, other, noise)
    if moved:
        yield moved
        return
    factor = float((one * other).sum() / (np.square(one).sum() or 1.0))
    if relative_noise(one * factor, other) * factor**2 < CLEAR * noise:
        yield DiffCause(code="result-scaled", text=f"it is {factor:.4g} times what A's layer gives")
        return
    for axis in range(2, one.ndim):  # behind the samples and the batch
        rest = tuple(place for place in range(one.ndim) if place != axis)
        shift = (other - one).mean(axis=rest, keepdims=True)
        if one.size > 2 * shift.size and relative_noise(one, other - shift) < CLEAR * noise:
            size = float(np.sqrt(np.square(shift).mean() / (np.square(one).mean() or 1.0)))
            text = f"each channel along axis {axis - 1} has another mean, by {size:.1%} of its size"
            yield DiffCause(code="result-shifted", text=text)
            return


def _moved_channels(one: "Reals", other: "Reals", noise: float) -> DiffCause | None:
    """Channels in another order: every one of the second is nearest to another one of the first."""
    for axis in range(2, one.ndim):
        if not 2 <= one.shape[axis] <= MOST_CHANNELS // 8:  # noqa: PLR2004 two are in each other's place
            continue
        rows = [np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (one, other)]
        power = [np.square(row).sum(axis=1) for row in rows]
        distance = power[1][:, None] + power[0][None, :] - 2 * rows[1] @ rows[0].T
        nearest = distance.argmin(axis=1)
        moved = np.flatnonzero(nearest != np.arange(len(nearest)))
        alike = relative_noise(rows[0][nearest], rows[1]) < CLEAR * noise
        if len(moved) and alike and len(set(nearest.tolist())) == len(nearest):
            pairs = ", ".join(f"{index} is A's {nearest[index]}" for index in moved[:MOST_NAMED])
            more = f", and {len(moved) - MOST_NAMED} more" if len(moved) > MOST_NAMED else ""
            text = f"its channels along axis {axis - 1} are in another order: {pairs}{more}"
            return DiffCause(code="channels-permuted", text=text)
    return None
