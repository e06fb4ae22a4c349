"""The documentation site, as `zensical build` made it: the whole contract is on it, and every link leads somewhere.

Run by `tox run -e docs`, which builds the site first.
"""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import hub
import hub.spec
from hub.spec import hooks

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
PAGES = sorted(SITE.rglob("*.html"))
HOOKS = sorted(name for name in vars(hooks) if name.startswith("hub_"))


class _Page(HTMLParser):
    """The anchors of a page and what it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in {"href", "src"} and value:
                self.links.add(value)


@cache
def page(path: Path) -> _Page:
    parser = _Page()
    parser.feed(path.read_text())
    return parser


def _name(path: Path) -> str:
    return str(path.relative_to(SITE))


def test_the_site_is_built_and_whole() -> None:
    pages = {_name(path) for path in PAGES}
    assert {"index.html", "tutorial.html", "authors/index.html", "authors/contract.html", "reference/cli.html"} <= pages


@pytest.mark.parametrize("path", [p for p in PAGES if p.name != "404.html"], ids=_name)
def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    wrong = []
    for link in page(path).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        target = target / "index.html" if target.is_dir() else target
        known = target.is_file() and (
            not parts.fragment or target.suffix != ".html" or unquote(parts.fragment) in page(target).ids
        )
        wrong += [] if known or parts.fragment == "__codelineno-0-1" else [link]
    assert not wrong


def test_nothing_is_fetched_from_another_host_to_show_a_page() -> None:
    fetched = {
        link
        for path in PAGES
        for link in re.findall(r'<(?:script|img|iframe)[^>]* src="(https?:[^"]+)"', path.read_text())
        + re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="(https?:[^"]+)"', path.read_text())
    }
    assert not fetched


@pytest.mark.parametrize("name", sorted(set(hub.spec.__all__) - set(HOOKS)))
def test_every_name_of_the_contract_is_on_the_site(name: str) -> None:
    ids = {
        anchor for path in (SITE / "authors", SITE / "reference") for p in path.glob("*.html") for anchor in page(p).ids
    }
    assert any(anchor.startswith("hub.spec.") and anchor.rpartition(".")[2] == name for anchor in ids)


@pytest.mark.parametrize("name", sorted(set(hub.__all__) - {"__version__"}))
def test_every_name_of_the_python_interface_is_on_the_site(name: str) -> None:
    assert f"hub.{name}" in page(SITE / "reference" / "python.html").ids


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_and_tested(name: str) -> None:
    text = getattr(hooks, name).__doc__ or ""
    assert text
    assert f"hub.spec.hooks.{name}" in page(SITE / "authors" / "hooks.html").ids
    tests = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "plugins").glob("*/tests/**/*.py")]
    assert any(name in file.read_text() for file in tests if file != Path(__file__)), f"no test uses {name}"
