"""The engine: from a request to a verified artifact and its receipt, or to an error with nothing left behind."""

import datetime as dt
import itertools
import platform
from pathlib import Path
from typing import Protocol

import msgspec

from hub import _effects
from hub._contract import io_contract
from hub._files import check_output, check_side_files, publish
from hub._history import History
from hub._identify import identify
from hub._measure import Chain, Reference, adapt_samples, measure, outputs_of, self_noise
from hub._opening import Opened, open_model
from hub._parity import POLICIES, accuracy, carried, describe_failures
from hub._plugins import versions_of
from hub._reference import samples_and_reference
from hub._request import Request, check_target
from hub._routing import Plan, judge, make_plan, stateful_form
from hub._runner import Converted, Runner
from hub._sampling import Samples
from hub._shapes import check_names, fix_shapes
from hub._speed import Made, check_speed, explain, measure_speed, slow_words
from hub._version import VERSION
from hub.spec import (
    RECEIPT_VERSION,
    Accuracy,
    AlreadyQuantized,
    ConvertOptions,
    Edge,
    Execution,
    FailedAttempt,
    HubError,
    IoBinding,
    ModelArtifact,
    ModelRefused,
    ModelSummary,
    ModelUnreadable,
    NoRouteError,
    Numerics,
    ParityPolicy,
    ParityReport,
    Receipt,
    Route,
    ShapeNeeded,
    Speed,
    State,
    StepError,
    StepOutOfMemory,
    StepRecord,
    StepTimeout,
    TooSlow,
    UnsupportedModel,
    UsageError,
    VerificationError,
)
from hub.spec.errors import error_from_code


class Events(Protocol):
    """Who is told how a conversion goes."""

    def started(self, what: str) -> None:
        """A piece of work began."""

    def planned(self, summary: ModelSummary, plan: Plan) -> None:
        """The model is read and the routes are known; nothing slow has begun."""

    def finished(self, record: StepRecord) -> None:
        """An edge ended, well or with a parity that fails."""

    def noted(self, note: str) -> None:
        """Something was done that the user did not ask for in so many words."""

    def failed(self, attempt: FailedAttempt) -> None:
        """A route was given up."""


_BESIDE = {Numerics.INT8_MIXED: (Numerics.INT8,), Numerics.INT8_DYNAMIC: (Numerics.INT8_WEIGHTS,)}
"""What a source's own precision may be called in another format: ONNX counts the layers that multiply, TFLite all."""


_SOFTER = {
    Numerics.INT8: (Numerics.INT16X8, Numerics.INT8_DYNAMIC, Numerics.INT8_WEIGHTS),
    Numerics.INT4_WEIGHTS: (Numerics.INT8_DYNAMIC, Numerics.INT8_WEIGHTS),
}
"""What to try where a precision came out wrong, as far as the target has it."""


class Silent:
    """Tells nobody."""

    def started(self, what: str) -> None:
        """Do nothing."""

    def planned(self, summary: ModelSummary, plan: Plan) -> None:
        """Do nothing."""

    def finished(self, record: StepRecord) -> None:
        """Do nothing."""

    def noted(self, note: str) -> None:
        """Do nothing."""

    def failed(self, attempt: FailedAttempt) -> None:
        """Do nothing."""


class _Failed(Exception):
    """An edge of a route failed; `prefix` is the route up to and with it, `refused` whether it did not even run."""

    def __init__(
        self, prefix: tuple[str, ...], error: HubError, parity: ParityReport | None = None, *, refused: bool = False
    ) -> None:
        super().__init__(str(error))
        self.prefix = prefix
        self.refused = refused
        self.error = error
        self.parity = parity


class _Here(msgspec.Struct, frozen=True, kw_only=True):
    """Where a route has got to: the artifact, its summary, the changes so far, the steps so far.

    At its end: how fast the result is and how it is executed, and what is to be said of that.
    """

    artifact: ModelArtifact
    summary: ModelSummary
    chain: Chain = ()
    steps: tuple[StepRecord, ...] = ()
    speed: Speed | None = None
    execution: Execution | None = None
    deployed: ParityReport | None = None
    remarks: tuple[str, ...] = ()


