"""The Python interface: what the command line does, also for live models and arrays."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hub._account import contradictions
from hub._bindings import options_for
from hub._candidate import Candidate
from hub._effects import check_bindings
from hub._engine import Conversion
from hub._events import Events, Silent
from hub._float_form import Claim, layers_proved
from hub._identify import identify
from hub._local import layers_words
from hub._measure import measure, outputs_of, with_constants
from hub._opening import Opened, open_model
from hub._parity import POLICIES, accuracy, carried, describe_failures
from hub._plugins import Registry
from hub._precision import prove_float32
from hub._receipt import read_receipt, unsteady_words
from hub._reference import samples_and_reference
from hub._repeat import repeated
from hub._request import (
    Request,
    Source,
    check_runtime,
    choose_numerics,
    default_output,
    did_you_mean,
    parse_numerics,
    parse_source,
)
from hub._routing import Plan
from hub._runner import Runner
from hub._sampling import prepare_samples
from hub._shapes import GUESSES, check_names
from hub._store import Store
from hub._unrun import check_here
from hub._workers import Limits, Workers
from hub.spec import (
    ConvertOptions,
    DeviceMissing,
    Dim,
    DimRange,
    EffectError,
    Execution,
    HubError,
    LocalReport,
    ModelArtifact,
    ModelNotFound,
    Numerics,
    ParityPolicy,
    ParityReport,
    Receipt,
    Remark,
    Runtime,
    RuntimeOptions,
    SampleFolder,
    ShapeNeeded,
    StepError,
    UnknownName,
    UsageError,
)

if TYPE_CHECKING:
    from hub.spec.calibration import Feeds


@contextlib.contextmanager
def session(registry: Registry, *, limits: Limits | None = None, use_cache: bool = True) -> Iterator[Runner]:
    """A runner with its cache, its processes and its scratch folder."""
    store = Store()
    with store.scratch() as scratch, Workers(limits) as workers:
        yield Runner(registry, store, workers, scratch, use_cache=use_cache)


def _limits(request: Request) -> Limits:
    return Limits(seconds=request.step_timeout, memory_bytes=request.max_memory_mib << 20)


def run_request(request: Request, registry: Registry, events: Events | None = None) -> Receipt:
    """Carry out a conversion."""
    with session(registry, limits=_limits(request), use_cache=request.use_cache) as runner:
        return Conversion(request, runner, events or Silent()).run()


def plan_request(request: Request, registry: Registry, events: Events | None = None) -> tuple[Opened, Plan]:
    """Plan a conversion and run none of it."""
    with session(registry, limits=_limits(request)) as runner:
        return Conversion(request, runner, events or Silent()).plan()


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """A model as its reader sees it, and as its runtime executes it; `lack` says why that is not known."""

    opened: Opened
    execution: Execution | None = None
    lack: str = ""


def inspect_source(
    source: Source,
    options: ConvertOptions,
    registry: Registry,
    *,
    execute: RuntimeOptions | None = None,
    data: str = "",
    runtime: str = "",
) -> Inspected:
    """Describe a model; with `execute`, run it that way too and say what its runtime makes of it.

    Raises:
        HubError: The model cannot be read. That it cannot be run is told in the result.
    """
    with session(registry) as runner:
        opened = open_model(runner, source, options)
        if execute is None:
            return Inspected(opened=opened)
        here = registry.runs_here(choose_runtime(registry, opened.artifact, runtime), opened.summary)
        if not here:
            return Inspected(opened=opened, lack=f"{here.reason}; {here.hint}".rstrip("; "))
        request = Request(
            source=source, target="", numerics=None, output="", test=data, options=options, runtime=runtime
        )
        try:
            execution = _executed(request, runner, opened, execute)
        except DeviceMissing:
            raise
        except HubError as error:
            return Inspected(opened=opened, lack=f"{error.message}; {error.hint}".rstrip("; "))
        lack = "" if execution else "its runtime does not tell how it executes a model"
        able = choose_runtime(registry, opened.artifact, runtime)
        if execution and (wrong := contradictions(execution, execute, opened.summary, able)):
            execution, lack = None, f"what {able.name} says of it cannot be true: {wrong}"
        return Inspected(opened=opened, execution=execution, lack=lack)


def _executed(request: Request, runner: Runner, opened: Opened, how: RuntimeOptions) -> Execution | None:
    """Execute a model on the user's data, or on random inputs at the first size at which it runs."""
    refused: HubError | None = None
    for guess in (0, *GUESSES):
        try:
            samples = prepare_samples(request, runner, opened.summary.signature, fix=True, guess=guess)
            inputs = with_constants(runner, opened.artifact, samples.check, request.options)
            return runner.explain(runner.subject(opened.artifact, how, preferred=request.runtime), inputs)
        except (ShapeNeeded, StepError) as error:
            refused = refused or error
    raise refused or ShapeNeeded("no size was tried")


