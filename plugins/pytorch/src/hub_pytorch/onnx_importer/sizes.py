"""Sizes: an int where fixed, torch's symbolic form where dynamic. Comparing those asks torch for an example's truth.

So they are compared here, where a comparison that depends on the size is told from one that does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
else:
    from hub_onnxgraph import LazyModule

    torch = LazyModule("torch")  # the plain one: what is computed of sizes is no call in the graph


def is_symbolic(value: Any) -> bool:
    """Tell whether a size, or a condition on sizes, depends on a dynamic dimension."""
    if isinstance(value, int | float):  # without importing torch
        return False
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool)


def plain(value: Any) -> Any:
    """Return a symbolic number that has only one possible value as that value; anything else as it is."""
    if not is_symbolic(value):
        return value
    expression = value.node.expr
    if isinstance(value, torch.SymBool):
        known = value.node.shape_env._maybe_evaluate_static(expression)  # noqa: SLF001 - it has no public form
        return value if known is None else bool(known)
    return int(expression) if expression.is_number and isinstance(value, torch.SymInt) else value


def certain(condition: Any) -> bool | None:
    """Tell whether a condition on sizes holds at all sizes (True), at none (False), or depends on them (None)."""
    found = plain(condition)
    return None if is_symbolic(found) else bool(found)


def smallest(a: Any, b: Any) -> Any:
    """The smaller of two sizes."""
    return _extreme(a, b, certain(a <= b), torch.sym_min)


def largest(a: Any, b: Any) -> Any:
    """The larger of two sizes."""
    return _extreme(a, b, certain(a >= b), torch.sym_max)


def _extreme(a: Any, b: Any, first: bool | None, function: Any) -> Any:
    if first is not None:
        return a if first else b
    return plain(function(a, b))


def is_int(size: Any) -> bool:
    """Tell whether a size is fixed."""
    return not is_symbolic(size)


def choice(condition: Any, yes: Any, no: Any) -> Any:
    """One of two sizes, by a condition on sizes."""
    known = certain(condition)
    if known is not None:
        return yes if known else no
    return either(condition, yes, no)


def either(condition: Any, yes: Any, no: Any) -> Any:
    """One of two numbers by a condition that depends on sizes; torch wants both of the same type."""
    zero = next((size - size for size in (yes, no) if is_symbolic(size)), None)
    return torch.sym_ite(condition, yes, no) if zero is None else torch.sym_ite(condition, zero + yes, zero + no)


def leaves_of(items: Iterable[object]) -> Iterator[Any]:
    """Yield what is in a list, and in the lists and tuples within it."""
    for item in items:
        if isinstance(item, list | tuple):
            yield from leaves_of(item)
        else:
            yield item
