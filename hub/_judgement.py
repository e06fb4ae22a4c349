"""A result that somebody made, held against its source: what `hub verify` says and `hub repair` starts from."""

from pathlib import Path

import msgspec

from hub._bindings import options_for
from hub._candidate import Candidate
from hub._effects import check_bindings
from hub._float_form import Claim, layers_proved
from hub._layer_bounds import layers_words
from hub._measure import in_reals, measure, outputs_of
from hub._opening import Opened, choose_runtime, open_model
from hub._pairing import SignaturePairs, hold_alike, paired
from hub._parity import accuracy, describe_failures, gate_of
from hub._precision import prove_float32
from hub._receipt import edited_words, unsteady_words
from hub._reference import samples_and_reference
from hub._request import Request, Source
from hub._runner import Runner
from hub._shapes import check_names
from hub._unrun import check_here
from hub.spec import (
    ConvertOptions,
    Dim,
    DimRange,
    EffectError,
    LocalReport,
    Numerics,
    ParityReport,
    Receipt,
    Remark,
    UsageError,
)


def judge(
    request: Request, runner: Runner, result: Opened, receipt: Receipt | None, numerics: Numerics
) -> ParityReport:
    """Measure a result against its source, whoever made it: its outputs, and its layers but where `fast` is asked for.

    Args:
        request: Source, data, and perhaps a gate and a runtime; target and output are not looked at.
        runner: To run both.
        result: The result.
        receipt: Its receipt, which gives the declared changes of inputs and outputs.
        numerics: Precision whose gate applies where the request has none.

    Raises:
        VerificationError: A float32 result passed, but its runtime does not compute in float32.
    """
    opened = open_model(runner, request.source, request.options)
    check_here(runner.registry, choose_runtime(runner.registry, result.artifact, request.runtime), result.summary)
    made_of = receipt if receipt and hold_alike(opened.summary.signature, receipt.source.signature) else None
    if made_of:
        _check_pair(opened, result, made_of)
        request, pairs = as_made(request, opened, made_of), SignaturePairs((), {}, ())
    else:
        asked, who = request.options, (request.source.label, result.artifact.path)
        pairs = paired(opened.summary.signature, result.summary.signature, asked.constants, who=who)
        sizes = msgspec.structs.replace(asked, shapes={**pairs.shapes} | asked.shapes)
        request = msgspec.structs.replace(request, options=sizes)
    fix = result.summary.signature.is_static
    samples, reference = samples_and_reference(request, runner, opened, fix=fix)
    reference = in_reals(runner, reference, pairs.own)
    usual = gate_of(opened.summary, numerics, carries=opened.summary.state.numerics == numerics)
    gate = msgspec.structs.replace(request.policy, numerics=numerics) if request.policy else usual
    made = Candidate(
        artifact=result.artifact,
        summary=result.summary,
        options=samples.options,
        steps=made_of.steps if made_of else (),
        paired=pairs.bindings,
        runtime=request.runtime,
    )
    try:
        report = measure(runner, made, reference, gate)
    except EffectError as error:
        if receipt is None:
            beside = f"{result.artifact.path} has no receipt beside it"
            error.hint = f"{beside}, which says what became of inputs and outputs: bring it"
        raise
    if report.passed:
        prove_float32(runner, opened, made, reference, report)
    if not request.fast:
        claim = Claim(request=request, opened=opened, result=made, reference=reference)
        report = _with_layers(report, layers_proved(runner, claim))
    report = on_random(report, receipt)
    if samples.labels:
        found = accuracy(samples.labels, reference.outputs, outputs_of(runner, made, reference), gate)
        report = msgspec.structs.replace(report, accuracy=found, passed=report.passed and not found.failure)
    unsteady = (unsteady_words(reference.unsteady),) if reference.unsteady else ()
    layers = report.local.remarks if report.local else ()
    edited = edited_words(Path(result.artifact.path)) if receipt else ()
    return msgspec.structs.replace(
        report,
        remarks=(*edited, *_other_source(request.source, opened, receipt, made_of), *pairs.told, *unsteady, *layers),
    )


def _with_layers(report: ParityReport, local: LocalReport | None) -> ParityReport:
    """A layer that is wrong is so on any samples, whether the outputs prove something on them or not."""
    if local is None or not local.failed:
        return msgspec.structs.replace(report, local=local)
    return msgspec.structs.replace(report, local=local, passed=False, unproved="")


