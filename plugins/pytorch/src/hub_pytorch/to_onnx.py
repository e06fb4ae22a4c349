"""PyTorch -> ONNX with torch.onnx. Runs in a worker."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hub.spec import IoBinding, Remark, StepError, StepOutput, TensorSpec, UnsupportedModel
from hub_pytorch.expanded import expanded
from hub_pytorch.export import fixed_specs
from hub_pytorch.load import load_torchscript
from hub_pytorch.script import script_call, script_inputs
from hub_torchprogram import (
    adapt,
    check_names,
    export_module,
    exported_signature,
    flat_outputs,
    names_of_symbols,
    rename,
    sample,
    stored_sizes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from hub.spec import ConvertOptions
    from hub_pytorch.reference import ModelReference
    from hub_torchprogram import Program

# A protobuf ends at 2 GiB; the graph needs some of that.
_EXTERNAL_ABOVE_BYTES = 1_800_000_000


def convert_to_onnx(program: Program, options: ConvertOptions, output: Path) -> StepOutput:
    """Convert an exported program to ONNX with the dynamo exporter; symbolic dimensions stay symbolic.

    Args:
        program: The model.
        options: With shapes, constants or a layout the program is traced again at fixed shapes; else as it is.
        output: File to write; large weights go to `<output>.data` beside it.

    Raises:
        UnsupportedModel: Neither the program nor its decomposition can be expressed in ONNX.
    """
    check_names(program, options)
    open_names = {spec.name for spec in program.signature.inputs if not spec.is_static}
    if not (open_names & options.shapes.keys() or options.constants or options.io_layout):
        names = OnnxNames.of(
            program.exported, program.signature.inputs, [spec.name for spec in program.signature.outputs]
        )
        return StepOutput(notes=_export_with_retry(program.exported, names, output))
    adapted = adapt(program, options, keep_open=True)
    inputs = tuple(
        msgspec.structs.replace(spec, name=word) for word, spec in zip(adapted.words, adapted.inputs, strict=True)
    )
    sizes = stored_sizes(program.exported, program.signature)
    exported, _ = export_module(adapted.module, inputs, by_name=True, sizes=sizes)
    names = OnnxNames.of(exported, adapted.inputs, adapted.outputs)
    return StepOutput(notes=_export_with_retry(exported, names, output), bindings=adapted.bindings)


class OnnxNames(NamedTuple):
    """What the inputs, the outputs and torch's symbols (`s77`) are called in the result."""

    inputs: list[str]
    outputs: list[str]
    symbols: dict[str, str]

    @classmethod
    def of(
        cls, exported: torch.export.ExportedProgram, inputs: Sequence[TensorSpec], outputs: Sequence[str]
    ) -> OnnxNames:
        """The names of a program's inputs and outputs, and of its symbols in the specs of its inputs."""
        symbols = names_of_symbols(exported_signature(exported, {}), inputs)
        return cls([spec.name for spec in inputs], list(outputs), symbols)


def _export_with_retry(exported: torch.export.ExportedProgram, names: OnnxNames, output: Path) -> tuple[Remark, ...]:
    import torch

    exported, notes = expanded(exported)
    try:
        _export(exported, names, output)
    except torch.onnx.OnnxExporterError as error:
        try:
            _export(exported.run_decompositions(), names, output)
        except (torch.onnx.OnnxExporterError, RuntimeError) as second:
            raise UnsupportedModel(f"torch.onnx cannot express the model: {reason_of(second)}") from second
        text = f"decomposed to core operators first, because torch.onnx failed on the program: {reason_of(error)}"
        return (*notes, Remark("note", "decomposed", text))
    return notes


def _export(exported: torch.export.ExportedProgram, names: OnnxNames, output: Path) -> None:
    import torch

    with quiet():
        made = torch.onnx.export(
            exported, (), dynamo=True, input_names=names.inputs, output_names=names.outputs, verbose=False
        )
        if made is None:
            raise StepError("torch.onnx gave no program")
        # Open dimensions have their names in every tensor, also in expressions over them.
        graph = made.model.graph
        values = {value for node in graph.all_nodes() for value in node.outputs} | {*graph.inputs, *graph.outputs}
        for value in values if names.symbols else ():
            if value.shape is not None:
                dims = [
                    dim if isinstance(dim, int) or dim.value is None else rename(dim.value, names.symbols)
                    for dim in value.shape
                ]
                value.shape = type(value.shape)(dims)
        # torch.onnx names inputs and outputs without looking: inner values may bear their names.
        border = {*names.inputs, *names.outputs}
        outside = {*made.model.graph.inputs, *made.model.graph.outputs}
        inner = (value for node in made.model.graph.all_nodes() for value in node.outputs if value not in outside)
        for number, value in enumerate([value for value in inner if value.name in border]):
            value.name = f"{value.name}/inner_{number}"
        tensors = [*exported.state_dict.values(), *exported.constants.values()]
        made.save(
            output,
            external_data=sum(tensor.nbytes for tensor in tensors if hasattr(tensor, "nbytes")) > _EXTERNAL_ABOVE_BYTES,
        )


def reason_of(error: BaseException) -> str:
    """The first line of the error at the root of an exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or ['no message'])[0][:300]}"


def convert_torchscript_to_onnx(reference: ModelReference, output: Path) -> StepOutput:
    """Convert a TorchScript file with the TorchScript exporter, which bakes in control flow without saying so.

    Its result is never to be trusted without a parity check; the core makes one.

    Args:
        reference: The file, shapes and dtypes of its inputs, constants, submodule.
        output: File to write.

    Raises:
        ShapeNeeded: An input has no shape.
        UnsupportedModel: Hidden state, inputs that are no tensors, or an operator without an ONNX form.
    """
    import torch

    if reference.constants:
        frozen = ", ".join(reference.constants)
        raise UnsupportedModel(f"torch.onnx (TorchScript) cannot freeze {frozen}", hint="--to pytorch first")
    script = load_torchscript(Path(reference.file), reference.submodule)
    call = script_call(script, reference)
    wanted = [name for name in script_inputs(script).wanted(reference) if name not in reference.constants]
    feeds = {spec.name: sample(spec) for spec in fixed_specs(wanted, reference)}
    with torch.no_grad():
        names, _ = flat_outputs(call(**feeds))
    try:
        with quiet(), torch.no_grad():
            positional = tuple(feeds.values())
            torch.onnx.export(
                script,
                positional,
                str(output),
                dynamo=False,
                input_names=[*feeds],
                output_names=[*names],
                opset_version=17,
            )
            if not output.exists():
                raise StepError("torch.onnx wrote no file")
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedModel(f"torch.onnx (TorchScript) cannot express the model: {reason_of(error)}") from error
    text = "exported by torch.onnx's TorchScript exporter at fixed shapes"
    return StepOutput(notes=(Remark("note", "exported-by-torchscript", text),))


def frozen_bindings(asked: ModelReference | ConvertOptions) -> tuple[IoBinding, ...]:
    """How inputs that were frozen are declared."""
    return tuple(
        IoBinding(direction="input", source=name, target="", reason="frozen on request", constant=value)
        for name, value in asked.constants.items()
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch.onnx's progress lines off standard output, and its deprecation warnings off the log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
