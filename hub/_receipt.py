"""The receipt: what was done, what was measured, what became of every input and output, and what must be said."""

import datetime as dt
import math
import platform
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from hub._bindings import Chain
from hub._candidate import Candidate
from hub._files import receipt_digest, receipt_path, with_digest
from hub._goals import wanted_numerics
from hub._measure import Reference
from hub._opening import Opened
from hub._plugins import Registry
from hub._precision import PROVED_DB
from hub._request import Request
from hub._routing import Plan
from hub._sampling import Samples
from hub._speed import Performance
from hub._steps import narrows
from hub._version import VERSION
from hub.spec import (
    RECEIPT_VERSION,
    Accuracy,
    ExecutionLevel,
    FailedAttempt,
    IoBinding,
    IoContract,
    ModelArtifact,
    Numerics,
    ParityReport,
    Receipt,
    Remark,
    RemarkKind,
    Route,
    Signature,
    StepRecord,
    TensorSpec,
    UsageError,
    VerificationError,
)


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """A result that passed, and what it was judged on.

    Attributes:
        source: The model that the route began with.
        result: The model that it ended with.
        samples: What both were run on.
        reference: What the source made of them.
        performance: How the result is executed, and how fast it is.
        accuracy: On labelled data.
    """

    source: Opened
    result: Candidate
    samples: Samples
    reference: Reference
    performance: Performance
    accuracy: Accuracy | None


def make_receipt(
    registry: Registry,
    request: Request,
    plan: Plan,
    proof: Proof,
    attempts: Sequence[FailedAttempt],
    unheard: Sequence[Remark],
) -> Receipt:
    """Put a conversion's receipt together; `unheard` is what is to be said of plugins that watched.

    Raises:
        VerificationError: The last step was not compared with the source.
    """
    source, result, samples, last = proof.source, proof.result, proof.samples, proof.result.steps[-1]
    if last.parity is None and last.not_run is None:
        raise VerificationError("the last step was not compared", hint="this is a defect in hub")
    performance = proof.performance
    wanted, level = wanted_numerics(request, source), _level(registry, result)
    made = Receipt(
        receipt_version=RECEIPT_VERSION,
        hub_version=VERSION,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        requested=wanted,
        source=msgspec.structs.replace(source.artifact, path=request.source.builder or source.artifact.path),
        result=msgspec.structs.replace(result.artifact, path=str(request.destination.absolute())),
        route=Route(edges=tuple(step.edge for step in result.steps), left_out=plan.left_out),
        steps=result.steps,
        parity=last.parity,
        level=level,
        not_run=last.not_run,
        contract=io_contract(source.summary.signature, result.summary.signature, result.chain),
        remarks=(
            *source.summary.findings,
            *plan.remarks,
            *samples.remarks,
            *(note for step in result.steps for note in step.notes),
            *(remark for step in result.steps if step.local for remark in step.local.remarks),
            *_warnings(request, proof, wanted, level),
            *unheard,
        ),
        failed_attempts=tuple(attempts),
        calibration=samples.record,
        target=request.target,
        options=request.options,
        accuracy=proof.accuracy,
        operators=source.summary.operators,
        execution=performance.execution.report if performance.execution else None,
        deployed=performance.deployed,
        speed=performance.speed,
        environment={
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.system(),
        },
    )
    return with_digest(made)


def _level(registry: Registry, result: Candidate) -> ExecutionLevel:
    if result.steps[-1].not_run:
        return "aot-built"
    runtime = registry.runtime_for(result.artifact.state.format, result.runtime)
    return "device-run" if runtime.device else "run"


