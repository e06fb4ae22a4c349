"""What the planner sees of the conversions to OpenVINO IR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import (
    YES,
    Converter,
    ConvertJob,
    ConvertOptions,
    DType,
    Edge,
    ModelSummary,
    Numerics,
    QuantRecipe,
    State,
    StepOutput,
    Support,
    Toolchain,
    Verdict,
)
from hub_openvino.identify import FORMAT
from hub_openvino.silence import silence_telemetry

if TYPE_CHECKING:
    from hub_openvino.convert.finish import Finished

REQUIRES = ("openvino>=2026.4",)
PROCESS = "openvino"
_IDENTITIES = tuple(numerics for numerics in Numerics if numerics is not Numerics.FP32)


def _edge(source: State, suffix: str, cost: float, title: str, target: Numerics | None = None) -> Edge:
    return Edge(
        id=f"openvino.from-{source.format}{suffix}",
        source=source,
        target=State(format=FORMAT, numerics=target or source.numerics),
        keeps_dynamic=True,
        requires=REQUIRES,
        process=PROCESS,
        cost=cost,
        title=title,
    )


ONNX_EDGES = (
    _edge(State(format="onnx"), "", 1.0, "OpenVINO's ONNX frontend"),
    _edge(State(format="onnx", form="static"), "-static", 1.0, "OpenVINO's ONNX frontend"),
    _edge(State(format="onnx", form="prepared"), "-prepared", 1.0, "OpenVINO's ONNX frontend"),
    *(
        _edge(State(format="onnx", numerics=numerics), f"-{numerics.value}", 1.0, "OpenVINO's ONNX frontend")
        for numerics in _IDENTITIES
    ),
)
TFLITE_EDGES = (
    _edge(State(format="tflite"), "", 1.0, "OpenVINO's TFLite frontend"),
    *(
        _edge(State(format="tflite", numerics=numerics), f"-{numerics.value}", 1.0, "OpenVINO's TFLite frontend")
        for numerics in _IDENTITIES
    ),
)
OTHER_WORDS = (
    (Numerics.INT8, Numerics.INT8_MIXED, "-int8-partly"),
    (Numerics.INT8_MIXED, Numerics.INT8, "-int8-products"),
    (Numerics.INT8_DYNAMIC, Numerics.INT8_WEIGHTS, "-int8-compressed"),
)
"""What a source calls its numerics and what the IR's reader calls the same: OpenVINO's frontends drop or fuse the
quantization of some layers, and the two readers count different layers."""

OTHER_EDGES = tuple(
    _edge(State(format=source, numerics=before), suffix, 1.5, f"OpenVINO's {title} frontend", after)
    for source, title in (("onnx", "ONNX"), ("tflite", "TFLite"))
    for before, after, suffix in OTHER_WORDS
)
FP16_EDGE = Edge(
    id="openvino.fp16",
    source=State(format=FORMAT),
    target=State(format=FORMAT, numerics=Numerics.FP16),
    lossy=True,
    keeps_dynamic=True,
    requires=REQUIRES,
    process=PROCESS,
    title="float16 weights",
)
_HALF_RECIPE = QuantRecipe(
    name="fp16", tool="openvino.save_model", numerics=Numerics.FP16, weights=DType.FLOAT16, activations=DType.FLOAT32,
    granularity="per-tensor", settings={"compress_to_fp16": True},
)  # fmt: skip


def _from_file(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.finish import finish
    from hub_openvino.convert.frontends import read_file

    return _write(finish(read_file(Path(job.source.path)), job.source.signature, job.options), job)


def _write(done: Finished, job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.finish import save

    save(done.model, Path(job.output))
    return StepOutput(notes=done.notes, bindings=done.bindings)


def _half(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.finish import save
    from hub_openvino.convert.half import clipped
    from hub_openvino.describe import read_model

    model = read_model(Path(job.source.path))
    notes = clipped(model)
    save(model, Path(job.output), half=True)
    return StepOutput(notes=notes, recipe=_HALF_RECIPE)


_STEPS: dict[str, Callable[[ConvertJob], StepOutput]] = {
    **{edge.id: _from_file for edge in (*ONNX_EDGES, *TFLITE_EDGES, *OTHER_EDGES)},
    FP16_EDGE.id: _half,
}


class OpenvinoConverter:
    """Conversion to OpenVINO IR from every format that OpenVINO has a frontend for, and float16 weights."""

    @property
    def edges(self) -> Sequence[Edge]:
        """One per source state."""
        return (*ONNX_EDGES, *TFLITE_EDGES, *OTHER_EDGES, FP16_EDGE)

    @property
    def toolchains(self) -> Sequence[Toolchain]:
        """None: it runs in the user's environment."""
        return ()

    def check(self, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
        """Refuses what the reader marked as blocking, and changes of the border that the frontends do not make."""
        del edge
        blocking = next((finding for finding in summary.findings if finding.blocking), None)
        if blocking:
            return Verdict(support=Support.NEVER, reason=blocking.message, hint=blocking.hint)
        asked = [name for name in ("io_layout", "io_dtype") if getattr(options, name)]
        if asked:
            return Verdict(support=Support.NOTIMPL, reason=f"{', '.join(asked)}: the border stays as the source's")
        return YES

    def convert(self, job: ConvertJob) -> StepOutput:
        """Runs one edge.

        Raises:
            UnsupportedModel: The frontend has no form of an operator, or the border cannot be kept.
            StepError: OpenVINO fails.
        """
        silence_telemetry()
        return _STEPS[job.edge](job)


_: type[Converter] = OpenvinoConverter
