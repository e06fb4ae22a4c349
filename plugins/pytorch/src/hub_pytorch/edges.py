"""The edges that start from PyTorch: export to `.pt2`, conversion to TFLite and to ONNX."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import (
    YES,
    Accepts,
    ConvertJob,
    ConvertOptions,
    Edge,
    Gives,
    ModelSummary,
    Remark,
    StepOutput,
    Support,
    Verdict,
    takes_unblocked,
)
from hub_pytorch.source_form import CONSTANTS_HINT, NO_CONSTANTS, export_source, is_source, trace_source

if TYPE_CHECKING:
    from hub_pytorch.reference import ModelReference
    from hub_torchprogram import Program

_PT2 = (Accepts(format="pytorch"),)
_TORCHSCRIPT = (Accepts(format="pytorch", form="torchscript"),)
_BUILDER = (Accepts(format="pytorch", form="builder"),)
_PICKLE = (Accepts(format="pytorch", form="pickle"),)
_TORCH = ("torch>=2.9",)
TFLITE_BYTES = 2**31
"""Offsets in a flatbuffer are 32 bits, signed."""
EXPORT_FAILS = "torch-export-fails"
"""Code of the finding that torch.export refuses a module, so that only a trace is left."""


def takes_module(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse what the reader marked as blocking: in the whole, for a submodule may be free of it."""
    return YES if options.submodule else takes_unblocked(summary, options)


def takes_exportable(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse also what torch.export was seen to refuse, unless at other shapes."""
    failed = next((item for item in summary.findings if item.code == EXPORT_FAILS), None)
    if failed and not options.shapes:
        return Verdict(support=Support.NOTIMPL, reason=failed.text, hint=failed.hint)
    return takes_module(summary, options)


def takes_builder(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse to freeze inputs of a source that hub wrote, whose tables name them."""
    if options.constants and any(is_source(Path(file)) for file in summary.files):
        return Verdict(support=Support.NOTIMPL, reason=NO_CONSTANTS, hint=CONSTANTS_HINT)
    return takes_module(summary, options)


def takes_exportable_builder(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse what either of the two refuses."""
    verdict = takes_builder(summary, options)
    return takes_exportable(summary, options) if verdict else verdict


def takes_pickle(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse to run a pickle's code unasked."""
    if not options.allow_pickle:
        return Verdict(support=Support.NEVER, reason="it is a pickle", hint="--allow-pickle runs its code")
    return takes_exportable(summary, options)


def fits_tflite(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuse what a TFLite file cannot hold."""
    if summary.size_bytes >= TFLITE_BYTES:
        return Verdict(support=Support.NEVER, reason="a TFLite file ends at 2 GiB, and the model is larger")
    return takes_module(summary, options)


def _forget() -> None:
    """Drop the model of the task before: programs are cycles, which stay in the worker's memory until collected."""
    gc.collect()


def _program(job: ConvertJob) -> Program:
    from hub_torchprogram import exported_program

    _forget()
    return exported_program(Path(job.source.path), allow_pickle=job.options.allow_pickle)


def _tflite(job: ConvertJob) -> StepOutput:
    from hub_pytorch.to_tflite import convert_to_tflite

    return convert_to_tflite(_program(job), job.options, Path(job.output))


def _onnx(job: ConvertJob) -> StepOutput:
    from hub_pytorch.to_onnx import convert_to_onnx

    return convert_to_onnx(_program(job), job.options, Path(job.output))


def _reference(job: ConvertJob) -> ModelReference:
    from hub_pytorch.reference import reference_for

    _forget()
    return reference_for(job.source.path, job.source.state.form, job.options)


def _export(job: ConvertJob) -> StepOutput:
    if is_source(Path(job.source.path)):
        return export_source(job)
    from hub_pytorch.export import export_torchscript, export_with_notes
    from hub_pytorch.load import load_eager
    from hub_pytorch.to_onnx import frozen_bindings
    from hub_torchprogram import save_exported

    reference = _reference(job)
    said: tuple[Remark, ...] = ()
    if job.source.state.form == "torchscript":
        exported, signature = export_torchscript(reference)
    else:
        eager = load_eager(reference, allow_pickle=job.options.allow_pickle)
        exported, signature, said = export_with_notes(*eager, reference)
    save_exported(exported, signature, Path(job.output))
    took = Remark("note", "submodule-taken", f"took the submodule {reference.submodule}")
    return StepOutput(notes=(took, *said) if reference.submodule else said, bindings=frozen_bindings(reference))


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


EDGES = (
    Edge(
        id="pytorch.tflite-litert",
        accepts=_PT2,
        gives=Gives(format="tflite"),
        convert=_tflite,
        check=fits_tflite,
        honours=("constants", "io_layout"),
        requires=("litert-torch>=0.10", *_TORCH),
        process="torch",
        title="LiteRT Torch",
    ),
    Edge(
        id="pytorch.onnx-dynamo",
        accepts=_PT2,
        gives=Gives(format="onnx"),
        convert=_onnx,
        check=takes_module,
        honours=("constants", "io_layout"),
        keeps_dynamic=True,
        requires=("onnxscript>=0.7", *_TORCH),
        process="torch",
        title="torch.onnx",
    ),
    Edge(
        id="pytorch.export-builder",
        accepts=_BUILDER,
        gives=Gives(format="pytorch"),
        convert=_export,
        check=takes_exportable_builder,
        honours=("constants", "submodule"),
        keeps_dynamic=True,
        requires=_TORCH,
        process="torch",
        title="torch.export",
    ),
    Edge(
        id="pytorch.export-torchscript",
        accepts=_TORCHSCRIPT,
        gives=Gives(format="pytorch"),
        convert=_export,
        check=takes_exportable,
        honours=("constants", "submodule"),
        requires=_TORCH,
        process="torch",
        title="torch.export of TorchScript",
    ),
    Edge(
        id="pytorch.export-pickle",
        accepts=_PICKLE,
        gives=Gives(format="pytorch"),
        convert=_export,
        check=takes_pickle,
        honours=("constants", "submodule"),
        requires=_TORCH,
        process="torch",
        title="torch.export",
    ),
    Edge(
        id="pytorch.onnx-torchscript",
        accepts=_TORCHSCRIPT,
        gives=Gives(format="onnx"),
        convert=_onnx_torchscript,
        check=takes_module,
        honours=("submodule",),
        requires=_TORCH,
        process="torch",
        cost=4.0,
        title="torch.onnx (TorchScript)",
    ),
    Edge(
        id="pytorch.onnx-trace",
        accepts=_BUILDER,
        gives=Gives(format="onnx"),
        convert=_trace,
        check=takes_builder,
        honours=("constants", "submodule"),
        keeps_dynamic=True,
        requires=_TORCH,
        process="torch",
        cost=4.0,
        title="torch.onnx (trace)",
    ),
    Edge(
        id="pytorch.onnx-trace-program",
        accepts=_PT2,
        gives=Gives(format="onnx"),
        convert=_trace_program,
        check=takes_module,
        honours=("constants", "io_layout"),
        requires=_TORCH,
        process="torch",
        cost=4.0,
        title="torch.onnx (trace)",
    ),
)
