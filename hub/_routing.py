"""The planner: all simple routes over states, cheapest first, deterministic, with the reason for what is left out."""

import heapq
import itertools
from collections.abc import Iterable, Iterator

import msgspec

from hub._plugins import Registry, missing_requirements, versions_of
from hub._request import did_you_mean
from hub.spec import (
    STATEFUL,
    Converter,
    ConvertOptions,
    Edge,
    Expectation,
    ModelSummary,
    NoRouteError,
    State,
    Support,
    UnknownName,
    UsageError,
    Verdict,
)

MAX_ROUTES = 16
"""Routes tried at most: past a dozen engines the next one is not what helps."""


ROUTES_BEFORE_THE_NEXT_GOAL = 3
"""Routes to a goal that has another behind it: one quantizer on a fourth engine's graph is rarely what helps."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner found.

    Attributes:
        routes: In the order they are tried.
        left_out: Edges that would lie on a route to the goal, each with the reason why none takes it.
        doubts: Edges that take the model once it is prepared, with what stands against the model as it is.
        history: Edges that went wrong on this very model before, with the reason: routes over them come last.
    """

    routes: tuple[tuple[Edge, ...], ...]
    left_out: dict[str, str]
    doubts: dict[str, str] = {}
    history: dict[str, str] = {}


def make_plan(
    registry: Registry,
    summary: ModelSummary,
    goals: tuple[State, ...],
    options: ConvertOptions,
    *,
    data: bool,
    avoid: tuple[str, ...] = (),
) -> Plan:
    """Find every route from a model to the goals.

    Args:
        registry: The installed plugins.
        summary: The source model, as its reader describes it.
        goals: States to reach, the first preferred: routes to the second come after all routes to the first.
        options: The request.
        data: Whether calibration data is given.
        avoid: Edges that the user does not want.

    Raises:
        UnknownName: There is no edge of a name to avoid.
        NoRouteError: There is none; the message says what was left out and why.
    """
    unknown = next((name for name in avoid if name not in registry.edges), None)
    if unknown:
        raise UnknownName(f"there is no edge {unknown!r} to avoid", hint=did_you_mean(unknown, registry.edges))
    verdicts = {edge_id: judge(registry, edge_id, summary, options, data=data) for edge_id in registry.edges}
    verdicts |= dict.fromkeys(avoid, Verdict(support=Support.NEVER, reason="avoided on request"))
    usable = [registry.edges[edge_id][0] for edge_id, verdict in verdicts.items() if verdict]
    left_out = {edge_id: f"{v.support.value}: {v.reason}" for edge_id, v in verdicts.items() if not v}
    keep = bool(_open_inputs(summary, options))
    behind = MAX_ROUTES - ROUTES_BEFORE_THE_NEXT_GOAL * (len(goals) - 1)
    routes = tuple(
        route
        for goal in goals
        for route in itertools.islice(
            simple_routes(usable, summary.state, goal, keep_dynamic=keep),
            behind if goal == goals[-1] else ROUTES_BEFORE_THE_NEXT_GOAL,
        )
    )
    every = [edge for edge, _ in registry.edges.values()]
    if not routes:
        ahead = _reachable({summary.state}, [(edge.source, edge.target) for edge in every])
        reasons = {edge.id: left_out[edge.id] for edge in every if edge.id in left_out and edge.source in ahead}
        raise _no_route(summary.state, goals, reasons, ahead - {summary.state}, data=data)
    near = _between(every, summary.state, goals)
    left_out = {edge_id: reason for edge_id, reason in left_out.items() if edge_id in near}
    return Plan(routes=routes, left_out=left_out, doubts=_doubts(registry, routes, summary, options))


def _between(edges: Iterable[Edge], start: State, goals: tuple[State, ...]) -> set[str]:
    """Ids of the edges on some way from the start to a goal, whether they are usable or not."""
    offered = list(edges)
    ahead = _reachable({start}, [(edge.source, edge.target) for edge in offered])
    behind = _reachable(set(goals), [(edge.target, edge.source) for edge in offered])
    return {edge.id for edge in offered if edge.source in ahead and edge.target in behind}


def _reachable(found: set[State], pairs: list[tuple[State, State]]) -> set[State]:
    new = {there for here, there in pairs if here in found} - found
    return _reachable(found | new, pairs) if new else found


def _doubts(
    registry: Registry, routes: Iterable[tuple[Edge, ...]], summary: ModelSummary, options: ConvertOptions
) -> dict[str, str]:
    """What edges behind a preparation say of the model as it is: it may still change, so they stay in the routes."""
    later = {edge.id: edge for route in routes for edge in route[1:] if edge.source.format == summary.state.format}
    verdicts = {edge_id: _ask(edge, registry.edges[edge_id][1], summary, options) for edge_id, edge in later.items()}
    return {edge_id: verdict.reason for edge_id, verdict in sorted(verdicts.items()) if not verdict}


