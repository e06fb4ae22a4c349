"""Dimensions that stay open through torch.export: which, at what sizes they are traced, and what became of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from hub.spec import Dim, Signature, TensorSpec, UnsupportedModel

if TYPE_CHECKING:
    import torch

LEAST_TRACED = 2
"""torch.export bakes in sizes of 0 and 1, so open dimensions are traced at 2 at least (torch.export's own rule)."""

_FIXED = re.compile(r"L\['(?P<input>\w+)'\]\.size\(\)\[(?P<axis>\d+)\].{0,60}?constant \((?P<size>\d+)\)", re.DOTALL)
_TOKEN = re.compile(r"[A-Za-z_]\w*")


def sized(spec: TensorSpec, sizes: Mapping[str, int]) -> TensorSpec:
    """The spec with every open dimension at the size that it is traced at."""
    shape = tuple(Dim(size=sizes[dim.symbol] if dim.symbol else dim.size) for dim in spec.shape)
    return msgspec.structs.replace(spec, shape=shape)


def stored_sizes(exported: torch.export.ExportedProgram, signature: Signature) -> dict[str, int]:
    """Symbol -> the size that a program was traced at, from the example inputs inside it."""
    import torch
    from torch.utils import _pytree as pytree

    leaves = pytree.tree_leaves(exported.example_inputs) if exported.example_inputs is not None else []
    tensors: list[torch.Tensor | None] = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if len(tensors) != len(signature.inputs):
        tensors = [None] * len(signature.inputs)
    sizes: dict[str, int] = {}
    for spec, tensor in zip(signature.inputs, tensors, strict=True):
        for axis, dim in enumerate(spec.shape):
            if dim.symbol:
                sizes[dim.symbol] = max(LEAST_TRACED, dim.low, 0 if tensor is None else tensor.shape[axis])
    return sizes


def dynamic_shapes(specs: Sequence[TensorSpec]) -> dict[str, dict[int, torch.export.dynamic_shapes._DimHint]] | None:
    """What torch.export is told of the open dimensions, by input name; None where there is none."""
    import torch

    if all(spec.is_static for spec in specs):
        return None
    dynamic = torch.export.Dim.DYNAMIC
    return {spec.name: {axis: dynamic for axis, dim in enumerate(spec.shape) if dim.symbol} for spec in specs}


def fixed_error(error: Exception, specs: Sequence[TensorSpec]) -> UnsupportedModel | None:
    """The error that says which open dimension torch.export fixed; None when it failed for another reason."""
    found = {(match["input"], int(match["axis"])): match["size"] for match in _FIXED.finditer(str(error))}
    if not found:
        return None
    names = {(spec.name, axis): str(dim) for spec in specs for axis, dim in enumerate(spec.shape)}
    words = [
        f"dim {axis} ({names.get((name, axis), 'unnamed')}) of input {name!r} to {size}"
        for (name, axis), size in found.items()
    ]
    return UnsupportedModel(
        f"torch.export fixes {', '.join(words)}: the code uses this size as a number (the steps of a recurrent layer, "
        f"a loop over it, or a shape with a constant in it)",
        hint="leave that dimension fixed, or write the code so that it takes the size from its inputs",
    )


def check_open(wanted: Sequence[TensorSpec], made: Signature) -> None:
    """Refuses a program in which a dimension is fixed that was to stay open.

    Raises:
        UnsupportedModel: Says which dimension, and at what size.
    """
    pairs = [(spec, axis, dim, new.shape[axis]) for spec, new in zip(wanted, made.inputs, strict=True)
             for axis, dim in enumerate(spec.shape)]  # fmt: skip
    lost = [f"dim {axis} ({dim}) of input {spec.name!r} to {new}" for spec, axis, dim, new in pairs
            if dim.symbol and new.symbol is None]  # fmt: skip
    if lost:
        raise UnsupportedModel(f"torch.export fixes {', '.join(lost)}", hint="leave that dimension fixed")


def names_of_symbols(raw: Signature, wanted: Sequence[TensorSpec]) -> dict[str, str]:
    """Torch's symbol (`s77`) -> the dimension's name, from the same inputs in both namings."""
    names: dict[str, str] = {}
    for spec, asked in zip(raw.inputs, wanted, strict=True):
        for dim, name in zip(spec.shape, asked.shape, strict=True):
            if dim.symbol and name.symbol and dim.symbol.isidentifier():
                names.setdefault(dim.symbol, name.symbol)
    return names


def renamed(signature: Signature, names: Mapping[str, str]) -> Signature:
    """The signature with torch's symbols replaced by names, also inside expressions (`2*s77`)."""
    return _with_dims(signature, lambda dim: Dim(symbol=rename(dim.symbol or "", names), low=dim.low, high=dim.high))


def from_one(signature: Signature, symbols: Collection[str]) -> Signature:
    """The signature in which these dimensions start at 1, where torch.export only assumes that they start at 2."""

    def lowered(dim: Dim) -> Dim:
        known = dim.symbol in symbols and dim.low == LEAST_TRACED
        return Dim(symbol=dim.symbol, low=1, high=dim.high) if known else dim

    return _with_dims(signature, lowered)


def _with_dims(signature: Signature, change: Callable[[Dim], Dim]) -> Signature:
    """The signature with its open dimensions changed."""

    def changed(spec: TensorSpec) -> TensorSpec:
        return msgspec.structs.replace(spec, shape=tuple(change(dim) if dim.symbol else dim for dim in spec.shape))

    return Signature(inputs=tuple(map(changed, signature.inputs)), outputs=tuple(map(changed, signature.outputs)))


def rename(expression: str, names: Mapping[str, str]) -> str:
    """An expression over torch's symbols in the dimensions' own names."""
    return _TOKEN.sub(lambda match: names.get(match[0], match[0]), expression)
