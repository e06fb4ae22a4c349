"""What this plugin offers to hub. Imports no framework."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hub.spec import (
    PREPARED,
    STATIC,
    Accepts,
    ConvertJob,
    ConvertOptions,
    Edge,
    Format,
    Gives,
    Identification,
    IoBinding,
    ModelSummary,
    ModelUnreadable,
    Numerics,
    Remark,
    Runtime,
    StepOutput,
    Support,
    Verdict,
    hookimpl,
    takes_unblocked,
)
from hub_onnxruntime.describe import OnnxFormat
from hub_onnxruntime.float_copy import run_float_copy
from hub_onnxruntime.identify import Kind, probe
from hub_onnxruntime.onnx2tf_edge import ONNX2TF
from hub_onnxruntime.operators import ONNXRUNTIME
from hub_onnxruntime.optimize import OPTIMIZING
from hub_onnxruntime.ort_file import is_ort
from hub_onnxruntime.prepare import prepare, prepare_dynamic
from hub_onnxruntime.quantize.convert import EQUALIZING, QUANTIZING
from hub_onnxruntime.resized import RESIZED, resized_file
from hub_onnxruntime.runtime import OrtRuntime


def takes_standard(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses what the reader marked as blocking, and foreign operators."""
    if summary.custom_operators:
        names = ", ".join(summary.custom_operators)
        return Verdict(support=Support.NOTIMPL, reason=f"operators of one runtime only: {names}")
    return takes_unblocked(summary, options)


def takes_dynamic(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses also to keep dimensions dynamic where none is."""
    given = {*options.shapes, *options.constants}
    if all(spec.is_static or spec.name in given for spec in summary.signature.inputs):
        return Verdict(support=Support.NEVER, reason="no dimension is dynamic: onnx.prepare does more")
    return takes_standard(summary, options)


_HALVES = (Numerics.FP16, Numerics.BF16)


def _prepare(job: ConvertJob) -> StepOutput:
    """Writes the form of the target. See `hub_onnxruntime.prepare`."""
    options = job.options
    source, target, scratch = Path(job.source.path), Path(job.output), Path(job.scratch)
    if job.source.state.form == RESIZED:
        source = resized_file(source, scratch, options.shapes)
    run = prepare if job.target.form == STATIC else prepare_dynamic
    done = run(source, target, scratch, options.shapes, options.constants, options.seed)
    bindings = (
        IoBinding(direction="input", source=name, target="", constant=value, reason=f"frozen to {value}")
        for name, value in done.frozen.items()
    )
    notes = done.notes
    halves = job.source.state.numerics in _HALVES and not any(note.code == "half-widened" for note in notes)
    if halves:  # the simplifier has folded the casts behind them
        notes.append(Remark("note", "half-weights-widened", "weights in half precision are stored in float32, exactly"))
    return StepOutput(notes=tuple(notes), bindings=tuple(bindings))


PREPARE = Edge(
    id="onnx.prepare",
    accepts=(Accepts(format="onnx"), Accepts(format="onnx", form=RESIZED)),
    gives=Gives(format="onnx", form=STATIC),
    convert=_prepare,
    check=takes_standard,
    honours=("constants",),
    requires=("onnx>=1.17", "onnxslim>=0.1.60", ONNXRUNTIME),
    process="onnx",
    cost=0.2,
    title="ONNX preparation",
)
PREPARE_DYNAMIC = msgspec.structs.replace(
    PREPARE,
    id="onnx.prepare-dynamic",
    gives=Gives(format="onnx", form=PREPARED),
    check=takes_dynamic,
    keeps_dynamic=True,
    title="ONNX preparation, dynamic dims kept",
)
_HALF = (Accepts(format="onnx", numerics=_HALVES),)
# What they give is no longer rounded to half at each layer: the core holds it against the source by half's gate.
WIDEN = msgspec.structs.replace(
    PREPARE, id="onnx.widen", accepts=_HALF, adopts=True, title="ONNX preparation, half precision in float32"
)
WIDEN_DYNAMIC = msgspec.structs.replace(
    PREPARE_DYNAMIC,
    id="onnx.widen-dynamic",
    accepts=_HALF,
    adopts=True,
    title="ONNX preparation, half precision in float32, dynamic dims kept",
)
_QUANTIZED = (
    Numerics.INT8,
    Numerics.INT8_MIXED,
    Numerics.INT16X8,
    Numerics.INT8_DYNAMIC,
    Numerics.INT8_WEIGHTS,
    Numerics.INT4_WEIGHTS,
)
FLOAT_COPY = Edge(
    id="onnx.float-copy",
    accepts=(Accepts(format="onnx", numerics=_QUANTIZED),),
    gives=Gives(format="onnx"),
    convert=run_float_copy,
    adopts=True,
    keeps_dynamic=True,
    requires=("onnx>=1.17",),
    process="onnx",
    cost=0.5,
    title="float copy",
)
"""For formats and precisions that a quantized model has no form in."""


@hookimpl
def hub_register_formats() -> list[Format]:
    """Offers the reader of ONNX files."""
    return [OnnxFormat()]


@hookimpl
def hub_register_edges() -> list[Edge]:
    """Offers the preparation, the float copy, ONNX Runtime's optimization, onnx2tf, and the quantization."""
    return [PREPARE, PREPARE_DYNAMIC, WIDEN, WIDEN_DYNAMIC, FLOAT_COPY, *OPTIMIZING, ONNX2TF, *QUANTIZING, *EQUALIZING]


@hookimpl
def hub_register_runtimes() -> list[Runtime]:
    """Offers ONNX Runtime on the CPU."""
    return [OrtRuntime()]


@hookimpl
def hub_identify_format(path: Path, header: bytes) -> Identification | None:
    """Recognises an ONNX file by the chain of its fields, an `.ort` file by its flatbuffer identifier.

    Raises:
        ModelUnreadable: The file is named `.onnx` or `.ort` and is none, or is a damaged `.onnx` file.
    """
    if not header or path.is_dir():
        return None
    if is_ort(header):
        return Identification(format="onnx", form="ort", detail="its flatbuffer identifier is ORTM")
    if path.suffix == ".ort":
        reason = "bytes 4 to 8 are not 'ORTM'"
        raise ModelUnreadable(f"{path} is named .ort and is no .ort model: {reason}", hint="Copy it again.")
    answer = probe(path)
    if answer.kind is Kind.ONNX:
        return Identification(format="onnx", detail=answer.reason)
    if path.suffix == ".onnx":
        state = "is a damaged ONNX model" if answer.kind is Kind.DAMAGED else "is named .onnx and is no ONNX model"
        raise ModelUnreadable(f"{path} {state}: {answer.reason}", hint="Copy it again and compare its size.")
    return None
