"""The planner: deterministic, fewest lossy steps first, and every edge that is left out has its reason."""

import itertools
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub._plugins import Registry
from hub._routing import MAX_ROUTES, make_plan, simple_routes
from hub.spec import (
    ConvertOptions,
    Edge,
    Expectation,
    ExpectationKind,
    ModelSummary,
    NoRouteError,
    Numerics,
    Signature,
    State,
    Support,
    UnknownName,
    Verdict,
)

A, B, C, D = (State(format=name) for name in "abcd")


def edge(name: str, source: State, target: State, **more: Any) -> Edge:
    """An edge of this test."""
    return Edge(id=name, source=source, target=target, **more)


def ids(routes: Iterable[tuple[Edge, ...]]) -> list[list[str]]:
    """The routes by edge ids."""
    return [[item.id for item in route] for route in routes]


def test_fewest_lossy_steps_then_cost_then_name() -> None:
    edges = [
        edge("t.lossy", A, D, lossy=True, cost=0.1),
        edge("t.far", A, B),
        edge("t.farther", B, D),
        edge("t.costly", A, D, cost=5),
        edge("t.b", A, D, cost=2),
        edge("t.a", A, D, cost=2),
    ]
    expected = [["t.a"], ["t.b"], ["t.far", "t.farther"], ["t.costly"], ["t.lossy"]]
    assert ids(simple_routes(edges, A, D)) == expected
    assert ids(simple_routes(reversed(edges), A, D)) == expected


def test_a_backends_own_quantization_comes_before_one_that_is_carried_over() -> None:
    own, foreign = (State(format=name, numerics=Numerics.INT8) for name in "ab")
    edges = [
        edge("t.abroad", A, foreign, lossy=True, cost=0.1),
        edge("t.over", B, State(format="b", numerics=Numerics.INT8), lossy=True, cost=0.1),
        edge("t.back", foreign, own, cost=0.1),
        edge("t.to-b", A, B, cost=0.1),
        edge("t.own", A, own, lossy=True, cost=9),
    ]
    expected = [["t.own"], ["t.abroad", "t.back"], ["t.to-b", "t.over", "t.back"]]
    assert ids(simple_routes(edges, A, own)) == expected


def test_no_state_is_visited_twice() -> None:
    edges = [edge("t.ab", A, B), edge("t.ba", B, A), edge("t.bb", B, B), edge("t.bc", B, C)]
    assert ids(simple_routes(edges, A, C)) == [["t.ab", "t.bc"]]


