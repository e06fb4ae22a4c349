"""What is counted of one output, sample by sample: sums, single samples, components, and classes by their margin."""

import math
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import SQNR_CAP_DB
from hub.spec.parts import OutputProfile, is_classifier

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]
    Reals = npt.NDArray[np.float64]

_BINS = 1024  # of leads, from 0 to 2: the lowest class may lie as far below the row's mean as the first lies above
_SIZES = 256  # bins of leads as they are, four an octave, from 2^-32 up
_OFFSETS = 1e-3  # of the power that one mean leaves: components whose own means explain less of it have one
_KNOWN_MEAN = 4  # numbers in a component from which its own mean is known apart from its movement
_CLEAR = 0.5  # lead of a probability, whose noise grows where two are near each other
_LEAST_TAIL = 10.0  # times the median noise: samples differ by so much where nothing is wrong
_MANY = 16.0  # numbers that make up a component's power: fewer and its ratio is chance
_OWN_MEAN = 8  # numbers of a sample from which its distance from the mean is a measure: one score may be just there
_MANY_VALUES = 64  # from which their range says something
_NEAR_END = 0.01  # of a range
_SATURATED = 0.25  # of an output's values at the ends of its range
_RECTIFIED = 0.05  # of an output's values: exact zeros, which sums of floats hardly give
_QUIET = 0.25  # of the median sample's movement: a quieter sample is no measure


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) within `SQNR_CAP_DB`; without noise the best there is, without signal the worst."""
    if noise <= 0:
        return SQNR_CAP_DB
    if signal <= 0:
        return -SQNR_CAP_DB
    return max(-SQNR_CAP_DB, min(SQNR_CAP_DB, 10 * math.log10(signal / noise)))


def cosine(dot: float, one: float, other: float, error: float) -> float:
    """Cosine of powers and their dot; 1 when both are all zero, 0 when one is."""
    norm = math.sqrt(max(one, 0) * max(other, 0))
    return max(-1.0, min(1.0, dot / norm)) if norm else float(error == 0)


class Single(NamedTuple):
    """The worst sample, or component, whose noise stands out from the others'."""

    sqnr_db: float
    name: str


def _size_bins(lead: "Reals | float") -> "npt.NDArray[np.int64]":
    """Bins of leads as they are, the smallest first."""
    import numpy as np

    octaves = np.log2(np.maximum(lead, 2.0**-32)) + 32
    return np.asarray(np.minimum(np.ceil(4 * octaves), _SIZES - 1), np.int64)


