"""ONNX -> exported program or PyTorch source, through hub's own importer. Runs in a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hub.spec import Dim, Remark, Signature, StepOutput, TensorSpec, UnsupportedModel
from hub_torchprogram import (
    REGISTERING,
    export_module,
    is_data_dependent,
    module_of,
    name_parameters,
    save_exported,
    sized,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch


def convert_from_onnx(path: Path, signature: Signature, output: Path) -> StepOutput:
    """Convert an ONNX file to `.pt2`; dimensions that are open in the file stay open.

    Args:
        path: The ONNX file, prepared: folded, of an opset that the importer knows.
        signature: Its inputs and outputs.
        output: File to write. It holds the ONNX names of inputs, outputs and open dimensions.

    Raises:
        UnsupportedModel: It holds operators that the importer does not know, or torch.export fixes a dimension that is
            open in the file: the message names it, the hint gives its `--shape`.
        StepError: torch.export failed for another reason.
    """
    graph, count = import_file(path)
    save_exported(export_graph(graph, signature), signature, output)
    return StepOutput(notes=(Remark("note", "imported", f"imported {count} ONNX nodes as a PyTorch graph"),))


def convert_quantized(path: Path, signature: Signature, output: Path) -> StepOutput:
    """Convert a quantized ONNX file to `.pt2` that holds integers, and torch's operators for quantization.

    Arguments and errors as `convert_from_onnx`.
    """
    graph, count = import_file(path, quantized=True)
    save_exported(export_graph(graph, signature), signature, output)
    text = f"imported {count} ONNX nodes; torch.export.load of the file needs {REGISTERING} to be imported"
    return StepOutput(notes=(Remark("note", "imported-quantized", text),))


def convert_to_source(path: Path, signature: Signature, output: Path) -> StepOutput:
    """Write an ONNX file as PyTorch source, with its weights in a safetensors file beside it.

    Args:
        path: The ONNX file, prepared: folded, of an opset that the importer knows.
        signature: Its inputs and outputs.
        output: The Python file to write.

    Raises:
        UnsupportedModel: The importer does not know an operator, or something in the graph has no source.
    """
    from safetensors.torch import save_file

    from hub_pytorch.source_writer import write_source

    graph, count = import_file(path)
    inputs, sizes = open_inputs(graph, signature)
    source = write_source(graph, signature, [sized(spec, sizes).fixed_shape for spec in inputs])
    output.write_text(source.text, encoding="utf-8")
    weights = output.with_suffix(".safetensors")
    save_file(source.weights, weights)
    weights.chmod(output.stat().st_mode)  # safetensors leaves it to its owner alone
    written = f"wrote {count} ONNX nodes as PyTorch source, {source.layers} of them layers, weights in {weights.name}"
    return StepOutput(notes=(Remark("note", "source-written", written),))


def import_file(path: Path, *, quantized: bool = False) -> tuple[torch.fx.GraphModule, int]:
    """An ONNX file as a torch.fx graph, and how many nodes the file has.

    Args:
        path: The file.
        quantized: Keep quantized weights as integers.

    Raises:
        UnsupportedModel: It holds operators that the importer does not know.
    """
    import onnx

    from hub_pytorch.onnx_importer import UnsupportedOperator, import_onnx, unsupported_operators
    from hub_pytorch.quantized import import_quantized

    model = onnx.load(path, load_external_data=False)  # the importer reads each weight from its file, once
    missing = unsupported_operators(model)
    if missing:
        reasons = "; ".join(f"{operator} ({reason})" for operator, reason in missing.items())
        raise UnsupportedModel(f"hub's ONNX importer does not know: {reasons}")
    try:
        graph = (import_quantized if quantized else import_onnx)(model, str(path.parent))
    except UnsupportedOperator as error:
        raise UnsupportedModel(f"hub's ONNX importer does not take this model: {error}") from error
    return graph, len(model.graph.node)


def open_inputs(graph: torch.fx.GraphModule, signature: Signature) -> tuple[tuple[TensorSpec, ...], Mapping[str, int]]:
    """The inputs of an imported graph, and a size for each open dimension at which the graph runs.

    The dimensions have the importer's names, which are unique; those in the file need not be.
    """
    names: Mapping[str, Mapping[int, str]] = graph.meta["onnx_dynamic"]
    inputs = tuple(
        msgspec.structs.replace(
            spec,
            shape=tuple(
                Dim(symbol=names[spec.name][axis]) if axis in names[spec.name] else dim
                for axis, dim in enumerate(spec.shape)
            ),
        )
        for spec in signature.inputs
    )
    return inputs, graph.meta["onnx_sizes"]


def export_graph(graph: torch.fx.GraphModule, signature: Signature) -> torch.export.ExportedProgram:
    """Export an imported graph. Raises as `convert_from_onnx`."""
    return export_positional(graph, *open_inputs(graph, signature))


def export_positional(
    module: torch.nn.Module, inputs: tuple[TensorSpec, ...], sizes: Mapping[str, int]
) -> torch.export.ExportedProgram:
    """Export a module whose inputs go in and whose outputs come out by position. Raises as `convert_from_onnx`.

    Args:
        module: Returns a tensor or a tuple of tensors.
        inputs: Its inputs, in which every open dimension has a name of its own.
        sizes: Open dimension -> the size to trace it at.

    Returns:
        The ExportedProgram: called by position, it gives one tensor, or a tuple of them.
    """
    names = words([spec.name for spec in inputs])

    def call(*tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        results = module(*tensors)
        given = tuple(results) if isinstance(results, tuple | list) else (results,)
        return given[0] if len(given) == 1 else given

    called = module_of(call, module)
    name_parameters(called, names)  # so that the inputs go in by position
    renamed = tuple(
        TensorSpec(name=name, dtype=spec.dtype, shape=spec.shape) for name, spec in zip(names, inputs, strict=True)
    )
    try:
        return export_module(called, renamed, sizes=sizes)[0]
    except UnsupportedModel as error:
        if is_data_dependent(error):
            raise
        shapes = {
            spec.name: "x".join(map(str, sized(spec, sizes).fixed_shape)) for spec in inputs if not spec.is_static
        }
        flags = " ".join(f"--shape {name}={shape}" for name, shape in shapes.items())
        raise UnsupportedModel(
            error.message, hint=(f"fix the dimensions, such as {flags}" if flags else "") or error.hint
        ) from error
