"""Programs of modules: torch.export at given inputs, open dimensions kept open. Runs in a worker."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from hub.spec import HubError, StepError, UnsupportedModel
from hub_torchprogram.dynamic import (
    check_open,
    dynamic_shapes,
    fixed_error,
    from_one,
    names_of_symbols,
    renamed,
    sized,
)
from hub_torchprogram.program import flat_outputs, module_of, name_parameters, torch_dtype_of
from hub_torchprogram.pt2 import exported_signature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch.utils import _pytree as pytree

    from hub.spec import Signature, TensorSpec

_DATA_DEPENDENT = ("data-dependent", "data dependent", "value out of a tracing tensor", "_local_scalar_dense")
_DATA_HINT = "rewrite the branch with torch.where or torch.cond, or freeze the input that decides it (--constant)"


def sample(spec: TensorSpec) -> torch.Tensor:
    """A tensor of that static shape and dtype: zeros for integers (valid as indices), small noise for floats."""
    import torch

    dtype = torch_dtype_of(spec.dtype)
    if not spec.dtype.is_float:
        return torch.zeros(spec.fixed_shape, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(spec.fixed_shape, generator=generator, dtype=torch.float32).to(dtype)


def export_module(
    module: torch.nn.Module,
    inputs: tuple[TensorSpec, ...],
    *,
    by_name: bool = False,
    sizes: Mapping[str, int] | None = None,
) -> tuple[torch.export.ExportedProgram, Signature]:
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

        def call(*args: object, **feeds: object) -> dict[str, torch.Tensor]:
            names, tensors = flat_outputs(module(*args, **feeds))
            return dict(zip(names, tensors, strict=True))

        exported = _export(module_of(call, module), inputs, sizes or {}, by_name=by_name)
    raw = exported_signature(exported, {})
    check_open(inputs, raw)
    named = renamed(raw, names_of_symbols(raw, inputs))
    ones = [symbol for symbol in sizes or {} if _agree_at_one(module, exported, inputs, {**(sizes or {}), symbol: 1})]
    return exported, from_one(named, ones)


def _agree_at_one(
    module: torch.nn.Module,
    exported: torch.export.ExportedProgram,
    inputs: Sequence[TensorSpec],
    sizes: Mapping[str, int],
) -> bool:
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


def _is_plain(spec: pytree.TreeSpec) -> bool:
    return spec.type in {None, dict, list, tuple} and all(map(_is_plain, spec.children()))


def _export(
    module: torch.nn.Module, inputs: Sequence[TensorSpec], sizes: Mapping[str, int], *, by_name: bool
) -> torch.export.ExportedProgram:
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


def _arguments(
    module: torch.nn.Module, tensors: dict[str, torch.Tensor]
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
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
