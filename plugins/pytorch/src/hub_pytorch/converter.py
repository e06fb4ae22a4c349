"""The edges that PyTorch offers."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import (
    YES,
    ConvertJob,
    ConvertOptions,
    Edge,
    ModelSummary,
    State,
    StepOutput,
    Support,
    Toolchain,
    Verdict,
)
from hub_pytorch.import_edges import IMPORT_EDGES, run_import
from hub_pytorch.source_form import CONSTANTS_HINT, NO_CONSTANTS, export_source, is_source, trace_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from hub_pytorch.program import Program
    from hub_pytorch.reference import Reference

PT2 = State(format="pytorch")
TORCHSCRIPT = State(format="pytorch", form="torchscript")
BUILDER = State(format="pytorch", form="builder")
PICKLE = State(format="pytorch", form="pickle")
ONNX = State(format="onnx")
TFLITE = State(format="tflite")

_TORCH = ("torch>=2.9",)
TFLITE_BYTES = 2**31
"""Offsets in a flatbuffer are 32 bits, signed."""
EXPORT_FAILS = "torch-export-fails"
"""Code of the finding that torch.export refuses a module, so that only a trace is left."""

EDGES = (
    Edge(
        id="pytorch.tflite-litert",
        source=PT2,
        target=TFLITE,
        requires=("litert-torch>=0.10", *_TORCH),
        process="torch",
        title="LiteRT Torch",
    ),
    Edge(
        id="pytorch.onnx-dynamo",
        source=PT2,
        target=ONNX,
        keeps_dynamic=True,
        requires=("onnxscript>=0.7", *_TORCH),
        process="torch",
        title="torch.onnx",
    ),
    Edge(
        id="pytorch.export-builder",
        source=BUILDER,
        target=PT2,
        keeps_dynamic=True,
        requires=_TORCH,
        process="torch",
        title="torch.export",
    ),
    Edge(
        id="pytorch.export-torchscript",
        source=TORCHSCRIPT,
        target=PT2,
        requires=_TORCH,
        process="torch",
        title="torch.export of TorchScript",
    ),
    Edge(id="pytorch.export-pickle", source=PICKLE, target=PT2, requires=_TORCH, process="torch", title="torch.export"),
    Edge(
        id="pytorch.onnx-torchscript",
        source=TORCHSCRIPT,
        target=ONNX,
        requires=_TORCH,
        process="torch",
        cost=4.0,
        title="torch.onnx (TorchScript)",
    ),
    Edge(
        id="pytorch.onnx-trace",
        source=BUILDER,
        target=ONNX,
        keeps_dynamic=True,
        requires=_TORCH,
        process="torch",
        cost=4.0,
        title="torch.onnx (trace)",
    ),
    Edge(
        id="pytorch.onnx-trace-program",
        source=PT2,
        target=ONNX,
        requires=_TORCH,
        process="torch",
        cost=4.0,
        title="torch.onnx (trace)",
    ),
    *IMPORT_EDGES,
)


class PyTorchConverter:
    """Export to `.pt2`, conversion to TFLite and ONNX, and the import of ONNX."""

    edges = EDGES
    toolchains: tuple[Toolchain, ...] = ()

    def check(self, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
        """Refuse what the summary already shows to be in the way."""
        if edge.source == PICKLE and not options.allow_pickle:
            return Verdict(support=Support.NEVER, reason="it is a pickle", hint="--allow-pickle runs its code")
        if edge.id == "pytorch.onnx-torchscript" and options.constants:
            return Verdict(support=Support.NOTIMPL, reason="freezes no inputs; the way over .pt2 does")
        if edge.source == BUILDER and options.constants and any(is_source(Path(file)) for file in summary.files):
            return Verdict(support=Support.NOTIMPL, reason=NO_CONSTANTS, hint=CONSTANTS_HINT)
        if edge.target == TFLITE and summary.size_bytes >= TFLITE_BYTES:
            return Verdict(support=Support.NEVER, reason="a TFLite file ends at 2 GiB, and the model is larger")
        failed = next((item for item in summary.findings if item.code == EXPORT_FAILS), None)
        if failed and edge.target == PT2 and edge.source.format == "pytorch" and not options.shapes:
            return Verdict(support=Support.NOTIMPL, reason=failed.message, hint=failed.hint)
        return _blocking(edge, summary, options)

    def convert(self, job: ConvertJob) -> StepOutput:
        """Run one edge. Raises as the functions of its module."""
        gc.collect()  # programs are cycles: without this, the model of the task before stays in the worker's memory
        return _STEPS[job.edge](job)


def _blocking(edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
    if edge.source.format != "pytorch" or options.submodule:  # a submodule may be free of what the whole has
        return YES
    for finding in summary.findings:
        if finding.blocking:
            return Verdict(support=Support.NEVER, reason=finding.message, hint=finding.hint)
    return YES


def _program(job: ConvertJob) -> Program:
    from hub_pytorch.load import exported_program

    return exported_program(Path(job.source.path), allow_pickle=job.options.allow_pickle)


def _tflite(job: ConvertJob) -> StepOutput:
    from hub_pytorch.to_tflite import convert_to_tflite

    return convert_to_tflite(_program(job), job.options, Path(job.output))


def _onnx(job: ConvertJob) -> StepOutput:
    from hub_pytorch.to_onnx import convert_to_onnx

    return convert_to_onnx(_program(job), job.options, Path(job.output))


def _reference(job: ConvertJob) -> Reference:
    from hub_pytorch.reference import reference_for

    return reference_for(job.source.path, job.source.state.form, job.options)


def _export(job: ConvertJob) -> StepOutput:
    if is_source(Path(job.source.path)):
        return export_source(job)
    from hub_pytorch.export import export_torchscript, export_with_notes, save_exported
    from hub_pytorch.load import load_eager
    from hub_pytorch.to_onnx import frozen_bindings

    reference = _reference(job)
    said: tuple[str, ...] = ()
    if job.source.state.form == "torchscript":
        exported, signature = export_torchscript(reference)
    else:
        eager = load_eager(reference, allow_pickle=job.options.allow_pickle)
        exported, signature, said = export_with_notes(*eager, reference)
    save_exported(exported, signature, Path(job.output))
    notes = (f"took the submodule {reference.submodule}", *said) if reference.submodule else said
    return StepOutput(notes=notes, bindings=frozen_bindings(reference))


def _onnx_torchscript(job: ConvertJob) -> StepOutput:
    from hub_pytorch.to_onnx import convert_torchscript_to_onnx

    return convert_torchscript_to_onnx(_reference(job), Path(job.output))


def _trace(job: ConvertJob) -> StepOutput:
    if is_source(Path(job.source.path)):
        return trace_source(job)
    from hub_pytorch.load import load_eager
    from hub_pytorch.trace_onnx import trace_eager

    reference = _reference(job)
    eager = load_eager(reference, allow_pickle=job.options.allow_pickle)
    return trace_eager(*eager, reference, Path(job.output))


def _trace_program(job: ConvertJob) -> StepOutput:
    from hub_pytorch.trace_onnx import trace_program

    return trace_program(_program(job), job.options, Path(job.output))


_STEPS: dict[str, Callable[[ConvertJob], StepOutput]] = {
    "pytorch.tflite-litert": _tflite,
    "pytorch.onnx-dynamo": _onnx,
    "pytorch.export-builder": _export,
    "pytorch.export-torchscript": _export,
    "pytorch.export-pickle": _export,
    "pytorch.onnx-torchscript": _onnx_torchscript,
    "pytorch.onnx-trace": _trace,
    "pytorch.onnx-trace-program": _trace_program,
    **{edge.id: run_import for edge in IMPORT_EDGES},
}
