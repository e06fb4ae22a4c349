"""`hub diff`: two models on the same samples, from outside and from inside."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hub._bindings import Chain
from hub._events import Events, Silent
from hub._float_form import float_conversion
from hub._judgement import as_made
from hub._measure import Reference, in_reals, run_options
from hub._opening import Opened, open_model
from hub._pairing import SignaturePairs, hold_alike, paired
from hub._plugins import Registry
from hub._receipt import read_receipt
from hub._reference import samples_and_reference
from hub._request import Request, Source, parse_source
from hub._runner import Runner, session
from hub._tally import cosine, decibels
from hub._tasks import KnownChanges, Subject
from hub._unrun import check_here
from hub.spec import (
    SQNR_CAP_DB,
    ConvertOptions,
    DiffCause,
    DiffReport,
    HubError,
    InsideDiff,
    ModelArtifact,
    Numerics,
    OpensInside,
    OutputDiff,
    Receipt,
    Remark,
    SampleFolder,
    Signature,
    UnsupportedModel,
)

CLOSE = 0.1
"""Relative error (root of noise over signal) below which one output is taken for another."""


def diff(
    model: str,
    other: str,
    *,
    data: str = "",
    worst: int = 8,
    options: ConvertOptions | None = None,
    events: Events | None = None,
) -> DiffReport:
    """Compare two models of any formats on the same samples: their outputs, and the tensors inside that both have.

    Args:
        model: Path or builder of A, what the other is measured against.
        other: Path of B. Its receipt, where it lies beside it and names A, says what became of inputs and outputs.
        data: Data spec in A's terms; random inputs when empty.
        worst: How many tensors are looked at closely.
        options: Shapes and constants of A.
        events: Told about progress.

    Returns:
        The report. Where A shows no layers, its float form in B's format stands in for it: the one that hub made on
        the way to B, or one that is made now.

    Raises:
        UsageError: The two take other inputs.
        HubError: One of them cannot be read or run.
    """
    events = events or Silent()
    with session(Registry()) as runner:
        between = open_both(runner, model, other, data, options or ConvertOptions(), events)
        one, two, reference, (its_options, chain) = between.one, between.two, between.reference, between.terms
        outputs, ran = runner.run(two.artifact, run_options(its_options, chain=chain), reference.inputs, chain)
        told = between.found.told
        remarks = [*told] if reference.kind == "given" else [_random_words(two), *told]
        compared = tuple(output_diffs(reference.outputs, outputs, _names(one.summary.signature, chain)))
        inside, stand_in = between.inside(events, worst, _swapped(compared))
        if stand_in:
            text = f"A's float form in {stand_in.state} was opened in its place, to look into layers as B has them"
            remarks.append(Remark("note", "stand-in-opened", text))
        return DiffReport(
            model=one.artifact,
            other=two.artifact,
            stand_in=stand_in,
            inputs=reference.kind,
            samples=ran.samples,
            outputs=compared,
            inside=inside,
            remarks=tuple(remarks),
        )


def open_both(
    runner: Runner, model: str, other: str, data: str, options: ConvertOptions, events: Events
) -> "ModelPair":
    """Open two models and run the first on the samples; see `diff`."""
    request = Request(
        source=parse_source(model), target="", numerics=Numerics.FP32, output="", test=data, options=options, fast=True
    )
    one = open_model(runner, request.source, request.options)
    two = open_model(runner, Source(path=other), ConvertOptions())
    for opened in (one, two):
        check_here(runner.registry, runner.registry.runtime_for(opened.artifact.state.format), opened.summary)
    receipt = read_receipt(Path(other), two.artifact)
    start = _start(one, receipt) if receipt else None
    if receipt and start == 0:
        request = as_made(request, one, receipt)
    made = [step.bindings for step in receipt.steps[start:]] if receipt and start is not None else None
    found = SignaturePairs((), {}, ())
    if made is None:
        frozen = request.options.constants
        found = paired(one.summary.signature, two.summary.signature, frozen)
        request = msgspec.structs.replace(
            request, options=msgspec.structs.replace(options, shapes={**found.shapes} | options.shapes)
        )
    chain = tuple(made) if made is not None else (found.bindings,)
    events.started("running both models")
    samples, reference = samples_and_reference(request, runner, one, fix=two.summary.signature.is_static)
    reference = in_reals(runner, reference, found.own)
    begun = receipt if start == 0 else None
    return ModelPair(request, runner, one, two, reference, (samples.options, chain), begun, found, _known(receipt))


def _random_words(two: Opened) -> Remark:
    text = "the inputs were drawn at random, as no data was given"
    if two.summary.state.numerics.needs_calibration:
        text += "; they may lie outside of the ranges that B was calibrated for"
    return Remark("warning", "diff-on-random-inputs", text, "give real samples: --data DATA")


def _known(receipt: Receipt | None) -> KnownChanges:
    """What a receipt tells of constants that are others than the float model's on purpose."""
    if receipt is None:
        return KnownChanges()
    moves: dict[str, float] = {}
    for recipe in (step.recipe for step in receipt.steps if step.recipe):
        with contextlib.suppress(msgspec.ValidationError):  # settings are the tool's own words
            moves |= msgspec.convert(recipe.settings.get("bias_corrections", {}), dict[str, float])
    return KnownChanges(corrections=moves)


