"""The planner: deterministic, fewest lossy steps first, and every edge that is left out has its reason."""

import itertools
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub._goals import refuse_quantizing_twice
from hub._plugins import Registry
from hub._routing import FROM_FLOAT, MAX_ROUTES, Plan, make_plan, simple_routes
from hub._steps import READ_AS_COST, Step, steps_of
from hub.spec import (
    ANY,
    KEEP,
    PREPARED,
    STATIC,
    YES,
    Accepts,
    AlreadyQuantized,
    ConvertJob,
    ConvertOptions,
    Edge,
    Expectation,
    ExpectationKind,
    Gives,
    ModelSummary,
    NoRouteError,
    Numerics,
    Remark,
    Signature,
    State,
    StepOutput,
    Support,
    UnknownName,
    Verdict,
)

A, B, C, D = (State(format=name) for name in "abcd")


class Told:
    """A format of which only the numerics matter."""

    requires = ()
    numerics = tuple(item for item in Numerics if item is not Numerics.FP8)


def left_out(found: Plan) -> dict[str, str]:
    return {edge_id: remark.text for edge_id, remark in found.left_out.items()}


def nothing(job: ConvertJob) -> StepOutput:
    """Planning runs no step."""
    raise AssertionError(job)


def edge(name: str, source: State, target: State, verdict: Verdict = YES, **more: Any) -> Edge:
    """An edge of this test, between two single states."""
    return Edge(
        id=name,
        accepts=(Accepts(format=source.format, form=source.form, numerics=(source.numerics,)),),
        gives=Gives(format=target.format, form=target.form, numerics=target.numerics),
        convert=nothing,
        check=lambda summary, options: verdict if summary and options else YES,
        **more,
    )


def steps(edges: Iterable[Edge]) -> tuple[Step, ...]:
    """The steps of edges between the formats of this test."""
    return steps_of(edges, dict.fromkeys("abcd", Told()))  # type: ignore[arg-type] the numerics of a format are all


def ids(routes: Iterable[tuple[Step, ...]]) -> list[list[str]]:
    """The routes by edge ids."""
    return [[step.edge.id for step in route] for route in routes]


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
    assert ids(simple_routes(steps(edges), A, D)) == expected
    assert ids(simple_routes(steps(reversed(edges)), A, D)) == expected


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
    assert ids(simple_routes(steps(edges), A, own)) == expected


