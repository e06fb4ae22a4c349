"""Conditions and loops: folded and unrolled where their course is known at import time, else graphs of their own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hub_onnxgraph import refuse_if
from hub_pytorch.onnx_importer.lazy import torch
from hub_pytorch.onnx_importer.registry import NodeContext, op
from hub_pytorch.onnx_importer.sizes import is_int
from hub_pytorch.onnx_importer.values import is_constant, is_known, scalar

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

_MAX_STEPS = 1024


@op("If", 1, 11, 13, 16, 19, 21, 23, 24, 25)
def if_(node: NodeContext, condition: Any, *, then_branch: onnx.GraphProto, else_branch: onnx.GraphProto) -> Any:
    """The branch that a constant condition takes; both as graphs of their own when it depends on data."""
    if is_constant(condition) or (is_known(condition) and isinstance(scalar(condition, "condition"), bool)):
        return tuple(node.run(then_branch if scalar(condition, "condition") else else_branch, []))
    return _branches(node, condition, then_branch, else_branch)


def _branches(node: NodeContext, condition: Any, yes: onnx.GraphProto, no: onnx.GraphProto) -> Any:
    from hub_pytorch.onnx_importer import subgraphs

    builder = subgraphs.builder_of(condition)
    graphs = [subgraphs.trace(builder, [], partial(_run, node, branch)) for branch in (yes, no)]
    ours, theirs = ([output.meta["val"] for output in traced.outputs] for traced in graphs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        refuse_if(not subgraphs.same_type(a, b), f"output {i} is {_form(a)} in one branch and {_form(b)} in the other")
    chosen = builder.create_arg(torch.reshape(condition, []))
    operator = torch.ops.higher_order.cond
    return tuple(subgraphs.emit(builder, operator, graphs, lambda both, outer: (chosen, *both, outer), ours))


def _run(node: NodeContext, branch: onnx.GraphProto, inputs: list[Any]) -> list[Any]:
    return node.run(branch, inputs)


def _form(fake: Any) -> str:
    return f"{str(fake.dtype).removeprefix('torch.')} {list(fake.shape)}"


@op("Loop", 1, 11, 13, 16, 19, 21, 23, 24, 25)
def loop(
    node: NodeContext,
    trip_count: Tensor | None = None,
    condition: Tensor | None = None,
    *carried: Any,
    body: onnx.GraphProto,
) -> Any:
    """Unrolled where the trip count and the condition before each step are known, else a loop of torch's own."""
    if _is_open(trip_count) or _is_open(condition):
        return _while(node, trip_count, condition, list(carried), body)
    return _unrolled(node, trip_count, condition, list(carried), body)


def _is_open(value: Any) -> bool:
    """Whether a value is not known at import time."""
    return value is not None and not is_constant(value)


def _unrolled(
    node: NodeContext, trip_count: Tensor | None, condition: Tensor | None, carried: list[Any], body: onnx.GraphProto
) -> Any:
    limit = None if trip_count is None else scalar(trip_count, "trip count")
    refuse_if((limit or 0) > _MAX_STEPS and condition is None, f"{limit} steps, {_MAX_STEPS} are unrolled at most")
    values = carried
    collected: list[list[Tensor]] = [[] for _ in range(node.outputs - len(carried))]
    step = 0
    go = condition
    while (limit is None or step < limit) and (go is None or scalar(go, "loop condition")):
        refuse_if(step >= _MAX_STEPS, f"more than {_MAX_STEPS} steps")
        go, *results = node.run(body, [torch.tensor(step), torch.tensor(True) if go is None else go, *values])  # noqa: FBT003
        if _is_open(go):
            refuse_if(collected, "the loop condition must be known at import time where scan outputs are collected")
            return _while(node, trip_count, condition, carried, body)
        values = results[: len(values)]
        for column, item in zip(collected, results[len(values) :], strict=True):
            column.append(item)
        step += 1
    refuse_if(collected and not step, "a scan output of no steps has no known shape")
    return (*values, *(torch.stack(column) for column in collected))


def _while(node: NodeContext, limit: Any, condition: Any, carried: list[Any], body: onnx.GraphProto) -> Any:
    """A loop whose number of steps depends on data or on a dynamic size. State: step, whether to go on, the values."""
    from hub_pytorch.onnx_importer import subgraphs

    collecting = node.outputs > len(carried)
    if collecting:
        return _for_each(node, limit, condition, carried, body)
    builder = subgraphs.builder_of(limit, condition, *carried)
    start = torch.tensor(0)
    go = torch.tensor(True) if condition is None else torch.reshape(condition, [])  # noqa: FBT003 - ONNX's default
    state = [start, go, *carried]
    like = [subgraphs.example(builder, value) for value in state]
    last = None if limit is None else torch.reshape(limit, [])

    def goes_on(now: list[Any]) -> list[Any]:
        return [now[1] if last is None else torch.logical_and(torch.lt(now[0], last), now[1])]

    def step(now: list[Any]) -> list[Any]:
        again, *results = node.run(body, now)
        return [torch.add(now[0], 1), torch.reshape(again, []), *results]

    test, work = subgraphs.trace(builder, like, goes_on, single=True), subgraphs.trace(builder, like, step)
    for i, (before, after) in enumerate(zip(like, (output.meta["val"] for output in work.outputs), strict=True)):
        refuse_if(
            not subgraphs.same_type(before, after),
            f"carried value {i - 2} is {_form(before)} before a step and {_form(after)} after it",
        )
    given = subgraphs.apart(builder, state)
    operator = torch.ops.higher_order.while_loop
    results = subgraphs.emit(builder, operator, [test, work], lambda both, outer: (*both, given, outer), like)
    return tuple(results[2:])


