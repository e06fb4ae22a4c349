"""Rows gathered into segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_tflite.to_onnx.registry import op

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode


def _scattered(node: TfliteNode, x: Value, ids: Value, count: Value, start: Value, reduction: str) -> Value:
    """Combine the rows of each id; rows of negative ids go to a row more, which is cut off."""
    one, rank = node.constant([1]), node.rank(ids)
    number = node.reshape(node.int64(count), (1,))
    places = node.int64(ids)
    places = node.emit("Where", node.emit("Less", places, node.constant(0)), number, places)
    inner = node.emit("Slice", node.emit("Shape", x), node.constant([rank]), node.constant([2**31 - 1]))
    shape = node.emit("Concat", node.emit("Add", number, one), inner, axis=0)
    empty = node.emit("Expand", start, shape)
    rows = node.emit("Unsqueeze", places, node.constant([-1]))
    full = node.emit("ScatterND", empty, rows, x, reduction=reduction)
    return node.emit("Slice", full, node.constant([0]), number, node.constant([0]))


@op("SEGMENT_SUM")
def segment_sum(node: TfliteNode, x: Value, ids: Value) -> Value:
    """The sum of the rows of each id; there are as many segments as the last id says."""
    last = node.emit("Gather", node.int64(ids), node.constant([-1]))
    count = node.emit("Add", last, node.constant([1]))
    return _scattered(node, x, ids, count, node.like(x, 0), "add")


@op("UNSORTED_SEGMENT_SUM")
def unsorted_segment_sum(node: TfliteNode, x: Value, ids: Value, count: Value) -> Value:
    """The sum of the rows of each id."""
    return _scattered(node, x, ids, count, node.like(x, 0), "add")


@op("UNSORTED_SEGMENT_PROD")
def unsorted_segment_prod(node: TfliteNode, x: Value, ids: Value, count: Value) -> Value:
    """The product of the rows of each id."""
    return _scattered(node, x, ids, count, node.like(x, 1), "mul")


@op("UNSORTED_SEGMENT_MAX")
def unsorted_segment_max(node: TfliteNode, x: Value, ids: Value, count: Value) -> Value:
    """The largest of the rows of each id; the lowest number where there is none."""
    return _scattered(node, x, ids, count, node.like(x, node.dtype(x).min), "max")


@op("UNSORTED_SEGMENT_MIN")
def unsorted_segment_min(node: TfliteNode, x: Value, ids: Value, count: Value) -> Value:
    """The smallest of the rows of each id; the highest number where there is none."""
    return _scattered(node, x, ids, count, node.like(x, node.dtype(x).max), "min")
