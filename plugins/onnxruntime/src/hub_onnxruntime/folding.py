"""Folds control flow: `If` nodes whose condition is known once shapes and constants are fixed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hub_onnxruntime.graphs import (
    add_constant,
    all_names,
    constant_arrays,
    defined_names,
    fresh_name,
    prune,
    rename,
    subgraphs,
)
from hub_onnxruntime.signature import tensor_info

if TYPE_CHECKING:
    from hub_onnxruntime.graphs import Array

# Conditions depend on shapes and flags, so only small tensors are computed here; weights are the simplifier's work.
_SMALL = 65_536
_NOT_CONSTANT = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"})
_MAX_ROUNDS = 200


def infer(model: Any, *, strict: bool = False) -> Any:
    """Returns the model with shapes and element types inferred, small integer values propagated.

    Raises:
        onnx.shape_inference.InferenceError: Only with `strict`: shapes contradict each other.
    """
    import onnx

    return onnx.shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True)


def _static_shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        info = tensor_info(value)
        if info.is_static and info.shape is not None:
            shapes[info.name] = tuple(int(dim) for dim in info.shape)
    shapes.update({tensor.name: tuple(tensor.dims) for tensor in graph.initializer})
    return shapes


def _shape_value(node: Any, shape: tuple[int, ...]) -> Array:
    """Computes Shape (with its opset 15 slice) or Size from a known shape."""
    import numpy as np

    if node.op_type == "Size":
        return np.array(math.prod(shape), dtype=np.int64)
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], dtype=np.int64)


def _evaluate(node: Any, inputs: list[Array], opsets: Any) -> list[Array]:
    """Computes one node with ONNX's reference implementation."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    names = [name for name in node.input if name]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in names]
    results = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "one_node", values, results)
    model = onnx.helper.make_model(graph, opset_imports=list(opsets))
    return list(ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True))))


def _is_foldable(node: Any) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type in _NOT_CONSTANT or node.op_type == "Constant":
        return False
    return not any(True for _ in subgraphs(node))


def _node_values(
    node: Any, constants: dict[str, Array], shapes: dict[str, tuple[int, ...]], opsets: Any
) -> list[Array]:
    """Returns the values of a node's outputs, or nothing when they are not constant."""
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        return [_shape_value(node, shapes[node.input[0]])]
    names = [name for name in node.input if name]
    if not _is_foldable(node) or not all(name in constants for name in names):
        return []
    try:
        return _evaluate(node, [constants[name] for name in names], opsets)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
        return []  # the reference implementation lacks this case: the node stays, and so does its If


def fold_small(model: Any) -> int:
    """Replaces nodes whose outputs are known, small constants; returns how many.

    The model's shapes must have been inferred.
    """
    graph = model.graph
    constants, shapes = constant_arrays(graph, _SMALL), _static_shapes(graph)
    folded = 0
    for index in reversed(range(len(graph.node))):
        graph.node[index].name = graph.node[index].name or f"{graph.node[index].op_type}_{index}"
    for node in list(graph.node):
        values = _node_values(node, constants, shapes, model.opset_import)
        names = [name for name in node.output if name]
        if len(values) != len(names) or sum(value.size for value in values) > _SMALL or not names:
            continue
        for name, value in zip(names, values, strict=True):
            constants[name] = value
            add_constant(graph, name, value)
        graph.node.remove(node)
        folded += 1
    return folded


def _copy(message: Any) -> Any:
    return message.__class__.FromString(message.SerializeToString())


def _branch_names(branch: Any, node: Any, taken: set[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Maps the branch's names to names in the outer graph; also pairs (source, output) that need an Identity."""
    own = defined_names(branch)
    names: dict[str, str] = {}
    identities = []
    produced = {name for inner in branch.node for name in inner.output}
    for value, output in zip(branch.output, node.output, strict=True):
        if value.name in produced and value.name not in names and output:
            names[value.name] = output
        elif output:
            identities.append((value.name, output))
    for name in sorted(own - names.keys()):
        names[name] = fresh_name(name, taken)
    return names, [(names.get(source, source), output) for source, output in identities]


def inline_branch(graph: Any, index: int, branch: Any) -> None:
    """Replaces the `If` at `index` of `graph` by the nodes of one of its branches."""
    import onnx

    node = _copy(graph.node[index])
    del graph.node[index]
    body = _copy(branch)
    names, identities = _branch_names(body, node, all_names(graph) | set(node.output))
    rename(body.node, names)
    for tensor in body.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    graph.initializer.extend(body.initializer)
    extra = [onnx.helper.make_node("Identity", [source], [output]) for source, output in identities]
    rest = [_copy(later) for later in graph.node[index:]]
    del graph.node[index:]
    graph.node.extend([*body.node, *extra, *rest])


def _chosen_branch(node: Any, constants: dict[str, Array]) -> Any:
    if node.op_type != "If" or node.input[0] not in constants:
        return None
    wanted = "then_branch" if bool(constants[node.input[0]].reshape(-1)[0]) else "else_branch"
    return next(attribute.g for attribute in node.attribute if attribute.name == wanted)


def inline_known_ifs(model: Any) -> int:
    """Inlines each `If` of the main graph whose condition is a constant; returns how many."""
    graph = model.graph
    constants = constant_arrays(graph, 1)
    inlined = 0
    for index in reversed(range(len(graph.node))):
        branch = _chosen_branch(graph.node[index], constants)
        if branch is not None:
            inline_branch(graph, index, _copy(branch))
            inlined += 1
    return inlined


def has_if(graph: Any) -> bool:
    """Whether an `If` is in the main graph."""
    return any(node.op_type == "If" for node in graph.node)


def fold_control_flow(model: Any) -> tuple[Any, int]:
    """Folds every `If` whose condition follows from constants and fixed shapes, nested ones too.

    Returns:
        The model and the number of `If` nodes that went.
    """
    total = 0
    for _ in range(_MAX_ROUNDS):
        if not has_if(model.graph):
            break
        model = infer(model)
        folded, inlined = fold_small(model), inline_known_ifs(model)
        total += inlined
        if not folded and not inlined:
            break
    if total:
        prune(model.graph)
    return model, total
