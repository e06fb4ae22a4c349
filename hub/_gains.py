"""How norms divide: their gain, as the slope of the error by the value, which rounding alone has not; their epsilon."""

from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
import numpy as np

from hub._counterparts import LayerPair
from hub._grids import LaidGrid
from hub.spec import LayerParity

if TYPE_CHECKING:
    import numpy.typing as npt

    Reals = npt.NDArray[np.float64]

MOST_LEVELS = 2**12
"""Of grids with more no gain is looked at: there is no such activation in eight bits."""

_LEAST_LEVELS = 32
"""Fewer levels that are met tell no slope from their own rounding."""


ALIKE = 0.01
"""Share by which an epsilon may be another one: formats keep it with as many digits as they like."""

SMALLEST = 2.0**-24
"""Epsilons below which one is as good as none: the smallest number of float16."""

MOST_OFF = 5e-4
"""Share by which a gain may be off where rounding is known so well."""

DEVIATIONS = 5.0
"""Standard deviations that rounding may move a gain by; norms of sound artifacts measured 2.3 (decision 90)."""


def normalizes(pair: LayerPair) -> bool:
    """Whether what a layer gives is divided by what it was measured to be, so that its gain hangs on an epsilon.

    No other layer is looked at: where one hands on what lies on a grid already, as a gate that is open does or
    attention to one word, and its own grid is nearly the same, each value is rounded to the same integer, which is a
    gain too.
    """
    operators = (layer.operator.lower() for layer in (pair.float_layer, pair.layer))
    return any(name == "mvn" or ("norm" in name and not name.startswith("batchnorm")) for name in operators)


def with_another_epsilon(pair: LayerPair) -> LayerParity | None:
    """A norm whose epsilon is not the float one's, for which a narrower type may have too few small numbers."""
    one, other = pair.float_layer.epsilon, pair.layer.epsilon
    if one is None or other is None or abs(one - other) <= ALIKE * abs(one) + SMALLEST:
        return None
    return _told(pair, "epsilon", f"its epsilon is {other:.3g}, the float model's {one:.3g}")


def _told(pair: LayerPair, what: Literal["norm", "epsilon"], said: str) -> LayerParity:
    layer, tensor = pair.layer, pair.float_layer.outputs[0]
    return LayerParity(layer=layer.name, operator=layer.operator, tensor=tensor, what=what, cautions=(said,))


class Gain(NamedTuple):
    """How much larger a layer's values are than they should be, as a share, and the standard deviation of that."""

    off: float
    deviation: float

    def told(self, pair: LayerPair) -> LayerParity | None:
        """What is to be told of it; None where rounding explains it."""
        if abs(self.off) <= max(MOST_OFF, DEVIATIONS * self.deviation):
            return None
        word = "larger" if self.off > 0 else "smaller"
        return _told(
            pair, "norm", f"its values are {abs(self.off):.2%} {word}, of which rounding explains {self.deviation:.3%}"
        )


class GainSums(msgspec.Struct, kw_only=True):
    """Running sums over samples, level by level of the grid: count, x, e, x*x, x*e, of values and errors in steps."""

    sums: "Reals | None" = None

    def add(self, wanted: "Reals", found: "Reals", grid: LaidGrid) -> None:
        """Add what lies inside of the range; what it cuts off would be a slope of its own."""
        levels = np.rint((grid.high - grid.low) / grid.scale).max()
        if not levels < MOST_LEVELS:
            return
        inside = (wanted > grid.low + grid.scale) & (wanted < grid.high - grid.scale) & np.isfinite(found)
        scale, low = (np.broadcast_to(item, wanted.shape)[inside] for item in (grid.scale, grid.low))
        x, error = wanted[inside] / scale, (found[inside] - wanted[inside]) / scale
        at = np.rint(x - low / scale).astype(np.int64)
        powers = (np.ones_like(x), x, error, x * x, x * error)
        sums = np.array([np.bincount(at, item, minlength=int(levels) + 1) for item in powers], np.float64)
        self.sums = sums if self.sums is None else self.sums + sums

    def gain(self) -> Gain | None:
        """The slope by least squares, and its deviation; None where too little was seen.

        A value that is met often is rounded alike each time, so that its errors are not independent. So the
        deviation is the jackknife's over levels of the grid: from the slopes that are
        left without one level each (Efron 1982).
        """
        if self.sums is None or (count := np.count_nonzero(self.sums[0])) < _LEAST_LEVELS:
            return None
        whole = self.sums.sum(axis=1, keepdims=True)
        slope, others = _slope(whole), _slope(whole - self.sums[:, self.sums[0] > 0])
        return Gain(float(slope[0]), float(np.sqrt((count - 1) / count * np.square(others - slope).sum())))


def _slope(sums: "Reals") -> "Reals":
    n, x, e, xx, xe = sums
    return np.asarray((n * xe - x * e) / (n * xx - x * x))
