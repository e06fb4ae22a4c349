"""Processes and toolchains, without the engine around them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import psutil
import pytest

from hub._store import Store
from hub._tasks import DescribeTask, SampleTask, TaskResult
from hub._toolchains import toolchain_python
from hub._worker import returned
from hub._workers import Limits, Place, Workers, _read_result
from hub.spec import (
    CalibrationError,
    DescribeJob,
    HubError,
    InternalError,
    ModelUnreadable,
    Remark,
    StepCrashed,
    StepError,
    StepOutput,
    StepTimeout,
    Toolchain,
    ToolchainError,
)
from hub.spec.errors import error_classes, error_from_code

FUNCTIONS = """
import os, sys, time
import numpy as np
def two():
    print("noise")
    yield {"x": np.zeros(2)}
    yield {"x": np.ones(2)}
def endless():
    while True:
        yield {"x": np.zeros(1)}
def who():
    yield {"pid": np.array(os.getpid()), "word": np.array(len(os.environ.get("WORD", "")))}
def dies():
    os._exit(7)
def hangs():
    time.sleep(60)
def closes():
    os.close(0)
    yield {"x": np.zeros(1)}
def unwritable():
    raise OSError("no file \\udcff")
def writes():
    raise NotImplementedError("\\N{SNOWMAN} " + "x" * 100_000)
