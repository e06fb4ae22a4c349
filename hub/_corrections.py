"""By how much a bias correction moves what a layer adds, from the formula that the quantizer itself uses."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from hub._counterparts import ADDS, LayerGraphs, LayerPair, SharedConstant, Stored
from hub.spec import (
    Feeds,
    InnerLayer,
    Inside,
    ModelArtifact,
    OpensInside,
    Read,
    Runtime,
    RuntimeOptions,
    Session,
    ShowsIntermediates,
    UnsupportedModel,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    Reals = npt.NDArray[np.float64]

DEVIATIONS = 5.0
"""Standard deviations of the predicted mean that a bias may be off: of few samples, and of as many channels as a model
has, where sound ones of NNCF's were 1.2 off at most (decision 89)."""

ROUNDING = 2e-5
"""Of a layer's largest value: what kernels in float32 add up in another order."""

SECONDS = 10.0
"""For all biases of a model."""

FEWEST = 8
"""Samples that are not the quantizer's own, of which a mean tells something: of fewer their spread is not known, and a
tolerance as wide as that explains any bias."""

_BIAS_SLOT = 2  # of convolutions and products that add one themselves


class Correctable(NamedTuple):
    """A product of rounded weights, whose mean error a bias behind it may make up for.

    Attributes:
        product: The float model's layer that multiplies.
        slot: Which of its inputs are activations.
        weights: Where it reads its weights.
        values: The result's weights, laid out as the float model's.
    """

    product: InnerLayer
    slot: int
    weights: Read
    values: "Reals"

    @property
    def read(self) -> Read:
        """Where the product reads activations."""
        return Read(self.product.outputs[0], self.slot)

    @property
    def gives(self) -> str:
        """What the product gives."""
        return self.product.outputs[0]

    @property
    def axis(self) -> int:
        """Along which channels lie."""
        return 1 if "Conv" in self.product.operator else -1


class Correction(NamedTuple):
    """By how much a bias is moved where it is corrected, by channel, and how far that may be off.

    Attributes:
        moved: Mean over samples.
        tolerance: What other samples and float rounding may move it.
    """

    moved: "Reals"
    tolerance: "Reals"

    def explains(self, by: "Reals") -> bool:
        """Whether a bias is moved by that."""
        return bool((np.abs(by.ravel() - self.moved) <= self.tolerance).all())


def is_added(pair: LayerPair, item: SharedConstant) -> bool:
    """Whether a constant is what a layer adds."""
    own = item.read.result == pair.float_layer.outputs[0] and item.read.slot == _BIAS_SLOT
    return pair.layer.operator in ADDS or own


def product_of(graphs: LayerGraphs, pair: LayerPair, bias: SharedConstant) -> InnerLayer | None:
    """The float model's layer whose result a bias is added to: the one that adds it, or the one before."""
    layer = pair.float_layer
    if layer.operator not in ADDS:
        return layer
    given = [name for slot, name in enumerate(layer.inputs) if name and Read(layer.outputs[0], slot) != bias.read]
    return graphs.makers.get(given[0]) if len(given) == 1 else None


def correctable(graphs: LayerGraphs, pair: LayerPair, stored: Stored) -> Correctable | None:
    """A product as one that a bias may make up for; None where it has not one tensor of weights that both models have.

    Args:
        graphs: Both models.
        pair: The product's layers, with the constants that both have.
        stored: The result's constants.
    """
    layer, tensors = pair.float_layer, graphs.float.tensors
    moving = [slot for slot, name in enumerate(layer.inputs) if name and not tensors[name].constant]
    weights = [item for item in pair.shared if item.read.result == layer.outputs[0] and item.read.slot != _BIAS_SLOT]
    if len(moving) != 1 or len(weights) != 1:
        return None
    (item,) = weights
    return Correctable(layer, moving[0], item.read, item.order.laid_out(stored[item.name].values))


class CorrectionSamples(NamedTuple):
    """Samples that a correction is computed from.

    Attributes:
        feeds: Gives them, in the terms of either model, each time that it is called.
        all_there: How many samples the quantizer had, if these are of those; 0 where they are others.
    """

    feeds: Callable[[], Iterable[Feeds]]
    all_there: int = 0

    def tell(self, count: int) -> bool:
        """Whether the mean over `count` of these, with their spread, says what a correction is."""
        return count == self.all_there or count >= (2 if self.all_there else FEWEST)

    def spread(self, count: int) -> float:
        """Deviations of the mean over `count` of these from the quantizer's, of the samples' own standard deviation.

        Of n of its N samples sqrt(1/n - 1/N), which is nothing where they are all; of n others, and no fewer of its
        own, sqrt(2/n).
        """
        part = 1 / count - 1 / self.all_there if self.all_there else 2 / count
        return float(max(part, 0.0) ** 0.5)


