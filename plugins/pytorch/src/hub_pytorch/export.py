"""Make exported programs (`.pt2`) of modules, TorchScript and references. Runs in a worker."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hub.spec import Dim, DType, HubError, ShapeNeeded, Signature, StepError, TensorSpec, UnsupportedModel
from hub_pytorch.load import (
    NAMES_FILE,
    example_specs,
    exported_signature,
    forward_inputs,
    load_torchscript,
    number_inputs,
)
from hub_pytorch.program import flat_outputs, module_of, torch_dtype_of
from hub_pytorch.script import frozen_values, script_call, script_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hub_pytorch.reference import Reference

_DATA_DEPENDENT = ("data-dependent", "data dependent", "value out of a tracing tensor", "_local_scalar_dense")
_DATA_HINT = "rewrite the branch with torch.where or torch.cond, or freeze the input that decides it (--constant)"


def sample(spec: TensorSpec) -> Any:
    """A tensor of that static shape and dtype: zeros for integers (valid as indices), small noise for floats."""
    import torch

    dtype = torch_dtype_of(spec.dtype)
    if not spec.dtype.is_float:
        return torch.zeros(spec.fixed_shape, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(spec.fixed_shape, generator=generator, dtype=torch.float32).to(dtype)


def fixed_specs(names: Sequence[str], reference: Reference) -> tuple[TensorSpec, ...]:
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


def fixed_spec(name: str, dtype: DType, shape: Sequence[int]) -> TensorSpec:
    """A `TensorSpec` with a fixed shape."""
    return TensorSpec(name=name, dtype=dtype, shape=tuple(map(Dim.of, shape)))


def export_torchscript(reference: Reference) -> tuple[Any, Signature]:
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


def eager_inputs(module: Any, example: Any, reference: Reference) -> tuple[TensorSpec, ...]:
    """Inputs of an eager module: from its example inputs, overridden by the reference.

    Raises:
        ShapeNeeded: Neither says the shape of an input.
        UnsupportedModel: `forward` does not name its inputs.
    """
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


def export_eager(module: Any, example: Any, reference: Reference) -> tuple[Any, Signature]:
    """Export an eager module at the shapes of its example inputs, or of the reference.

    Raises:
        ShapeNeeded: An input has no shape.
        UnsupportedModel: Control flow depends on values, or it returns something besides tensors.
        StepError: torch.export failed.
    """
    inputs = eager_inputs(module, example, reference)
    kept = tuple(spec for spec in inputs if spec.name not in reference.constants)
    known = msgspec.structs.replace(
        reference,
        shapes={spec.name: spec.fixed_shape for spec in inputs},
        dtypes={spec.name: spec.dtype for spec in inputs},
    )
    return export_module(freeze(module, known), kept)


def freeze(module: Any, reference: Reference) -> Any:
    """A module with the reference's constants in place of those inputs; it takes the others by keyword."""
    if not reference.constants:
        return module
    frozen = frozen_values(reference, number_inputs(module))

    def call(**feeds: Any) -> Any:
        return module(**feeds, **{name: value() for name, value in frozen.items()})

    return module_of(call, module)


def export_module(module: Any, inputs: tuple[TensorSpec, ...], *, by_name: bool = False) -> tuple[Any, Signature]:
    """Run torch.export on a module.

    Args:
        module: In eval mode.
        inputs: Static specs, by the names of `forward`'s parameters.
        by_name: Pass the inputs by keyword even where they could be passed by position.

    Returns:
        The ExportedProgram (its return value made of dicts, lists and tuples only) and its signature.

    Raises:
        UnsupportedModel: Control flow depends on values, or it returns something besides tensors.
        StepError: torch.export failed for another reason.
    """
    tensors = {spec.name: sample(spec) for spec in inputs}
    exported = _export(module, tensors, by_name=by_name)
    if not _is_plain(exported.call_spec.out_spec):
        exported = _export(_plain_outputs(module), tensors, by_name=by_name)
    return exported, exported_signature(exported, {})


def _is_plain(spec: Any) -> bool:
    return spec.type in {None, dict, list, tuple} and all(map(_is_plain, spec.children()))


def _plain_outputs(module: Any) -> Any:
    def call(*args: Any, **feeds: Any) -> dict[str, Any]:
        names, tensors = flat_outputs(module(*args, **feeds))
        return dict(zip(names, tensors, strict=True))

    return module_of(call, module)


def _export(module: Any, tensors: dict[str, Any], *, by_name: bool) -> Any:
    import torch

    args, kwargs = ((), tensors) if by_name else _arguments(module, tensors)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export tells of its own guesses; hub measures what came of them
            return torch.export.export(module, args, kwargs, strict=False)
    except HubError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, KeyError, IndexError) as error:
        raise export_error(error) from error


def _arguments(module: Any, tensors: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import inspect

    parameters = list(inspect.signature(module.forward).parameters)
    if parameters[: len(tensors)] == list(tensors):
        return tuple(tensors.values()), {}
    return (), tensors


def export_error(error: Exception) -> HubError:
    """What a failure of torch.export means to the user."""
    text = str(error)
    if any(mark in text for mark in _DATA_DEPENDENT):
        message = f"control flow depends on the values of tensors: {_last_line(text)}"
        return UnsupportedModel(message, hint=_DATA_HINT)
    return StepError(f"torch.export failed: {type(error).__name__}: {_last_line(text)}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return (lines[-1] if lines else "no message")[:300]


def save_exported(exported: Any, signature: Signature, path: Path) -> None:
    """Write a `.pt2` with hub's names of inputs and outputs inside (extra file `hub.json`)."""
    import torch

    names = {"inputs": [spec.name for spec in signature.inputs], "outputs": [spec.name for spec in signature.outputs]}
    torch.export.save(exported, path, extra_files={NAMES_FILE: json.dumps(names)})
