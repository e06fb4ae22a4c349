"""The documentation's generated pages are current, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("plugins/*/*.md"))]


def test_generated_pages_are_current() -> None:
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


AUTHORS = sorted((ROOT / "docs" / "authors").glob("*.md"))
PROGRAMS = [(page.stem, code) for page in AUTHORS for code in blocks(page, "python")]
COMMANDS = [line for page in AUTHORS for code in blocks(page, "sh") for line in code.splitlines()]


@pytest.mark.parametrize(("page", "code"), PROGRAMS, ids=[f"{page}-{n}" for n, (page, _) in enumerate(PROGRAMS)])
def test_what_authors_are_shown_runs(page: str, code: str, tmp_path: Path) -> None:
    file = tmp_path / f"test_{page}.py"
    file.write_text(code)
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", os.devnull]
    command = [*words, str(file)] if "def test_" in code else [str(file)]
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("line", COMMANDS)
def test_what_authors_are_told_to_run_is_clean(line: str) -> None:
    words = shlex.split(line)
    words[0] = str(Path(sys.executable).with_name(words[0]))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_authors_are_told_to_install_brings_every_library_of_hubs() -> None:
    lines = [line for code in blocks(AUTHORS[0].with_name("index.md"), "text") for line in code.splitlines()]
    assert lines
    for line in lines:
        named = {Path(word.partition("[")[0]).name for word in line.split("-e ")[1:] if word.strip() != "."}
        named = {name.strip() for name in named}
        for name in named:
            project = tomllib.loads((ROOT / "plugins" / name / "pyproject.toml").read_text())["project"]
            needs = {need.removeprefix("hub-") for need in project["dependencies"] if re.fullmatch(r"hub-\w+", need)}
            assert needs - {"convert"} <= named, line


def test_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "python3.11 dev.py demo" in readme
    assert "python3.11 dev.py test" in readme
    assert "dev.py test" in (ROOT / ".ci" / "run").read_text()