class CorrectionSource(NamedTuple):
    """A float model with what reads and runs it, for what its layers give on samples."""

    reader: OpensInside
    runtime: Runtime
    model: ModelArtifact
    inside: Inside
    options: RuntimeOptions

    def corrections(
        self, layers: Mapping[int, Correctable], samples: CorrectionSamples, seconds: float = SECONDS
    ) -> dict[int, Correction]:
        """What a correction moves the bias behind each product by; after `seconds` no more samples are run.

        As NNCF has it (FastBiasCorrection): the mean of what the float product gives, less what the product of the
        rounded weights gives where each value of a channel is its channel's mean. Where a kernel reaches over the edge
        these differ by more than rounding. A layer of which too few samples were run has none, nor one with another
        number of channels in each sample (weights on the left of a product).

        Raises:
            UnsupportedModel: The runtime does not show what is inside.
            StepError: A layer does not run apart.
        """
        rows: dict[int, list[Reals]] = {key: [] for key in layers}
        sizes = dict.fromkeys(layers, 0.0)
        until = time.monotonic() + seconds
        with tempfile.TemporaryDirectory(prefix="hub-bias-") as folder, contextlib.ExitStack() as stack:
            cut = self._rounded(layers, Path(folder), stack)
            for given in self._given(layers, samples.feeds(), stack):
                gives = cut.run({item.read.fed: self._even(given, item) for item in layers.values()})
                for key, item in layers.items():
                    real = given[item.gives]
                    rows[key].append(_by_channel(real - gives[item.gives].astype(np.float64), item.axis))
                    sizes[key] = max(sizes[key], float(np.abs(real).max()))
                if time.monotonic() > until:
                    break
        return {
            key: _mean(np.stack(some), samples.spread(len(some)), sizes[key])
            for key, some in rows.items()
            if samples.tell(len(some)) and len({row.shape for row in some}) == 1
        }

    def _rounded(self, layers: Mapping[int, Correctable], folder: Path, stack: contextlib.ExitStack) -> Session:
        """The products by themselves, with the result's weights."""
        products = {item.gives: item for item in layers.values()}
        reads, values = [p.read for p in products.values()], {p.weights: p.values for p in products.values()}
        file = self.reader.cut(Path(self.model.path), folder, [*products], reads, values)
        cut = msgspec.structs.replace(self.model, path=str(file))
        return stack.enter_context(contextlib.closing(self.runtime.open(cut, self.options)))

    def _given(
        self, layers: Mapping[int, Correctable], feeds: Iterable[Feeds], stack: contextlib.ExitStack
    ) -> "Iterator[dict[str, Reals]]":
        """What the float products read and give, sample by sample."""
        own = {tensor: name for name, tensor in self.inside.inputs.items()}
        names = dict.fromkeys(n for item in layers.values() for n in (item.product.inputs[item.slot], item.gives))
        session = stack.enter_context(contextlib.closing(self.runtime.open(self.model, self.options)))
        if not isinstance(session, ShowsIntermediates):
            raise UnsupportedModel(f"{self.runtime.name} does not show what is inside a float model")
        inner = stack.enter_context(contextlib.closing(session.intermediate([n for n in names if n not in own])))
        for sample in feeds:
            given = inner.run(sample) | {tensor: sample[name] for tensor, name in own.items()}
            yield {name: given[name].astype(np.float64) for name in names}

    def _even(self, given: "Mapping[str, Reals]", item: Correctable) -> "npt.NDArray[np.generic]":
        """What a product reads, each value its channel's mean."""
        name = item.product.inputs[item.slot]
        array = given[name]
        means = array.mean(axis=_rest(array.ndim, item.axis), keepdims=True)
        return np.broadcast_to(means, array.shape).astype(self.inside.tensors[name].dtype.value)


def _rest(rank: int, axis: int) -> tuple[int, ...]:
    return tuple(place for place in range(rank) if place != axis % rank)


def _by_channel(array: "Reals", axis: int) -> "Reals":
    return np.asarray(array.mean(axis=_rest(array.ndim, axis)), np.float64)


def _mean(rows: "Reals", spread: float, size: float) -> Correction:
    """Mean and tolerance; a channel that hardly moves in these samples may in others as its neighbours do."""
    variance = rows.var(axis=0, ddof=1) if len(rows) > 1 else np.square(rows[0])
    deviation = np.sqrt(variance + variance.mean())
    return Correction(rows.mean(axis=0), DEVIATIONS * spread * deviation + ROUNDING * size)
