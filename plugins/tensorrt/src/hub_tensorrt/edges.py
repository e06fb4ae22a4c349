"""What the planner sees of building."""

from __future__ import annotations

from hub.spec import (
    KEEP,
    PREPARED,
    YES,
    Accepts,
    ConvertJob,
    ConvertOptions,
    DType,
    Edge,
    Gives,
    ModelSummary,
    Numerics,
    StepOutput,
    Support,
    Verdict,
    takes_unblocked,
)
from hub_tensorrt.build import build, parse_capability
from hub_tensorrt.libraries import FP8_FROM, RTX, TENSORRT
from hub_tensorrt.plan import FORMAT

PRECISION_FORM = "tensorrt"
"""Form of an ONNX model in which every tensor has the type that TensorRT is to compute in."""

_QUANTIZED = (
    Numerics.FP16, Numerics.BF16, Numerics.INT8, Numerics.INT8_MIXED, Numerics.INT8_WEIGHTS, Numerics.INT4_WEIGHTS,
    Numerics.FP8,
)  # fmt: skip
_SOURCES = (
    Accepts(format="onnx", form=PREPARED),
    Accepts(format="onnx", form=PRECISION_FORM, numerics=_QUANTIZED),
)


def allows_for_rtx(options: ConvertOptions) -> Verdict:
    """Refuses compute capabilities that the library does not build for."""
    wrong = [word for word in options.build_for if parse_capability(word) not in RTX.capabilities]
    if not wrong:
        return YES
    there = ", ".join(f"sm{number}" for number in RTX.capabilities)
    reason = f"{RTX.title} does not build for {', '.join(wrong)}, only for {there}"
    return Verdict(support=Support.NEVER, reason=reason, hint=f"--build-for sm{RTX.usual[-1]}")


def takes_no_float64(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses inputs and outputs of a type that TensorRT has not; preparation computes in float32 between them."""
    del options
    border = (*summary.signature.inputs, *summary.signature.outputs)
    wide = [str(spec) for spec in border if spec.dtype is DType.FLOAT64]
    if not wide:
        return YES
    reason = f"TensorRT has no float64, and the model takes or gives {', '.join(wide)}"
    return Verdict(support=Support.NEVER, reason=reason, hint="export it with float32 inputs and outputs")


def takes_for_rtx(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses what no engine takes, and fp8 for compute capabilities that have none."""
    refused = takes_no_float64(summary, options)
    if not refused:
        return refused
    lacking = [word for word in options.build_for if (parse_capability(word) or 0) < FP8_FROM]
    if summary.state.numerics is not Numerics.FP8 or not lacking:
        return YES
    reason = f"{', '.join(lacking)} has no fp8: it begins at sm{FP8_FROM}"
    return Verdict(support=Support.NEVER, reason=reason, hint=f"--build-for sm{FP8_FROM}")


def allows_for_device(options: ConvertOptions) -> Verdict:
    """Refuses to build for another device than the one that is here."""
    if options.build_for:
        return Verdict(support=Support.NEVER, reason=f"{TENSORRT.title} builds for the GPU that is here, for no other")
    return YES


def _adopt(job: ConvertJob) -> StepOutput:
    from hub_tensorrt.adopt import adopt

    return adopt(job)


def _ahead(job: ConvertJob) -> StepOutput:
    return build(job, RTX)


def _on_device(job: ConvertJob) -> StepOutput:
    return build(job, TENSORRT)


BUILDING = (
    Edge(
        id="tensorrt.adopt",
        accepts=(Accepts(format="onnx", numerics=_QUANTIZED),),
        gives=Gives(format="onnx", form=PRECISION_FORM, numerics=KEEP),
        convert=_adopt,
        check=takes_unblocked,
        adopts=True,
        keeps_dynamic=True,
        requires=("onnx>=1.17",),
        process="onnx",
        title="as it is, by TensorRT's rules",
    ),
    Edge(
        id="tensorrt.build-rtx",
        accepts=_SOURCES,
        gives=Gives(format=FORMAT, numerics=KEEP),
        convert=_ahead,
        check=takes_for_rtx,
        allows=allows_for_rtx,
        honours=("build_for",),
        deterministic=False,
        keeps_dynamic=True,
        needs_ranges=True,
        requires=(RTX.requires, "onnx>=1.17"),
        optional=True,
        process="tensorrt",
        title="TensorRT-RTX, ahead of time",
    ),
    Edge(
        id="tensorrt.build",
        accepts=_SOURCES,
        gives=Gives(format=FORMAT, numerics=KEEP),
        convert=_on_device,
        check=takes_no_float64,
        allows=allows_for_device,
        deterministic=False,
        keeps_dynamic=True,
        needs_ranges=True,
        needs_device="cuda",
        requires=(TENSORRT.requires, "onnx>=1.17"),
        optional=True,
        process="tensorrt",
        cost=0.5,
        title="TensorRT, on the GPU here",
    ),
)
"""Two libraries, one builder: what differs is in `hub_tensorrt.libraries`."""
