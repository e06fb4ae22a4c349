"""Make exported programs (`.pt2`) of modules, TorchScript and references. Runs in a worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hub.spec import DType, Remark, ShapeNeeded, Signature, StepError, TensorSpec, UnsupportedModel
from hub_pytorch.attention import eager_attention
from hub_pytorch.examples import as_example, open_dims, traced_sizes, with_symbols
from hub_pytorch.load import example_specs, forward_inputs, load_torchscript, number_inputs
from hub_pytorch.script import frozen_values, script_call, script_inputs
from hub_torchprogram import (
    export_module,
    fixed_spec,
    module_of,
    sized,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from hub_pytorch.reference import ModelReference


def fixed_specs(names: Sequence[str], reference: ModelReference) -> tuple[TensorSpec, ...]:
    """The inputs of that name, as the reference fixes their shapes and dtypes.

    Raises:
        ShapeNeeded: The reference says nothing of one of them.
    """
    missing = [name for name in names if name not in reference.shapes]
    if missing:
        flags = " ".join(f"--shape {name}=1x3x224x224" for name in missing)
        raise ShapeNeeded(
            f"the model does not say the shapes of its inputs: {', '.join(missing)}",
            hint=f"give them, and the dtype of each that is not float32: {flags}",
        )
    return tuple(fixed_spec(name, reference.dtypes.get(name, DType.FLOAT32), reference.shapes[name]) for name in names)


def export_torchscript(reference: ModelReference) -> tuple[torch.export.ExportedProgram, Signature]:
    """Export a TorchScript file, or a submodule of it, at fixed shapes.

    The script runs once under torch.export's tracer: control flow on shapes and Python numbers is resolved, control
    flow on tensor values is an error.

    Returns:
        The ExportedProgram and its signature.

    Raises:
        ShapeNeeded: An input has no shape.
        UnsupportedModel: Control flow depends on values, it keeps hidden state, or an input is a number.
        StepError: torch.export failed.
    """
    script = load_torchscript(Path(reference.file), reference.submodule)
    call = script_call(script, reference)
    wanted = [name for name in script_inputs(script).wanted(reference) if name not in reference.constants]
    return export_module(call, fixed_specs(wanted, reference), by_name=True)


class TracedInputs(NamedTuple):
    """Inputs of an eager module, and the size at which each open dimension is traced."""

    specs: tuple[TensorSpec, ...]
    sizes: dict[str, int]

    @property
    def traced(self) -> tuple[TensorSpec, ...]:
        """The inputs as they are traced, with fixed shapes."""
        return tuple(sized(spec, self.sizes) for spec in self.specs)


def eager_inputs(module: torch.nn.Module, example: object, reference: ModelReference) -> TracedInputs:
    """Inputs of an eager module: from its example inputs, overridden by the reference.

    Dimensions that the example leaves open stay open, except in inputs whose shape the reference fixes.

    Raises:
        ShapeNeeded: Neither says the shape of an input.
        UnsupportedModel: `forward` does not name its inputs.
        UsageError: A dimension is to stay open that no input has.
    """
    found = as_example(example)
    specs = fixed_inputs(module, found.inputs, reference)
    given = {spec.name for spec in specs} - reference.shapes.keys()
    others = [_others(example_specs(module, other), specs) for other in found.others]
    symbols = {name: axes for name, axes in open_dims(specs, others, found.symbols).items() if name in given}
    opened = tuple(with_symbols(spec, symbols.get(spec.name, {})) for spec in specs)
    return TracedInputs(opened, traced_sizes(specs, symbols))


def _others(found: Sequence[TensorSpec], specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Another set of inputs, with those of the first that it does not give."""
    known = {spec.name: spec for spec in found}
    return tuple(known.get(spec.name, spec) for spec in specs)


def fixed_inputs(module: torch.nn.Module, example: object, reference: ModelReference) -> tuple[TensorSpec, ...]:
    """Inputs of an eager module at the sizes of one set of example inputs. Raises as `eager_inputs`."""
    given = example_specs(module, example) if example is not None else ()
    known = {spec.name: (spec.dtype, spec.fixed_shape) for spec in given}
    shapes = {name: shape for name, (_, shape) in known.items()} | reference.shapes
    dtypes = {name: dtype for name, (dtype, _) in known.items()} | reference.dtypes
    numbers = number_inputs(module)
    names = [*known] or [name for name in forward_inputs(module) if name not in numbers]
    names += [name for name in reference.shapes if name not in names]
    loose = {name: () for name in numbers if name in forward_inputs(module) and name not in names}
    full = msgspec.structs.replace(reference, shapes=shapes | loose, dtypes=dtypes | numbers)
    return fixed_specs([*names, *loose], full)


def export_eager(
    module: torch.nn.Module, example: object, reference: ModelReference
) -> tuple[torch.export.ExportedProgram, Signature]:
    """Export an eager module at the shapes of its example inputs, or of the reference. As `export_with_notes`."""
    return export_with_notes(module, example, reference)[:2]


def export_with_notes(
    module: torch.nn.Module, example: object, reference: ModelReference
) -> tuple[torch.export.ExportedProgram, Signature, tuple[Remark, ...]]:
    """Export an eager module at the shapes of its example inputs, or of the reference; open dimensions stay open.

    A model of the transformers library that torch.export refuses is exported again with eager attention.

    Returns:
        The ExportedProgram, its signature, and what must be said of it.

    Raises:
        ShapeNeeded: An input has no shape.
        UnsupportedModel: Control flow depends on values, it returns something besides tensors, or a dimension that is
            to stay open is fixed by the code.
        StepError: torch.export failed.
    """
    inputs = eager_inputs(module, example, reference)
    frozen, kept = freeze_known(module, inputs, reference)
    try:
        return *export_module(frozen, kept, sizes=inputs.sizes), ()
    except (UnsupportedModel, StepError) as error:
        with eager_attention(module) as note:
            if not note:
                raise
            made = export_module(frozen, kept, sizes=inputs.sizes)
            text = f"{note}, because with the other: {error.message}"
            return *made, (Remark("note", "attention-switched", text),)


def freeze_known(
    module: torch.nn.Module, inputs: TracedInputs, reference: ModelReference
) -> tuple[torch.nn.Module, tuple[TensorSpec, ...]]:
    """A module with the reference's constants in place of those inputs, and the inputs that are left."""
    known = msgspec.structs.replace(
        reference,
        shapes={spec.name: spec.fixed_shape for spec in inputs.traced},
        dtypes={spec.name: spec.dtype for spec in inputs.specs},
    )
    return freeze(module, known), tuple(spec for spec in inputs.specs if spec.name not in reference.constants)


def freeze(module: torch.nn.Module, reference: ModelReference) -> torch.nn.Module:
    """A module with the reference's constants in place of those inputs; it takes the others by keyword."""
    if not reference.constants:
        return module
    frozen = frozen_values(reference, number_inputs(module))

    def call(**feeds: object) -> object:
        return module(**feeds, **{name: value() for name, value in frozen.items()})

    return module_of(call, module)