def test_no_state_is_visited_twice() -> None:
    edges = [edge("t.ab", A, B), edge("t.ba", B, A), edge("t.bb", B, B), edge("t.bc", B, C)]
    assert ids(simple_routes(steps(edges), A, C)) == [["t.ab", "t.bc"]]


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
    routes = list(simple_routes(steps(edges), A, D))
    shuffled = edges[:]
    random.shuffle(shuffled)
    assert list(simple_routes(steps(shuffled), A, D)) == routes
    ranks = [
        (
            sum(step.edge.lossy for step in route),
            sum(step.edge.lossy and step.target.format != "d" for step in route),
            sum(step.cost for step in route),
            [(step.edge.id, step.target) for step in route],
        )
        for route in routes
    ]
    assert ranks == sorted(ranks)
    for route in routes:
        assert route[0].source == A
        assert route[-1].target == D
        visited = [A, *(item.target for item in route)]
        assert len(set(visited)) == len(visited)
        assert all(one.target == two.source for one, two in itertools.pairwise(route))
    ways = {tuple((step.edge.id, step.source, step.target) for step in route) for route in routes}
    assert len(ways) == len(routes)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry in which nothing is installed."""
    monkeypatch.setattr("hub._plugins._entry_points", list)
    empty = Registry()
    empty.__dict__["expectations"] = ()
    empty.__dict__["formats"] = dict.fromkeys("abcd", Told())
    return empty


def plan(
    registry: Registry,
    *edges: Edge,
    data: bool = False,
    goals: tuple[State, ...] = (D,),
    avoid: tuple[str, ...] = (),
    options: ConvertOptions | None = None,
    start: State = A,
) -> Plan:
    """Plan from a state."""
    for name in ("edges", "former", "steps"):
        registry.__dict__.pop(name, None)
    registry.__dict__["edges"] = {item.id: item for item in edges}
    summary = ModelSummary(state=start, signature=Signature(inputs=(), outputs=()), operators={"LSTM": 1})
    return make_plan(registry, summary, goals, options or ConvertOptions(), data=data, avoid=avoid)


GOOD = edge("t.good", A, D)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (edge("t.bad", A, D, requires=("no-such-library>=2",)), "not installed: no-such-library>=2"),
        (edge("t.bad", A, D, requires=("numpy<1",)), "not installed: numpy<1"),
        (
            edge("t.bad", A, D, needs_device="cuda"),
            "needs a cuda device: no installed runtime knows the device cuda",
        ),
        (edge("t.bad", A, D, needs_calibration=True), "fp32 needs data"),
    ],
)
def test_what_an_edge_needs_is_the_reason_for_leaving_it_out(registry: Registry, bad: Edge, reason: str) -> None:
    found = plan(registry, GOOD, bad)
    assert ids(found.routes) == [["t.good"]]
    assert left_out(found) == {"t.bad": reason}


@pytest.mark.parametrize("support", [Support.NOTIMPL, Support.NOTYET, Support.NEVER, Support.UNKNOWN])
def test_only_yes_is_yes(registry: Registry, support: Support) -> None:
    found = plan(registry, GOOD, edge("t.bad", A, D, Verdict(support=support, reason="because")))
    assert found.left_out == {"t.bad": Remark("left-out", "edge-refuses", "because")}


def test_a_model_that_is_not_there_yet_is_not_asked_about(registry: Registry) -> None:
    later = edge("t.later", B, D, Verdict(support=Support.NEVER, reason="of the first model"))
    found = plan(registry, edge("t.first", A, B), later)
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
    found = plan(registry, GOOD, edge("t.bad", A, D))
    assert left_out(found) == ({"t.bad": f"{kind.value}: it dies"} if avoided else {})


def test_an_edge_to_a_format_that_nobody_reads_is_left_out(registry: Registry) -> None:
    assert plan(registry, GOOD, edge("t.bad", A, State(format="unread"))).left_out == {}
    with pytest.raises(NoRouteError, match="no route from a/fp32 to unread/fp32: no plugin reads unread") as caught:
        plan(registry, edge("t.bad", A, State(format="unread")), goals=(State(format="unread"),))
    assert caught.value.hint == "pip install hub-unread"


def test_what_is_not_installed_is_the_cause_where_it_alone_opens_a_way(registry: Registry) -> None:
    refuses = edge("t.another", A, B, Verdict(support=Support.NEVER, reason="not for this model"))
    absent = edge("t.builder", B, D, requires=("no-such-builder>=2",))
    with pytest.raises(NoRouteError, match="not installed: no-such-builder>=2") as caught:
        plan(registry, refuses, edge("t.way", A, B), absent)
    assert caught.value.hint == "pip install 'no-such-builder>=2'"


def test_an_edge_that_adopts_takes_narrow_models_of_the_user_alone(registry: Registry) -> None:
    """Planted: another backend's integers, made on the way, would be tried behind every quantizer that failed."""
    narrow, goal = (msgspec.structs.replace(state, numerics=Numerics.INT8) for state in (B, C))
    quantizer, taker = edge("t.quantize", A, narrow, lossy=True), edge("t.adopt", narrow, goal, adopts=True)
    with pytest.raises(NoRouteError, match="nothing installed writes it in int8"):
        plan(registry, quantizer, taker, goals=(goal,))
    assert ids(plan(registry, quantizer, taker, goals=(goal,), start=narrow).routes) == [["t.adopt"]]


def test_an_edge_that_the_user_avoids_is_left_out(registry: Registry) -> None:
    offer = (GOOD, edge("t.bad", A, D))
    assert left_out(plan(registry, *offer, avoid=("t.bad",))) == {"t.bad": "avoided on request"}
    with pytest.raises(UnknownName, match=r"no edge .t\.bat. to avoid") as caught:
        plan(registry, *offer, avoid=("t.bat",))
    assert "t.bad" in caught.value.hint


def test_no_route_says_why(registry: Registry) -> None:
    quantizer = edge("t.quantize", A, State(format="d", numerics=Numerics.INT8), needs_calibration=True)
    with pytest.raises(NoRouteError) as caught:
        plan(registry, quantizer, goals=(State(format="d", numerics=Numerics.INT8),))
    assert caught.value.exit_status == 3
    assert caught.value.message == "no route from a/fp32 to d/int8: int8 needs data"
    assert caught.value.hint == "add --calibration DATA"
    assert caught.value.details["left_out"].keys() == {"t.quantize"}


