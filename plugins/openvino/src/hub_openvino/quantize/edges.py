"""What the planner sees of the quantization with NNCF."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hub.spec import (
    YES,
    Converter,
    ConvertJob,
    ConvertOptions,
    Edge,
    ModelSummary,
    Numerics,
    State,
    StepOutput,
    Support,
    Toolchain,
    Verdict,
)
from hub_openvino.identify import FORMAT
from hub_openvino.quantize.recipes import (
    DEPTHWISE,
    INT4_ALL,
    INT4_FITTED,
    INT4_GROUPS,
    INT8_BUT_DEPTHWISE,
    INT8_DYNAMIC,
    INT8_WEIGHTS,
)
from hub_openvino.quantize.searches import Search, compressed, controlled, every_layer, most_layers, run
from hub_openvino.silence import silence_telemetry

BUT_DEPTHWISE = "int8-weights-but-depthwise"
Step = Callable[[ConvertJob], StepOutput]


def _offer(
    name: str, title: str, numerics: Numerics, search: Search, *, needs_samples: bool = False, cost: float = 1.0
) -> tuple[Edge, Step]:
    edge = Edge(
        id=f"openvino.{name}",
        source=State(format=FORMAT),
        target=State(format=FORMAT, numerics=numerics),
        lossy=True,
        needs_calibration=needs_samples,
        keeps_dynamic=True,
        requires=("openvino>=2026.4", "nncf>=3.4"),
        process="openvino",
        cost=cost,
        title=title,
    )
    return edge, lambda job: run(job, title, numerics, search, needs_samples=needs_samples)


OFFERS = (
    _offer("int8", "NNCF, static int8, every layer", Numerics.INT8, every_layer, needs_samples=True),
    _offer(
        "int8-mixed",
        "NNCF, static int8, activations that int8 breaks in float",
        Numerics.INT8_MIXED,
        most_layers,
        needs_samples=True,
    ),
    _offer(
        "int8-mixed-controlled",
        "NNCF's accuracy control",
        Numerics.INT8_MIXED,
        controlled,
        needs_samples=True,
        cost=3.0,
    ),
    _offer("int8-weights", "NNCF, int8 weights", Numerics.INT8_WEIGHTS, compressed(INT8_WEIGHTS)),
    _offer(
        BUT_DEPTHWISE,
        "NNCF, int8 weights, depthwise convolutions in float",
        Numerics.INT8_WEIGHTS,
        compressed(INT8_BUT_DEPTHWISE),
        cost=2.0,
    ),
    _offer(
        "int8-dynamic",
        "NNCF, int8 weights, activations quantized on the fly in products",
        Numerics.INT8_DYNAMIC,
        compressed(INT8_DYNAMIC),
    ),
    _offer(
        "int4-weights-fitted",
        "NNCF, int4 weights fitted to calibration samples",
        Numerics.INT4_WEIGHTS,
        compressed(*INT4_FITTED),
        needs_samples=True,
    ),
    _offer("int4-weights", "NNCF, int4 weights", Numerics.INT4_WEIGHTS, compressed(INT4_GROUPS, INT4_ALL), cost=2.0),
)


class OpenvinoQuantizer:
    """Quantization of float32 IRs with NNCF."""

    def __init__(self) -> None:
        self._steps = {edge.id: step for edge, step in OFFERS}
        self._edges = tuple(edge for edge, _ in OFFERS)

    @property
    def edges(self) -> Sequence[Edge]:
        """One edge for each way of quantizing."""
        return self._edges

    @property
    def toolchains(self) -> Sequence[Toolchain]:
        """None: NNCF lives in the user's environment."""
        return ()

    def check(self, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
        """Says no to integer inputs and outputs, and to an edge that would give what another gives."""
        if options.io_dtype:
            reason = f"{edge.target.numerics.value} IRs keep float inputs and outputs, not {options.io_dtype}"
            return Verdict(support=Support.NEVER, reason=reason, hint="leave --io-dtype out")
        needed = DEPTHWISE if edge.id == f"openvino.{BUT_DEPTHWISE}" else ""
        if needed and summary.state.format == FORMAT and needed not in summary.operators:
            return Verdict(support=Support.NEVER, reason=f"the model has no {needed}")
        blocking = next((item for item in summary.findings if item.blocking and summary.state.format == FORMAT), None)
        return Verdict(support=Support.NEVER, reason=blocking.message, hint=blocking.hint) if blocking else YES

    def convert(self, job: ConvertJob) -> StepOutput:
        """Runs one edge; see `run`."""
        silence_telemetry()
        return self._steps[job.edge](job)


_: type[Converter] = OpenvinoQuantizer
