"""Outputs that hold two things of different scale, such as a detector's boxes in pixels and its scores below one.

Over such an output as a whole every measure is the loud part's: a model whose scores are all zero, which detects
nothing, has an SQNR of 55 dB. So the quiet part is judged by itself.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]
    Power = npt.NDArray[np.float64]
    Key = TypeVar("Key", str, int)

GAP = 10.0
"""Ratio of root mean squares from which two neighbouring blocks of channels are two things."""

BLIND_SHARE = 0.05
"""Of an output's power: what is below is less than the noise that the int8 gate allows (13 dB), so it goes unseen."""

_DUST = 1e-6  # of the loud part: below are rounding errors of float32
_RANK = 3  # [batch, channels, places] or [batch, places, channels]


class Part(msgspec.Struct, frozen=True, order=True):
    """The quiet block of an axis: indices from `start` to before `stop`."""

    axis: int
    start: int
    stop: int

    def of(self, array: "Array") -> "Array":
        """This part of an output."""
        return array[(slice(None),) * self.axis + (slice(self.start, self.stop),)]

    def __str__(self) -> str:
        return f"[{':, ' * self.axis}{self.start}:{self.stop}]"


def parts_of(samples: "Iterable[Mapping[Key, Array]]") -> "dict[Key, Part]":
    """The block at one end of an axis that an output's measures would not see, for each output that has one.

    Args:
        samples: What the source gave for each sample, by output.
    """
    powers: dict[Key, list[Power | None]] = {}
    for outputs in samples:
        for name, array in outputs.items():
            found = _powers(array)
            before = powers.setdefault(name, found)
            if before is not found:
                powers[name] = [_added(one, other) for one, other in zip(before, found, strict=True)]
    best = {name: max(_blocks_of(found), default=None) for name, found in powers.items()}
    return {name: block[1] for name, block in best.items() if block}


def _powers(array: "Array") -> "list[Power | None]":
    """Mean squares of an output's channels and of its places; None where it has other axes."""
    import numpy as np

    if array.ndim != _RANK or not array.size or not np.issubdtype(array.dtype, np.floating):
        return [None, None]
    squares = np.square(array, dtype=np.float64)
    return [squares.mean(axis=(0, 2)), squares.mean(axis=(0, 1))]


def _added(one: "Power | None", other: "Power | None") -> "Power | None":
    return None if one is None or other is None or one.shape != other.shape else one + other


def _blocks_of(powers: "list[Power | None]") -> "Iterator[tuple[float, Part]]":
    for axis, power in enumerate(powers, start=1):
        for gap, start, stop in _blocks(power) if power is not None else ():
            yield gap, Part(axis, start, stop)


def _blocks(power: "Power") -> "Iterator[tuple[float, int, int]]":
    """Each (gap, start, stop) where all of one end is quieter by `GAP` than all of the rest, and unseen beside it."""
    import numpy as np

    size, rms, back = len(power), np.sqrt(power), slice(None, None, -1)
    tops = np.maximum.accumulate(rms)[:-1], np.maximum.accumulate(rms[back])[back][1:]
    bottoms = np.minimum.accumulate(rms[back])[back][1:], np.minimum.accumulate(rms)[:-1]
    sums = np.cumsum(power)[:-1], np.cumsum(power[back])[back][1:]
    for first, (top, bottom, quiet) in enumerate(zip(tops, bottoms, sums, strict=True)):
        unseen = quiet < BLIND_SHARE * power.sum()
        for cut in np.flatnonzero((top * GAP <= bottom) & (top > _DUST * bottom) & unseen):
            start, stop = (int(cut) + 1, size) if first else (0, int(cut) + 1)
            yield float(bottom[cut] / top[cut]), start, stop


def with_parts(outputs: "Mapping[Key, Array]", parts: "Mapping[Key, Part]") -> "dict[Key | str, Array]":
    """Outputs, and behind them their quiet parts under names of their own: `boxes[:, 4:84]`."""
    named: dict[Key | str, Array] = dict(outputs.items())
    return named | {f"{name}{part}": part.of(outputs[name]) for name, part in parts.items()}