def _warnings(request: Request, proof: Proof, wanted: Numerics, level: ExecutionLevel) -> Iterator[Remark]:
    last, constant = proof.result.steps[-1], ", ".join(proof.reference.constant)
    if constant:
        text = f"the source gives the same {constant} for every sample, so the comparison proves little"
        yield Remark("warning", "outputs-constant", text, "give other inputs: --test DATA")
    yield from kernels_words(last.parity)
    yield from integers_words(last.parity)
    if proof.reference.unsteady:
        yield unsteady_words(proof.reference.unsteady)
    yield from request.announced
    for spec in proof.result.summary.signature.inputs:
        if not spec.is_static and spec.name in proof.result.options.shapes:
            shape = "x".join(map(str, proof.result.options.shapes[spec.name])) or "a scalar"
            text = f"{spec} stays open in the file; it was compared at {shape} only, the shape that was asked for"
            yield Remark("warning", "compared-at-one-size", text)
    yield from grown_words(proof.source.artifact.size_bytes, proof.source.summary.parameters or 0, proof.result.steps)
    got = last.artifact.state.numerics
    if got != wanted:
        yield _other_numerics(request, wanted, proof.result.steps)
    if got != Numerics.FP32:
        yield from _quantized_warnings(proof.source.artifact, last, holds_kernels=level != "run")
    near = last.parity.worst.sqnr_db if last.parity else 0.0
    if narrows(proof.source.artifact.state.numerics, got) and near > PROVED_DB:
        text = f"{got.value} gives what the source does, to {near:.0f} dB: nothing seems to be held or computed in less"
        hint = "right where the weights are exact in it; else tell the plugin's authors"
        yield Remark("warning", "not-narrower", text, hint)
    yield from proof.performance.remarks


_FAR_APART_DB = 10
_NEAR_DB = 40
"""From here on nobody would see that kernels disagree."""


def kernels_words(parity: ParityReport | None) -> Iterator[Remark]:
    """What is to be said of a result that one runtime's kernels compute far better than its others."""
    outputs = [item for item in parity.outputs if " at " not in item.runtime and item.unequal is None] if parity else []
    for name in dict.fromkeys(item.output for item in outputs):
        found = sorted((item.sqnr_db, item.runtime) for item in outputs if item.output == name)
        (low, bad), (high, good) = found[0], found[-1]
        if low < min(high - _FAR_APART_DB, _NEAR_DB):
            text = f"{name} has {high:.1f} dB with {good} and {low:.1f} dB with {bad}: their kernels round otherwise"
            yield Remark(
                "warning", "kernels-disagree", text, "measure it where it will run; or try another --precision"
            )


def integers_words(parity: ParityReport | None) -> Iterator[Remark]:
    """What is to be said of integers that are not the source's, which may be ids as well as amounts."""
    shares = {item.output: item.unequal for item in parity.outputs if item.unequal} if parity else {}
    for name, share in shares.items():
        text = f"{share:.1%} of the integers of {name} are not the source's: if they are ids, those answers are wrong"
        yield Remark("warning", "integers-differ", text, "compare them by `hub run` of both; or keep float32")


def unsteady_words(outputs: Sequence[str]) -> Remark:
    """What is to be said of a source that does not repeat itself."""
    text = (
        f"the source gives another {', '.join(outputs)} when the same sample is run once more: it draws random numbers "
        "or keeps state from run to run, and what was compared hangs on both being drawn alike"
    )
    return Remark("warning", "source-unsteady", text, "take noise and dropout out of the model, or make them inputs")


_NAMED = 6
"""Layers that a warning names."""


def _other_numerics(request: Request, wanted: Numerics, steps: Sequence[StepRecord]) -> Remark:
    last = steps[-1]
    got = last.artifact.state.numerics
    if request.numerics is None:
        text = f"the source is {wanted.value}; as {last.artifact.state.format} counts, the result is {got.value}"
        return Remark("warning", "precision-counted-otherwise", text)
    recipe = next((step.recipe for step in reversed(steps) if step.recipe), None)
    names = recipe.kept_float if recipe else ("some layers",)
    more = f" and {len(names) - _NAMED} more (the receipt's recipe names all)" if len(names) > _NAMED else ""
    kept = ", ".join(names[:_NAMED]) + more
    text = f"{wanted.value} was asked for and is {got.value}: in float stay {kept}"
    return Remark("warning", "precision-mixed", text, "--strict refuses this")


