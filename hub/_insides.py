"""Two models from inside, on the same samples: which tensors are the same, how far they differ, and why."""

import contextlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
import numpy as np

from hub._causes import STRUCTURAL, PairConstants, hold_constants, result_causes, with_odd_orders
from hub._grids import ErrorSums, LaidGrid, real_numbers
from hub._layer_bounds import BOUNDS, LocalBounds
from hub._matching import (
    SURE,
    AxisOrder,
    InnerResult,
    Matches,
    axis_orders,
    input_layers,
    match,
    relative_noise,
    result_of,
    root_of,
)
from hub._tally import decibels
from hub._tasks import NOTHING_KNOWN, KnownChanges
from hub.spec import (
    SQNR_CAP_DB,
    DiffCause,
    Feeds,
    Format,
    InnerLayer,
    InnerTensor,
    Inside,
    InsideDiff,
    LayerDiff,
    MatchedBy,
    ModelArtifact,
    Numerics,
    OpensInside,
    Read,
    Runtime,
    RuntimeOptions,
    ShowsIntermediates,
    TensorDetail,
    UnsupportedModel,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    Reals = npt.NDArray[np.float64]

S = TypeVar("S")
K = TypeVar("K")
T = TypeVar("T")
LAYERS_AT_ONCE = 32
"""Layers whose results are in memory together, however large they are."""

VALUES_AT_ONCE = 2**22
"""Values up to which more layers are: opening a model of thousands of tiny ones for each few takes minutes."""

SMALL_BYTES = 2**25
"""Of smaller files all constants are read at once."""

SECONDS = 120.0
"""After so long the layers that are left see one sample each."""

HEALED = 4.0
"""Times the noise of the tensor behind it, over which a tensor that was not found by its name is another one."""

FAINT = 0.02
"""Noise over signal up to which it may be the same all the same."""

BINS = 100
MOST_CHANNELS_DRAWN = 1024
MOST_VALUES = 2**22
"""Of one tensor that are kept for its histogram."""

SOUND_DB = {Numerics.FP32: 60.0, Numerics.FP16: 40.0, Numerics.BF16: 30.0}
"""SQNR of a layer by itself from which no rounding of a precision takes it: kernels add up in other orders."""

SOUND_INTEGERS_DB = 15.0
CUT_POWER = 0.01
"""Of what a layer gives, from which what a range cuts off is no rounding."""

BIAS_SHARE = 0.1
"""Of a layer's size, by which a constant on no grid may be moved in a model with integers: they correct biases."""

SATURATED = 0.05
ROUNDED_MOVE = 1e-3
"""Receipts name a move by four digits."""


class ShownModel(NamedTuple):
    """A model with its layers, its reader, and a session that shows what is inside."""

    reader: OpensInside
    runtime: Runtime
    artifact: ModelArtifact
    options: RuntimeOptions
    inside: Inside
    whole: ShowsIntermediates

    def shown(self, names: Sequence[str], feeds: Iterable[Feeds]) -> Iterator[dict[str, "Reals"]]:
        """Tensors by name, as real numbers, sample by sample; what is fed is among what can be asked for."""
        for given in self.stored(names, feeds):
            yield {name: real_numbers(given[name], self.inside.tensors[name]) for name in names}

    def stored(self, names: Sequence[str], feeds: Iterable[Feeds]) -> Iterator[dict[str, "npt.NDArray[np.generic]"]]:
        """Likewise, as they are stored."""
        own = {tensor: name for name, tensor in self.inside.inputs.items()}
        asked = list(dict.fromkeys(name for name in names if name not in own))
        with contextlib.ExitStack() as stack:
            inner = stack.enter_context(contextlib.closing(self.whole.intermediate(asked))) if asked else None
            for sample in feeds:
                given = (inner.run(sample) if inner else {}) | {
                    own_name: sample[name] for own_name, name in own.items()
                }
                yield {name: given[name] for name in names}


def open_inside(
    reader: Format, runtime: Runtime, artifact: ModelArtifact, options: RuntimeOptions, stack: contextlib.ExitStack
) -> ShownModel:
    """Open a model for looking inside; `stack` closes it.

    Raises:
        UnsupportedModel: The plugin does not show layers, or the runtime no tensors.
    """
    if not isinstance(reader, OpensInside):
        raise UnsupportedModel(f"the plugin that reads {reader.name} does not show layers")
    whole = stack.enter_context(contextlib.closing(runtime.open(artifact, options)))
    if not isinstance(whole, ShowsIntermediates):
        raise UnsupportedModel(f"{runtime.name} does not show what is inside a model")
    return ShownModel(reader, runtime, artifact, options, reader.inside(Path(artifact.path)), whole)


class TensorPair(NamedTuple):
    """A tensor of the first model and the same one of the second."""

    place: int
    one: InnerResult
    other: InnerResult
    by: MatchedBy
    order: AxisOrder

    @property
    def layers(self) -> tuple[InnerLayer, InnerLayer]:
        """The layers that give it."""
        return self.one.layer, self.other.layer


def is_real(tensor: InnerTensor) -> bool:
    """Whether it holds real numbers, and no indices or flags."""
    return tensor.dtype.is_float or tensor.quant is not None


def _values(pair: TensorPair) -> int:
    return math.prod(pair.one.shape)


def _sqnr_db(signal: float, noise: float) -> float:
    return decibels(signal, noise) if np.isfinite(noise) else -SQNR_CAP_DB


class InsideComparison:
    """Compares two models from inside; made once for each pair."""

    def __init__(
        self,
        one: ShownModel,
        other: ShownModel,
        feeds: Sequence[tuple[Feeds, Feeds]],
        worst: int,
        known: KnownChanges = NOTHING_KNOWN,
    ) -> None:
        self.one, self.other, self.feeds, self.worst, self.known = one, other, feeds, worst, known
        self.left_out: Counter[str] = Counter()
        self.start = time.monotonic()
        self.same_format = one.artifact.state.format == other.artifact.state.format
        numerics = other.artifact.state.numerics
        self.bounds = BOUNDS.get(numerics, LocalBounds())
        self.sound_db = SOUND_DB.get(numerics, SOUND_INTEGERS_DB)
        self.makers = tuple({name: layer for layer in m.inside.layers for name in layer.outputs} for m in (one, other))

    def report(self) -> InsideDiff:
        """Compare everything that both have."""
        ones, others = (self._results(model, side) for side, model in enumerate((self.one, self.other)))
        of = len(self.one.inside.layers), len(self.other.inside.layers)
        pairs = self._ordered(ones, others, match(ones, others))
        if not pairs:
            return InsideDiff(of=of, left_out=dict(self.left_out), lack="no tensor of one is found in the other")
        self.pairs = {pair.one.tensor: pair for pair in pairs}
        self.taken = {pair.other.tensor for pair in pairs}
        files = [Path(model.artifact.path) for model in (self.one, self.other)]
        small = all(file.is_file() and file.stat().st_size < SMALL_BYTES for file in files)
        constants = with_odd_orders(self._groups(pairs, self._constants, lambda _: 0 if small else VALUES_AT_ONCE))
        sums = self._groups(pairs, self._sums, _values)
        layers = [
            self._judged(pair, sums[pair.place], constants.get(pair.place, PairConstants()))
            for pair in pairs
            if pair.place in sums
        ]
        found = InsideDiff(layers=tuple(layers), of=of, samples=len(self.feeds))
        places = {layer.place for layer in (found.first, *found.worst(self.worst)) if layer}
        looked_at = self._groups([pair for pair in pairs if pair.place in places], self._looked_at, _values)
        explained = tuple(
            msgspec.structs.replace(
                layer, causes=(*layer.causes, *self._results_causes(layer, looked_at[layer.place][0]))
            )
            if layer.place in looked_at
            else layer
            for layer in layers
        )
        details = tuple(detail for _, detail in looked_at.values())
        return msgspec.structs.replace(found, layers=explained, details=details, left_out=dict(self.left_out))

    def _groups(
        self, items: Sequence[S], work: Callable[[Sequence[S]], Mapping[K, T]], values: Callable[[S], int]
    ) -> dict[K, T]:
        """Do something with some items at a time; a group that a framework fails on is halved, down to one item.

        `values` tells how many values an item has in memory.
        """
        found: dict[K, T] = {}
        waiting: list[Sequence[S]] = []
        start = held = 0
        for place, item in enumerate(items):
            held += values(item)
            if place + 1 == len(items) or (place + 1 - start >= LAYERS_AT_ONCE and held >= VALUES_AT_ONCE):
                waiting.append(items[start : place + 1])
                start, held = place + 1, 0
        while waiting:
            some = waiting.pop(0)
            try:
                found |= work(some)
            except Exception as error:  # noqa: BLE001 whatever a framework raises of a model that is opened or cut up
                if len(some) == 1:
                    self.left_out[f"its runtime does not show or run it apart ({type(error).__name__})"] += 1
                else:
                    waiting[:0] = [some[: len(some) // 2], some[len(some) // 2 :]]
        return found

    def _results(self, model: ShownModel, side: int) -> list[InnerResult]:
        """What a model's layers give on the first sample, in the order of execution: real numbers alone."""

        def shown(layers: Sequence[InnerLayer]) -> dict[str, InnerResult]:
            given = next(model.shown([layer.outputs[0] for layer in layers], [self.feeds[0][side]]))
            return {
                layer.name: result_of(model.inside, layer, given[layer.outputs[0]], self.known.renamed)
                for layer in layers
            }

        inside = model.inside
        layers = (*input_layers(inside), *inside.layers)
        real = [layer for layer in layers if layer.outputs and is_real(inside.tensors[layer.outputs[0]])]
        found: dict[str, InnerResult] = {}
        start, count = 0, LAYERS_AT_ONCE
        while start < len(real):  # how large results are is known once they are there
            found |= (some := self._groups(real[start : start + count], shown, lambda _: 0))
            start += count
            largest = max((math.prod(item.shape) for item in some.values()), default=VALUES_AT_ONCE)
            count = max(LAYERS_AT_ONCE, min(4 * count, VALUES_AT_ONCE // max(largest, 1)))
        return list(found.values())

    def _ordered(self, ones: Sequence[InnerResult], others: Sequence[InnerResult], found: Matches) -> list[TensorPair]:
        """Matches with the order of axes: that of most tensors of a rank; in another format where it fits as well."""
        plain = [
            TensorPair(place, ones[place], others[other], by, next(axis_orders(ones[place].shape, others[other].shape)))
            for place, (other, by) in found.items()
        ]
        noises = self._groups(plain, self._noise_by_order, _values)
        votes: dict[int, Counter[tuple[int, ...]]] = {}
        for pair in plain:
            best = min(noises.get(pair.place, {}).items(), key=lambda item: item[1], default=None)
            if best and best[1] < 0.5:  # noqa: PLR2004 otherwise it says nothing of the order
                votes.setdefault(len(pair.order.order), Counter())[best[0]] += 1
        ordered = []
        for pair in plain:
            noise = noises.get(pair.place, {})
            usual = [order for order, _ in votes.get(len(pair.order.order), Counter()).most_common() if order in noise]
            order = min(noise, key=lambda item: noise[item], default=pair.order.order)
            if usual and (self.same_format or noise[usual[0]] <= 2 * noise[order]):
                order = usual[0]
            spread = float(pair.one.quantiles.std())
            alike = 1 - float(np.abs(pair.one.quantiles - pair.other.quantiles).mean()) / (spread or 1.0) > SURE
            if len(pair.one.sizes) <= 1 and alike and noise.get(order, 0.0) > 0.5:  # noqa: PLR2004 as above
                self.left_out["it has the same values in another order, as where axes were flattened"] += 1
                continue
            if pair.by == "value" and pair.one.kind != pair.other.kind and noise.get(order, 0.0) > 1:
                self.left_out["what has values most like it is another tensor"] += 1
                continue
            ordered.append((pair._replace(order=pair.order._replace(order=order)), noise.get(order, 0.0)))
        return self._unhealed(ordered)

    def _unhealed(self, pairs: Sequence[tuple[TensorPair, float]]) -> list[TensorPair]:
        """Leave out what is no counterpart: an error that is gone in the next tensor was none, but another tensor."""
        kept: list[TensorPair] = []
        behind = math.inf
        for pair, noise in reversed(pairs):
            if not self.same_format and pair.by != "name" and noise > max(HEALED * behind, FAINT):
                self.left_out["it has no counterpart that computes the same, for what is behind it is right"] += 1
                continue
            kept.append(pair)
            behind = noise
        return kept[::-1]

    def _noise_by_order(self, pairs: Sequence[TensorPair]) -> dict[int, dict[tuple[int, ...], float]]:
        (a, b), found = self.feeds[0], {}
        one = next(self.one.shown([pair.one.tensor for pair in pairs], [a]))
        other = next(self.other.shown([pair.other.tensor for pair in pairs], [b]))
        for pair in pairs:
            orders = list(axis_orders(pair.one.shape, pair.other.shape))
            left, right = one[pair.one.tensor], other[pair.other.tensor]
            found[pair.place] = {item.order: relative_noise(left, item.laid_out(right)) for item in orders}
        return found

    def _part(self, layer: InnerLayer, side: int) -> list[InnerLayer]:
        """A layer, and before it those between it and the nearest tensors that both models have."""
        bounds = self.pairs.keys() if side == 0 else self.taken
        part, waiting = {layer.outputs[0]: layer}, [layer]
        while waiting:
            for name in waiting.pop().inputs:
                maker = self.makers[side].get(name)
                if maker and name not in bounds and maker.outputs[0] not in part:
                    part[maker.outputs[0]] = maker
                    waiting.append(maker)
        return list(part.values())

    def _constants(self, pairs: Sequence[TensorPair]) -> dict[int, PairConstants]:
        """Hold the constants that layers read against each other."""
        reads = {
            pair.place: [self._read_constants(layer, side) for side, layer in enumerate(pair.layers)] for pair in pairs
        }
        stored = [
            model.reader.constants(
                Path(model.artifact.path), sorted({n for both in reads.values() for n in both[side]})
            )
            for side, model in enumerate((self.one, self.other))
        ]
        return {
            pair.place: hold_constants(
                {name: stored[0][name] for name in reads[pair.place][0]},
                {name: stored[1][name] for name in reads[pair.place][1]},
                self.bounds,
                kind="" if self.same_format else pair.other.kind,
            )
            for pair in pairs
        }

    def _read_constants(self, layer: InnerLayer, side: int) -> list[str]:
        tensors = (self.one, self.other)[side].inside.tensors
        read = dict.fromkeys(name for item in self._part(layer, side) for name in item.inputs if name)
        return [name for name in read if tensors[name].constant and is_real(tensors[name])]

    def _fed(self, pair: TensorPair) -> Iterator[tuple[Read, str, AxisOrder | None]]:
        """Where the first model's layers of a pair are to read the second's tensors, which, and laid out how.

        An input of the model is read as it is fed: there the name is empty.
        """
        own = {root_of(self.other.inside, name): name for name in pair.other.layer.inputs if name and self._moves(name)}
        inputs = {tensor: name for name, tensor in self.one.inside.inputs.items()}
        for layer in self._part(pair.one.layer, 0):
            for slot, name in enumerate(layer.inputs):
                before = self.pairs.get(name)
                if before:
                    tensor = before.other.tensor
                    yield (
                        Read(layer.outputs[0], slot),
                        own.get(root_of(self.other.inside, tensor), tensor),
                        before.order,
                    )
                elif name in inputs:
                    yield Read(layer.outputs[0], slot), "", None

    def _moves(self, name: str) -> bool:
        return not self.other.inside.tensors[name].constant

    def _sums(self, pairs: Sequence[TensorPair]) -> dict[int, tuple[ErrorSums, ErrorSums]]:
        """Sum up the error of some tensors over the samples, in the whole run and of each layer by itself."""
        sums = {pair.place: (ErrorSums(), ErrorSums()) for pair in pairs}
        for one, wanted, found in self._runs(pairs):
            for pair in pairs:
                tensor = self.other.inside.tensors[pair.other.tensor]
                laid = pair.order.laid_out(found[pair.other.tensor])
                grid = LaidGrid.of(tensor, pair.other.shape, pair.order.laid_out)
                for total, before in zip(sums[pair.place], (one, wanted), strict=True):
                    if pair.one.tensor in before:
                        total.add(before[pair.one.tensor], laid, grid)
            if time.monotonic() > self.start + SECONDS:
                break
        return sums

    def _runs(
        self, pairs: Sequence[TensorPair]
    ) -> Iterator[tuple[dict[str, "Reals"], dict[str, "Reals"], dict[str, "Reals"]]]:
        """Each sample: the first model's tensors, what its layers give on the second's inputs, the second's tensors.

        Where the first model's layers do not run apart there is nothing between the two.
        """
        fed = {pair.place: list(self._fed(pair)) for pair in pairs}
        read = [name for reads in fed.values() for _, name, _ in reads if name]
        ones = self.one.shown([pair.one.tensor for pair in pairs], (a for a, _ in self.feeds))
        others = self.other.shown([*(pair.other.tensor for pair in pairs), *read], (b for _, b in self.feeds))
        with tempfile.TemporaryDirectory(prefix="hub-cut-") as folder, contextlib.ExitStack() as stack:
            cut = self._cut(pairs, [item for reads in fed.values() for item in reads], Path(folder), stack)
            for (feeds, _), one, found in zip(self.feeds, ones, others, strict=True):
                yield one, cut(feeds, found), found

    def _cut(
        self,
        pairs: Sequence[TensorPair],
        fed: Sequence[tuple[Read, str, AxisOrder | None]],
        folder: Path,
        stack: contextlib.ExitStack,
    ) -> "Callable[[Feeds, dict[str, Reals]], dict[str, Reals]]":
        """Cut the first model's layers apart; gives what runs them on the second's tensors."""
        model = self.one
        if model.artifact.state.numerics is not Numerics.FP32:
            self.left_out["the first model is not float32, so its layers were not run apart"] = len(self.pairs)
            return lambda _feeds, _found: {}
        inputs = {tensor: name for name, tensor in model.inside.inputs.items()}
        reads = [read for read, _, _ in fed]
        results = [pair.one.tensor for pair in pairs if pair.one.tensor not in inputs]
        file = model.reader.cut(Path(model.artifact.path), folder, results, reads, {})
        opened = model.runtime.open(msgspec.structs.replace(model.artifact, path=str(file)), model.options)
        session = stack.enter_context(contextlib.closing(opened))

        def run(feeds: Feeds, found: dict[str, "Reals"]) -> dict[str, "Reals"]:
            gives = session.run(self._laid_out(fed, feeds, found)) if results else {}
            given = {tensor: feeds[name] for tensor, name in inputs.items()} | {name: gives[name] for name in results}
            return {name: array.astype(np.float64) for name, array in given.items()}

        return run

    def _laid_out(
        self, fed: Sequence[tuple[Read, str, AxisOrder | None]], feeds: Feeds, found: Mapping[str, "Reals"]
    ) -> dict[str, "npt.NDArray[np.generic]"]:
        """What the first model's layers are to be fed, from its own inputs and the second's tensors."""
        inputs = {tensor: name for name, tensor in self.one.inside.inputs.items()}
        laid = {}
        for read, name, order in fed:
            source = self.makers[0][read.result].inputs[read.slot]
            array = order.laid_out(found[name]) if order else feeds[inputs[source]]
            laid[read.fed] = array.astype(self.one.inside.tensors[source].dtype.value)
        return laid

    def _judged(self, pair: TensorPair, sums: tuple[ErrorSums, ErrorSums], constants: PairConstants) -> LayerDiff:
        """What is to be said of a pair, from its error in the whole run and that of its layer by itself."""
        grid = self.other.inside.tensors[pair.other.tensor].quant
        whole, own = sums
        local = _sqnr_db(own.signal, own.noise) if own.signal or own.noise else None
        cut_power = own.cut_noise / own.signal if own.signal else 0.0
        sound = local is not None and local >= self.sound_db
        size = (own.signal / whole.count) ** 0.5
        integers = self.sound_db == SOUND_INTEGERS_DB
        corrected = BIAS_SHARE * size if integers else 0.0
        correction = self._correction(pair)
        told = [item for item in constants.causes if integers and item.largest <= correction]
        if told and not sound:  # what the correction alone moves is no error
            left = own.noise - own.count * sum(item.moved**2 for item in told)
            sound = _sqnr_db(own.signal, max(left, 0.0)) >= self.sound_db
        causes, diverges = [], local is not None and not sound
        for item in constants.causes:
            cause, noise = item.cause, item.noise
            if item in told:
                text = f"a bias is moved by up to {item.largest:.3g}, by the bias correction that B's receipt tells of"
                causes.append(DiffCause(code="bias-moved", text=text))
            elif item.moved < corrected:
                text = (
                    f"a constant on no grid is moved by {item.moved / size:.1%} of the layer's size, as means are "
                    "corrected"
                )
                causes.append(DiffCause(code="bias-moved", text=text))
            elif cause.code == "norm-folded" or not (
                sound and (constants.folded or self._is_made_up_for(cause, noise, local or 0.0))
            ):
                perhaps = integers and self.known.corrections is None and item.vector and math.isfinite(item.largest)
                doubt = "; it may be a bias correction, as no receipt tells" if perhaps else ""
                causes.append(DiffCause(code=cause.code, text=f"{cause.text}{doubt}"))
                diverges |= not (cause.code in STRUCTURAL and constants.folded)
        if cut_power > CUT_POWER or (own.cut_noise > own.noise / 2 and cut_power > CUT_POWER / 100):
            share = own.cut / own.count
            text = f"its range cuts off {share:.2%} of the values, {cut_power:.2%} of their power"
            causes.append(DiffCause(code="range-cuts", text=text))
            diverges |= cut_power > CUT_POWER
        ends, cut = whole.ends / whole.count, own.cut / whole.count
        if grid and ends > SATURATED and (local is None or cut > CUT_POWER):
            text = f"{ends:.1%} of the values lie at the ends of its range"
            causes.append(DiffCause(code="saturated", text=text))
        accumulated = _sqnr_db(whole.signal, whole.noise)
        return LayerDiff(
            place=pair.place,
            layer=pair.other.layer.name,
            operator=pair.other.layer.operator,
            tensor=pair.other.tensor,
            other_layer=pair.one.layer.name,
            other_operator=pair.one.layer.operator,
            other_tensor=pair.one.tensor,
            shape=pair.one.shape,
            matched_by=pair.by,
            axes=pair.order.back,
            accumulated_db=accumulated,
            local_db=local,
            saturated_share=ends if grid else None,
            cut_share=cut if grid and local is not None else None,
            diverges=diverges if local is not None else accumulated < self.sound_db,
            causes=tuple(causes),
        )

    def _correction(self, pair: TensorPair) -> float:
        """By how much a quantizer says to have moved what a layer adds, or what the layers before it multiply."""
        known = self.known.corrections or {}
        makers = [self.makers[1].get(name) for name in pair.other.layer.inputs]
        names = [pair.other.layer.name, *(maker.name for maker in makers if maker)]
        return max(known.get(name, 0.0) for name in names) * (1 + ROUNDED_MOVE)

    def _is_made_up_for(self, cause: DiffCause, noise: float, local_db: float) -> bool:
        """Whether a file of another format keeps a constant otherwise, and the layer is right all the same."""
        return not self.same_format and (cause.code in STRUCTURAL or noise > 100 * 10 ** (-local_db / 10))

    def _looked_at(self, pairs: Sequence[TensorPair]) -> dict[int, tuple[tuple[DiffCause, ...], TensorDetail]]:
        """What explains the values of the tensors that differ most, and what is drawn of them."""
        kept: dict[int, list[tuple[Reals, Reals]]] = {pair.place: [] for pair in pairs}
        for one, wanted, found in self._runs(pairs):
            for pair in pairs:
                rows = kept[pair.place]
                if not rows or (len(rows) + 1) * rows[0][0].size <= MOST_VALUES:
                    before = wanted.get(pair.one.tensor, one[pair.one.tensor])
                    rows.append((before, pair.order.laid_out(found[pair.other.tensor])))
        looked_at = {}
        for pair in pairs:
            before, behind = (np.stack(rows) for rows in zip(*kept[pair.place], strict=True))
            grid = self.other.inside.tensors[pair.other.tensor]
            causes = tuple(result_causes(before, behind))
            looked_at[pair.place] = causes, _detail(pair, grid, before, behind)
        return looked_at

    def _results_causes(self, layer: LayerDiff, found: Sequence[DiffCause]) -> Iterator[DiffCause]:
        """What the values themselves say, where nothing before explains that a layer is off."""
        if not layer.diverges or any(
            cause.code not in STRUCTURAL | {"saturated", "bias-moved"} for cause in layer.causes
        ):
            return
        yield from found
        if found or layer.local_db is None:
            return
        grid = self.other.inside.tensors[layer.tensor].quant
        alike = "alike inputs and constants" if not layer.causes else "alike inputs"
        if grid and layer.local_db > 0 and max(grid.scale) ** 2 / 6 > self._power(layer) * 10 ** (-layer.local_db / 10):
            yield DiffCause(code="coarse-grid", text=f"the rounding of its grid, in steps of {max(grid.scale):.3g}")
            return
        words = f"{layer.other_operator} in A, {layer.operator} in B"
        yield DiffCause(code="other-computation", text=f"on {alike} it computes something else: {words}")

    def _power(self, layer: LayerDiff) -> float:
        """Mean square of a tensor, from its quantiles on the first sample."""
        return float(np.square(self.pairs[layer.other_tensor].one.quantiles).mean())


def _detail(pair: TensorPair, tensor: InnerTensor, before: "Reals", behind: "Reals") -> TensorDetail:
    """Histograms over the same bins, the grid, and the error of each channel; the samples lie along the first axis."""
    finite = [array[np.isfinite(array)] for array in (before, behind)]
    low, high = (float(f(np.concatenate(finite))) if finite[0].size else 0.0 for f in (np.min, np.max))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = [np.histogram(array, edges)[0] for array in finite]
    noise = np.square(np.nan_to_num(behind - before))
    axis, channels, spreads = -1, tuple[float, ...](), dict[int, float]()
    for place in range(2, before.ndim):
        rest = tuple(other for other in range(before.ndim) if other != place)
        own = noise.mean(axis=rest)
        if 1 < own.size <= MOST_CHANNELS_DRAWN:
            spreads[place] = float(own.max() / (own.mean() or 1.0))
    if spreads:
        axis = max(spreads, key=lambda place: spreads[place])
        rest = tuple(other for other in range(before.ndim) if other != axis)
        signal = np.square(np.nan_to_num(before)).sum(axis=rest)
        channels = tuple(
            round(_sqnr_db(float(s), float(n)), 2) for s, n in zip(signal, noise.sum(axis=rest), strict=True)
        )
    grid = LaidGrid.of(tensor, pair.other.shape, pair.order.laid_out)
    return TensorDetail(
        place=pair.place,
        edges=tuple(edges.tolist()),
        counts=tuple(counts[1].tolist()),
        other_counts=tuple(counts[0].tolist()),
        quant=tensor.quant,
        low=float(grid.low.min()) if grid else None,
        high=float(grid.high.max()) if grid else None,
        axis=axis - 1 if axis > 0 else -1,
        channels=channels,
    )
