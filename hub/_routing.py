"""The planner: all simple routes over states, cheapest first, deterministic, with the reason for what is left out."""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from hub._plugins import Registry
from hub._request import did_you_mean
from hub._requirements import is_met, missing_requirements
from hub._shapes import open_inputs
from hub._steps import Step
from hub._tasks import misfilled
from hub.spec import (
    STATEFUL,
    YES,
    ConvertOptions,
    Edge,
    Expectation,
    ModelSummary,
    NoRouteError,
    Numerics,
    Remark,
    State,
    Support,
    UnknownName,
    UsageError,
    Verdict,
)

MAX_ROUTES = 16
"""Routes tried at most: past a dozen engines the next one is not what helps."""


MOST_ALIKE = {1: 6, 2: 3}
"""Length of a beginning -> how many routes to a goal share it, where others are to be had: sixteen that all begin with
an edge that fails on the model are one try, and the engine that works is never reached."""

ROUTES_BEFORE_THE_NEXT_GOAL = 3
"""Routes to a goal that has another behind it: one quantizer on a fourth engine's graph is rarely what helps."""

_HONOURED = {
    "build_for": "--build-for",
    "constants": "--constant",
    "io_dtype": "--io-dtype",
    "io_layout": "--io-layout",
    "states": "--state",
    "submodule": "--submodule",
}
"""Options that somebody on a route has to carry out -> what the user calls them."""

_FIXING = Verdict(
    support=Support.NEVER,
    reason="it fixes dimensions, and a range of sizes is asked for",
    hint="give one size of each dimension instead of a range",
    code="range-not-kept",
)

FROM_FLOAT = "give the float model that it was made from"
"""The hint where a quantized model's own precision has no word in the target."""

NO_VERDICT = "its check"

Route = tuple[Step, ...]
Asked = frozenset[str]


def edges_of(route: Route) -> tuple[str, ...]:
    """Ids of a route's edges, in order."""
    return tuple(step.edge.id for step in route)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner found.

    Attributes:
        routes: In the order they are tried.
        left_out: Edges that would lie on a route to the goal, each with the reason why none takes it.
        doubts: Edges that take the model once it is prepared, with what stands against the model as it is.
        history: Edges that went wrong on this very model before, with the reason: routes over them come last.
        remarks: What else is worth knowing before the first route is tried.
    """

    routes: tuple[Route, ...]
    left_out: dict[str, Remark]
    doubts: dict[str, Remark] = {}
    history: dict[str, Remark] = {}
    remarks: tuple[Remark, ...] = ()


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
        avoid: Edges that the user does not want, by their ids of today or of earlier versions.

    Raises:
        UnknownName: There is no edge of a name to avoid.
        NoRouteError: There is none; the message says what was left out and why.
    """
    edges, start = registry.edges.values(), summary.state
    verdicts = {edge.id: _offered(registry, edge, summary, data=data) for edge in edges}
    verdicts |= {_known(registry, name): _AVOIDED for name in avoid}
    verdicts |= {edge.id: found for edge in edges if verdicts[edge.id] and not (found := _allowed(edge, options))}
    if options.ranges:
        verdicts |= {edge.id: _FIXING for edge in edges if verdicts[edge.id] and not edge.keeps_dynamic}
    # The model as it is closes only the steps that start from it: behind a preparation it is another.
    answers = {edge.id: ask(edge, summary, options) for edge in edges if edge.takes(start)}
    steps = [step for step in registry.steps if _fits(step, start.numerics)]
    usable = [step for step in steps if verdicts[step.edge.id] and (step.source != start or answers[step.edge.id])]
    asked = frozenset(name for name in _HONOURED if getattr(options, name))
    routes = tuple(_routes(usable, summary, goals, options, asked))
    left_out = {
        edge_id: Remark("left-out", verdict.code, verdict.reason, verdict.hint)
        for said in (answers, verdicts)
        for edge_id, verdict in said.items()
        if not verdict
    }
    if asked:
        words = ", ".join(f"{_HONOURED[name]} {_value(options, name)}" for name in sorted(asked))
        able = "; ".join(f"{_HONOURED[name]} is carried out by {_able(registry, name)}" for name in sorted(asked))
        idle = _on_the_way(usable, start, goals) - _on_the_way(usable, start, goals, asked)
        text = f"nothing on the way carries out {words}"
        left_out |= dict.fromkeys(sorted(idle), Remark("left-out", "option-not-carried-out", text, able))
    taken = {step.edge.id for route in routes for step in route}
    near = _on_the_way(steps, start, goals) - taken
    left_out = {edge_id: reason for edge_id, reason in sorted(left_out.items()) if edge_id in near}
    if not routes:
        wanting = {
            code: [step for step in steps if verdicts[step.edge.id].code == code]
            for code in (NEEDS_DATA, _NOT_INSTALLED)
        }
        raise _no_route(start, goals, left_out, usable, wanting)
    return Plan(routes=routes, left_out=left_out, doubts=_doubts(routes, summary, options))