STATES = st.sampled_from([A, B, C, D, State(format="a", numerics=Numerics.INT8), State(format="a", form="static")])
EDGES = st.lists(
    st.tuples(STATES, STATES, st.booleans(), st.sampled_from([0.5, 1.0, 2.0])), max_size=12
).map(
    lambda rows: [
        edge(f"t.{number:02d}", source, target, lossy=lossy, cost=cost)
        for number, (source, target, lossy, cost) in enumerate(rows)
    ]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(edges=EDGES, random=st.randoms())
def test_routes_are_ordered_simple_and_do_not_hang_on_the_order_of_the_offer(edges: list[Edge], random: Any) -> None:
    routes = list(simple_routes(edges, A, D))
    shuffled = edges[:]
    random.shuffle(shuffled)
    assert list(simple_routes(shuffled, A, D)) == routes
    ranks = [
        (sum(e.lossy for e in r), sum(e.lossy and e.target.format != "d" for e in r), sum(e.cost for e in r), names)
        for r, names in zip(routes, ids(routes), strict=True)
    ]
    assert ranks == sorted(ranks)
    for route in routes:
        assert route[0].source == A
        assert route[-1].target == D
        visited = [A, *(item.target for item in route)]
        assert len(set(visited)) == len(visited)
        assert all(one.target == two.source for one, two in itertools.pairwise(route))
    assert len({tuple(e.id for e in route) for route in routes}) == len(routes)


class Offer:
    """A converter with the edges that a test gives it."""

    toolchains = ()

    def __init__(self, *edges: Edge, verdict: Verdict | None = None) -> None:
        self.edges = edges
        self._verdict = Verdict(support=Support.YES) if verdict is None else verdict

    def check(self, edge: Edge, summary: ModelSummary, options: ConvertOptions) -> Verdict:
        """Give the test's verdict."""
        del edge, summary, options
        return self._verdict


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry in which nothing is installed."""
    monkeypatch.setattr("hub._plugins._entry_points", list)
    empty = Registry()
    empty.__dict__["expectations"] = ()
    empty.__dict__["formats"] = dict.fromkeys("abcd")
    return empty


def plan(
    registry: Registry, *offers: Offer, data: bool = False, goals: tuple[State, ...] = (D,), avoid: tuple[str, ...] = ()
) -> Any:
    """Plan from state A."""
    registry.__dict__["edges"] = {item.id: (item, offer) for offer in offers for item in offer.edges}
    summary = ModelSummary(state=A, signature=Signature(inputs=(), outputs=()), operators={"LSTM": 1})
    return make_plan(registry, summary, goals, ConvertOptions(), data=data, avoid=avoid)


GOOD = edge("t.good", A, D)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (edge("t.bad", A, D, requires=("no-such-library>=2",)), "unknown: not installed: no-such-library>=2"),
        (edge("t.bad", A, D, requires=("numpy<1",)), "unknown: not installed: numpy<1"),
        (edge("t.bad", A, D, needs_device="cuda"), "unknown: needs a cuda device"),
        (edge("t.bad", A, D, needs_calibration=True), "unknown: needs --calibration"),
    ],
)
def test_what_an_edge_needs_is_the_reason_for_leaving_it_out(registry: Registry, bad: Edge, reason: str) -> None:
    found = plan(registry, Offer(GOOD, bad))
    assert ids(found.routes) == [["t.good"]]
    assert found.left_out == {"t.bad": reason}


@pytest.mark.parametrize("support", [Support.NOTIMPL, Support.NOTYET, Support.NEVER, Support.UNKNOWN])
def test_only_yes_is_yes(registry: Registry, support: Support) -> None:
    found = plan(registry, Offer(GOOD), Offer(edge("t.bad", A, D), verdict=Verdict(support=support, reason="because")))
    assert found.left_out == {"t.bad": f"{support.value}: because"}


def test_a_model_that_is_not_there_yet_is_not_asked_about(registry: Registry) -> None:
    later = Offer(edge("t.later", B, D), verdict=Verdict(support=Support.NEVER, reason="of the first model"))
    found = plan(registry, Offer(edge("t.first", A, B)), later)
    assert ids(found.routes) == [["t.first", "t.later"]]


@pytest.mark.parametrize(
    ("kind", "operators", "versions", "avoided"),
    [
        (ExpectationKind.UNSAFE, ("LSTM",), "", True),
        (ExpectationKind.UNSAFE, ("GRU",), "", False),
        (ExpectationKind.NEVER, (), "", True),
        (ExpectationKind.NOTIMPL, (), "numpy>=1", True),
        (ExpectationKind.NOTIMPL, (), "numpy<1", False),
        (ExpectationKind.NOTIMPL, (), "no-such-library<1", False),
        (ExpectationKind.LOSSY, (), "", False),
    ],
)
def test_declared_gaps_keep_the_planner_away(
    registry: Registry, kind: ExpectationKind, operators: tuple[str, ...], versions: str, avoided: bool
) -> None:
    gap = Expectation(edge="t.bad", kind=kind, reason="it dies", operators=operators, versions=versions, measured="0.9")
    registry.__dict__["expectations"] = (gap,)
    found = plan(registry, Offer(GOOD, edge("t.bad", A, D)))
    assert found.left_out == ({"t.bad": f"never: {kind.value}: it dies"} if avoided else {})


def test_an_edge_to_a_format_that_nobody_reads_is_left_out(registry: Registry) -> None:
    assert plan(registry, Offer(GOOD, edge("t.bad", A, State(format="unread")))).left_out == {}
    with pytest.raises(NoRouteError, match=r"t\.bad \(unknown: no plugin reads unread\)"):
        plan(registry, Offer(edge("t.bad", A, State(format="unread"))))


def test_an_edge_that_the_user_avoids_is_left_out(registry: Registry) -> None:
    offer = Offer(GOOD, edge("t.bad", A, D))
    assert plan(registry, offer, avoid=("t.bad",)).left_out == {"t.bad": "never: avoided on request"}
    with pytest.raises(UnknownName, match=r"no edge .t\.bat. to avoid") as caught:
        plan(registry, offer, avoid=("t.bat",))
    assert "t.bad" in caught.value.hint


def test_no_route_says_why(registry: Registry) -> None:
    quantizer = edge("t.quantize", A, State(format="d", numerics=Numerics.INT8), needs_calibration=True)
    with pytest.raises(NoRouteError) as caught:
        plan(registry, Offer(quantizer), goals=(State(format="d", numerics=Numerics.INT8),))
    assert caught.value.exit_status == 3
    assert "no route from a/fp32 to d/int8" in caught.value.message
    assert "t.quantize (unknown: needs --calibration)" in caught.value.message
    assert "--calibration DATA" in caught.value.hint


def test_the_preferred_goal_comes_first_whatever_it_costs(registry: Registry) -> None:
    pure, mixed = State(format="d", numerics=Numerics.INT8), State(format="d", numerics=Numerics.INT8_MIXED)
    offer = Offer(edge("t.pure", A, pure, cost=9), edge("t.mixed", A, mixed, cost=1))
    assert ids(plan(registry, offer, goals=(pure, mixed)).routes) == [["t.pure"], ["t.mixed"]]


def test_the_number_of_routes_is_bounded(registry: Registry) -> None:
    many = Offer(*(edge(f"t.{number:02d}", A, D) for number in range(40)))
    assert len(plan(registry, many).routes) == MAX_ROUTES


def test_a_plan_is_the_same_every_time(registry: Registry) -> None:
    offer = Offer(*(edge(f"t.{number}", A, B if number % 2 else D, lossy=number == 3) for number in range(6)), GOOD)
    assert len({msgspec.json.encode(plan(registry, offer)) for _ in range(5)}) == 1


def test_routes_that_keep_dimensions_open_come_first_where_one_is() -> None:
    fixing = edge("t.fixing", A, D, cost=0.1)
    keeping = msgspec.structs.replace(edge("t.keeping", A, D), keeps_dynamic=True)
    assert [route[0].id for route in simple_routes([fixing, keeping], A, D)] == ["t.fixing", "t.keeping"]
    first = next(simple_routes([fixing, keeping], A, D, keep_dynamic=True))
    assert [step.id for step in first] == ["t.keeping"]


def test_what_a_later_edge_says_of_the_unprepared_model_is_a_doubt(registry: Registry) -> None:
    prepared = State(format=A.format, form="prepared")
    lacking = Offer(edge("t.bad", prepared, D), verdict=Verdict(support=Support.NOTIMPL, reason="it lacks Loop"))
    found = plan(registry, Offer(edge("t.good", A, prepared)), lacking)
    assert [[step.id for step in route] for route in found.routes] == [["t.good", "t.bad"]]
    assert found.doubts == {"t.bad": "it lacks Loop"}


def test_many_routes_to_the_first_goal_leave_room_for_the_second(registry: Registry) -> None:
    many = [edge(f"t.{number:02d}", A, D) for number in range(MAX_ROUTES + 4)]
    found = plan(registry, Offer(*many, edge("t.other", A, C)), goals=(D, C))
    ends = [route[-1].target for route in found.routes]
    assert ends == [D] * 3 + [C]
