"""What OpenVINO executes: its runtime model and its counters, in the words of the file."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import ExecutedLayer, Execution, Remark, processor
from hub_openvino.devices import PINNED
from hub_openvino.ir import IrGraph, graphs_of, read_ir
from hub_openvino.numerics import MULTIPLY_OPERATORS, IrOperands, operator_key, precision_of

if TYPE_CHECKING:
    from pathlib import Path

    import openvino

    from hub.spec.calibration import Feeds

WARM_RUNS, MOST_RUNS, ENOUGH_SECONDS = 2, 10, 2.0
"""Runs before the profile, runs of it at most, and the time after which fewer do."""

SETTINGS = (
    "FULL_DEVICE_NAME", "EXECUTION_DEVICES", "INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT", "PERFORMANCE_HINT",
    "INFERENCE_NUM_THREADS", "NUM_STREAMS", "DYNAMIC_QUANTIZATION_GROUP_SIZE", "KV_CACHE_PRECISION",
)  # fmt: skip
PRECISIONS = {
    "f32": "fp32", "f16": "fp16", "bf16": "bf16", "f64": "fp64", "i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4",
    "i32": "integer", "i64": "integer", "u32": "integer", "u64": "integer", "i16": "integer", "u16": "integer",
    "boolean": "integer", "f8e4m3": "fp8", "f8e5m2": "fp8",
}  # fmt: skip
_COMPRESSED = {"i8": "int8-weights", "u8": "int8-weights", "i4": "int4-weights", "u4": "int4-weights"}
_PRODUCTS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq", "RNNCell"})
"""OpenVINO CPU's words for layers that multiply."""

_BORDER = frozenset({"Const", "Input", "Output", "Parameter", "Result"})
_MOVERS = frozenset({"Reorder", "Convert"})
_KERNEL = re.compile(r"_(f32|f16|bf16|i8|u8|I8|i32|i64)$")
_WORTH_TELLING = 0.05
_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedNode:
    """One node of the runtime model.

    Attributes:
        name: Its name there.
        info: What OpenVINO says of it.
        feeds: Element types of what it is fed from stored tensors.
        seconds: Time in all runs of the profile; None where it is not in the profile: it ran once, on constants.
        ran: Whether it did something; a view of its input does not.
    """

    name: str
    info: Mapping[str, str]
    feeds: tuple[str, ...]
    seconds: float | None
    ran: bool

    @property
    def kind(self) -> str:
        """OpenVINO's word for its layer."""
        return self.info.get("layerType", "")


class ProfiledModel(NamedTuple):
    """A model that is compiled with counters of time.

    Attributes:
        path: Its file.
        device: OpenVINO's name of the device that was asked for.
        compiled: The model there.
        run: Runs it once, on an infer request of it.
    """

    path: Path
    device: str
    compiled: openvino.CompiledModel
    run: Callable[[openvino.InferRequest, Feeds], Feeds]


def execution_of(model: ProfiledModel, feeds: Feeds) -> Execution:
    """Run a model a few times and read what was executed.

    Raises:
        StepError: OpenVINO fails.
    """
    import openvino

    ir = read_ir(model.path)
    seconds, statuses, runs = _profile(model, feeds)
    nodes = list(_nodes(model.compiled.get_runtime_model(), seconds, statuses))
    settings = _settings(model.compiled, model.device)
    device = settings.get("EXECUTION_DEVICES", model.device)
    operands = IrOperands(ir.graph)
    words = {n.name: precision_of(operands, n) for n in ir.graph.computing if n.type in MULTIPLY_OPERATORS}
    layers, named = _layers(ir.graph, nodes, device, words)
    rest = Counter(operator_key(node) for node in ir.graph.computing if node.key not in named)
    return Execution(
        runtime="openvino",
        version=openvino.get_version(),
        device=model.device,
        settings=settings,
        operators=dict(
            Counter(operator_key(n) for graph in graphs_of(ir.graph) for n in graph.computing).most_common()
        ),
        layers=layers,
        eliminated=dict(rest.most_common()),
        timed_by=f"profile of {runs} runs",
        remarks=(*_narrowed(settings), *_obstacles(words, layers, model.device)),
    )


