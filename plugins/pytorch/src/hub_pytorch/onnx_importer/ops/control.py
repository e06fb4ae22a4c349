"""Conditions and loops: folded and unrolled where their course is known at import time, else graphs of their own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hub_onnxgraph import refuse_if
from hub_onnxgraph.loops import OpenCondition, ScanAxes, unrolled_loop, unrolled_scan
from hub_pytorch.onnx_importer.lazy import torch
from hub_pytorch.onnx_importer.registry import NodeContext, op
from hub_pytorch.onnx_importer.sizes import is_int
from hub_pytorch.onnx_importer.values import is_constant, is_known, scalar

if TYPE_CHECKING:
    import onnx
    from torch import Tensor


@op("If", 1, 11, 13, 16, 19, 21, 23, 24, 25)
def if_(node: NodeContext, condition: Any, *, then_branch: onnx.GraphProto, else_branch: onnx.GraphProto) -> Any:
    """The branch that a constant condition takes; both as graphs of their own when it depends on data."""
    from hub_pytorch.onnx_importer import subgraphs

    if is_constant(condition) or (is_known(condition) and isinstance(scalar(condition, "condition"), bool)):
        return tuple(node.run(then_branch if scalar(condition, "condition") else else_branch, []))
    builder = subgraphs.builder_of(condition)
    graphs = [subgraphs.trace(builder, [], partial(_run, node, branch)) for branch in (then_branch, else_branch)]
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
    if not _is_open(trip_count) and not _is_open(condition):
        try:
            return unrolled_loop(node, body, trip_count, condition, carried, _stacked)
        except OpenCondition:
            what = "the loop condition must be known at import time where scan outputs are collected"
            refuse_if(node.outputs > len(carried), what)
    return _while(node, trip_count, condition, list(carried), body)


def _stacked(column: list[Tensor], axis: int) -> Tensor:
    return torch.stack(column, axis)


def _is_open(value: Any) -> bool:
    """Whether a value is not known at import time."""
    return value is not None and not is_constant(value)


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
def scan(node: NodeContext, *inputs: Tensor, body: onnx.GraphProto, form: ScanAxes) -> tuple[Tensor, ...]:
    """Unrolled over the slices of the scan inputs; over a dynamic number of them, torch's scan."""
    states, sources = form.parted(inputs)
    steps = sources[0][0].shape[sources[0][1]]
    if is_int(steps):
        return unrolled_scan(node, body, inputs, form, steps, _picked, _stacked)
    moved = [torch.movedim(source, axis, 0) for source, axis, _ in sources]
    moved = [torch.flip(x, [0]) if back else x for x, (_, _, back) in zip(moved, sources, strict=True)]
    results = scanned(states, moved, lambda now: node.run(body, now), node.outputs - len(states))
    columns = form.joined(results[len(states) :])
    placed = [torch.movedim(torch.flip(x, [0]) if back else x, 0, axis) for x, axis, back in columns]
    return (*results[: len(states)], *placed)


def _picked(x: Tensor, axis: int, place: int) -> Tensor:
    return torch.select(x, axis, place)
