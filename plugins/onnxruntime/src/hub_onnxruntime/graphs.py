"""Small edits of an ONNX graph: names, constants, renaming. All of them change the model they are given."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from hub_onnxruntime.files import graphs, place_of
from hub_onnxruntime.signature import real_inputs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]


def subgraphs(node: Any) -> Iterator[Any]:
    """Yields the graphs that a node holds directly."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def defined_names(graph: Any) -> set[str]:
    """Returns every tensor name that a graph defines itself, without its subgraphs."""
    names = {value.name for value in graph.input}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    names.update(name for node in graph.node for name in node.output if name)
    return names


def all_names(graph: Any) -> set[str]:
    """Returns every tensor name that a graph and its subgraphs define."""
    return {name for inner in graphs(graph) for name in defined_names(inner)}


def fresh_name(wish: str, taken: set[str]) -> str:
    """Returns `wish`, or `wish_<n>` where that is taken, and marks it as taken."""
    candidates = (wish if number == 0 else f"{wish}_{number}" for number in count())
    name = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(name)
    return name


def rename(nodes: Iterable[Any], names: Mapping[str, str]) -> None:
    """Renames tensors in nodes, and inside the nodes' subgraphs."""
    for node in nodes:
        for names_of in (node.input, node.output):
            names_of[:] = [names.get(name, name) for name in names_of]
        for graph in subgraphs(node):
            _rename_graph(graph, names)


def _rename_graph(graph: Any, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    rename(graph.node, names)


# Attributes of a Constant node that hold numbers instead of a tensor (opset 12) -> element type.
_NUMBERS = {"value_int": "int64", "value_ints": "int64", "value_float": "float32", "value_floats": "float32"}


def constant_arrays(graph: Any, limit: int) -> dict[str, Array]:
    """Returns the constants of up to `limit` elements inside the file: initializers and Constant nodes."""
    import numpy as np
    from onnx import helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    arrays = {}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                tensors[node.output[0]] = attribute.t
            elif attribute.name in _NUMBERS:
                arrays[node.output[0]] = np.array(helper.get_attribute_value(attribute), _NUMBERS[attribute.name])
    inside = {name: tensor for name, tensor in tensors.items() if place_of(tensor) is None}
    small = {name: tensor for name, tensor in inside.items() if math.prod(tensor.dims) <= limit}
    return arrays | {name: numpy_helper.to_array(tensor) for name, tensor in small.items()}


def add_constant(graph: Any, name: str, array: Array) -> None:
    """Stores an array under a name."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(array, name))


def drop_initializer_inputs(model: Any) -> int:
    """Removes from the inputs what is an initializer too (IR version 3 wrote both); returns how many."""
    kept = real_inputs(model.graph)
    dropped = len(model.graph.input) - len(kept)
    if dropped:
        values = [value.__class__.FromString(value.SerializeToString()) for value in kept]
        del model.graph.input[:]
        model.graph.input.extend(values)
    return dropped


def name_nodes(model: Any) -> int:
    """Gives every node of every graph a name that no other node has; returns how many were renamed."""
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    counts = Counter(node.name for node in nodes)
    taken = {name for name in counts if name}
    renamed = [node for node in nodes if not node.name or counts[node.name] > 1]
    for node in renamed:
        node.name = fresh_name(node.name or f"{node.op_type}_{node.output[0] if node.output else 0}", taken)
    return len(renamed)


def prune(graph: Any) -> None:
    """Removes nodes and initializers that no output needs."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_uses(node))
    nodes = [node.__class__.FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]


def _uses(node: Any) -> set[str]:
    """Returns the names that a node reads, also from inside its subgraphs."""
    used = set(node.input)
    for graph in subgraphs(node):
        used.update(value.name for value in graph.output)
        for inner in graph.node:
            used.update(_uses(inner))
    return used
