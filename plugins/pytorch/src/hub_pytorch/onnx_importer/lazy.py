"""torch on first use: the operator table can be read, and models be checked, without importing it.

A call that takes the size of a dynamic dimension but no value of the graph, such as `torch.arange(x.shape[0])`, is
recorded in the graph like any other: torch itself would compute it at once, for one size.
"""

from __future__ import annotations

import functools
import types
from typing import Any

from hub_onnxgraph import LazyModule


class _Recorded(LazyModule):
    """A module whose functions are recorded when a dynamic size is among their arguments."""

    def __getattr__(self, attribute: str) -> Any:
        found = super().__getattr__(attribute)
        on_sizes = attribute.startswith("sym_")  # these compute with sizes, and return one
        is_function = isinstance(found, types.FunctionType | types.BuiltinFunctionType) and not on_sizes
        return functools.partial(_call, found) if is_function else found


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    from hub_pytorch.onnx_importer.tracing import call_with_sizes

    return call_with_sizes(function, args, kwargs)


torch: Any = _Recorded("torch")
functional: Any = _Recorded("torch.nn.functional")