def _profile(model: ProfiledModel, feeds: Feeds) -> tuple[dict[str, float], dict[str, bool], int]:
    """Seconds per node over all runs, whether each did something, and the number of runs."""
    request = model.compiled.create_infer_request()
    for _ in range(WARM_RUNS):
        model.run(request, feeds)
    seconds: Counter[str] = Counter()
    ran: dict[str, bool] = {}
    start, runs = time.perf_counter(), 0
    while runs < MOST_RUNS and (runs < WARM_RUNS or time.perf_counter() - start < ENOUGH_SECONDS):
        model.run(request, feeds)
        runs += 1
        for item in request.profiling_info:
            seconds[item.node_name] += item.real_time.total_seconds()
            ran[item.node_name] = ran.get(item.node_name, False) or "EXECUTED" in str(item.status)
    return dict(seconds), ran, runs


def _nodes(model: openvino.Model, seconds: Mapping[str, float], ran: Mapping[str, bool]) -> Iterator[ExecutedNode]:
    infos = [(node, {key: value.astype(str) for key, value in node.get_rt_info().items()}) for node in model.get_ops()]
    for node, info in sorted(infos, key=lambda pair: int(pair[1].get("execOrder", "0"))):
        name = node.get_friendly_name()
        yield ExecutedNode(
            name=name, info=info, feeds=tuple(_stored_feeds(node)), seconds=seconds.get(name), ran=ran.get(name, False)
        )


def _stored_feeds(node: openvino.Node) -> Iterator[str]:
    for port in node.inputs():
        info = port.get_source_output().get_node().get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) == "Const":
            yield info["outputPrecisions"].astype(str)


def _settings(compiled: openvino.CompiledModel, device: str) -> dict[str, str]:
    able = compiled.get_property("SUPPORTED_PROPERTIES")
    found = {name: compiled.get_property(name) for name in SETTINGS if name in able}
    if "FULL_DEVICE_NAME" not in found and ":" not in device and device != "AUTO":
        import openvino

        found = {"FULL_DEVICE_NAME": openvino.Core().get_property(device, "FULL_DEVICE_NAME"), **found}
    return {name: _word(value) for name, value in found.items()}


def _word(value: object) -> str:
    if hasattr(value, "get_type_name"):
        return str(value.get_type_name())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(getattr(value, "name", value))


def _layers(
    graph: IrGraph, nodes: Sequence[ExecutedNode], device: str, words: Mapping[str, str]
) -> tuple[tuple[ExecutedLayer, ...], set[int]]:
    """What is executed, and the keys of the file's layers that it stands for."""
    places = {node.name: place for place, node in enumerate(graph.computing)}
    executed = [run for run in nodes if run.kind not in _BORDER and run.seconds is not None]
    total = sum(run.seconds or 0.0 for run in executed) or 1.0
    named: set[int] = set()
    layers = []
    for run in executed:
        covered = [
            graph.computing[place] for place in sorted(_with_product(graph, run, _originals(run, places), places))
        ]
        if not run.ran and not covered:
            continue
        named |= {node.key for node in covered}
        promised = next((words[node.name] for node in covered if node.name in words), "")
        # A product's runtime precision is its weights' where they stay compressed; its kernel's name tells its own.
        word = run.info.get("runtimePrecision", "")
        kernel = _KERNEL.search(run.info.get("primitiveType", ""))
        if kernel and (word not in PRECISIONS or run.kind in _PRODUCTS):
            word = kernel[1].lower()
        precision = PRECISIONS.get(word, word or "unknown")
        layers.append(
            ExecutedLayer(
                name=run.name,
                operator=run.kind,
                precision=(
                    next((_COMPRESSED[kind] for kind in run.feeds if kind in _COMPRESSED), precision)
                    if run.kind in _PRODUCTS and precision in {"fp32", "fp16", "bf16"}
                    else ("int8-dynamic" if precision == "int8" and promised.endswith("-weights") else precision)
                ),
                device=device,
                kernel=run.info.get("primitiveType", "") if run.ran else "none: a view of its input",
                covers=tuple(operator_key(node) for node in covered),
                time_share=(run.seconds or 0.0) / total,
            )
        )
    return tuple(layers), named