def _fits(step: Step, own: Numerics) -> bool:
    """Whether a step is one for a model of these numerics: adopted only if it is narrow, and never quantized twice."""
    if own.is_quantized:
        return step.source.numerics.is_quantized or not step.target.numerics.is_quantized
    narrow = own is not Numerics.FP32 and not step.source.numerics.is_quantized
    return narrow or not step.edge.adopts


def _on_the_way(steps: Iterable[Step], start: State, goals: tuple[State, ...], asked: Asked = frozenset()) -> set[str]:
    """Ids of the edges on some way to a goal."""
    return {move.step.edge.id for goal in goals for move in _moves(steps, start, goal, asked)}


def _known(registry: Registry, name: str) -> str:
    found = registry.former.get(name, name)
    if found not in registry.edges:
        raise UnknownName(f"there is no edge {name!r} to avoid", hint=did_you_mean(name, registry.edges))
    return found


def _value(options: ConvertOptions, name: str) -> str:
    """An option's value as the user wrote it."""
    value: str | tuple[str, ...] | dict[str, object] = getattr(options, name)
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return value if isinstance(value, str) else ", ".join(value)


def _routes(
    steps: list[Step], summary: ModelSummary, goals: tuple[State, ...], options: ConvertOptions, asked: Asked
) -> Iterator[Route]:
    """Routes to each goal in turn.

    A second route over the same edges is the first one: where their files end in is what the readers find.
    """
    keep = options if open_inputs(summary.signature, options) else None
    behind = MAX_ROUTES - ROUTES_BEFORE_THE_NEXT_GOAL * (len(goals) - 1)
    found: set[tuple[str, ...]] = set()
    for goal in goals:
        room = behind if goal == goals[-1] else ROUTES_BEFORE_THE_NEXT_GOAL
        first: list[Route] = []
        for most_alike in (MOST_ALIKE, {}):  # what is left over goes to routes that begin as others do
            ways = simple_routes(steps, summary.state, goal, keep_dynamic=keep, asked=asked, most_alike=most_alike)
            for route in ways:
                ids = edges_of(route)
                if ids in found:
                    continue
                if len(first) == room:
                    break
                found.add(ids)
                first.append(route)
        yield from first


class _Move(NamedTuple):
    """A step on some way, and which of the options that were asked for are carried out before and after it."""

    step: Step
    before: Asked
    after: Asked


def _moves(steps: Iterable[Step], start: State, goal: State, asked: Asked = frozenset()) -> list[_Move]:
    """Every step on some way from the start to the goal on which all that is asked for is carried out."""
    leaving: dict[State, list[Step]] = {}
    for step in steps:
        leaving.setdefault(step.source, []).append(step)
    ahead: list[_Move] = []
    found, waiting = {(start, Asked())}, deque([(start, Asked())])
    while waiting:
        state, before = waiting.popleft()
        for step in leaving.get(state, ()):
            after = before | (asked & set(step.edge.honours))
            ahead.append(_Move(step, before, after))
            if (step.target, after) not in found:
                found.add((step.target, after))
                waiting.append((step.target, after))
    leading = {node for node in found if node[0].satisfies(goal) and node[1] == asked}
    size = -1
    while size != len(leading):
        size = len(leading)
        leading |= {(move.step.source, move.before) for move in ahead if (move.step.target, move.after) in leading}
    return [move for move in ahead if (move.step.target, move.after) in leading]


def _doubts(routes: Iterable[Route], summary: ModelSummary, options: ConvertOptions) -> dict[str, Remark]:
    """What edges behind a preparation say of the model as it is: it may still change, so they stay in the routes."""
    later = [step for route in routes for step in route[1:] if step.source.format == summary.state.format]
    verdicts = {step.edge.id: ask(step.edge, summary, options) for step in later}
    return {
        edge_id: Remark("doubt", verdict.code, verdict.reason, verdict.hint)
        for edge_id, verdict in sorted(verdicts.items())
        if not verdict
    }


