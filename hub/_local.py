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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hub.spec import (
    SQNR_CAP_DB,
    Feeds,
    Format,
    InnerLayer,
    InnerTensor,
    Inside,
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
    StoredConstant,
    UnsupportedModel,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]
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


class LocalBounds(NamedTuple):
    """How far a sound layer may be off.

    Attributes:
        constant_steps: Steps of its grid, for a constant: half a step is rounding, the rest float32's own; where scales
            are kept in float16, that of up to 127 steps of a scale that is rounded by 2^-11.
        scale_smallest: Rounding of a scale that is kept in float16 and is next to nothing there, as a channel's may be.
        relative: For constants on no grid: the rounding of their element type.
        smallest: What may become zero in that type.
        rms_steps: Root mean square of a result's error in steps: 0.29 is one rounding, 0.41 two in a row.
        far_share: Share of values that may be `FAR_STEPS` off.
        cut_noise: Power of what a range cuts off, over the power of the layer's own signal. Quantizers cut off what is
            rare on purpose; the noise of a layer of 20 dB is heard in any output.
        sqnr_min_db: For results that lie on no grid.
        plain_min_db: For results that lie on no grid, of layers in which no integers are.
        joint_min_db: For what several layers give together, with constants of their own: their weights' rounding is in
            it, which is 35 to 45 dB by channel and may be 25 of a whole tensor.
    """

    constant_steps: float = 0.51
    scale_smallest: float = 0.0
    relative: float = 1e-6
    smallest: float = 1e-12
    rms_steps: float = 0.75
    far_share: float = 0.01
    cut_noise: float = 0.01
    sqnr_min_db: float = 80.0
    plain_min_db: float = 70.0
    joint_min_db: float = 20.0


FAR_STEPS = 2.0
GROSS = 1e-6
"""Noise over signal below which no error of a layer matters, however fine its grid (60 dB)."""

BIAS_SHARE = 0.3
"""Of a layer's mean signal, by which another bias may move its means away from the float model's."""

_HUGE = 1e4
"""What stands for minus infinity in masks, which a narrower type keeps as its own largest number."""

_CLIPPING = frozenset({"Clip", "Clamp", "Minimum", "Maximum", "Min", "Max", "MINIMUM", "MAXIMUM"})
"""What a range does too, so that the bounds need not be kept."""

_MOST_EXCESS = 1e6

_MOST_JOINT = 12
"""Layers of a result, without a counterpart each, that are compared as one: each adds its rounding."""

_INT4_LEVELS = 8
_ADDS = frozenset({"Add", "ADD"})
_BIAS_SLOT = 2  # of convolutions and products that add one themselves
_WITH_INTEGERS = frozenset({Numerics.INT8, Numerics.INT8_MIXED})
BOUNDS: dict[Numerics, LocalBounds] = {
    Numerics.FP16: LocalBounds(relative=2**-11, smallest=2e-7, sqnr_min_db=50, plain_min_db=45, joint_min_db=45),
    Numerics.BF16: LocalBounds(relative=2**-8, sqnr_min_db=35, plain_min_db=30, joint_min_db=30),
    Numerics.INT8_DYNAMIC: LocalBounds(constant_steps=0.65, scale_smallest=2**-25, sqnr_min_db=20),
    Numerics.INT8_WEIGHTS: LocalBounds(constant_steps=0.65, scale_smallest=2**-25),
    Numerics.INT4_WEIGHTS: LocalBounds(constant_steps=0.65, scale_smallest=2**-25, joint_min_db=8),
    Numerics.FP8: LocalBounds(sqnr_min_db=25, plain_min_db=25),
}
"""Where constants are rounded to another float type, or layers round what they are given by themselves."""


_Stored = Mapping[str, StoredConstant]
Held = Callable[[tuple[Sequence[str], Sequence[str]]], tuple[_Stored, _Stored]]
"""Reads constants of the float model and of the result, by name."""

_ALIKE = 0.25
"""Distance of a constant from the rounded one, as a part of its norm; four bits leave 0.15."""