"""


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Any]:
    """Run one function in a worker; returns the result and the folder."""
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    count = iter(range(100))

    def run(workers: Workers, function: str, place: Place | None = None, limit: int = 5) -> tuple[TaskResult, Path]:
        folder = tmp_path / f"{next(count)}"
        folder.mkdir()
        samples = str(folder / "samples")
        task = SampleTask(function=f"functions:{function}", search_path=str(tmp_path), folder=samples, limit=limit)
        return workers.run(task, folder, place or Place()), folder

    return run


def number(folder: Path, name: str) -> int:
    """One number that a function gave."""
    import numpy as np

    with np.load(folder / "samples" / "00000000.npz") as arrays:
        return int(arrays[name])


def test_a_task_leaves_its_job_its_log_and_its_result(ask: Callable[..., Any]) -> None:
    with Workers() as workers:
        result, folder = ask(workers, "two")
    assert result.value == 2
    assert result.seconds > 0
    assert result.peak_memory_bytes > 1 << 20
    assert {path.name for path in folder.iterdir()} == {"job.json", "log.txt", "result.json", "samples"}
    assert (folder / "log.txt").read_text() == "noise\n"


def test_endless_samples_are_bounded(ask: Callable[..., Any]) -> None:
    with Workers() as workers:
        assert ask(workers, "endless", limit=7)[0].value == 7


def test_a_place_has_one_process_and_two_places_have_two(ask: Callable[..., Any]) -> None:
    with Workers() as workers:
        first, again, other = (number(ask(workers, "who", Place(process=name))[1], "pid") for name in ("a", "a", "b"))
        assert first == again != other != os.getpid()
        assert psutil.pid_exists(first)
    assert not psutil.pid_exists(first)
    assert not psutil.pid_exists(other)


def test_a_place_has_its_own_environment(ask: Callable[..., Any]) -> None:
    with Workers() as workers:
        assert number(ask(workers, "who", Place(environment=(("WORD", "abc"),)))[1], "word") == 3
        assert number(ask(workers, "who")[1], "word") == 0


def test_after_a_death_the_place_gets_a_new_process(ask: Callable[..., Any]) -> None:
    with Workers() as workers:
        before = number(ask(workers, "who")[1], "pid")
        with pytest.raises(StepCrashed, match="the process of the function functions:dies died with exit status 7"):
            ask(workers, "dies")
        assert number(ask(workers, "who")[1], "pid") != before


def test_a_step_past_its_time_is_stopped(ask: Callable[..., Any]) -> None:
    with Workers(Limits(seconds=0.5)) as workers, pytest.raises(StepTimeout) as caught:
        ask(workers, "hangs")
    assert caught.value.hint == "allow more: --step-timeout 1"


def test_a_step_that_closes_its_input_is_answered_all_the_same(ask: Callable[..., Any]) -> None:
    with Workers(Limits(seconds=20)) as workers:
        assert ask(workers, "closes")[0].value == 1


def test_a_long_message_of_any_script_arrives_whole(ask: Callable[..., Any]) -> None:
    with Workers() as workers, pytest.raises(HubError) as caught:
        ask(workers, "writes")
    assert caught.value.message.startswith("NotImplementedError: \N{SNOWMAN} xxx")
    assert len(caught.value.message) > 100_000


def test_a_message_that_is_no_text_arrives_all_the_same(ask: Callable[..., Any]) -> None:
    with Workers() as workers, pytest.raises(StepError) as caught:
        ask(workers, "unwritable")
    assert caught.value.message == r"OSError: no file \udcff"


WRONG_FIELDS: dict[str, tuple[StepOutput, str]] = {
    "text for a remark": (StepOutput(notes=cast("Any", ("raised the opset",))), "`notes[0]`"),
    "a kind that there is not": (StepOutput(notes=(Remark(cast("Any", "remark"), "a", "b"),)), "`notes[0].kind`"),
    "a number for a text": (StepOutput(notes=(Remark("note", "a", cast("Any", 5)),)), "`notes[0].text`"),
    "a text that is none": (StepOutput(notes=(Remark("note", "a", "\udcff"),)), "surrogates not allowed"),
    "an object": (StepOutput(notes=(Remark("note", "a", cast("Any", object())),)), "notes"),
    "text for a binding": (StepOutput(bindings=cast("Any", ("x",))), "`bindings[0]`"),
    "a remark for a recipe": (StepOutput(recipe=cast("Any", Remark("note", "a", "b"))), "recipe"),
    "nothing for notes": (StepOutput(notes=cast("Any", None)), "got `null`"),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_every_field_of_what_a_step_returns_is_held_against_the_contract(name: str) -> None:
    given, words = WRONG_FIELDS[name]
    with pytest.raises(StepError) as caught:
        returned(given, StepOutput, "`convert` of the edge other.x")
    assert caught.value.message.startswith("`convert` of the edge other.x returned a StepOutput whose ")
    assert words in caught.value.message


def test_a_function_that_is_not_there_is_the_users_mistake(ask: Callable[..., Any]) -> None:
    with Workers() as workers, pytest.raises(CalibrationError) as caught:
        ask(workers, "nowhere")
    assert "nowhere" in caught.value.message


def test_an_error_keeps_its_code_over_the_process_border(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toy"
    bad.write_text('{"toy": 1, ')
    task = DescribeTask(plugin="hub_toy.formats:ToyFormat", job=DescribeJob(path=str(bad)))
    with Workers() as workers, pytest.raises(ModelUnreadable) as caught:
        workers.run(task, tmp_path, Place())
    assert str(bad) in caught.value.message
    assert caught.value.hint
    assert msgspec.json.decode((tmp_path / "result.json").read_bytes())["failure"]["code"] == "model-unreadable"


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"seconds": "x"}'])
def test_an_answer_without_a_readable_result_is_a_failed_step(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(StepError, match="without a readable result"):
        _read_result(tmp_path)


OWN = sorted({kind for kind in error_classes() if kind.__module__.startswith("hub.")}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.code)
def test_every_error_survives_its_code_and_a_pickle(kind: type[HubError]) -> None:
    import pickle

    error = kind("what happened", hint="what to do")
    rebuilt = pickle.loads(pickle.dumps(error))  # noqa: S301 our own
    assert (type(rebuilt), rebuilt.message, rebuilt.hint) == (kind, "what happened", "what to do")
    if kind is not HubError:
        assert type(error_from_code(kind.code, "m", "h")) is kind


def test_an_unknown_code_is_a_failed_step() -> None:
    assert type(error_from_code("of-a-later-version", "m", "h")) is StepError


def test_a_plugins_error_of_other_arguments_crosses_the_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(StepError):
        code = "odd"

        def __init__(self, operator: str, version: int) -> None:
            super().__init__(f"{operator} {version}")

    monkeypatch.setattr("hub.spec.errors.error_classes", lambda: [Odd])
    error = error_from_code("odd", "Loop 16", "leave it out")
    assert (type(error), error.message, error.hint, str(error)) == (Odd, "Loop 16", "leave it out", "Loop 16")
    assert InternalError("m").exit_status == 70


def test_a_toolchain_that_cannot_be_built_says_why_and_leaves_nothing_ready(tmp_path: Path) -> None:
    wheel = tmp_path / "nothing-1.0-py3-none-any.whl"
    broken = Toolchain(name="broken", requires=(f"nothing @ {wheel.as_uri()}",))
    store = Store(tmp_path / "cache")
    with pytest.raises(ToolchainError) as caught:
        toolchain_python(broken, (), store)
    assert caught.value.exit_status == 4
    assert "broken" in caught.value.message
    assert str(wheel) in caught.value.message
    assert not list(store.root.glob("toolchains/*/ready"))


def test_a_toolchain_is_built_once_and_sees_hub(tmp_path: Path) -> None:
    empty = Toolchain(name="empty", requires=())
    store = Store(tmp_path / "cache")
    python, path = toolchain_python(empty, ("hub_toy",), store)
    built = python.stat().st_ctime_ns
    assert {link.name for link in path.iterdir()} == {"hub", "hub_toy"}
    assert (path / "hub" / "_worker.py").exists()
    assert toolchain_python(empty, ("hub_toy",), store) == (python, path)
    assert python.stat().st_ctime_ns == built
    other = toolchain_python(Toolchain(name="empty", requires=(), python="3"), (), store)
    assert other[0] != python
