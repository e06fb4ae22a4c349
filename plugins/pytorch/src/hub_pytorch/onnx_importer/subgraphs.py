"""Branches and loops that depend on data: graphs of their own, run by torch's higher-order operators.

Those operators take tensors only, and a branch sees only what it is given: whatever a graph uses of its surroundings
is handed to it after its own inputs.
"""

from __future__ import annotations

import operator as operator_module
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from hub_onnxgraph import Refused
from hub_pytorch.onnx_importer.sizes import is_symbolic
from hub_pytorch.onnx_importer.tracing import GraphBuilder, TracedFrame, TracedValue, copied


@dataclass(frozen=True, slots=True)
class Traced:
    """A graph that has been built: its own inputs, what it uses of its surroundings, its outputs (a tuple, or one)."""

    frame: TracedFrame
    inputs: list[fx.Node]
    outputs: list[fx.Node]
    single: bool = False


def builder_of(*values: object) -> GraphBuilder:
    """The builder of the graph that the values belong to.

    Raises:
        Refused: None of them is a value of a graph.
    """
    found = next((value.tracer for value in values if isinstance(value, TracedValue)), None)
    if not isinstance(found, GraphBuilder):
        raise Refused("nothing here depends on the model's inputs")
    return found


def trace(
    builder: GraphBuilder,
    like: Sequence[Any],
    run: Callable[[list[TracedValue]], Sequence[Any]],
    *,
    single: bool = False,
) -> Traced:
    """Build the graph of a function of tensors.

    Args:
        builder: The builder.
        like: Values, or fake tensors, of the shapes and dtypes of the function's inputs.
        run: The function.
        single: Whether it returns one tensor, and not a tuple of them.

    Raises:
        Refused: It returns something else than tensors.
    """
    with builder.frame() as frame:
        inputs = []
        for i, example in enumerate(like):
            node = frame.graph.placeholder(f"input_{i}")
            node.meta["val"] = example
            inputs.append(node)
        results = run([builder.proxy(node) for node in inputs])
        outputs = [_own(builder, result).node for result in results]
    return Traced(frame, inputs, outputs, single)


def _own(builder: GraphBuilder, result: object) -> TracedValue:
    """A tensor of the graph's own: torch's operators return no input, no constant, and nothing twice."""
    if not isinstance(result, TracedValue | torch.Tensor):
        raise Refused("a branch or loop returns something else than tensors")
    value = result if isinstance(result, TracedValue) else builder.constant(result)
    return copied(builder.proxy(builder.create_arg(value)))


def example(builder: GraphBuilder, value: TracedValue | Tensor) -> Tensor:
    """The fake tensor that stands for a value."""
    fake: Tensor = (value if isinstance(value, TracedValue) else builder.constant(value)).node.meta["val"]
    return fake


def apart(builder: GraphBuilder, values: Sequence[TracedValue | Tensor]) -> tuple[fx.Node, ...]:
    """The nodes of copies of values.

    torch.export (2.13) takes two inputs of a loop that are the same tensor for one, even where one of them changes.
    """
    return tuple(copied(builder.proxy(builder.create_arg(value))).node for value in values)


def emit(
    builder: GraphBuilder,
    operator: Any,
    graphs: Sequence[Traced],
    arguments: Callable[[list[fx.Node], tuple[fx.Node, ...]], tuple[Any, ...]],
    results: Sequence[Any],
) -> list[TracedValue]:
    """Record the call of a higher-order operator.

    Args:
        builder: The builder.
        operator: The operator.
        graphs: The graphs that it runs, which take the same inputs.
        arguments: Makes the operator's arguments of the graphs' nodes and of what they use of their surroundings.
        results: Fake tensors of its results.
    """
    outer = list(dict.fromkeys(node for traced in graphs for node in traced.frame.captured))
    modules = [builder.add_module(f"{builder.current}_graph", _module(traced, outer)) for traced in graphs]
    call = builder.graph.call_function(operator, arguments(modules, tuple(outer)))
    call.meta["val"] = tuple(results)
    values = []
    for i, result in enumerate(results):
        item = builder.graph.call_function(operator_module.getitem, (call, i))
        builder.describe(item, result)
        values.append(builder.proxy(item))
    return values


def _module(traced: Traced, outer: Sequence[fx.Node]) -> fx.GraphModule:
    """A module of its own whose inputs are the graph's own ones, then the surroundings'."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in traced.inputs}
    for i, node in enumerate(outer):
        inner = traced.frame.captured.get(node)
        copy = graph.placeholder(f"outer_{i}")
        if inner is not None:
            copies[inner] = copy
    for node in traced.frame.graph.nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            copies[node].meta = {}
    outputs = tuple(copies[node] for node in traced.outputs)
    graph.output(outputs[0] if traced.single else outputs)
    graph.eliminate_dead_code()
    return fx.GraphModule(_Modules(traced.frame.modules), graph)


class _Modules(torch.nn.Module):
    """The modules of graphs within a graph."""

    def __init__(self, modules: dict[str, torch.nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def same_type(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two fake tensors certainly have the same dtype and shape."""
    return (
        ours.dtype == theirs.dtype
        and len(ours.shape) == len(theirs.shape)
        and all(_same(a, b) for a, b in zip(ours.shape, theirs.shape, strict=True))
    )


def _same(a: Any, b: Any) -> bool:
    if is_symbolic(a) and is_symbolic(b):
        return bool(a.node.expr == b.node.expr)
    return not is_symbolic(a) and not is_symbolic(b) and int(a) == int(b)
