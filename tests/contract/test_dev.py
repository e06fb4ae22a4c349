"""Where `dev.py` and tox take packages from, on machines that are not this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dev

ROOT = Path(dev.__file__).parent
VARIABLES = ("PIP_FIND_LINKS", "UV_FIND_LINKS", "UV_TORCH_BACKEND", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL")


def uv(status: int) -> list[str]:
    """A uv that answers with this status, and says so."""
    return [sys.executable, "-c", f"import sys; sys.stderr.write('no such host'); sys.exit({status})"]


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_where_nothing_is_said_torch_is_the_cpu_build() -> None:
    assert dev.sources(uv(0)) == {"UV_TORCH_BACKEND": "cpu"}


def test_where_the_cpu_builds_cannot_be_reached_the_ordinary_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.sources(uv(1)) == {}
    told = capsys.readouterr().err
    assert "ordinary build" in told
    assert "no such host" in told


def test_wheels_that_lie_ready_for_pip_are_there_for_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/one /two")
    assert dev.sources(uv(1)) == {"UV_FIND_LINKS": "/one,/two"}


@pytest.mark.parametrize("name", VARIABLES[2:])
def test_what_the_user_says_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "said")
    assert dev.sources(uv(1)) == {}


def test_tox_asks_the_same_however_it_is_called() -> None:
    code = "import os, runpy; runpy.run_path('toxfile.py'); print(os.environ['UV_FIND_LINKS'])"
    given = {"PIP_FIND_LINKS": "/one /two"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "/one,/two"


def test_no_test_process_holds_frameworks_that_clash() -> None:
    """See `conftest.py`: TensorFlow and triton in one process are a segmentation fault."""
    assert sys.modules["triton"] is None
