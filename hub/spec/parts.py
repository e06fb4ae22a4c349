"""Outputs that hold things of different scale, such as a detector's boxes in pixels and its scores below one.

Over such an output as a whole every measure is the loud part's: a model whose scores are all zero, which detects
nothing, has an SQNR of 55 dB. So each quiet part is judged by itself: wherever the sizes of an axis's components, put
in order, leave a gap, be they at its end, in its middle, or one in three.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]
    Reals = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.intp]
    Key = TypeVar("Key", str, int)

GAP = 10.0
"""Ratio of root mean squares, one size to the next, from which components are two things."""

BLIND_SHARE = 0.05
"""Of an output's power: what is below is less than the noise that the int8 gate allows (13 dB), so it goes unseen."""

_DUST = 1e-6  # of the loudest: below are rounding errors of float32
_CONSTANT = 0.05  # of a part's root mean square: strides and anchors move by less, and say nothing
_FEWEST = 4.0  # numbers that make up a part's power: one that fired once is no measure
_SILENT = 0.25  # of the peak of scores beside them: what does not occur; detectors take scores from 0.25 or more
_MOST = 6  # parts of an output, those of the widest gaps
_ROWS = 4  # samples from which rows of a batch that are quiet in all of them are no accident of the data


class Part(msgspec.Struct, frozen=True, order=True):
    """Components of an axis: indices from `start` to before `stop`, and those of the spans behind, `more`."""

    axis: int
    start: int
    stop: int
    more: tuple[tuple[int, int], ...] = ()

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """All of them, in order."""
        return ((self.start, self.stop), *self.more)

    def of(self, array: "Array") -> "Array":
        """This part of an output."""
        import numpy as np

        before = (slice(None),) * self.axis
        blocks = [array[(*before, slice(*span))] for span in self.spans]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=self.axis)

    def __str__(self) -> str:
        shown = [f"{start}:{stop}" for start, stop in self.spans]
        return f"[{':, ' * self.axis}{','.join(shown[:_MOST])}{',…' if len(shown) > _MOST else ''}]"


class Components(NamedTuple):
    """Sums over each component of an axis: one index of it, over all others and all samples.

    Attributes:
        size: Numbers in each.
        total: Their sums.
        power: Sums of squares.
        fourth: Sums of fourth powers: power^2 / fourth is how many numbers make up the power.
        peak: Largest magnitudes.
        low: Smallest numbers.
    """

    size: int
    total: "Reals"
    power: "Reals"
    fourth: "Reals"
    peak: "Reals"
    low: "Reals"

    def of(self, members: "Indices") -> "Components":
        """The same of some of them."""
        total, power, fourth, peak, low = (sums[members] for sums in self[1:])
        return Components(self.size, total, power, fourth, peak, low)

    @property
    def moving(self) -> "Reals":
        """Sums of squares without each component's own mean."""
        import numpy as np

        moving: Reals = np.maximum(self.power - self.total**2 / self.size, 0)
        return moving


class OutputProfile(NamedTuple):
    """What the source gives in one output over all samples; `axes` are those along which components are told apart."""

    samples: int
    size: int
    total: float
    axes: dict[int, Components]

    def joined(self, other: "OutputProfile") -> "OutputProfile":
        """Both; an axis whose size changes from sample to sample is none."""
        import numpy as np

        axes = {}
        for axis in self.axes.keys() & other.axes.keys():
            one, two = self.axes[axis], other.axes[axis]
            if one.total.shape == two.total.shape:
                axes[axis] = Components(
                    one.size + two.size,
                    one.total + two.total,
                    one.power + two.power,
                    one.fourth + two.fourth,
                    np.maximum(one.peak, two.peak),
                    np.minimum(one.low, two.low),
                )
        return OutputProfile(
            self.samples + other.samples, self.size + other.size, self.total + other.total, dict(sorted(axes.items()))
        )

    def of(self, part: Part) -> "OutputProfile":
        """The profile of a part, along its own axis."""
        import numpy as np

        members = np.concatenate([np.arange(*span) for span in part.spans])
        found = self.axes[part.axis].of(members)
        return OutputProfile(self.samples, found.size * members.size, float(found.total.sum()), {part.axis: found})

    def parts(self) -> "Iterator[tuple[float, Part]]":
        """The quiet parts with their gaps. A batch's rows are parts only where they are the same ones all the time."""
        for axis, components in self.axes.items():
            numbers = components.size / self.samples
            if axis or len(self.axes) == 1 or (self.samples >= _ROWS <= numbers):
                for gap, members in _quiet(components):
                    (start, stop), *more = _spans(members)
                    yield gap, Part(axis, start, stop, tuple(more))