class Conversion:
    """One request on its way."""

    def __init__(self, request: Request, runner: Runner, events: Events) -> None:
        self._request = request
        self._runner = runner
        self._events = events
        self._attempts: list[FailedAttempt] = []
        self._hints: dict[int, str] = {}  # by how far the route had got
        self._wanted = request.numerics or Numerics.FP32

    def plan(self) -> tuple[Opened, Plan]:
        """Open the model and find its routes; run none.

        Raises:
            UsageError: The request does not fit the model or the output path.
            NoRouteError: There is no route.
        """
        request, registry = self._request, self._runner.registry
        targets = registry.target_names
        if request.target not in targets:
            registry.check_broken(f"no loaded plugin writes {request.target}")
        check_target(request.target, targets)
        registry.check_suffix(request.target, request.destination)
        self._events.started(f"reading {request.source.label}")
        opened = open_model(self._runner, request.source, request.options)
        check_names(opened.summary.signature, request.options)
        self._wanted = request.numerics or opened.summary.state.numerics
        goals = self._goals()
        if opened.summary.state in goals:
            raise UsageError(
                f"{request.source.label} already is {goals[0]}", hint="ask for another --to or --precision"
            )
        data = bool(request.calibration)
        try:
            plan = make_plan(registry, opened.summary, goals, request.options, data=data, avoid=request.avoid)
        except NoRouteError as error:
            _refuse_twice(opened, self._wanted, error)
            raise
        return opened, self._with_history(opened, plan)

    def _with_history(self, opened: Opened, plan: Plan) -> Plan:
        self._history = History(self._runner.store, self._runner.registry, opened.artifact.sha256)
        if not self._request.use_cache:
            return plan
        routes, reasons = self._history.order(plan.routes)
        return msgspec.structs.replace(plan, routes=routes, history=reasons)

    def run(self) -> Receipt:
        """Convert, verify, publish.

        Raises:
            HubError: Anything; nothing is then at the output path that was not there before.
        """
        request = self._request
        inputs = (request.source.path, request.source.weights, request.calibration, request.test)
        check_output(request.destination, force=request.force, inputs=inputs)
        opened, plan = self.plan()
        self._events.planned(opened.summary, plan)
        self._events.started("running the source model")
        fix = not all(edge.keeps_dynamic for edge in plan.routes[0])
        samples, reference = samples_and_reference(self._request, self._runner, opened, fix=fix)
        for note in (*samples.notes, *samples.warnings):
            self._events.noted(note)
        here, samples = self._first_right_route(opened, plan, samples, reference)
        side = _side_files(here)
        check_side_files(side, request.destination, force=request.force, inputs=opened.summary.files)
        receipt = self._receipt(opened, plan, samples, reference, here)
        publish(Path(here.artifact.path), encode_receipt(receipt), request.destination, side)
        return receipt

    def _first_right_route(
        self, opened: Opened, plan: Plan, samples: Samples, reference: Reference
    ) -> tuple[_Here, Samples]:
        """Try the routes in order.

        A failed prefix is not tried again, nor a lossy edge whose result was wrong, nor another route that needs fixed
        shapes where one has said so.
        """
        open_only = False
        dead: set[tuple[str, ...]] = set()
        wrong: set[str] = set()
        for route in plan.routes:
            ids = tuple(edge.id for edge in route)
            if wrong & set(ids) or any(ids[: len(prefix)] == prefix for prefix in dead):
                continue
            if open_only and not all(edge.keeps_dynamic for edge in route):
                continue
            try:
                fitting = self._samples_for(opened, route, samples)
                here = self._walk(opened, route, fitting, reference)
                self._history.passed(ids)
                return self._explained(opened, here, reference, fitting.options), fitting
            except _Failed as failed:
                dead.add(failed.prefix)
                open_only |= samples.guessed and isinstance(failed.error, ShapeNeeded)
                if self._request.policy is None and not isinstance(failed.error, TooSlow):
                    self._history.failed(failed.prefix, failed.error.message)
                judged = failed.parity or isinstance(failed.error, TooSlow)
                if judged and route[len(failed.prefix) - 1].lossy:
                    wrong.add(failed.prefix[-1])
                self._give_up(ids, failed)
        raise self._all_failed(self._own_noise(opened, samples, reference))

    def _own_noise(self, opened: Opened, samples: Samples, reference: Reference) -> str:
        """Say so where the source itself leaves the float gate when its inputs change by one rounding step."""
        if not any(item.parity for item in self._attempts):
            return ""
        policy = POLICIES[Numerics.FP32]
        own = self_noise(self._runner, opened.artifact, reference, policy, samples.options)
        if own.passed:
            return ""
        noise = "one rounding step of its inputs alone moves the source's outputs beyond the float gate"
        return f". On these samples {noise} ({describe_failures(own)}), so they can prove little"

    def _samples_for(self, opened: Opened, route: tuple[Edge, ...], samples: Samples) -> Samples:
        """Fix the shapes when a later route needs them fixed and the first did not; never at a size of hub's choice."""
        if samples.options.shapes == samples.shapes or all(edge.keeps_dynamic for edge in route):
            return samples
        if samples.guessed:
            try:
                fix_shapes(opened.summary.signature, self._request.options, {})
            except ShapeNeeded as error:
                fixing = next(i for i, edge in enumerate(route, start=1) if not edge.keeps_dynamic)
                raise _Failed(tuple(edge.id for edge in route[:fixing]), error) from error
        for note in samples.shape_notes:
            self._events.noted(note)
        return samples.fixed()

    def _walk(self, opened: Opened, route: tuple[Edge, ...], samples: Samples, reference: Reference) -> _Here:
        here = _Here(artifact=opened.artifact, summary=opened.summary)
        for index, edge in enumerate(route):
            prefix = tuple(item.id for item in route[: index + 1])
            verdict = judge(self._runner.registry, edge.id, here.summary, _options_for(here, samples))
            if not verdict:
                reason = f"{edge.id} does not take this model: {verdict.reason}"
                raise _Failed(prefix, UnsupportedModel(reason, hint=verdict.hint), refused=True)
            try:
                here = self._step(here, edge, samples, reference, last=index == len(route) - 1)
            except HubError as error:
                raise _Failed(prefix, error) from error
            parity = here.steps[-1].parity
            if parity and not parity.passed:
                raise _Failed(prefix, _parity_error(edge, parity), parity)
        return here

    def _explained(self, opened: Opened, here: _Here, reference: Reference, options: ConvertOptions) -> _Here:
        """Add how the result is executed, and how fast it is where that was asked for or is the point of the result."""
        made = _made(opened, here)
        self._events.started("asking the runtime how it executes the result")
        policy = here.steps[-1].parity.policy if here.steps[-1].parity else POLICIES[here.artifact.state.numerics]
        told = explain(self._runner, made, reference, options, policy)
        here = msgspec.structs.replace(here, execution=told.execution, deployed=told.deployed, remarks=told.remarks)
        if not (self._request.require_speedup or self._is_for_speed(here)):
            return here
        self._events.started("timing the source and the result in turns")
        return self._timed(here, made, reference, options)

    def _is_for_speed(self, here: _Here) -> bool:
        return any(step.lossy for step in here.steps) or self._request.target in self._runner.registry.runtimes

    def _timed(self, here: _Here, made: Made, reference: Reference, options: ConvertOptions) -> _Here:
        least = self._request.require_speedup
        again = bool(least) or not self._request.use_cache
        try:
            speed = measure_speed(self._runner, made, reference, options, again=again)
            check_speed(speed, least)
        except HubError as error:
            if least:
                raise _Failed(tuple(step.edge for step in here.steps), error) from error
            return msgspec.structs.replace(here, remarks=(*here.remarks, f"it could not be timed: {error.message}"))
        slow = slow_words(speed, here.execution, here.artifact.state.numerics.value)
        return msgspec.structs.replace(here, speed=speed, remarks=(*here.remarks, *slow))

    def _step(self, here: _Here, edge: Edge, samples: Samples, reference: Reference, *, last: bool) -> _Here:
        """Run one edge, check what it declared, measure what it computes."""
        self._events.started(f"{edge.title or edge.id}: {edge.source} to {edge.target}")
        calibration = (
            adapt_samples(self._runner, samples.calibration, here.chain) if edge.needs_calibration else ("", "")
        )
        options = _options_for(here, samples)
        name = self._request.destination.name if last else ""
        converted = self._runner.convert(edge, here.artifact, options, calibration, here.summary.files, name)
        summary = self._checked(here, edge, converted, samples)
        artifact = self._runner.artifact(converted.path, edge.target, summary)
        chain = (*here.chain, converted.output.bindings)
        self._events.started(f"comparing {edge.target} with the source")
        parity = measure(self._runner, artifact, reference, chain, self._policy(here, edge), samples.options)
        record = self._record(edge, artifact, converted, parity, summary.operators)
        return _Here(artifact=artifact, summary=summary, chain=chain, steps=(*here.steps, record))

    def _checked(self, here: _Here, edge: Edge, converted: Converted, samples: Samples) -> ModelSummary:
        """Check the declared effects; a cached step is checked again, which also guards the cache."""
        options = _options_for(here, samples)
        _effects.check_written(edge, converted.path)
        try:
            found = identify(converted.path, self._runner.registry)
            found = msgspec.structs.replace(found, form=found.form or edge.target.form)
            summary = self._runner.describe(converted.path, found, options)
        except (ModelUnreadable, ModelRefused) as error:
            failure = StepError(f"{edge.id} wrote a file that nobody can read: {error}", hint=error.hint)
            failure.log = error.log
            raise failure from error
        _effects.check_state(edge, found, summary)
        _effects.check_files(edge, converted.path, summary)
        _effects.check_operators(edge, summary, options)
        before, after = here.summary.signature, summary.signature
        _effects.check_border(edge, before, after, converted.output.bindings, options)
        return msgspec.structs.replace(summary, state=edge.target)

    def _policy(self, here: _Here, edge: Edge) -> ParityPolicy:
        """The user's gate, the precision's, or a tighter one for a precision that the source has and keeps."""
        own, numerics = self._request.policy, edge.target.numerics
        if own and numerics == self._wanted:
            return msgspec.structs.replace(own, numerics=numerics)
        kept = here.summary.state.numerics == numerics and not any(step.lossy for step in here.steps)
        return carried(numerics) if kept and not edge.lossy else POLICIES[numerics]

    def _record(
        self,
        edge: Edge,
        artifact: ModelArtifact,
        converted: Converted,
        parity: ParityReport,
        operators: dict[str, int],
    ) -> StepRecord:
        done, output = converted.done, converted.output
        record = StepRecord(
            edge=edge.id,
            title=edge.title or edge.id,
            artifact=artifact,
            seconds=done.result.seconds,
            peak_memory_bytes=done.result.peak_memory_bytes,
            cached=done.cached,
            notes=output.notes,
            bindings=output.bindings,
            recipe=output.recipe,
            lossy=edge.lossy,
            parity=parity,
            tools=versions_of(edge.requires),
            operators=operators,
        )
        self._runner.registry.step_finished(record)
        self._events.finished(record)
        return record

    def _give_up(self, route: tuple[str, ...], failed: _Failed) -> None:
        attempt = FailedAttempt(
            route=route,
            edge=failed.prefix[-1],
            code=failed.error.code,
            message=failed.error.message,
            refused=failed.refused,
            log=failed.error.log,
            reproduce=f"python {failed.error.log}/reproduce.py" if failed.error.log else "",
            parity=failed.parity,
        )
        self._attempts.append(attempt)
        if failed.error.hint:
            self._hints.setdefault(len(failed.prefix), failed.error.hint)
        self._events.failed(attempt)

    def _all_failed(self, noise: str) -> HubError:
        """One error for all attempts: verification where any result was wrong, else the last failure's own kind."""
        wanted, last = self._wanted.value, self._attempts[-1]
        tried = "; ".join(f"{item.edge}: {item.message}" for item in self._attempts)
        codes = {item.code for item in self._attempts}
        code = VerificationError.code if any(item.parity for item in self._attempts) else last.code
        code = TooSlow.code if TooSlow.code in codes else code
        message = f"no route gave a right {wanted} model; nothing was written. Tried {tried}{noise}"
        error = error_from_code(code, message, self._advice(code))
        error.log = next((item.log for item in reversed(self._attempts) if item.log), "")
        error.details = {"attempts": self._attempts}
        return error

    def _advice(self, code: str) -> str:
        if code == TooSlow.code:
            return "accept what was measured: a lower --require-speedup, or none"
        if code in {StepTimeout.code, StepOutOfMemory.code, UnsupportedModel.code, ShapeNeeded.code} and self._hints:
            return self._hints[min(self._hints)]  # what stops a model earliest stops it on most routes
        if code == VerificationError.code and all(p.inputs == "random" for a in self._attempts if (p := a.parity)):
            return "the inputs were random, which the model may not be made for: give real ones, --test DATA"
        offered = self._runner.registry.numerics_of(self._request.target, self._request.destination)
        names = [item.value for item in _SOFTER.get(self._wanted, ()) if item in offered]
        return f"try --precision {' or '.join(names)}" if names else "see the logs; `hub plan` shows the routes"

    def _receipt(self, opened: Opened, plan: Plan, samples: Samples, reference: Reference, here: _Here) -> Receipt:
        last = here.steps[-1]
        if last.parity is None:
            raise VerificationError("the last step was not compared", hint="this is a defect in hub")
        return Receipt(
            receipt_version=RECEIPT_VERSION,
            hub_version=VERSION,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            requested=self._wanted,
            source=opened.artifact,
            result=msgspec.structs.replace(last.artifact, path=str(self._request.destination.absolute())),
            route=Route(edges=tuple(step.edge for step in here.steps), left_out=plan.left_out),
            steps=here.steps,
            parity=last.parity,
            contract=io_contract(opened.summary.signature, here.summary.signature, here.chain),
            notes=(*samples.notes, *(note for step in here.steps for note in step.notes)),
            warnings=(*samples.warnings, *_blind(reference), *self._warnings(opened.artifact, last), *here.remarks),
            failed_attempts=tuple(self._attempts),
            findings=opened.summary.findings,
            calibration=samples.record,
            accuracy=self._accuracy(samples, reference, here),
            operators=opened.summary.operators,
            execution=here.execution.report if here.execution else None,
            deployed=here.deployed,
            speed=here.speed,
            environment={
                "python": platform.python_version(),
                "machine": platform.machine(),
                "system": platform.system(),
            },
        )

    def _goals(self) -> tuple[State, ...]:
        """The state asked for, and behind it the mixed form, and with a speed to reach the dynamic one too."""
        request = self._request
        name, form = self._runner.registry.target(request.target, request.destination)
        form = stateful_form(self._runner.registry, name, form) if request.options.states else form
        behind = list(_BESIDE.get(self._wanted, ())) if request.numerics is None else []
        if self._wanted == Numerics.INT8 and not request.strict:
            behind = [Numerics.INT8_MIXED, *([Numerics.INT8_DYNAMIC] if request.require_speedup else [])]
        return tuple(State(format=name, numerics=item, form=form) for item in (self._wanted, *behind))

    def _warnings(self, source: ModelArtifact, last: StepRecord) -> tuple[str, ...]:
        return tuple(
            filter(None, (self._request.announced, self._mixed(last), self._unproved(last), _grown(source, last)))
        )

    def _mixed(self, last: StepRecord) -> str:
        got, wanted = last.artifact.state.numerics, self._wanted
        if got == wanted:
            return ""
        if self._request.numerics is None:
            return f"the source is {wanted.value}; as {last.artifact.state.format} counts, the result is {got.value}"
        kept = ", ".join(last.recipe.kept_float) if last.recipe else "some layers"
        return f"{wanted.value} was asked for and is {got.value}: in float stay {kept} (--strict refuses this)"

    def _unproved(self, last: StepRecord) -> str:
        random = last.parity is not None and last.parity.inputs == "random"
        if not random or last.artifact.state.numerics == Numerics.FP32:
            return ""
        return f"{last.artifact.state.numerics.value} was compared on random inputs only: give real ones, --test DATA"

    def _accuracy(self, samples: Samples, reference: Reference, here: _Here) -> Accuracy | None:
        if not samples.labels:
            return None
        outputs = outputs_of(self._runner, here.artifact, reference, here.chain, samples.options)
        return accuracy(samples.labels, reference.outputs, outputs)