_GROWN = 8
_GROWN_BYTES = 1 << 20
_WIDEST = 8  # bytes of a parameter


def grown_words(before: int, parameters: int, steps: Sequence[StepRecord]) -> Iterator[Remark]:
    """Warn of a result that is many times as large as its source, and name the step that made it so.

    Args:
        before: Bytes of the source; code is small where its weights are elsewhere, so its parameters count too.
        parameters: The source's.
        steps: Those from it to the result.
    """
    least, after = max(before, parameters * _WIDEST), steps[-1].artifact.size_bytes
    if after < _GROWN * least or after < least + _GROWN_BYTES:
        return
    sizes = [least, *(step.artifact.size_bytes for step in steps)]
    _, guilty = max(zip(sizes, steps, strict=False), key=lambda pair: pair[1].artifact.size_bytes / max(pair[0], 1))
    text = f"the result is {after / max(before, 1):.0f} times as large as the source: {before} -> {after} bytes"
    hint = f"{guilty.title} wrote out what the source computes: --avoid {guilty.edge} tries other routes"
    yield Remark("warning", "many-times-larger", text, hint)


def _quantized_warnings(source: ModelArtifact, last: StepRecord, *, holds_kernels: bool) -> Iterator[Remark]:
    judged = last.not_run.parity if last.not_run else last.parity
    if judged is not None and judged.inputs == "random":
        text = f"{last.artifact.state.numerics.value} was compared on random inputs only"
        yield Remark("warning", "compared-on-random", text, "give real ones: --test DATA")
    before, after = source.size_bytes, last.artifact.size_bytes
    if after >= before and not holds_kernels:
        text = f"the result is not smaller than the source: {before} -> {after} bytes"
        yield Remark("warning", "not-smaller", text)


def io_contract(source: Signature, result: Signature, chain: Chain) -> tuple[IoContract, ...]:
    """Follow every input and output of the source through the changes that the steps declared."""
    sides = (("input", source.inputs, result.inputs), ("output", source.outputs, result.outputs))
    return tuple(
        _follow(direction, spec, {found.name: found for found in there}, chain)
        for direction, here, there in sides
        for spec in here
    )


def _follow(direction: str, spec: TensorSpec, there: dict[str, TensorSpec], chain: Chain) -> IoContract:
    changes = list(_changes(direction, spec.name, chain))
    name = changes[-1].target if changes else spec.name
    reasons = tuple(bound.reason for bound in changes if bound.reason)
    return IoContract(direction=direction, source=spec, result=there.get(name), changes=reasons)


def _changes(direction: str, name: str, chain: Chain) -> Iterator[IoBinding]:
    for bindings in chain:
        bound = next((b for b in bindings if b.direction == direction and b.source == name), None)
        if bound:
            yield bound
            name = bound.target


def decode_receipt(text: bytes) -> Receipt:
    """Read a receipt of this version or of an earlier one.

    Raises:
        msgspec.DecodeError: It is none.
        UsageError: It is newer than this hub.
    """
    receipt: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
    version = msgspec.convert(receipt.get("receipt_version"), Annotated[int, msgspec.Meta(ge=1)])
    if version > RECEIPT_VERSION:
        message = f"the receipt has version {version}, hub {VERSION} reads versions up to {RECEIPT_VERSION}"
        raise UsageError(message, hint="pip install -U hub-convert")
    return msgspec.convert(_with_remarks(receipt) if version == 1 else receipt, Receipt)


class _OldFinding(msgspec.Struct):
    """A finding as receipts of version 1 have it."""

    code: str
    message: str
    hint: str = ""
    blocking: bool = False