def judge(registry: Registry, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Say whether an edge takes the model that a route has got to."""
    verdict = _offered(registry, edge, summary, data=True)
    return ask(edge, summary, options) if verdict else verdict


def _offered(registry: Registry, edge: Edge, summary: ModelSummary, *, data: bool) -> Verdict:
    """Say whether an edge is usable here, before the model itself is asked about."""
    if edge.gives.format not in registry.formats:
        hint = f"pip install hub-{edge.gives.format}"
        reason = f"no plugin reads {edge.gives.format}"
        return Verdict(support=Support.UNKNOWN, reason=reason, hint=hint, code="no-reader")
    device = registry.device_here(edge.needs_device) if edge.needs_device else YES
    if not device:
        reason = f"needs a {edge.needs_device} device: {device.reason}"
        return Verdict(support=Support.UNKNOWN, reason=reason, hint=device.hint, code=_NO_DEVICE)
    reader = registry.formats[edge.gives.format]
    missing = missing_requirements((*(() if edge.toolchain else edge.requires), *reader.requires))
    if missing:
        hint = f"pip install {' '.join(map(repr, missing))}"
        reason = f"not installed: {', '.join(missing)}"
        return Verdict(support=Support.UNKNOWN, reason=reason, hint=hint, code=_NOT_INSTALLED)
    if edge.needs_calibration and not data:
        reason = f"{edge.gives.numerics} needs data"
        return Verdict(support=Support.UNKNOWN, reason=reason, hint="add --calibration DATA", code=NEEDS_DATA)
    gap = expected_gap(registry.expectations, edge, summary)
    return Verdict(support=Support.NEVER, reason=f"{gap.kind.value}: {gap.reason}", code="known-gap") if gap else YES


NEEDS_DATA = "needs-data"
"""The code of an edge that is left out for want of calibration data."""
_NO_DEVICE = "no-device"
_NOT_INSTALLED = "not-installed"
_AVOIDED = Verdict(support=Support.NEVER, reason="avoided on request", hint="leave out --avoid", code="avoided")


def ask(edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Ask an edge whether it takes a model: where its check gives no verdict, the reason begins with `NO_VERDICT`."""
    return _answer(lambda: edge.check(summary, options))


def _allowed(edge: Edge, options: ConvertOptions) -> Verdict:
    return _answer(lambda: edge.allows(options))


def _answer(ask: Callable[[], object]) -> Verdict:
    try:
        verdict = ask()
    except (Exception, SystemExit) as error:  # noqa: BLE001 the plugin boundary: a check that raises leaves its edge out, and says so
        return _no_verdict(f"failed with {type(error).__name__}: {error}")
    wrong = misfilled(verdict, Verdict)
    return _no_verdict(wrong) if wrong or not isinstance(verdict, Verdict) else verdict


def _no_verdict(what: str) -> Verdict:
    hint = "report it to the plugin's authors"
    return Verdict(support=Support.UNKNOWN, reason=f"{NO_VERDICT} {what}", hint=hint, code="check-failed")


def expected_gap(expectations: Iterable[Expectation], edge: Edge, summary: ModelSummary) -> Expectation | None:
    """The declared gap that keeps this edge from this model, if any."""
    return next((item for item in expectations if _applies(item, edge, summary)), None)


def _applies(item: Expectation, edge: Edge, summary: ModelSummary) -> bool:
    if item.edge not in {edge.id, *edge.formerly} or not item.kind.is_avoided:
        return False
    if item.numerics and summary.state.numerics not in item.numerics:
        return False
    if item.versions and not is_met(item.versions):
        return False
    return not item.operators or bool(set(item.operators) & set(summary.operators))


def simple_routes(
    steps: Iterable[Step],
    start: State,
    goal: State,
    *,
    keep_dynamic: ConvertOptions | None = None,
    asked: Asked = frozenset(),
    most_alike: Mapping[int, int] = MappingProxyType({}),
) -> Iterator[Route]:
    """Yield routes that visit no state twice: fewest lossy steps, then cost, then edge ids.

    Among routes that are as lossy, those on which the target's own format is quantized come first: a backend's own
    quantization is made for its kernels. With `keep_dynamic`, the options of a request whose model has open dimensions,
    those on which every dimension stays open come next.
    Every option of `asked` is carried out by an edge of the route. Of routes that begin with the same edges no more are
    yielded than `most_alike` says for beginnings of that length.
    """
    alike: Counter[tuple[str, ...]] = Counter()
    leaving: dict[tuple[State, Asked], list[_Move]] = {}
    for move in _moves(steps, start, goal, asked):  # an edge that leads nowhere near would be tried behind every other
        leaving.setdefault((move.step.source, move.before), []).append(move)
    names: tuple[tuple[str, State], ...] = ()
    heap: list[tuple[int, int, bool, float, tuple[tuple[str, State], ...], Asked, Route]]
    heap = [(0, 0, False, 0.0, names, Asked(), ())]
    while heap:
        lossy, foreign, fixed, cost, names, done, route = heapq.heappop(heap)
        here = route[-1].target if route else start
        ids = tuple(edge_id for edge_id, _ in names)
        beginnings = [ids[:length] for length in most_alike if length <= len(ids)]
        if any(alike[beginning] >= most_alike[len(beginning)] for beginning in beginnings):
            continue
        if here.satisfies(goal) and done == asked:
            alike.update(beginnings)
            yield route
            continue
        seen = {start, *(step.target for step in route)}
        for step, _, after in leaving.get((here, done), ()):
            if step.target not in seen:
                edge = step.edge
                abroad = foreign + (edge.lossy and step.target.format != goal.format)
                fixes = fixed or (keep_dynamic is not None and not edge.keeps(keep_dynamic))
                further = (*names, (edge.id, step.target))
                entry = (lossy + edge.lossy, abroad, fixes, cost + step.cost, further, after, (*route, step))
                heapq.heappush(heap, entry)


def stateful_form(registry: Registry, format_name: str, form: str) -> str:
    """The form of a target that keeps its state itself.

    Raises:
        UsageError: No edge writes one.
    """
    able = {edge.gives.format for edge in registry.edges.values() if edge.gives.form == STATEFUL}
    if format_name in able and not form:
        return STATEFUL
    others = " or ".join(f"--to {name}" for name in sorted(able)) or "a plugin that does"
    raise UsageError(f"no installed plugin writes a {format_name} model that keeps its state", hint=f"use {others}")


def _no_route(
    start: State,
    goals: tuple[State, ...],
    left_out: dict[str, Remark],
    usable: list[Step],
    wanting: dict[str, list[Step]],
) -> NoRouteError:
    """Say what stands in the way: one cause. All of them are in the details, for `-v` and `--json`.

    Args:
        start: What the model is.
        goals: What it was to become.
        left_out: The edges that would lie on a way there, each with its reason.
        usable: The steps that can be gone, whatever the options.
        wanting: Those that want data, and those whose tools are not installed, by the code of that reason.
    """
    goal, ahead, with_data = goals[0], _reachable(start, usable), _reachable(start, [*usable, *wanting[NEEDS_DATA]])
    with_tools = _reachable(start, [*usable, *wanting[_NOT_INSTALLED], *wanting[NEEDS_DATA]])
    there = [
        numerics
        for numerics in Numerics
        if any(state.satisfies(msgspec.structs.replace(goal, numerics=numerics)) for state in with_data)
    ]
    target = goal.format + (f" ({goal.form})" if goal.form else "")
    offered = f"{target} is offered for this model in {', '.join(item.value for item in there)}"
    codes: set[str] = set()
    if any(state.satisfies(goal) for goal in goals for state in ahead):
        codes = {"option-not-carried-out"}
    elif any(state.satisfies(goal) for goal in goals for state in with_data):
        codes = {NEEDS_DATA}
    elif any(state.satisfies(goal) for goal in goals for state in with_tools):
        codes = {_NOT_INSTALLED}
    said = [remark for remark in left_out.values() if not codes or remark.code in codes]
    # that no device is here is seldom the cause, where other edges need none
    shared = Counter([remark for remark in said if remark.code != _NO_DEVICE] or said)
    if shared:
        cause, _ = shared.most_common(1)[0]
    else:
        cause = Remark("left-out", "not-offered", f"nothing installed writes it in {goal.numerics.value}")
    if start.numerics.is_quantized and not goal.numerics.is_quantized:  # what integers lost, no other word brings back
        offered = f"{FROM_FLOAT}; {offered}" if there else FROM_FLOAT
    otherwise = FROM_FLOAT if start.numerics.is_quantized else "`hub plugins` shows what is installed"
    hint = cause.hint or (offered if there else otherwise)
    error = NoRouteError(f"no route from {start} to {goal}: {cause.text}", hint=hint)
    error.details = {"left_out": left_out, "offered": there}
    return error


def _reachable(start: State, steps: Iterable[Step]) -> set[State]:
    """States that steps lead to, the start left out."""
    found: set[State] = {start}
    size = 0
    while size != len(found):
        size = len(found)
        found |= {step.target for step in steps if step.source in found}
    return found - {start}


def _able(registry: Registry, option: str) -> str:
    able = dict.fromkeys(edge.title or edge.id for edge in registry.edges.values() if option in edge.honours)
    return ", ".join(able) or "nothing installed"
