"""The table from (domain, operator) to the function that translates it.

The signature of such a function is its contract, and both `unsupported_operators` and the walker read it:

* positional parameters are the operator's inputs, in order; one with a default may be absent, `*name` is variadic;
* keyword-only parameters are the attributes understood; one without a default is required;
* a first parameter called `node` receives the node's `NodeContext`.

An attribute or an input that the signature does not name is refused, never ignored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

Handler = Callable[..., Any]


class NodeContext(Protocol):
    """What an operator function may ask about the node it translates."""

    @property
    def version(self) -> int:
        """The operator's since-version under the model's opset."""

    @property
    def outputs(self) -> int:
        """How many outputs the node declares."""

    def run(self, graph: Any, inputs: Sequence[Any]) -> list[Any]:
        """Translate a subgraph in the node's scope and return its outputs."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table: an operator, the since-versions understood, and its function with its contract."""

    name: str
    domain: str
    versions: frozenset[int]
    handler: Handler
    required_inputs: tuple[bool, ...]
    variadic: bool
    attributes: dict[str, bool]
    wants_node: bool

    def mismatch(self, inputs: Sequence[bool], attributes: Iterable[str]) -> str | None:
        """Say why a node with these inputs (present or not) and attributes does not fit, or None when it does."""
        given = set(attributes)
        unknown = sorted(given - self.attributes.keys())
        missing = sorted(name for name, required in self.attributes.items() if required and name not in given)
        if unknown:
            return f"attribute {', '.join(unknown)} is not implemented"
        if missing:
            return f"attribute {', '.join(missing)} is missing"
        return self._input_mismatch(inputs)

    def _input_mismatch(self, inputs: Sequence[bool]) -> str | None:
        known = len(self.required_inputs)
        if len(inputs) > known and not self.variadic:
            return f"{len(inputs)} inputs, {known} are implemented"
        absent = [i for i, required in enumerate(self.required_inputs) if required and not _present(inputs, i)]
        absent += [i for i in range(known, len(inputs)) if not inputs[i]]
        return f"input {absent[0]} is absent" if absent else None


def _present(inputs: Sequence[bool], index: int) -> bool:
    return index < len(inputs) and inputs[index]


class Table:
    """The rows of one importer.

    Args:
        package: Package whose modules hold the operator functions.
        themes: Names of those modules; they are imported when the table is first read.
    """

    def __init__(self, package: str, themes: Sequence[str]) -> None:
        self._modules = tuple(f"{package}.{theme}" for theme in themes)
        self._rows: dict[tuple[str, str], list[Operator]] = {}

    def op(self, name: str, *versions: int, domain: str = "") -> Callable[[Handler], Handler]:
        """Register the decorated function for an operator's since-versions."""

        def register(handler: Handler) -> Handler:
            self._rows.setdefault((domain, name), []).append(operator(name, domain, versions, handler))
            return handler

        return register

    @property
    def rows(self) -> dict[tuple[str, str], list[Operator]]:
        """The whole table, with every theme loaded."""
        for module in self._modules:
            import_module(module)
        return self._rows

    def find(self, domain: str, name: str, version: int) -> Operator | str:
        """Return the row for an operator at a since-version, or the reason there is none."""
        rows = self.rows.get((domain, name))
        if rows is None:
            return "the operator is not implemented"
        found = [row for row in rows if version in row.versions]
        known = sorted({v for row in rows for v in row.versions})
        return found[0] if found else f"version {version} is not implemented, only {', '.join(map(str, known))}"


def operator(name: str, domain: str, versions: Iterable[int], handler: Handler) -> Operator:
    """Read a function's signature as the row's contract."""
    parameters = list(inspect.signature(handler).parameters.values())
    wants_node = bool(parameters) and parameters[0].name == "node"
    inputs = [p for p in parameters[wants_node:] if p.kind is p.POSITIONAL_OR_KEYWORD]
    attributes = {p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY}
    return Operator(
        name=name,
        domain=domain,
        versions=frozenset(versions),
        handler=handler,
        required_inputs=tuple(p.default is p.empty for p in inputs),
        variadic=any(p.kind is p.VAR_POSITIONAL for p in parameters),
        attributes=attributes,
        wants_node=wants_node,
    )
