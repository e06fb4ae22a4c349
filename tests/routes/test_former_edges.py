"""Ids of edges in old receipts, expectations and `--avoid` still mean an edge."""

from __future__ import annotations

from pathlib import Path

from hub._plugins import Registry


def test_every_id_of_the_180_edges_that_were_listed_once_still_means_one() -> None:
    """Edges are added since; none of those is lost."""
    registry = Registry()
    listed = (Path(__file__).parent / "former_edges.txt").read_text().split()
    assert {registry.former.get(name, name) for name in listed} <= set(registry.edges)
