"""From a wrong result to a right one by the least change: the same made once more, else less of it in int8."""

import shlex
from pathlib import Path

import msgspec

from hub._engine import Conversion
from hub._events import Events
from hub._files import check_output
from hub._judgement import judge
from hub._local import describe_local
from hub._opening import Opened, open_model
from hub._parity import describe_failures, no_evidence
from hub._plugins import Registry
from hub._receipt import edited_words, read_receipt
from hub._request import Request, Source, parse_source
from hub._runner import Runner
from hub.spec import (
    ConvertOptions,
    EffectError,
    ModelNotFound,
    ModelUnreadable,
    ParityPolicy,
    Receipt,
    Remark,
    RepairReport,
    State,
    StepError,
    UsageError,
)


def mend(result: str, request: Request, runner: Runner, events: Events) -> RepairReport:
    """Judge a result; where it is wrong, convert its source again and prove the new one by the same gate.

    Args:
        result: The file that may be wrong.
        request: What the user gave; what is empty in it is taken from the result's receipt.
        runner: To run them.
        events: Told about progress.

    Raises:
        HubError: The source or the data is not known, the samples prove nothing, or no right result can be made.
    """
    events.started(f"reading {result}")
    receipt = read_receipt(Path(result), None)
    try:
        opened = open_model(runner, Source(path=result), ConvertOptions())
    except ModelUnreadable as error:
        if receipt is None:
            raise
        request = _completed(result, request, receipt.result.state, receipt, runner.registry)
        _check_source(result, request, receipt, runner)
        report = RepairReport(result=receipt.result, made=receipt, broken=error.message.splitlines()[0])
    else:
        request = _completed(result, request, opened.artifact.state, receipt, runner.registry)
        _check_source(result, request, receipt, runner)
        events.started(f"comparing {result} with {request.source.label}")
        report = _judged(opened, request, receipt, runner)
    parity = report.parity
    if parity and parity.passed:
        return report
    data = (request.source.path, request.calibration, request.test)
    check_output(request.destination, force=True, inputs=data)  # whether it is there is asked by the conversion
    if parity and parity.unproved:
        raise no_evidence(parity, "--test DATA")
    if report.result.state.numerics.needs_calibration and not request.calibration:
        message = f"{result} is wrong ({_why(report)}), and no calibration data is known to make another with"
        raise UsageError(message, hint="give --calibration DATA")
    changed = receipt is not None and not report.broken and receipt.result.sha256 != report.result.sha256
    later = "; it is not the file that its receipt describes" if changed else ""
    edited = edited_words(Path(result)) if receipt else ()
    told = Remark("note", "made-in-place", f"made in place of {result}, of which {_why(report)}{later}")
    events.started(f"making another in place of {result}, of which {_why(report)}{later}")
    again = Conversion(msgspec.structs.replace(request, announced=(told, *edited)), runner, events).run()
    return msgspec.structs.replace(report, receipt=again)


def _judged(opened: Opened, request: Request, receipt: Receipt | None, runner: Runner) -> RepairReport:
    """Judge what can be read; what does not run, or not as its receipt says, is wrong too."""
    report = RepairReport(result=opened.artifact, made=receipt)
    try:
        parity = judge(request, runner, opened, receipt, opened.summary.state.numerics)
    except (StepError, EffectError) as error:
        if receipt is None:
            raise
        return msgspec.structs.replace(report, broken=error.message.splitlines()[0])
    return msgspec.structs.replace(report, parity=parity)


def _why(report: RepairReport) -> str:
    if report.parity is None:
        return report.broken
    local = report.parity.local
    layers = describe_local(local) if local and local.failed else ""
    return "; ".join(filter(None, [describe_failures(report.parity), layers]))


