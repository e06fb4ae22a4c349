"""Sums of products, determinants."""

from __future__ import annotations

from hub_keras.onnx_importer.lazy import ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, graph_of, plain


@op("Einsum", 12, 28)
def einsum(*xs: Item, equation: str) -> KerasValue:
    """Sum of products by Einstein's notation."""
    graph = graph_of(*xs)
    made = ops.einsum(equation.replace(" ", ""), *(plain(graph, x) for x in xs))
    return KerasValue(graph, made, tuple(range(len(made.shape))))


@op("Det", 11, 22)
def det(x: KerasValue) -> KerasValue:
    """Determinant of square matrices."""
    return x.made(ops.det(x.plain()))
