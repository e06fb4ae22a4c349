"""What the planner sees of the quantization with NNCF."""

from __future__ import annotations

from hub.spec import (
    Accepts,
    ConvertJob,
    ConvertOptions,
    Edge,
    Gives,
    ModelSummary,
    Numerics,
    StepOutput,
    Support,
    Verdict,
    takes_unblocked,
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
from hub_openvino.quantize.searches import Search, compressed, every_layer, most_layers, most_layers_higher, run
from hub_openvino.silence import silence_telemetry


def takes_depthwise(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses also what has no depthwise convolution: leaving those in float would repeat an earlier edge."""
    if DEPTHWISE not in summary.operators:
        return Verdict(support=Support.NEVER, reason=f"the model has no {DEPTHWISE}")
    return takes_unblocked(summary, options)


def _edge(  # noqa: PLR0913 - a row of the table below
    name: str,
    title: str,
    numerics: Numerics,
    search: Search,
    *,
    needs_samples: bool = False,
    cost: float = 1.0,
    formerly: tuple[str, ...] = (),
) -> Edge:
    def convert(job: ConvertJob) -> StepOutput:
        silence_telemetry()
        return run(job, title, numerics, search, needs_samples=needs_samples)

    return Edge(
        id=f"openvino.{name}",
        accepts=(Accepts(format=FORMAT),),
        gives=Gives(format=FORMAT, numerics=numerics),
        convert=convert,
        check=takes_depthwise if search is _BUT_DEPTHWISE else takes_unblocked,
        lossy=True,
        needs_calibration=needs_samples,
        keeps_dynamic=True,
        requires=("openvino>=2026.4", "nncf>=3.4"),
        process="openvino",
        cost=cost,
        title=title,
        formerly=formerly,
    )


_BUT_DEPTHWISE = compressed(INT8_BUT_DEPTHWISE)
QUANTIZING = (
    _edge("int8", "NNCF, static int8, every layer", Numerics.INT8, every_layer, needs_samples=True),
    _edge(
        "int8-mixed",
        "NNCF, static int8, what int8 breaks in float",
        Numerics.INT8_MIXED,
        most_layers,
        needs_samples=True,
    ),
    _edge(
        "int8-mixed-higher",
        "NNCF, static int8, what int8 breaks in float, to a higher goal",
        Numerics.INT8_MIXED,
        most_layers_higher,
        needs_samples=True,
        cost=3.0,
        formerly=("openvino.int8-mixed-controlled",),
    ),
    _edge("int8-weights", "NNCF, int8 weights", Numerics.INT8_WEIGHTS, compressed(INT8_WEIGHTS)),
    _edge(
        "int8-weights-but-depthwise",
        "NNCF, int8 weights, depthwise convolutions in float",
        Numerics.INT8_WEIGHTS,
        _BUT_DEPTHWISE,
        cost=2.0,
    ),
    _edge(
        "int8-dynamic",
        "NNCF, int8 weights, activations quantized on the fly in products",
        Numerics.INT8_DYNAMIC,
        compressed(INT8_DYNAMIC),
    ),
    _edge(
        "int4-weights-fitted",
        "NNCF, int4 weights fitted to calibration samples",
        Numerics.INT4_WEIGHTS,
        compressed(*INT4_FITTED),
        needs_samples=True,
    ),
    _edge("int4-weights", "NNCF, int4 weights", Numerics.INT4_WEIGHTS, compressed(INT4_GROUPS, INT4_ALL), cost=2.0),
)
"""Quantization of float32 IRs: one edge for each way."""
