"""The documentation is code: its commands and programs run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/tutorial.md", "docs/onnx-to-pytorch.md", "docs/backends-howto.md", "docs/diff-howto.md")
_BLOCK = re.compile(r"(?P<mark><!-- .* -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


class Block(NamedTuple):
    """One line of shell, or one program, with the exit status that the page says."""

    page: str
    language: str
    text: str
    status: int


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for match in _BLOCK.finditer((ROOT / page).read_text()):
            status = int((re.search(r"exits: (\d+)", match["mark"] or "") or [0, "0"])[1])
            lines = [match["text"]] if match["language"] == "python" else match["text"].splitlines()
            yield from (Block(page, match["language"], line, status) for line in lines if line)


RUN = [b for b in blocks() if b.language == "python" or (b.language == "sh" and "dev.py" not in b.text)]


@pytest.mark.real
@pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.page}: {block.text.splitlines()[0][:60]}")
def test_block_runs(block: Block) -> None:
    words = [sys.executable, "-c", block.text] if block.language == "python" else shlex.split(block.text)
    here = {"hub": str(Path(sys.executable).with_name("hub")), "python": sys.executable}
    words[0] = here.get(words[0], words[0])
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == block.status, done.stdout + done.stderr


def test_pages_have_blocks_to_run() -> None:
    assert {block.page for block in RUN} == set(PAGES)


def test_the_page_of_states_is_current() -> None:
    code = (
        "import sys; sys.path.insert(0, 'docs'); import generate as g\n"
        "loaded = {plugin.name for plugin in g.Registry().plugins if not plugin.error}\n"
        "assert loaded == g.FIRST_PARTY, loaded\n"
        "assert (g.REFERENCE / '../authors/states.md').read_text() == g.states_page(), 'run: python docs/generate.py'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