def _completed(result: str, asked: Request, found: State, receipt: Receipt | None, registry: Registry) -> Request:
    """The request that makes the result once more: the user's words, and behind them the receipt's.

    Raises:
        UsageError: The source is not known, or the samples that the receipt names are gone.
    """
    data = receipt.calibration if receipt else None
    judged_on = data.test or ("" if asked.calibration else data.spec) if data and not asked.test else ""
    if not _is_there(judged_on):  # on other samples the verdict would be another
        message = f"the samples that the receipt of {result} names are not there: {judged_on}"
        raise UsageError(message, hint=f"name some to judge on: hub repair {shlex.quote(result)} --test DATA")
    state = receipt.result.state if receipt else found
    path = Path(result)
    return msgspec.structs.replace(
        asked,
        source=asked.source if asked.source.label else _source(result, receipt),
        target=(receipt.target if receipt else "") or _target(registry, state, path),
        numerics=state.numerics,
        output=asked.output or str(path.with_name(f"{path.stem}.repaired{path.suffix}")),
        options=_over(receipt.options, asked.options) if receipt else asked.options,
        calibration=asked.calibration or (data.spec if data and _is_there(data.spec) else ""),
        test=asked.test or (data.test if data else ""),
        policy=asked.policy or (_own_gate(receipt) if receipt else None),
    )


def _own_gate(receipt: Receipt) -> ParityPolicy | None:
    """The gate that the user gave when the result was made."""
    gates = [step.parity.policy for step in receipt.steps if step.parity]
    return next((gate for gate in reversed(gates) if gate.custom), None)


def _source(result: str, receipt: Receipt | None) -> Source:
    hint = f"give it: hub repair {shlex.quote(result)} --source MODEL"
    if receipt is None:
        raise UsageError(f"{result} has no receipt beside it that names its source", hint=hint)
    named = receipt.source
    if parse_source(named.path).builder:  # code is run where the user names it, not where a file does
        hint = f"give it yourself: hub repair {shlex.quote(result)} --source {shlex.quote(named.path)}"
        message = f"{result} was made of what {named.path} returns; hub runs that code only where you name it"
        raise UsageError(message, hint=hint)
    if not Path(named.path).exists():
        raise ModelNotFound(f"the source that the receipt of {result} names is not there: {named.path}", hint=hint)
    return Source(path=named.path)


def _check_source(result: str, request: Request, receipt: Receipt | None, runner: Runner) -> None:
    """Refuse a source that the result was not made of: a repair against another model would be a new model.

    Raises:
        UsageError: With what it was made of.
    """
    source, path = request.source, Path(request.source.path)
    if source.path and path.exists() and path.samefile(result):
        raise UsageError(f"{path} is the result itself", hint="give the model that it was made of: --source MODEL")
    if receipt is None or source.builder:
        return
    found = open_model(runner, source, request.options).artifact.sha256
    if found not in {artifact.sha256 for artifact in (receipt.source, *(step.artifact for step in receipt.steps))}:
        message = (
            f"{path} (sha256 {found[:12]}…) is not the source that {result} was made of: {receipt.source.path} "
            f"(sha256 {receipt.source.sha256[:12]}…)"
        )
        hint = f"give that one: hub repair {shlex.quote(result)} --source MODEL"
        raise UsageError(message, hint=hint)


def _target(registry: Registry, state: State, path: Path) -> str:
    """The target that gives such a state; its format for one that no target names."""
    names = sorted(registry.target_names)
    return next((name for name in names if registry.target(name, path) == (state.format, state.form)), state.format)


def _over(made: ConvertOptions, asked: ConvertOptions) -> ConvertOptions:
    """The options that the result was made with, under those that the user gives now."""
    given = {name: getattr(asked, name) for name in asked.__struct_fields__}
    return msgspec.structs.replace(
        made, **{name: value for name, value in given.items() if value != getattr(ConvertOptions(), name)}
    )


def _is_there(spec: str) -> bool:
    """Whether data can be had; none is, and what has a colon is a function's or has a query, and is not looked for."""
    return not spec or ":" in spec or Path(spec.partition("?")[0]).exists()
