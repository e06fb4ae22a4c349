"""The parent's side of the workers: start, ask, watch time and memory, and turn a death into a coded error."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

import msgspec
import psutil

from hub._disk import HINT, full_words, no_room
from hub._tasks import STACKS_SIGNAL, Task, TaskResult, who_does
from hub.spec import StepCrashed, StepError, StepOutOfMemory, StepTimeout, StoreError
from hub.spec.errors import error_from_code
from hub.spec.watch import StepProgress, ask_to_end, progress_of

_POLL_SECONDS = 0.2


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Which process a task runs in; tasks at the same place share one.

    Attributes:
        process: Free word; a framework's name keeps its steps together.
        python: Interpreter; empty for this one.
        environment: Variables on top of this process's.
    """

    process: str = ""
    python: str = ""
    environment: tuple[tuple[str, str], ...] = ()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on one step: seconds, bytes of resident memory, seconds of a search that has found something (0: none)."""

    seconds: float = 1800.0
    memory_bytes: int = 0
    search_seconds: float = 0.0


def ignore(_: str) -> None:
    """Who is told how a step goes, where nobody wants to know."""


class _StepSearch:
    """What a running step tells of its search, which can be asked to end with the best so far, once."""

    def __init__(self, folder: Path, seconds: float, told: Callable[[str], None]) -> None:
        self._folder, self._seconds, self._told = folder, seconds, told
        self._progress: StepProgress | None = None
        self._since = 0.0
        self._asked = False

    def look(self) -> None:
        """Hand on what it tells; ask it to end where its time is up."""
        found = progress_of(self._folder)
        if found is None or self._asked:
            return
        if found != self._progress:
            self._told(found.text)
        self._progress, self._since = found, self._since or time.monotonic()
        if self._seconds and found.has_result and time.monotonic() - self._since > self._seconds:
            self.end(f"{self._seconds:g} s are over")

    def end(self, why: str) -> bool:
        """Ask it to end. False where it was asked before, or has nothing to end with."""
        found = progress_of(self._folder)
        if self._asked or not (found and found.has_result):
            return False
        self._asked = True
        ask_to_end(self._folder)
        self._told(f"{why}: ending with the best so far")
        return True


class Workers:
    """A pool with at most one process per place.

    Attributes:
        interrupted: Whether an interrupt (SIGINT) made a step end with the best so far. A second one, or one of a step
            that has nothing yet, is raised as KeyboardInterrupt.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._running: dict[Place, subprocess.Popen[str]] = {}
        self.interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self._running.values():
            _kill(process)
        self._running.clear()

    def start(self, place: Place) -> None:
        """Start the place's process ahead of its first task."""
        process = self._running.get(place)
        if process is not None and process.poll() is None:
            return
        if process is not None:
            _kill(process)  # dead already: this closes its pipes
        self._running[place] = _spawn(place)

    def run(self, task: Task, folder: Path, place: Place, told: Callable[[str], None] = ignore) -> TaskResult:
        """Run a task in `folder` (job.json, log.txt, result.json); `told` is called with how it says that it goes.

        Raises:
            StepCrashed: The process died.
            StepTimeout: It ran past its time.
            StepOutOfMemory: It went past its memory.
            StoreError: The process died, and the disk is full.
        HubError: What the task raised, with its own code.
        """
        write_job(task, folder)
        self.start(place)
        try:
            self._ask(self._running[place], folder, who_does(task), told)
        except BaseException as error:
            _kill(self._running.pop(place))
            if isinstance(error, StepCrashed) and no_room(folder):
                raise StoreError(full_words(error), hint=HINT) from error
            raise
        return _read_result(folder)

    def _ask(self, process: "subprocess.Popen[str]", folder: Path, who: str, told: Callable[[str], None]) -> None:
        start, search = time.monotonic(), _StepSearch(folder, self._limits.search_seconds, told)
        with contextlib.suppress(BrokenPipeError):  # a dead worker is told by the missing answer below
            requests = cast("IO[str]", process.stdin)  # never None: the worker is started with pipes
            requests.write(f"{folder}\n")
            requests.flush()
        answered = False
        while not answered:
            try:
                answered = _answered(process)
                search.look()
            except KeyboardInterrupt:
                if not search.end("interrupted"):
                    raise
                self.interrupted = True
            if time.monotonic() - start > self._limits.seconds:
                raise self._too_long(who, _innermost(process, folder / "log.txt"))
            self._watch_memory(process)
        if not _stdout(process).readline():
            raise _crash(process, who)

    def _too_long(self, who: str, where: str) -> StepTimeout:
        return StepTimeout(
            f"{who} ran longer than {self._limits.seconds:g} s and was stopped{where}",
            hint=f"allow more: --step-timeout {self._limits.seconds * 2:g}",
        )

    def _watch_memory(self, process: "subprocess.Popen[str]") -> None:
        used = _resident_bytes(process.pid) if self._limits.memory_bytes else 0
        if used > self._limits.memory_bytes:
            raise StepOutOfMemory(
                f"the step used {used / 2**20:.0f} MiB, over the limit of {self._limits.memory_bytes / 2**20:.0f} MiB",
                hint=f"allow more: --max-memory {used * 2 // 2**20}",
            )


def write_job(task: Task, folder: Path) -> None:
    """Write `job.json`: the whole request, to run now or again later."""
    (folder / "job.json").write_bytes(msgspec.json.format(msgspec.json.encode(task)))


def _stdout(process: "subprocess.Popen[str]") -> IO[str]:
    return cast("IO[str]", process.stdout)


def _answered(process: "subprocess.Popen[str]") -> bool:
    return bool(select.select([_stdout(process)], [], [], _POLL_SECONDS)[0])


_POLITE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP's threads sleep where they wait for each other. Where they spin, as by default, and another process has one of
their cores, a U-Net that takes 10 ms in PyTorch took 1 s."""


def _spawn(place: Place) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [place.python or sys.executable, "-P", "-m", "hub._worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_POLITE | os.environ | dict(place.environment),
        start_new_session=True,
    )


def _kill(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _resident_bytes(pid: int) -> int:
    try:
        root = psutil.Process(pid)
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


def _innermost(process: "subprocess.Popen[str]", log: Path) -> str:
    """Have a worker write its stacks into the log; ` in FUNCTION (FILE:LINE)` of its main thread, where it did."""
    before = log.stat().st_size if log.exists() else 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, STACKS_SIGNAL)
    time.sleep(_POLL_SECONDS)  # a signal has no answer
    written = log.read_bytes()[before:].decode(errors="replace") if log.exists() else ""
    frame = re.search(r'File "(.+)", line (\d+) in (\S+)', written.rpartition("Current thread")[2])
    return f" in {frame[3]} ({Path(frame[1]).name}:{frame[2]})" if frame else ""


def _crash(process: "subprocess.Popen[str]", who: str) -> StepCrashed:
    status = process.wait()
    how = f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"exit status {status}"
    return StepCrashed(
        f"the process of {who} died with {how}",
        hint="its log says more; it may be a defect of the framework: try another version of it",
    )


def _read_result(folder: Path) -> TaskResult:
    try:
        result = msgspec.json.decode((folder / "result.json").read_bytes(), type=TaskResult)
    except (OSError, msgspec.DecodeError) as error:
        raise StepError(f"the step answered without a readable result: {error}", hint="see its log") from error
    if result.failure:
        raise error_from_code(result.failure.code, result.failure.message, result.failure.hint)
    return result