def convert(  # noqa: PLR0913 the whole request as keywords, like the command line
    model: Any,
    to: str,
    *,
    precision: str = "",
    calibration: Any = None,
    test: Any = None,
    output: str | Path = "",
    example_inputs: Any = None,
    weights: str | Path = "",
    options: ConvertOptions | None = None,
    require_speedup: float = 0.0,
    runtime: str = "",
    strict: bool = False,
    fast: bool = False,
    force: bool = False,
    policy: ParityPolicy | None = None,
    events: Events | None = None,
) -> Receipt:
    """Convert a model, prove that the result computes the same thing, and write it with its receipt.

    Args:
        model: A path, `package.module:builder`, a torch.nn.Module or a keras.Model.
        to: Target: a format (`tflite`, `onnx`, `openvino`) or a backend with a form of its own (`onnxruntime`).
        precision: `fp32`, `fp16`, `int8`, `int8-dynamic`, `int16x8`, `int4-weights`; by default the model's own.
        calibration: A data spec as on the command line, an array (models with one input), or arrays by input name
            with samples along the first axis.
        test: Data to check parity on, in the same forms; by default a part of the calibration data is held out.
        output: The artifact's path; by default named after the model, in the current folder.
        example_inputs: For a live torch module: a tuple of tensors, or a dict of keyword arguments.
        weights: For a builder: `.safetensors` or a state dict.
        options: Shapes, constants, layouts.
        require_speedup: Least speed-up over the result's float form in its runtime (over the source where there is
            none); 0 for any.
        runtime: Who runs the result, by name; by default the runtime of the plugin that reads its format.
        strict: Refuse `int8-mixed` where `int8` is asked for.
        fast: Judge the result by its outputs alone, not layer by layer.
        force: Replace the output.
        policy: Your own gate.
        events: Told about progress.

    Raises:
        HubError: With a code, a message with the values, and a hint. Nothing is written then.
    """
    registry = Registry()
    with tempfile.TemporaryDirectory(prefix="hub-") as folder:
        source = source_of(model, Path(folder), registry, example_inputs, str(weights))
        numerics, announced = choose_numerics(
            precision, calibration=calibration is not None, offered=lambda: registry.numerics_of(to, Path(output))
        )
        request = Request(
            source=source,
            target=to,
            numerics=numerics,
            output=str(output) or default_output(source, registry, to, numerics),
            options=options or ConvertOptions(),
            calibration=_data_spec(calibration, Path(folder), "calibration"),
            test=_data_spec(test, Path(folder), "test"),
            policy=policy,
            announced=announced,
            require_speedup=require_speedup,
            runtime=runtime,
            strict=strict,
            fast=fast,
            force=force,
        )
        return repeated(request) or run_request(request, registry, events)


def source_of(model: Any, folder: Path, registry: Registry, example_inputs: Any = None, weights: str = "") -> Source:
    """Turn what the user gave into a source: a path, a builder, or a live model saved into `folder`."""
    if isinstance(model, str | Path):
        return parse_source(str(model), weights)
    saved = registry.manager.hook.hub_save_live_model(model=model, folder=folder, example_inputs=example_inputs)
    path = next((path for path in saved if path), None)
    if path is None:
        raise UsageError(
            f"a {type(model).__module__}.{type(model).__name__} is no model of an installed plugin",
            hint="give a path, a torch.nn.Module or a keras.Model; `hub plugins` shows what is installed",
        )
    return Source(path=str(path))


