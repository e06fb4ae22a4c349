"""The edges: text to binary without loss, and binary to three quantized forms. Each is a record with its own code."""

from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

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
    SampleFolder,
    StepOutput,
    Support,
    Verdict,
)
from hub_toy.files import Array, ToyModel, read, write_binary
from hub_toy.runtime import Floats, quantize, scale_of, values_of


def has_weights(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse to quantize a model without weights: the result would be the same file under another name."""
    del options
    if "affine" in summary.operators:
        return YES
    reason = "the model has no affine layer, so there is no weight to store"
    return Verdict(support=Support.NEVER, reason=reason, hint="leave out the precision", code="no-weights")


def leaves_an_input(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse to freeze every input: nothing would be left to feed."""
    names = [spec.name for spec in summary.signature.inputs]
    if not options.constants or set(names) - set(options.constants):
        return YES
    reason, hint = f"{', '.join(names)} would all be frozen, so there is nothing to feed", "leave out one --constant"
    return Verdict(support=Support.NEVER, reason=reason, hint=hint, code="nothing-to-feed")


def to_binary(job: ConvertJob) -> StepOutput:
    """Write the binary form of a text; an input that is frozen becomes an array. Raises as `hub_toy.files.read`."""
    model, constants = read(Path(job.source.path)), job.options.constants
    frozen = [value for value in model.graph.inputs if value.name in constants]
    arrays: dict[str, Array] = {
        f"{value.name}.value": np.full([1 if isinstance(n, str) else n for n in value.shape], constants[value.name])
        for value in frozen
    }
    graph = msgspec.structs.replace(model.graph, inputs=tuple(v for v in model.graph.inputs if v not in frozen))
    write_binary(Path(job.output), ToyModel(graph=graph, arrays=model.arrays | arrays))
    bindings = (
        IoBinding(direction="input", source=name, target="", constant=constant, reason=f"frozen to {constant}")
        for name, constant in constants.items()
    )
    return StepOutput(bindings=tuple(bindings))


def to_half(job: ConvertJob) -> StepOutput:
    """Store every array in float16."""
    model = read(Path(job.source.path))
    arrays: dict[str, Array] = {name: array.astype(np.float16) for name, array in model.arrays.items()}
    write_binary(Path(job.output), ToyModel(graph=model.graph, arrays=arrays))
    return StepOutput(recipe=_recipe("fp16", Numerics.FP16, DType.FLOAT16, DType.FLOAT32))


def to_dynamic(job: ConvertJob) -> StepOutput:
    """Store every weight in int8; the runtime measures the range of what comes in."""
    write_binary(Path(job.output), _with_int8_weights(read(Path(job.source.path))))
    return StepOutput(recipe=_recipe("int8-dynamic", Numerics.INT8_DYNAMIC, DType.INT8, DType.INT8))


def to_static(job: ConvertJob) -> StepOutput:
    """Store every weight in int8, and the range of what comes in as the calibration samples have it."""
    model, samples = read(Path(job.source.path)), SampleFolder(job.calibration)
    quantized = _with_int8_weights(model)
    scales: dict[str, Array] = {f"{name}.x_scale": np.asarray(s) for name, s in _input_scales(model, samples).items()}
    write_binary(Path(job.output), ToyModel(graph=model.graph, arrays=quantized.arrays | scales))
    recipe = _recipe("int8", Numerics.INT8, DType.INT8, DType.INT8, samples=len(samples))
    text = f"input ranges of the affine layers are the largest magnitudes over {len(samples)} samples"
    return StepOutput(recipe=recipe, notes=(Remark("note", "ranges-from-samples", text),))


def _with_int8_weights(model: ToyModel) -> ToyModel:
    """Store every weight as int8 with one scale per output channel."""
    arrays = dict(model.arrays)
    for name in [name for name in arrays if name.endswith(".w")]:
        weights: Floats = model.arrays[name].astype(np.float32)
        arrays[f"{name}_scale"] = scale_of(weights, axis=0)
        arrays[name] = quantize(weights, scale_of(weights, axis=0))
    return ToyModel(graph=model.graph, arrays=arrays)


def _input_scales(model: ToyModel, samples: SampleFolder) -> dict[str, Floats]:
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


_FLOAT_BINARY = (Accepts(format="toybin"),)
EDGES = (
    Edge(
        id="toy.bin",
        accepts=(Accepts(format="toy"),),
        gives=Gives(format="toybin"),
        convert=to_binary,
        check=leaves_an_input,
        honours=("constants",),
        keeps_dynamic=True,
        process="toy",
        title="binary",
    ),
    Edge(
        id="toy.fp16",
        accepts=_FLOAT_BINARY,
        gives=Gives(format="toybin", numerics=Numerics.FP16),
        convert=to_half,
        check=has_weights,
        lossy=True,
        keeps_dynamic=True,
        requires=("numpy>=2.0",),
        process="toy",
        title="half precision",
    ),
    Edge(
        id="toy.int8-dynamic",
        accepts=_FLOAT_BINARY,
        gives=Gives(format="toybin", numerics=Numerics.INT8_DYNAMIC),
        convert=to_dynamic,
        check=has_weights,
        lossy=True,
        keeps_dynamic=True,
        requires=("numpy>=2.0",),
        process="toy",
        title="dynamic int8",
    ),
    Edge(
        id="toy.int8",
        accepts=_FLOAT_BINARY,
        gives=Gives(format="toybin", numerics=Numerics.INT8),
        convert=to_static,
        check=has_weights,
        lossy=True,
        needs_calibration=True,
        keeps_dynamic=True,
        requires=("numpy>=2.0",),
        process="toy",
        title="static int8",
    ),
)
"""The first carries out `--constant` (`honours`), none another option: where one is asked for, there is no route."""
