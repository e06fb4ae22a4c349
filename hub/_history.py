"""What came of routes on a model before: it puts the ones that went wrong last, and never rules one out."""

from collections.abc import Sequence

import msgspec

from hub._plugins import Registry, source_digest
from hub._requirements import versions_of
from hub._steps import Step
from hub._store import Store, key_of
from hub.spec import ParityPolicy, Remark


class FailedRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route's first edges up to the one that failed, why, by which gate; that edge's tools and plugin, by version."""

    prefix: tuple[str, ...]
    reason: str
    tools: dict[str, str]
    gate: str = ""


class History:
    """The failures on one model.

    Args:
        store: The cache, in whose folder the history lies.
        registry: To tell failures of other versions of the tools, which count no more.
        sha256: The model's.
        gate: What results are judged by: by another one they may be right.
    """

    def __init__(self, store: Store, registry: Registry, sha256: str, gate: ParityPolicy) -> None:
        self._registry = registry
        self._path = store.root / "history" / f"{key_of(sha256)[:32]}.json"
        self._gate = key_of(gate)[:16]
        found = self._read()
        self._others = [item for item in found if item.gate != self._gate]
        self._failures = {item.prefix: item for item in found if item.gate == self._gate}

    def _read(self) -> list[FailedRoute]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[FailedRoute])
        except (OSError, msgspec.DecodeError):  # a history that cannot be read is none
            return []

    def _tools(self, edge_id: str) -> dict[str, str]:
        edge = self._registry.edges[edge_id]
        return versions_of(edge.requires) | {"source": source_digest(self._registry.plugin_of(edge).package)}

    def order(self, routes: Sequence[tuple[Step, ...]]) -> tuple[tuple[tuple[Step, ...], ...], dict[str, Remark]]:
        """Put routes that failed before behind the others with the same goal; say which edges failed, and why."""
        found = [(route, self._failure(route)) for route in routes]
        goals = list(dict.fromkeys(str(route[-1].target) for route in routes))
        found.sort(key=lambda pair: (goals.index(str(pair[0][-1].target)), pair[1] is not None))
        ordered = tuple(route for route, _ in found)
        reasons = {
            failure.prefix[-1]: Remark("doubt", "failed-before", failure.reason) for _, failure in found if failure
        }
        return ordered, reasons if ordered != tuple(routes) else {}

    def _failure(self, route: tuple[Step, ...]) -> FailedRoute | None:
        ids = tuple(step.edge.id for step in route)
        found = (self._failures.get(ids[:length]) for length in range(1, len(ids) + 1))
        return next((item for item in found if item and item.tools == self._tools(item.prefix[-1])), None)

    def failed(self, prefix: tuple[str, ...], reason: str) -> None:
        """Remember a failure."""
        self._failures[prefix] = FailedRoute(
            prefix=prefix, reason=reason[:300], tools=self._tools(prefix[-1]), gate=self._gate
        )
        self._write()

    def passed(self, route: tuple[str, ...]) -> None:
        """Forget failures of a route that is right now."""
        gone = [prefix for prefix in self._failures if route[: len(prefix)] == prefix]
        for prefix in gone:
            del self._failures[prefix]
        if gone:
            self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        staged = self._path.with_suffix(f".{key_of(id(self))[:8]}")
        staged.write_bytes(msgspec.json.encode([*self._others, *self._failures.values()]))
        staged.replace(self._path)
