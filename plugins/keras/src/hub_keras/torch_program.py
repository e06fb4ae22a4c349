"""Keras to PyTorch (`.pt2`), and to ONNX through it: one exported program, whose open dimensions stay open."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import ConvertJob, HubError, Remark, Signature, StepError, UnsupportedModel
from hub_keras.loaded import LoadedModel
from hub_keras.onnx_border import OnnxSignature, finish
from hub_keras.static import StaticInputs
from hub_keras.torch_backend import NOTE, example_inputs, module_of

if TYPE_CHECKING:
    import torch

# A protobuf ends at 2 GiB; the graph needs some of that.
_EXTERNAL_ABOVE_BYTES = 1_800_000_000
# Sizes of open dimensions other than the batch are tried whole, then an eighth: a table of positions may be short.
_SHRINK = (1, 8)
_FAILURES = (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, KeyError, IndexError)


def export_program(
    loaded: LoadedModel, static: StaticInputs, seed: int
) -> tuple[torch.export.ExportedProgram, tuple[Remark, ...]]:
    """Export a model with torch.export.

    Returns:
        The ExportedProgram, and notes.

    Raises:
        UnsupportedModel: A layer computes something else on this backend, or decides by the values of tensors.
        StepError: torch.export failed, or cannot keep an open dimension open.
    """
    module, notes = module_of(loaded, static)
    shrinks = _SHRINK if static.is_open else _SHRINK[:1]
    for shrink in shrinks:
        shapes = {
            name: tuple(
                size // shrink if axis and axis in static.open_axes.get(name, ()) else size
                for axis, size in enumerate(shape)
            )
            for name, shape in static.shapes.items()
        }
        sized = dataclasses.replace(static, shapes=shapes)
        try:
            return _export(module, sized, seed), (*static.notes, NOTE, *notes)
        except _FAILURES as error:
            if shrink == shrinks[-1]:
                raise _export_error(error, static) from error
    raise AssertionError(shrinks)


def _export(module: torch.nn.Module, static: StaticInputs, seed: int) -> torch.export.ExportedProgram:
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export tells of its own guesses; hub measures what came of them
        logging.getLogger("torch.export").setLevel(logging.ERROR)
        dynamic = (_dynamic_shapes(static),) if static.is_open else None
        return torch.export.export(module, example_inputs(static, seed), strict=False, dynamic_shapes=dynamic)


def _dynamic_shapes(static: StaticInputs) -> tuple[dict[int, torch.export.Dim], ...]:
    """The batch by its name, so that a program that fixes it is refused; other open dimensions as torch finds them."""
    from torch.export import Dim

    batch = Dim("batch", min=1)
    return tuple(
        {axis: batch if symbol == "batch" else Dim.DYNAMIC for axis, symbol in static.symbols(spec).items()}
        for spec in static.kept
    )


_DATA_DEPENDENT = ("data-dependent", "GuardOnDataDependentSymNode", "_local_scalar_dense")


def _export_error(error: Exception, static: StaticInputs) -> HubError:
    """What a failure of torch.export means to the user."""
    text = f"{type(error).__name__}: {error}"
    if any(mark in text for mark in _DATA_DEPENDENT):
        return UnsupportedModel(f"a layer decides by the values of tensors: {_line(text)}")
    kept = " with open dimensions" if static.is_open else ""
    return StepError(f"torch.export failed{kept}: {_line(text)}")


def _line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]


def write_pytorch(loaded: LoadedModel, static: StaticInputs, job: ConvertJob) -> tuple[Remark, ...]:
    """Write an exported program with the source's names of inputs and outputs. Returns notes.

    Raises:
        UnsupportedModel: See `export_program`.
        StepError: See `export_program`.
    """
    from hub_torchprogram import save_exported

    exported, notes = export_program(loaded, static, job.options.seed)
    save_exported(exported, Signature(inputs=static.kept, outputs=loaded.signature.outputs), Path(job.output))
    return notes


def write_onnx(loaded: LoadedModel, static: StaticInputs, job: ConvertJob) -> tuple[Remark, ...]:
    """Export with torch.onnx into `job.output`. Returns notes.

    Raises:
        UnsupportedModel: See `export_program`; or ONNX cannot express the program.
        StepError: See `export_program`.
    """
    import torch

    exported, notes = export_program(loaded, static, job.options.seed)
    border = OnnxSignature.of(static, loaded.signature)
    weights = sum(tensor.nbytes for tensor in exported.state_dict.values())
    external = weights > _EXTERNAL_ABOVE_BYTES
    try:
        program = torch.onnx.export(
            exported, (), dynamo=True, input_names=border.input_slots, output_names=border.output_slots, verbose=False
        )
    except torch.onnx.OnnxExporterError as error:
        raise UnsupportedModel(
            f"torch.onnx cannot express the model: {_line(str(error.__cause__ or error))}"
        ) from error
    if program is None:
        raise StepError("torch.onnx gave no program")
    finish(program.model_proto, border, Path(job.output), external=external)
    return notes
