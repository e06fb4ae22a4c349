"""What each quantized place of a model alone does to the outputs, and which places must go to reach a goal.

Rounding errors of different layers hardly know of each other, so that their powers nearly add up: on an image and a
sentence network the sum is within 1 dB of all together. The places to give back to float can thus be chosen at once,
from one measurement of each, instead of layer by layer with a trial each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Powers = npt.NDArray[np.float64]

_WHOLLY_WRONG = 1e6  # times the signal: what noise that is not finite counts as
_OVER_REST = 10**0.05  # 0.5 dB above what stays without any place: closer to it, removing gains next to nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What places do to the outputs, as powers over the samples; columns are outputs and their quiet parts.

    Attributes:
        names: The places: layers, quantizers, or whatever goes back to float together.
        signal: [parts] of the float model.
        rest: [parts] of noise that stays without any place.
        alone: [places, parts] of noise that each adds to it.
        costs: [places] What giving it back to float costs, above zero: multiplications, or the same for all.
    """

    names: tuple[str, ...]
    signal: Powers
    rest: Powers
    alone: Powers
    costs: Powers

    @classmethod
    def of(
        cls, names: Sequence[str], signal: Powers, rest: Powers, noise: Powers, costs: Sequence[float] = ()
    ) -> Noise:
        """From what was measured.

        Args:
            names: The places.
            signal: [parts]
            rest: [parts] measured without any place.
            noise: [places, parts] measured with one place each, what `rest` is included.
            costs: [places]; all the same without.
        """
        import numpy as np

        most = _WHOLLY_WRONG * signal + 1e-30
        rest, noise = (np.minimum(np.nan_to_num(powers, nan=np.inf), most) for powers in (rest, noise))
        paid = np.asarray(costs, np.float64) if len(costs) else np.ones(len(names))
        return cls(names=tuple(names), signal=signal, rest=rest, alone=np.maximum(noise - rest, 0), costs=paid)

    def to_remove(self, goal_db: float) -> tuple[str, ...]:
        """The cheapest places whose removal brings every part to a goal, if noises add up; the worst come first.

        A part that stays below the goal without any place is brought close to what it reaches then. Chosen greedily by
        noise taken for cost; what a later choice makes needless stays. It is a covering problem, whose exact solution
        is not worth its time: noises add up to within a dB only.
        """
        import numpy as np

        budget = np.maximum(self.signal / 10 ** (goal_db / 10), self.rest * _OVER_REST)
        removed: list[int] = []
        kept = list(range(len(self.names)))
        while kept:
            excess = self.rest + self.alone[kept].sum(axis=0) - budget
            over = excess > 0
            if not over.any():
                break
            taken = np.minimum(self.alone[kept][:, over] / excess[over], 1).sum(axis=1)
            removed.append(kept.pop(int((taken / self.costs[kept]).argmax())))
        for place in sorted(removed, key=lambda place: -self.costs[place]):
            if (self.rest + self.alone[[*kept, place]].sum(axis=0) <= budget).all():
                removed.remove(place)
                kept.append(place)
        return tuple(self.names[place] for place in removed)
