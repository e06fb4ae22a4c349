"""A PyTorch model as one flat function: tensors in by name and order, tensors out by name and order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub.spec import Dim, DType, Signature, TensorSpec, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch.utils import _pytree as pytree

_DTYPE_NAMES = {"float64": "float64", "float32": "float32", "float16": "float16", "bfloat16": "bfloat16"} | {
    name: name for name in ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool")
}


def dtype_of(torch_dtype: torch.dtype) -> DType:
    """A torch dtype as hub names it; `unknown` for one that hub has no name for."""
    name = str(torch_dtype).removeprefix("torch.")
    return DType(_DTYPE_NAMES[name]) if name in _DTYPE_NAMES else DType.UNKNOWN


def torch_dtype_of(dtype: DType) -> torch.dtype:
    """Hub's dtype as torch's.

    Raises:
        UnsupportedModel: torch has no such type.
    """
    import torch

    if dtype.value not in _DTYPE_NAMES:
        raise UnsupportedModel(f"PyTorch has no tensors of type {dtype.value}")
    found: torch.dtype = getattr(torch, dtype.value)
    return found


Ranges = Mapping[str, tuple[int, int | None]]
"""Torch's symbol (`s77`) -> its lowest and highest size; None for no bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A loaded model.

    Attributes:
        call: Takes the inputs in order, gives a tuple of the outputs in order.
        signature: Names, dtypes and shapes.
        exported: The ExportedProgram behind it.
        graph: Its graph module, which `call` runs; rewriting it in place changes `call`.
        reset: Brings hidden state back to what the file holds; does nothing for a pure function.
    """

    call: torch.nn.Module
    signature: Signature
    exported: torch.export.ExportedProgram
    graph: torch.fx.GraphModule
    reset: Callable[[], None] = lambda: None


def dims_of(shape: Sequence[int | torch.SymInt], ranges: Ranges) -> tuple[Dim, ...]:
    """A fake tensor's shape, symbols bounded by `ranges`."""
    return tuple(_dim_of(size, ranges) for size in shape)


def _dim_of(size: int | torch.SymInt, ranges: Ranges) -> Dim:
    if isinstance(size, int):
        return Dim(size=size)
    low, high = ranges.get(str(size), (0, None))
    return Dim(symbol=str(size), low=max(low, 1), high=high)


def spec_of(name: str, tensor: torch.Tensor, ranges: Ranges | None = None) -> TensorSpec:
    """A tensor (fake or real) as a `TensorSpec`."""
    return TensorSpec(name=name, dtype=dtype_of(tensor.dtype), shape=dims_of(tensor.shape, ranges or {}))


def fixed_spec(name: str, dtype: DType, shape: Sequence[int]) -> TensorSpec:
    """A `TensorSpec` with a fixed shape."""
    return TensorSpec(name=name, dtype=dtype, shape=tuple(map(Dim.of, shape)))


def flat_outputs(value: object) -> tuple[tuple[str, ...], tuple[torch.Tensor, ...]]:
    """The tensors inside a module's return value, with a name each.

    Args:
        value: A tensor, or nested tuples, lists, dicts and data classes of tensors and None.

    Returns:
        Names (keys and field names joined by `_`, `output` or `output_<i>` where there are none) and tensors.

    Raises:
        UnsupportedModel: Something in it is no tensor.
    """
    import torch
    from torch.utils import _pytree as pytree

    leaves = [(path, leaf) for path, leaf in pytree.tree_flatten_with_path(value)[0] if leaf is not None]
    strange = [type(leaf).__name__ for _, leaf in leaves if not isinstance(leaf, torch.Tensor)]
    if strange:
        raise UnsupportedModel(f"the model returns {', '.join(strange)} besides tensors")
    return output_names([path for path, _ in leaves]), tuple(leaf for _, leaf in leaves)


def output_names(paths: Sequence[pytree.KeyPath]) -> tuple[str, ...]:
    """Names for outputs at these places of a return value: `logits`, `cache_0`; by position where a name is no key.

    What a value holds at its top is named by its keys and fields, and by its position where it is a plain tuple; below
    that positions count too. Where two names come to the same, all are named by position.
    """
    if len(paths) == 1 and not any(map(_key_name, paths[0])):
        return ("output",)
    names = [_path_name(path) or f"output_{index}" for index, path in enumerate(paths)]
    return tuple(f"output_{index}" for index in range(len(names))) if len(set(names)) < len(names) else tuple(names)


def _path_name(path: pytree.KeyPath) -> str:
    if not any(map(_key_name, path)):
        return ""
    below = [_key_name(key) or str(getattr(key, "idx", "")) for key in path[1:]]
    return "_".join(filter(None, (_key_name(path[0]) if path else "", *below)))


def _key_name(key: pytree.KeyEntry) -> str:
    name = getattr(key, "key", getattr(key, "name", ""))
    return name if isinstance(name, str) else ""


def name_parameters(module: torch.nn.Module, names: Sequence[str]) -> None:
    """Give the forward of a `module_of` these parameters: torch.export matches open dimensions with them by name."""
    import inspect

    forward = type(module).forward
    kinds = {item.kind for item in inspect.signature(forward).parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds and type(module).__name__ == _WRAPPED:
        words = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
        forward.__signature__ = inspect.Signature(words)  # type: ignore[attr-defined]  # what inspect reads first


_WRAPPED = "Wrapped"


def module_of(function: Callable[..., object], body: torch.nn.Module | None = None) -> torch.nn.Module:
    """An `nn.Module` in eval mode whose forward is that function.

    Args:
        function: Called with the module's arguments. Export names the inputs by their keywords.
        body: An `nn.Module` that the function calls; its weights become the weights of the result. None where there
            is none, and for ScriptModules, which torch.export refuses as children but traces through when called.
    """
    import torch

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.training = False

        def forward(self, *args: object, **feeds: object) -> object:
            return function(*args, **feeds)

    return Wrapped()
