"""Make exported programs (`.pt2`) of modules, TorchScript and references. Runs in a worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.spec import Dim, DType, HubError, ShapeNeeded, Signature, StepError, TensorSpec, UnsupportedModel
from hub_pytorch.load import (
    NAMES_FILE,
    build,
    example_specs,
    exported_signature,
    forward_inputs,
    load_pickled,
    load_torchscript,
)
from hub_pytorch.program import flat_outputs, torch_dtype_of
from hub_pytorch.script import script_call

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
    """The inputs of that name, as the reference fixes their shapes.

    Raises:
        ShapeNeeded: The reference says nothing of one of them.
    """
    missing = [name for name in names if name not in reference.inputs]
    if missing:
        flags = " ".join(f"--shape {name}=1x3x224x224" for name in missing)
        raise ShapeNeeded(
            f"the model does not say the shapes of its inputs: {', '.join(missing)}",
            hint=f"give them, with the dtype where it is not float32: {flags}",
        )
    return tuple(fixed_spec(name, reference.inputs[name].dtype, reference.inputs[name].shape) for name in names)


def fixed_spec(name: str, dtype: DType, shape: Sequence[int]) -> TensorSpec:
    """A `TensorSpec` with a fixed shape."""
    return TensorSpec(name=name, dtype=dtype, shape=tuple(map(Dim.of, shape)))


def export_reference(reference: Reference) -> tuple[Any, Signature]:
    """Export what a reference names.

    Returns:
        The ExportedProgram and its signature.

    Raises:
        ShapeNeeded: An input has no shape.
        UnsupportedModel: Control flow depends on values, the model keeps hidden state, or it takes no tensors.
        StepError: torch.export failed.
    """
    if reference.file:
        return export_torchscript(Path(reference.file), reference)
    module, example = build(reference)
    return export_built(module, example, reference)


def export_pickled(path: Path, reference: Reference, *, allow_pickle: bool) -> tuple[Any, Signature]:
    """Export a module that was pickled whole. Raises as `load_pickled` and `export_reference`."""
    return export_built(load_pickled(path, allow_pickle=allow_pickle), None, reference)


def export_built(module: Any, example: Any, reference: Reference) -> tuple[Any, Signature]:
    """Export an eager module with the shapes of its example inputs, or of the reference."""
    frozen = reference.constants
    given = example_specs(module, example) if example is not None else ()
    names = [spec.name for spec in given] or [*forward_inputs(module)]
    known = {spec.name: spec for spec in given} | {
        name: fixed_spec(name, item.dtype, item.shape) for name, item in reference.inputs.items()
    }
    names += [name for name in reference.inputs if name not in names]
    open_names = [name for name in names if name not in frozen]
    if any(name not in known for name in open_names):
        fixed_specs(open_names, reference)
    return export_module(freeze(module, frozen), tuple(known[name] for name in open_names))


def export_torchscript(path: Path, reference: Reference) -> tuple[Any, Signature]:
    """Export a TorchScript file, or a submodule of it, at fixed shapes.

    The script runs once under torch.export's tracer: control flow on shapes and Python numbers is resolved, control
    flow on tensor values is an error.
    """
    script = load_torchscript(path, reference.submodule)
    call, names = script_call(script, reference.constants)
    wanted = [name for name in names.required if name not in reference.constants]
    wanted += [name for name in names.optional if name in reference.inputs]
    return export_module(call, fixed_specs(wanted, reference), by_name=True)


def freeze(module: Any, constants: dict[str, int | float | bool]) -> Any:
    """A module whose named inputs are those Python numbers."""
    import torch

    if not constants:
        return module

    class Frozen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module
            self.training = False

        def forward(self, **feeds: Any) -> Any:
            return self.module(**feeds, **constants)

    return Frozen()


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
    import torch

    class PlainOutputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module
            self.training = False

        def forward(self, *args: Any, **feeds: Any) -> dict[str, Any]:
            names, tensors = flat_outputs(self.module(*args, **feeds))
            return dict(zip(names, tensors, strict=True))

    return PlainOutputs()


def _export(module: Any, tensors: dict[str, Any], *, by_name: bool) -> Any:
    import torch

    args, kwargs = ((), tensors) if by_name else _arguments(module, tensors)
    try:
        with torch.no_grad():
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
