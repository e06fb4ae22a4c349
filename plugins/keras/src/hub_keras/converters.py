"""The edges: Keras and SavedModel to TFLite and ONNX, each with an engine of its own."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from hub.spec import (
    YES,
    ConvertJob,
    ConvertOptions,
    DType,
    Edge,
    IoBinding,
    ModelSummary,
    Numerics,
    QuantRecipe,
    State,
    StepOutput,
    Support,
    Toolchain,
    Verdict,
)
from hub_keras import tf_convert, tf_onnx, torch_backend, torch_program
from hub_keras.flatbuffer import interface_quantization
from hub_keras.load import load_model, tensorflow_version
from hub_keras.loaded import Loaded
from hub_keras.recurrent import RECURRENT
from hub_keras.static import StaticInputs, layouts_of, open_inputs, static_inputs

KERAS = State(format="keras")
SAVED_MODEL = State(format="keras", form="savedmodel")
_INPUT_TYPES = frozenset({DType.FLOAT32, DType.INT32, DType.INT64, DType.UINT8, DType.INT8, DType.BOOL})


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to convert.

    Attributes:
        edge: What is offered.
        backend: Keras backend that it runs on.
        write: Writes `job.output`; gives notes.
    """

    edge: Edge
    backend: str
    write: Callable[[Loaded, StaticInputs, ConvertJob], tuple[str, ...]]


def _tensorflow() -> tuple[str, ...]:
    """TensorFlow comes under two names: ask for the one that is there."""
    try:
        importlib.metadata.version("tensorflow")
    except importlib.metadata.PackageNotFoundError:
        return ("tensorflow-cpu>=2.19",)
    return ("tensorflow>=2.19",)


def _tf_edge(edge_id: str, source: State, numerics: Numerics, cost: float, title: str) -> Edge:
    return Edge(
        id=edge_id,
        source=source,
        target=State(format="tflite", numerics=numerics),
        lossy=numerics is not Numerics.FP32,
        needs_calibration=numerics.needs_calibration,
        requires=("keras>=3.11", "h5py>=3.11", "ai-edge-litert>=2.1", *_tensorflow()),
        process="keras-tensorflow",
        cost=cost,
        title=title,
    )


def _onnx_edge(edge_id: str, source: State) -> Edge:
    return Edge(
        id=edge_id,
        source=source,
        target=State(format="onnx"),
        keeps_dynamic=True,
        requires=("keras>=3.11", "h5py>=3.11", "onnx>=1.17", "tf2onnx>=1.17", *_tensorflow()),
        process="keras-tensorflow",
        cost=1.5,
        title="tf2onnx",
    )


def _torch_edge(
    edge_id: str, target: str, cost: float, title: str, requires: tuple[str, ...], *, dynamic: bool = False
) -> Edge:
    return Edge(
        id=edge_id,
        source=KERAS,
        target=State(format=target),
        keeps_dynamic=dynamic,
        requires=("keras>=3.11", "h5py>=3.11", "torch>=2.9", *requires),
        environment={"KERAS_BACKEND": "torch"},
        process="keras-torch",
        cost=cost,
        title=title,
    )


def _write_tf(
    make: tf_convert.Maker, numerics: Numerics
) -> Callable[[Loaded, StaticInputs, ConvertJob], tuple[str, ...]]:
    return lambda loaded, static, job: tf_convert.write_tflite(loaded, static, job, make, numerics)


_SOURCES = (("keras.tflite", KERAS), ("keras.savedmodel-tflite", SAVED_MODEL))
_MAKERS = (("frozen", tf_convert.from_frozen, 1.0), ("saved", tf_convert.from_saved, 2.0))
_QUANTIZED = (Numerics.FP16, Numerics.INT8_DYNAMIC, Numerics.INT8, Numerics.INT16X8)
# One more than float conversion (1) and a quantizer after it (1): taken when those two are wrong.
_QUANTIZED_COST = 2.5