def _originals(run: ExecutedNode, places: Mapping[str, int]) -> set[int]:
    """Places of the file's layers that a node says it comes from. Their names may hold the comma that parts them."""
    words = run.info.get("originalLayersNames", "").split(",")
    found: set[int] = set()
    start = 0
    while start < len(words):
        ends = (end for end in range(len(words), start, -1) if ",".join(words[start:end]) in places)
        end = next(ends, 0)
        if end:
            found.add(places[",".join(words[start:end])])
        start = max(end, start + 1)
    return found


def _with_product(graph: IrGraph, run: ExecutedNode, found: set[int], places: Mapping[str, int]) -> set[int]:
    """A fully connected layer with a bias says that it comes from the addition; what it adds to is the product."""
    covered = [graph.computing[place] for place in sorted(found)]
    if run.kind not in _PRODUCTS or any(node.type in MULTIPLY_OPERATORS for node in covered):
        return found
    sources = (graph.source(node, place) for node in covered for place in range(len(node.inputs)))
    products = [node for node in sources if node is not None and node.type in MULTIPLY_OPERATORS]
    return found | {places[node.name] for node in products[:1]}


def _obstacles(words: Mapping[str, str], layers: Sequence[ExecutedLayer], device: str) -> Iterator[Remark]:
    """What stands in the way of speed, with the values."""
    products = [layer for layer in layers if layer.operator in _PRODUCTS]
    integer = [layer for layer in products if layer.precision == "int8"]
    if integer and device == "CPU":
        yield from _cpu_lacks()
    yield from _left_float(words, products)
    yield from _expanded(words, products)
    alone = [layer for layer in layers if layer.operator == "FakeQuantize"]
    if alone:
        text = f"{len(alone)} FakeQuantize layers run by themselves, fused into nothing: {_share(alone)}"
        yield Remark("obstacle", "fake-quantize-alone", text)
    movers = [layer for layer in layers if layer.operator in _MOVERS]
    if sum(layer.time_share or 0.0 for layer in movers) > _WORTH_TELLING:
        text = f"{len(movers)} layers only change layout or type: {_share(movers)}"
        yield Remark("obstacle", "conversions", text)


def _left_float(words: Mapping[str, str], products: Sequence[ExecutedLayer]) -> Iterator[Remark]:
    promised = sum(word in {"int8", "int16x8", "fp8"} for word in words.values())
    floats = [layer for layer in products if layer.precision in {"fp32", "fp16", "bf16"}]
    if promised and floats:
        names = ", ".join(layer.name for layer in floats[:_NAMED])
        text = f"{len(floats)} of {len(products)} layers that multiply run in float ({_share(floats)}): {names}"
        yield Remark("obstacle", "run-in-float", text)


def _expanded(words: Mapping[str, str], products: Sequence[ExecutedLayer]) -> Iterator[Remark]:
    compressed = sum(word.endswith("-weights") and word[:3] in {"int", "nf4"} for word in words.values())
    kept = sum(layer.precision.endswith("-weights") for layer in products)
    if compressed > kept:
        lost = compressed - kept
        text = f"the compressed weights of {lost} of {compressed} layers are expanded to float when it loads"
        yield Remark("obstacle", "weights-expanded", text)


def _share(layers: Sequence[ExecutedLayer]) -> str:
    return f"{sum(layer.time_share or 0.0 for layer in layers):.0%} of the time"


def _cpu_lacks() -> Iterator[Remark]:
    if processor().has_integer_dot is False:
        text = "this processor has no VNNI: int8 products take several instructions each"
        yield Remark("obstacle", "no-integer-dot", text)


def _narrowed(settings: Mapping[str, str]) -> tuple[Remark, ...]:
    """Says so where floats are computed in fewer bits than the file has them in, which some CPUs do by default."""
    used = settings.get("INFERENCE_PRECISION_HINT", PINNED)
    if used in {PINNED, "dynamic"}:
        return ()
    hint = f"compile the model with INFERENCE_PRECISION_HINT={PINNED}"
    return (Remark("deviation", "floats-narrowed", f"floats are computed in {used}", hint),)