def _made(opened: Opened, here: _Here) -> Made:
    """What is timed: the last model on the way that nothing lossy was done to is the float form, in the same format."""
    plain = list(itertools.takewhile(lambda step: not step.lossy, here.steps))
    same = bool(plain) and len(plain) < len(here.steps)
    same = same and plain[-1].artifact.state.format == here.artifact.state.format
    return Made(
        source=opened.artifact,
        result=here.artifact,
        chain=here.chain,
        plain=plain[-1].artifact if same else None,
        plain_chain=here.chain[: len(plain)],
    )


def _refuse_twice(opened: Opened, wanted: Numerics, reason: NoRouteError) -> None:
    """Tell a model that is quantized already from one that no route takes.

    Raises:
        AlreadyQuantized: Another quantized precision was asked for.
    """
    found = opened.summary.state.numerics
    if found.is_quantized and wanted.is_quantized:
        raise AlreadyQuantized(
            f"the model is {found.value} already, and no step leads from there to {wanted.value}",
            hint="give the float model that it was made from; without --precision it is converted as it is",
        ) from reason


def _blind(reference: Reference) -> tuple[str, ...]:
    if not reference.constant:
        return ()
    names = ", ".join(reference.constant)
    return (f"the source gives the same {names} for every sample, so the comparison proves little: --test DATA",)