def _data_spec(data: Any, folder: Path, name: str) -> str:
    """A data spec; arrays are written down first."""
    if data is None:
        return ""
    if isinstance(data, str | Path):
        return str(data)
    import numpy as np

    file = folder / f"{name}.npz"
    arrays = data if isinstance(data, Mapping) else {"arr_0": data}
    np.savez(file, allow_pickle=False, **{key: np.asarray(array) for key, array in arrays.items()})
    return str(file)


def verify(  # noqa: PLR0913 keywords, like the command line
    source: str,
    result: str,
    *,
    data: str = "",
    numerics: str = "",
    options: ConvertOptions | None = None,
    policy: ParityPolicy | None = None,
    runtime: str = "",
    fast: bool = False,
) -> ParityReport:
    """Measure a result against its source, whoever made it.

    A quantized one is held against a float model of its own format too, layer by layer: the source, a float step of its
    conversion, or what hub makes of the source.

    Args:
        source: Path or builder of the source.
        result: Path of the result.
        data: Data spec; random inputs when empty.
        numerics: Precision whose gate applies; by default what the reader finds in the result.
        options: Shapes and constants of the source.
        policy: Your own gate.
        runtime: Who runs the result, by name; by default the runtime of the plugin that reads its format.
        fast: Judge the result by its outputs alone, not layer by layer.

    Returns:
        The measurement; `passed` says whether the gate held. The result's receipt, when it lies beside it, gives the
        declared changes of inputs and outputs.

    Raises:
        VerificationError: A float32 result passed, but its runtime does not compute in float32.
    """
    registry = Registry()
    request = Request(
        source=parse_source(source), target="", numerics=Numerics.FP32, output="", test=data,
        options=options or ConvertOptions(),
    )  # fmt: skip
    with session(registry) as runner:
        opened = open_model(runner, request.source, request.options)
        other = open_model(runner, Source(path=result), ConvertOptions())
        check_here(registry, choose_runtime(registry, other.artifact, runtime), other.summary)
        receipt = read_receipt(Path(result), other.artifact)
        _check_pair(opened, other, receipt)
        request = as_made(request, opened, receipt) if receipt else request
        fix = other.summary.signature.is_static
        samples, reference = samples_and_reference(request, runner, opened, fix=fix)
        wanted = parse_numerics(numerics) if numerics else other.summary.state.numerics
        gate = policy or (carried(wanted) if opened.summary.state.numerics == wanted else POLICIES[wanted])
        made = Candidate(
            artifact=other.artifact,
            summary=other.summary,
            options=samples.options,
            steps=receipt.steps if receipt else (),
            runtime=runtime,
        )
        try:
            report = measure(runner, made, reference, gate)
        except EffectError as error:
            if receipt is None:
                error.hint = (
                    f"{result} has no receipt beside it, which says what became of inputs and outputs: bring it"
                )
            raise
        if report.passed:
            prove_float32(runner, opened, made, reference, report)
        if not fast:
            claim = Claim(request=request, opened=opened, result=made, reference=reference)
            report = _with_layers(report, layers_proved(runner, claim))
        report = on_random(report, receipt)
        if samples.labels:
            found = accuracy(samples.labels, reference.outputs, outputs_of(runner, made, reference), gate)
            report = msgspec.structs.replace(report, accuracy=found, passed=report.passed and not found.failure)
        unsteady = (unsteady_words(reference.unsteady),) if reference.unsteady else ()
        layers = report.local.remarks if report.local else ()
        remarks = (*_other_source(request.source, opened, receipt), *unsteady, *layers)
        return msgspec.structs.replace(report, remarks=remarks)


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


def _check_pair(source: Opened, result: Opened, receipt: Receipt | None) -> None:
    """Refuse two models of which one cannot be made of the other: they take other inputs.

    Raises:
        UsageError: With the inputs of both.
    """
    takes = [spec.name for spec in source.summary.signature.inputs]
    wanted = [spec.name for spec in (receipt.source if receipt else result.artifact).signature.inputs]
    if set(wanted) <= set(takes):
        return
    what = "was made of a model that takes" if receipt else "takes"
    hint = (
        f"give the model that it was made of: {receipt.source.path}"
        if receipt
        else "give the model that it was made of; or, if inputs were renamed, it has no receipt beside it: bring that"
    )
    message = f"{result.artifact.path} {what} {', '.join(wanted)}; {source.artifact.path} takes {', '.join(takes)}"
    raise UsageError(message, hint=hint)


