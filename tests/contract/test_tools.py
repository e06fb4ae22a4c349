"""`run_tool` and `private_copy`: what a converter that is a program of its own needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hub.spec import (
    ConvertJob,
    DependencyMissing,
    ModelArtifact,
    Signature,
    State,
    StepError,
    private_copy,
    run_tool,
)


def test_a_program_runs_in_its_folder_and_its_words_go_into_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import os, sys; print(os.environ['WORD']); print('twice', file=sys.stderr); open('made', 'w').close()"
    said = run_tool([sys.executable, "-u", "-c", code], tmp_path, {"WORD": "once"})
    assert said.splitlines() == ["once", "twice"]
    assert (tmp_path / "made").exists()
    assert "once\ntwice" in capfd.readouterr().out


def test_another_status_is_an_error_with_the_last_words(tmp_path: Path) -> None:
    code = "print('reading'); print('no such operator: Foo'); raise SystemExit(3)"
    with pytest.raises(StepError, match=r"ended with 3: reading \| no such operator: Foo"):
        run_tool([sys.executable, "-c", code], tmp_path)


def test_a_program_that_is_killed_says_by_what(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="killed by signal 11: it printed nothing"):
        run_tool([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], tmp_path)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DependencyMissing, match="no program no-such-tool"):
        run_tool(["no-such-tool"], tmp_path)


def test_a_tool_gets_its_own_copy_with_the_side_files(tmp_path: Path) -> None:
    source, scratch = tmp_path / "source", tmp_path / "scratch"
    source.mkdir()
    scratch.mkdir()
    for name in ("net.param", "net.bin", "other.bin"):
        (source / name).write_text(name)
    artifact = ModelArtifact(
        path=str(source / "net.param"),
        state=State(format="toy"),
        signature=Signature(inputs=(), outputs=()),
        sha256="",
        size_bytes=0,
    )
    job = ConvertJob(source=artifact, target=State(format="toy"), output=str(tmp_path / "out"), scratch=str(scratch))
    copy = private_copy(job)
    copy.write_text("overwritten by the tool")
    assert sorted(file.name for file in scratch.iterdir()) == ["net.bin", "net.param"]
    assert (source / "net.param").read_text() == "net.param"