def judge(
    registry: Registry, edge_id: str, summary: ModelSummary, options: ConvertOptions, *, data: bool = True
) -> Verdict:
    """Say whether an edge is usable here. The model itself is asked about only where the edge starts from its state."""
    edge, converter = registry.edges[edge_id]
    if edge.target.format not in registry.formats:
        hint = f"pip install hub-{edge.target.format}"
        return Verdict(support=Support.UNKNOWN, reason=f"no plugin reads {edge.target.format}", hint=hint)
    missing = [] if edge.toolchain else missing_requirements(edge.requires)
    if missing:
        hint = f"pip install {' '.join(missing)}"
        return Verdict(support=Support.UNKNOWN, reason=f"not installed: {', '.join(missing)}", hint=hint)
    if edge.needs_device:
        return Verdict(support=Support.UNKNOWN, reason=f"needs a {edge.needs_device} device")
    if edge.needs_calibration and not data:
        return Verdict(support=Support.UNKNOWN, reason="needs --calibration", hint="--calibration DATA")
    avoided = expected_gap(registry.expectations, edge, summary)
    if avoided:
        return Verdict(support=Support.NEVER, reason=f"{avoided.kind.value}: {avoided.reason}")
    return _ask(edge, converter, summary, options) if edge.source == summary.state else Verdict(support=Support.YES)


def _ask(edge: Edge, converter: Converter, summary: ModelSummary, options: ConvertOptions) -> Verdict:
    try:
        return converter.check(edge, summary, options)
    except Exception as error:  # noqa: BLE001 the plugin boundary: a check that raises leaves its edge out, and says so
        reason = f"its check failed with {type(error).__name__}: {error}"
        return Verdict(support=Support.UNKNOWN, reason=reason, hint="report it to the plugin's authors")


def expected_gap(expectations: Iterable[Expectation], edge: Edge, summary: ModelSummary) -> Expectation | None:
    """The declared gap that keeps this edge from this model, if any."""
    return next((item for item in expectations if _applies(item, edge, summary)), None)


def _applies(item: Expectation, edge: Edge, summary: ModelSummary) -> bool:
    if item.edge != edge.id or not item.kind.is_avoided:
        return False
    return (not item.operators or bool(set(item.operators) & set(summary.operators))) and _in_range(item.versions)


def _in_range(requirement: str) -> bool:
    from packaging.requirements import Requirement

    if not requirement:
        return True
    ((_, version),) = versions_of((requirement,)).items()
    return bool(version) and Requirement(requirement).specifier.contains(version, prereleases=True)


def _open_inputs(summary: ModelSummary, options: ConvertOptions) -> list[str]:
    """Inputs with a dimension that neither the model nor the request fixes."""
    given = {*options.shapes, *options.constants}
    return [spec.name for spec in summary.signature.inputs if not spec.is_static and spec.name not in given]


def simple_routes(
    edges: Iterable[Edge], start: State, goal: State, *, keep_dynamic: bool = False
) -> Iterator[tuple[Edge, ...]]:
    """Yield routes that visit no state twice: fewest lossy steps, then cost, then edge ids.

    Among routes that are as lossy, those on which the target's own format is quantized come first: a backend's own
    quantization is made for its kernels. With `keep_dynamic`, those on which every dimension stays open come next.
    """
    every = tuple(edges)
    near = _between(every, start, (goal,))  # an edge that leads nowhere near would be tried behind every other
    offered = sorted((edge for edge in every if edge.id in near), key=lambda edge: edge.id)
    heap: list[tuple[int, int, bool, float, tuple[str, ...], tuple[Edge, ...]]] = [(0, 0, False, 0.0, (), ())]
    while heap:
        lossy, foreign, fixed, cost, ids, route = heapq.heappop(heap)
        here = route[-1].target if route else start
        if here == goal:
            yield route
            continue
        seen = {start, *(edge.target for edge in route)}
        for edge in offered:
            if edge.source == here and edge.target not in seen:
                abroad = foreign + (edge.lossy and edge.target.format != goal.format)
                fixes = fixed or (keep_dynamic and not edge.keeps_dynamic)
                entry = (lossy + edge.lossy, abroad, fixes, cost + edge.cost, (*ids, edge.id), (*route, edge))
                heapq.heappush(heap, entry)


def stateful_form(registry: Registry, format_name: str, form: str) -> str:
    """The form of a target that keeps its state itself.

    Raises:
        UsageError: No edge writes one.
    """
    able = {edge.target.format for edge, _ in registry.edges.values() if edge.target.form == STATEFUL}
    if format_name in able and not form:
        return STATEFUL
    others = " or ".join(f"--to {name}" for name in sorted(able)) or "a plugin that does"
    raise UsageError(f"no installed plugin writes a {format_name} model that keeps its state", hint=f"use {others}")


def _no_route(
    start: State, goals: tuple[State, ...], left_out: dict[str, str], ahead: set[State], *, data: bool
) -> NoRouteError:
    reasons = "; ".join(f"{edge_id} ({reason})" for edge_id, reason in left_out.items())
    message = f"no route from {start} to {goals[0]}" + (f"; left out: {reasons}" if reasons else "")
    needs = any("needs --calibration" in reason for reason in left_out.values()) and not data
    there = ", ".join(sorted(map(str, ahead)))
    hint = f"edges lead from here to {there}; `hub plugins` lists them" if there else "`hub plugins` lists the edges"
    hint = f"{goals[0].numerics.value} needs data: --calibration DATA" if needs else hint
    return NoRouteError(message, hint=hint)
