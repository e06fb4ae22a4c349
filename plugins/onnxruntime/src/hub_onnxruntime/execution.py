"""How ONNX Runtime executes a model: from the graph that it writes down and from its profile of real runs."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import ExecutedLayer, Execution, Remark, processor
from hub_onnxgraph.graphs import name_nodes
from hub_onnxgraph.numerics import (
    DYNAMIC_OPERATORS,
    FUSED_OPERATORS,
    INTEGER_OPERATORS,
    MULTIPLY_OPERATORS,
    STATIC_OPERATORS,
    block_bits,
    operator_key,
)
from hub_onnxquant.runtime_options import VARIANTS
from hub_onnxruntime.accounting import REORDERS, Account, FlatGraph, account
from hub_onnxruntime.files import load_structure
from hub_onnxruntime.ort_file import load_ort
from hub_onnxruntime.profiling import RUNS, Kernel, Profile, run_profiled

if TYPE_CHECKING:
    import onnx

    from hub.spec.calibration import Feeds
    from hub_onnxruntime.session import OrtSession

_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"})
_FLOATS = {"double": "fp64", "float": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_BYTES, _WORDS = frozenset({"int8", "uint8"}), frozenset({"int16", "uint16"})
_WORTH_SAYING = 0.05  # of the time: below it, a conversion is not what makes a model slow
_INSERTED_CAST = "InsertedPrecisionFreeCast_"


class _ExecutedNode(NamedTuple):
    """One executed node: what the profile and what the graph say."""

    kernel: Kernel
    node: onnx.NodeProto | None
    place: int | None
    precision: str


def explain(session: OrtSession, feeds: Feeds) -> Execution:
    """Runs a session's model in a profiled session of its own, and accounts for every operator of the file.

    Args:
        session: The model as it is open.
        feeds: One sample, arrays by input name.
    """
    import onnxruntime as ort

    file = _file_model(session)
    profile = _profiled(session, file, feeds)
    books = account(file.graph, profile.graph)
    graph = FlatGraph(profile.graph)
    nodes = [_executed(kernel, graph) for kernel in profile.kernels]
    total = sum(item.kernel.seconds for item in nodes) or 1.0
    places = [item.place for item in nodes if item.place is not None]
    options = session.options()
    threads = options.intra_op_num_threads
    return Execution(
        runtime="onnxruntime",
        version=ort.__version__,
        device=session.provider,
        settings={
            "graph optimization level": "as saved" if session.is_ort else VARIANTS[session.variant],
            "intra-op threads": str(threads) if threads else "default",
            "execution mode": str(options.execution_mode).rpartition(".")[2].lower(),
            "precision": "float32 for float operators" if session.device == "cpu" else "the provider's",
        },
        operators=_counted(map(operator_key, books.nodes)),
        layers=tuple(_layer(item, books, total) for item in nodes),
        eliminated=_counted(books.eliminated(places)),
        timed_by=f"ONNX Runtime's profile of {RUNS} runs",
        remarks=tuple(_remarks(nodes, graph, total, session)),
    )


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(Counter(words).most_common())


def _file_model(session: OrtSession) -> onnx.ModelProto:
    """The file's graph with a name on every node, so that the profile can be joined with it."""
    if session.is_ort:
        return load_ort(session.path)
    model = load_structure(session.path)
    name_nodes(model)
    return model


def _profiled(session: OrtSession, file: onnx.ModelProto, feeds: Feeds) -> Profile:
    options = session.options()
    run = functools.partial(session.run_in, feeds=feeds)
    if session.is_ort:
        return run_profiled(session.opened, options, run, file.graph)
    content = file.SerializeToString()
    # It would give stored tensors other names, and computes nothing.
    without = ["ConstantSharing"]
    return run_profiled(lambda given: session.opened(given, content, without), options, run)


def _executed(kernel: Kernel, graph: FlatGraph) -> _ExecutedNode:
    place = graph.named.get(kernel.name)
    node = graph.nodes[place] if place is not None else None
    return _ExecutedNode(kernel, node, place, _precision(kernel, node, graph))


def _precision(kernel: Kernel, node: onnx.NodeProto | None, graph: FlatGraph) -> str:
    """The element type that a kernel computes in, from its own and from the types that really went in and out."""
    kind, types = kernel.operator, {*kernel.inputs, *kernel.outputs}
    if kind in _CONVERSIONS:
        return "conversion"
    if kind in {"MatMulNBits", "GatherBlockQuantized"}:
        return f"int{block_bits(node)}-weights"
    if kind in DYNAMIC_OPERATORS or (kind in INTEGER_OPERATORS and _is_dynamic(node, graph)):
        return "int8-dynamic"
    if kind in STATIC_OPERATORS | INTEGER_OPERATORS or kind.startswith("QLinear"):
        return "int16x8" if types & _WORDS else "int8"
    floats = [_FLOATS[name] for name in (*kernel.outputs, *kernel.inputs) if name in _FLOATS]
    if floats:
        return floats[0]
    return "int8" if set(kernel.outputs) & _BYTES else "integer"


