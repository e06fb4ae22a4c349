"""Which tensor of one model is which of another: by name, by their values on the same sample, by where they stand.

Two files of one model differ in names, in the order of axes, in what is fused and in what is rounded. Values tell best:
the same tensor has the same quantiles whatever the order of its axes, and rounding moves them little.
"""

import itertools
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hub.spec import InnerLayer, Inside, MatchedBy

if TYPE_CHECKING:
    import numpy.typing as npt

    Reals = npt.NDArray[np.float64]

QUANTILES = 33
ALIKE = 0.7
"""Least likeness (1 less the mean distance of quantiles, in standard deviations) of what is matched by value."""

SURE = 0.95
"""Likeness from which the order of execution need not fit: branches run in any order."""


_LAYOUT = frozenset({"tra", "res"})
_ODD = 0.05


class InnerResult(NamedTuple):
    """What a layer of a model gives.

    Attributes:
        layer: The layer.
        tensor: As the model shows it.
        names: What files call it: the tensor's name before rounding, and the layer's.
        sizes: Sizes other than 1, smallest first.
        shape: Sizes on the first sample.
        quantiles: Of its values on the first sample.
    """

    layer: InnerLayer
    tensor: str
    names: frozenset[str]
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    quantiles: "Reals"

    @property
    def kind(self) -> str:
        """The beginning of the operator's word, which formats spell in their own ways: Conv, CONV_2D, QLinearConv."""
        word = self.layer.operator.casefold()
        for prefix in ("qlinear", "depthwise_", "group", "q"):
            word = word.removeprefix(prefix)
        return word[:3]


def root_of(inside: Inside, name: str) -> str:
    """A tensor before it was rounded."""
    while rounds := inside.tensors[name].rounds:
        name = rounds
    return name


INPUT = "input"
"""What stands for an operator where a model's own input is meant."""


def input_layers(inside: Inside) -> list[InnerLayer]:
    """The model's inputs as layers without operators, so that what rounds them is compared like other layers."""
    rounded = {root_of(inside, name): name for layer in inside.layers for name in layer.inputs if name}
    return [
        InnerLayer(name=name, operator=INPUT, inputs=(), outputs=(rounded.get(tensor, tensor),))
        for name, tensor in inside.inputs.items()
    ]


def result_of(inside: Inside, layer: InnerLayer, array: "Reals", meaningless: Collection[str] = ()) -> InnerResult:
    """A layer's first result, with its values on the first sample; some names say nothing of what it is."""
    tensor = inside.tensors[root_of(inside, layer.outputs[0])]
    names = {name for name in (tensor.stands_for, layer.name) if name and not name.isdigit()}
    kept = np.nan_to_num(array.ravel(), posinf=0, neginf=0)
    return InnerResult(
        layer=layer,
        tensor=layer.outputs[0],
        names=frozenset(names.difference(meaningless)),
        sizes=tuple(sorted(size for size in array.shape if size > 1)),
        shape=array.shape,
        quantiles=np.quantile(kept, np.linspace(0, 1, QUANTILES)) if kept.size else np.zeros(QUANTILES),
    )


Matches = dict[int, tuple[int, MatchedBy]]
"""Places in the first model -> places in the second."""


def match(ones: Sequence[InnerResult], others: Sequence[InnerResult]) -> Matches:
    """Match the results of two models, each in execution order."""
    found: Matches = {}
    for names in (_tensor_names, _all_names):  # a layer that is fused keeps the name of one of those that it is made of
        _add_named(found, ones, others, names)
    likeness = _likeness(ones, others)
    near = _mutual(likeness)
    moves = [np.array([item.kind in _LAYOUT for item in both], bool) for both in (ones, others)]
    odd = moves[0][:, None] != moves[1][None, :]  # of a layer and its transposed copy the layer is meant
    _add_in_order(found, near - ALIKE - _ODD * odd, "value")
    _add_sure(found, near)
    kinds = _numbered(ones, others, lambda item: (item.sizes, item.kind))
    before = [
        np.searchsorted(sorted(places), range(len(both)))
        for places, both in zip(_sides(found), (ones, others), strict=True)
    ]
    same = [one[:, None] == other[None, :] for one, other in (kinds, before)]
    _add_in_order(found, (same[0] & same[1]).astype(float), "place")
    return dict(sorted(found.items()))


def _sides(found: Matches) -> tuple[list[int], list[int]]:
    """Places of either model that are matched."""
    return list(found), [other for other, _ in found.values()]


def _numbered(
    ones: Sequence[InnerResult], others: Sequence[InnerResult], what: Callable[[InnerResult], Hashable]
) -> "tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]":
    """The same number for what is the same, so that arrays can be compared."""
    numbers: dict[Hashable, int] = {}
    one, other = (
        np.array([numbers.setdefault(what(item), len(numbers)) for item in both], np.intp) for both in (ones, others)
    )
    return one, other


def _tensor_names(result: InnerResult) -> frozenset[str]:
    return result.names - {result.layer.name}


def _all_names(result: InnerResult) -> frozenset[str]:
    return result.names


