"""Loops whose steps, or the most of them, are known at import time: unrolled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx

from hub_onnxgraph.errors import Refused, refuse_if
from hub_onnxgraph.table import Attributes, NodeContext

MAX_STEPS = 1024
"""More than so many steps are not unrolled."""
MAX_WRITTEN = 8192
"""More than so many nodes are not written for a loop whose every step is masked."""
Item = TypeVar("Item")
Stack = Callable[[list[Item], int], Item]
"""Joins results of the steps along a new axis."""


class OpenCondition(Refused):
    """Whether the loop goes on is computed from the model's inputs."""


def _goes_on(node: NodeContext, condition: Item | None) -> bool:
    try:
        return condition is None or bool(node.scalar(condition, "loop condition"))
    except Refused as refusal:
        raise OpenCondition(str(refusal)) from refusal


def unrolled_loop(
    node: NodeContext,
    body: onnx.GraphProto,
    trip_count: Item | None,
    condition: Item | None,
    carried: Sequence[Item],
    stacked: Stack[Item],
) -> tuple[Item, ...]:
    """The results of ONNX's Loop.

    Raises:
        OpenCondition: The condition after a step is not known.
        Refused: The number of steps is not known, too large, or zero where steps' results are collected.
    """
    limit = None if trip_count is None else int(node.scalar(trip_count, "trip count"))
    refuse_if((limit or 0) > MAX_STEPS and condition is None, f"{limit} steps, {MAX_STEPS} are unrolled at most")
    values = list(carried)
    columns: list[list[Item]] = [[] for _ in range(node.outputs - len(values))]
    step, go = 0, condition
    while (limit is None or step < limit) and _goes_on(node, go):
        refuse_if(step >= MAX_STEPS, f"more than {MAX_STEPS} steps")
        now = node.constant(np.asarray(True)) if go is None else go  # noqa: FBT003 - ONNX's default
        go, *results = node.run(body, [node.constant(np.asarray(step)), now, *values])
        values = results[: len(values)]
        for column, item in zip(columns, results[len(values) :], strict=True):
            column.append(item)
        step += 1
    refuse_if(columns and not step, "a scan output of no steps has no known shape")
    return (*values, *(stacked(column, 0) for column in columns))


def masked_loop(
    node: NodeContext,
    body: onnx.GraphProto,
    trip_count: Item | None,
    condition: Item | None,
    carried: Sequence[Item],
    chosen: Callable[[Item, Item, Item], Item],
) -> tuple[Item, ...]:
    """The results of ONNX's Loop that a computed condition may end early: every step, and what held before the end.

    Args:
        node: The Loop.
        body: Its graph.
        trip_count: The most steps.
        condition: Whether there is a first step.
        carried: The values before it.
        chosen: (condition, a, b) -> a where the condition holds, else b.

    Raises:
        Refused: The most steps are not known, too many, or the steps' results are collected: as many as a run takes.
    """
    refuse_if(node.outputs > len(carried), "a computed condition decides how many steps' results are collected")
    refuse_if(trip_count is None, "a computed condition alone ends the loop: give it a trip count")
    limit = int(node.scalar(trip_count, "trip count"))
    written = limit * max(1, len(body.node))
    refuse_if(
        written > MAX_WRITTEN, f"{limit} steps of {len(body.node)} nodes, {MAX_WRITTEN} nodes are written at most"
    )
    values, no = list(carried), node.constant(np.asarray(False))  # noqa: FBT003 - a condition
    go = node.constant(np.asarray(True)) if condition is None else condition  # noqa: FBT003 - ONNX's default
    for step in range(limit):
        again, *results = node.run(body, [node.constant(np.asarray(step)), go, *values])
        values = [chosen(go, after, before) for after, before in zip(results, values, strict=True)]
        go = chosen(go, again, no)
    return tuple(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanAxes(Attributes):
    """Along which axes, and in which direction, Scan takes its inputs apart and joins its outputs."""

    num_scan_inputs: int
    scan_input_axes: list[int] | None = None
    scan_input_directions: list[int] | None = None
    scan_output_axes: list[int] | None = None
    scan_output_directions: list[int] | None = None

    def parted(self, inputs: Sequence[Item]) -> tuple[list[Item], list[tuple[Item, int, bool]]]:
        """The states, and each scan input with its axis and whether it is taken backwards."""
        states = len(inputs) - self.num_scan_inputs
        none = [0] * self.num_scan_inputs
        axes, backward = self.scan_input_axes or none, self.scan_input_directions or none
        return list(inputs[:states]), list(zip(inputs[states:], axes, map(bool, backward), strict=True))

    def joined(self, columns: Sequence[Item]) -> list[tuple[Item, int, bool]]:
        """Each scan output with its axis and whether it is joined backwards."""
        none = [0] * len(columns)
        axes, backward = self.scan_output_axes or none, self.scan_output_directions or none
        return list(zip(columns, axes, map(bool, backward), strict=True))


def unrolled_scan(  # noqa: PLR0913, PLR0917 - the operator's own parameters
    node: NodeContext,
    body: onnx.GraphProto,
    inputs: Sequence[Item],
    form: ScanAxes,
    steps: int | None,
    picked: Callable[[Item, int, int], Item],
    stacked: Stack[Item],
) -> tuple[Item, ...]:
    """The results of ONNX's Scan over so many steps; `picked` takes the slice of a tensor at an axis and a place.

    Raises:
        Refused: The number of steps is open, zero or too large.
    """
    states, sources = form.parted(inputs)
    if steps is None or not 0 < steps <= MAX_STEPS:
        raise Refused(f"{steps} steps, 1 to {MAX_STEPS} are unrolled")
    columns: list[list[Item]] = [[] for _ in range(node.outputs - len(states))]
    for t in range(steps):
        now = [picked(source, axis, steps - 1 - t if back else t) for source, axis, back in sources]
        results = node.run(body, [*states, *now])
        states = results[: len(states)]
        for column, item in zip(columns, results[len(states) :], strict=True):
            column.append(item)
    return (*states, *(stacked(column[::-1] if back else column, axis) for column, axis, back in form.joined(columns)))
