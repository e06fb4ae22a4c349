"""Sizes: an int where fixed, torch's symbolic form where dynamic, which has the type int here as in torch's own stubs.

Comparing symbolic forms asks torch for an example's truth. So they are compared here, where a comparison that depends
on the size is told from one that does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
else:
    from hub_onnxgraph import LazyModule

    torch = LazyModule("torch")  # the plain one: what is computed of sizes is no call in the graph

Number = TypeVar("Number")


def is_symbolic(value: object) -> bool:
    """Tell whether a size, or a condition on sizes, depends on a dynamic dimension."""
    if isinstance(value, int | float):  # without importing torch
        return False
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool)


def plain(value: Number) -> Number:
    """Return a symbolic number that has only one possible value as that value; anything else as it is."""
    if not is_symbolic(value):
        return value
    symbol: Any = value
    expression = symbol.node.expr
    found: Any = None
    if isinstance(symbol, torch.SymBool):
        known = symbol.node.shape_env._maybe_evaluate_static(expression)  # noqa: SLF001 - it has no public form
        found = None if known is None else bool(known)
    elif expression.is_number and isinstance(symbol, torch.SymInt):
        found = int(expression)
    result: Number = symbol if found is None else found
    return result


def certain(condition: bool) -> bool | None:
    """Tell whether a condition on sizes holds at all sizes (True), at none (False), or depends on them (None)."""
    found = plain(condition)
    return None if is_symbolic(found) else bool(found)


def smallest(a: int, b: int) -> int:
    """The smaller of two sizes."""
    return _extreme(a, b, certain(a <= b), torch.sym_min)


def largest(a: int, b: int) -> int:
    """The larger of two sizes."""
    return _extreme(a, b, certain(a >= b), torch.sym_max)


def _extreme(a: int, b: int, first: bool | None, function: Callable[[int, int], int]) -> int:
    if first is not None:
        return a if first else b
    return plain(function(a, b))


def is_int(size: object) -> bool:
    """Tell whether a size is fixed."""
    return not is_symbolic(size)


def choice(condition: bool, yes: int, no: int) -> int:
    """One of two sizes, by a condition on sizes."""
    known = certain(condition)
    if known is not None:
        return yes if known else no
    return either(condition, yes, no)


def either(condition: bool, yes: int, no: int) -> int:
    """One of two numbers by a condition that depends on sizes; torch wants both of the same type."""
    zero = next((size - size for size in (yes, no) if is_symbolic(size)), None)
    chosen: int = torch.sym_ite(condition, *((yes, no) if zero is None else (zero + yes, zero + no)))
    return chosen


def leaves_of(items: Iterable[object]) -> Iterator[Any]:
    """Yield what is in a list, and in the lists and tuples within it."""
    for item in items:
        if isinstance(item, list | tuple):
            yield from leaves_of(item)
        else:
            yield item
