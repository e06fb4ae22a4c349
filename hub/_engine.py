"""The engine: from a request to a verified artifact and its receipt, or to an error with nothing left behind."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from hub import _effects
from hub._bindings import options_for
from hub._candidate import Candidate
from hub._events import Events
from hub._files import check_output, check_side_files, encode_receipt, publish
from hub._goals import RouteFailed, all_failed, goals_of, refuse_quantizing_twice, wanted_numerics
from hub._history import History
from hub._identify import identify
from hub._local import describe_local
from hub._measure import Reference, adapt_samples, measure, measure_local, outputs_of, self_noise
from hub._opening import Opened, check_submodule, open_model
from hub._parity import POLICIES, accuracy, describe_failures, gate_of, no_evidence
from hub._precision import prove_float32
from hub._receipt import Proof, make_receipt, unsteady_words
from hub._reference import samples_and_reference, uncovered
from hub._repeat import SEARCH_ENDED, remember
from hub._request import Request, check_runtime, check_target
from hub._requirements import versions_of
from hub._routing import FROM_FLOAT, Plan, Route, edges_of, judge, make_plan
from hub._runner import Converted, Runner
from hub._sampling import Samples
from hub._shapes import bounded, check_names, check_ranges, fix_shapes, open_inputs, range_flags, tell_open
from hub._speed import Performance, check_speed, explain, measure_speed, slow_words
from hub._steps import Step, narrows
from hub._unrun import built_only, check_here
from hub.spec import (
    Accuracy,
    ConvertOptions,
    Edge,
    FailedAttempt,
    HubError,
    ModelRefused,
    ModelSummary,
    ModelUnreadable,
    NoRouteError,
    NothingCompared,
    Numerics,
    ParityPolicy,
    Receipt,
    Remark,
    ShapeNeeded,
    State,
    StepError,
    StepRecord,
    StoreError,
    TooSlow,
    UnsupportedModel,
    UsageError,
    VerificationError,
)


class Conversion:
    """One request on its way."""

    def __init__(self, request: Request, runner: Runner, events: Events) -> None:
        self._request = request
        self._runner = runner
        self._events = events
        self._failures: list[RouteFailed] = []
        self._attempts: list[FailedAttempt] = []
        self._unheard: list[Remark] = []  # what plugins that watch failed to be told
        self._cut_short = False  # whether a step was asked to end with the best so far
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
        format_name, _ = registry.target(request.target, request.destination)
        check_runtime(request.runtime, format_name, registry.runtimes)
        if request.require_speedup or request.runtime:
            check_here(registry, registry.runtime_for(format_name, request.runtime), None)
        self._events.started(f"reading {request.source.label}")
        opened = open_model(self._runner, request.source, request.options)
        check_names(opened.summary.signature, request.options)
        opened = _within_ranges(opened, request.options)
        self._wanted = wanted_numerics(request, opened)
        goals = goals_of(request, registry, self._wanted)
        if opened.summary.state in goals:
            raise UsageError(
                f"{request.source.label} already is {goals[0]}", hint="ask for another --to or --precision"
            )
        try:
            plan = self._planned(opened, goals)
        except NoRouteError as error:
            refuse_quantizing_twice(opened.summary.state.numerics, self._wanted, error)
            raise
        registry.runtime_for(format_name, request.runtime)  # what is not installed is told before any step
        if request.options.ranges and any(step.edge.needs_ranges for step in plan.routes[0]):
            check_ranges(opened.summary.signature, request.options)
        stay = self._keeps_dynamic(plan.routes[0])
        told = tell_open(opened.summary.signature, request.options, request.target, stay=stay)
        plan = msgspec.structs.replace(plan, remarks=told)
        if request.options.submodule:
            check_submodule(self._runner, opened, request.options)
        gate = request.policy or POLICIES[self._wanted]
        self._history = History(self._runner.store, registry, opened.artifact.sha256, gate)
        if not request.use_cache:
            return opened, plan
        routes, reasons = self._history.order(plan.routes)
        return opened, msgspec.structs.replace(plan, routes=routes, history=reasons)

    def _planned(self, opened: Opened, goals: tuple[State, ...], failed: Iterable[str] = ()) -> Plan:
        """The routes that are left where some edges went wrong, of which plugins may have said that they would not."""
        request = self._request
        return make_plan(
            self._runner.registry,
            opened.summary,
            goals,
            request.options,
            data=bool(request.calibration),
            avoid=(*request.avoid, *failed),
        )

    def _routes(self, opened: Opened, plan: Plan) -> Iterator[Route]:
        """The plan's routes; then those that had no room in it, over none of the edges that went wrong.

        A plan holds few routes, and many of them may begin with one edge that fails.
        """
        yield from plan.routes
        seen = {edges_of(route) for route in plan.routes}
        goals = goals_of(self._request, self._runner.registry, self._wanted)
        failed = sorted({item.prefix[-1] for item in self._failures})
        try:
            found = self._planned(opened, goals, failed).routes
        except NoRouteError:
            return
        yield from (route for route in found if edges_of(route) not in seen)

    def run(self) -> Receipt:
        """Convert, verify, publish.

        Raises:
            HubError: Anything; nothing is then at the output path that was not there before.
        """
        request = self._request
        inputs = (request.source.path, request.source.weights, request.calibration, request.test)
        check_output(request.destination, force=request.force, inputs=inputs)
        opened, plan = self.plan()
        reader = self._runner.registry.formats[plan.routes[0][-1].target.format]
        expected = [request.destination.with_suffix(suffix) for suffix in reader.side_suffixes]
        check_side_files(expected, request.destination, force=request.force, inputs=opened.summary.files)
        self._events.planned(opened.summary, plan)
        self._events.started("running the source model")
        fix = not self._keeps_dynamic(plan.routes[0])
        try:
            samples, reference = samples_and_reference(request, self._runner, opened, fix=fix)
        except ShapeNeeded as error:
            if fix and any(step.edge.needs_ranges for step in plan.routes[0]):
                signature = opened.summary.signature
                flags = range_flags(signature, open_inputs(signature, request.options), request.options)
                error.hint = f"{error.hint}; to keep them open, {flags}"
            raise
        for remark in samples.remarks:
            self._events.noted(remark)
        proof = self._first_right_route(opened, plan, samples, reference)
        side = _side_files(proof.result)
        check_side_files(side, request.destination, force=request.force, inputs=opened.summary.files)
        receipt = make_receipt(self._runner.registry, request, plan, proof, self._attempts, self._unheard)
        artifact = Path(proof.result.artifact.path)
        publish(artifact, encode_receipt(receipt), request.destination, side)
        if all(self._runner.registry.edges[edge].deterministic for edge in receipt.route.edges):
            remember(self._runner.store, request, receipt, artifact, side)
        return receipt

    def _first_right_route(self, opened: Opened, plan: Plan, samples: Samples, reference: Reference) -> Proof:
        """Try the routes in order.

        A failed prefix is not tried again, nor a lossy edge whose result was wrong, nor another route that needs fixed
        shapes where one has said so.
        """
        open_only = False
        dead: set[tuple[str, ...]] = set()
        wrong: set[str] = set()
        for route in self._routes(opened, plan):
            ids = edges_of(route)
            if wrong & set(ids) or any(ids[: len(prefix)] == prefix for prefix in dead):
                continue
            if open_only and not self._keeps_dynamic(route):
                continue
            try:
                return self._take(opened, route, samples, reference)
            except RouteFailed as failed:
                # samples that prove nothing do on no other route, and none has more room on the disk
                if isinstance(failed.error, NothingCompared | StoreError):
                    raise failed.error from failed
                dead.add(failed.prefix)
                open_only |= samples.guessed and isinstance(failed.error, ShapeNeeded)
                if not isinstance(failed.error, TooSlow) and not self._cut_short:
                    self._history.failed(failed.prefix, failed.error.message)
                judged = failed.parity or isinstance(failed.error, TooSlow)
                if judged and route[len(failed.prefix) - 1].edge.lossy:
                    wrong.add(failed.prefix[-1])
                self._failures.append(failed)
                self._attempts.append(failed.attempt(ids, self._runner.registry.edges[failed.prefix[-1]].title))
                self._events.failed(self._attempts[-1])
                if self._runner.interrupted:  # the best so far is not right, and no other route is wanted
                    raise KeyboardInterrupt from failed
        offered = self._runner.registry.numerics_of(self._request.target, self._request.destination)
        noise = self._own_noise(opened, samples, reference)
        wrong_values = any(item.parity for item in self._attempts) and samples.calibration[0]
        cause = uncovered(self._runner, opened, samples, reference) if wrong_values else ""
        raise all_failed(self._failures, self._attempts, self._wanted, offered, noise, cause)

    def _own_noise(self, opened: Opened, samples: Samples, reference: Reference) -> str:
        """Say so where the source itself leaves the float gate when its inputs change by one rounding step."""
        if not any(item.parity for item in self._attempts):
            return ""
        if reference.unsteady:
            told = unsteady_words(reference.unsteady)
            return f". And {told.text}: {told.hint}"
        source = Candidate(artifact=opened.artifact, summary=opened.summary, options=samples.options)
        own = self_noise(self._runner, source, reference, POLICIES[Numerics.FP32])
        if own.passed:
            return ""
        noise = "one rounding step of its inputs alone moves the source's outputs beyond the float gate"
        return f". On these samples {noise} ({describe_failures(own)}), so they can prove little"

    def _take(self, opened: Opened, route: tuple[Step, ...], samples: Samples, reference: Reference) -> Proof:
        """Go one route to its end, each step proved before the next."""
        samples = self._samples_for(opened, route, samples)
        candidate = Candidate(
            artifact=opened.artifact,
            summary=opened.summary,
            options=samples.options,
            runtime=self._request.runtime,
        )
        ran = candidate  # the last one that was run here
        for index, planned in enumerate(route):
            edge, prefix = planned.edge, tuple(step.edge.id for step in route[: index + 1])
            step = planned.starting_from(candidate.summary.state)
            if step is None:
                reason = f"it does not start from {candidate.summary.state}, which the step before it ended in"
                hint = FROM_FLOAT if opened.summary.state.numerics.is_quantized else ""
                raise RouteFailed(prefix, UnsupportedModel(reason, hint=hint), refused=True)
            verdict = judge(self._runner.registry, edge, candidate.summary, candidate.options)
            if not verdict:
                refusal = UnsupportedModel(verdict.reason, hint=verdict.hint)
                raise RouteFailed(prefix, refusal, refused=True)
            try:
                candidate = self._step(opened, candidate, step, samples, reference, last=planned is route[-1])
            except HubError as error:
                raise RouteFailed(prefix, error) from error
            parity = candidate.steps[-1].parity
            if parity and parity.unproved:  # by these samples no route's result is proved
                raise no_evidence(parity)
            if parity and not parity.passed:
                wrong = f"the result is not the source's: {describe_failures(parity)}"
                raise RouteFailed(prefix, VerificationError(wrong), parity)
            ran = candidate if parity else ran
        here = ran is candidate
        try:
            asked = self._request.options.io_layout
            _effects.check_carried_out(route[-1].edge, opened.summary.signature, candidate, asked)
            if ran.steps:
                prove_float32(self._runner, opened, ran, reference, ran.steps[-1].parity)
        except HubError as error:
            raise RouteFailed(prefix, error) from error
        labelled = self._accuracy(candidate, samples, reference) if here else None
        if labelled and labelled.failure:
            lost = VerificationError(f"the result is not the source's: {labelled.failure}")
            raise RouteFailed(prefix, lost, candidate.steps[-1].parity)
        # before its layers, which take longer: nobody wants them proved of a result that is too slow
        performance = self._performance(opened, candidate, reference) if here else Performance()
        candidate = self._layers_proved(opened, ran, candidate, samples, reference)
        self._history.passed(prefix)
        return Proof(
            source=opened,
            result=candidate,
            samples=samples,
            reference=reference,
            performance=performance,
            accuracy=labelled,
        )

    def _accuracy(self, result: Candidate, samples: Samples, reference: Reference) -> Accuracy | None:
        """What result and source make of labelled samples."""
        parity = result.steps[-1].parity
        if not samples.labels:
            return None
        outputs = outputs_of(self._runner, result, reference)
        return accuracy(samples.labels, reference.outputs, outputs, parity.policy if parity else None)

    def _layers_proved(
        self, opened: Opened, ran: Candidate, candidate: Candidate, samples: Samples, reference: Reference
    ) -> Candidate:
        """Hold what ran last against its float model, layer by layer, and write that into its step.

        Raises:
            RouteFailed: A layer is off by more than its own rounding. A range that cuts values off, or a bias that was
                moved, is told in the receipt.
        """
        if self._request.fast or not ran.steps or ran.artifact.state.numerics is Numerics.FP32:
            return candidate
        self._events.started(f"comparing the layers of {ran.artifact.state}")
        edges = tuple(step.edge for step in candidate.steps)
        try:
            local = measure_local(self._runner, opened.artifact, ran, reference, samples.calibration)
        except HubError as error:
            raise RouteFailed(edges, error) from error
        if local.failed:
            raise RouteFailed(edges, VerificationError(describe_local(local)))
        last = len(ran.steps) - 1
        steps = [
            msgspec.structs.replace(step, local=local) if place == last else step
            for place, step in enumerate(candidate.steps)
        ]
        return msgspec.structs.replace(candidate, steps=tuple(steps))

    def _samples_for(self, opened: Opened, route: tuple[Step, ...], samples: Samples) -> Samples:
        """Fix the shapes when a later route needs them fixed and the first did not; never at a size of hub's choice."""
        if samples.options.shapes == samples.shapes or self._keeps_dynamic(route):
            return samples
        if samples.guessed:
            try:
                fix_shapes(opened.summary.signature, self._request.options, {})
            except ShapeNeeded as error:
                fixing = next(i for i, step in enumerate(route, start=1) if not step.edge.keeps(self._request.options))
                raise RouteFailed(tuple(step.edge.id for step in route[:fixing]), error) from error
        for note in samples.shape_notes:
            self._events.noted(note)
        return samples.fixed()

    def _keeps_dynamic(self, route: tuple[Step, ...]) -> bool:
        return all(step.edge.keeps(self._request.options) for step in route)

    def _step(
        self, opened: Opened, before: Candidate, step: Step, samples: Samples, reference: Reference, *, last: bool
    ) -> Candidate:
        """Run one edge, check what it declared, measure what it computes."""
        edge = step.edge
        self._events.started(f"{step.title}: {step.source} to {step.target}")
        calibration = (
            adapt_samples(self._runner, samples.calibration, before.chain) if edge.needs_calibration else ("", "")
        )
        name = self._request.destination.name if last else ""
        least = self._policy(opened.summary, before, edge, step.target.numerics).sqnr_min_db
        needs = "" if least is None else f" (the gate asks for {least:g} dB)"
        converted = self._runner.convert(
            step,
            before.artifact,
            before.options,
            calibration,
            before.summary.files,
            name,
            told=lambda text: self._events.started(f"{step.title}: {text}{needs}"),
        )
        summary = self._checked(before, step, converted)
        if last:
            goals = goals_of(self._request, self._runner.registry, self._wanted)
            _effects.check_goal(edge, summary.state, goals)
        record = StepRecord(
            edge=edge.id,
            title=step.title,
            artifact=self._runner.artifact(converted.path, summary.state, summary),
            seconds=converted.done.result.seconds,
            peak_memory_bytes=converted.done.result.peak_memory_bytes,
            cached=converted.done.cached,
            notes=(*converted.output.notes, *self._ended_early(step, converted)),
            bindings=converted.output.bindings,
            recipe=converted.output.recipe,
            lossy=edge.lossy or narrows(before.summary.state.numerics, summary.state.numerics),
            tools=versions_of(edge.requires),
            operators=summary.operators,
        )
        after = msgspec.structs.replace(
            before,
            artifact=record.artifact,
            summary=summary,
            options=options_for(before.options, record.bindings),
            steps=(*before.steps, record),
        )
        registry = self._runner.registry
        runtime = registry.runtime_for(summary.state.format, after.runtime)
        if runtime.name == after.runtime:  # who names one wants the result run in it: a word skips no comparison
            check_here(registry, runtime, summary)
        here = registry.runs_here(runtime, summary)
        if here:
            self._events.started(f"comparing {summary.state} with the source")
            policy = self._policy(opened.summary, before, edge, summary.state.numerics)
            record = msgspec.structs.replace(record, parity=measure(self._runner, after, reference, policy))
        else:
            not_run = built_only(registry, before, edge, after, here, last=last)
            record = msgspec.structs.replace(record, not_run=not_run)
        self._unheard.extend(self._runner.registry.step_finished(record))
        self._events.finished(record)
        return msgspec.structs.replace(after, steps=(*before.steps, record))

    def _ended_early(self, step: Step, converted: Converted) -> Iterator[Remark]:
        """Say that a step's search was not gone through to its end."""
        if not converted.done.cut_short:
            return
        self._cut_short = True
        why = "you interrupted it" if self._runner.interrupted else f"after {self._request.search_budget:g} s"
        text = f"the search of {step.title} was ended early, {why}: it gave the best that it had"
        yield Remark("warning", SEARCH_ENDED, text, "convert again for the whole search")

    def _checked(self, before: Candidate, step: Step, converted: Converted) -> ModelSummary:
        """Check the declared effects; a cached step is checked again, which also guards the cache."""
        edge = step.edge
        _effects.check_written(edge, converted.path)
        try:
            found = identify(converted.path, self._runner.registry)
            found = msgspec.structs.replace(found, form=found.form or step.target.form)
            summary = self._runner.describe(converted.path, found, before.options)
        except (ModelUnreadable, ModelRefused) as error:
            failure = StepError(f"it wrote a file that nobody can read: {error}", hint=error.hint)
            failure.log = error.log
            raise failure from error
        state = _effects.check_state(step, found, summary)
        _effects.check_layers(edge, summary)
        _effects.check_recipe(edge, converted.output.recipe, step.target, state)
        _effects.check_files(edge, converted.path, summary)
        _effects.check_operators(edge, summary, before.options)
        bindings = converted.output.bindings
        _effects.check_bindings(edge.id, bindings, before.options)
        _effects.check_signature(edge, before.summary.signature, summary.signature, bindings, before.options)
        return msgspec.structs.replace(summary, state=state)

    def _policy(self, source: ModelSummary, before: Candidate, edge: Edge, numerics: Numerics) -> ParityPolicy:
        """The user's gate, the precision's, or a tighter one for a precision that the source has and keeps."""
        own = self._request.policy
        if own and numerics == self._wanted:
            return msgspec.structs.replace(own, numerics=numerics)
        kept = before.summary.state.numerics == numerics and not any(step.lossy for step in before.steps)
        return gate_of(source, numerics, carries=kept and not edge.lossy)

    def _performance(self, opened: Opened, result: Candidate, reference: Reference) -> Performance:
        """How the result is executed, and how fast it is where that was asked for or is the point of the result."""
        request, runner, last = self._request, self._runner, result.steps[-1]
        self._events.started("asking the runtime how it executes the result")
        policy = last.parity.policy if last.parity else POLICIES[result.artifact.state.numerics]
        found = explain(runner, result, reference, policy)
        least = request.require_speedup
        for_speed = any(step.lossy for step in result.steps) or request.target in runner.registry.runtimes
        if not least and not for_speed:
            return found
        self._events.started("timing the source and the result in turns")
        try:
            speed = measure_speed(runner, opened, result, reference, again=bool(least) or not request.use_cache)
            check_speed(speed, least)
        except HubError as error:
            if least:
                raise RouteFailed(tuple(step.edge for step in result.steps), error) from error
            untimed = Remark("warning", "untimed", f"it could not be timed: {error.message}")
            return msgspec.structs.replace(found, remarks=(*found.remarks, untimed))
        slow = slow_words(speed, found.execution, result.artifact.state.numerics.value)
        return msgspec.structs.replace(found, speed=speed, remarks=(*found.remarks, *slow))


def _within_ranges(opened: Opened, options: ConvertOptions) -> Opened:
    signature = bounded(opened.summary.signature, options)
    return Opened(
        artifact=msgspec.structs.replace(opened.artifact, signature=signature),
        summary=msgspec.structs.replace(opened.summary, signature=signature),
    )


def _side_files(result: Candidate) -> list[Path]:
    """What the result's reader names beside the artifact itself."""
    artifact = Path(result.artifact.path)
    inside = (Path(file) for file in result.summary.files)
    beside = {file.name for file in inside if file.resolve().parent == artifact.resolve().parent}
    return [artifact.with_name(name) for name in sorted(beside - {artifact.name})]