class _Shared(NamedTuple):
    """A constant that both models have: where the float layer reads it, and its name in either."""

    read: Read
    float_name: str
    name: str


class _Pair(NamedTuple):
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
        joint: Whether the two are held against each other with constants of their own, as constants were folded, or as
            several layers do together what several others do.
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

    @property
    def float_layer(self) -> InnerLayer:
        """The layer that gives what the result's gives."""
        return self.part[-1]

    def shared(self, stored: tuple[_Stored, _Stored]) -> tuple[_Shared, ...]:
        """The constants that both have, in order and alike in shape; what else there is has no counterpart."""
        if self.joint:
            return ()
        free, found = list(self.stored), []
        for name in self.own:
            shape = _without_ones(stored[1][name])
            alike = [item for item in free if _without_ones(stored[0][item[1]]) == shape]
            if alike:
                one = alike[0] if not self.inner else min(alike, key=lambda item: _apart(stored, item[1], name))
                free.remove(one)
                found.append(_Shared(*one, name))
        return tuple(found)


def _apart(stored: tuple[_Stored, _Stored], float_name: str, name: str) -> float:
    """Distance of two constants."""
    import numpy as np

    return float(np.square(stored[0][float_name].values.ravel() - stored[1][name].values.ravel()).sum())


def _without_ones(constant: StoredConstant) -> tuple[int, ...]:
    return tuple(size for size in constant.values.shape if size > 1)


