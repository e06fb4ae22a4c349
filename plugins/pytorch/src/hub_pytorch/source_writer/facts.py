"""What is known of each value of a torch.fx graph before it runs: element type and rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_torchprogram import torch_dtype_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import fx
    from typing_extensions import TypeIs

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


def is_node(item: object) -> TypeIs[fx.Node]:
    """Whether an argument is another node's result, and no number or list."""
    from torch import fx

    return isinstance(item, fx.Node)


def called(node: fx.Node) -> str:
    """The name of the function, or method, that a node calls."""
    return str(getattr(node.target, "__name__", node.target))


def rank(value: object) -> int | None:
    """A tensor's rank; None for what is no tensor."""
    found = getattr(value.meta.get("val"), "ndim", None) if hasattr(value, "meta") else None
    return int(found) if found is not None else None


def dtype(value: object) -> torch.dtype | None:
    """A tensor's torch dtype; None for what is no tensor."""
    return getattr(value.meta.get("val"), "dtype", None) if hasattr(value, "meta") else None


def shape(value: object) -> tuple[int, ...] | None:
    """A tensor's shape at the sizes that the graph was run at; None for what is no tensor."""
    found = getattr(value.meta.get("val"), "shape", None) if hasattr(value, "meta") else None
    return None if found is None else tuple(found)
