"""The edge in front of every other for a raw file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import ANY, KEEP, Accepts, ConvertJob, Edge, Gives, Remark, StepError, StepOutput, UnsupportedModel
from hub_tflite.plain import RAW, PlainParts, make_plain
from hub_tflite.plain.sequence import STEPS, differing_step
from hub_tflitefile.schema import read, read_bytes, to_bytes

if TYPE_CHECKING:
    from hub_tflite.plain.variables import LiftedState


def run_plain(job: ConvertJob) -> StepOutput:
    """Writes `job.source.path` plainly, and holds lifted state against the file's own over several runs.

    Raises:
        ModelUnreadable: The file is corrupt.
        UnsupportedModel: It is of a kind that has no plain form, or a state to be kept inside would start elsewhere.
        StepError: The lifted form gives something else than the file.
    """
    path = Path(job.source.path)
    model = read(path)
    written = make_plain(model)
    _refuse_other_starts(written.states, job.options.states)
    content = to_bytes(model)
    if written.states and not written.operators:
        _hold(read_bytes(path), content, written.states)
    Path(job.output).write_bytes(content)
    return StepOutput(notes=tuple(_notes(written)))


def _refuse_other_starts(states: tuple[LiftedState, ...], kept: Mapping[str, str]) -> None:
    """A state that is kept inside starts at 0, in the result and in what it is measured against."""
    other = [str(state) for state in states if state.name in kept and not state.starts_at_zero]
    if other:
        raise UnsupportedModel(
            f"--state starts at 0, and the file starts {', '.join(other)}",
            hint="leave out --state for it, and feed that value in the first run",
        )


def _hold(before: bytes, after: bytes, states: tuple[LiftedState, ...]) -> None:
    wrong = differing_step(before, after, states)
    if wrong is not None:
        raise StepError(f"with its state lifted the model gives something else in run {wrong + 1} of a sequence")


def _notes(written: PlainParts) -> Iterator[Remark]:
    if written.operators:
        yield Remark("note", "plain-form-written", f"{', '.join(written.operators)} became builtin operators")
    if written.states and not written.operators:
        said = (
            f"{len(written.states)} states handed on from outside: the same bit for bit over {STEPS} runs of the file"
        )
        yield Remark("note", "state-held-over-runs", said)
    if written.states and written.operators:
        said = "its states were not held against the file: LiteRT has no kernel for its custom operators"
        yield Remark("note", "state-not-held", said)


PLAIN = Edge(
    id="tflite.plain",
    accepts=(Accepts(format="tflite", numerics=ANY, form=RAW),),
    gives=Gives(format="tflite", numerics=KEEP),
    convert=run_plain,
    keeps_dynamic=True,
    requires=("ai-edge-litert",),
    process="tflite",
    cost=0.1,
    title="public custom operators and state, written plainly",
)
"""From a raw file to one that every other edge takes."""