def _engines() -> Iterator[Engine]:
    for prefix, source in _SOURCES:
        for word, make, cost in _MAKERS:
            edge = _tf_edge(f"{prefix}-{word}", source, Numerics.FP32, cost, f"TensorFlow's converter, {word}")
            yield Engine(edge, "tensorflow", _write_tf(make, Numerics.FP32))
        for numerics in _QUANTIZED:
            title = f"TensorFlow's converter, {numerics.value}"
            edge = _tf_edge(f"{prefix}-tf-{numerics.value}", source, numerics, _QUANTIZED_COST, title)
            yield Engine(edge, "tensorflow", _write_tf(tf_convert.from_unrolled, numerics))
    unrolled = _tf_edge("keras.tflite-unrolled", KERAS, Numerics.FP32, 1.2, "TensorFlow's converter, unrolled")
    yield Engine(unrolled, "tensorflow", _write_tf(tf_convert.from_unrolled, Numerics.FP32))
    yield Engine(
        _torch_edge("keras.tflite-torch", "tflite", 3.0, "Keras on torch, LiteRT Torch", ("litert-torch>=0.10",)),
        "torch",
        torch_backend.write_tflite,
    )
    yield Engine(_onnx_edge("keras.onnx-tf2onnx", KERAS), "tensorflow", tf_onnx.write_onnx)
    yield Engine(_onnx_edge("keras.savedmodel-onnx", SAVED_MODEL), "tensorflow", tf_onnx.write_onnx)
    yield from _programs()


def _programs() -> Iterator[Engine]:
    """Each twice: at open dimensions, and at fixed ones for what torch.export cannot keep open."""
    kinds = (
        ("keras.pytorch", "pytorch", 1.0, "torch.export", ("hub-pytorch",), torch_program.write_pytorch),
        ("keras.onnx-torch", "onnx", 2.0, "torch.onnx", ("onnx>=1.17", "onnxscript>=0.7"), torch_program.write_onnx),
    )
    for edge_id, target, cost, tool, requires, write in kinds:
        title = f"Keras on torch, {tool}"
        yield Engine(_torch_edge(edge_id, target, cost, title, requires, dynamic=True), "torch", write)
        fixed = _torch_edge(f"{edge_id}-static", target, cost + 1, f"{title}, fixed shapes", requires)
        yield Engine(fixed, "torch", write)


ENGINES = {engine.edge.id: engine for engine in _engines()}


