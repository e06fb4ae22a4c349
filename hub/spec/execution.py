"""How a runtime really executes an artifact: read from its own execution graph and profile, not from intentions."""

from collections import Counter
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from hub.spec.remarks import Remark

if TYPE_CHECKING:
    from hub.spec.calibration import Feeds


class ExecutedLayer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node of the graph that a runtime executes.

    Attributes:
        name: As the runtime's own graph names it.
        operator: The runtime's word: `Conv`, `com.microsoft::FusedConv`, `FullyConnected`.
        precision: Element type that it computes in, as the runtime says: `fp32`, `fp16`, `bf16`, `int8`,
            `int8-weights`, `int8-dynamic`, `integer` (indices, shapes), or the runtime's word.
        device: Who runs it: an execution provider, a delegate, a device.
        kernel: The kernel, where the runtime tells: `brgconv_avx512_i8`.
        covers: Operators of the file whose work it does, in the file's words and order: `('Conv', 'Relu')`. Empty for a
            node that the runtime added (a reorder, a cast).
        time_share: Share of the measured time, 0 to 1; None where the runtime does not tell.
    """

    name: str
    operator: str
    precision: str
    device: str
    kernel: str = ""
    covers: tuple[str, ...] = ()
    time_share: float | None = None


class Share(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of the executed nodes: their number, and their share of the time where it was measured."""

    layers: int
    time_share: float | None = None


class Execution(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a runtime makes of an artifact when it runs it.

    Attributes:
        runtime: The runtime's name.
        version: Its version.
        device: The device or provider that was asked for; what runs elsewhere fell back.
        settings: What the runtime says it computes with: `INFERENCE_PRECISION_HINT` -> `f32`, threads, level.
        operators: Operators of the file -> count, constants not counted.
        layers: What is executed, in execution order.
        eliminated: Operators of the file that no executed node stands for -> count: folded constants, dead nodes.
        timed_by: Where time shares come from (`profile of 10 runs`); empty where the runtime tells none.
        remarks: What stands in the way of speed (`obstacle`: no VNNI on this CPU, 12 QDQ pairs not fused), and where
            the session computes otherwise than the file says (`deviation`: floats in bf16, products that saturate),
            with what to set.
    """

    runtime: str
    version: str
    device: str
    settings: dict[str, str] = {}
    operators: dict[str, int] = {}
    layers: tuple[ExecutedLayer, ...]
    eliminated: dict[str, int] = {}
    timed_by: str = ""
    remarks: tuple[Remark, ...] = ()

    @property
    def by_precision(self) -> dict[str, Share]:
        """Precision -> its part of the executed nodes."""
        return self._by([layer.precision for layer in self.layers])

    @property
    def by_device(self) -> dict[str, Share]:
        """Device -> its part of the executed nodes: more than one entry means that something fell back."""
        return self._by([layer.device for layer in self.layers])

    @property
    def fusions(self) -> dict[str, int]:
        """`Conv + BatchNormalization + Relu -> Conv` -> how many times, for nodes that do the work of several."""
        several = (layer for layer in self.layers if len(layer.covers) > 1)
        return dict(Counter(f"{' + '.join(layer.covers)} -> {layer.operator}" for layer in several).most_common())

    @property
    def report(self) -> "ExecutionReport":
        """The same without the single layers: what a receipt keeps."""
        return ExecutionReport(
            runtime=self.runtime,
            version=self.version,
            device=self.device,
            settings=self.settings,
            operators=self.operators,
            executed=dict(Counter(layer.operator for layer in self.layers).most_common()),
            precisions=self.by_precision,
            devices=self.by_device,
            fusions=self.fusions,
            eliminated=self.eliminated,
            timed_by=self.timed_by,
            remarks=self.remarks,
        )

    def _by(self, words: list[str]) -> dict[str, Share]:
        counts = Counter(words)
        times: dict[str, float] = {}
        for word, layer in zip(words, self.layers, strict=True):
            times[word] = times.get(word, 0.0) + (layer.time_share or 0.0)
        timed = bool(self.timed_by)
        return {
            word: Share(layers=count, time_share=times[word] if timed else None) for word, count in counts.most_common()
        }


class ExecutionReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An `Execution` summed up; fields as there, but for these.

    Attributes:
        executed: Operators of the executed graph -> count.
        precisions: Precision -> its part of the executed nodes.
        devices: Device -> its part of the executed nodes.
        fusions: What became of what -> how many times.
    """

    runtime: str
    version: str
    device: str
    settings: dict[str, str] = {}
    operators: dict[str, int] = {}
    executed: dict[str, int] = {}
    precisions: dict[str, Share] = {}
    devices: dict[str, Share] = {}
    fusions: dict[str, int] = {}
    eliminated: dict[str, int] = {}
    timed_by: str = ""
    remarks: tuple[Remark, ...] = ()


@runtime_checkable
class Explains(Protocol):
    """A session that can say how it executes the model."""

    def execution(self, feeds: "Feeds") -> Execution:
        """Run a few times on `feeds` and read the executed graph; the session can be used as before afterwards."""
