"""The edges: Keras and SavedModel to TFLite, ONNX and PyTorch, each with an engine of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from hub.spec import (
    YES,
    Accepts,
    ConvertJob,
    ConvertOptions,
    DType,
    Edge,
    Gives,
    IoBinding,
    ModelSummary,
    Numerics,
    QuantRecipe,
    Remark,
    Signature,
    StepOutput,
    Support,
    Verdict,
    takes_unblocked,
)
from hub_keras import tf_convert, tf_onnx, torch_backend, torch_program
from hub_keras.flatbuffer import interface_quantization
from hub_keras.load import TENSORFLOW, load_model, tensorflow_version
from hub_keras.loaded import LoadedModel
from hub_keras.recurrent import RECURRENT
from hub_keras.static import StaticInputs, layouts_of, open_inputs, static_inputs

_KERAS = (Accepts(format="keras"),)
_EITHER = (*_KERAS, Accepts(format="keras", form="savedmodel"))
_BORDER: tuple[Literal["constants"], Literal["io_layout"]] = ("constants", "io_layout")
_INPUT_TYPES = frozenset({DType.FLOAT32, DType.INT32, DType.INT64, DType.UINT8, DType.INT8, DType.BOOL})

Write = Callable[[LoadedModel, StaticInputs, ConvertJob], tuple[Remark, ...]]
"""Writes `job.output`; gives notes."""

Match = Callable[[Signature, ConvertOptions], StaticInputs]
"""What the request makes of a model's inputs: at open dimensions, or at fixed ones."""