class Tally:
    """Sums over samples of one output, or part of one, in float64.

    Args:
        profile: What the source gives in it; None for integers.
    """

    def __init__(self, profile: OutputProfile | None) -> None:
        import numpy as np

        self.samples = self.elements = self.counted = self.unequal = 0
        self.flags = False
        self.max_abs = self.sum_abs = self.max_source = 0.0
        self.source_power = self.error_power = self.cross = 0.0
        self.moving = self.cross_moving = self.moved_by = 0.0
        self.low, self.high = math.inf, -math.inf
        self.result_low, self.result_high = math.inf, -math.inf
        self.zeros, self.row_sum_off, self.classes = 0, 0.0, 0
        self.at_ends = [0, 0]  # of 0 to 1, and of -1 to 1
        self.finite = True
        self.probabilities = False
        self.rows: list[tuple[str, int, float, float]] = []
        self.lost: dict[int, Reals] = {}
        self.lead_error = self.lead_noise = 0.0
        self.leads = 0
        self.clear, self.agreeing = (np.zeros((_SIZES, _BINS), np.int64) for _ in range(2))
        self._profile = profile
        self._axis, self._mean = _mean_of(profile)

    def add(self, source: "Array", result: "Array") -> None:
        """Add one sample."""
        import numpy as np

        a, b = source.astype(np.float64), result.astype(np.float64)
        self.samples += 1
        self.elements += a.size
        self.finite = self.finite and bool(np.isfinite(b).all())
        if not a.size:
            return
        flat = a.ravel()
        self.source_power += float(flat @ flat)
        if not self.finite:
            return
        self.low, self.high = min(self.low, float(a.min())), max(self.high, float(a.max()))
        self.result_low, self.result_high = min(self.result_low, float(b.min())), max(self.result_high, float(b.max()))
        self.zeros += int(np.count_nonzero(a == 0))
        self.at_ends[0] += int(np.count_nonzero((a <= _NEAR_END) | (a >= 1 - _NEAR_END)))
        self.at_ends[1] += int(np.count_nonzero(np.abs(a) >= 1 - 2 * _NEAR_END))
        error = np.subtract(b, a, out=b)
        self._add_errors(a, error)
        if np.issubdtype(source.dtype, np.floating):
            self._add_classes(source, result)
        elif source.dtype.kind == "b" or source.dtype.itemsize >= 4:  # noqa: PLR2004 bytes are rounded numbers
            self.flags = source.dtype.kind == "b"
            self.counted += source.size
            self.unequal += int(np.count_nonzero(source != result))

    def _add_errors(self, a: "Reals", error: "Reals") -> None:
        import numpy as np

        flat = error.ravel()
        self.cross += float(a.ravel() @ flat)
        moving = a - self._mean.reshape([-1 if axis == self._axis else 1 for axis in range(a.ndim)])
        self.moved_by += float(moving.ravel() @ flat)
        self.max_source = max(self.max_source, self.high, -self.low)
        squares = error * error
        count = a.shape[0] if a.ndim > 1 else 1
        signals = np.einsum("ij,ij->i", moving.reshape(count, -1), moving.reshape(count, -1))
        noises = squares.reshape(count, -1).sum(axis=1)
        self.moving += float(signals.sum())
        if a.size // count < _OWN_MEAN:
            signals = np.square(a).reshape(count, -1).sum(axis=1)
        self.error_power += float(noises.sum())
        place = self.samples - 1
        for row, (signal, noise) in enumerate(zip(signals.tolist(), noises.tolist(), strict=True)):
            self.rows.append((f"sample {place}" + f" row {row}" * (count > 1), a.size // count, signal, noise))
        magnitudes = np.abs(error, out=error)
        self.max_abs = max(self.max_abs, float(magnitudes.max()))
        self.sum_abs += float(magnitudes.sum())
        for axis in self._profile.axes if self._profile else ():
            others = tuple(other for other in range(a.ndim) if other != axis)
            lost = squares.sum(axis=others)
            self.lost[axis] = self.lost[axis] + lost if axis in self.lost else lost

    def _add_classes(self, source: "Array", result: "Array") -> None:
        """Count arg-max over the last axis, or the channels of an image, by the lead of the source's first.

        Where the brightest place of an image's row lies is no class: a map of one channel has none.
        """
        import numpy as np

        self.probabilities = is_classifier(source) and (self.probabilities or self.samples == 1)
        if self.probabilities:
            self.classes = source.shape[-1]
            off = result.astype(np.float64).sum(axis=-1) - source.astype(np.float64).sum(axis=-1)
            self.row_sum_off = max(self.row_sum_off, float(np.abs(off).max()))
        axis = _axis_of_classes(source.shape)
        if axis >= 0 and source.shape[axis] > 1:
            self._add_rows(source, result, axis)

    def _add_rows(self, source: "Array", result: "Array", axis: int) -> None:
        import numpy as np

        rest, given = source.astype(np.float64), result.astype(np.float64)
        first = np.expand_dims(rest.argmax(axis=axis), axis)
        found = np.expand_dims(given.argmax(axis=axis), axis)
        size = np.abs(rest - rest.mean(axis=axis, keepdims=True)).max(axis=axis).ravel()
        most = np.take_along_axis(rest, first, axis).copy()
        np.put_along_axis(rest, first, -np.inf, axis)
        second = np.expand_dims(rest.argmax(axis=axis), axis)
        lead = (most - np.take_along_axis(rest, second, axis)).ravel()
        after = (np.take_along_axis(given, first, axis) - np.take_along_axis(given, second, axis)).ravel()
        told = lead > 0
        lead, after, size, agree = lead[told], after[told], size[told], (first == found).ravel()[told]
        self.lead_error += float((((after - lead) / size) ** 2).sum())
        self.lead_noise += float(((after - lead) ** 2).sum())
        self.leads += lead.size
        bins = np.minimum(lead / size / 2 * _BINS, _BINS - 1).astype(np.int64)
        np.add.at(self.clear, (_size_bins(lead), bins), 1)
        np.add.at(self.agreeing, (_size_bins(lead[agree]), bins[agree]), 1)

    @property
    def cosine(self) -> float:
        """Cosine; 0 where the result is not finite."""
        result = self.source_power + 2 * self.cross + self.error_power
        return (
            cosine(self.source_power + self.cross, self.source_power, result, self.error_power) if self.finite else 0.0
        )

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB: of NaN and infinity the worst that there is."""
        return decibels(self.source_power, self.error_power) if self.finite else -SQNR_CAP_DB

    @property
    def centred_sqnr_db(self) -> float:
        """The same without the source's mean, which a constant has too."""
        return decibels(self.moving, self.error_power) if self.finite else -SQNR_CAP_DB

    @property
    def centred_cosine(self) -> float:
        """Cosine after both lost the source's mean."""
        result = self.moving + 2 * self.moved_by + self.error_power
        return cosine(self.moving + self.moved_by, self.moving, result, self.error_power) if self.finite else 0.0

    @property
    def relative(self) -> float:
        """Largest error over largest source value; the error itself where the source is all zero."""
        return self.max_abs / self.max_source if self.max_source else self.max_abs

    @property
    def movement(self) -> float:
        """Root mean square of the source without its mean, as a part of its largest magnitude."""
        return math.sqrt(self.moving / self.elements) / self.max_source if self.elements and self.max_source else 0.0

    @property
    def guaranteed(self) -> tuple[float, float]:
        """Bounds that the source's own last operator keeps, as far as its values say which that is.

        Rectified where many are exactly zero and none is below; a sigmoid's, a softmax's or a hyperbolic tangent's
        where many of them lie at the ends of its range, some at either, and none passes them; coordinates that happen
        to lie in such a range do not.
        """
        if self.elements < _MANY_VALUES:
            return -math.inf, math.inf
        for place, (low, high) in enumerate(((0.0, 1.0), (-1.0, 1.0))):
            near = _NEAR_END * (high - low)
            reaches = low <= self.low <= low + near and high - near <= self.high <= high
            if reaches and self.at_ends[place] > _SATURATED * self.elements:
                return low, high
        rectified = self.low >= 0 and self.zeros > _RECTIFIED * self.elements
        return (0.0 if rectified else -math.inf), math.inf

    def clear_rows(self, noise: float) -> tuple[int, int]:
        """Rows whose first class leads by more than the noise, and those of them whose arg-max agrees.

        A lead is a part of the row's largest distance from its mean, and it is a number: rows of a detector in which
        nothing occurs lead by much of nearly nothing. Its own error, twice the root mean square, is what noise can turn
        over; but no more than what the gate allows, or a fault would excuse itself.

        Args:
            noise: Noise power that the gate allows, as a part of the signal's.
        """
        if not self.leads:
            return 0, 0
        own = 2 * math.sqrt(self.lead_error / self.leads)
        cut = min(own, _CLEAR if self.probabilities else math.sqrt(2 * noise))
        start = min(math.ceil(cut / 2 * _BINS), _BINS - 1)
        allowed = math.sqrt(2 * noise * self.source_power / self.elements)
        least = int(_size_bins(min(2 * math.sqrt(self.lead_noise / self.leads), allowed)))
        return int(self.clear[least:, start:].sum()), int(self.agreeing[least:, start:].sum())

    def worst_sample(self) -> Single:
        """The sample, or row of a batch, with the lowest SQNR, the mean removed, among those whose noise stands out.

        Out of `n` numbers' noise, with 1 in 10^7: chi^2's quantile by Wilson and Hilferty (1931), over its median; and
        ten times the median, as samples differ anyhow. Quiet samples are no measure. The mean stays where a sample is
        of few numbers: a score may be off by 0.3 where it is in doubt, and right everywhere else.
        """
        import numpy as np

        if len(self.rows) < 2:  # noqa: PLR2004 one is the whole
            return Single(SQNR_CAP_DB, "")
        signals, noises = (np.array([row[place] for row in self.rows]) for place in (2, 3))
        sizes = np.array([row[1] for row in self.rows])
        spread = 2 / (9 * sizes)
        tail = ((1 - spread + 5.2 * np.sqrt(spread)) / (1 - spread)) ** 3
        loud = signals >= _QUIET * np.median(signals)
        out = loud & (signals > 0) & (noises > np.maximum(tail, _LEAST_TAIL) * np.median(noises))
        places = np.flatnonzero(out)
        if not places.size:
            return Single(SQNR_CAP_DB, "")
        worst = min(places.tolist(), key=lambda place: signals[place] / noises[place])
        return Single(decibels(float(signals[worst]), float(noises[worst])), self.rows[worst][0])

    def worst_component(self) -> Single:
        """The component with the lowest SQNR, its mean removed, among those that carry far more noise than others.

        A class that seldom occurs is none: one of thousands of a text recogniser's was measured at -35 dB.
        """
        import numpy as np

        found = Single(SQNR_CAP_DB, "")
        if self.probabilities:
            return found
        for axis, lost in self.lost.items() if self._profile else ():
            known = self._profile.axes[axis] if self._profile else None
            if known is None or known.size < _MANY or lost.size < 2:  # noqa: PLR2004 one is the whole
                continue
            signal = known.moving
            fourths = np.maximum(known.fourth, np.finfo(np.float64).tiny)
            told = (known.power**2 >= _MANY * fourths) & (signal > _SELDOM * signal.mean())
            places = np.flatnonzero(told & (lost > _STANDS_OUT * _others(lost)))
            for place in places.tolist():
                worst = decibels(float(signal[place]), float(lost[place]))
                if worst < found.sqnr_db:
                    found = Single(worst, f"[{':, ' * axis}{place}]")
        return found


_SELDOM = 0.1  # of the mean component's movement: what moves less is quiet, which is for parts to judge
_STANDS_OUT = 4.0  # times the others' median noise
_FEW = 8  # components of which each is no small part of the median


def _others(lost: "Reals") -> "Reals | np.floating":
    """For each component the median of the others; of many that is the median of all."""
    import numpy as np

    if lost.size > _FEW:
        return np.median(lost)
    return np.array([np.median(np.delete(lost, place)) for place in range(lost.size)])


def _axis_of_classes(shape: tuple[int, ...]) -> int:
    """The last one; of an image the channels', whose number differs more from the middle size than the other's does."""
    if len(shape) != 4 or 0 in shape:  # noqa: PLR2004 an image
        return len(shape) - 1
    first, middle, last = (math.log(size) for size in shape[1:])
    return 1 if abs(last - middle) <= abs(first - middle) else 3


def _mean_of(profile: OutputProfile | None) -> "tuple[int, Reals]":
    """The mean to remove: of each component along the axis whose components' means differ most, else one for all."""
    import numpy as np

    if profile is None:
        return 0, np.zeros(1)
    best, mean = 0, np.array([profile.total / max(profile.size, 1)])
    one = most = profile.total**2 / max(profile.size, 1)
    for axis, found in profile.axes.items():
        explained = float((found.total**2).sum() / found.size)
        offsets = explained - one > _OFFSETS * (float(found.power.sum()) - one)
        if found.size >= _KNOWN_MEAN and offsets and explained > most:
            best, mean, most = axis, found.total / found.size, explained
    return best, mean
