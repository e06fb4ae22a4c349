"""What every tool on an ONNX graph needs: its subgraphs, names, constants and opset, and the way back from onnx-ir."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING

from hub.spec import Remark, UnsupportedModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx
    import onnx_ir as ir

    Array = npt.NDArray[np.generic]


def proto_of(model: ir.Model) -> onnx.ModelProto:
    """Returns a model as ONNX writes it, without the second record of each stored tensor's type that onnx-ir adds."""
    import onnx_ir as ir

    proto = ir.to_proto(model)
    for graph in graphs(proto.graph):
        stored = {tensor.name for tensor in graph.initializer}
        values = [value for value in graph.value_info if value.name not in stored]
        del graph.value_info[:]
        graph.value_info.extend(values)
    return proto


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yields a GraphProto and every subgraph under it, outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)
            for subgraph in attribute.graphs:
                yield from graphs(subgraph)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yields the graphs that a node holds directly."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yields every NodeProto of a model: main graph, subgraphs and local functions."""
    for graph in graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yields every TensorProto that a model stores: initializers and attribute tensors, subgraphs included."""
    for graph in graphs(model.graph):
        yield from graph.initializer
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def with_inferred_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with ONNX's shape inference applied, or as it was where that fails."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return model  # a reader reports; what the file says itself still holds


def defined_names(graph: onnx.GraphProto) -> set[str]:
    """Returns every tensor name that a graph defines itself, without its subgraphs."""
    names = {value.name for value in graph.input}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    names.update(name for node in graph.node for name in node.output if name)
    return names


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Returns every tensor name that a graph and its subgraphs define."""
    return {name for inner in graphs(graph) for name in defined_names(inner)}


def fresh_name(wish: str, taken: set[str]) -> str:
    """Returns `wish`, or `wish_<n>` where that is taken, and marks it as taken."""
    candidates = (wish if number == 0 else f"{wish}_{number}" for number in count())
    name = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(name)
    return name


def rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Renames tensors in nodes, and inside the nodes' subgraphs."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for graph in subgraphs(node):
            for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
                value.name = names.get(value.name, value.name)
            rename(graph.node, names)


def add_constant(graph: onnx.GraphProto, name: str, array: Array) -> None:
    """Stores an array under a name."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(array, name))


def name_nodes(model: onnx.ModelProto) -> int:
    """Gives every node of every graph a name that no other node has; returns how many were renamed.

    onnx-ir's `NameFixPass` looks at each graph by itself; ONNX Runtime's profile names the nodes of all of them.
    """
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    counts = Counter(node.name for node in nodes)
    taken = {name for name in counts if name}
    renamed = [node for node in nodes if not node.name or counts[node.name] > 1]
    for node in renamed:
        node.name = fresh_name(node.name or f"{node.op_type}_{node.output[0] if node.output else 0}", taken)
    return len(renamed)


def prune(graph: onnx.GraphProto) -> None:
    """Removes nodes and initializers that no output needs."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_uses(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for index in reversed(range(len(graph.initializer))):  # one by one: the others are not copied
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]


def _uses(node: onnx.NodeProto) -> set[str]:
    """Returns the names that a node reads, also from inside its subgraphs."""
    used = set(node.input)
    for graph in subgraphs(node):
        used.update(value.name for value in graph.output)
        for inner in graph.node:
            used.update(_uses(inner))
    return used


def opset_of(model: onnx.ModelProto) -> int:
    """Returns the version of the standard operators that the model uses; 0 where it uses none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def raise_opset(model: onnx.ModelProto, target: int) -> tuple[onnx.ModelProto, list[Remark]]:
    """Returns a model with at least this opset, and a note where that is a change.

    Raises:
        UnsupportedModel: ONNX's version converter does not manage it.
    """
    import onnx

    before, converter = opset_of(model), onnx.version_converter
    if not 0 < before < target:
        return model, []
    try:
        raised = converter.convert_version(model, target)
    except (RuntimeError, ValueError, converter.ConvertError) as error:
        message = f"opset {before} could not be raised to {target}: {str(error).strip()[:200]}"
        raise UnsupportedModel(message, hint=f"Export the model again with opset {target}.") from error
    return raised, [Remark("note", "opset-raised", f"raised the opset from {before} to {target}")]
