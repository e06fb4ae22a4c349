"""torch on first use: the operator table can be read, and models be checked, without importing it.

A call that takes the size of a dynamic dimension but no value of the graph, such as `torch.arange(x.shape[0])`, is
recorded in the graph like any other: torch itself would compute it at once, for one size.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hub_onnxgraph import LazyModule
from hub_pytorch.onnx_importer.sizes import is_symbolic, leaves_of


class _Recorded(LazyModule):
    """A module whose functions are recorded when a dynamic size is among their arguments."""

    def __getattr__(self, attribute: str) -> Any:
        found = super().__getattr__(attribute)
        on_sizes = attribute.startswith("sym_")  # these compute with sizes, and return one
        is_function = isinstance(found, types.FunctionType | types.BuiltinFunctionType) and not on_sizes
        return functools.partial(_call, found) if is_function else found


def _call(function: Callable[..., object], *args: object, **kwargs: object) -> object:
    """Call a torch function; record the call when it has dynamic sizes and no value of the graph among its inputs."""
    leaves = list(leaves_of([*args, *kwargs.values()]))
    size = next(filter(is_symbolic, leaves), None)
    if size is None or any(hasattr(leaf, "tracer") for leaf in leaves):
        return function(*args, **kwargs)
    return size.node.shape_env.hub_builder.with_sizes(function, args, kwargs)  # the graph that the size belongs to


if TYPE_CHECKING:
    import torch
    import torch.nn.functional as functional  # noqa: PLR0402 - it is exported under this name
else:
    torch = _Recorded("torch")
    functional = _Recorded("torch.nn.functional")

__all__ = ["functional", "torch"]
