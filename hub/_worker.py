"""The worker: runs tasks, one after the other, in a process that may crash, print, leak or exit.

Protocol: the parent writes one folder path per line to standard input. The worker reads `job.json` in it, runs it with
standard output and error redirected to `log.txt`, writes `result.json` and answers one line. When standard input
closes, the parent is gone and the worker ends at once with all that it started, also in the middle of a task: no orphan
outlives a `kill -9`.

It imports only `hub.spec`, msgspec, numpy and the standard library, so that it also runs inside a toolchain's
environment. `python -m hub._worker FOLDER` runs one task and ends with status 0 or 1.
"""

import contextlib
import faulthandler
import importlib
import importlib.metadata
import itertools
import json
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from hub._disk import HINT, full_words, is_full
from hub._tasks import (
    STACKS_SIGNAL,
    BuildTask,
    ConvertTask,
    DescribeTask,
    DiffSide,
    DiffTask,
    ExplainTask,
    Failure,
    LocalTask,
    ReduceTask,
    RunOutput,
    RunTask,
    SampleTask,
    Subject,
    Task,
    TaskResult,
    TimeTask,
    misfilled,
)
from hub.spec import (
    CalibrationError,
    Edge,
    EffectError,
    Execution,
    Explains,
    Feeds,
    HubError,
    InsideDiff,
    LocalReport,
    ModelSummary,
    ReducedCase,
    Runtime,
    SampleFolder,
    Session,
    StepError,
    StepOutput,
    StoreError,
    UsageError,
    write_sample,
)

if TYPE_CHECKING:
    from hub._insides import ShownModel

T = TypeVar("T", bound=msgspec.Struct)


