"""What each quantized place of a model alone does to the outputs, and which places must go to reach a goal.

Rounding errors of different layers hardly know of each other, so that their powers nearly add up: on an image and a
sentence network the sum is within 1 dB of all together. The places to give back to float can thus be chosen at once,
from one measurement of each, instead of layer by layer with a trial each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from hub.spec import StepWatch
from hub_quanttrials.judge import Judge, decibels

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub.spec.calibration import Feeds

    Powers = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]

WEIGHTS = " (weights)"
"""Behind a layer's name: the place of its stored weights, beside that of its activations."""

_WHOLLY_WRONG = 1e6  # times the signal: what noise that is not finite counts as
_TOLD = 10  # times that a measurement tells how far it is
_OVER_REST = 10**0.05  # 0.5 dB above what stays without any place: closer to it, removing gains next to nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What rounding does to the outputs, as powers over the samples; columns are outputs and their quiet parts.

    Attributes:
        names: The places: layers, quantizers, or whatever can go back to float.
        signal: [parts] of the float model.
        rest: [parts] of noise that stays without any place.
        alone: [sources, parts] of noise that each source adds to it.
        ties: [sources, places] Whether a place rounds there: a source is gone when all of its places are in float.
        costs: [places] What giving one back to float costs, above zero: multiplications, or the same for all.
    """

    names: tuple[str, ...]
    signal: Powers
    rest: Powers
    alone: Powers
    ties: Flags
    costs: Powers

    @classmethod
    def measure(  # noqa: PLR0913 what is measured, how, and who is told
        cls,
        names: Sequence[str],
        judge: Judge,
        run: Callable[[Feeds, int | None], Feeds],
        used: int,
        costs: Sequence[float] = (),
        ties: Flags | None = None,
        *,
        watch: StepWatch | None = None,
    ) -> Noise:
        """Runs the model on samples without any source, and with one at a time.

        What a source does is told from the outputs without any source, not from the float model's: with those it would
        share a cross term with what stays, which on few samples is larger than what the source does.

        Args:
            names: The places.
            judge: Gives the samples, and measures.
            run: The outputs for a sample with a source, or without any; all samples of one source come in a row.
            used: Samples to run, spread evenly over the judge's.
            costs: [places]; all the same without.
            ties: [sources, places]; each place is a source without.
            watch: Is told how it goes. Where it asks to end, sources that are not measured yet count as none.
        """
        import numpy as np

        tied = np.eye(len(names), dtype=bool) if ties is None else ties
        paid = np.asarray(costs, np.float64) if len(costs) else np.ones(len(names))
        places = range(0, len(judge.samples), max(1, math.ceil(len(judge.samples) / used)))
        signal = np.sum([list(judge.signals[place].values()) for place in places], axis=0)
        bare = {place: run(judge.samples[place], None) for place in places}
        rest = np.sum([list(judge.noises(place, outputs).values()) for place, outputs in bare.items()], axis=0)
        beside, alone = replace(judge, expected=bare), np.zeros((len(tied), len(signal)))
        for source, place in product(range(len(tied)), places):
            if watch and watch.is_ending:
                break
            if watch and place == places[0] and source % math.ceil(len(tied) / _TOLD) == 0:
                watch.tell(f"measuring what rounding does at each of {len(tied)} places: {source} done")
            alone[source] += list(beside.noises(place, run(judge.samples[place], source)).values())
        most = _WHOLLY_WRONG * signal + 1e-30
        rest, alone = (np.minimum(np.nan_to_num(powers, nan=np.inf), most) for powers in (rest, alone))
        return cls(names=tuple(names), signal=signal, rest=rest, alone=alone, ties=tied, costs=paid)

    def to_remove(self, goal_db: float) -> tuple[str, ...]:
        """The cheapest places whose removal brings every part to a goal, if noises add up; the worst come first.

        A part that stays below the goal without any place is brought close to what it reaches then. Sources are chosen
        greedily by noise taken for cost; places that a later choice makes needless stay. It is a covering problem,
        whose exact solution is not worth its time: noises add up to within a dB only.
        """
        import numpy as np

        budget = np.maximum(self.signal / 10 ** (goal_db / 10), self.rest * _OVER_REST)
        removed: list[int] = []
        kept = np.ones(len(self.names), bool)
        while True:
            left = np.flatnonzero((self.ties & kept).any(axis=1))
            excess = self.rest + self.alone[left].sum(axis=0) - budget
            over = excess > 0
            if not left.size or not over.any():
                break
            taken = np.minimum(self.alone[left][:, over] / excess[over], 1).sum(axis=1)
            best = left[(taken / ((self.ties[left] & kept) @ self.costs)).argmax()]
            removed += np.flatnonzero(self.ties[best] & kept).tolist()
            kept[removed] = False
        for place in sorted(removed, key=lambda place: -self.costs[place]):
            kept[place] = True
            if (self.rest + self.alone[(self.ties & kept).any(axis=1)].sum(axis=0) <= budget).all():
                removed.remove(place)
            else:
                kept[place] = False
        return tuple(self.names[place] for place in removed)

    @property
    def rest_db(self) -> float:
        """SQNR in dB of the worst part without any source."""
        return min(
            (decibels(*pair) for pair in zip(self.signal.tolist(), self.rest.tolist(), strict=True)), default=0.0
        )

    def joined(self, finer: Noise, owners: Sequence[int], costs: Sequence[float]) -> Noise:
        """With sources that took part in `rest`, in each of which a place of its own rounds beside one of these.

        Args:
            finer: What they do, each with a place of its own; its `rest` is what stays without all of them.
            owners: For each, the place here that must be in float too.
            costs: For each, what its own place costs.
        """
        import numpy as np

        count, more = len(self.names), len(finer.names)
        ties = np.zeros((len(self.ties) + more, count + more), bool)
        ties[: len(self.ties), :count] = self.ties
        ties[range(len(self.ties), len(ties)), owners] = True
        ties[len(self.ties) :, count:] = np.eye(more, dtype=bool)
        return Noise(
            names=(*self.names, *finer.names),
            signal=self.signal,
            rest=finer.rest,
            alone=np.vstack([self.alone, finer.alone]),
            ties=ties,
            costs=np.concatenate([self.costs, costs]),
        )

    def share(self, names: Sequence[str]) -> float:
        """What some places cost, of the cost of all."""
        chosen = [self.names.index(name) for name in names]
        return float(self.costs[chosen].sum() / self.costs.sum())

    def words(self, count: int = 3) -> str:
        """The worst sources by their places, with the SQNR in dB that each alone would leave in its worst part."""
        import numpy as np

        shares = (self.alone / (self.signal + 1e-30)).max(axis=1)
        worst = np.argsort(-shares, kind="stable")[:count]
        places = [[self.names[place] for place in np.flatnonzero(self.ties[row])[:3]] for row in worst]
        levels = [decibels(1, float(shares[row])) for row in worst]
        return "; ".join(f"{', '.join(some)} {level:.1f}" for some, level in zip(places, levels, strict=True))