def _other_source(source: Source, opened: Opened, receipt: Receipt | None) -> tuple[Remark, ...]:
    """Say that a result is compared with another model than the one it was made of; a builder's is new every time."""
    if receipt is None or source.builder or receipt.source.sha256 == opened.artifact.sha256:
        return ()
    text = (
        f"{source.label} (sha256 {opened.artifact.sha256[:12]}…) is not the source that the result's receipt names "
        f"({receipt.source.path}, sha256 {receipt.source.sha256[:12]}…); sizes and changes of inputs and outputs are "
        "taken from that receipt all the same"
    )
    return (Remark("warning", "other-source", text, "give the source that the result was made of, if you meant it"),)


def _sizes(shape: tuple[Dim, ...]) -> tuple[DimRange, ...]:
    """The sizes that bounded dimensions take; none where one is fixed in the file, or knows no bound."""
    if not all((dim.symbol and dim.high) or dim.size for dim in shape) or all(dim.size for dim in shape):
        return ()
    pairs = ((dim.size or max(dim.low, 1), dim.size or dim.high or dim.low) for dim in shape)
    return tuple(DimRange(low=low, best=high, high=high) for low, high in pairs)


def run(
    model: str,
    data: str,
    *,
    options: ConvertOptions | None = None,
    how: RuntimeOptions | None = None,
    runtime: str = "",
) -> "list[Feeds]":
    """Run a model on data and return its outputs, one dict of arrays per sample.

    Args:
        model: Path or builder.
        data: Data spec, as on the command line.
        options: Shapes and constants.
        how: Kernel set, device, threads, precision; by default the runtime's first kernel set, in float32.
        runtime: Who runs it, by name; by default the runtime of the plugin that reads its format.

    Raises:
        EffectError: A device or a precision is asked for, and what the runtime says of its session is another.
    """
    registry = Registry()
    request = Request(
        source=parse_source(model), target="", numerics=Numerics.FP32, output="", test=data,
        options=options or ConvertOptions(),
    )  # fmt: skip
    with session(registry) as runner:
        opened = open_model(runner, request.source, request.options)
        how = how or RuntimeOptions()
        chosen = choose_runtime(registry, opened.artifact, runtime, how.variant)
        check_here(registry, chosen, opened.summary)
        samples = prepare_samples(request, runner, opened.summary.signature, fix=True)
        inputs = with_constants(runner, opened.artifact, samples.check, request.options)
        folder, _ = runner.run(opened.artifact, how, inputs, (), preferred=runtime)
        asked = how.device != "cpu" or how.precision not in {"", "auto"}
        told = runner.explain(runner.subject(opened.artifact, how, preferred=runtime), inputs) if asked else None
        if told and (wrong := contradictions(told, how, opened.summary, chosen)):
            raise EffectError(f"{chosen.name} does not do what is asked for: {wrong}", hint="leave the option out")
        return list(SampleFolder(folder))


def choose_runtime(registry: Registry, artifact: ModelArtifact, name: str, variant: str = "") -> Runtime:
    """The runtime of a name, or the model's own for an empty one.

    Raises:
        UnknownName: There is none of that name, or it has no kernel set of that name.
        UsageError: It does not open the model.
    """
    check_runtime(name, artifact.state.format, registry.runtimes)
    runtime = registry.runtime_for(artifact.state.format, name)
    if variant and variant not in runtime.variants:
        hint = did_you_mean(variant, filter(None, runtime.variants))
        raise UnknownName(f"{runtime.name} has no kernel set {variant!r}", hint=hint)
    return runtime


def identify_file(path: str) -> str:
    """The format of a file, as `format` or `format+form`."""
    if not Path(path).exists():
        raise ModelNotFound(f"there is no file or folder {path}", hint="check the path")
    found = identify(Path(path), Registry())
    return f"{found.format}+{found.form}" if found.form else found.format
