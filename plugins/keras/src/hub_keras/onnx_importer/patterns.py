"""Nodes that together are one layer, found before the graph is walked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

_MATRIX = 2
_ROUNDING = 1e-4  # float16 holds the square root of 2 so exactly; no other constant that is usual is so near
_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})


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


def exact_gelus(graph: onnx.GraphProto) -> dict[str, str]:
    """Find 0.5 * x * (1 + erf(x / sqrt(2))), in any order of its products: the result's name -> x.

    TensorFlow's converter has no Erf, and knows this function as one.
    """
    makers = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            stored[node.output[0]] = node.attribute[0].t
    values = {
        name: float(onnx.numpy_helper.to_array(tensor).reshape(()))
        for name, tensor in stored.items()
        if math.prod(tensor.dims) == 1 and tensor.data_type in _FLOATS and len(tensor.dims) <= 1
    }
    found = {}
    for node in graph.node:
        for factors in _factors(node, makers) if node.op_type == "Mul" else []:
            constants = [values[name] for name in factors if name in values]
            rest = [name for name in factors if name not in values]
            halved = len(constants) == 1 and abs(constants[0] - 0.5) < _ROUNDING
            for x, total in _both_ways_of(rest) if halved else ():
                if total in makers and _argument_of_erf(makers[total], makers, values) == x:
                    found[node.output[0]] = x
    return found


def _factors(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> list[list[str]]:
    """The three factors of a product of a product, for each of the two that is one."""
    found = []
    for inner, other in _both_ways(node):
        maker = makers.get(inner)
        if maker is not None and maker.op_type == "Mul":
            found.append([*maker.input, other])
    return found


def _both_ways_of(pair: Sequence[str]) -> tuple[tuple[str, str], tuple[str, str]]:
    first, second = pair
    return (first, second), (second, first)


def _argument_of_erf(total: onnx.NodeProto, makers: dict[str, onnx.NodeProto], values: dict[str, float]) -> str:
    """The x of 1 + erf(x / sqrt(2)); empty for another sum."""
    for first, second in _both_ways(total) if total.op_type == "Add" else ():
        erf = makers.get(first)
        scaled = makers.get(erf.input[0]) if erf is not None and erf.op_type == "Erf" else None
        if values.get(second) == 1 and scaled is not None and scaled.op_type in {"Mul", "Div"}:
            pairs = _both_ways(scaled) if scaled.op_type == "Mul" else ((scaled.input[0], scaled.input[1]),)
            wanted = math.sqrt(0.5) if scaled.op_type == "Mul" else math.sqrt(2)
            return next((x for x, by in pairs if abs(values.get(by, 0.0) - wanted) < _ROUNDING), "")
    return ""


def _both_ways(node: onnx.NodeProto) -> tuple[tuple[str, str], tuple[str, str]]:
    return _both_ways_of(node.input)


def _in_subgraph(graph: onnx.GraphProto, name: str) -> bool:
    from hub_onnxgraph.standard import nodes_of

    inner = [g for node in graph.node for a in node.attribute for g in [a.g] if a.type == onnx.AttributeProto.GRAPH]
    return any(name in node.input for g in inner for node in nodes_of(g))
