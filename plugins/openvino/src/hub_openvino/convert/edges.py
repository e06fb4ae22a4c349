"""What the planner sees of the conversions to OpenVINO IR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import (
    ANY,
    KEEP,
    STATEFUL,
    Accepts,
    ConvertJob,
    ConvertOptions,
    DType,
    Edge,
    Gives,
    ModelSummary,
    Numerics,
    QuantRecipe,
    StepOutput,
    Support,
    Verdict,
    takes_unblocked,
)
from hub_openvino.identify import FORMAT
from hub_openvino.numerics import DYNAMIC_SETTING
from hub_openvino.silence import silence_telemetry

if TYPE_CHECKING:
    import openvino

    from hub_openvino.convert.source_signature import ConvertedIr

REQUIRES = ("openvino>=2026.4",)
PROCESS = "openvino"
TENSORFLOW = "tensorflow-cpu>=2.19 | tensorflow>=2.19"


_RECURRENT = frozenset({"LSTM", "GRU"})
_MATRICES = frozenset({"FULLY_CONNECTED", "BATCH_MATMUL"})
DYNAMIC_GROUP = 32
"""Values that share a scale when activations are quantized at run time: OpenVINO's own default on the CPU."""

_AFTER_ONNX = 1.6
"""Cheaper than PyTorch over ONNX (2.0), dearer than Keras over ONNX: torch.export writes the recurrences of Keras on
torch step by step (1.7 times as slow as the one operator that tf2onnx makes of a layer)."""

_HALF_RECIPE = QuantRecipe(
    name="fp16", tool="openvino.save_model", numerics=Numerics.FP16, weights=DType.FLOAT16, activations=DType.FLOAT32,
    granularity="per-tensor", settings={"compress_to_fp16": True},
)  # fmt: skip


