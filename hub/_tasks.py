"""What the parent asks of a worker, and what it gets back: files in, files out, JSON between."""

import signal
from typing import Any

import msgspec

from hub.spec import ConvertJob, DescribeJob, IoBinding, ModelArtifact, RuntimeOptions


def misfilled(value: object, kind: type[msgspec.Struct]) -> str:
    """What is wrong, by the contract, with what a plugin's code gave back; empty where nothing is.

    It is held field by field against the types of `hub.spec`, as JSON has to carry it: later nobody could say whose it
    was.
    """
    if not isinstance(value, kind):
        return f"returned {type(value).__name__}, not hub.spec.{kind.__name__}"
    for field in msgspec.structs.fields(kind):
        try:
            msgspec.json.decode(msgspec.json.encode(getattr(value, field.name)), type=field.type)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            wrong = str(error).replace("`$", f"`{field.name}")
            return f"returned a {kind.__name__} whose {field.name} is not as hub.spec has it: {wrong}"
    return ""


class DescribeTask(msgspec.Struct, frozen=True, kw_only=True, tag="describe"):
    """Have a format's reader describe a model. Gives a `ModelSummary`."""

    plugin: str
    job: DescribeJob


class ConvertTask(msgspec.Struct, frozen=True, kw_only=True, tag="convert"):
    """Run one edge. Gives a `StepOutput`.

    `plugin` is the plugin's entry point: its module, which has the edge of that id.
    """

    plugin: str
    edge: str
    job: ConvertJob


class RunTask(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """Run an artifact over a folder of samples in the source's terms; write one .npz of outputs per sample.

    `carry` maps inputs to outputs: from the second sample on, such an input is what the output was before. With `again`
    the first sample is run once more at the end.

    Gives a `RunOutput`. The outputs are in the source's terms again.
    """

    plugin: str
    artifact: ModelArtifact
    options: RuntimeOptions
    samples: str
    outputs: str
    chain: tuple[tuple[IoBinding, ...], ...] = ()
    carry: dict[str, str] = {}
    again: bool = False


class SampleTask(msgspec.Struct, frozen=True, kw_only=True, tag="samples"):
    """Call `package.module:function` for samples; write one .npz for each dict of arrays that it yields."""

    function: str
    search_path: str
    folder: str
    limit: int


class BuildTask(msgspec.Struct, frozen=True, kw_only=True, tag="build"):
    """Call a builder whose model the first reader does not know, and save that by the plugin that does, into a folder.

    Gives the saved model's path, or an empty one where no plugin knows it.
    """

    function: str
    weights: str
    search_path: str
    folder: str


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it is to be opened: by which runtime, how, and the changes from the source's inputs to its own."""

    runtime: str
    plugin: str
    artifact: ModelArtifact
    options: RuntimeOptions
    chain: tuple[tuple[IoBinding, ...], ...] = ()


class TimeTask(msgspec.Struct, frozen=True, kw_only=True, tag="time"):
    """Time models in turns on the same samples, in the source's terms. Gives seconds by round and model."""

    subjects: tuple[Subject, ...]
    samples: str
    most_samples: int = 4


class ExplainTask(msgspec.Struct, frozen=True, kw_only=True, tag="explain"):
    """Ask a runtime how it executes a model, on the first of the samples. Gives an `Execution`, or None."""

    subject: Subject
    samples: str


STACKS_SIGNAL = signal.SIGUSR1
"""Has a worker write the stacks of all its threads into the step's log."""


class LocalTask(msgspec.Struct, frozen=True, kw_only=True, tag="local"):
    """Hold a result against its float model, layer by layer. Gives a `LocalReport`.

    `reader` makes the format's reader; both models are of that format, and run by the subject's runtime. `calibration`
    is the folder of the samples that the quantizer had, where they are at hand.
    """

    reader: str
    subject: Subject
    float_model: ModelArtifact
    samples: str
    calibration: str = ""


class DiffSide(msgspec.Struct, frozen=True, kw_only=True):
    """One of two models that are compared from inside: who reads it, and how it is opened and fed."""

    reader: str
    subject: Subject


class KnownChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the second of two models before it is looked into.

    Attributes:
        corrections: Layer -> by how much its bias was moved at most, on purpose; None where no receipt tells.
        renamed: Names that say nothing of what a tensor is, as outputs are in each other's place.
    """

    corrections: dict[str, float] | None = None
    renamed: frozenset[str] = frozenset()


NOTHING_KNOWN = KnownChanges()


class DiffTask(msgspec.Struct, frozen=True, kw_only=True, tag="diff"):
    """Compare two models from inside on the first samples, and look closely at the worst tensors. An `InsideDiff`."""

    one: DiffSide
    other: DiffSide
    samples: str
    worst: int
    known: KnownChanges = NOTHING_KNOWN


class ReduceTask(msgspec.Struct, frozen=True, kw_only=True, tag="reduce"):
    """Compare two models from inside, and cut out a layer that diverges, into an empty folder. A `ReducedCase`."""

    diff: DiffTask
    into: str


Task = (
    DescribeTask
    | ConvertTask
    | RunTask
    | SampleTask
    | BuildTask
    | TimeTask
    | ExplainTask
    | LocalTask
    | DiffTask
    | ReduceTask
)


def who_does(task: Task) -> str:
    """Whose code a task runs, for its user to know whom to tell."""
    match task:
        case DescribeTask():
            return f"the reader {task.plugin}"
        case ConvertTask():
            return f"the edge {task.edge}"
        case RunTask():
            return f"the session of {task.plugin}"
        case ExplainTask() | LocalTask():
            return f"the session of {task.subject.runtime}"
        case TimeTask() | DiffTask() | ReduceTask():
            both = task.diff if isinstance(task, ReduceTask) else task
            subjects = both.subjects if isinstance(both, TimeTask) else (both.one.subject, both.other.subject)
            return f"a session of {' or '.join(dict.fromkeys(subject.runtime for subject in subjects))}"
        case SampleTask() | BuildTask():
            return f"the function {task.function}"


class RunOutput(msgspec.Struct, frozen=True, kw_only=True):
    """How a run went: samples run, seconds for each after the session was open, outputs that were others again."""

    samples: int
    seconds: tuple[float, ...]
    unsteady: tuple[str, ...] = ()


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An error on its way from worker to parent."""

    code: str
    message: str
    hint: str
    traceback: str


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """`result.json`: the value, or the failure; the time and the memory that it took."""

    seconds: float
    peak_memory_bytes: int
    value: Any = None
    failure: Failure | None = None