class _Graphs:
    """The float model and the result, matched: by what the result's tensors stand for, else by what a layer reads."""

    def __init__(self, float_inside: Inside, inside: Inside, held: "Held | None" = None) -> None:
        self.float, self.result, self.held = float_inside, inside, held
        self.makers = {name: layer for layer in float_inside.layers for name in layer.outputs}
        self.float_names = {tensor: float_inside.inputs[name] for name, tensor in inside.inputs.items()}
        self.own_makers = {self._root(name): layer for layer in inside.layers for name in layer.outputs}
        self.matched: dict[str, InnerLayer] = {}
        by_name = {stands_for: layer for layer in inside.layers if (stands_for := self._stands_for(layer))}
        for layer in float_inside.layers:
            own = by_name.get(float_inside.tensors[layer.outputs[0]].stands_for)
            if own:
                self._match(layer, own)
        taken = {layer.outputs for layer in self.matched.values()}
        free = [layer for layer in inside.layers if layer.outputs not in taken]
        for layer in float_inside.layers:
            if layer.outputs[0] in self.matched:
                continue
            alike = [other for other in free if other.operator == layer.operator and self._reads_alike(layer, other)]
            one = self._nearest(layer, alike) if len(alike) > 1 else alike[0] if alike else None
            if one:
                self._match(layer, one)
                free.remove(one)
        self.counterparts = {
            float_name: name for name, float_name in self.float_names.items() if float_name not in float_inside.inputs
        } | {float_inside.inputs[name]: tensor for name, tensor in inside.inputs.items()}
        for layer in self.matched.values():
            for name in layer.outputs:
                self.counterparts[self.float_name(name)] = name

    def _stands_for(self, layer: InnerLayer) -> str:
        return self.result.tensors[self._root(layer.outputs[0])].stands_for

    def _match(self, float_layer: InnerLayer, layer: InnerLayer) -> None:
        self.matched[float_layer.outputs[0]] = layer
        self.float_names |= zip(map(self._root, layer.outputs), float_layer.outputs, strict=False)

    def _root(self, name: str) -> str:
        """A tensor of the result before it was rounded."""
        while name in self.result.tensors and (rounds := self.result.tensors[name].rounds):
            name = rounds
        return name

    def float_name(self, name: str) -> str:
        """The float model's name for a tensor of the result; empty where it has none."""
        return self.float_names.get(self._root(name), "")

    def _reads_alike(self, float_layer: InnerLayer, layer: InnerLayer) -> bool:
        own = [self.float_name(name) for name in layer.inputs if name and not self.result.tensors[name].constant]
        wanted = [name for name in float_layer.inputs if name and not self.float.tensors[name].constant]
        return own == wanted

    def _nearest(self, float_layer: InnerLayer, alike: Sequence[InnerLayer]) -> InnerLayer | None:
        """Of layers that read the same the one with the same constants; None where they are rounded too much to tell.

        Of several with equal constants any is right.
        """
        import numpy as np

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
            far = [np.linalg.norm(a.ravel() - b.ravel()) / (np.linalg.norm(a) or 1.0) for a, b in pairs if fit]
            distances.append(float(max(far, default=np.inf)))
        best = int(np.argmin(distances))
        return alike[best] if distances[best] < _ALIKE else None

    def pairs(self) -> tuple[_Pair, ...]:
        """Layers that give the same tensor."""
        return tuple(
            self._pair(layer, self.matched[layer.outputs[0]])
            for layer in self.float.layers
            if layer.outputs[0] in self.matched
        )

    def _pair(self, float_layer: InnerLayer, layer: InnerLayer) -> _Pair:
        part = tuple(self._without_counterparts(float_layer))
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
        return _Pair(
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

    def read_by(self, float_layer: InnerLayer) -> Iterator[tuple[Read, str]]:
        """Where a float layer reads what the result has too, and the result's tensor that is to be read there."""
        layer = self.matched.get(float_layer.outputs[0])
        for slot, name in enumerate(float_layer.inputs):
            if name and not self.float.tensors[name].constant and name in self.counterparts:
                other = layer.inputs[slot] if layer and slot < len(layer.inputs) else ""
                alike = other and self.float_name(other) == name
                yield Read(float_layer.outputs[0], slot), other if alike else self.counterparts[name]

    def held_apart(self, pair: _Pair, stored: tuple[_Stored, _Stored]) -> bool:
        """Whether a layer has the float model's constants one for one, and reads what that has."""
        shared = pair.shared(stored)
        if pair.rounded or pair.opaque or len(shared) < len(pair.own):
            return False
        folded = {read.result for read, _ in pair.stored} - {item.read.result for item in shared}
        return not any(layer.outputs[0] in folded and layer.operator not in _CLIPPING for layer in pair.part)

    def _inner(self, layer: InnerLayer) -> Iterator[InnerLayer]:
        """Layers of the result before one that the float model has nothing for."""
        for name in layer.inputs:
            maker = self.own_makers.get(self._root(name)) if name and not self.float_name(name) else None
            if maker:
                yield from self._inner(maker)
                yield maker

    def wiring(self, pair: _Pair) -> str:
        """What a layer reads other than the float model's does; empty where it reads the same."""
        for one, other in zip(pair.float_layer.inputs, pair.layer.inputs, strict=False):
            if len(pair.part) == 1 and one in self.counterparts and other and self.float_name(other) != one:
                return f"it reads {self.float_name(other) or other} where the float model's layer reads {one}"
        return ""

    def roundings(self, pairs: Iterable[_Pair]) -> Iterator[tuple[_Pair, str, str]]:
        """What a layer reads that is only rounded there: the layer, its name, and that of what is rounded."""
        for pair in pairs:
            for name in pair.layer.inputs:
                tensor = self.result.tensors.get(name)
                if tensor and not tensor.constant and tensor.quant and tensor.rounds:
                    given = self.counterparts.get(self.float_name(name), "")
                    yield pair, name, given if given != name else ""


class _LayerSums(msgspec.Struct, kw_only=True):
    """Running sums of the error of one comparison; powers in float64."""

    count: int = 0
    signal: float = 0.0
    noise: float = 0.0
    kept_noise: float = 0.0
    cut_noise: float = 0.0
    far: int = 0
    cut: int = 0

    def add(self, wanted: "Reals", found: "Reals", tensor: InnerTensor) -> None:
        """Add one sample: what the float layer gives, and what the result has there."""
        import numpy as np

        alike = ~np.isfinite(wanted) & ((wanted == found) | (np.isnan(wanted) & np.isnan(found)))
        if alike.any():
            wanted, found = np.where(alike, 0, wanted), np.where(alike, 0, found)
        self.count += wanted.size
        self.signal += float(np.square(wanted).sum())
        self.noise += float(np.square(wanted - found).sum())
        if tensor.quant is None:
            return
        scale, zero_point = grid_along(tensor, wanted.ndim)
        low, high = (tensor.low - zero_point) * scale, (tensor.high - zero_point) * scale
        kept = np.clip(wanted, low, high)
        steps = np.abs(kept - found) / scale
        cut = np.abs(wanted - kept) / scale
        self.kept_noise += float(np.square(steps).sum())
        self.cut_noise += float(np.square(wanted - kept).sum())
        self.far += int(np.count_nonzero(steps > FAR_STEPS))
        self.cut += int(np.count_nonzero(cut > 1))

    def parity(self, pair: _Pair, tensor: InnerTensor, what: str, bounds: LocalBounds) -> LayerParity:
        """Judge what was summed up; of layers that are held against others jointly, beside one step of rounding."""
        layer, joint = pair.layer, pair.joint and what == "result"
        if not math.isfinite(self.noise):
            return _finding(layer, tensor.name, what, failures=("it gives NaN or infinity",))
        if tensor.quant is None or joint:
            rounding = self.count * max(tensor.quant.scale) ** 2 if tensor.quant else 0.0
            noise = max(self.noise - self.cut_noise - rounding, 0.0) if tensor.quant else self.noise
            ratio = self.signal / noise if noise else math.inf
            sqnr = min(SQNR_CAP_DB, 10 * math.log10(ratio)) if ratio > 0 else -SQNR_CAP_DB
            least = bounds.joint_min_db if joint else bounds.sqnr_min_db
            least = least if pair.integers else max(least, bounds.plain_min_db)
            short = f"SQNR {sqnr:.1f} dB < {least:g} dB"
            failures: tuple[str, ...] = (short,) if sqnr < least and noise else ()
            excess = min(10 ** ((least - sqnr) / 20), _MOST_EXCESS) if noise else 0.0
            return _finding(layer, tensor.name, what, sqnr_db=sqnr, excess=excess, failures=failures)
        rms, far, cut = (self.kept_noise / self.count) ** 0.5, self.far / self.count, self.cut / self.count
        cut_noise = self.cut_noise / self.signal if self.signal else 0.0
        gross = self.kept_noise * max(tensor.quant.scale) ** 2 > GROSS * self.signal
        failures = ()
        if gross and rms > bounds.rms_steps:
            failures += (f"off by {rms:.2f} steps (rms; rounding is 0.29) > {bounds.rms_steps:g}",)
        if gross and far > bounds.far_share:
            failures += (f"{far:.1%} of the values are more than {FAR_STEPS:g} steps off",)
        cautions: tuple[str, ...] = ()
        if cut_noise > bounds.cut_noise:
            cautions = (f"its range cuts off {cut:.1%} of the values, {cut_noise:.1%} of their power",)
        excess = min(_MOST_EXCESS, max(rms / bounds.rms_steps, far / bounds.far_share)) if gross else 0.0
        return msgspec.structs.replace(
            _finding(layer, tensor.name, what, steps=rms, far_share=far, cut_share=cut, excess=excess),
            failures=failures,
            cautions=cautions,
        )


class LayerCheck(NamedTuple):
    """A result and the float model that it was made of, with the two that read and run both."""

    reader: Format
    runtime: Runtime
    float_model: ModelArtifact
    result: ModelArtifact
    options: RuntimeOptions

    def report(self, samples: Iterable[Feeds]) -> LocalReport:
        """Hold the result against the float model, layer by layer.

        Args:
            samples: Feeds in the result's own terms.

        Returns:
            The report; where nothing can be compared, one that says why.
        """
        reader = self.reader
        if not isinstance(reader, OpensInside):
            return LocalReport(lack=f"the plugin that reads {reader.name} does not show layers")
        if self.float_model.size_bytes > MOST_BYTES:
            return LocalReport(lack=f"models of more than {MOST_BYTES >> 20} MiB are not compared layer by layer")
        files = Path(self.float_model.path), Path(self.result.path)

        def held(names: tuple[Sequence[str], Sequence[str]]) -> tuple[_Stored, _Stored]:
            return reader.constants(files[0], names[0]), reader.constants(files[1], names[1])

        found: list[LayerParity] = []
        try:
            graphs = _Graphs(reader.inside(files[0]), reader.inside(files[1]), held)
            pairs = graphs.pairs()
            if not pairs:
                return LocalReport(lack="no layer of the result is named as one of the float model")
            with contextlib.closing(self.runtime.open(self.result, self.options)) as whole:
                apart = _Apart(self, reader, graphs, whole, list(itertools.islice(samples, SAMPLES)))
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
        alone = of - len(pairs) - len(apart.inner - {pair.layer.outputs for pair in pairs})
        left_out = apart.left_out | {"no layer of the float model gives what it gives": alone}
        failed = sum(bool(item.failures) for item in found)
        worst = sorted(found, key=lambda item: (not item.failures, not item.cautions, -item.steps, item.sqnr_db))
        return LocalReport(
            layers=of - sum(left_out.values()),
            of=of,
            joint=apart.joint + len(apart.inner),
            left_out={why: number for why, number in left_out.items() if number},
            constants=sum(item.what == "constant" for item in found),
            samples=apart.samples,
            failed=failed,
            excess=max(item.excess for item in found),
            worst=tuple(worst[: min(max(failed, 8), 32)]),
            remarks=tuple(_remarks(found)),
        )


class _Apart:
    """Runs the layers of the float model apart from each other, each on what the result's own layer was given."""

    def __init__(
        self, check: LayerCheck, reader: OpensInside, graphs: _Graphs, whole: Session, feeds: Sequence[Feeds]
    ) -> None:
        if not isinstance(whole, ShowsIntermediates):
            raise UnsupportedModel(f"{check.runtime.name} does not show what is inside a model")
        self.check, self.reader, self.graphs, self.whole, self.feeds = check, reader, graphs, whole, feeds
        self.start = time.monotonic()
        self.bounds = BOUNDS.get(check.result.state.numerics, LocalBounds())
        self.samples = len(feeds)
        self.left_out: dict[str, int] = {}
        self.joint = 0
        self.inner: set[tuple[str, ...]] = set()

    def next_size(self, seconds: float) -> int:
        """How many layers are taken next where one takes so long: no more than the time that is left is for."""
        left = self.start + 2 * SECONDS - time.monotonic()
        return max(1, min(LAYERS_AT_ONCE, int(left / max(seconds, 1e-6))))

    def constants(self, pairs: Sequence[_Pair]) -> tuple[_Stored, _Stored]:
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

    def compare(self, pairs: Sequence[_Pair], stored: tuple[_Stored, _Stored], seconds: float) -> list[LayerParity]:
        """Compare constants, and what the layers give."""
        check, bounds = self.check, self.bounds
        compared = []
        for pair in pairs:
            joint = not self.graphs.held_apart(pair, stored)
            if joint and max(len(pair.inner), len(pair.part)) > _MOST_JOINT:
                self._leave_out("it does the work of many layers with constants of their own")
            else:
                compared.append(pair._replace(joint=joint))
                self.joint += joint
                self.inner |= {layer.outputs for layer in pair.inner}
        shared = [(pair, item) for pair in compared for item in pair.shared(stored)]
        found = [_judge_constant(pair, item, stored, bounds) for pair, item in shared]
        if check.result.state.numerics in _WITH_INTEGERS:
            found = [*_with_moved_biases(check, found, shared, stored, self.feeds)]
        if time.monotonic() > self.start + 2 * SECONDS:
            for _ in compared:
                self._leave_out(f"{2 * SECONDS:g} seconds were over; its constants were compared")
            return found
        return found + (self._results(compared, stored, time.monotonic() + seconds) if compared else [])

    def _leave_out(self, why: str) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + 1

    def _results(self, pairs: Sequence[_Pair], stored: tuple[_Stored, _Stored], until: float) -> list[LayerParity]:
        """Compare what the layers of `pairs` give; one that does not run alone is left out."""
        try:
            return self._run(pairs, stored, until)
        except Exception:  # noqa: BLE001 whatever a framework raises of a model that is cut up
            if len(pairs) == 1:
                self._leave_out("the float model's layer does not run alone")
                return []
        half = len(pairs) // 2
        return [*self._results(pairs[:half], stored, until), *self._results(pairs[half:], stored, until)]

    def _run(self, pairs: Sequence[_Pair], stored: tuple[_Stored, _Stored], until: float) -> list[LayerParity]:
        graphs, check, tensors = self.graphs, self.check, self.graphs.result.tensors
        reads = dict(read for pair in pairs for layer in pair.part for read in graphs.read_by(layer))
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
        sums: dict[tuple[str, str], _LayerSums] = {}
        with tempfile.TemporaryDirectory(prefix="hub-cut-") as folder, contextlib.ExitStack() as opened:
            values = {item.read: stored[1][item.name].values for pair in pairs for item in pair.shared(stored)}
            layers = [pair.float_layer.outputs[0] for pair in pairs]
            file = self.reader.cut(Path(check.float_model.path), Path(folder), layers, [*reads], values)
            inner = self.whole.intermediate([name for name in shown if name not in own])
            opened.callback(inner.close)
            cut = check.runtime.open(msgspec.structs.replace(check.float_model, path=str(file)), check.options)
            opened.callback(cut.close)
            for count, sample in enumerate(self.feeds, start=1):
                given = inner.run(sample) | {tensor: sample[name] for tensor, name in own.items()}
                there = {name: real_numbers(given[name], tensors[name]) for name in shown}
                gives = cut.run({read.fed: there[name].astype(kinds[read]) for read, name in reads.items()})
                for name, pair in wanted.items():
                    one = gives[pair.float_layer.outputs[0]].astype("float64")
                    sums.setdefault((name, "result"), _LayerSums()).add(one, there[name], tensors[name])
                for _, name, rounded in roundings:
                    if rounded:
                        sums.setdefault((name, "rounding"), _LayerSums()).add(
                            there[rounded], there[name], tensors[name]
                        )
                if time.monotonic() > until:  # of this share of the layers; every layer sees one sample at least
                    self.samples = min(self.samples, count)
                    break
        found = []
        for (name, what), total in sums.items():
            pair = wanted[name] if what == "result" else readers[name]
            parity = total.parity(pair, tensors[name], what, self.bounds)
            said = graphs.wiring(pair) if parity.failures and what == "result" else ""
            found.append(msgspec.structs.replace(parity, failures=(*parity.failures, said)) if said else parity)
        return found


def _adds(pair: _Pair, item: _Shared) -> bool:
    """Whether a constant is what a layer adds."""
    return pair.layer.operator in _ADDS or (
        item.read.result == pair.float_layer.outputs[0] and item.read.slot == _BIAS_SLOT
    )


def _with_moved_biases(
    check: LayerCheck,
    found: Sequence[LayerParity],
    shared: Sequence[tuple[_Pair, _Shared]],
    stored: tuple[_Stored, _Stored],
    feeds: Sequence[Feeds],
) -> Iterator[LayerParity]:
    """Judge again what layers of a model with integers add: no grid bounds it, but means do.

    Quantizers move biases by the mean error that they have measured (bias correction). That is right where the layer's
    means come nearer to the float model's, over all channels.
    """
    import numpy as np

    moved = {
        index: pair
        for index, ((pair, item), parity) in enumerate(zip(shared, found, strict=True))
        if parity.failures and _adds(pair, item) and not stored[1][item.name].step.any()
    }
    tensors = [[pair.float_layer.outputs[0] for pair in moved.values()], [p.layer.outputs[0] for p in moved.values()]]
    means = [
        _means(check, model, names, feeds) if names else {}
        for model, names in zip((check.float_model, check.result), tensors, strict=True)
    ]
    for index, parity in enumerate(found):
        if index not in moved or not means[0] or not means[1]:
            yield parity
            continue
        pair, item = shared[index]
        one, other = means[0][pair.float_layer.outputs[0]], means[1][pair.layer.outputs[0]]
        by = (stored[1][item.name].values - stored[0][item.float_name].values).reshape(-1)
        axis = _axis_of_bias(pair, stored[1][item.name].values.shape, one.shape)
        if axis is None:
            yield parity
            continue
        rest = tuple(place for place in range(one.ndim) if place != axis)
        off = other.mean(axis=rest) - one.mean(axis=rest)
        after, before = float(np.square(off).mean()) ** 0.5, float(np.square(off - by).mean()) ** 0.5
        if after < before:
            yield msgspec.structs.replace(parity, failures=(), excess=0.0)
            continue
        size = float(np.square(one).mean()) ** 0.5
        said = f"its means are {after:.2g} off by another bias than the float model's, {before:.2g} with the same"
        excess = (after - before) / (BIAS_SHARE * size) if size else _MOST_EXCESS
        excess = min(excess, _MOST_EXCESS) if math.isfinite(excess) else 1.0  # infinite means say nothing: told
        failures = (said,) if excess > 1 else ()
        yield msgspec.structs.replace(parity, failures=failures, excess=excess, cautions=() if failures else (said,))


def _axis_of_bias(pair: _Pair, shape: tuple[int, ...], given: tuple[int, ...]) -> int | None:
    """The axis of a layer's result along which its bias lies; None where it is not one number a channel."""
    size = math.prod(shape)
    if len(shape) > 1:  # as it broadcasts
        axis = len(given) - len(shape) + next((place for place, one in enumerate(shape) if one == size), len(shape))
    else:
        axis = 1 if pair.layer.operator.startswith("Conv") else len(given) - 1
    return axis if 0 <= axis < len(given) and given[axis] == size else None


def _means(check: LayerCheck, model: ModelArtifact, names: Sequence[str], feeds: Sequence[Feeds]) -> "dict[str, Reals]":
    """Means of tensors over samples; none where the runtime does not show them."""
    import numpy as np

    with contextlib.closing(check.runtime.open(model, check.options)) as session:
        if not isinstance(session, ShowsIntermediates):
            return {}
        with contextlib.closing(session.intermediate(list(dict.fromkeys(names)))) as inner:
            given = [inner.run(sample) for sample in feeds]
    return {name: np.mean([item[name].astype(np.float64) for item in given], axis=0) for name in names}


def _remarks(found: Iterable[LayerParity]) -> Iterator[Remark]:
    """What is told and does not refuse: one remark of a kind, with the worst layer."""
    hint = "give calibration data like the data that it will see"
    told = [item for item in found if item.cautions]
    cut, moved = ([item for item in told if (item.what == "constant") == constant] for constant in (False, True))
    if cut:
        yield Remark("warning", "layer-range-cuts", _worst_words(cut), hint)
    if moved:
        yield Remark("warning", "layer-bias-moved", _worst_words(moved), hint)


def _worst_words(told: Sequence[LayerParity]) -> str:
    worst = max(told, key=lambda item: item.cut_share)
    more = f", and {len(told) - 1} more" if len(told) > 1 else ""
    return f"the layer {worst.layer} ({worst.operator}){more}: {worst.cautions[0]}"


def describe_local(report: LocalReport) -> str:
    """The worst layer that failed, in one line, and how many others did."""
    first = next(item for item in report.worst if item.failures)
    more = f"; and {report.failed - 1} more" if report.failed > 1 else ""
    what = {"constant": "a constant of it", "result": "what it gives", "rounding": "what it reads", "wiring": "it"}
    failures = ", ".join(first.failures)
    return f"the layer {first.layer} ({first.operator}) is not the float model's: {what[first.what]}: {failures}{more}"


def layers_words(local: LocalReport) -> str:
    """What was found layer by layer, or why nothing was."""
    if local.lack:
        return f"not held against the float model's: {local.lack}"
    against = f"; the float model is {local.against}" if local.against else ""
    samples = f"{local.samples} sample{'s' if local.samples > 1 else ''}"
    if local.failed:
        wrong = f"{local.failed} of {local.layers + local.constants} comparisons failed"
        return f"{local.layers} of {local.of} were held against the float model's, on {samples}: {wrong}{against}"
    sound = f"{local.layers} of {local.of} compute what the float model's do, within their own rounding"
    joint = f" ({local.joint} of them several at once, with constants of their own)" if local.joint else ""
    return f"{sound}{joint}, on {samples}; their {local.constants} constants are the float ones, rounded{against}"


def _finding(layer: InnerLayer, tensor: str, what: str, **figures: object) -> LayerParity:
    given = {"layer": layer.name, "operator": layer.operator, "tensor": tensor, "what": what}
    return msgspec.convert(given | figures, LayerParity)


def _judge_constant(pair: _Pair, item: _Shared, stored: tuple[_Stored, _Stored], bounds: LocalBounds) -> LayerParity:
    """Hold a constant against the float model's: by the steps of its grid, or the rounding of its type."""
    import numpy as np

    other = stored[1][item.name]
    one = stored[0][item.float_name].values.reshape(other.values.shape)
    alike = (one == other.values) | ((np.abs(one) > _HUGE) & (np.abs(other.values) > _HUGE) & (one * other.values > 0))
    off = np.abs(np.where(alike, 0, one) - np.where(alike, 0, other.values))
    on_grid = bool(other.step.any())
    rounding = np.abs(np.where(alike, 0, one)) * (1e-6 if on_grid else bounds.relative) + bounds.smallest
    step = np.abs(other.step)  # a scale may be negative, and then it is no grid of its own
    step = np.where(step > 0, step, np.inf)
    levels = other.values / step
    over = np.maximum(off - rounding - np.abs(levels) * bounds.scale_smallest, 0)
    failures: tuple[str, ...] = ()
    steps = excess = 0.0
    if on_grid:
        by_channel = other.step.shape if other.step.ndim == levels.ndim else (1,) * levels.ndim
        rest = tuple(place for place, size in enumerate(by_channel) if size == 1)
        least, most = levels.min(axis=rest, keepdims=True), levels.max(axis=rest, keepdims=True)
        beyond = ((levels > most - 1.5) & (one > other.values)) | ((levels < least + 1.5) & (one < other.values))
        cut = beyond & (one * other.values > 0)
        cut_power = float(np.square(off[cut]).sum()) / (float(np.square(one).sum()) or 1.0)
        in_steps = over / step
        steps = float(np.max(in_steps, where=~cut, initial=0))
        share = float(np.mean((in_steps > bounds.constant_steps) & ~cut))
        excess = steps / bounds.constant_steps
        if steps > bounds.constant_steps:
            failures += (f"{share:.1%} of its values are up to {steps:.1f} steps off; rounding is half a step",)
        if np.abs(levels).max() > _INT4_LEVELS:
            excess = max(excess, (cut_power / bounds.cut_noise) ** 0.5)
        if cut_power > bounds.cut_noise and np.abs(levels).max() > _INT4_LEVELS:  # four bits are cut off on purpose
            failures += (f"its grid cuts off {cut_power:.1%} of its power",)
    else:
        excess = float(np.max(off / rounding, initial=0))
    if not on_grid and over.any():
        failures = (f"off by up to {off.max():.3g}, its largest value is {np.abs(one).max():.3g}",)
    return _finding(
        pair.layer, item.float_name, "constant", steps=steps, excess=min(_MOST_EXCESS, excess), failures=failures
    )


def grid_along(tensor: InnerTensor, rank: int) -> "tuple[Reals, Reals]":
    """Scale and zero point of a grid, in the shape that broadcasts along its axis."""
    import numpy as np

    quant = tensor.quant
    if quant is None:
        raise ValueError(f"{tensor.name} lies on no grid")
    shape = [1] * rank
    if quant.axis is not None:
        shape[quant.axis] = -1
    size = shape if quant.axis is not None else ()
    return np.reshape(quant.scale, size), np.reshape(quant.zero_point, size)


def real_numbers(array: "Array", tensor: InnerTensor) -> "Reals":
    """The numbers that a tensor's stored ones stand for; a tensor of floats holds them as they are."""
    if tensor.quant is None or array.dtype.kind == "f":
        return array.astype("float64")
    scale, zero_point = grid_along(tensor, array.ndim)
    return (array.astype("float64") - zero_point) * scale
