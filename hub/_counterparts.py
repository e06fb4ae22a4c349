"""Layers of a result beside those of the float model that it was made of: matched by names, else by what they read."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from hub._matching import AxisOrder, axis_orders, best_order, relative_noise, root_of
from hub.spec import InnerLayer, Inside, Read, StoredConstant

if TYPE_CHECKING:
    import numpy.typing as npt

    Reals = npt.NDArray[np.float64]

Stored = Mapping[str, StoredConstant]
Held = Callable[[tuple[Sequence[str], Sequence[str]]], tuple[Stored, Stored]]
"""Reads constants of the float model and of the result, by name."""

ALIKE = 0.0625
"""Noise over signal of a constant beside the rounded one; four bits leave 0.02."""

ROUNDED = 0.51
"""Steps up to which a value is the float one rounded."""

ADDS = frozenset({"Add", "ADD"})
_CLIPPING = frozenset({"Clip", "Clamp", "Minimum", "Maximum", "Min", "Max", "MINIMUM", "MAXIMUM"})
"""What a range does too, so that the bounds need not be kept."""

_ACTIVATIONS = frozenset(
    {"relu", "leakyrelu", "prelu", "elu", "selu", "sigmoid", "logistic", "hardsigmoid", "hsigmoid", "tanh", "softsign"}
    | {"softplus", "hardswish", "hswish", "swish", "silu", "gelu", "mish"}
)
"""Of one number each, in formats' spellings without capitals and underscores; what bounds alone is none of them."""


class SharedConstant(NamedTuple):
    """A constant that both models have: where the float layer reads it, its name in either, and its axes."""

    read: Read
    float_name: str
    name: str
    order: AxisOrder

    def there(self, float_values: "Reals", shape: tuple[int, ...]) -> "Reals":
        """The float model's values laid out as the result has them, in its shape."""
        back = tuple(int(axis) for axis in np.argsort(self.order.order))
        return AxisOrder(back, shape).laid_out(float_values)


class LayerPair(NamedTuple):
    """A layer of the float model and the result's own, which may do the work of layers before it too.

    Attributes:
        part: Layers of the float model; the last gives what `layer` gives, those before it the result has nothing for.
        layer: The result's.
        stored: Constants of numbers that the float layers read, and where.
        own: Those that the result's reads.
        opaque: Whether the result keeps constants in a form that is not understood.
        inner: Layers of the result before its own that the float model has nothing for.
        rounded: Whether what those give is rounded to a grid.
        integers: Whether any of it is, or a constant.
        joint: Whether the two are held against each other several layers at once, or with constants of their own.
        held: Whether all constants are the float model's, rounded: what is different is what is rounded between.
        shared: Constants that both have.
    """

    part: tuple[InnerLayer, ...]
    layer: InnerLayer
    stored: tuple[tuple[Read, str], ...]
    own: tuple[str, ...]
    opaque: bool
    inner: tuple[InnerLayer, ...] = ()
    rounded: bool = False
    integers: bool = False
    joint: bool = False
    held: bool = False
    shared: tuple[SharedConstant, ...] = ()

    @property
    def float_layer(self) -> InnerLayer:
        """The layer that gives what the result's gives."""
        return self.part[-1]

    def with_constants(self, stored: tuple[Stored, Stored]) -> "LayerPair":
        """With the constants that both have, and whether they can be held against each other one by one.

        Where the layers are as many on both sides, what is alike in shape is the same, however wrong it is. Else
        something may be folded into something: then a constant is the same where most of its values are the float
        ones, rounded, or where it is near and nothing is left that could be folded.
        """
        numbers = [name for name in self.own if not self._is_scale(name, stored[1])]
        folds = frozenset(layer.outputs[0] for layer in self.part if layer.operator in _CLIPPING)
        found = self._matched(numbers, stored)
        left = {read for read, _ in self.stored if read.result not in folds} - {item.read for item in found}
        apart = not (
            self.rounded
            or self.opaque
            or len(found) < len(numbers)
            or {r.result for r in left} - {item.read.result for item in found}
        )
        if apart:
            return self._replace(shared=found)
        sure = tuple(
            item
            for item, near, rounded in ((item, *_likeness(item, stored)) for item in found)
            if rounded or (near and not left)
        )
        held = not self.opaque and len(sure) == len(numbers) and not left
        return self._replace(joint=True, held=held, shared=sure)

    def _is_scale(self, name: str, stored: Stored) -> bool:
        """Whether a constant is the scale of another one, which integer operators apply behind them."""
        values = stored[name].values.ravel()
        steps = (stored[other].step for other in self.own if other != name)
        return any(step.any() and np.array_equal(step.ravel(), values) for step in steps)

    def _matched(self, names: Sequence[str], stored: tuple[Stored, Stored]) -> tuple[SharedConstant, ...]:
        """Constants in order, alike in shape, else in the order of axes that is nearest."""
        free, found = list(self.stored), []
        for name in names:
            other = stored[1][name].values

            def noise(fit: tuple[tuple[Read, str], AxisOrder], other: "Reals" = other) -> float:
                return relative_noise(stored[0][fit[0][1]].values, fit[1].laid_out(other))

            fits = [(item, order) for item in free if (order := best_order(stored[0][item[1]].values, other))]
            plain = [(item, first) for item, order in fits if not (first := _first_order(order, other)).back]
            if plain and not self.inner and self.layer.operator == self.float_layer.operator:
                fits = plain[:1]  # however wrong: another operator may keep its axes in another order
            if fits:
                item, order = min(fits, key=noise)
                free.remove(item)
                found.append(SharedConstant(*item, name, order))
        return tuple(found)


