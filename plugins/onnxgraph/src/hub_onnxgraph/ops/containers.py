"""Constants; sequences and optionals whose form is known at import time: lists, and a value or nothing."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from hub_onnxgraph.base import BASE
from hub_onnxgraph.errors import refuse_if
from hub_onnxgraph.table import NodeContext

Item = TypeVar("Item")


@BASE.op("Constant", 1, 9, 11, 12, 13, 19, 21, 23, 24, 25)
def constant(
    node: NodeContext,
    *,
    value: object = None,
    value_float: float | None = None,
    value_floats: list[float] | None = None,
    value_int: int | None = None,
    value_ints: list[int] | None = None,
) -> object:
    """A constant given in one of five forms."""
    floats = value_float if value_float is not None else value_floats
    integers = value_int if value_int is not None else value_ints
    if floats is not None:
        return node.constant(np.asarray(floats, dtype=np.float32))
    return value if integers is None else node.constant(np.asarray(integers, dtype=np.int64))


@BASE.op("Identity", 1, 13, 14, 16, 19, 21, 23, 24, 25)
@BASE.op("OptionalGetElement", 15, 18, 28)
def identity(x: Item) -> Item:
    """The value itself."""
    return x


@BASE.op("Optional", 15, 28)
def optional(x: Item | None = None) -> Item | None:
    """An optional that holds its input."""
    refuse_if(x is None, "an optional that holds nothing")
    return x


@BASE.op("OptionalHasElement", 15, 18, 28)
def optional_has_element(node: NodeContext, x: object = None) -> object:
    """Whether there is an element: known at import time."""
    return node.constant(np.asarray(x is not None))


@BASE.op("SequenceConstruct", 11)
def sequence_construct(*items: Item) -> list[Item]:
    """A sequence."""
    return list(items)


@BASE.op("SequenceEmpty", 11)
def sequence_empty(*, dtype: int = 1) -> list[object]:
    """An empty sequence."""
    del dtype
    return []


@BASE.op("SequenceAt", 11)
def sequence_at(node: NodeContext, items: list[Item], position: Item) -> Item:
    """One element."""
    return items[int(node.scalar(position, "position"))]


@BASE.op("SequenceInsert", 11)
def sequence_insert(node: NodeContext, items: list[Item], item: Item, position: Item | None = None) -> list[Item]:
    """A sequence with one more element."""
    at = len(items) if position is None else node.scalar(position, "position")
    return [*items[:at], item, *items[at:]]


@BASE.op("SequenceErase", 11)
def sequence_erase(node: NodeContext, items: list[Item], position: Item | None = None) -> list[Item]:
    """A sequence with one element less, the last by default."""
    at = (-1 if position is None else node.scalar(position, "position")) % len(items)
    return [*items[:at], *items[at + 1 :]]


@BASE.op("SequenceLength", 11)
def sequence_length(node: NodeContext, items: list[Item]) -> object:
    """The number of elements."""
    return node.constant(np.asarray(len(items), dtype=np.int64))