def _for_each(node: NodeContext, limit: Any, condition: Any, carried: list[Any], body: onnx.GraphProto) -> Any:
    """A loop of a dynamic number of steps that collects: only where no condition can end it earlier."""
    what = "must be known at import time where a loop collects scan outputs"
    fixed = condition is None or (is_constant(condition) and scalar(condition, "condition"))
    refuse_if(limit is None or not (is_constant(limit) or is_known(limit)), f"the trip count {what}")
    refuse_if(not fixed, f"the condition {what}")
    count = scalar(limit, "trip count")
    always = torch.tensor(True)  # noqa: FBT003 - ONNX's value

    def step(now: list[Any]) -> list[Any]:
        go, *results = node.run(body, [now[-1], always, *now[:-1]])
        refuse_if(not is_constant(go) or not scalar(go, "loop condition"), f"the condition {what}")
        return results

    return tuple(scanned(carried, [torch.arange(count)], step, node.outputs - len(carried)))


def scanned(states: list[Any], sources: list[Any], step: Any, outputs: int) -> list[Any]:
    """The results of torch's scan over the first axes of the sources."""
    from hub_pytorch.onnx_importer import subgraphs

    builder = subgraphs.builder_of(*sources, *states)
    like = [subgraphs.example(builder, value) for value in states]
    sliced = [torch.select(source, 0, 0) for source in sources]
    work = subgraphs.trace(builder, [*like, *(subgraphs.example(builder, item) for item in sliced)], step)
    results = [output.meta["val"] for output in work.outputs]
    for i, (before, after) in enumerate(zip(like, results, strict=False)):
        refuse_if(
            not subgraphs.same_type(before, after),
            f"state {i} is {_form(before)} before a step and {_form(after)} after it",
        )
    steps = sources[0].shape[0]
    stacked = [builder.stacked(result, steps) for result in results[len(states) :]]
    refuse_if(len(stacked) != outputs, f"{len(stacked)} scan outputs, the node has {outputs}")
    given = subgraphs.apart(builder, states), subgraphs.apart(builder, sources)
    operator = torch.ops.higher_order.scan
    return subgraphs.emit(builder, operator, [work], lambda one, outer: (one[0], *given, outer), [*like, *stacked])


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
    """Unrolled over the slices of the scan inputs; over a dynamic number of them, torch's scan."""
    states, sources = list(inputs[: len(inputs) - num_scan_inputs]), inputs[len(inputs) - num_scan_inputs :]
    axes = scan_input_axes or [0] * num_scan_inputs
    backward = scan_input_directions or [0] * num_scan_inputs
    steps = sources[0].shape[axes[0]]
    if not is_int(steps):
        sources = tuple(
            torch.flip(torch.movedim(source, axis, 0), [0]) if back else torch.movedim(source, axis, 0)
            for source, axis, back in zip(sources, axes, backward, strict=True)
        )
        outputs = node.outputs - len(states)
        results = scanned(states, list(sources), lambda now: node.run(body, now), outputs)
        stacked = _placed(results[len(states) :], scan_output_axes, scan_output_directions)
        return (*results[: len(states)], *stacked)
    refuse_if(not 0 < steps <= _MAX_STEPS, f"{steps} steps, 1 to {_MAX_STEPS} are unrolled")
    columns: list[list[Tensor]] = [[] for _ in range(node.outputs - len(states))]
    for t in range(steps):
        now = [
            torch.select(source, axis, steps - 1 - t if back else t)
            for source, axis, back in zip(sources, axes, backward, strict=True)
        ]
        results = node.run(body, [*states, *now])
        states = results[: len(states)]
        for column, item in zip(columns, results[len(states) :], strict=True):
            column.append(item)
    output_axes = scan_output_axes or [0] * len(columns)
    flips = scan_output_directions or [0] * len(columns)
    stacked = [
        torch.stack(column[::-1] if flip else column, axis)
        for column, axis, flip in zip(columns, output_axes, flips, strict=True)
    ]
    return (*states, *stacked)


def _placed(columns: list[Any], axes: list[int] | None, flips: list[int] | None) -> list[Any]:
    """Scan outputs with their steps along the wanted axes and in the wanted order."""
    rows = zip(columns, axes or [0] * len(columns), flips or [0] * len(columns), strict=True)
    return [torch.movedim(torch.flip(x, [0]) if flip else x, 0, axis) for x, axis, flip in rows]
