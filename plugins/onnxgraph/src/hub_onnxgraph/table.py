"""The table from an operator, of ONNX or of another format, to the function that translates it.

The signature of such a function is its contract, and both `unsupported_operators` and the walker read it:

* positional parameters are the operator's inputs, in order; one with a default may be absent, `*name` is variadic
  (`*name: X | None` with gaps);
* keyword-only parameters are the attributes understood; one without a default is required; one that is annotated with
  a subclass of `Attributes` stands for the fields of that class, which several operators have in common;
* a first parameter called `node` receives the node's `NodeContext`.

An attribute or an input that the signature does not name is refused, never ignored.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from importlib import import_module
from importlib.resources import files
from typing import Any, Protocol, TypeVar

Handler = Callable[..., Any]
AnyHandler = TypeVar("AnyHandler", bound=Handler)


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes that several operators, or several importers, understand alike, under the standard's own names."""


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

    def scalar(self, value: Any, what: str) -> Any:
        """Return a constant of one element as a Python number.

        Raises:
            Refused: It is not known at import time, or has not exactly one element.
        """

    def constant(self, array: Any) -> Any:
        """Return a numpy array as a constant of the importer's."""


@dataclass(frozen=True, slots=True)
class Operator:
    """What a row of the table holds: an operator's function with its contract."""

    name: str
    domain: str
    handler: Handler
    required_inputs: tuple[bool, ...]
    variadic: bool
    gaps: bool
    attributes: dict[str, bool]
    groups: dict[str, type[Attributes]]
    wants_node: bool

    @classmethod
    def of(cls, name: str, handler: Handler, domain: str = "") -> Operator:
        """Read a function's signature as its contract."""
        parameters = list(inspect.signature(handler).parameters.values())
        wants_node = bool(parameters) and parameters[0].name == "node"
        inputs = [p for p in parameters[wants_node:] if p.kind is p.POSITIONAL_OR_KEYWORD]
        rest = [str(p.annotation) for p in parameters if p.kind is p.VAR_POSITIONAL]
        named = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
        groups = {name: group for name, p in named.items() if (group := _group(handler, p.annotation))}
        inner = {f.name: f.default is MISSING for group in groups.values() for f in fields(group)}
        return cls(
            name=name,
            domain=domain,
            handler=handler,
            required_inputs=tuple(p.default is p.empty for p in inputs),
            variadic=bool(rest),
            gaps=any("None" in annotation for annotation in rest),
            attributes=inner | {name: p.default is p.empty for name, p in named.items() if name not in groups},
            groups=groups,
            wants_node=wants_node,
        )

    def __call__(self, arguments: Sequence[Any], attributes: dict[str, Any]) -> Any:
        """Call the function, for a node that fits its contract."""
        rest = dict(attributes)
        for name, group in self.groups.items():
            rest[name] = group(**{f.name: rest.pop(f.name) for f in fields(group) if f.name in rest})
        return self.handler(*arguments, **rest)

    def mismatch(self, inputs: Sequence[bool], attributes: Iterable[str]) -> str | None:
        """Say why a node with these inputs (present or not) and attributes does not fit, or None when it does."""
        given = set(attributes)
        unknown = sorted(given - self.attributes.keys())
        missing = sorted(name for name, required in self.attributes.items() if required and name not in given)
        if unknown:
            return f"attribute {', '.join(unknown)} is not implemented"
        if missing:
            return f"attribute {', '.join(missing)} is missing"
        known = len(self.required_inputs)
        if len(inputs) > known and not self.variadic:
            return f"{len(inputs)} inputs, {known} are implemented"
        absent = [i for i, required in enumerate(self.required_inputs) if required and not any(inputs[i : i + 1])]
        absent += [i for i in range(known, len(inputs)) if self.variadic and not self.gaps and not inputs[i]]
        return f"input {absent[0]} is absent" if absent else None


def _group(handler: Handler, annotation: object) -> type[Attributes] | None:
    """The class of attributes that a parameter is annotated with, as itself or as text."""
    found = getattr(handler, "__globals__", {}).get(annotation) if isinstance(annotation, str) else annotation
    return found if isinstance(found, type) and issubclass(found, Attributes) else None


class Table:
    """The rows of one importer: an operator's function at each of its versions.

    Args:
        package: Package whose modules hold the operator functions, each registered under a name that stands in its
            module as a string. A module is imported when an operator that it names is looked up.
        base: A table whose rows hold for every operator that has none here.
    """

    def __init__(self, package: str, base: Table | None = None) -> None:
        self._package = package
        self._base = base
        self._rows: dict[tuple[str, str], dict[int, Operator]] = {}

    @cached_property
    def _homes(self) -> dict[str, list[str]]:
        """Each quoted word in the package's source, with the modules not yet imported for it.

        Reading the words takes milliseconds; importing all modules to look one operator up took 0.2 s.
        """
        homes: dict[str, list[str]] = {}
        for file in sorted(files(self._package).iterdir(), key=lambda file: file.name):
            if file.name.endswith(".py") and file.name != "__init__.py":
                for word in set(re.findall(r'"(\w+)"', file.read_text(encoding="utf-8"))):
                    homes.setdefault(word, []).append(f"{self._package}.{file.name.removesuffix('.py')}")
        return homes

    def op(self, name: str, *versions: int, domain: str = "") -> Callable[[AnyHandler], AnyHandler]:
        """Register the decorated function for an operator at these versions; at version 1 when none is given.

        Raises:
            ValueError: One of these versions has a function already, or a look-up would not find this one.
        """

        def register(handler: AnyHandler) -> AnyHandler:
            home = handler.__module__
            if home.startswith(f"{self._package}.") and home not in self._homes.get(name, ()):
                raise ValueError(f"{home} registers {name}, and nowhere says {name!r} in double quotes")
            rows = self._rows.setdefault((domain, name), {})
            for version in versions or (1,):
                if version in rows:
                    raise ValueError(
                        f"{name} version {version} has two functions: {rows[version].handler.__module__}."
                        f"{rows[version].handler.__name__} and {home}.{handler.__name__}"
                    )
                rows[version] = Operator.of(name, handler, domain)
            return handler

        return register

    @property
    def rows(self) -> dict[tuple[str, str], dict[int, Operator]]:
        """All rows but those of the base, by (domain, operator), with every module loaded."""
        for module in sorted({module for modules in self._homes.values() for module in modules}):
            import_module(module)
        return self._rows

    def has(self, name: str, domain: str = "") -> bool:
        """Whether there is a function for an operator, at whatever version."""
        for module in self._homes.get(name, ()):
            import_module(module)
        return (domain, name) in self._rows or (self._base is not None and self._base.has(name, domain))

    def find(self, name: str, version: int = 1, domain: str = "") -> Operator | str:
        """Return the function for an operator at a version, or the reason there is none."""
        if not self.has(name, domain):
            return "the operator is not implemented"
        rows = self._rows.get((domain, name), {})
        if not rows and self._base:
            return self._base.find(name, version, domain)
        known = ", ".join(map(str, sorted(rows)))
        return rows.get(version) or f"version {version} is not implemented, only {known}"