class _OldReceipt(msgspec.Struct):
    """What receipts of version 1 say otherwise."""

    steps: tuple[dict[str, Any], ...]
    route: dict[str, Any]
    findings: tuple[_OldFinding, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    execution: dict[str, Any] | None = None


def _with_remarks(receipt: dict[str, Any]) -> dict[str, Any]:
    """A receipt of version 1, whose sentences had no codes but for the findings."""

    def named(kind: RemarkKind, texts: object) -> list[Remark]:
        return [Remark(kind, UNNAMED, text) for text in msgspec.convert(texts, tuple[str, ...])]

    old = msgspec.convert(receipt, _OldReceipt)
    found = [
        Remark("blocker" if item.blocking else "finding", item.code, item.message, item.hint) for item in old.findings
    ]
    told = [*named("note", old.notes), *named("warning", old.warnings)]
    steps = [step | {"notes": named("note", step.get("notes", ()))} for step in old.steps]
    texts = msgspec.convert(old.route.get("left_out", {}), dict[str, str])
    route = old.route | {"left_out": {edge: Remark("left-out", UNNAMED, text) for edge, text in texts.items()}}
    receipt = receipt | {"remarks": [*found, *told], "steps": steps, "route": route}
    if executed := old.execution:
        stands = [
            *named("obstacle", executed.get("obstacles", ())),
            *named("deviation", executed.get("deviations", ())),
        ]
        receipt["execution"] = executed | {"remarks": stands}
    return receipt


UNNAMED = "unnamed"
"""The code of what a receipt of version 1 says: nothing but findings had one."""
_LARGEST = 1 << 31
"""No tensor that a receipt speaks of has as many elements."""


def read_receipt(artifact: Path, found: ModelArtifact | None) -> Receipt | None:
    """The receipt beside an artifact, if there is one and it is this artifact's; or was, where `found` is None.

    Raises:
        UsageError: The receipt belongs to other bytes, or cannot be read.
    """
    file = receipt_path(artifact)
    if not file.exists():
        return None
    try:
        receipt = decode_receipt(file.read_bytes())
        _check(receipt)
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        hint = f"convert again, or remove it (rm {shlex.quote(str(file))}) and give the result's sizes: --shape"
        raise UsageError(f"the receipt {file} cannot be read: {error}", hint=hint) from error
    if found and receipt.result.sha256 != found.sha256:
        hint = f"hub repair {shlex.quote(str(artifact))} judges it and makes a right one, where it is wrong"
        message = f"{artifact} is not the file that its receipt describes: sha256 {found.sha256[:12]}…, receipt "
        raise UsageError(f"{message}{receipt.result.sha256[:12]}…", hint=hint)
    return receipt


def edited_words(artifact: Path) -> tuple[Remark, ...]:
    """What is to be said of an artifact's receipt that is not as hub wrote it: its word counts all the same.

    It guards against a slip, not against malice: who edits a receipt can hash it too.
    """
    file = receipt_path(artifact)
    said = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    if said.get("digest", "") in {"", receipt_digest(said)}:  # earlier versions wrote none
        return ()
    text = f"the receipt {file} was changed after hub wrote it; its options, inputs and outputs are taken as it stands"
    return (Remark("warning", "receipt-edited", text, "convert again, if nobody meant to change it"),)


def _check(receipt: Receipt) -> None:
    """Hold a receipt against what types do not say: it has steps, and tensors of sizes that there can be.

    Raises:
        ValueError: It is damaged.
    """
    if not receipt.steps:
        raise ValueError("it has no steps")
    for artifact in (receipt.source, receipt.result, *(step.artifact for step in receipt.steps)):
        for spec in (*artifact.signature.inputs, *artifact.signature.outputs):
            sizes = [dim.low if dim.size is None else dim.size for dim in spec.shape]
            backwards = any(dim.high is not None and dim.high < dim.low for dim in spec.shape)
            if backwards or any(size < 0 for size in sizes) or math.prod(sizes) >= _LARGEST:
                raise ValueError(f"{spec} has a size that no tensor has")
