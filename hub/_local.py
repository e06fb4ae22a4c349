"""The gate's second layer: each layer of a result against the float model's, on what the result's own layer was given.

A quantized file says how far it may be off: its constants lie on grids, so they are off by half a step at most, and so
is what a layer gives, before its range cuts it off. What is further off is no rounding but a fault, whatever samples
the outputs were judged on.
"""

import contextlib
import itertools
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
import numpy as np

from hub._constants import MOST_EXCESS, judge_constant, with_moved_biases
from hub._corrections import SECONDS as CORRECTION_SECONDS
from hub._corrections import Correction, CorrectionSamples, CorrectionSource, correctable, product_of
from hub._counterparts import LayerGraphs, LayerPair, SharedConstant, Stored
from hub._gains import GainSums, normalizes, with_another_epsilon
from hub._grids import ErrorSums, LaidGrid, real_numbers
from hub._layer_bounds import BOUNDS, FAR_STEPS, GROSS, HEARD_CUT, REACH, LocalBounds
from hub.spec import (
    SQNR_CAP_DB,
    Feeds,
    Format,
    InnerTensor,
    LayerParity,
    LocalReport,
    ModelArtifact,
    Numerics,
    OpensInside,
    Read,
    Remark,
    Runtime,
    RuntimeOptions,
    Session,
    ShowsIntermediates,
    StepError,
    UnsupportedModel,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    Reals = npt.NDArray[np.float64]

SAMPLES = 8
"""Samples on which layers are compared: a layer has many values in each."""

LAYERS_AT_ONCE = 64
"""Layers whose constants and results are in memory together."""

LAYERS_AT_FIRST = 16
"""Of a model whose layers nobody has timed yet."""

SECONDS = 20.0
"""After so long no more samples are run: a fault is in every sample. After twice that the layers that have seen none
are left out; there are runtimes without fast kernels for some precisions."""

SMALL_BYTES = 2**25
"""Of smaller models all constants are read at once."""

MOST_BYTES = 2**28
"""Larger models are not compared: the constants of a few layers of theirs fill the memory of a small machine."""


_MOST_JOINT = 12
"""Layers of a result, without a counterpart each, that are compared as one: each adds its rounding."""

SummedUp = Literal["result", "rounding"]
_WITH_INTEGERS = frozenset({Numerics.INT8, Numerics.INT8_MIXED})


def _judge_result(
    pair: LayerPair, tensor: InnerTensor, what: SummedUp, sums: ErrorSums, bounds: LocalBounds
) -> LayerParity:
    """Judge what was summed up; of layers that are held against others jointly, beside one step of rounding."""
    joint = pair.joint and what == "result"
    said = LayerParity(layer=pair.layer.name, operator=pair.layer.operator, tensor=tensor.name, what=what)
    if not math.isfinite(sums.noise):
        return msgspec.structs.replace(said, failures=("it gives NaN or infinity",))
    if tensor.quant is None or joint:
        rounding = sums.count * max(tensor.quant.scale) ** 2 if tensor.quant else 0.0
        noise = max(sums.noise - sums.cut_noise - rounding, 0.0) if tensor.quant else sums.noise
        ratio = sums.signal / noise if noise else math.inf
        sqnr = min(SQNR_CAP_DB, 10 * math.log10(ratio)) if ratio > 0 else -SQNR_CAP_DB
        least = bounds.sqnr_min_db
        if joint:
            least = bounds.inner_min_db if pair.held else bounds.joint_min_db
        least = least if pair.integers else max(least, bounds.plain_min_db)
        failures: tuple[str, ...] = (f"SQNR {sqnr:.1f} dB < {least:g} dB",) if sqnr < least and noise else ()
        excess = min(10 ** ((least - sqnr) / 20), MOST_EXCESS) if noise else 0.0
        return msgspec.structs.replace(said, sqnr_db=sqnr, excess=excess, failures=failures)
    rms, far, cut = (sums.kept_noise / sums.count) ** 0.5, sums.far / sums.count, sums.cut / sums.count
    cut_noise = sums.cut_noise / sums.signal if sums.signal else 0.0
    gross = sums.kept_noise * max(tensor.quant.scale) ** 2 > GROSS * sums.signal
    failures = ()
    if gross and rms > bounds.rms_steps:
        failures += (f"off by {rms:.2f} steps (rms; rounding is 0.29) > {bounds.rms_steps:g}",)
    if gross and far > bounds.far_share:
        failures += (f"{far:.1%} of the values are more than {FAR_STEPS:g} steps off",)
    cautions: tuple[str, ...] = ()
    short = sums.reach > REACH and cut_noise > HEARD_CUT
    if (short or cut_noise > bounds.cut_noise) and not pair.joint:  # else what is read there may be read otherwise too
        ends = f", and ends at {1 / sums.reach:.0%} of a sample's largest" if short else ""
        cautions = (f"its range cuts off {cut:.1%} of the values, {cut_noise:.1%} of their power{ends}",)
    excess = min(MOST_EXCESS, max(rms / bounds.rms_steps, far / bounds.far_share)) if gross else 0.0
    return msgspec.structs.replace(
        said, steps=rms, far_share=far, cut_share=cut, excess=excess, failures=failures, cautions=cautions
    )


class LayerCheck(NamedTuple):
    """A result and the float model that it was made of, with the two that read and run both."""

    reader: Format
    runtime: Runtime
    float_model: ModelArtifact
    result: ModelArtifact
    options: RuntimeOptions

    def report(self, samples: Iterable[Feeds], calibration: CorrectionSamples | None = None) -> LocalReport:
        """Hold the result against the float model, layer by layer.

        Args:
            samples: Feeds in the result's own terms.
            calibration: Those that the quantizer had, likewise, where they are at hand.

        Returns:
            The report; where nothing can be compared, one that says why.
        """
        reader = self.reader
        if not isinstance(reader, OpensInside):
            return LocalReport(lack=f"the plugin that reads {reader.name} does not show layers")
        if self.float_model.size_bytes > MOST_BYTES:
            return LocalReport(lack=f"models of more than {MOST_BYTES >> 20} MiB are not compared layer by layer")
        files = Path(self.float_model.path), Path(self.result.path)

        def held(names: tuple[Sequence[str], Sequence[str]]) -> tuple[Stored, Stored]:
            return reader.constants(files[0], names[0]), reader.constants(files[1], names[1])

        found: list[LayerParity] = []
        try:
            graphs = LayerGraphs(reader.inside(files[0]), reader.inside(files[1]), held)
            with contextlib.closing(self.runtime.open(self.result, self.options)) as whole:
                apart = _Apart(self, reader, graphs, whole, list(itertools.islice(samples, SAMPLES)))
                apart.calibration = calibration or apart.calibration
                apart.lay_out()
                pairs = graphs.pairs()
                apart.by_result = {pair.float_layer.outputs[0]: pair for pair in pairs}
                if not pairs:
                    return LocalReport(lack="no layer of the result is named as one of the float model")
                stored = apart.constants(pairs) if self.float_model.size_bytes <= SMALL_BYTES else None
                start, size = 0, LAYERS_AT_FIRST
                while some := pairs[start : start + size]:
                    begun = time.monotonic()
                    seconds = SECONDS * len(some) / max(len(pairs), LAYERS_AT_ONCE)
                    found += apart.compare(some, stored or apart.constants(some), seconds)
                    start, size = start + size, apart.next_size((time.monotonic() - begun) / len(some))
        except UnsupportedModel as error:
            return LocalReport(lack=error.message)
        if not found:
            return LocalReport(lack="; ".join(f"{why} ({count} layers)" for why, count in apart.left_out.items()))
        of = len(graphs.result.layers)
        compared = {pair.layer.outputs for pair in pairs} | apart.inner
        alone = sum(layer.outputs not in compared for layer in graphs.result.layers)
        left_out = apart.left_out | {"no layer of the float model gives what it gives": alone}
        failed = sum(bool(item.failures) for item in found)
        worst = sorted(found, key=lambda item: (not item.failures, not item.cautions, -item.steps, item.sqnr_db))
        return LocalReport(
            layers=of - sum(left_out.values()),
            of=of,
            joint=apart.joint + len(apart.inner - {pair.layer.outputs for pair in pairs}),
            left_out={why: number for why, number in left_out.items() if number},
            constants=sum(item.what == "constant" for item in found),
            samples=apart.samples,
            failed=failed,
            excess=max(item.excess for item in found),
            worst=tuple(worst[: min(max(failed, 8), 32)]),
            remarks=(*_remarks(found), *_uncorrected(apart.uncorrected)),
        )


class _Apart:
    """Runs the layers of the float model apart from each other, each on what the result's own layer was given."""

    def __init__(
        self, check: LayerCheck, reader: OpensInside, graphs: LayerGraphs, whole: Session, feeds: Sequence[Feeds]
    ) -> None:
        if not isinstance(whole, ShowsIntermediates):
            raise UnsupportedModel(f"{check.runtime.name} does not show what is inside a model")
        self.check, self.reader, self.graphs, self.whole, self.feeds = check, reader, graphs, whole, feeds
        self.start = time.monotonic()
        self.bounds = BOUNDS.get(check.result.state.numerics, LocalBounds())
        self.samples = len(feeds)
        self.left_out: dict[str, int] = {}
        self.uncorrected: dict[str, int] = {}
        self.calibration = CorrectionSamples(lambda: feeds)
        self.by_result: Mapping[str, LayerPair] = {}
        self.joint = 0
        self.inner: set[tuple[str, ...]] = set()

    def next_size(self, seconds: float) -> int:
        """How many layers are taken next where one takes so long: no more than the time that is left is for."""
        left = self.start + 2 * SECONDS - time.monotonic()
        return max(1, min(LAYERS_AT_ONCE, int(left / max(seconds, 1e-6))))

    def constants(self, pairs: Sequence[LayerPair]) -> tuple[Stored, Stored]:
        """Read the constants of layers, the float model's and the result's.

        Raises:
            UnsupportedModel: The reader cannot read one.
        """
        return (
            self.reader.constants(
                Path(self.check.float_model.path), sorted({name for pair in pairs for _, name in pair.stored})
            ),
            self.reader.constants(Path(self.check.result.path), sorted({name for pair in pairs for name in pair.own})),
        )

    def lay_out(self) -> None:
        """Settle the order of axes of tensors that moved, on the first sample."""
        moved = self.graphs.moved
        if not moved or not self.feeds:
            return
        check, tensors = self.check, self.graphs.result.tensors
        with contextlib.closing(check.runtime.open(check.float_model, check.options)) as session:
            if not isinstance(session, ShowsIntermediates):
                raise UnsupportedModel(f"{check.runtime.name} does not show what is inside a float model")
            with contextlib.closing(session.intermediate(list(moved.values()))) as inner:
                one = inner.run(self.feeds[0])
        with contextlib.closing(self.whole.intermediate(list(moved))) as inner:
            other = inner.run(self.feeds[0])
        self.graphs.lay_out(
            {name: one[name].astype("float64") for name in moved.values()},
            {name: real_numbers(other[name], tensors[name]) for name in moved},
        )

    def _corrections(self, biases: Mapping[int, tuple[LayerPair, SharedConstant]]) -> dict[int, Correction]:
        """By how much biases are moved where they are corrected; none where that cannot be computed."""
        products = {index: product_of(self.graphs, *item) for index, item in biases.items()}
        pairs = {index: self.by_result.get(product.outputs[0]) for index, product in products.items() if product}
        known = {index: pair for index, pair in pairs.items() if pair}
        stored = self.constants(list(known.values()))
        found = {
            index: correctable(self.graphs, pair.with_constants(stored), stored[1]) for index, pair in known.items()
        }
        check = self.check
        source = CorrectionSource(self.reader, check.runtime, check.float_model, self.graphs.float, check.options)
        layers = {index: item for index, item in found.items() if item}
        begun, seconds = (
            time.monotonic(),
            CORRECTION_SECONDS * LAYERS_AT_ONCE / max(len(self.by_result), LAYERS_AT_ONCE),
        )
        try:
            return source.corrections(layers, self.calibration, seconds) if layers else {}
        except (StepError, UnsupportedModel) as error:  # a layer that does not run apart: the means tell
            self.uncorrected[error.message] = self.uncorrected.get(error.message, 0) + len(layers)
            return {}
        finally:
            self.start += time.monotonic() - begun  # the time of its own takes none from the layers

    def _means(self, pairs: Sequence[LayerPair]) -> "dict[str, tuple[Reals, Reals]]":
        """What layers of either model give in the mean over the samples, laid out alike, by the result's names."""
        check, graphs = self.check, self.graphs
        names = {pair.layer.outputs[0]: pair.float_layer.outputs[0] for pair in pairs}
        found: list[Mapping[str, Reals]] = []
        for model, asked in ((check.float_model, names.values()), (check.result, names)):
            with contextlib.closing(check.runtime.open(model, check.options)) as session:
                if not isinstance(session, ShowsIntermediates):
                    return {}
                with contextlib.closing(session.intermediate(list(dict.fromkeys(asked)))) as inner:
                    given = [inner.run(sample) for sample in self.feeds]
            found.append({name: _mean_of([item[name].astype(np.float64) for item in given]) for name in asked})
        return {own: (found[0][name], graphs.laid_out(own, found[1][own])) for own, name in names.items()}

    def compare(self, pairs: Sequence[LayerPair], stored: tuple[Stored, Stored], seconds: float) -> list[LayerParity]:
        """Compare constants, and what the layers give."""
        check, bounds = self.check, self.bounds
        compared = []
        shared = []
        for pair in (pair.with_constants(stored) for pair in pairs):
            shared += [(pair, item) for item in pair.shared]
            if pair.joint and max(len(pair.inner), len(pair.part)) > _MOST_JOINT:
                self._leave_out("it does the work of many layers with constants of their own")
            else:
                compared.append(pair)
                self.joint += pair.joint
                self.inner |= {layer.outputs for layer in pair.inner}
        found = [judge_constant(pair, item, stored, bounds) for pair, item in shared]
        if check.result.state.numerics in _WITH_INTEGERS:
            found = [*with_moved_biases(found, shared, stored, self._corrections, self._means)]
        found += [told for pair in pairs if (told := with_another_epsilon(pair))]
        if time.monotonic() > self.start + 2 * SECONDS:
            for _ in compared:
                self._leave_out(f"{2 * SECONDS:g} seconds were over; its constants were compared")
            return found
        return found + (self._results(compared, stored, time.monotonic() + seconds) if compared else [])

    def _leave_out(self, why: str) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + 1

    def _results(self, pairs: Sequence[LayerPair], stored: tuple[Stored, Stored], until: float) -> list[LayerParity]:
        """Compare what the layers of `pairs` give; one that does not run alone is left out."""
        try:
            return self._run(pairs, stored, until)
        except Exception:  # noqa: BLE001 whatever a framework raises of a model that is cut up
            if len(pairs) == 1:
                self._leave_out("the float model's layer does not run alone")
                return []
        half = len(pairs) // 2
        return [*self._results(pairs[:half], stored, until), *self._results(pairs[half:], stored, until)]

    def _run(self, pairs: Sequence[LayerPair], stored: tuple[Stored, Stored], until: float) -> list[LayerParity]:
        graphs, check, tensors = self.graphs, self.check, self.graphs.result.tensors
        reads = dict(read for pair in pairs for read in graphs.read_by(pair))
        kinds = {
            Read(layer.outputs[0], slot): graphs.float.tensors[name].dtype.value
            for pair in pairs
            for layer in pair.part
            for slot, name in enumerate(layer.inputs)
            if name
        }
        roundings = list(dict.fromkeys(graphs.roundings(pairs)))
        wanted = {pair.layer.outputs[0]: pair for pair in pairs}
        readers = {name: pair for pair, name, _ in roundings}
        names = [*wanted, *reads.values(), *(name for rounding in roundings for name in rounding[1:] if name)]
        shown = list(dict.fromkeys(names))
        own = {tensor: name for name, tensor in graphs.result.inputs.items()}
        sums: dict[tuple[str, SummedUp], ErrorSums] = {}
        gains = {name: GainSums() for name, pair in wanted.items() if normalizes(pair) and tensors[name].quant}
        with tempfile.TemporaryDirectory(prefix="hub-cut-") as folder, contextlib.ExitStack() as opened:
            values = {
                item.read: item.order.laid_out(stored[1][item.name].values) for pair in pairs for item in pair.shared
            }
            layers = [pair.float_layer.outputs[0] for pair in pairs]
            file = self.reader.cut(Path(check.float_model.path), Path(folder), layers, [*reads], values)
            inner = self.whole.intermediate([name for name in shown if name not in own])
            opened.callback(inner.close)
            cut = check.runtime.open(msgspec.structs.replace(check.float_model, path=str(file)), check.options)
            opened.callback(cut.close)
            for count, sample in enumerate(self.feeds, start=1):
                given = inner.run(sample) | {tensor: sample[name] for tensor, name in own.items()}
                there = {name: real_numbers(given[name], tensors[name]) for name in shown}
                laid = {name: graphs.laid_out(name, there[name]) for name in (*wanted, *reads.values())}
                gives = cut.run({read.fed: laid[name].astype(kinds[read]) for read, name in reads.items()})
                for name, pair in wanted.items():
                    one = gives[pair.float_layer.outputs[0]].astype("float64")
                    order = graphs.orders.get(graphs.root(name))
                    grid = LaidGrid.of(tensors[name], there[name].shape, order.laid_out if order else None)
                    sums.setdefault((name, "result"), ErrorSums()).add(one, laid[name], grid)
                    if grid and name in gains:
                        gains[name].add(one, laid[name], grid)
                for _, name, rounded in roundings:
                    if rounded:
                        grid = LaidGrid.of(tensors[name], there[name].shape)
                        sums.setdefault((name, "rounding"), ErrorSums()).add(there[rounded], there[name], grid)
                if time.monotonic() > until:  # of this share of the layers; every layer sees one sample at least
                    self.samples = min(self.samples, count)
                    break
        found = []
        for (name, what), total in sums.items():
            pair = wanted[name] if what == "result" else readers[name]
            parity = _judge_result(pair, tensors[name], what, total, self.bounds)
            said = graphs.wiring(pair) if parity.failures and what == "result" else ""
            parity = msgspec.structs.replace(parity, failures=(*parity.failures, said)) if said else parity
            found.append(parity)
        norms = ((wanted[name], sums.gain()) for name, sums in gains.items())
        found += [told for pair, gain in norms if gain and (told := gain.told(pair))]
        return found


def _mean_of(arrays: "Sequence[Reals]") -> "Reals":
    """Of all samples; along an axis that has another size in each, as sentences have, their own means first."""
    sizes = [set(some) for some in zip(*(array.shape for array in arrays), strict=True)]
    varying = tuple(place for place, some in enumerate(sizes) if len(some) > 1)
    return np.asarray(np.mean([array.mean(axis=varying, keepdims=True) for array in arrays], axis=0), np.float64)


def _remarks(found: Iterable[LayerParity]) -> Iterator[Remark]:
    """What is told and does not refuse: one remark of a kind, with the worst layer."""
    told = [item for item in found if item.cautions]
    moved, gains, others = ([item for item in told if item.what == what] for what in ("constant", "norm", "epsilon"))
    cut = [item for item in told if item.what not in {"constant", "norm", "epsilon"}]
    hint = "give calibration data like the data that it will see"
    if cut:
        yield Remark("warning", "layer-range-cuts", _worst_words(cut), hint)
    if moved:
        yield Remark("warning", "layer-bias-moved", _worst_words(moved), hint)
    if gains:
        grid = (
            "where so much matters, try --precision fp16, or another route: --avoid EDGE (`hub plan` names the edges)"
        )
        yield Remark("warning", "layer-norm-off", _worst_words(gains), grid)
    if others:
        epsilon = "where it is not meant, leave out the edge that wrote it: --avoid EDGE (`hub plan` names the edges)"
        yield Remark("warning", "layer-epsilon-off", _worst_words(others), epsilon)


def _uncorrected(reasons: Mapping[str, int]) -> Iterator[Remark]:
    """Of how many biases a correction could not be done again, and why."""
    for why, count in reasons.items():
        text = f"biases judged by their layers' means alone: {count}, as no correction could be done again: {why}"
        yield Remark("note", "correction-unknown", text)


def _worst_words(told: Sequence[LayerParity]) -> str:
    worst = max(told, key=lambda item: item.cut_share)
    more = f", and {len(told) - 1} more" if len(told) > 1 else ""
    return f"the layer {worst.layer} ({worst.operator}){more}: {worst.cautions[0]}"


def describe_local(report: LocalReport) -> str:
    """The worst layer that failed, in one line, and how many others did."""
    first = next(item for item in report.worst if item.failures)
    more = f"; and {report.failed - 1} more" if report.failed > 1 else ""
    what = {"constant": "a constant of it", "result": "what it gives", "rounding": "what it reads"}
    failures = ", ".join(first.failures)
    return f"the layer {first.layer} ({first.operator}) is not the float model's: {what[first.what]}: {failures}{more}"
