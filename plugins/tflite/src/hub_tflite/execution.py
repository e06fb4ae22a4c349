"""Reads from an allocated interpreter who runs which operator: XNNPACK's delegate, or LiteRT's own kernels.

The interpreter lists the file's operators first and appends one node for each part of the graph that a delegate took
over. Such a node shows the tensors at its border; the operators between them are the ones it stands for. What the
delegate does inside, kernels and times, it does not tell through the Python interpreter (LiteRT 2.3), so time shares
are left out.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import ExecutedLayer, Execution, Remark, processor
from hub_tflite.numerics import layer_name, precision_report
from hub_tflitefile.schema import constant, numbers, operator_name, type_name

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

    from hub_tflitefile.tables import ModelT, OperatorT, SubGraphT

DELEGATE = "XNNPACK"
BUILTIN = "builtin"
REFERENCE = "reference"
_NO_ARITHMETIC = frozenset({"conversion", "integer"})
_INTEGER_PRODUCTS = frozenset({"int8", "uint8", "int8-dynamic", "int4-dynamic"})
_TAKEN = frozenset({"FLOAT32", "FLOAT16", "INT8", "UINT8"})
_HYBRID = {("DEPTHWISE_CONV_2D", "int8-dynamic"): "int8 weights with float activations"}
_BODIES = frozenset({"IF", "WHILE", "CALL", "CALL_ONCE", "STABLEHLO_COMPOSITE"})


class ListedNode(NamedTuple):
    """One node of the interpreter's list: its word, and the tensors at its border."""

    operator: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class ExecutedPart(NamedTuple):
    """One executed node and the operators of the file whose work it does, by their place in the main graph."""

    node: ListedNode
    device: str
    covers: tuple[int, ...]


class FileOperator(NamedTuple):
    """One operator of the main graph: its word and precision, and why XNNPACK has no kernel for it, where known."""

    operator: str
    precision: str
    reason: str


def execution_of(model: ModelT, interpreter: Interpreter, *, version: str, variant: str, threads: int) -> Execution:
    """Says what an interpreter that has run executes; `model` is the parsed file that it was made of."""
    graph = model.subgraphs[0]
    nodes = [
        ListedNode(
            detail["op_name"],
            tuple(index for index in numbers(detail["inputs"]) if index >= 0),
            tuple(index for index in numbers(detail["outputs"]) if index >= 0),
        )
        for detail in interpreter._get_ops_details()  # noqa: SLF001 LiteRT has no public reader
    ]
    # Precisions are the file's: `precision_report` lists the main graph's operators first.
    layers = precision_report(model).layers
    lines = [
        FileOperator(
            layer.operator,
            layer.precision,
            _HYBRID.get((layer.operator, layer.precision)) or _reason(model, graph, operator, interpreter),
        )
        for layer, operator in zip(layers, graph.operators, strict=False)
    ]
    device = REFERENCE if variant == REFERENCE else DELEGATE
    own = REFERENCE if variant == REFERENCE else BUILTIN
    # The delegate's nodes with what they cover, and the file's operators that none of them covers.
    count = len(graph.operators)
    delegated = [ExecutedPart(node, DELEGATE, _inside(node, nodes[:count])) for node in nodes[count:]]
    taken = {index for part in delegated for index in part.covers}
    left = [index for index in range(count) if index not in taken]
    dead = {index for index in left if delegated and _unseen(nodes[index], interpreter)}
    parts = _ordered([*delegated, *(ExecutedPart(nodes[index], own, (index,)) for index in left if index not in dead)])
    covered = {index for part in parts for index in part.covers}
    gone = Counter(line.operator for index, line in enumerate(lines) if index not in covered)
    return Execution(
        runtime="litert",
        version=version,
        device=device,
        settings={"kernels": variant, "threads": str(threads or 1)},
        operators=dict(sorted(Counter(line.operator for line in lines).items())),
        layers=tuple(_layer(part, lines, graph, position) for position, part in enumerate(parts)),
        eliminated=dict(sorted(gone.items())),
        remarks=tuple(_obstacles(parts, lines, variant)),
    )


def _reason(model: ModelT, graph: SubGraphT, operator: OperatorT, interpreter: Interpreter) -> str:
    outputs = [index for index in numbers(operator.outputs) if index >= 0]
    moving = [graph.tensors[index] for index in (*numbers(operator.inputs), *outputs) if index >= 0]
    kinds = {type_name(tensor) for tensor in moving if constant(model, tensor) is None}
    foreign = sorted(kinds - _TAKEN)
    if operator_name(model, operator) in _BODIES:
        return "sub-graphs of their own"
    if foreign:
        return f"{', '.join(foreign).lower()} values"
    shapes = [interpreter._get_tensor_details(index, 0)["shape_signature"] for index in outputs]  # noqa: SLF001 as above
    return "a size known only at run time" if any(size < 0 for shape in shapes for size in numbers(shape)) else ""