def _swapped(outputs: tuple[OutputDiff, ...]) -> frozenset[str]:
    """Names of outputs that are in each other's place: of what is inside they say nothing."""
    swapped = [item for item in outputs if any(cause.code == "outputs-swapped" for cause in item.causes)]
    return frozenset(name for item in swapped for name in (item.output, item.other))


def _start(one: Opened, receipt: Receipt) -> int | None:
    """Which step of B's receipt begins with A; None where none does."""
    before = [receipt.source, *(step.artifact for step in receipt.steps[:-1])]
    for place, artifact in enumerate(before):
        if artifact.sha256 == one.artifact.sha256:
            return place
    takes = {spec.name for spec in one.summary.signature.inputs}
    like_source = (
        one.artifact.state.format == receipt.source.state.format
        and hold_alike(one.summary.signature, receipt.source.signature)
        and {spec.name for spec in receipt.source.signature.inputs} <= takes
    )  # a builder's model, or one that was trained further
    return 0 if like_source else None


class ModelPair(msgspec.Struct, frozen=True):
    """Two models that were run on the same samples, to be compared from inside.

    Attributes:
        request: The request for A.
        runner: Runs it.
        one: A.
        two: B.
        reference: The samples.
        terms: A's options with its sizes, and the changes from A's inputs and outputs to B's.
        receipt: B's receipt, where A is what it begins with.
        found: How inputs and outputs were paired where no receipt tells.
        known: What B's receipt tells of its constants.
    """

    request: Request
    runner: Runner
    one: Opened
    two: Opened
    reference: Reference
    terms: tuple[ConvertOptions, Chain]
    receipt: Receipt | None
    found: SignaturePairs
    known: KnownChanges

    def inside(self, events: Events, worst: int, renamed: frozenset[str]) -> tuple[InsideDiff, ModelArtifact | None]:
        """Compare, and say which model stood in for A where A shows no layers; some names say nothing."""
        known = msgspec.structs.replace(self.known, renamed=renamed)
        try:
            subjects, stand_in = self.subjects(events)
            found = self.runner.inside_diff(subjects, self.reference.inputs, known, worst=worst)
        except UnsupportedModel as lack:
            return InsideDiff(lack=lack.message.splitlines()[0]), None
        except HubError as error:
            return InsideDiff(lack=f"the layers could not be compared: {error.message.splitlines()[0]}"), None
        return found, stand_in

    def subjects(self, events: Events) -> tuple[tuple[Subject, Subject], ModelArtifact | None]:
        """Both as they are to be opened, and the model that stands in for A where A shows no layers.

        Raises:
            UnsupportedModel: There is nothing to look into.
            HubError: What is to stand in cannot be made.
        """
        receipt = self.receipt
        formats = self.runner.registry.formats
        if not isinstance(formats[self.two.artifact.state.format], OpensInside):
            shows = ", ".join(sorted(name for name, item in formats.items() if isinstance(item, OpensInside)))
            lack = (
                f"{self.two.artifact.state.format} shows no layers; those that do: {shows or 'none that is installed'}"
            )
            raise UnsupportedModel(lack)
        own_chain: Chain = (self.found.own,) if self.found.own else ()
        model, stand_in = self.one.artifact, None
        known = receipt and model.state.format != self.two.artifact.state.format and self._on_the_way(receipt)
        if known or not isinstance(formats[model.state.format], OpensInside):
            stand_in, made = self._float_form(receipt, events)
            model, own_chain = stand_in, (*own_chain, *made)
        if model.sha256 == self.two.artifact.sha256:
            same = f"A's float form in {model.state.format} is B itself" if stand_in else "both are the same file"
            raise UnsupportedModel(same)
        events.started("comparing layers")
        options, chain = self.terms
        subjects = (
            self.runner.subject(model, run_options(options, chain=own_chain), own_chain),
            self.runner.subject(self.two.artifact, run_options(options, chain=chain), chain),
        )
        return subjects, stand_in

    def _float_form(self, receipt: Receipt | None, events: Events) -> tuple[ModelArtifact, Chain]:
        """A's float form in B's format: what hub made on the way to B, or one that is made now.

        Raises:
            HubError: It cannot be made.
        """
        kind = self.two.artifact.state.format
        if receipt and (place := self._on_the_way(receipt)):
            return receipt.steps[place - 1].artifact, tuple(item.bindings for item in receipt.steps[:place])
        events.started(f"converting A to {kind}")
        made = float_conversion(self.runner, self.request, self.terms[0], kind)
        return made.result, tuple(step.bindings for step in made.steps)

    def _on_the_way(self, receipt: Receipt) -> int:
        """How many steps lead to the float form that hub made on the way to B; 0 where it is not there any more."""
        kind = self.two.artifact.state.format
        for place, step in reversed([*enumerate(receipt.steps, start=1)]):
            state, path = step.artifact.state, Path(step.artifact.path)
            if (state.format, state.numerics) != (kind, Numerics.FP32) or not path.exists():
                continue
            if (
                open_model(self.runner, Source(path=str(path)), ConvertOptions()).artifact.sha256
                == step.artifact.sha256
            ):
                return place
        return 0