def _grown(source: ModelArtifact, last: StepRecord) -> str:
    before, after = source.size_bytes, last.artifact.size_bytes
    if after < before or last.artifact.state.numerics == Numerics.FP32:
        return ""
    return f"the result is not smaller than the source: {before} -> {after} bytes"


def _side_files(here: _Here) -> list[Path]:
    """What the result's reader names beside the artifact itself."""
    artifact = Path(here.artifact.path)
    inside = (Path(file) for file in here.summary.files)
    beside = {file.name for file in inside if file.resolve().parent == artifact.resolve().parent}
    return [artifact.with_name(name) for name in sorted(beside - {artifact.name})]


def _options_for(here: _Here, samples: Samples) -> ConvertOptions:
    """The request's options in the terms of the artifact that the route has got to: names may have changed."""
    options = samples.options
    for bindings in here.chain:
        renamed = {bound.source: bound for bound in bindings if bound.direction == "input"}
        shapes = {name: shape for name, shape in options.shapes.items() if name not in renamed}
        moved = {
            bound.target: _permuted(options.shapes[name], bound.permutation)
            for name, bound in renamed.items()
            if bound.target and name in options.shapes
        }
        constants = {name: value for name, value in options.constants.items() if name not in renamed}
        states = _renamed(options.states, bindings)
        layout = "" if any(bound.permutation for bound in bindings) else options.io_layout  # done once is done
        options = msgspec.structs.replace(
            options, shapes=shapes | moved, constants=constants, states=states, io_layout=layout
        )
    return options


def _renamed(states: dict[str, str], bindings: tuple[IoBinding, ...]) -> dict[str, str]:
    inputs, outputs = (
        {bound.source: bound.target for bound in bindings if bound.direction == direction}
        for direction in ("input", "output")
    )
    pairs = {inputs.get(name, name): outputs.get(output, output) for name, output in states.items()}
    return {name: output for name, output in pairs.items() if name and output}


def _permuted(shape: tuple[int, ...], permutation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in permutation) if permutation else shape


def _parity_error(edge: Edge, parity: ParityReport) -> VerificationError:
    return VerificationError(
        f"the result of {edge.title or edge.id} is not the source's: {describe_failures(parity)}",
        hint="hub tries the next route where there is one",
    )


def encode_receipt(receipt: Receipt) -> bytes:
    """The receipt as JSON for people and machines."""
    return msgspec.json.format(msgspec.json.encode(receipt), indent=2) + b"\n"
