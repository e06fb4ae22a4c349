"""What this plugin offers to hub. Imports no framework."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from hub.spec import (
    YES,
    Converter,
    ConvertJob,
    ConvertOptions,
    Edge,
    Format,
    Identification,
    IoBinding,
    ModelSummary,
    ModelUnreadable,
    Numerics,
    Runtime,
    State,
    StepOutput,
    Support,
    Toolchain,
    Verdict,
    hookimpl,
)
from hub_onnxruntime.describe import OnnxFormat
from hub_onnxruntime.identify import Kind, probe
from hub_onnxruntime.onnx2tf_edge import Onnx2tfConverter
from hub_onnxruntime.optimize import OrtOptimizer
from hub_onnxruntime.ort_file import is_ort
from hub_onnxruntime.prepare import prepare, prepare_dynamic
from hub_onnxruntime.quantize.convert import OnnxQuantizer
from hub_onnxruntime.session import OrtRuntime

PREPARE = Edge(
    id="onnx.prepare",
    source=State(format="onnx", numerics=Numerics.FP32),
    target=State(format="onnx", numerics=Numerics.FP32, form="static"),
    requires=("onnx>=1.17", "onnxslim>=0.1.60", "onnxruntime>=1.20"),
    process="onnx",
    cost=0.2,
    title="ONNX preparation",
)
PREPARE_DYNAMIC = msgspec.structs.replace(
    PREPARE,
    id="onnx.prepare-dynamic",
    target=State(format="onnx", numerics=Numerics.FP32, form="prepared"),
    keeps_dynamic=True,
    title="ONNX preparation, dims kept open",
)


class OnnxPreparer:
    """The edges ONNX -> ONNX in its static form, and in the prepared form that keeps open dims."""

    @property
    def edges(self) -> Sequence[Edge]:
        """Two edges."""
        return (PREPARE, PREPARE_DYNAMIC)

    @property
    def toolchains(self) -> Sequence[Toolchain]:
        """None: it runs in the user's environment."""
        return ()

    def check(self, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
        """Refuses what the reader marked as blocking, foreign operators, and keeping dims open where none is."""
        blocking = [finding for finding in summary.findings if finding.blocking]
        if blocking:
            return Verdict(support=Support.NEVER, reason=blocking[0].message, hint=blocking[0].hint)
        if summary.custom_operators:
            names = ", ".join(summary.custom_operators)
            return Verdict(support=Support.NOTIMPL, reason=f"operators of one runtime only: {names}")
        given = {*options.shapes, *options.constants}
        if edge == PREPARE_DYNAMIC and all(s.is_static or s.name in given for s in summary.signature.inputs):
            return Verdict(support=Support.NEVER, reason="no dimension is open: onnx.prepare does more")
        return YES

    def convert(self, job: ConvertJob) -> StepOutput:
        """Writes the form that the edge names. See `hub_onnxruntime.prepare`."""
        options = job.options
        source, target, scratch = Path(job.source.path), Path(job.output), Path(job.scratch)
        run = prepare if job.edge == PREPARE.id else prepare_dynamic
        done = run(source, target, scratch, options.shapes, options.constants, options.seed)
        bindings = (_frozen(name, value) for name, value in done.frozen.items())
        return StepOutput(notes=tuple(done.notes), bindings=tuple(bindings))


def _frozen(name: str, value: float | bool) -> IoBinding:
    return IoBinding(direction="input", source=name, target="", constant=value, reason=f"frozen to {value}")


@hookimpl
def hub_register_formats() -> list[Format]:
    """Offers the reader of ONNX files."""
    return [OnnxFormat()]


@hookimpl
def hub_register_converters() -> list[Converter]:
    """Offers the preparation, ONNX Runtime's optimization, and onnx2tf."""
    return [OnnxPreparer(), OrtOptimizer(), Onnx2tfConverter(), OnnxQuantizer()]


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