def takes_model(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse what stands in every engine's way."""
    blocked = takes_unblocked(summary, options)
    if not blocked:
        return blocked
    odd = [str(spec) for spec in summary.signature.inputs if spec.dtype not in _INPUT_TYPES]
    if odd:
        return Verdict(support=Support.NOTIMPL, reason=f"input type not supported: {', '.join(odd)}")
    layouts = layouts_of(summary.signature)
    if not options.io_layout or (len(layouts) <= 1 and "" not in layouts):
        return YES
    found = ", ".join(sorted(layout or "one that it does not say" for layout in layouts))
    reason = f"the model's inputs of rank 4 have the layout {found}: hub cannot tell what to change"
    return Verdict(support=Support.NOTIMPL, reason=reason, hint="leave --io-layout out")


def takes_recurrent(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse also what has no loop to write out."""
    verdict = takes_model(summary, options)
    if verdict and not RECURRENT & summary.operators.keys():
        return Verdict(support=Support.NEVER, reason="there is no recurrent layer to unroll")
    return verdict


def takes_dynamic(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse also what has no dimension to fix: a second try of the same."""
    verdict = takes_model(summary, options)
    if verdict and summary.signature.is_static:
        return Verdict(support=Support.NEVER, reason="every shape is fixed, so there is none to fix")
    return verdict


def _convert(backend: str, match: Match, write: Write, job: ConvertJob) -> StepOutput:
    """The step of every edge from Keras: load on a backend, fit the request, write, say what changed."""
    loaded = load_model(Path(job.source.path), backend=backend, allow_pickle=job.options.allow_pickle)
    static = match(loaded.signature, job.options)
    notes = write(loaded, static, job)
    numerics = job.target.numerics
    return StepOutput(notes=notes, bindings=_bindings(job, static, numerics), recipe=_recipe(job, numerics))


_TF_REQUIRES = ("keras>=3.11", "h5py>=3.11", TENSORFLOW)


def _tflite_edge(word: str, make: tf_convert.Maker, cost: float) -> Edge:
    return Edge(
        id=f"keras.tflite-{word}",
        accepts=_EITHER,
        gives=Gives(format="tflite"),
        convert=functools.partial(
            _convert,
            "tensorflow",
            static_inputs,
            lambda loaded, static, job: tf_convert.write_tflite(loaded, static, job, make, job.target.numerics),
        ),
        check=takes_model,
        honours=_BORDER,
        requires=(*_TF_REQUIRES, "ai-edge-litert>=2.1"),
        process="keras-tensorflow",
        cost=cost,
        title=f"TensorFlow's converter, {word}",
        formerly=(f"keras.savedmodel-tflite-{word}",),
    )


def _quantized_edge(numerics: Numerics) -> Edge:
    edge = _tflite_edge(f"tf-{numerics.value}", tf_convert.from_unrolled, _QUANTIZED_COST)
    return msgspec.structs.replace(
        edge,
        gives=Gives(format="tflite", numerics=numerics),
        honours=(*_BORDER, "io_dtype") if numerics is Numerics.INT8 else _BORDER,
        lossy=True,
        needs_calibration=numerics.needs_calibration,
        title=f"TensorFlow's converter, {numerics.value}",
    )


# One more than float conversion (1) and a quantizer after it (1): taken when those two are wrong.
_QUANTIZED_COST = 2.5


def _torch_edge(word: str, gives: Gives, cost: float, title: str, write: Write, requires: tuple[str, ...]) -> Edge:
    """An edge that runs Keras on torch, at fixed shapes."""
    return Edge(
        id=f"keras.{word}",
        accepts=_KERAS,
        gives=gives,
        convert=functools.partial(_convert, "torch", static_inputs, write),
        check=takes_model,
        honours=_BORDER,
        requires=("keras>=3.11", "h5py>=3.11", "torch>=2.9", *requires),
        environment={"KERAS_BACKEND": "torch"},
        process="keras-torch",
        cost=cost,
        title=title,
    )


def _program_edges(
    word: str, gives: Gives, cost: float, tool: str, write: Write, requires: tuple[str, ...]
) -> tuple[Edge, Edge]:
    """Twice: at dynamic dimensions, and at fixed ones for what torch.export cannot keep dynamic."""
    title = f"Keras on torch, {tool}"
    fixed = _torch_edge(f"{word}-static", gives, cost + 1, f"{title}, fixed shapes", write, requires)
    dynamic = msgspec.structs.replace(
        fixed,
        id=f"keras.{word}",
        convert=functools.partial(_convert, "torch", open_inputs, write),
        keeps_dynamic=True,
        cost=cost,
        title=title,
    )
    return dynamic, msgspec.structs.replace(fixed, check=takes_dynamic)


EDGES = (
    _tflite_edge("frozen", tf_convert.from_frozen, 1.0),
    _tflite_edge("saved", tf_convert.from_saved, 2.0),
    msgspec.structs.replace(
        _tflite_edge("unrolled", tf_convert.from_unrolled, 1.2), accepts=_KERAS, check=takes_recurrent, formerly=()
    ),
    *map(_quantized_edge, (Numerics.FP16, Numerics.INT8_DYNAMIC, Numerics.INT8, Numerics.INT16X8)),
    _torch_edge(
        "tflite-torch",
        Gives(format="tflite"),
        3.0,
        "Keras on torch, LiteRT Torch",
        torch_backend.write_tflite,
        ("litert-torch>=0.10",),
    ),
    Edge(
        id="keras.onnx-tf2onnx",
        accepts=_EITHER,
        gives=Gives(format="onnx"),
        convert=functools.partial(_convert, "tensorflow", open_inputs, tf_onnx.write_onnx),
        check=takes_model,
        honours=_BORDER,
        keeps_dynamic=True,
        requires=(*_TF_REQUIRES, "onnx>=1.17", "tf2onnx>=1.17"),
        process="keras-tensorflow",
        cost=1.5,
        title="tf2onnx",
        optional=True,
        formerly=("keras.savedmodel-onnx",),
    ),
    *_program_edges(
        "pytorch", Gives(format="pytorch"), 1.0, "torch.export", torch_program.write_pytorch, ("hub-torchprogram",)
    ),
    *_program_edges(
        "onnx-torch",
        Gives(format="onnx"),
        2.0,
        "torch.onnx",
        torch_program.write_onnx,
        ("onnx>=1.17", "onnxscript>=0.7"),
    ),
)
BY_ID = {edge.id: edge for edge in EDGES}


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
