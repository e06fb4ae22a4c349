"""Did it help? Source, float form and result timed in turns, and how the result is executed."""

import itertools
import statistics

import msgspec

from hub._account import contradictions
from hub._candidate import Candidate
from hub._measure import Reference, as_deployed, measure_deployed
from hub._opening import Opened
from hub._parity import describe_failures
from hub._runner import Runner
from hub._tasks import Subject
from hub.spec import (
    Execution,
    HubError,
    ParityPolicy,
    ParityReport,
    Remark,
    RemarkKind,
    Speed,
    TimedModel,
    Timing,
    TooSlow,
    processor,
)


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """How a result is executed, what it computes that way, how fast it is, and what is to be said of that."""

    execution: Execution | None = None
    deployed: ParityReport | None = None
    speed: Speed | None = None
    remarks: tuple[Remark, ...] = ()


def measure_speed(runner: Runner, source: Opened, result: Candidate, reference: Reference, *, again: bool) -> Speed:
    """Time the source, the float form and the result in turns, in one process.

    Args:
        runner: To run the task.
        source: Where the result came from.
        result: What a route made.
        reference: Its inputs are what they are timed on.
        again: Measure anew even where this machine has timed the same bytes before.

    Raises:
        StepError: One of them cannot be opened in the source's process, or does not run there.
    """
    subjects = _subjects(runner, source, result)
    rounds, cached = runner.time(tuple(subjects.values()), reference.inputs, again=again)
    names = list(subjects)
    baseline: TimedModel = "float" if "float" in subjects else "source"
    ratios = [row[names.index(baseline)] / row[names.index("result")] for row in rounds]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Speed(
        timings=tuple(_timing(name, subject, rounds, names) for name, subject in subjects.items()),
        baseline=baseline,
        speedup=median,
        slowest=min(ratios),
        fastest=max(ratios),
        rounds=len(rounds),
        processor=str(processor()),
        cached=cached,
        middle_half=(low, high),
        opposed=sum((ratio - 1) * (median - 1) < 0 for ratio in ratios),
    )


def _subjects(runner: Runner, source: Opened, result: Candidate) -> dict[TimedModel, Subject]:
    """The source first: its runtime's process has the heaviest framework loaded already.

    The last model on the way that nothing lossy was done to is the float form, where it is in the result's format.
    """
    how = as_deployed(result.options)
    subjects: dict[TimedModel, Subject] = {"source": runner.subject(source.artifact, how)}
    plain = list(itertools.takewhile(lambda step: not step.lossy, result.steps))
    if plain and len(plain) < len(result.steps):
        before = plain[-1].artifact
        same = before.state.format == result.artifact.state.format
        if same and before.sha256 not in {source.artifact.sha256, result.artifact.sha256}:
            subjects["float"] = runner.subject(before, how, result.chain[: len(plain)], result.runtime)
    return subjects | {"result": runner.subject(result.artifact, how, result.chain, result.runtime)}


def _timing(name: TimedModel, subject: Subject, rounds: list[list[float]], names: list[TimedModel]) -> Timing:
    return Timing(
        model=name,
        state=subject.artifact.state,
        runtime=subject.runtime,
        seconds=statistics.median(row[names.index(name)] for row in rounds),
    )


def check_speed(speed: Speed, least: float) -> None:
    """Refuse a result that is not fast enough.

    Raises:
        TooSlow: The median speed-up is below `least`, or the rounds differ too much to say and not all reach it.
    """
    if least and speed.slowest < least and not speed.is_steady:
        raise TooSlow(f"{speed} on {speed.processor}; {least:g}x is required", hint=BUSY)
    if least and speed.speedup < least:
        raise TooSlow(
            f"{speed}; {least:g}x is required, on {speed.processor}",
            hint=f"accept less: --require-speedup {max(0.1, speed.speedup - 0.05):.1f}, or leave it out",
        )


def explain(runner: Runner, result: Candidate, reference: Reference, policy: ParityPolicy) -> Performance:
    """Ask the result's runtime how it executes it by itself, and hold that to the gate too.

    The edge's gate was held with float32 pinned. What a runtime chooses by itself may compute something else on this
    machine: that is told with the figures and is no error, as the file is right and its user may set what is named.
    A runtime that cannot explain is held to it all the same.
    """
    try:
        how = as_deployed(result.options)
        subject = runner.subject(result.artifact, how, result.chain, result.runtime)
        execution = runner.explain(subject, reference.inputs)
        deployed = measure_deployed(runner, result, reference, policy)
    except HubError as error:
        text = f"how the result is executed could not be told: {error.message}"
        return Performance(remarks=(Remark("warning", "execution-untold", text),))
    said: tuple[Remark, ...] = ()
    runtime = runner.registry.runtimes[subject.runtime]
    if execution and (wrong := contradictions(execution, how, result.summary, runtime)):
        text = f"what {subject.runtime} says of how it executes the result is not shown, as it cannot be true: {wrong}"
        execution, said = (
            None,
            (Remark("warning", "execution-contradicted", text, "report it to the plugin's authors"),),
        )
    said += deployed_words(subject.runtime, execution, deployed)
    return Performance(execution=execution, deployed=deployed, remarks=said)


def deployed_words(runtime: str, execution: Execution | None, deployed: ParityReport) -> tuple[Remark, ...]:
    """What must be said of a result that its runtime, left to itself, computes outside the gate."""
    if deployed.passed:
        return ()
    how = _told(execution, "deviation") or "it does not say how"
    where = f"{runtime} by itself computes it otherwise on {processor()}"
    text = f"{where}, outside the gate ({describe_failures(deployed)}): {how}"
    return (Remark("warning", "deployed-outside-gate", text),)


def slow_words(speed: Speed, execution: Execution | None, numerics: str) -> tuple[Remark, ...]:
    """What must be said of a result that is not faster than what it came from, with the runtime's own reasons."""
    if not speed.is_told:
        text = f"the speed of {numerics} {speed} on {speed.processor}"
        return (Remark("warning", "speed-untold", text, BUSY),)
    if speed.speedup >= 1:
        return ()
    why = _told(execution, "obstacle")
    reason = f": {why}" if why else ""
    how = "slower" if speed.speedup < CLEARLY else "no faster"
    return (Remark("warning", "not-faster", f"{numerics} is {how} here: {speed} on {speed.processor}{reason}"),)


def _told(execution: Execution | None, kind: RemarkKind) -> str:
    """What the runtime itself says of one kind, and what to set."""
    said = (item for item in (execution.remarks if execution else ()) if item.kind == kind)
    return "; ".join(": ".join(filter(None, (item.text, item.hint))) for item in said)


BUSY = "this machine is too busy to tell: time it on a quiet one, with --no-cache"

CLEARLY = 0.95
"""A ratio of medians from here to 1 is within what paired runs of one model against itself differ by."""
