"""Builds a plan of a precision ONNX, and says what is in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from hub.spec import (
    ConvertJob,
    ConvertOptions,
    Dim,
    DType,
    IoBinding,
    Numerics,
    Remark,
    Signature,
    StepError,
    StepOutput,
    TensorSpec,
    UnsupportedModel,
)
from hub_quanttrials import listed
from hub_tensorrt.cache import device_cache, keep
from hub_tensorrt.cuda import gpus
from hub_tensorrt.errors import failed
from hub_tensorrt.libraries import FP8_FROM, Library, strongly_typed
from hub_tensorrt.logger import Log, make_log
from hub_tensorrt.plan import check_plan
from hub_tensorrt.report import (
    LAYERS_SUFFIX,
    PRECISION_SUFFIX,
    VERSION,
    EngineProfile,
    EngineReport,
    beside,
    onnx_operators,
    parse_layers,
    sha256_of,
)

_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
_DTYPES = {
    "FLOAT": DType.FLOAT32, "HALF": DType.FLOAT16, "BF16": DType.BFLOAT16, "INT8": DType.INT8, "INT32": DType.INT32,
    "INT64": DType.INT64, "BOOL": DType.BOOL, "UINT8": DType.UINT8, "INT4": DType.INT4,
}  # fmt: skip
"""TensorRT's element types of inputs and outputs."""

_FOUND_AS = {
    Numerics.INT8: ("int8",), Numerics.INT8_MIXED: ("int8",), Numerics.FP8: ("fp8",), Numerics.FP16: ("fp16",),
    Numerics.BF16: ("bf16",), Numerics.INT8_WEIGHTS: ("int8-weights",), Numerics.INT4_WEIGHTS: ("int4-weights",),
    Numerics.FP32: ("fp32",),
}  # fmt: skip
"""Numerics asked for -> words of which one must name a multiplying layer."""


class Built(NamedTuple):
    """What the builder made.

    Attributes:
        plan: The serialized engine.
        signature: Inputs and outputs of the network.
        profiles: Input -> sizes.
        settings: What the builder was set to.
        log: What it said.
    """

    plan: bytes
    signature: Signature
    profiles: dict[str, EngineProfile]
    settings: dict[str, str]
    log: Log


def build(job: ConvertJob, library: Library) -> StepOutput:
    """Build a plan, and write it with its side files.

    Raises:
        DependencyMissing: The library does not load.
        UnsupportedModel: It cannot express the model, with the cause.
        StepError: It failed otherwise, or the precision that was asked for is in no layer.
    """
    module = library.load()
    source, target = Path(job.source.path), Path(job.output)
    capabilities = capabilities_of(library, job.options, job.target.numerics)
    built = _built(module, library, source, job, capabilities)
    target.write_bytes(built.plan)
    head = check_plan(target)
    precision = beside(target, PRECISION_SUFFIX)
    _copy_whole(source, precision)
    raw = next((text for text in reversed(built.log.every) if text.startswith("Layers:")), "")
    layers = parse_layers(raw, onnx_operators(precision))
    weights = next((int(found[1]) for text in built.log.every if (found := _WEIGHTS.search(text))), 0)
    report = EngineReport(
        report_version=VERSION,
        library=library.module,
        library_version=head.version,
        plan_sha256=sha256_of(target),
        precision_sha256=sha256_of(precision),
        numerics=job.target.numerics,
        signature=built.signature,
        profiles=built.profiles,
        built_for=tuple(f"sm{number}" for number in capabilities),
        settings=built.settings,
        weights_bytes=weights,
        layers=layers,
        raw=raw,
    )
    notes = (*_notes(library, report), *_check_precision(report))
    beside(target, LAYERS_SUFFIX).write_bytes(msgspec.json.encode(report))
    return StepOutput(notes=notes, bindings=tuple(_bindings(report)))


def capabilities_of(library: Library, options: ConvertOptions, numerics: Numerics) -> tuple[int, ...]:
    """The compute capabilities to build for: those asked for, else the usual ones that have the precision."""
    if options.build_for:
        return tuple(dict.fromkeys(int(parse_capability(word) or 0) for word in options.build_for))
    least = FP8_FROM if numerics is Numerics.FP8 else 0
    return tuple(number for number in library.usual if number >= least)


def parse_capability(word: str) -> int | None:
    """`sm86` or `8.6` as 86; None for anything else."""
    found = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", word.strip().lower())
    return int(found[1] + found[2]) if found else None