class KerasConverter:
    """Offers the edges that start from Keras."""

    @property
    def edges(self) -> tuple[Edge, ...]:
        """See `hub.spec.Converter`."""
        return tuple(engine.edge for engine in ENGINES.values())

    @property
    def toolchains(self) -> tuple[Toolchain, ...]:
        """None: everything runs in the user's environment."""
        return ()

    def check(self, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
        """See `hub.spec.Converter`."""
        verdicts = (rule(edge, summary, options) for rule in _RULES)
        return next((verdict for verdict in verdicts if verdict is not None), YES)

    def convert(self, job: ConvertJob) -> StepOutput:
        """See `hub.spec.Converter`."""
        engine = ENGINES[job.edge]
        loaded = load_model(Path(job.source.path), backend=engine.backend, allow_pickle=job.options.allow_pickle)
        match = open_inputs if engine.edge.keeps_dynamic else static_inputs
        static = match(loaded.signature, job.options)
        notes = engine.write(loaded, static, job)
        numerics = engine.edge.target.numerics
        return StepOutput(
            notes=notes,
            bindings=_bindings(job, static, numerics),
            recipe=_recipe(job, numerics),
        )


def _blocked(_: Edge, summary: ModelSummary, __: ConvertOptions) -> Verdict | None:
    finding = next((item for item in summary.findings if item.blocking), None)
    return Verdict(support=Support.NEVER, reason=finding.message, hint=finding.hint) if finding else None


def _input_types(_: Edge, summary: ModelSummary, __: ConvertOptions) -> Verdict | None:
    odd = [str(spec) for spec in summary.signature.inputs if spec.dtype not in _INPUT_TYPES]
    return Verdict(support=Support.NOTIMPL, reason=f"input type not supported: {', '.join(odd)}") if odd else None


def _layout(_: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict | None:
    layouts = layouts_of(summary.signature)
    if not options.io_layout or (len(layouts) <= 1 and "" not in layouts):
        return None
    found = ", ".join(sorted(layout or "one that it does not say" for layout in layouts))
    reason = f"the model's inputs of rank 4 have the layout {found}: hub cannot tell what to change"
    return Verdict(support=Support.NOTIMPL, reason=reason, hint="leave --io-layout out")


def _io_dtype(edge: Edge, _: ModelSummary, options: ConvertOptions) -> Verdict | None:
    if not options.io_dtype or edge.target.numerics in {Numerics.INT8, Numerics.FP32}:
        return None
    return Verdict(support=Support.NOTIMPL, reason=f"{options.io_dtype} inputs and outputs need static int8")


def _unrolled(edge: Edge, summary: ModelSummary, _: ConvertOptions) -> Verdict | None:
    if edge.id != "keras.tflite-unrolled" or RECURRENT & summary.operators.keys():
        return None
    return Verdict(support=Support.NEVER, reason="there is no recurrent layer to unroll")


def _fixed_already(edge: Edge, summary: ModelSummary, _: ConvertOptions) -> Verdict | None:
    if not edge.id.endswith("-static") or not summary.signature.is_static:
        return None
    reason = f"every shape is fixed: {edge.id.removesuffix('-static')} is the same"
    return Verdict(support=Support.NEVER, reason=reason)


_RULES = (_fixed_already, _blocked, _input_types, _layout, _io_dtype, _unrolled)


def _bindings(job: ConvertJob, static: StaticInputs, numerics: Numerics) -> tuple[IoBinding, ...]:
    """The declared changes; an integer interface that was asked for with the scales that the file holds."""
    if numerics is not Numerics.INT8 or job.options.io_dtype != "int8":
        return static.bindings
    declared = {(bound.direction, bound.source): bound for bound in static.bindings}
    inputs, outputs = interface_quantization(Path(job.output))
    sides: tuple[tuple[Literal["input", "output"], dict[str, tuple[float, int]]], ...]
    sides = (("input", inputs), ("output", outputs))
    for direction, found in sides:
        for name, (scale, zero_point) in found.items():
            plain = IoBinding(direction=direction, source=name, target=name)
            declared[direction, name] = _integer(declared.get((direction, name), plain), scale, zero_point)
    return tuple(declared.values())


def _integer(bound: IoBinding, scale: float, zero_point: int) -> IoBinding:
    reasons = filter(None, (bound.reason, "integer inputs and outputs were asked for"))
    return msgspec.structs.replace(
        bound, reason="; ".join(reasons), dtype=DType.INT8, scale=scale, zero_point=zero_point
    )


_ACTIVATIONS = {Numerics.INT8: DType.INT8, Numerics.INT16X8: DType.INT16}


def _recipe(job: ConvertJob, numerics: Numerics) -> QuantRecipe | None:
    if numerics is Numerics.FP32:
        return None
    from hub.spec import SampleFolder

    calibrated = numerics.needs_calibration
    return QuantRecipe(
        name=f"tf-{numerics.value}",
        tool=f"tensorflow {tensorflow_version()}",
        numerics=numerics,
        weights=DType.FLOAT16 if numerics is Numerics.FP16 else DType.INT8,
        activations=_ACTIVATIONS.get(numerics, DType.FLOAT32),
        granularity="per-channel",
        symmetric_activations=numerics is Numerics.INT16X8,
        calibration_method="min-max" if calibrated else "",
        samples=len(SampleFolder(job.calibration)) if calibrated else 0,
        settings={"optimizations": ["DEFAULT"], "io_dtype": job.options.io_dtype or "source"},
    )