def on_random(report: ParityReport, receipt: Receipt | None) -> ParityReport:
    """A result whose ranges were calibrated says nothing on inputs that are drawn: those may lie outside of them."""
    broken = any("NaN" in failure for output in report.outputs for failure in output.failures)
    wrong = broken or (report.local and report.local.failed)
    if report.passed or wrong or report.inputs != "random" or not report.policy.numerics.needs_calibration:
        return report
    data = receipt.calibration.spec if receipt and receipt.calibration else ""
    made = f"; it was calibrated on {data}" if data else ""
    local = report.local
    layers = f"; what hangs on no samples was proved: {layers_words(local)}" if local and not local.lack else ""
    unproved = (
        f"on random inputs, which may lie outside of the ranges that {report.policy.numerics.value} was made for, "
        f"{describe_failures(report)}{made}{layers}"
    )
    return msgspec.structs.replace(report, unproved=unproved)


def as_made(request: Request, opened: Opened, receipt: Receipt) -> Request:
    """The shapes, constants and states that the result was made with, under those that the user gives now."""
    known = {spec.name for spec in opened.summary.signature.inputs}
    inputs = receipt.steps[0].artifact.signature.inputs
    shapes = {spec.name: spec.fixed_shape for spec in inputs if spec.is_static and spec.name in known}
    ranges = {spec.name: sizes for spec in receipt.result.signature.inputs if (sizes := _sizes(spec.shape))}
    bindings = [bound for step in receipt.steps for bound in step.bindings]
    constants = {bound.source: bound.constant for bound in bindings if bound.constant is not None}
    states = {bound.source: bound.state for bound in bindings if bound.state}
    asked = request.options
    options = msgspec.structs.replace(
        asked,
        shapes=shapes | asked.shapes,
        ranges={name: sizes for name, sizes in ranges.items() if name in known - asked.shapes.keys()} | asked.ranges,
        constants=constants | asked.constants,
        states=states | asked.states,
    )
    carried = ConvertOptions(constants=constants, states=states)
    for step in receipt.steps:  # a receipt is a file beside the result: its word drops no output either
        check_bindings(step.edge, step.bindings, carried)
        carried = options_for(carried, step.bindings)
    check_names(opened.summary.signature, asked)
    try:
        check_names(opened.summary.signature, options)
    except UsageError as error:
        hint = "verify against the source that the receipt names, or give --shape for this one"
        raise UsageError(f"the result's receipt does not fit this source: {error.message}", hint=hint) from error
    return msgspec.structs.replace(request, options=options)


def _check_pair(source: Opened, result: Opened, receipt: Receipt) -> None:
    """Refuse a source that takes other inputs than the one that the result was made of.

    Raises:
        UsageError: With the inputs of both.
    """
    takes = [spec.name for spec in source.summary.signature.inputs]
    wanted = [spec.name for spec in receipt.source.signature.inputs]
    if set(wanted) <= set(takes):
        return
    message = (
        f"{result.artifact.path} was made of a model that takes {', '.join(wanted)}; "
        f"{source.artifact.path} takes {', '.join(takes)}"
    )
    raise UsageError(message, hint=f"give the model that it was made of: {receipt.source.path}")


def _other_source(
    source: Source, opened: Opened, receipt: Receipt | None, followed: Receipt | None
) -> tuple[Remark, ...]:
    """Say that a result is compared with another model than the one it was made of; a builder's is new every time."""
    if receipt is None or source.builder or receipt.source.sha256 == opened.artifact.sha256:
        return ()
    text = (
        f"{source.label} (sha256 {opened.artifact.sha256[:12]}…) is not the source that the result's receipt names "
        f"({receipt.source.path}, sha256 {receipt.source.sha256[:12]}…)"
    )
    if followed:
        text += "; sizes and changes of inputs and outputs are taken from that receipt all the same"
    return (Remark("warning", "other-source", text, "give the source that the result was made of, if you meant it"),)


def _sizes(shape: tuple[Dim, ...]) -> tuple[DimRange, ...]:
    """The sizes that bounded dimensions take; none where one is fixed in the file, or knows no bound."""
    if not all((dim.symbol and dim.high) or dim.size for dim in shape) or all(dim.size for dim in shape):
        return ()
    pairs = ((dim.size or max(dim.low, 1), dim.size or dim.high or dim.low) for dim in shape)
    return tuple(DimRange(low=low, best=high, high=high) for low, high in pairs)