def _inside(delegate: ListedNode, nodes: list[ListedNode]) -> tuple[int, ...]:
    """Operators on the way from the delegate's outputs back to its inputs: everything it needs is one or the other."""
    producer = {tensor: index for index, node in enumerate(nodes) for tensor in node.outputs}
    border, found, wanted = set(delegate.inputs), set[int](), list(delegate.outputs)
    while wanted:
        index = producer.get(wanted.pop())
        if index is not None and index not in found:
            found.add(index)
            wanted += [tensor for tensor in nodes[index].inputs if tensor not in border]
    return tuple(sorted(found))


def _unseen(node: ListedNode, interpreter: Interpreter) -> bool:
    """Whether no tensor of an operator has memory although the model has run: it is in a delegate and feeds nothing."""
    return bool(node.outputs) and not any(_has_memory(interpreter, index) for index in node.outputs)


def _has_memory(interpreter: Interpreter, index: int) -> bool:
    try:
        interpreter.get_tensor(index)
    except ValueError as error:
        return "null" not in str(error)  # "Tensor data is null"; a resource has no array either, but is there
    return True


def _ordered(parts: list[ExecutedPart]) -> list[ExecutedPart]:
    """Sorts producers before consumers, near the file's order."""
    producer = {tensor: place for place, part in enumerate(parts) for tensor in part.node.outputs}
    waits = [{producer[i] for i in part.node.inputs if i in producer} - {p} for p, part in enumerate(parts)]
    ready = [(min(part.covers, default=0), place) for place, part in enumerate(parts) if not waits[place]]
    heapq.heapify(ready)
    done: list[int] = []
    while ready:
        _, place = heapq.heappop(ready)
        done.append(place)
        for other, needs in enumerate(waits):
            if place in needs:
                needs.remove(place)
                if not needs:
                    heapq.heappush(ready, (min(parts[other].covers, default=0), other))
    return [parts[place] for place in done]


def _layer(part: ExecutedPart, lines: list[FileOperator], graph: SubGraphT, position: int) -> ExecutedLayer:
    covered = [lines[index] for index in part.covers]
    delegated = part.device == DELEGATE
    counts = Counter(line.precision for line in covered)
    computing = [word for word, _ in counts.most_common() if word not in _NO_ARITHMETIC]
    return ExecutedLayer(
        name=f"{DELEGATE} {position}" if delegated else layer_name(graph, graph.operators[part.covers[0]]),
        operator=part.node.operator,
        precision=" + ".join(computing) or next(iter(counts), ""),
        device=part.device,
        covers=tuple(line.operator for line in covered),
    )


def _obstacles(parts: list[ExecutedPart], lines: list[FileOperator], variant: str) -> Iterable[Remark]:
    if variant == REFERENCE:
        yield Remark("obstacle", "reference-kernels", "the reference kernels are written to be read, not to be fast")
    else:
        yield from _fallen(parts, lines)
    products = Counter(line.precision for line in lines if line.precision in _INTEGER_PRODUCTS)
    if products and processor().has_integer_dot is False:
        count = ", ".join(f"{number} {word}" for word, number in products.most_common())
        said = f"this processor has no integer dot product: operators in {count} may be no faster than float32"
        yield Remark("obstacle", "no-integer-dot", said)
    bodies = sorted({line.operator for line in lines if line.operator in _BODIES})
    if bodies:
        said = f"what runs inside {', '.join(bodies)} is not shown: the interpreter lists the main graph only"
        yield Remark("obstacle", "bodies-not-shown", said)


def _fallen(parts: list[ExecutedPart], lines: list[FileOperator]) -> Iterable[Remark]:
    totals = Counter(line.operator for line in lines)
    outside = Counter(lines[part.covers[0]] for part in parts if part.device != DELEGATE)
    for reason in dict.fromkeys(line.reason for line, _ in outside.most_common()):
        counts = [(line, count) for line, count in outside.most_common() if line.reason == reason]
        named = (f"{count} of {totals[line.operator]} {line.operator} ({line.precision})" for line, count in counts)
        said = f"not taken by {DELEGATE}{reason and ' for ' + reason}: {', '.join(named)}"
        yield Remark("obstacle", "not-delegated", said)
    pieces = sum(part.device == DELEGATE for part in parts)
    if pieces > 1:
        said = f"{DELEGATE} runs in {pieces} pieces: nothing is fused across a border, and each passes through memory"
        yield Remark("obstacle", "delegate-in-pieces", said)
