"""Conditions and loops: folded and unrolled; where values decide, every branch and step and a choice of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_keras.onnx_importer.applied import dtype_of, elementwise
from hub_keras.onnx_importer.dims import Array
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.ops.sequences import stacked
from hub_keras.onnx_importer.ops.shape import gather
from hub_keras.onnx_importer.registry import NodeContext, op
from hub_keras.onnx_importer.values import Item, KerasValue, is_constant, scalar
from hub_onnxgraph import Refused, refuse_if
from hub_onnxgraph.loops import OpenCondition, ScanAxes, masked_loop, unrolled_loop, unrolled_scan

if TYPE_CHECKING:
    import onnx


@op("If", 1, 11, 13, 16, 19, 21, 23, 24, 25)
def if_(
    node: NodeContext, condition: Item, *, then_branch: onnx.GraphProto, else_branch: onnx.GraphProto
) -> tuple[Item, ...]:
    """The branch that a constant condition takes; of a computed one, both, and a choice between their results."""
    if is_constant(condition):
        return tuple(node.run(then_branch if scalar(condition, "condition") else else_branch, []))
    pairs = list(zip(node.run(then_branch, []), node.run(else_branch, []), strict=True))
    return tuple(_choice(condition, *pair) for pair in pairs)


def _choice(condition: Item, a: Item | list[Item], b: Item | list[Item]) -> Item:
    if isinstance(a, list) or isinstance(b, list):
        raise Refused("a sequence that a computed condition chooses")
    if is_constant(condition):
        return a if scalar(condition, "condition") else b
    first, second = (item.sizes if isinstance(item, KerasValue) else list(item.shape) for item in (a, b))
    refuse_if(first != second, f"a computed condition chooses between shapes {first} and {second}")
    refuse_if(condition.ndim > 0 and a.ndim == 0, f"a condition of shape {condition.shape}")
    return elementwise(ops.where, condition, a, b, dtype=dtype_of(a))


@op("Loop", 1, 11, 13, 16, 19, 21, 23, 24, 25)
def loop(
    node: NodeContext,
    trip_count: Array | None = None,
    condition: Array | None = None,
    *carried: Item,
    body: onnx.GraphProto,
) -> tuple[Item, ...]:
    """Unrolled; each step is masked where a computed condition may end the loop before its trip count."""
    try:
        return unrolled_loop(node, body, trip_count, condition, carried, stacked)
    except OpenCondition:
        return masked_loop(node, body, trip_count, condition, carried, _choice)


@op("Scan", 9, 11, 16, 19, 21, 23, 24, 25)
def scan(node: NodeContext, *inputs: Item, body: onnx.GraphProto, form: ScanAxes) -> tuple[Item, ...]:
    """Unrolled over the slices of the scan inputs."""
    _, ((source, axis, _), *_) = form.parted(inputs)
    return unrolled_scan(node, body, inputs, form, source.shape[axis], _picked, stacked)


def _picked(x: Item, axis: int, place: int) -> Item:
    return gather(x, np.asarray(place), axis=axis)
