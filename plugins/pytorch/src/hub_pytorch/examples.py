"""Example inputs that come with a module, and the dimensions that they leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hub.spec import Dim, TensorSpec, UsageError
from hub_torchprogram import LEAST_TRACED

if TYPE_CHECKING:
    from collections.abc import Iterable


Symbols = dict[str, dict[int, str]]
"""Input -> axis -> name of the open dimension."""


class ExampleInputs(NamedTuple):
    """What a builder, or the user of a live module, gives besides the module.

    Attributes:
        inputs: Example inputs: a dict of tensors by input name, a tuple of tensors, or one tensor; None for none.
        symbols: The dimensions that stay open.
        others: More sets of inputs; an axis whose size differs between sets is open.
    """

    inputs: object
    symbols: Symbols = {}  # noqa: RUF012 - never changed
    others: tuple[object, ...] = ()


def as_example(given: object) -> ExampleInputs:
    """Reads example inputs: one set of them, or a list of sets that differ in the dimensions that are to stay open."""
    if isinstance(given, ExampleInputs):
        return given
    if isinstance(given, list) and given and all(isinstance(item, dict | tuple) for item in given):
        return ExampleInputs(given[0], {}, tuple(given[1:]))
    return ExampleInputs(given)


def open_dims(specs: Sequence[TensorSpec], others: Iterable[Sequence[TensorSpec]], asked: Symbols) -> Symbols:
    """Finds the open dimensions of one set of specs: those asked for, and those whose size differs in another set.

    Dimensions that agree in every set share a name, that of the first: `<input>_dim<axis>`.

    Raises:
        UsageError: A dimension is asked for that no input has, or another set has other inputs or ranks.
    """
    _check_asked(specs, asked)
    found = {name: dict(axes) for name, axes in asked.items()}
    shared: dict[tuple[int, ...], str] = {}
    columns = [[spec.fixed_shape for spec in column] for column in _columns(specs, list(others))]
    for spec, shapes in zip(specs, columns, strict=True):
        for axis, sizes in enumerate(zip(*shapes, strict=True)):
            if len(set(sizes)) > 1:
                name = shared.setdefault(sizes, f"{spec.name}_dim{axis}")
                found.setdefault(spec.name, {}).setdefault(axis, name)
    return found


def _check_asked(specs: Sequence[TensorSpec], asked: Symbols) -> None:
    ranks = {spec.name: len(spec.shape) for spec in specs}
    for name, axes in asked.items():
        wrong = [axis for axis in axes if not 0 <= axis < ranks.get(name, 0)]
        if wrong or name not in ranks:
            known = ", ".join(map(str, specs))
            raise UsageError(f"dimension {wrong or ''} of input {name!r} is to stay open; the inputs are {known}")


def _columns(specs: Sequence[TensorSpec], others: list[Sequence[TensorSpec]]) -> list[tuple[TensorSpec, ...]]:
    for other in others:
        if [(spec.name, len(spec.shape)) for spec in other] != [(spec.name, len(spec.shape)) for spec in specs]:
            words = "; ".join(", ".join(map(str, item)) for item in (specs, other))
            raise UsageError(f"the sets of example inputs differ in more than sizes: {words}")
    return list(zip(specs, *others, strict=True))


def with_symbols(spec: TensorSpec, symbols: Mapping[int, str]) -> TensorSpec:
    """The spec with those of its axes open."""
    shape = tuple(Dim(symbol=symbols[axis]) if axis in symbols else dim for axis, dim in enumerate(spec.shape))
    return msgspec.structs.replace(spec, shape=shape)


def traced_sizes(specs: Sequence[TensorSpec], symbols: Symbols) -> dict[str, int]:
    """Name of an open dimension -> the size to trace it at: the example's, `LEAST_TRACED` at least."""
    sizes: dict[str, int] = {}
    for spec in specs:
        for axis, name in symbols.get(spec.name, {}).items():
            sizes[name] = max(LEAST_TRACED, spec.fixed_shape[axis], sizes.get(name, 0))
    return sizes