def _built(module: ModuleType, library: Library, source: Path, job: ConvertJob, capabilities: tuple[int, ...]) -> Built:
    log = make_log(module)
    who = f"{library.title} {module.__version__}"
    builder = module.Builder(log)
    network = builder.create_network(strongly_typed(module))
    parser = module.OnnxParser(network, log)
    if not parser.parse_from_file(str(source)):
        said = [_told(parser.get_error(index)) for index in range(parser.num_errors)]
        raise failed(f"{who} cannot read {source.name}", [*said, *log.errors])
    config = builder.create_builder_config()
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    config.clear_flag(module.BuilderFlag.TF32)  # float32 is float32
    _set_capabilities(module, config, capabilities)
    timings = None if library.ahead else _set_timings(config, library, module.__version__)
    profiles = _set_profile(builder, config, network, job)
    signature = _signature(network, job.source.signature, profiles)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise failed(f"{who} cannot build {source.name}", log.errors)
    if timings:
        keep(timings.file, bytes(timings.cache.serialize()))
    settings = {
        "TF32": "off",
        "builder optimization level": str(config.builder_optimization_level),
        "workspace bytes": str(config.get_memory_pool_limit(module.MemoryPoolType.WORKSPACE)),
        "strongly typed": "yes",
    }
    return Built(bytes(plan), signature, profiles, settings, log)


class Timings(NamedTuple):
    """What the builder timed on this very GPU; it must live as long as the builder works."""

    cache: Any
    file: Path


def _set_timings(config: Any, library: Library, version: str) -> Timings:
    """Let the builder use what it timed on this GPU before, and add to it."""
    file = device_cache("timings", library, version, gpus()[0])
    timing_cache = config.create_timing_cache(file.read_bytes() if file.exists() else b"")
    config.set_timing_cache(timing_cache, ignore_mismatch=False)
    return Timings(timing_cache, file)


def _told(error: Any) -> str:
    """One error of the parser; an operator that it does not take fails a check whose text is `false`."""
    operator, text = error.node_operator(), error.desc().strip()
    text = f"unsupported operator, by {error.func()}" if text in {"", "false"} else text
    return f"{operator} {error.node_name()}: {text}" if operator else text


def _set_capabilities(module: ModuleType, config: Any, capabilities: tuple[int, ...]) -> None:
    """Say for which devices; only the library that builds ahead of time is told.

    Raises:
        UnsupportedModel: It does not take one.
    """
    if not capabilities:
        return
    known = module.ComputeCapability.__members__
    config.num_compute_capabilities = len(capabilities)
    for index, number in enumerate(capabilities):
        kind = known.get(f"SM{number}")
        if kind is None or not config.set_compute_capability(kind, index):
            there = ", ".join(name.lower() for name in known if name.startswith("SM"))
            raise UnsupportedModel(f"it does not build for sm{number}", hint=f"--build-for {there}")


def _set_profile(builder: Any, config: Any, network: Any, job: ConvertJob) -> dict[str, EngineProfile]:
    """One optimization profile for every input with open dimensions.

    The library takes profiles of tensors that do not exist in silence, so the inputs are the network's own.

    Raises:
        UnsupportedModel: An input decides shapes, or has an open dimension that nobody gave a range.
    """
    profiles: dict[str, EngineProfile] = {}
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in inputs:
        name, shape = tensor.name, tuple(tensor.shape)
        if tensor.is_shape_tensor:
            hint = f"freeze it: --constant {name}=VALUE"
            raise UnsupportedModel(f"the values of the input {name} decide shapes inside the model", hint=hint)
        if -1 not in shape:
            continue
        sizes = job.options.ranges.get(name, ())
        if len(sizes) != len(shape):
            flag = "x".join("1..8" if size < 0 else str(size) for size in shape)
            message = f"{name} has open dimensions, and TensorRT needs the sizes that they take"
            raise UnsupportedModel(message, hint=f"give them: --shape {name}={flag} with your numbers")
        profiles[name] = EngineProfile(
            smallest=tuple(size.low for size in sizes),
            best=tuple(size.best for size in sizes),
            largest=tuple(size.high for size in sizes),
        )
    if profiles:
        optimization = builder.create_optimization_profile()
        for name, item in profiles.items():
            optimization.set_shape(name, item.smallest, item.best, item.largest)
        if config.add_optimization_profile(optimization) < 0:
            raise StepError(f"TensorRT refuses the profile {profiles}", hint="give other sizes: --shape")
    return profiles