def _is_dynamic(node: onnx.NodeProto | None, graph: FlatGraph) -> bool:
    """Whether the first input, through operators that move it, was quantized at run time."""
    while node is not None and node.input:
        maker = graph.maker(node.input[0])
        if maker is None or maker.op_type in _CONVERSIONS:
            return maker is not None and maker.op_type == "DynamicQuantizeLinear"
        node = maker
    return False


def _layer(item: _ExecutedNode, books: Account, total: float) -> ExecutedLayer:
    kernel = item.kernel
    return ExecutedLayer(
        name=kernel.name,
        operator=operator_key(item.node) if item.node is not None else kernel.operator,
        precision=item.precision,
        device=kernel.provider,
        covers=books.words(item.place) if item.place is not None else (),
        time_share=kernel.seconds / total,
    )


def _remarks(nodes: Sequence[_ExecutedNode], graph: FlatGraph, total: float, session: OrtSession) -> list[Remark]:
    found = [
        _saturates(nodes, session),
        _no_dot_product(nodes),
        _not_fused(nodes, graph),
        _half_precision(nodes, total),
        _conversions(nodes, total),
        _elsewhere(nodes, total, session),
    ]
    return [remark for remark in found if remark]


def _no_dot_product(nodes: Sequence[_ExecutedNode]) -> Remark | None:
    count = sum(item.precision in {"int8", "int8-dynamic"} and _multiplies(item) for item in nodes)
    if not count or processor().has_integer_dot is not False:
        return None
    text = f"this processor has no int8 dot product: {count} int8 operators gain little over float"
    return Remark("obstacle", "no-integer-dot", text)


def _saturates(nodes: Sequence[_ExecutedNode], session: OrtSession) -> Remark | None:
    """Says so where ONNX Runtime's default computes int8 wrong on this processor; see `exact_setting`."""
    count = sum(_multiplies(item) and {"uint8", "int8"} <= set(item.kernel.inputs) for item in nodes)
    if session.exact or not count or processor().has_integer_dot is not False:
        return None
    text = f"{count} operators multiply u8 by s8, which saturates on this processor"
    hint = f"open the session with {session.exact_setting}=1" if session.exact_setting else "write it on this processor"
    return Remark("deviation", "products-saturate", text, hint)


def _multiplies(item: _ExecutedNode) -> bool:
    every = MULTIPLY_OPERATORS | FUSED_OPERATORS | STATIC_OPERATORS | INTEGER_OPERATORS | DYNAMIC_OPERATORS
    return item.kernel.operator in every


def _not_fused(nodes: Sequence[_ExecutedNode], graph: FlatGraph) -> Remark | None:
    """Names multiplying operators in float that take dequantized activations."""
    floats = [item for item in nodes if _multiplies(item) and item.precision in _FLOATS.values()]
    between = [item for item in floats if item.node is not None and _is_dequantized(item.node, graph)]
    if not between:
        return None
    named = ", ".join(f"{item.kernel.operator} {item.kernel.name!r}" for item in between[:3])
    more = f" and {len(between) - 3} more" if len(between) > 3 else ""  # noqa: PLR2004 - as many as are named
    text = f"{len(between)} QDQ pairs not fused: between them compute in float {named}{more}"
    return Remark("obstacle", "qdq-not-fused", text)


def _is_dequantized(node: onnx.NodeProto, graph: FlatGraph) -> bool:
    """Whether the first input is an activation that comes out of a DequantizeLinear, reordered at most."""
    maker = graph.maker(node.input[0])
    while maker is not None and maker.op_type in REORDERS:
        maker = graph.maker(maker.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] not in graph.stored


def _share(items: Sequence[_ExecutedNode], total: float) -> float:
    return sum(item.kernel.seconds for item in items) / total


def _half_precision(nodes: Sequence[_ExecutedNode], total: float) -> Remark | None:
    casts = [item for item in nodes if item.kernel.name.startswith(_INSERTED_CAST)]
    if not casts:
        return None
    share = _share(casts, total)
    what = "casts around float16 operators that this provider computes in float32"
    return Remark("obstacle", "float16-casts", f"{len(casts)} {what}: {share:.0%} of the time")


def _conversions(nodes: Sequence[_ExecutedNode], total: float) -> Remark | None:
    kinds = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "Transpose", *REORDERS}
    found = [item for item in nodes if item.kernel.operator in kinds]
    share = _share(found, total)
    if share < _WORTH_SAYING:
        return None
    counts = Counter(item.kernel.operator for item in found)
    named = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    text = f"{share:.0%} of the time goes into changing types and layouts: {named}"
    return Remark("obstacle", "conversions", text)


def _elsewhere(nodes: Sequence[_ExecutedNode], total: float, session: OrtSession) -> Remark | None:
    away = [item for item in nodes if item.kernel.provider != session.provider]
    if not away:
        return None
    named = ", ".join(sorted({item.kernel.provider for item in away}))
    part = f"{len(away)} of {len(nodes)} nodes ({_share(away, total):.0%} of the time)"
    return Remark("obstacle", "ran-elsewhere", f"{part} run on {named}, not on {session.provider}")
