"""Ids of edges in old receipts, expectations and `--avoid` still mean an edge."""

from __future__ import annotations

import re
from pathlib import Path

from docs import roads
from hub._plugins import Registry

ROOT = Path(__file__).parents[2]


def test_every_id_of_the_180_edges_that_were_listed_once_still_means_one() -> None:
    """Edges are added since; none of those is lost."""
    registry = Registry()
    listed = (Path(__file__).parent / "former_edges.txt").read_text().split()
    assert {registry.former.get(name, name) for name in listed} <= set(registry.edges)


def test_pages_name_the_edges_of_today() -> None:
    registry = Registry()
    once = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, registry.former))})(?![\w-])")
    named = re.compile(r"(?:--avoid|Tried) ([a-z][a-z0-9]*\.[a-z0-9-]+)")
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").glob("*.json")):
        text = page.read_text()
        assert set(once.findall(text)) == set(), page
        assert set(named.findall(text)) <= set(registry.edges), page


def test_the_page_of_roads_names_the_engines_of_today() -> None:
    titles = {edge.title for edge in Registry().edges.values()}
    cells = [cell for row in roads.kept().values() for cell in row.values()]
    assert {title for cell in cells for title in cell.engines} <= titles
    assert roads.PAGE.read_text() == roads.render(roads.kept())
