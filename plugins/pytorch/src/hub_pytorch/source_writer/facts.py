"""What is known of each value of a torch.fx graph before it runs: element type and rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub_pytorch.program import torch_dtype_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import fx

    from hub.spec import TensorSpec


def learn(module: fx.GraphModule, inputs: Sequence[TensorSpec], shapes: Sequence[Sequence[int]]) -> None:
    """Give each node of a graph `meta["val"]`, a fake tensor, by running the graph on fake inputs.

    Args:
        module: The graph.
        inputs: Its inputs in order.
        shapes: A shape for each of them, at which the graph runs.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    pairs = zip(inputs, shapes, strict=True)
    tensors = [torch.empty(tuple(shape), dtype=torch_dtype_of(spec.dtype)) for spec, shape in pairs]
    with torch.no_grad():
        FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*tensors)


def rank(value: Any) -> int | None:
    """A tensor's rank; None for what is no tensor."""
    found = getattr(value.meta.get("val"), "ndim", None) if hasattr(value, "meta") else None
    return int(found) if found is not None else None


def dtype(value: Any) -> Any:
    """A tensor's torch dtype; None for what is no tensor."""
    return getattr(value.meta.get("val"), "dtype", None) if hasattr(value, "meta") else None


def shape(value: Any) -> tuple[int, ...] | None:
    """A tensor's shape at the sizes that the graph was run at; None for what is no tensor."""
    found = getattr(value.meta.get("val"), "shape", None) if hasattr(value, "meta") else None
    return None if found is None else tuple(found)
