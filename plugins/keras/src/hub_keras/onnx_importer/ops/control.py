"""Conditions and loops whose course is known at import time: folded and unrolled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub_keras.onnx_importer.applied import dtype_of, elementwise
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.ops.sequences import stacked
from hub_keras.onnx_importer.ops.shape import gather
from hub_keras.onnx_importer.registry import NodeContext, op
from hub_keras.onnx_importer.values import Value, is_constant, scalar
from hub_onnxgraph import refuse_if

if TYPE_CHECKING:
    import onnx

_MAX_STEPS = 1024


@op("If", 1, 11, 13, 16, 19, 21, 23, 24, 25)
def if_(node: NodeContext, condition: Any, *, then_branch: onnx.GraphProto, else_branch: onnx.GraphProto) -> Any:
    """The branch that a constant condition takes; of a computed one, both, and a choice between their results."""
    if is_constant(condition):
        return tuple(node.run(then_branch if scalar(condition, "condition") else else_branch, []))
    pairs = list(zip(node.run(then_branch, []), node.run(else_branch, []), strict=True))
    return tuple(_choice(condition, *pair) for pair in pairs)


def _choice(condition: Value, a: Any, b: Any) -> Value:
    refuse_if(isinstance(a, list) or isinstance(b, list), "a sequence that a computed condition chooses")
    first, second = (item.sizes if isinstance(item, Value) else list(item.shape) for item in (a, b))
    refuse_if(first != second, f"a computed condition chooses between shapes {first} and {second}")
    refuse_if(condition.ndim > 0 and a.ndim == 0, f"a condition of shape {condition.shape}")
    return elementwise(ops.where, condition, a, b, dtype=dtype_of(a))


@op("Loop", 1, 11, 13, 16, 19, 21, 23, 24, 25)
def loop(node: NodeContext, trip_count: Any = None, condition: Any = None, *carried: Any, body: onnx.GraphProto) -> Any:
    """Unrolled: the trip count, and the condition before each step, must be known."""
    limit = None if trip_count is None else scalar(trip_count, "trip count")
    refuse_if((limit or 0) > _MAX_STEPS, f"{limit} steps, {_MAX_STEPS} are unrolled at most")
    values = list(carried)
    collected: list[list[Any]] = [[] for _ in range(node.outputs - len(carried))]
    step, go = 0, condition
    while (limit is None or step < limit) and (go is None or scalar(go, "loop condition")):
        refuse_if(step >= _MAX_STEPS, f"more than {_MAX_STEPS} steps")
        go, *results = node.run(body, [np.asarray(step), np.asarray(True) if go is None else go, *values])  # noqa: FBT003
        values = results[: len(values)]
        for column, item in zip(collected, results[len(values) :], strict=True):
            column.append(item)
        step += 1
    refuse_if(collected and not step, "a scan output of no steps has no known shape")
    return (*values, *(stacked(column, 0) for column in collected))


@op("Scan", 9, 11, 16, 19, 21, 23, 24, 25)
def scan(  # noqa: PLR0913 - the operator's own parameters
    node: NodeContext,
    *inputs: Any,
    body: onnx.GraphProto,
    num_scan_inputs: int,
    scan_input_axes: list[int] | None = None,
    scan_input_directions: list[int] | None = None,
    scan_output_axes: list[int] | None = None,
    scan_output_directions: list[int] | None = None,
) -> Any:
    """Unrolled over the slices of the scan inputs."""
    states, sources = list(inputs[: len(inputs) - num_scan_inputs]), inputs[len(inputs) - num_scan_inputs :]
    axes = scan_input_axes or [0] * num_scan_inputs
    backward = scan_input_directions or [0] * num_scan_inputs
    steps = sources[0].shape[axes[0]]
    refuse_if(steps is None or not 0 < steps <= _MAX_STEPS, f"{steps} steps, 1 to {_MAX_STEPS} are unrolled")
    columns: list[list[Any]] = [[] for _ in range(node.outputs - len(states))]
    for t in range(steps):
        places = [steps - 1 - t if back else t for back in backward]
        now = [gather(x, np.asarray(at), axis=axis) for x, axis, at in zip(sources, axes, places, strict=True)]
        results = node.run(body, [*states, *now])
        states = results[: len(states)]
        for column, item in zip(columns, results[len(states) :], strict=True):
            column.append(item)
    output_axes = scan_output_axes or [0] * len(columns)
    flips = scan_output_directions or [0] * len(columns)
    joined = zip(columns, output_axes, flips, strict=True)
    return (*states, *(stacked(column[::-1] if flip else column, axis) for column, axis, flip in joined))
