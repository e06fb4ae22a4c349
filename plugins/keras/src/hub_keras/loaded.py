"""A loaded model as hub sees it: ordered tensors in, ordered tensors out, whatever structure the author chose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hub.spec import Dim, DType, Remark, Signature, TensorSpec

Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, its signature, and how to call it.

    Attributes:
        call: Tensors in the signature's input order -> tensors in its output order.
        signature: Inputs and outputs as the author declared them.
        operators: Layer classes (Keras) or operators (SavedModel) -> count.
        model: The framework's object; keeps the weights alive.
        parameters: Number of weight elements.
        weight_dtypes: Dtypes of the weights.
        findings: Worth knowing.
        versions: Of the writer and of the reader.
    """

    call: Callable[[Sequence[Any]], list[Any]]
    signature: Signature
    operators: dict[str, int]
    model: Any
    parameters: int
    weight_dtypes: tuple[str, ...] = ()
    findings: tuple[Remark, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


def leaves(structure: object, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield (key, leaf) of nested dicts, lists and tuples in declared order: dicts are not sorted."""
    if isinstance(structure, dict):
        for name, value in structure.items():
            yield from leaves(value, (*key, name))
    elif isinstance(structure, list | tuple):
        for index, value in enumerate(structure):
            yield from leaves(value, (*key, index))
    else:
        yield key, structure


def rebuild(structure: object, values: Iterator[object]) -> object:
    """Copy a structure with its leaves, in the order of `leaves`, replaced by `values`."""
    if isinstance(structure, dict):
        return {name: rebuild(value, values) for name, value in structure.items()}
    if isinstance(structure, list | tuple):
        return [rebuild(value, values) for value in structure]
    return next(values)


def unique(names: Sequence[str]) -> list[str]:
    """Make names unique by a counter: the three outputs of one LSTM are `lstm`, `lstm_1`, `lstm_2`."""
    given: list[str] = []
    for name in names:
        candidate, count = name, 0
        while candidate in given:
            count += 1
            candidate = f"{name}_{count}"
        given.append(candidate)
    return given


def spec_of(name: str, dtype: str, shape: Sequence[int | None], layout: str = "") -> TensorSpec:
    """Make a `TensorSpec`; an open first dimension is `batch`, another one `<name>_<axis>`."""
    dims = tuple(
        Dim(size=int(size)) if size is not None else Dim(symbol="batch" if axis == 0 else f"{name}_{axis}")
        for axis, size in enumerate(shape)
    )
    return TensorSpec(name=name, dtype=to_dtype(dtype), shape=dims, layout=layout)


def to_dtype(name: str) -> DType:
    """Read a framework's dtype name; `UNKNOWN` for one that hub has no word for."""
    return next((dtype for dtype in DType if dtype.value == name), DType.UNKNOWN)