def test_no_route_names_the_one_reason_that_most_edges_share_and_what_is_offered(registry: Registry) -> None:
    wanted = State(format="d", numerics=Numerics.INT8)
    lstm, size = (Verdict(support=Support.NEVER, reason=reason) for reason in ("it holds LSTM", "it is too large"))
    offer = (GOOD, edge("t.one", A, wanted, size), edge("t.two", A, wanted, lstm), edge("t.three", A, wanted, lstm))
    with pytest.raises(NoRouteError) as caught:
        plan(registry, *offer, goals=(wanted,))
    assert caught.value.message == "no route from a/fp32 to d/int8: it holds LSTM"
    assert caught.value.hint == "d is offered for this model in fp32"
    assert {edge: remark.text for edge, remark in caught.value.details["left_out"].items()} == {
        "t.one": "it is too large",
        "t.three": "it holds LSTM",
        "t.two": "it holds LSTM",
    }


def test_no_route_to_a_precision_that_nobody_writes_asks_for_no_data(registry: Registry) -> None:
    quantizer = edge("t.quantize", A, State(format="d", numerics=Numerics.INT8), needs_calibration=True)
    with pytest.raises(NoRouteError) as caught:
        plan(registry, GOOD, quantizer, goals=(State(format="d", numerics=Numerics.FP16),))
    assert caught.value.message == "no route from a/fp32 to d/fp16: nothing installed writes it in fp16"
    assert caught.value.hint == "d is offered for this model in fp32, int8"


def test_what_integers_lost_is_asked_for_in_float(registry: Registry) -> None:
    start, end = (State(format=name, numerics=Numerics.INT8) for name in "ad")
    with pytest.raises(NoRouteError) as caught:
        plan(registry, edge("t.keep", start, end), start=start, goals=(State(format="d", numerics=Numerics.FP16),))
    assert caught.value.hint == f"{FROM_FLOAT}; d is offered for this model in int8"


def test_a_quantized_model_whose_precision_the_target_lacks_is_to_be_given_in_float(registry: Registry) -> None:
    start, wanted = (State(format=name, numerics=Numerics.INT8_DYNAMIC) for name in "ad")
    with pytest.raises(NoRouteError) as caught:
        plan(registry, GOOD, start=start, goals=(wanted,))
    assert caught.value.message.endswith("to d/int8-dynamic: nothing installed writes it in int8-dynamic")
    assert caught.value.hint == FROM_FLOAT
    refuse_quantizing_twice(start.numerics, wanted.numerics, caught.value)  # none was asked for twice
    with pytest.raises(AlreadyQuantized):
        refuse_quantizing_twice(start.numerics, Numerics.INT8, caught.value)


def test_a_quantized_model_is_taken_to_float_and_not_quantized_again(registry: Registry) -> None:
    start, goal = State(format="a", numerics=Numerics.INT8_DYNAMIC), State(format="d", numerics=Numerics.INT8)
    offer = (edge("t.float", start, A, adopts=True), edge("t.good", A, D), edge("t.quantize", D, goal, lossy=True))
    assert ids(plan(registry, *offer, start=start).routes) == [["t.float", "t.good"]]
    with pytest.raises(NoRouteError) as caught:
        plan(registry, *offer, start=start, goals=(goal,))
    with pytest.raises(AlreadyQuantized) as told:
        refuse_quantizing_twice(start.numerics, goal.numerics, caught.value)
    assert told.value.hint == f"{FROM_FLOAT}; not quantized again, it can be had in fp32"


def test_half_precision_is_not_taken_back_to_float_through_integers(registry: Registry) -> None:
    half, narrow = State(format="a", numerics=Numerics.FP16), State(format="a", numerics=Numerics.INT8)
    offer = (edge("t.quantize", half, narrow, lossy=True), edge("t.float", narrow, D, adopts=True))
    with pytest.raises(NoRouteError):
        plan(registry, *offer, start=half)