def _signature(network: Any, source: Signature, profiles: dict[str, EngineProfile]) -> Signature:
    known = {spec.name: spec for spec in (*source.inputs, *source.outputs)}
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]

    def spec(tensor: Any) -> TensorSpec:
        own, profile = known.get(tensor.name), profiles.get(tensor.name)
        dims = []
        for index, size in enumerate(tensor.shape):
            there = own.shape[index] if own and len(own.shape) == len(tensor.shape) else None
            symbol = there.symbol if there and there.symbol else f"{tensor.name}_dim{index}"
            low, high = (profile.smallest[index], profile.largest[index]) if profile else (1, None)
            dims.append(Dim(size=size) if size >= 0 else Dim(symbol=symbol, low=low, high=high))
        kind = _DTYPES.get(str(tensor.dtype).rpartition(".")[2], DType.UNKNOWN)
        return TensorSpec(name=tensor.name, dtype=kind, shape=tuple(dims))

    return Signature(inputs=tuple(map(spec, inputs)), outputs=tuple(map(spec, outputs)))


def _bindings(report: EngineReport) -> Iterator[IoBinding]:
    found = {spec.name: spec for spec in report.signature.inputs}
    for name, profile in report.profiles.items():
        reason = f"optimization profile {profile} (smallest / tuned for / largest)"
        yield IoBinding(direction="input", source=name, target=name, reason=reason, shape=found[name].shape)


def _check_precision(report: EngineReport) -> tuple[Remark, ...]:
    """Refuse a plan in which nothing is in the precision that was asked for.

    Narrow weights with float activations are there where a layer holds them: the builder fuses some into their product,
    and makes others float in a kernel of their own, behind which the product is one of floats.

    Raises:
        StepError: The layers were read, some of them multiply, and none does so in that precision.
    """
    words, found = _FOUND_AS.get(report.numerics, ()), report.multiplied_in
    if not report.layers:
        text = "the builder's report of its layers could not be read: nothing says which precision they compute in"
        return (Remark("warning", "engine-layers-unread", text),)
    held = {layer.precision for layer in report.layers if layer.precision.endswith("-weights")}
    if found and words and not set(words) & (found.keys() | held):
        there = ", ".join(f"{count} in {word}" for word, count in found.items())
        raise StepError(
            f"{report.numerics.value} was asked for, and the engine multiplies nowhere in it: {there}",
            hint="its .precision.onnx says what was asked for layer by layer; try another precision",
        )
    if found and words and not set(words) & found.keys():
        there = ", ".join(f"{count} in {word}" for word, count in found.items())
        text = f"weights are stored narrow and made float in every run before they multiply: {there}"
        return (Remark("warning", "weights-widened", f"{text}; what that costs only a GPU can say"),)
    left = [f"{node} in {word}" for node, word in report.products.items() if word not in words]
    if left and report.numerics is Numerics.INT8:
        text = f"the builder took no int8 for {listed(left)}, whose Q/DQ pairs are in the precision ONNX"
        return (Remark("warning", "engine-left-float", text, "its layers.json has every layer"),)
    return ()


def _notes(library: Library, report: EngineReport) -> Iterator[Remark]:
    where = f"for {', '.join(report.built_for)}" if report.built_for else "for the device here"
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items() if name != "workspace bytes")
    built = f"built by {library.title} {report.library_version} {where}; {settings}"
    yield Remark("note", "engine-built", built)
    for name, profile in report.profiles.items():
        text = f"optimization profile of {name}: {profile} (smallest / tuned for / largest)"
        yield Remark("note", "engine-profile", text)
    found = report.multiplied_in
    if found:
        there = ", ".join(f"{count} in {word}" for word, count in found.items())
        text = f"operators that multiply, as the builder reports its layers: {there}"
        yield Remark("note", "engine-precisions", text)
    if report.weights_bytes:
        text = f"weights take {report.weights_bytes / 2**20:.2f} MiB on the device; the plan also holds kernels"
        yield Remark("note", "engine-weights", text)


def _copy_whole(source: Path, target: Path) -> None:
    """Copy an ONNX file under another name, with its external data, which is named after it."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    bare = onnx.load(source, load_external_data=False)
    if not any(uses_external_data(tensor) for tensor in bare.graph.initializer):
        shutil.copyfile(source, target)
        return
    model = onnx.load(source)
    onnx.save(model, target, save_as_external_data=True, location=f"{target.stem}.data")
