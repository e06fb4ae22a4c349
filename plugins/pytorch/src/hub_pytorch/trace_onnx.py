"""PyTorch -> ONNX by tracing: torch.onnx's TorchScript exporter, the second engine. Runs in a worker.

A trace records what one run did. It bakes in every branch and every size that became a Python number on the way, so its
result is never to be trusted without a parity check at other inputs and sizes; the core makes both.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hub.spec import HubError, Remark, StepError, StepOutput, TensorSpec, UnsupportedModel
from hub_pytorch.export import TracedInputs, eager_inputs, export_eager, freeze_known
from hub_pytorch.to_onnx import frozen_bindings, quiet, reason_of
from hub_torchprogram import adapt, export_module, flat_outputs, is_data_dependent, module_of, sample, sized

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from hub.spec import ConvertOptions
    from hub_pytorch.reference import ModelReference
    from hub_torchprogram import Program

OPSET = 17


def trace_eager(module: torch.nn.Module, example: object, reference: ModelReference, output: Path) -> StepOutput:
    """Trace an eager module; its open dimensions stay open as far as the trace holds them.

    Raises:
        UnsupportedModel: Control flow depends on values, which a trace would bake in; or an operator has no ONNX form.
    """
    try:
        export_eager(module, example, reference)
    except HubError as error:
        if is_data_dependent(error):
            raise
    inputs = eager_inputs(module, example, reference)
    frozen, specs = freeze_known(module, inputs, reference)
    kept = TracedInputs(specs, inputs.sizes)
    names, _ = flat_outputs(frozen(**{spec.name: sample(spec) for spec in kept.traced}))
    notes = trace(_positional(frozen, [spec.name for spec in kept.specs]), kept, names, output)
    return StepOutput(notes=notes, bindings=frozen_bindings(reference))


def trace_program(program: Program, options: ConvertOptions, output: Path) -> StepOutput:
    """Trace an exported program at fixed shapes: it holds no branches, but sizes in it become numbers.

    Raises:
        ShapeNeeded: An input has a symbolic dimension and no shape is given.
        UnsupportedModel: An operator has no ONNX form.
    """
    adapted = adapt(program, options)
    module = adapted.module
    if not program.signature.is_static:  # sizes are symbols in it, which a trace does not take
        inputs = tuple(map(_with_name, adapted.inputs, adapted.words))
        module = export_module(module, inputs, by_name=True)[0].module()
    notes = trace(_positional(module, adapted.words), TracedInputs(adapted.inputs, {}), adapted.outputs, output)
    return StepOutput(notes=notes, bindings=adapted.bindings)


def _with_name(spec: TensorSpec, name: str) -> TensorSpec:
    return msgspec.structs.replace(spec, name=name)


def _positional(module: torch.nn.Module, names: Sequence[str]) -> torch.nn.Module:
    """A module that takes its inputs by position and gives a tuple of tensors."""

    def call(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return flat_outputs(module(**dict(zip(names, tensors, strict=True))))[1]

    return module_of(call, module)


def trace(module: torch.nn.Module, inputs: TracedInputs, outputs: Sequence[str], output: Path) -> tuple[Remark, ...]:
    """Trace a module that takes its inputs by position and gives a tuple, and write it as ONNX.

    Returns:
        Notes: that it is a trace, and what torch warned of.

    Raises:
        UnsupportedModel: An operator has no ONNX form, or torch cannot trace it.
        StepError: torch wrote no file.
    """
    import torch
    from torch.jit._trace import TracerWarning

    feeds = tuple(sample(spec) for spec in inputs.traced)
    names = [spec.name for spec in inputs.specs]
    try:
        with quiet(), torch.no_grad(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TracerWarning)
            found = {
                spec.name: {axis: dim.symbol for axis, dim in enumerate(spec.shape) if dim.symbol}
                for spec in inputs.specs
            }
            torch.onnx.export(
                module, feeds, str(output), dynamo=False, input_names=names, output_names=[*outputs],
                opset_version=OPSET, dynamic_axes={name: axes for name, axes in found.items() if axes} or None,
                training=torch.onnx.TrainingMode.PRESERVE,  # a program refuses train() and eval()
            )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise UnsupportedModel(f"torch.onnx (TorchScript) cannot express the model: {reason_of(error)}") from error
    if not output.exists():
        raise StepError("torch.onnx wrote no file")
    sizes = ", ".join(str(sized(spec, inputs.sizes)) for spec in inputs.specs)
    lines = Counter(str(item.message).partition(".")[0] for item in caught if issubclass(item.category, TracerWarning))
    return (
        Remark("note", "traced", f"traced by torch.onnx's TorchScript exporter at {sizes}"),
        *(
            Remark("note", "values-baked-in", f"the trace fixed {count} values: {line}")
            for line, count in lines.items()
        ),
    )