def profile_of(array: "Array") -> OutputProfile:
    """The profile of one sample's output."""
    import numpy as np

    reals = array.astype(np.float64)
    squares = reals * reals
    fourths = squares * squares
    axes = {}
    for axis, size in enumerate(array.shape):
        others = tuple(other for other in range(array.ndim) if other != axis)
        if size > 1:
            axes[axis] = Components(
                array.size // size,
                reals.sum(axis=others),
                squares.sum(axis=others),
                fourths.sum(axis=others),
                np.sqrt(squares.max(axis=others)),
                reals.min(axis=others),
            )
    return OutputProfile(1, array.size, float(reals.sum()), axes)


def _quiet(found: Components) -> "Iterator[tuple[float, Indices]]":
    """Each (gap, components) that lie apart from all louder ones, go unseen beside the rest, and say something."""
    import numpy as np

    if not np.isfinite(found.power).all():
        return
    rms = np.sqrt(found.power / found.size)
    order = np.argsort(-rms, kind="stable")
    sizes = rms[order]
    cuts = np.flatnonzero((sizes[:-1] >= GAP * sizes[1:]) & (sizes[1:] > _DUST * sizes[0])) + 1
    ends = [*cuts[1:], int((sizes > _DUST * sizes[0]).sum())]
    for louder, start, end in zip([0, *cuts], cuts, ends, strict=False):
        part, beside = found.of(order[start:end]), found.of(order[louder:start])
        power = float(part.power.sum())
        unseen = power < BLIND_SHARE * found.power.sum()
        several = power**2 >= _FEWEST * part.fourth.sum()
        moves = found.size < _FEWEST or part.moving.sum() >= _CONSTANT**2 * power
        scores = min(part.low.min(), beside.low.min()) >= 0 and beside.peak.max() <= 1
        if unseen and several and moves and not (scores and part.peak.max() < _SILENT * beside.peak.max()):
            yield float(sizes[start - 1] / sizes[start]), np.sort(order[start:end])


def _spans(members: "Indices") -> tuple[tuple[int, int], ...]:
    import numpy as np

    blocks = np.split(members, np.flatnonzero(np.diff(members) > 1) + 1)
    return tuple((int(block[0]), int(block[-1]) + 1) for block in blocks)


def is_classifier(source: "Array") -> bool:
    """Whether an array holds a classifier's probabilities: [batch, ..., classes >= 2], not negative, summing to one."""
    import numpy as np

    if source.ndim < 2 or source.shape[-1] < 2 or not np.issubdtype(source.dtype, np.floating):  # noqa: PLR2004 as above
        return False
    return bool(not np.less(source, 0).any() and np.allclose(source.sum(axis=-1), 1, atol=1e-3))


def profiles_of(samples: "Iterable[Mapping[Key, Array]]") -> "dict[Key, OutputProfile]":
    """The profile of each output that is of floats, and has numbers in every sample."""
    import numpy as np

    found: dict[Key, OutputProfile] = {}
    for outputs in samples:
        for name, array in outputs.items():
            if array.size and np.issubdtype(array.dtype, np.floating):
                profile = profile_of(array)
                found[name] = found[name].joined(profile) if name in found else profile
    return found


def quiet_parts_of(samples: "Iterable[Mapping[Key, Array]]") -> "dict[Key, tuple[Part, ...]]":
    """The parts that an output's measures would not see, for each output that has any, in order.

    A classifier's rows are one thing, whatever their sizes.

    Args:
        samples: What the source gave for each sample, by output.
    """

    def several() -> "Iterator[dict[Key, Array]]":
        for given in samples:
            yield {name: array for name, array in given.items() if not is_classifier(array)}

    return quiet_parts(profiles_of(several()))


def quiet_parts(profiles: "Mapping[Key, OutputProfile]") -> "dict[Key, tuple[Part, ...]]":
    """The same of profiles."""
    found = {name: sorted(profile.parts(), reverse=True)[:_MOST] for name, profile in profiles.items()}
    return {name: tuple(sorted(part for _, part in parts)) for name, parts in found.items() if parts}


def with_quiet_parts(
    outputs: "Mapping[Key, Array]", parts: "Mapping[Key, tuple[Part, ...]]"
) -> "dict[Key | str, Array]":
    """Outputs, and behind them their quiet parts under names of their own: `boxes[:, 4:84]`."""
    named: dict[Key | str, Array] = dict(outputs.items())
    return named | {f"{name}{part}": part.of(outputs[name]) for name, some in parts.items() for part in some}


def parts_of(samples: "Iterable[Mapping[Key, Array]]") -> "dict[Key, Part]":
    """The first of an output's quiet parts, for backends that look at one."""
    return {name: parts[0] for name, parts in quiet_parts_of(samples).items()}


def with_parts(outputs: "Mapping[Key, Array]", parts: "Mapping[Key, Part]") -> "dict[Key | str, Array]":
    """Outputs, and behind them one quiet part of each that has one."""
    return with_quiet_parts(outputs, {name: (part,) for name, part in parts.items()})
