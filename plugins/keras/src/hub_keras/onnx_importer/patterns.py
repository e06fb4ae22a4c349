"""Nodes that together are one layer, found before the graph is walked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx

_MATRIX = 2


@dataclass(frozen=True, slots=True)
class BiasedProduct:
    """A MatMul by a constant matrix whose only reader adds a constant vector of its columns.

    Attributes:
        bias: Name of the vector.
        result: The sum's name.
    """

    bias: str
    result: str


def biased_products(graph: onnx.GraphProto) -> dict[str, BiasedProduct]:
    """Find them, by the product's name."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    widths = {
        node.output[0]: shapes[node.input[1]][1]
        for node in graph.node
        if node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) == _MATRIX
    }
    found = {}
    for node in graph.node:
        for product, other in _both_ways(node) if node.op_type == "Add" else ():
            fits = product in widths and shapes.get(other) == (widths[product],)
            if fits and readers[product] == 1 and not _in_subgraph(graph, product):
                found[product] = BiasedProduct(other, node.output[0])
    return found


def _both_ways(node: onnx.NodeProto) -> tuple[tuple[str, str], tuple[str, str]]:
    first, second = node.input
    return (first, second), (second, first)


def _in_subgraph(graph: onnx.GraphProto, name: str) -> bool:
    from hub_onnxgraph.standard import nodes_of

    inner = [g for node in graph.node for a in node.attribute for g in [a.g] if a.type == onnx.AttributeProto.GRAPH]
    return any(name in node.input for g in inner for node in nodes_of(g))
