"""Steps: the edges, each between two single states."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from hub.spec import ANY, PREPARED, STATIC, Accepts, Edge, Format, Gives, Numerics, State, form_satisfies

READ_AS_COST = 0.5
"""What a route costs more on which a file is hoped to be read in other numerics than the expected ones."""


_WIDTH = {Numerics.FP32: 2, Numerics.FP16: 1, Numerics.BF16: 1}


def narrows(before: Numerics, after: Numerics) -> bool:
    """Whether what is computed changes beyond float rounding: from float32 to half, or from floats to integers."""
    return _WIDTH.get(after, 0) < _WIDTH.get(before, 0)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One edge from one state to one state: what routes are made of."""

    edge: Edge
    source: State
    target: State
    cost: float

    @property
    def title(self) -> str:
        """A few words for a person."""
        return self.edge.title or self.edge.id

    def starting_from(self, state: State) -> "Step | None":
        """This step behind an earlier one that ended in another state than planned; None where it takes no such."""
        if state == self.source:
            return self
        if not self.edge.takes(state):
            return None
        return msgspec.structs.replace(self, source=state, target=self.edge.gives.states(state.numerics)[0])

    def ended_in(self, found: Numerics) -> State | None:
        """The state that the result is in, where its reader finds these numerics; None where the edge gives no such."""
        ends = self.edge.gives.states(self.source.numerics)
        return next((state for state in ends if state.numerics == found), None)


def steps_of(edges: Iterable[Edge], formats: Mapping[str, Format]) -> tuple[Step, ...]:
    """Every step between states that a reader can tell, by edge id.

    An edge to a format without a reader keeps its steps: a plan says what is missing.
    """
    offered = sorted(edges, key=lambda edge: edge.id)
    forms: dict[str, set[str]] = {}
    for edge in offered:
        ends: tuple[Accepts | Gives, ...] = (*edge.accepts, edge.gives)
        for end in ends:
            forms.setdefault(end.format, {""}).add(end.form)
    return tuple(
        Step(edge=edge, source=source, target=target, cost=edge.cost + (READ_AS_COST if index else 0))
        for edge in offered
        for source in _sources(edge, forms, formats)
        for index, target in enumerate(edge.gives.states(source.numerics))
        if _leads_on(source, target) and _is_told(target, formats)
    )


def _sources(edge: Edge, forms: Mapping[str, set[str]], formats: Mapping[str, Format]) -> Iterator[State]:
    found = {state: None for offer in edge.accepts for state in _states(offer, forms, formats)}
    return iter(found)  # two offers may hold the same state


def _states(offer: Accepts, forms: Mapping[str, set[str]], formats: Mapping[str, Format]) -> Iterator[State]:
    if offer.format not in formats:  # nobody can start from there
        return
    told = formats[offer.format].numerics
    for form in sorted(form for form in forms[offer.format] if form_satisfies(form, offer.form)):
        for numerics in told if offer.numerics == ANY else (item for item in offer.numerics if item in told):
            yield State(format=offer.format, numerics=numerics, form=form)


def _leads_on(source: State, target: State) -> bool:
    """Whether a step gets anywhere: what is prepared is not prepared again, in this way or another."""
    ordered = {STATIC, PREPARED}
    again = source.form in ordered and target.form in ordered and source.format == target.format
    return source != target and not again


def _is_told(target: State, formats: Mapping[str, Format]) -> bool:
    return target.format not in formats or target.numerics in formats[target.format].numerics
