"""Operators that reduce axes, find places, and count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph.errors import refuse_if
from hub_tflite.to_onnx.lazy import ir
from hub_tflite.to_onnx.ops.elementwise import wide
from hub_tflite.to_onnx.registry import op

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode


def _reduce(node: TfliteNode, kind: str, x: Value, axes: Value, *, keep: bool) -> Value:
    """No axes mean no reduction, as in TFLite."""
    known = node.known(axes)
    operand = node.int64(axes) if known is None else node.constant([int(a) for a in known.reshape(-1)])
    return node.emit(kind, x, operand, keepdims=int(keep), noop_with_empty_axes=1)


def _reducer(name: str, kind: str, newest: int) -> None:
    @op(name, newest)
    def write(node: TfliteNode, x: Value, axes: Value, *, keep_dims: bool = False) -> Value:
        return node.cast(_reduce(node, kind, wide(node, x), axes, keep=keep_dims), node.dtype(x))


for _name, _kind, _newest in (
    ("SUM", "ReduceSum", 2), ("MEAN", "ReduceMean", 3), ("REDUCE_PROD", "ReduceProd", 2),
    ("REDUCE_MAX", "ReduceMax", 3), ("REDUCE_MIN", "ReduceMin", 3),
):  # fmt: skip
    _reducer(_name, _kind, _newest)


def _truth_reducer(name: str, kind: str) -> None:
    @op(name)
    def write(node: TfliteNode, x: Value, axes: Value, *, keep_dims: bool = False) -> Value:
        numbers = node.cast(x, ir.DataType.INT32)
        return node.cast(_reduce(node, kind, numbers, axes, keep=keep_dims), ir.DataType.BOOL)


_truth_reducer("REDUCE_ANY", "ReduceMax")
_truth_reducer("REDUCE_ALL", "ReduceMin")


def _place(name: str, kind: str) -> None:
    @op(name, 3)
    def write(node: TfliteNode, x: Value, axis: Value, *, output_type: int = 0) -> Value:
        del output_type  # the output tensor says it as well
        (along,) = node.integers(axis, "the axis")
        refuse_if(node.rank(x) == 0, "a scalar")
        places = node.emit(kind, wide(node, x), axis=along, keepdims=0)
        return node.cast(places, node.result_type())


_place("ARG_MAX", "ArgMax")
_place("ARG_MIN", "ArgMin")


@op("CUMSUM")
def cumsum(node: TfliteNode, x: Value, axis: Value, *, exclusive: bool = False, reverse: bool = False) -> Value:
    """Sums of all elements up to each place of an axis."""
    return node.emit("CumSum", x, axis, exclusive=int(exclusive), reverse=int(reverse))


@op("TOPK_V2", 3)
def topk(node: TfliteNode, x: Value, count: Value) -> tuple[Value, Value]:
    """The largest values of the last axis, and where they are."""
    values, places = node.emits("TopK", wide(node, x), node.reshape(node.int64(count), (1,)), outputs=2, axis=-1)
    return node.cast(values, node.dtype(x)), node.cast(places, node.result_type(1))


@op("UNIQUE")
def unique(node: TfliteNode, x: Value, *, idx_out_type: int = 0) -> tuple[Value, Value]:
    """The distinct elements in order of appearance, and which one each element is."""
    del idx_out_type  # the output tensor says it as well
    values, _, places, _ = node.emits("Unique", x, outputs=4, sorted=0)
    return values, node.cast(places, node.result_type(1))


@op("WHERE", 2)
def where(node: TfliteNode, condition: Value) -> Value:
    """The places of all elements that are not zero, one row each."""
    return node.emit("Transpose", node.emit("NonZero", condition), perm=[1, 0])