def _add_named(
    found: Matches,
    ones: Sequence[InnerResult],
    others: Sequence[InnerResult],
    names: Callable[[InnerResult], frozenset[str]],
) -> None:
    """Match what has the same name and sizes, where that is one."""
    by_name: dict[str, list[int]] = {}
    for place, result in enumerate(others):
        for name in names(result):
            by_name.setdefault(name, []).append(place)
    taken = {other for other, _ in found.values()}
    for place, one in enumerate(ones):
        same = {other for name in names(one) for other in by_name.get(name, ()) if others[other].sizes == one.sizes}
        if place not in found and len(free := same - taken) == 1:
            found[place] = (other := free.pop()), "name"
            taken.add(other)


def _likeness(ones: Sequence[InnerResult], others: Sequence[InnerResult]) -> "Reals":
    """1 for the same values, down to 0; 0 where sizes differ, or where nothing moves."""
    found = np.zeros((len(ones), len(others)))
    if not others:
        return found
    quantiles = np.stack([other.quantiles for other in others])
    sizes = _numbered(ones, others, lambda item: item.sizes)
    for place, one in enumerate(ones):
        spread = float(one.quantiles.std())
        same = (sizes[1] == sizes[0][place]) & bool(one.sizes)
        if spread and same.any():
            distance = np.abs(quantiles[same] - one.quantiles).mean(axis=1) / spread
            found[place, same] = np.clip(1 - distance, 0, 1)
    return found


def _mutual(likeness: "Reals") -> "Reals":
    """Likeness where each is about the likest to the other; 0 elsewhere: a sum is less like what is summed."""
    if not likeness.size:
        return likeness
    best = np.maximum(likeness.max(axis=0, keepdims=True), likeness.max(axis=1, keepdims=True))
    return np.where(1 - likeness <= 2 * (1 - best) + _ODD / 2, likeness, 0)


def _add_in_order(found: Matches, score: "Reals", by: MatchedBy) -> None:
    """Match what is left so that the order is kept and the sum of positive scores is largest (Needleman and Wunsch)."""
    ones, others = (
        [place for place in range(count) if place not in taken]
        for count, taken in zip(score.shape, map(set, _sides(found)), strict=True)
    )
    if not ones or not others:
        return
    scores = np.maximum(score[np.ix_(ones, others)], 0.0)
    best = np.zeros((len(ones) + 1, len(others) + 1))
    for row in range(len(ones)):
        diagonal = best[row, :-1] + scores[row]
        best[row + 1, 1:] = np.maximum.accumulate(np.maximum(diagonal, best[row, 1:]))
    row, column = len(ones), len(others)
    while row and column:
        if best[row, column] == best[row - 1, column]:
            row -= 1
        elif best[row, column] == best[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            found[ones[row]] = others[column], by


def _add_sure(found: Matches, likeness: "Reals") -> None:
    """Match what is alike beyond doubt and was left because it runs in another order."""
    taken = {other for other, _ in found.values()}
    for one in range(likeness.shape[0]):
        free = [other for other in np.flatnonzero(likeness[one] > SURE) if other not in taken]
        if one not in found and len(free) == 1:
            found[one] = int(free[0]), "value"
            taken.add(int(free[0]))


class AxisOrder(NamedTuple):
    """How to lay out a tensor of the second model as the first model has it.

    Attributes:
        order: Axes of the second's tensor in the first's order, axes of size 1 left out.
        shape: The first's sizes.
    """

    order: tuple[int, ...]
    shape: tuple[int, ...]

    def laid_out(self, array: "Reals") -> "Reals":
        """The second model's array as the first has it."""
        return array.reshape([size for size in array.shape if size > 1]).transpose(self.order).reshape(self.shape)

    @property
    def back(self) -> tuple[int, ...]:
        """The first's axes in the second's order; empty where that is the same."""
        back = tuple(int(axis) for axis in np.argsort(self.order))
        return back if back != tuple(range(len(back))) else ()


def axis_orders(shape: tuple[int, ...], other: tuple[int, ...]) -> Iterator[AxisOrder]:
    """Every order of the second's axes that has the first's sizes; the plain one first."""
    wanted = [size for size in shape if size > 1]
    sizes = [size for size in other if size > 1]
    for order in itertools.permutations(range(len(sizes))):
        if [sizes[axis] for axis in order] == wanted:
            yield AxisOrder(order, shape)


def relative_noise(one: "Reals", other: "Reals") -> float:
    """Power of the difference over that of the first; infinite where that is zero and the other not.

    Infinite numbers count as zero.
    """
    one, other = (np.nan_to_num(array, posinf=0, neginf=0) for array in (one, other))
    signal, noise = float(np.square(one).sum()), float(np.square(one - other).sum())
    return noise / signal if signal else float("inf") if noise else 0.0


def best_order(one: "Reals", other: "Reals") -> AxisOrder | None:
    """The order of axes in which the second is nearest to the first; None where sizes differ."""
    orders = list(axis_orders(one.shape, other.shape))
    if len(orders) < 2:  # noqa: PLR2004 there is no choice
        return orders[0] if orders else None
    return min(orders, key=lambda order: relative_noise(one, order.laid_out(other)))
