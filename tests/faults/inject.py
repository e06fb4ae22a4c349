"""Faults as converters and quantizers really make them, planted one at a time into sound artifacts.

A mutant is a whole file of the same format. What is changed is what public bug reports tell of: constants that are a
little off, a channel that is lost or in another's place, a kernel turned, a bias left out, a range cut in half. Where a
format keeps such numbers is said by its `FaultSites`; what is done to them is the same for all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
Role = Literal["weights", "bias", "range", "operator"]


class FaultSite(NamedTuple):
    """A place where numbers are stored.

    Attributes:
        role: The weights or the bias of a product, the range of what a layer gives, or an operator that has a relative:
            an activation, a norm with an epsilon.
        where: Its name in the file.
        numbers: What is stored, less the zero point; None for a range and an operator.
        scale: Scale of the numbers or of the range; None for floats.
    """

    role: Role
    where: str
    numbers: Numbers | None
    scale: Numbers | None


class FaultSites(Protocol):
    """An artifact that faults can be planted in."""

    def all(self) -> list[FaultSite]:
        """Every site."""

    def planted(
        self, site: FaultSite, into: Path, numbers: Numbers | None = None, scale: Numbers | None = None
    ) -> Path:
        """Write a copy with other numbers, or another scale, at one site; an operator's becomes another."""


class Mutant(NamedTuple):
    """A faulty artifact: the kind of fault, where it is, and the file."""

    kind: str
    where: str
    path: Path


Change = Callable[[Numbers], Numbers]


def _times(factor: float) -> Change:
    return lambda w: w * factor


def _channel(change: Change) -> Change:
    """Change the loudest channel along the first axis that has several."""

    def changed(w: Numbers) -> Numbers:
        axis = next((place for place, size in enumerate(w.shape) if size > 1), 0)
        others = tuple(place for place in range(w.ndim) if place != axis)
        at = (slice(None),) * axis + (int(np.abs(w).sum(axis=others).argmax()),)
        out = w.copy()
        out[at] = change(w[at])
        return out

    return changed


def _swapped(w: Numbers) -> Numbers:
    """First and last channel, exchanged."""
    axis = next((place for place, size in enumerate(w.shape) if size > 1), 0)
    order = np.arange(w.shape[axis])
    order[[0, -1]] = order[[-1, 0]]
    return np.take(w, order, axis)


def _turned(w: Numbers) -> Numbers:
    """The last two axes that are alike, exchanged: a transposed kernel."""
    pairs = [(a, b) for a in range(w.ndim) for b in range(a + 1, w.ndim) if w.shape[a] == w.shape[b] > 1]
    return np.swapaxes(w, *pairs[-1]) if pairs else w


def _wrapped(w: Numbers) -> Numbers:
    """The largest values come out with the other sign, as in int8 that wraps around at 128."""
    return np.where(np.abs(w) >= 0.97 * np.abs(w).max(), -w, w)


FAULTS: dict[Role, dict[str, Change]] = {
    "weights": {
        "channel zeroed": _channel(np.zeros_like),
        "channel doubled": _channel(_times(2)),
        "channel negated": _channel(_times(-1)),
        "channels swapped": _swapped,
        "kernel transposed": _turned,
        "largest wrapped": _wrapped,
    },
    "bias": {"bias zeroed": np.zeros_like, "bias 10 % off": _times(1.1), "biases swapped": _swapped},
    "range": {},
    "operator": {},
}
"""What is done to stored numbers."""

SCALES: dict[Role, dict[str, float]] = {
    "weights": {"weights 1 % off": 1.01, "weights 5 % off": 1.05},
    "bias": {},
    "range": {"range halved": 0.5, "range a quarter": 0.25},
    "operator": {},
}
"""What is done to scales, or to the numbers themselves where they have none."""


def mutants(sites: FaultSites, into: Path, most: int, seed: int = 0) -> Iterator[Mutant]:
    """Plant each kind of fault at `most` sites, drawn by `seed`; what changes no more than rounding is none."""
    draw = random.Random(seed)  # noqa: S311 which sites are hit
    every = sites.all()
    for role, changes in FAULTS.items():
        own = [site for site in every if site.role == role]
        for kind, change in changes.items():
            for site in draw.sample(own, min(most, len(own))):
                numbers = site.numbers
                if numbers is None or not numbers.size:
                    continue
                new = change(numbers.astype(np.float64))
                if new.shape == numbers.shape and not _rounds_alike(role, numbers, new):
                    yield Mutant(kind, site.where, sites.planted(site, _fresh(into), numbers=new))
        for kind, factor in SCALES[role].items():
            for site in draw.sample(own, min(most, len(own))):
                if site.scale is not None:
                    yield Mutant(kind, site.where, sites.planted(site, _fresh(into), scale=site.scale * factor))
                elif site.numbers is not None:
                    yield Mutant(kind, site.where, sites.planted(site, _fresh(into), numbers=site.numbers * factor))
    yield from _relatives(every, sites, into, 2 * most, draw)


def _rounds_alike(role: Role, numbers: Numbers, new: Numbers) -> bool:
    """Whether a change changes nothing, or moves the integers of a bias by no more than a step, which rounding may."""
    whole = role == "bias" and np.array_equal(numbers, np.rint(numbers))
    return bool(np.abs(np.rint(new) - numbers).max() <= 1) if whole else np.array_equal(new, numbers)


def _relatives(
    every: list[FaultSite], sites: FaultSites, into: Path, most: int, draw: random.Random
) -> Iterator[Mutant]:
    own = [site for site in every if site.role == "operator"]
    for site in draw.sample(own, min(most, len(own))):
        yield Mutant("another operator", site.where, sites.planted(site, _fresh(into)))


def _fresh(into: Path) -> Path:
    folder = into / str(len(list(into.iterdir())))
    folder.mkdir()
    return folder


def stored(numbers: Numbers, like: Numbers, zero_point: Numbers | int = 0) -> Numbers:
    """Numbers in the element type of others, rounded and cut off where those are integers."""
    moved = numbers + zero_point
    if like.dtype.kind not in "iu":
        return np.asarray(moved, like.dtype)
    limits = np.iinfo(like.dtype)
    return np.clip(np.rint(moved), limits.min, limits.max).astype(like.dtype)
