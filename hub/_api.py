"""The Python interface: what the command line does, also for live models and arrays."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hub._account import contradictions
from hub._engine import Conversion
from hub._events import Events, Silent
from hub._identify import identify
from hub._judgement import judge
from hub._measure import with_constants
from hub._opening import Opened, choose_runtime, open_model
from hub._plugins import Registry
from hub._receipt import read_receipt
from hub._repair import mend
from hub._repeat import repeated
from hub._request import (
    Request,
    Source,
    choose_numerics,
    default_output,
    parse_numerics,
    parse_source,
)
from hub._routing import Plan
from hub._runner import Runner, session
from hub._sampling import prepare_samples
from hub._shapes import GUESSES
from hub._unrun import check_here
from hub._workers import Limits
from hub.spec import (
    ConvertOptions,
    DeviceMissing,
    EffectError,
    Execution,
    HubError,
    ModelNotFound,
    Numerics,
    ParityPolicy,
    ParityReport,
    Receipt,
    RepairReport,
    RuntimeOptions,
    SampleFolder,
    ShapeNeeded,
    StepError,
    UsageError,
)

if TYPE_CHECKING:
    from hub.spec.calibration import Feeds


def _limits(request: Request) -> Limits:
    return Limits(
        seconds=request.step_timeout,
        memory_bytes=request.max_memory_mib << 20,
        search_seconds=request.search_budget,
    )


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
    search_budget: float = 0.0,
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
        search_budget: Seconds after which a step's search for a recipe ends with the best so far, as an interrupt ends
            it; 0 for no bound.
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
            search_budget=search_budget,
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
        options=options or ConvertOptions(), policy=policy, runtime=runtime, fast=fast,
    )  # fmt: skip
    with session(registry) as runner:
        other = open_model(runner, Source(path=result), ConvertOptions())
        receipt = read_receipt(Path(result), other.artifact)
        wanted = parse_numerics(numerics) if numerics else other.summary.state.numerics
        return judge(request, runner, other, receipt, wanted)


def repair(  # noqa: PLR0913 the whole request as keywords, like the command line
    result: str | Path,
    *,
    source: Any = None,
    calibration: Any = None,
    test: Any = None,
    output: str | Path = "",
    example_inputs: Any = None,
    weights: str | Path = "",
    options: ConvertOptions | None = None,
    search_budget: float = 0.0,
    runtime: str = "",
    strict: bool = False,
    force: bool = False,
    policy: ParityPolicy | None = None,
    events: Events | None = None,
) -> RepairReport:
    """Judge a result against its source, outputs and layers; where it is wrong, make a right one by the least change.

    The source is converted again to the same format and precision; where int8 does not hold, the layers that it breaks
    are put back into float, as `hub.convert` does. What is right is left alone, and nothing is written.

    Args:
        result: The file that may be wrong; it is not written over but with `force`.
        source: The model that it was made of, as for `convert`; by default what the result's receipt names.
        calibration: As for `convert`; by default what the receipt names, where that is still there.
        test: The same for the data to judge on.
        output: The new artifact's path; by default `NAME.repaired.SUFFIX` beside the result.
        example_inputs: For a live torch module.
        weights: For a builder.
        options: Shapes, constants, layouts, over those that the receipt names.
        search_budget: As for `convert`.
        runtime: Who runs the result, by name.
        strict: Refuse `int8-mixed` in the place of `int8`.
        force: Replace the output.
        policy: Your own gate.
        events: Told about progress.

    Returns:
        What was found; `receipt` is that of the new artifact, None where nothing was wrong.

    Raises:
        HubError: The source is not known, the samples prove nothing, or no right result can be made.
    """
    registry = Registry()
    with tempfile.TemporaryDirectory(prefix="hub-") as folder:
        named = Source() if source is None else source_of(source, Path(folder), registry, example_inputs, str(weights))
        request = Request(
            source=named,
            target="",
            numerics=None,
            output=str(output),
            options=options or ConvertOptions(),
            calibration=_data_spec(calibration, Path(folder), "calibration"),
            test=_data_spec(test, Path(folder), "test"),
            policy=policy,
            search_budget=search_budget,
            runtime=runtime,
            strict=strict,
            force=force,
        )
        return repair_request(str(result), request, registry, events)


def repair_request(result: str, request: Request, registry: Registry, events: Events | None = None) -> RepairReport:
    """Judge a result, and carry out its repair; what is empty in the request is taken from the result's receipt."""
    with session(registry, limits=_limits(request), use_cache=request.use_cache) as runner:
        return mend(result, request, runner, events or Silent())


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


def identify_file(path: str) -> str:
    """The format of a file, as `format` or `format+form`."""
    if not Path(path).exists():
        raise ModelNotFound(f"there is no file or folder {path}", hint="check the path")
    found = identify(Path(path), Registry())
    return f"{found.format}+{found.form}" if found.form else found.format