def test_the_preferred_goal_comes_first_whatever_it_costs(registry: Registry) -> None:
    pure, mixed = State(format="d", numerics=Numerics.INT8), State(format="d", numerics=Numerics.INT8_MIXED)
    offer = (edge("t.pure", A, pure, cost=9), edge("t.mixed", A, mixed, cost=1))
    assert ids(plan(registry, *offer, goals=(pure, mixed)).routes) == [["t.pure"], ["t.mixed"]]


def test_the_number_of_routes_is_bounded(registry: Registry) -> None:
    many = [edge(f"t.{number:02d}", A, D) for number in range(40)]
    assert len(plan(registry, *many).routes) == MAX_ROUTES


def test_an_engine_that_costs_more_is_reached_although_many_routes_begin_with_the_cheapest(registry: Registry) -> None:
    """Sixteen routes that all begin with an edge that fails on the model are one try."""
    many = [edge(f"t.{number:02d}", B, D) for number in range(40)]
    found = ids(
        plan(registry, edge("t.exporter", A, B), *many, edge("t.other", A, C), edge("t.last", C, D, cost=90)).routes
    )
    assert len(found) == MAX_ROUTES
    assert found[6] == ["t.other", "t.last"]
    assert [route[0] for route in found] == ["t.exporter"] * 6 + ["t.other"] + ["t.exporter"] * 9


def test_a_plan_is_the_same_every_time(registry: Registry) -> None:
    offer = [edge(f"t.{number}", A, B if number % 2 else D, lossy=number == 3) for number in range(6)]
    first = plan(registry, GOOD, *offer)
    assert all(plan(registry, GOOD, *offer) == first for _ in range(4))


def test_routes_that_keep_dimensions_open_come_first_where_one_is() -> None:
    fixing = edge("t.fixing", A, D, cost=0.1)
    keeping = msgspec.structs.replace(edge("t.keeping", A, D), keeps_dynamic=True)
    assert ids(simple_routes(steps([fixing, keeping]), A, D)) == [["t.fixing"], ["t.keeping"]]
    first = next(simple_routes(steps([fixing, keeping]), A, D, keep_dynamic=ConvertOptions()))
    assert ids([first]) == [["t.keeping"]]


def test_what_a_later_edge_says_of_the_unprepared_model_is_a_doubt(registry: Registry) -> None:
    prepared = State(format=A.format, form=PREPARED)
    lacking = edge("t.bad", prepared, D, Verdict(support=Support.NOTIMPL, reason="it lacks Loop"))
    found = plan(registry, edge("t.good", A, prepared), lacking)
    assert ids(found.routes) == [["t.good", "t.bad"]]
    assert found.doubts == {"t.bad": Remark("doubt", "edge-refuses", "it lacks Loop")}


def test_many_routes_to_the_first_goal_leave_room_for_the_second(registry: Registry) -> None:
    many = [edge(f"t.{number:02d}", A, D) for number in range(MAX_ROUTES + 4)]
    found = plan(registry, *many, edge("t.other", A, C), goals=(D, C))
    ends = [route[-1].target for route in found.routes]
    assert ends == [D] * 3 + [C]


QUANTIZED = State(format="d", numerics=Numerics.INT8)


def test_one_edge_stands_for_every_form_that_satisfies_its_least() -> None:
    least = Edge(id="t.from", accepts=(Accepts(format="a", form=PREPARED),), gives=Gives(format="d"), convert=nothing)
    fixing, opening = (edge(f"t.{form}", A, State(format="a", form=form)) for form in (STATIC, PREPARED))
    assert ids(simple_routes(steps([least, fixing, opening]), A, D)) == [
        ["t.prepared", "t.from"],
        ["t.static", "t.from"],
    ]
    assert not ids(simple_routes(steps([least]), A, D))


def test_what_is_prepared_is_not_prepared_again() -> None:
    fixing, opening = (edge(f"t.{form}", A, State(format="a", form=form)) for form in (STATIC, PREPARED))
    taken = {(step.source.form, step.target.form) for step in steps([fixing, opening])}
    assert taken == {("", STATIC), ("", PREPARED)}


def test_an_edge_that_keeps_the_numerics_leads_from_each_to_itself() -> None:
    keeping = Edge(
        id="t.keep",
        accepts=(Accepts(format="a", numerics=ANY),),
        gives=Gives(format="b", numerics=KEEP),
        convert=nothing,
    )
    pairs = {(step.source.numerics, step.target.numerics) for step in steps([keeping])}
    assert pairs == {(item, item) for item in Numerics if item is not Numerics.FP8}, "no reader tells fp8"


