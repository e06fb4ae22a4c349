"""What the planner sees of the conversions to OpenVINO IR."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hub.spec import (
    STATEFUL,
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
from hub_openvino.numerics import DYNAMIC_SETTING
from hub_openvino.silence import silence_telemetry

if TYPE_CHECKING:
    from hub_openvino.convert.finish import Finished

REQUIRES = ("openvino>=2026.4",)
PROCESS = "openvino"
_IDENTITIES = tuple(numerics for numerics in Numerics if numerics is not Numerics.FP32)


def tensorflow() -> tuple[str, ...]:
    """TensorFlow comes under two names: ask for the one that is there."""
    try:
        importlib.metadata.version("tensorflow")
    except importlib.metadata.PackageNotFoundError:
        return ("tensorflow-cpu>=2.19",)
    return ("tensorflow>=2.19",)


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
    if (source, before) != ("onnx", Numerics.INT8_DYNAMIC)  # see DYNAMIC_ONNX
)
DYNAMIC_TFLITE = f"openvino.from-tflite-{Numerics.INT8_DYNAMIC.value}"
_RECURRENT = frozenset({"LSTM", "GRU"})
_MATRICES = frozenset({"FULLY_CONNECTED", "BATCH_MATMUL"})
DYNAMIC_ONNX = f"openvino.from-onnx-{Numerics.INT8_DYNAMIC.value}"
_IN_FLOAT = (
    "OpenVINO has no form of ONNX's dynamic quantization: it would compute in float, measuring every range in each run"
)
DYNAMIC_GROUP = 32
"""Values that share a scale when activations are quantized at run time: OpenVINO's own default on the CPU."""

_TORCH = ("torch>=2.9", *REQUIRES)
_AFTER_ONNX = 1.6
"""Cheaper than PyTorch over ONNX (2.0), dearer than Keras over ONNX: torch.export writes the recurrences of Keras on
torch step by step (1.7 times as slow as the one operator that tf2onnx makes of a layer)."""

