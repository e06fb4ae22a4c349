"""Make exported programs (`.pt2`) of modules, TorchScript and references. Runs in a worker."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from hub.spec import Dim, DType, HubError, ShapeNeeded, Signature, StepError, TensorSpec, UnsupportedModel
from hub_pytorch.attention import eager_attention
from hub_pytorch.dynamic import (
    as_example,
    check_open,
    dynamic_shapes,
    fixed_error,
    from_one,
    names_of_symbols,
    open_dims,
    renamed,
    sized,
    traced_sizes,
    with_symbols,
)
from hub_pytorch.load import (
    NAMES_FILE,
    example_specs,
    exported_signature,
    forward_inputs,
    load_torchscript,
    number_inputs,
)
from hub_pytorch.program import flat_outputs, module_of, name_parameters, torch_dtype_of
from hub_pytorch.script import frozen_values, script_call, script_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


class Inputs(NamedTuple):
    """Inputs of an eager module, and the size at which each open dimension is traced."""

    specs: tuple[TensorSpec, ...]
    sizes: dict[str, int]

    @property
    def traced(self) -> tuple[TensorSpec, ...]:
        """The inputs as they are traced, with fixed shapes."""
        return tuple(sized(spec, self.sizes) for spec in self.specs)


def eager_inputs(module: Any, example: Any, reference: Reference) -> Inputs:
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
    return Inputs(opened, traced_sizes(specs, symbols))


def _others(found: Sequence[TensorSpec], specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Another set of inputs, with those of the first that it does not give."""
    known = {spec.name: spec for spec in found}
    return tuple(known.get(spec.name, spec) for spec in specs)


def fixed_inputs(module: Any, example: Any, reference: Reference) -> tuple[TensorSpec, ...]:
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


def export_eager(module: Any, example: Any, reference: Reference) -> tuple[Any, Signature]:
    """Export an eager module at the shapes of its example inputs, or of the reference. As `export_with_notes`."""
    return export_with_notes(module, example, reference)[:2]


def export_with_notes(module: Any, example: Any, reference: Reference) -> tuple[Any, Signature, tuple[str, ...]]:
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
            return *made, (f"{note}, because with the other: {error.message}",)


def freeze_known(module: Any, inputs: Inputs, reference: Reference) -> tuple[Any, tuple[TensorSpec, ...]]:
    """A module with the reference's constants in place of those inputs, and the inputs that are left."""
    known = msgspec.structs.replace(
        reference,
        shapes={spec.name: spec.fixed_shape for spec in inputs.traced},
        dtypes={spec.name: spec.dtype for spec in inputs.specs},
    )
    return freeze(module, known), tuple(spec for spec in inputs.specs if spec.name not in reference.constants)


def freeze(module: Any, reference: Reference) -> Any:
    """A module with the reference's constants in place of those inputs; it takes the others by keyword."""
    if not reference.constants:
        return module
    frozen = frozen_values(reference, number_inputs(module))

    def call(**feeds: Any) -> Any:
        return module(**feeds, **{name: value() for name, value in frozen.items()})

    return module_of(call, module)


def export_module(
    module: Any, inputs: tuple[TensorSpec, ...], *, by_name: bool = False, sizes: Mapping[str, int] | None = None
) -> tuple[Any, Signature]:
    """Run torch.export on a module.

    Args:
        module: In eval mode.
        inputs: By the names of `forward`'s parameters; symbolic dimensions stay open.
        by_name: Pass the inputs by keyword even where they could be passed by position.
        sizes: Symbol -> the size to trace it at, 2 at least; needed for every symbol.

    Returns:
        The ExportedProgram (its return value made of dicts, lists and tuples only) and its signature, in which open
        dimensions have the names that `inputs` gives them.

    Raises:
        UnsupportedModel: Control flow depends on values, it returns something besides tensors, or a dimension that is
            to stay open is fixed by the code.
        StepError: torch.export failed for another reason.
    """
    exported = _export(module, inputs, sizes or {}, by_name=by_name)
    if not _is_plain(exported.call_spec.out_spec):
        exported = _export(_plain_outputs(module), inputs, sizes or {}, by_name=by_name)
    raw = exported_signature(exported, {})
    check_open(inputs, raw)
    named = renamed(raw, names_of_symbols(raw, inputs))
    ones = [symbol for symbol in sizes or {} if _agree_at_one(module, exported, inputs, {**(sizes or {}), symbol: 1})]
    return exported, from_one(named, ones)


def _agree_at_one(module: Any, exported: Any, inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> bool:
    """Whether the program also computes what the module does at sizes with a 1 among them.

    torch.export only assumes that sizes are 2 or more; whether its program holds at 1 is a matter of trying.
    """
    import torch

    feeds = {spec.name: sample(sized(spec, sizes)) for spec in inputs}
    args, kwargs = _arguments(module, feeds)
    try:
        with torch.no_grad():
            wanted = flat_outputs(module(*args, **kwargs))[1]
            found = flat_outputs(exported.module(check_guards=False)(*args, **kwargs))[1]
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        return False
    pairs = zip(wanted, found, strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, 1e-3, 1e-5, equal_nan=True) for a, b in pairs)


def _is_plain(spec: Any) -> bool:
    return spec.type in {None, dict, list, tuple} and all(map(_is_plain, spec.children()))


def _plain_outputs(module: Any) -> Any:
    def call(*args: Any, **feeds: Any) -> dict[str, Any]:
        names, tensors = flat_outputs(module(*args, **feeds))
        return dict(zip(names, tensors, strict=True))

    return module_of(call, module)


def _export(module: Any, inputs: Sequence[TensorSpec], sizes: Mapping[str, int], *, by_name: bool) -> Any:
    import torch

    tensors = {spec.name: sample(sized(spec, sizes)) for spec in inputs}
    args, kwargs = ((), tensors) if by_name else _arguments(module, tensors)
    shapes = dynamic_shapes(inputs)
    if shapes:
        name_parameters(module, tuple(shapes))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export tells of its own guesses; hub measures what came of them
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except HubError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, KeyError, IndexError) as error:
        raise fixed_error(error, inputs) or export_error(error) from error


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


def is_data_dependent(error: HubError) -> bool:
    """Whether torch.export failed on control flow that depends on values, which a trace would bake in."""
    return error.hint == _DATA_HINT


def _last_line(text: str) -> str:
    text = text.partition("The error above occurred when calling torch.export.export")[0]
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return (lines[-1] if lines else "no message")[:300]


def save_exported(exported: Any, signature: Signature, path: Path) -> None:
    """Write a `.pt2` with hub's names of inputs and outputs inside (extra file `hub.json`).

    Stack traces are left out: they name the paths of this machine.
    """
    import torch

    for module in exported.graph_module.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            node.meta.pop("stack_trace", None)

    names: dict[str, Any] = {
        "inputs": [spec.name for spec in signature.inputs],
        "outputs": [spec.name for spec in signature.outputs],
    }
    raw = exported_signature(exported, {})
    dims = names_of_symbols(raw, signature.inputs)
    if dims:
        ones = {dim.symbol for spec in signature.inputs for dim in spec.shape if dim.symbol and dim.low == 1}
        names |= {"dims": dims, "from_one": sorted(ones)}
    torch.export.save(exported, path, extra_files={NAMES_FILE: json.dumps(names)})