def _first_order(order: AxisOrder, other: "Reals") -> AxisOrder:
    """The plain order of axes where it has the sizes too."""
    return next(axis_orders(order.shape, other.shape))


def _likeness(item: SharedConstant, stored: tuple[Stored, Stored]) -> tuple[bool, bool]:
    """Whether a constant is near the float one, and whether most of its values are the float ones, rounded."""
    other = stored[1][item.name]
    one = item.there(stored[0][item.float_name].values, other.values.shape)
    tolerance = ROUNDED * np.abs(other.step) + 1e-6 * np.abs(np.nan_to_num(one)) + 1e-12
    rounded = (one == other.values) | (np.abs(np.nan_to_num(one) - np.nan_to_num(other.values)) <= tolerance)
    return relative_noise(one, other.values) < ALIKE, bool(np.mean(rounded) > 1 / 2)


def _is_activation(layer: InnerLayer) -> bool:
    return layer.operator.lower().replace("_", "") in _ACTIVATIONS


def _may_be(float_layer: InnerLayer, layer: InnerLayer) -> bool:
    """Whether a layer does what one of its name does, or another activation in its place."""
    return float_layer.operator == layer.operator or (_is_activation(float_layer) and _is_activation(layer))


class LayerGraphs:
    """The float model and the result, matched: by what the result's tensors stand for, else by what a layer reads.

    Attributes:
        moved: Tensors of the result whose layers have the float ones' names and the tensors not, as where axes were put
            into another order: the float model's names.
        orders: The order of axes of those, before they are rounded, once `lay_out` has seen values.
    """

    def __init__(self, float_inside: Inside, inside: Inside, held: Held | None = None) -> None:
        self.float, self.result, self.held = float_inside, inside, held
        self.makers = {name: layer for layer in float_inside.layers for name in layer.outputs}
        self.float_names = {tensor: float_inside.inputs[name] for name, tensor in inside.inputs.items()}
        self.own_makers = {self.root(name): layer for layer in inside.layers for name in layer.outputs}
        self.matched: dict[str, InnerLayer] = {}
        self.orders: dict[str, AxisOrder] = {}
        by_tensor = {float_inside.tensors[layer.outputs[0]].stands_for: layer for layer in float_inside.layers}
        by_layer = {layer.name: layer for layer in float_inside.layers}
        by_tensor.pop("", None)
        self._match_named(by_tensor, tensors_only=True)
        self._match_more_results(by_tensor)
        before = set(self.matched)
        self._match_named(by_layer, tensors_only=False)
        moved = [(name, layer) for name, layer in self.matched.items() if name not in before]
        self.moved = {
            own: name
            for first, layer in moved
            for own, name in zip(layer.outputs, self.makers[first].outputs, strict=False)
        }
        self._match_readers()

    def lay_out(self, float_values: "Mapping[str, Reals]", values: "Mapping[str, Reals]") -> None:
        """Settle the order of axes of what has moved, by one sample; what is no such tensor is matched no more.

        Args:
            float_values: By the float model's names.
            values: By those of the result.
        """
        for name, float_name in self.moved.items():
            order = best_order(float_values[float_name], values[name])
            if order and relative_noise(float_values[float_name], order.laid_out(values[name])) < 1:
                self.orders[self.root(name)] = order
            else:
                self.float_names.pop(self.root(name), None)
                self.matched.pop(float_name, None)
        self._match_readers()

    def laid_out(self, name: str, array: "Reals") -> "Reals":
        """A tensor of the result as the float model has it."""
        order = self.orders.get(self.root(name))
        return order.laid_out(array) if order else array

    def _match_named(self, names: Mapping[str, InnerLayer], *, tensors_only: bool) -> None:
        """Match layers by the names of what they give, rounded or not, and by their own."""
        taken = {layer.outputs for layer in self.matched.values()}
        for layer in self.result.layers:
            if layer.outputs in taken:
                continue
            chain = [layer.outputs[0]]
            while rounds := self.result.tensors[chain[-1]].rounds:
                chain.append(rounds)
            words = [self.result.tensors[name].stands_for for name in chain]
            for word in words if tensors_only else (*words, layer.name):
                one = names.get(word)
                if one and (tensors_only or word != layer.name or _may_be(one, layer)):
                    if tensors_only or one.outputs[0] not in self.matched:
                        self._match(one, layer)
                    break

    def _match_more_results(self, by_tensor: Mapping[str, InnerLayer]) -> None:
        """Where a layer gives besides its own result what a layer before it gave that was fused into it."""
        for layer in self.result.layers:
            for name in layer.outputs[1:]:
                one = by_tensor.get(self.result.tensors[self.root(name)].stands_for)
                if one and one.outputs[0] not in self.matched:
                    self._match(one, msgspec.structs.replace(layer, outputs=(name,)))

    def _match_readers(self) -> None:
        """Match what has no name by what it reads."""
        taken = {layer.outputs for layer in self.matched.values()}
        free = [layer for layer in self.result.layers if layer.outputs not in taken]
        for layer in self.float.layers:
            if layer.outputs[0] in self.matched:
                continue
            alike = [other for other in free if other.operator == layer.operator and self._reads_alike(layer, other)]
            one = self._nearest(layer, alike) if len(alike) > 1 else alike[0] if alike else self._other(layer, free)
            if one:
                self._match(layer, one)
                free.remove(one)
        self.counterparts = {
            float_name: name for name, float_name in self.float_names.items() if float_name not in self.float.inputs
        } | {self.float.inputs[name]: tensor for name, tensor in self.result.inputs.items()}
        for layer in self.matched.values():
            for name in layer.outputs:
                self.counterparts[self.float_name(name)] = name

    def _match(self, float_layer: InnerLayer, layer: InnerLayer) -> None:
        self.matched[float_layer.outputs[0]] = layer
        self.float_names |= zip(map(self.root, layer.outputs), float_layer.outputs, strict=False)

    def root(self, name: str) -> str:
        """A tensor of the result before it was rounded; a name of its own where the result has no such tensor."""
        return root_of(self.result, name) if name in self.result.tensors else name

    def float_name(self, name: str) -> str:
        """The float model's name for a tensor of the result; empty where it has none."""
        return self.float_names.get(self.root(name), "")

    def _reads_alike(self, float_layer: InnerLayer, layer: InnerLayer) -> bool:
        own = [self.float_name(name) for name in layer.inputs if name and not self.result.tensors[name].constant]
        wanted = [name for name in float_layer.inputs if name and not self.float.tensors[name].constant]
        return own == wanted and not self.moved.keys() & {*layer.inputs}

    def _other(self, float_layer: InnerLayer, free: Sequence[InnerLayer]) -> InnerLayer | None:
        """Another activation in a float one's place: the wrong one, or the same by another name; values tell.

        What it reads is read as often on both sides, so that it is no step of several that do the same.
        """
        found = [layer for layer in free if _is_activation(layer) and self._reads_alike(float_layer, layer)]
        if not _is_activation(float_layer) or len(found) != 1:
            return None
        given = float_layer.inputs[0]
        wanted = sum(layer.inputs.count(given) for layer in self.float.layers)
        own = sum(self.float_name(name) == given for layer in self.result.layers for name in layer.inputs if name)
        return found[0] if own == wanted else None

    def _nearest(self, float_layer: InnerLayer, alike: Sequence[InnerLayer]) -> InnerLayer | None:
        """Of layers that read the same the one with the same constants; None where they are rounded too much to tell.

        Of several with equal constants any is right.
        """

        def constants(inside: Inside, layer: InnerLayer) -> list[str]:
            return [name for name in layer.inputs if name and inside.tensors[name].constant]

        wanted = constants(self.float, float_layer)
        if not wanted or self.held is None:
            return None
        own = [constants(self.result, other) for other in alike]
        one, other = self.held((wanted, [name for names in own for name in names]))
        distances = []
        for names in own:
            pairs = [(one[left].values, other[right].values) for left, right in zip(wanted, names, strict=False)]
            fit = len(names) == len(wanted) and all(a.size == b.size for a, b in pairs)
            distances.append(max((relative_noise(a.ravel(), b.ravel()) for a, b in pairs if fit), default=np.inf))
        best = int(np.argmin(distances))
        return alike[best] if distances[best] < ALIKE else None

    def pairs(self) -> tuple[LayerPair, ...]:
        """Layers that give the same tensor."""
        return tuple(
            self._pair(layer, self.matched[layer.outputs[0]])
            for layer in self.float.layers
            if layer.outputs[0] in self.matched
        )

    def _pair(self, float_layer: InnerLayer, layer: InnerLayer) -> LayerPair:
        part = tuple({item.outputs: item for item in self._without_counterparts(float_layer)}.values())
        reads = [(Read(item.outputs[0], slot), name) for item in part for slot, name in enumerate(item.inputs) if name]
        held = [(read, self.float.tensors[name]) for read, name in reads if self.float.tensors[name].constant]
        inner = tuple({item.outputs: item for item in self._inner(layer)}.values())
        given = [name for item in (*inner, layer) for name in item.inputs if name]
        own = [self.result.tensors[name] for name in given if self.result.tensors[name].constant]
        numbers = [item.name for item in own if item.quant or item.dtype.is_float]
        whole = sum(not tensor.dtype.is_float for _, tensor in held)
        between = [self.result.tensors[item.outputs[0]] for item in inner]  # those behind may be places of a maximum
        rounded = any(tensor.quant or not tensor.dtype.is_float for tensor in between)
        opaque = len(own) - len(numbers) > whole
        return LayerPair(
            part=part,
            layer=layer,
            stored=tuple((read, tensor.name) for read, tensor in held if tensor.dtype.is_float),
            own=tuple(numbers),
            opaque=opaque,
            inner=inner,
            rounded=rounded,
            integers=rounded or opaque or any(tensor.quant for tensor in own),
        )

    def _without_counterparts(self, layer: InnerLayer) -> Iterator[InnerLayer]:
        """A layer of the float model, and before it those before it that the result has nothing for."""
        for name in layer.inputs:
            if name in self.makers and name not in self.counterparts:
                yield from self._without_counterparts(self.makers[name])
        yield layer

    def read_by(self, pair: LayerPair) -> Iterator[tuple[Read, str]]:
        """Where the float layers read what the result has too, and the result's tensor that is to be read there.

        That is what the result's own layers read, as a tensor may be there rounded and as it was.
        """
        own = {self.float_name(name): name for layer in (*pair.inner, pair.layer) for name in layer.inputs if name}
        for layer in pair.part:
            for slot, name in enumerate(layer.inputs):
                if name and not self.float.tensors[name].constant and name in self.counterparts:
                    other = (
                        pair.layer.inputs[slot] if layer is pair.float_layer and slot < len(pair.layer.inputs) else ""
                    )
                    alike = other and self.float_name(other) == name
                    yield Read(layer.outputs[0], slot), other if alike else own.get(name, self.counterparts[name])

    def _inner(self, layer: InnerLayer) -> Iterator[InnerLayer]:
        """Layers of the result before one that the float model has nothing for."""
        for name in layer.inputs:
            maker = self.own_makers.get(self.root(name)) if name and not self.float_name(name) else None
            if maker:
                yield from self._inner(maker)
                yield maker

    def wiring(self, pair: LayerPair) -> str:
        """What a layer reads other than the float model's does; empty where it reads the same."""
        for one, other in zip(pair.float_layer.inputs, pair.layer.inputs, strict=False):
            if len(pair.part) == 1 and one in self.counterparts and other and self.float_name(other) != one:
                return f"it reads {self.float_name(other) or other} where the float model's layer reads {one}"
        return ""

    def roundings(self, pairs: Iterable[LayerPair]) -> Iterator[tuple[LayerPair, str, str]]:
        """What a layer reads that is only rounded there: the layer, its name, and that of what is rounded."""
        for pair in pairs:
            for name in pair.layer.inputs:
                tensor = self.result.tensors.get(name)
                if tensor and not tensor.constant and tensor.quant and tensor.rounds:
                    given = self.counterparts.get(self.float_name(name), "")
                    yield pair, name, given if given != name else ""