def test_a_result_may_be_read_as_something_else(registry: Registry) -> None:
    reading = Edge(
        id="t.read",
        accepts=(Accepts(format="a", numerics=ANY),),
        gives=Gives(format="d", numerics=KEEP, read_as={Numerics.FP32: Numerics.INT8}),
        convert=nothing,
    )
    first, second = sorted((step for step in steps([reading]) if step.source == A), key=lambda step: step.cost)
    assert (first.target, second.target, second.cost - first.cost) == (D, QUANTIZED, READ_AS_COST)
    assert first.ended_in(Numerics.INT8) == QUANTIZED
    assert first.ended_in(Numerics.FP16) is None
    assert ids(plan(registry, reading, goals=(D, QUANTIZED)).routes) == [["t.read"]], "it is run once"


def test_a_step_goes_on_from_where_the_one_before_it_ended() -> None:
    keeping = Edge(
        id="t.keep",
        accepts=(Accepts(format="a", numerics=(Numerics.INT8, Numerics.INT8_MIXED)),),
        gives=Gives(format="d", numerics=KEEP),
        convert=nothing,
    )
    planned = next(step for step in steps([keeping]) if step.target == QUANTIZED)
    other = planned.starting_from(State(format="a", numerics=Numerics.INT8_MIXED))
    assert other is not None
    assert other.target == State(format="d", numerics=Numerics.INT8_MIXED)
    assert planned.starting_from(A) is None


ASKED = ConvertOptions(io_dtype="int8", constants={"x": 1})


def test_an_option_that_nobody_carries_out_leaves_no_route(registry: Registry) -> None:
    with pytest.raises(NoRouteError) as caught:
        plan(registry, GOOD, edge("t.half", A, D, honours=("constants",)), options=ASKED)
    assert caught.value.message.endswith("nothing on the way carries out --constant x=1, --io-dtype int8")
    assert caught.value.details["left_out"].keys() == {"t.good", "t.half"}
    assert caught.value.hint == "--constant is carried out by t.half; --io-dtype is carried out by nothing installed"


def test_several_edges_may_carry_out_what_is_asked_for(registry: Registry) -> None:
    edges = [
        edge("t.first", A, B, honours=("io_dtype",)),
        edge("t.second", B, D, honours=("constants",)),
        edge("t.plain", B, D),
    ]
    found = plan(registry, GOOD, *edges, options=ASKED)
    assert ids(found.routes) == [["t.first", "t.second"]]
    assert set(found.left_out) == {"t.good", "t.plain"}


def test_an_edge_that_refuses_the_model_as_it_is_may_take_it_prepared(registry: Registry) -> None:
    fixing = edge("t.prepare", A, State(format="a", form=STATIC))
    choosy = edge("t.choosy", A, D, Verdict(support=Support.NOTIMPL, reason="t.prepare sets shapes"))
    found = plan(registry, fixing, choosy)
    assert ids(found.routes) == [["t.prepare", "t.choosy"]]
    assert found.left_out == {}
    assert found.doubts == {"t.choosy": Remark("doubt", "edge-refuses", "t.prepare sets shapes")}


def test_an_edge_is_known_by_its_former_ids(registry: Registry) -> None:
    renamed = edge("t.new", A, D, formerly=("t.old",))
    assert left_out(plan(registry, GOOD, renamed, avoid=("t.old",))) == {"t.new": "avoided on request"}
    gap = Expectation(edge="t.old", kind=ExpectationKind.NEVER, reason="it dies")
    registry.__dict__["expectations"] = (gap,)
    assert left_out(plan(registry, GOOD, renamed)) == {"t.new": "never: it dies"}


def test_a_declared_gap_may_hang_on_the_numerics(registry: Registry) -> None:
    for numerics, avoided in ((Numerics.INT8, False), (Numerics.FP32, True)):
        gap = Expectation(edge="t.bad", kind=ExpectationKind.NEVER, reason="it dies", numerics=(numerics,))
        registry.__dict__["expectations"] = (gap,)
        assert bool(plan(registry, GOOD, edge("t.bad", A, D)).left_out) is avoided