_EXPORTED = tuple(
    _edge(State(format="pytorch", numerics=numerics), suffix, _AFTER_ONNX, "OpenVINO's PyTorch frontend")
    for numerics, suffix in ((Numerics.FP32, ""), (Numerics.FP16, "-fp16"), (Numerics.BF16, "-bf16"))
)
_TORCHSCRIPT = _edge(
    State(format="pytorch", form="torchscript"), "-torchscript", 1.0, "OpenVINO's TorchScript frontend"
)
TORCH_EDGES = tuple(
    msgspec.structs.replace(edge, requires=_TORCH, process="torch") for edge in (*_EXPORTED, _TORCHSCRIPT)
)
_KERAS = _edge(State(format="keras"), "", 1.0, "OpenVINO's TensorFlow frontend")
_SAVED_MODEL = _edge(State(format="keras", form="savedmodel"), "-savedmodel", 1.0, "OpenVINO's TensorFlow frontend")
KERAS_EDGES = tuple(
    msgspec.structs.replace(edge, requires=("keras>=3.11", *tensorflow(), *REQUIRES), process="keras-tensorflow")
    for edge in (_KERAS, _SAVED_MODEL)
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

    model = read_file(Path(job.source.path))
    places = None
    if job.source.state.format == "tflite":
        from hub_openvino.convert.tflite import places_of

        places = places_of(Path(job.source.path), model, job.source.signature)
    done = finish(model, job.source.signature, job.options, places)
    if job.edge == DYNAMIC_TFLITE:
        ask_dynamic(done.model)
    return _write(done, job)


def _from_exported(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.pytorch import from_exported

    return _write(from_exported(job), job)


def _from_torchscript(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.pytorch import from_torchscript

    return _write(from_torchscript(job), job)


def _from_keras(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.keras import from_keras

    return _write(from_keras(job), job)


def _from_saved_model(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.keras import from_saved_model

    return _write(from_saved_model(job), job)


def ask_dynamic(model: Any, group: int = DYNAMIC_GROUP) -> None:
    """Have the file ask for what makes int8 weights `int8-dynamic`: activations quantized per group at run time."""
    model.set_rt_info(str(group), DYNAMIC_SETTING.split("/"))


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


STATEFUL_EDGES = tuple(
    Edge(
        id=f"openvino.stateful-{numerics.value}",
        source=State(format=FORMAT, numerics=numerics),
        target=State(format=FORMAT, numerics=numerics, form=STATEFUL),
        requires=REQUIRES,
        process=PROCESS,
        cost=0.5,
        title="state kept inside",
    )
    for numerics in Numerics
)


def _stateful(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.stateful import make_stateful

    return _write(make_stateful(job), job)


_STEPS: dict[str, Callable[[ConvertJob], StepOutput]] = {
    **{edge.id: _from_file for edge in (*ONNX_EDGES, *TFLITE_EDGES, *OTHER_EDGES)},
    **{edge.id: _from_exported for edge in _EXPORTED},
    _TORCHSCRIPT.id: _from_torchscript,
    _KERAS.id: _from_keras,
    _SAVED_MODEL.id: _from_saved_model,
    FP16_EDGE.id: _half,
    **{edge.id: _stateful for edge in STATEFUL_EDGES},
}


class OpenvinoConverter:
    """Conversion to OpenVINO IR from every format that OpenVINO has a frontend for, float16 weights, and kept state."""

    @property
    def edges(self) -> Sequence[Edge]:
        """One per source state."""
        return (*ONNX_EDGES, *TFLITE_EDGES, *OTHER_EDGES, *TORCH_EDGES, *KERAS_EDGES, FP16_EDGE, *STATEFUL_EDGES)

    @property
    def toolchains(self) -> Sequence[Toolchain]:
        """None: it runs in the user's environment."""
        return ()

    def check(self, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
        """Refuses what the reader marked as blocking, and changes of the border that the frontends do not make."""
        blocking = next((finding for finding in summary.findings if finding.blocking), None)
        if blocking:
            return Verdict(support=Support.NEVER, reason=blocking.message, hint=blocking.hint)
        never = _never(edge, summary, options)
        if never:
            return Verdict(support=Support.NEVER, reason=never)
        missing = _not_built(edge, options)
        return Verdict(support=Support.NOTIMPL, reason=missing) if missing else YES

    def convert(self, job: ConvertJob) -> StepOutput:
        """Runs one edge.

        Raises:
            UnsupportedModel: The frontend has no form of an operator, or the border cannot be kept.
            StepError: OpenVINO fails.
        """
        silence_telemetry()
        return _STEPS[job.edge](job)


_: type[Converter] = OpenvinoConverter


def _never(edge: Edge, summary: ModelSummary, options: ConvertOptions) -> str:
    if edge in STATEFUL_EDGES and not options.states:
        return "no state was named: --state INPUT=OUTPUT"
    loops = sorted(_RECURRENT & set(summary.operators))
    if edge in KERAS_EDGES and loops:
        return f"OpenVINO's TensorFlow frontend makes a loop of {', '.join(loops)}, over ONNX it becomes one operator"
    layers = ((layer.operator, layer.precision) for layer in summary.layers)
    found = any(operator in _MATRICES and precision == "int8-dynamic" for operator, precision in layers)
    return "" if edge.id != DYNAMIC_TFLITE or found else "OpenVINO quantizes on the fly in matrix products, it has none"


def _not_built(edge: Edge, options: ConvertOptions) -> str:
    if options.submodule:
        return "takes whole models; the ways over .pt2 take submodules"
    if edge.id == DYNAMIC_ONNX:
        return _IN_FLOAT
    asked = [name for name in ("io_layout", "io_dtype") if getattr(options, name)]
    return f"{', '.join(asked)}: the border stays as the source's" if asked else ""