def load_reference(reference: str) -> Any:
    """Import `package.module:attribute`."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def returned(value: object, kind: type[T], who: str) -> T:
    """Hold what a plugin's code gave back against the contract.

    Raises:
        StepError: It is something else, or holds something else.
    """
    wrong = misfilled(value, kind)
    if wrong or not isinstance(value, kind):
        raise StepError(f"{who} {wrong}", hint="report it to the plugin's authors")
    return value


def _describe(task: DescribeTask) -> ModelSummary:
    return returned(load_reference(task.plugin)().describe(task.job), ModelSummary, f"`describe` of {task.plugin}")


def _convert(task: ConvertTask) -> StepOutput:
    plugin = importlib.metadata.EntryPoint(name="", value=task.plugin, group="").load()
    offered: list[Edge] = plugin.hub_register_edges()
    done = next(edge for edge in offered if edge.id == task.edge).convert(task.job)
    return returned(done, StepOutput, f"`convert` of the edge {task.edge}")


def _run(task: RunTask) -> RunOutput:
    runtime: Runtime = load_reference(task.plugin)()
    session = runtime.open(task.artifact, task.options)
    try:
        seconds = tuple(_run_all(session.run, task, runtime.name))
        unsteady = tuple(_other_again(session.run, task)) if task.again and not task.carry else ()
    finally:
        session.close()
    return RunOutput(samples=len(seconds), seconds=seconds, unsteady=unsteady)


def _other_again(run: Callable[[Feeds], Feeds], task: RunTask) -> Iterator[str]:
    """Outputs of the first sample that are others when it is run once more: random numbers, or state left inside."""
    import numpy as np

    from hub._bindings import to_artifact, to_source

    first = next(iter(SampleFolder(task.outputs)), {})
    feeds = next(iter(SampleFolder(task.samples)), {})
    given = to_source(run(to_artifact(feeds, task.chain)), task.chain) if first else {}
    for name, before in first.items():
        now = np.asarray(given[name])
        if before.dtype.kind == "f":  # threads may add up in another order
            same = np.allclose(now, before, rtol=1e-3, atol=1e-3 * float(np.abs(before).max(initial=0)), equal_nan=True)
        else:
            same = bool(np.array_equal(now, before))
        if not same:
            yield name


def _run_all(run: Callable[[Feeds], Feeds], task: RunTask, runtime: str) -> Iterator[float]:
    carried: Feeds = {}
    for index, feeds in enumerate(SampleFolder(task.samples)):
        seconds, outputs = _run_one(run, task, runtime, index, feeds | carried)
        carried = {name: outputs[output] for name, output in task.carry.items()}
        yield seconds


def _run_one(
    run: Callable[[Feeds], Feeds], task: RunTask, runtime: str, index: int, feeds: Feeds
) -> tuple[float, Feeds]:
    """Run one sample; what goes in and comes out is held against what the model's reader says.

    Source and result may be run by the same wrapper, whose mistakes parity alone would not see.
    """
    import numpy as np

    from hub._bindings import to_artifact, to_source
    from hub._effects import misfit

    fed = to_artifact(feeds, task.chain)
    wrong = misfit(task.artifact.signature.inputs, fed, dtypes=True)
    if wrong:
        hint = "report it: the plugin's reader, or the changes that an edge declares, are wrong"
        raise EffectError(f"{runtime} is to be fed {wrong}", hint=hint)
    start = time.perf_counter()
    given = run(fed)
    seconds = time.perf_counter() - start
    strange = not isinstance(given, dict) or any(
        not isinstance(name, str) or not hasattr(array, "__array__") for name, array in given.items()
    )
    if strange:
        hint = "report it to the plugin's authors: a session's `run` gives a dict of arrays by output name"
        raise StepError(f"a session of {runtime} returned {_kinds(given)}", hint=hint)
    wrong = misfit(task.artifact.signature.outputs, given, dtypes=True)
    if wrong:
        hint = "report it: the plugin's reader or its runtime is wrong"
        raise EffectError(f"{runtime} gives outputs {wrong}", hint=hint)
    outputs = {name: np.asarray(array) for name, array in to_source(given, task.chain).items()}
    write_sample(task.outputs, index, outputs)
    return seconds, outputs


def _kinds(given: object) -> str:
    if not isinstance(given, dict):
        return type(given).__name__
    return "{" + ", ".join(f"{name!r}: {type(array).__name__}" for name, array in given.items()) + "}"


@contextlib.contextmanager
def _opened(subject: Subject) -> Iterator[Session]:
    session = load_reference(subject.plugin)().open(subject.artifact, subject.options)
    try:
        yield session
    finally:
        session.close()


def _time(task: TimeTask) -> list[list[float]]:
    from hub._bindings import to_artifact
    from hub._timing import time_in_turns

    samples = list(itertools.islice(SampleFolder(task.samples), task.most_samples))
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(_opened(subject)) for subject in task.subjects]
        fed = [[to_artifact(feeds, subject.chain) for feeds in samples] for subject in task.subjects]
        return time_in_turns([(session.run, own) for session, own in zip(sessions, fed, strict=True)])


def _explain(task: ExplainTask) -> Execution | None:
    from hub._bindings import to_artifact

    with _opened(task.subject) as session:
        if not isinstance(session, Explains):
            return None
        told = session.execution(to_artifact(next(iter(SampleFolder(task.samples))), task.subject.chain))
        return returned(told, Execution, f"`execution` of a session of {task.subject.plugin}")


def _local(task: LocalTask) -> LocalReport:
    from hub._bindings import to_artifact
    from hub._corrections import CorrectionSamples
    from hub._local import LayerCheck

    subject = task.subject
    reader, runtime = load_reference(task.reader)(), load_reference(subject.plugin)()
    check = LayerCheck(reader, runtime, task.float_model, subject.artifact, subject.options)

    def adapted(folder: str) -> Iterator[Feeds]:
        return (to_artifact(feeds, subject.chain) for feeds in SampleFolder(folder))

    count = len(SampleFolder(task.calibration)) if task.calibration else 0
    own = CorrectionSamples(lambda: adapted(task.calibration), count) if count else None
    return check.report(adapted(task.samples), own)


@contextlib.contextmanager
def _both(task: DiffTask) -> Iterator[tuple["ShownModel", "ShownModel", list[tuple[Feeds, Feeds]]]]:
    from hub._bindings import to_artifact
    from hub._insides import open_inside
    from hub._local import SAMPLES

    def opened(side: DiffSide, stack: contextlib.ExitStack) -> "ShownModel":
        runtime, subject = load_reference(side.subject.plugin)(), side.subject
        return open_inside(load_reference(side.reader)(), runtime, subject.artifact, subject.options, stack)

    samples = itertools.islice(SampleFolder(task.samples), SAMPLES)
    chains = (task.one.subject.chain, task.other.subject.chain)
    feeds = [(to_artifact(feeds, chains[0]), to_artifact(feeds, chains[1])) for feeds in samples]
    with contextlib.ExitStack() as stack:
        yield opened(task.one, stack), opened(task.other, stack), feeds


def _diff(task: DiffTask) -> InsideDiff:
    from hub._insides import InsideComparison

    with _both(task) as (one, other, feeds):
        return InsideComparison(one, other, feeds, task.worst, task.known).report()


def _reduce(task: ReduceTask) -> ReducedCase:
    from hub._reduction import CaseSearch

    with _both(task.diff) as (one, other, feeds):
        return CaseSearch(one, other, feeds, task.diff.worst, task.diff.known).find(Path(task.into))


def _samples(task: SampleTask) -> int:
    sys.path.insert(0, task.search_path)
    count = 0
    for count, feeds in enumerate(_call(task.function), start=1):
        if not isinstance(feeds, dict):
            raise CalibrationError(
                f"{task.function} yields {type(feeds).__name__}", hint="yield dicts of arrays by input name"
            )
        write_sample(task.folder, count - 1, feeds)
        if count >= task.limit:
            break
    return count


def _call(reference: str) -> Iterable[Any]:
    try:
        function = load_reference(reference)
    except (ImportError, AttributeError) as error:
        hint = "name it as package.module:function; the current folder is searched first"
        raise CalibrationError(f"there is no function {reference}: {error}", hint=hint) from error
    produced: Iterable[Any] = function()
    return produced


def _build(task: BuildTask) -> str:
    from hub._plugins import Registry

    sys.path.insert(0, task.search_path)
    hooks, model = Registry().manager.hook, load_reference(task.function)()
    if task.weights and not any(hooks.hub_load_weights(model=model, weights=Path(task.weights))):
        message = f"no plugin loads weights into the {type(model).__name__} of {task.function}"
        raise UsageError(message, hint="load them in the builder itself, and leave out --weights")
    saved = hooks.hub_save_live_model(model=model, folder=Path(task.folder), example_inputs=None)
    return str(next((path for path in saved if path), ""))


_HANDLERS: dict[type, Callable[[Any], Any]] = {
    DescribeTask: _describe,
    ConvertTask: _convert,
    RunTask: _run,
    SampleTask: _samples,
    BuildTask: _build,
    TimeTask: _time,
    ExplainTask: _explain,
    LocalTask: _local,
    DiffTask: _diff,
    ReduceTask: _reduce,
}


def _attempt(task: Any) -> tuple[Any, Failure | None]:
    try:
        return msgspec.to_builtins(_HANDLERS[type(task)](task)), None
    except HubError as error:
        return None, _failure(error.code, error.message, error.hint)
    except Exception as error:  # noqa: BLE001 the process boundary: whatever a framework raises becomes a report
        if is_full(error):
            return None, _failure(StoreError.code, full_words(error), HINT)
        return None, _failure("step-failed", f"{type(error).__name__}: {error}", "")


def _failure(*said: object) -> Failure:
    """A code, a message and a hint as text that JSON can hold: a plugin's, or a file's name, may be none."""
    words = [str(word).encode(errors="backslashreplace").decode() for word in (*said, traceback.format_exc())]
    return Failure(code=words[0], message=words[1], hint=words[2], traceback=words[3])


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then the process's whole life's
        return


def _peak_bytes() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def run_task(folder: Path) -> bool:
    """Run the task in `folder`; write `result.json`. Returns whether it succeeded."""
    task = msgspec.json.decode((folder / "job.json").read_bytes(), type=Task)
    _reset_peak()
    start = time.perf_counter()
    value, failure = _attempt(task)
    seconds = time.perf_counter() - start
    if failure:
        print(failure.traceback, file=sys.stderr, flush=True)  # noqa: T201 into the step's log
    result = TaskResult(seconds=seconds, peak_memory_bytes=_peak_bytes(), value=value, failure=failure)
    partial = folder / "result.json.partial"
    partial.write_bytes(_encoded(result))
    partial.rename(folder / "result.json")
    return failure is None


def _encoded(result: TaskResult) -> bytes:
    """As JSON. A text that UTF-8 does not have, which a tool or a model's names may hold, is not one to fail over."""
    try:
        return msgspec.json.encode(result)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(result), ensure_ascii=False).encode("utf-8", "replace")


def _redirect(log: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _tell_stacks() -> None:
    """Write all stacks into the log when native code crashes, and when the parent asks before it ends a step."""
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL)


def _read_requests(requests: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        requests.put(line.strip())
    os._exit(0)


def _watch_parent() -> None:
    """Fork a watcher that ends this process group when the parent is gone.

    The reading thread cannot do that while native code holds the interpreter's lock, nor can it end what a step has
    started. The watcher waits for the hang-up of standard input, without reading from it.
    """
    if os.fork():
        return
    os.closerange(1, 3)  # the parent learns of a crash by the end of these
    poller = select.poll()
    poller.register(0, 0)
    poller.poll()
    os.killpg(0, signal.SIGKILL)


def serve() -> None:
    """Answer requests until standard input closes."""
    if os.getpgrp() == os.getpid():
        _watch_parent()
    _tell_stacks()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    while True:
        folder = Path(requests.get())
        _redirect(folder / "log.txt")
        run_task(folder)
        sys.stdout.flush()
        sys.stderr.flush()
        answers.write(f"{folder}\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _tell_stacks()
        sys.exit(0 if run_task(Path(sys.argv[1])) else 1)
    serve()
