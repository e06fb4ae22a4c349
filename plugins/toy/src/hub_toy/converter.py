"""The edges: text to binary without loss, and binary to three quantized forms."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from hub.spec import (
    YES,
    ConvertJob,
    ConvertOptions,
    DType,
    Edge,
    ModelSummary,
    Numerics,
    QuantRecipe,
    SampleFolder,
    State,
    StepOutput,
    Support,
    Toolchain,
    Verdict,
)
from hub_toy.files import Array, Model, read, write_binary
from hub_toy.runtime import Floats, quantize, scale_of, values_of

_FLOAT = State(format="toybin", numerics=Numerics.FP32)


def _quantizer(name: str, numerics: Numerics, title: str) -> Edge:
    return Edge(
        id=f"toy.{name}",
        source=_FLOAT,
        target=State(format="toybin", numerics=numerics),
        lossy=True,
        needs_calibration=numerics.needs_calibration,
        keeps_dynamic=True,
        requires=("numpy>=2.0",),
        process="toy",
        title=title,
    )


EDGES = (
    Edge(id="toy.bin", source=State(format="toy"), target=_FLOAT, keeps_dynamic=True, process="toy", title="binary"),
    _quantizer("fp16", Numerics.FP16, "half precision"),
    _quantizer("int8-dynamic", Numerics.INT8_DYNAMIC, "dynamic int8"),
    _quantizer("int8", Numerics.INT8, "static int8"),
)


class ToyConverter:
    """All edges of this plugin."""

    edges = EDGES
    toolchains: tuple[Toolchain, ...] = ()

    def check(self, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:  # noqa: ARG002 protocol
        """Refuse to quantize a model without weights: the result would be the same file under another name."""
        if edge.lossy and "affine" not in summary.operators:
            return Verdict(
                support=Support.NEVER, reason="the model has no affine layer, so there is no weight to store"
            )
        return YES

    def convert(self, job: ConvertJob) -> StepOutput:
        """Run one edge. Raises as `hub_toy.files.read`."""
        model, output = _STEPS[job.edge](read(Path(job.source.path)), job)
        write_binary(Path(job.output), model)
        return output


def _binary(model: Model, job: ConvertJob) -> tuple[Model, StepOutput]:  # noqa: ARG001 as in the table
    return model, StepOutput()


def _half(model: Model, job: ConvertJob) -> tuple[Model, StepOutput]:  # noqa: ARG001 as in the table
    arrays: dict[str, Array] = {name: array.astype(np.float16) for name, array in model.arrays.items()}
    recipe = _recipe("fp16", Numerics.FP16, DType.FLOAT16, DType.FLOAT32)
    return Model(graph=model.graph, arrays=arrays), StepOutput(recipe=recipe)


def _dynamic(model: Model, job: ConvertJob) -> tuple[Model, StepOutput]:  # noqa: ARG001 as in the table
    recipe = _recipe("int8-dynamic", Numerics.INT8_DYNAMIC, DType.INT8, DType.INT8)
    return _with_int8_weights(model), StepOutput(recipe=recipe)


def _static(model: Model, job: ConvertJob) -> tuple[Model, StepOutput]:
    samples = SampleFolder(job.calibration)
    quantized = _with_int8_weights(model)
    scales: dict[str, Array] = {f"{name}.x_scale": np.asarray(s) for name, s in _input_scales(model, samples).items()}
    recipe = _recipe("int8", Numerics.INT8, DType.INT8, DType.INT8, samples=len(samples))
    notes = (f"input ranges of the affine layers are the largest magnitudes over {len(samples)} samples",)
    return Model(graph=model.graph, arrays=quantized.arrays | scales), StepOutput(recipe=recipe, notes=notes)


def _with_int8_weights(model: Model) -> Model:
    """Store every weight as int8 with one scale per output channel."""
    arrays = dict(model.arrays)
    for name in [name for name in arrays if name.endswith(".w")]:
        weights: Floats = model.arrays[name].astype(np.float32)
        arrays[f"{name}_scale"] = scale_of(weights, axis=0)
        arrays[name] = quantize(weights, scale_of(weights, axis=0))
    return Model(graph=model.graph, arrays=arrays)


def _input_scales(model: Model, samples: SampleFolder) -> dict[str, Floats]:
    """Layer -> scale of its input, from the float model's values on every sample."""
    scales: dict[str, Floats] = {}
    for feeds in samples:
        values = values_of(model, feeds)
        for layer in (layer for layer in model.graph.layers if layer.op == "affine"):
            scale = scale_of(values[layer.inputs[0]])
            scales[layer.name] = np.maximum(scales.get(layer.name, scale), scale)
    return scales


def _recipe(name: str, numerics: Numerics, weights: DType, activations: DType, samples: int = 0) -> QuantRecipe:
    return QuantRecipe(
        name=f"toy-{name}",
        tool=f"hub-toy {version('hub-toy')}",
        numerics=numerics,
        weights=weights,
        activations=activations,
        granularity="per-tensor" if weights is DType.FLOAT16 else "per-channel",
        symmetric_activations=activations is DType.INT8,
        calibration_method="max-abs" if samples else "",
        samples=samples,
    )


_STEPS: dict[str, Callable[[Model, ConvertJob], tuple[Model, StepOutput]]] = {
    "toy.bin": _binary,
    "toy.fp16": _half,
    "toy.int8-dynamic": _dynamic,
    "toy.int8": _static,
}
