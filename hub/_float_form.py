"""A float model of a result's own format, whoever made the result: what its layers are held against."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from hub._candidate import Candidate
from hub._engine import Conversion
from hub._events import Silent
from hub._measure import Reference, compare_layers, measure
from hub._opening import Opened, open_model
from hub._parity import describe_failures, gate_of
from hub._request import Request, Source
from hub._runner import Runner
from hub.spec import ConvertOptions, HubError, LocalReport, ModelArtifact, Numerics, Receipt, VerificationError


class Claim(NamedTuple):
    """A result and its source, opened, with what the source computes.

    Attributes:
        request: The source, its samples and options as the result was made with.
        opened: The source.
        result: The result, with the steps that its receipt tells of.
        reference: What the source computes.
    """

    request: Request
    opened: Opened
    result: Candidate
    reference: Reference


def layers_proved(runner: Runner, claim: Claim) -> LocalReport | None:
    """Hold a result against the first float model of its own format that can be had; None for a float32 result.

    The nearer to the result, the more of its layers have a counterpart: a float step of its own conversion that still
    lies where the receipt says, else the source itself, else what hub makes of the source.
    """
    if claim.result.artifact.state.numerics is Numerics.FP32:
        return None
    lacks = []
    for what, made in _float_models(runner, claim):
        try:
            local = compare_layers(runner, made(), claim.result, claim.reference)
        except HubError as error:
            lacks.append(f"{what}: {error.message.splitlines()[0]}")
            continue
        if not local.lack:
            return msgspec.structs.replace(local, against=what)
        lacks.append(f"{what}: {local.lack}")
    return LocalReport(lack="; ".join(lacks))


def _float_models(runner: Runner, claim: Claim) -> Iterator[tuple[str, Callable[[], ModelArtifact]]]:
    """Float models of the result's format, nearest first: what each is in words, and how it is come by."""
    kind, source = claim.result.artifact.state.format, claim.opened.artifact
    for index, step in reversed([*enumerate(claim.result.steps, start=1)]):
        state = step.artifact.state
        if (state.format, state.numerics) == (kind, Numerics.FP32) and Path(step.artifact.path).exists():
            what = f"the step of its conversion that made {state} ({step.edge})"
            yield what, partial(_step_again, runner, claim, index)
            break
    if (source.state.format, source.state.numerics) == (kind, Numerics.FP32):
        yield "the source", lambda: source
    else:
        yield f"what hub makes of the source in {kind}", partial(_converted, runner, claim)


def _step_again(runner: Runner, claim: Claim, index: int) -> ModelArtifact:
    """A float model that a receipt names. Nothing but what it computes says that it is the source's.

    Raises:
        VerificationError: It computes something else.
    """
    steps = claim.result.steps[:index]
    again = open_model(runner, Source(path=steps[-1].artifact.path), ConvertOptions())
    made = msgspec.structs.replace(claim.result, artifact=again.artifact, summary=again.summary, steps=steps)
    found = measure(runner, made, claim.reference, gate_of(claim.opened.summary, Numerics.FP32))
    if not found.passed:
        message = f"it is not the source's: {describe_failures(found) or found.unproved}"
        raise VerificationError(message, hint="verify against the source that the receipt names")
    return again.artifact


def _converted(runner: Runner, claim: Claim) -> ModelArtifact:
    """The source in the result's format."""
    kind = claim.result.artifact.state.format
    return float_conversion(runner, claim.request, claim.result.options, kind).result


def float_conversion(runner: Runner, request: Request, options: ConvertOptions, kind: str) -> Receipt:
    """A source converted to a format in float32, and held against the source as `hub convert` does."""
    request = msgspec.structs.replace(
        request,
        target=kind,
        output=str(runner.folder() / f"float{runner.registry.suffix_of(kind)}"),
        options=options,
        numerics=Numerics.FP32,
        fast=True,
    )
    return Conversion(request, runner, Silent()).run()