def takes_onnx(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses also ONNX's dynamic quantization."""
    if summary.state.format == "onnx" and summary.state.numerics is Numerics.INT8_DYNAMIC:
        reason = (
            "OpenVINO has no form of ONNX's dynamic quantization: it would compute in float, measuring every range in "
            "each run"
        )
        return Verdict(support=Support.NOTIMPL, reason=reason)
    return takes_unblocked(summary, options)


def takes_tflite(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses also to quantize on the fly where OpenVINO has nothing that does."""
    on_the_fly = any(layer.operator in _MATRICES and layer.precision == "int8-dynamic" for layer in summary.layers)
    if summary.state.numerics is Numerics.INT8_DYNAMIC and not on_the_fly:
        reason = "OpenVINO quantizes on the fly in matrix products, it has none"
        return Verdict(support=Support.NEVER, reason=reason)
    return takes_unblocked(summary, options)


def takes_loopless(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses also recurrent layers."""
    loops = sorted(_RECURRENT & set(summary.operators))
    if loops:
        reason = f"OpenVINO's TensorFlow frontend makes a loop of {', '.join(loops)}, over ONNX it becomes one operator"
        return Verdict(support=Support.NEVER, reason=reason)
    return takes_unblocked(summary, options)


def takes_states(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses to keep a state that nobody named."""
    if not options.states:
        return Verdict(support=Support.NEVER, reason="no state was named: --state INPUT=OUTPUT")
    return takes_unblocked(summary, options)


def _from_file(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.frontends import read_file
    from hub_openvino.convert.source_signature import finish

    silence_telemetry()
    model = read_file(Path(job.source.path))
    places = None
    if job.source.state.format == "tflite":
        from hub_openvino.convert.tflite import places_of

        places = places_of(Path(job.source.path), model, job.source.signature)
    done = finish(model, job.source.signature, job.options, places)
    if job.target.numerics is Numerics.INT8_DYNAMIC:
        ask_dynamic(done.model)
    return _write(done, job)


def _from_exported(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.pytorch import from_exported

    silence_telemetry()
    return _write(from_exported(job), job)


def _from_torchscript(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.pytorch import from_torchscript

    silence_telemetry()
    return _write(from_torchscript(job), job)


def _from_keras(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.keras import from_keras, from_saved_model

    silence_telemetry()
    return _write(from_saved_model(job) if job.source.state.form else from_keras(job), job)


def ask_dynamic(model: openvino.Model, group: int = DYNAMIC_GROUP) -> None:
    """Have the file ask for what makes int8 weights `int8-dynamic`: activations quantized per group at run time."""
    model.set_rt_info(str(group), DYNAMIC_SETTING.split("/"))


def _write(done: ConvertedIr, job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.source_signature import save

    save(done.model, Path(job.output))
    return StepOutput(notes=done.notes, bindings=done.bindings)


def _half(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.float16 import clipped
    from hub_openvino.convert.source_signature import save
    from hub_openvino.describe import read_model

    silence_telemetry()
    model = read_model(Path(job.source.path))
    notes = clipped(model)
    save(model, Path(job.output), half=True)
    return StepOutput(notes=notes, recipe=_HALF_RECIPE)


def _stateful(job: ConvertJob) -> StepOutput:
    from hub_openvino.convert.stateful import make_stateful

    silence_telemetry()
    return _write(make_stateful(job), job)


_QUANTIZED = tuple(item.value for item in Numerics if item is not Numerics.FP32)
_PARTLY = {Numerics.INT8: Numerics.INT8_MIXED, Numerics.INT8_MIXED: Numerics.INT8}
"""OpenVINO's frontends drop or fuse the quantization of some layers, and the two readers count different layers."""

CONVERTING = (
    Edge(
        id="openvino.from-onnx",
        accepts=(Accepts(format="onnx", numerics=ANY),),
        gives=Gives(format=FORMAT, numerics=KEEP, read_as=_PARTLY),
        convert=_from_file,
        check=takes_onnx,
        honours=("constants",),
        keeps_dynamic=True,
        requires=REQUIRES,
        process=PROCESS,
        title="OpenVINO's ONNX frontend",
        formerly=tuple(
            f"openvino.from-onnx-{word}" for word in (*_QUANTIZED, "static", "prepared", "int8-partly", "int8-products")
        ),
    ),
    Edge(
        id="openvino.from-tflite",
        accepts=(Accepts(format="tflite", numerics=ANY),),
        gives=Gives(format=FORMAT, numerics=KEEP, read_as=_PARTLY),
        convert=_from_file,
        check=takes_tflite,
        honours=("constants",),
        keeps_dynamic=True,
        requires=REQUIRES,
        process=PROCESS,
        title="OpenVINO's TFLite frontend",
        formerly=tuple(f"openvino.from-tflite-{word}" for word in (*_QUANTIZED, "int8-partly", "int8-products")),
    ),
    Edge(
        id="openvino.from-tflite-compressed",
        accepts=(Accepts(format="tflite", numerics=(Numerics.INT8_DYNAMIC,)),),
        gives=Gives(format=FORMAT, numerics=Numerics.INT8_WEIGHTS),
        convert=_from_file,
        check=takes_unblocked,
        honours=("constants",),
        keeps_dynamic=True,
        requires=REQUIRES,
        process=PROCESS,
        cost=1.5,
        title="OpenVINO's TFLite frontend, float activations",
        formerly=("openvino.from-tflite-int8-compressed",),
    ),
    Edge(
        id="openvino.from-pytorch",
        accepts=(Accepts(format="pytorch", numerics=(Numerics.FP32, Numerics.FP16, Numerics.BF16)),),
        gives=Gives(format=FORMAT, numerics=KEEP),
        convert=_from_exported,
        check=takes_unblocked,
        honours=("constants",),
        keeps_dynamic=True,
        requires=("torch>=2.9", *REQUIRES),
        process="torch",
        cost=_AFTER_ONNX,
        title="OpenVINO's PyTorch frontend",
        formerly=("openvino.from-pytorch-fp16", "openvino.from-pytorch-bf16"),
    ),
    Edge(
        id="openvino.from-torchscript",
        accepts=(Accepts(format="pytorch", form="torchscript"),),
        gives=Gives(format=FORMAT),
        convert=_from_torchscript,
        check=takes_unblocked,
        honours=("constants",),
        keeps_dynamic=True,
        requires=("torch>=2.9", *REQUIRES),
        process="torch",
        title="OpenVINO's TorchScript frontend",
        formerly=("openvino.from-pytorch-torchscript",),
    ),
    Edge(
        id="openvino.from-keras",
        accepts=(Accepts(format="keras"), Accepts(format="keras", form="savedmodel")),
        gives=Gives(format=FORMAT),
        convert=_from_keras,
        check=takes_loopless,
        honours=("constants",),
        keeps_dynamic=True,
        requires=("keras>=3.11", TENSORFLOW, *REQUIRES),
        process="keras-tensorflow",
        title="OpenVINO's TensorFlow frontend",
        formerly=("openvino.from-keras-savedmodel",),
    ),
    Edge(
        id="openvino.fp16",
        accepts=(Accepts(format=FORMAT),),
        gives=Gives(format=FORMAT, numerics=Numerics.FP16),
        convert=_half,
        check=takes_unblocked,
        lossy=True,
        keeps_dynamic=True,
        requires=REQUIRES,
        process=PROCESS,
        title="float16 weights",
    ),
    Edge(
        id="openvino.stateful",
        accepts=(Accepts(format=FORMAT, numerics=ANY),),
        gives=Gives(format=FORMAT, form=STATEFUL, numerics=KEEP),
        convert=_stateful,
        check=takes_states,
        honours=("states",),
        requires=REQUIRES,
        process=PROCESS,
        cost=0.5,
        title="state kept inside",
        formerly=tuple(f"openvino.stateful-{numerics.value}" for numerics in Numerics),
    ),
)
"""To OpenVINO IR from every format that OpenVINO has a frontend for; float16 weights; and kept state."""