def _names(signature: Signature, chain: Chain) -> dict[str, str]:
    """A's outputs -> B's names for them."""
    found = {}
    for spec in signature.outputs:
        name = spec.name
        for bindings in chain:
            name = next((b.target for b in bindings if b.direction == "output" and b.source == name), name)
        found[spec.name] = name
    return found


def output_diffs(one: Path, other: Path, names: dict[str, str]) -> Iterator[OutputDiff]:
    """Compare outputs over all samples; `names` are A's and B's for each."""
    import numpy as np

    sums: dict[tuple[str, str], list[float]] = {}
    facts: dict[str, list[float]] = {}
    bad: dict[tuple[str, str], int] = {}
    for ones, others in zip(SampleFolder(one), SampleFolder(other), strict=True):
        for name, array in ones.items():
            wanted = array.astype(np.float64)
            for second, found in others.items():
                if found.size == wanted.size:
                    given = found.astype(np.float64).reshape(wanted.shape)
                    finite = np.isfinite(wanted) & np.isfinite(given)
                    x, y = wanted[finite], given[finite]
                    noise = float(np.square(y - x).sum()) if finite.all() else math.inf
                    total = sums.setdefault((name, second), [0.0, 0.0, 0.0, 0.0])
                    for place, part in enumerate((float(x @ x), noise, float(x @ y), float(y @ y))):
                        total[place] += part
                    if second == name:
                        fact = facts.setdefault(name, [0.0, 0.0])
                        fact[0] = max(fact[0], float(np.abs(y - x).max(initial=0)))
                        fact[1] += wanted.size
                        for whose, values in (("A", wanted), ("B", given)):
                            lost = int(np.count_nonzero(~np.isfinite(values)))
                            bad[name, whose] = bad.get((name, whose), 0) + lost
    for name, (largest, elements) in facts.items():
        signal, noise, product, power = sums[name, name]
        near = [b for (a, b), (s, n, *_) in sums.items() if a == name != b and n < CLOSE**2 * s and n < noise / 100]
        said = [DiffCause(code="outputs-swapped", text=f"B's output {names.get(b, b)} is A's {name}") for b in near]
        said += [
            DiffCause(code="not-finite", text=f"{bad[name, whose] / elements:.1%} of {whose}'s numbers are not finite")
            for whose in ("A", "B")
            if bad[name, whose]
        ]
        yield OutputDiff(
            output=name,
            other=names.get(name, name),
            elements=int(elements),
            max_abs=largest,
            sqnr_db=decibels(signal, noise) if math.isfinite(noise) else -SQNR_CAP_DB,
            cosine=cosine(product, signal, power, noise) if math.isfinite(noise) else 0.0,
            causes=tuple(said),
        )
