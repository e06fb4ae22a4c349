"""A minimum cut: which of two sides each node is on, so that the edges between cost least."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable

NEVER = 1 << 60
"""The capacity of an edge that must not be cut."""


class FlowNetwork:
    """Nodes with edges of integer capacities, between a source side and a sink side."""

    def __init__(self) -> None:
        self._left: defaultdict[Hashable, dict[Hashable, int]] = defaultdict(dict)

    def edge(self, start: Hashable, end: Hashable, capacity: int) -> None:
        """Let it cost `capacity` when `start` is on the source side and `end` is not."""
        self._left[start][end] = self._left[start].get(end, 0) + capacity
        self._left[end].setdefault(start, 0)

    def source_side(self, source: Hashable, sink: Hashable) -> set[Hashable]:
        """Return the nodes on the source side of a cheapest cut (Edmonds and Karp: shortest augmenting paths)."""
        while True:
            parents: dict[Hashable, Hashable] = {source: source}
            queue = deque([source])
            while queue and sink not in parents:
                node = queue.popleft()
                for other, left in self._left[node].items():
                    if left and other not in parents:
                        parents[other] = node
                        queue.append(other)
            if sink not in parents:
                return set(parents)
            path, node = [], sink
            while node != source:
                path.append((parents[node], node))
                node = parents[node]
            flow = min(self._left[start][end] for start, end in path)
            for start, end in path:
                self._left[start][end] -= flow
                self._left[end][start] += flow
