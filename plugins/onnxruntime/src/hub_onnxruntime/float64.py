"""Turns float64 inside a graph into float32; inputs and outputs keep their type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hub_onnxruntime.files import all_nodes, all_tensors, graphs
from hub_onnxruntime.graphs import all_names, fresh_name, rename
from hub_onnxruntime.signature import real_inputs

# Integer attributes that hold an element type.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype"})


def _narrow_tensor(tensor: Any, folder: Path) -> int:
    """Rewrites a float64 tensor as float32; returns how many finite values had to be clamped to float32's range.

    External data is read from `folder`.
    """
    import numpy as np
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor, str(folder))
    largest = np.finfo(np.float32).max
    clamped = np.where(np.isfinite(array), np.clip(array, -largest, largest), array)
    tensor.CopyFrom(numpy_helper.from_array(clamped.astype(np.float32), tensor.name))
    return int(np.count_nonzero(np.isfinite(array) & (np.abs(array) > largest)))


def _narrow_types(model: Any) -> None:
    from onnx import TensorProto

    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT
    for graph in list(graphs(model.graph))[1:]:
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    for graph in graphs(model.graph):
        del graph.value_info[:]


def _cast(source: str, target: str, to: int) -> Any:
    import onnx

    return onnx.helper.make_node("Cast", [source], [target], name=f"Cast_{target}", to=to)


def _border(model: Any, doubles_in: list[str], doubles_out: list[str]) -> None:
    """Puts a Cast behind each float64 input and before each float64 output."""
    from onnx import TensorProto

    graph = model.graph
    taken = all_names(graph)
    names = {name: fresh_name(f"{name}_float32", taken) for name in dict.fromkeys((*doubles_in, *doubles_out))}
    rename(graph.node, names)
    nodes = [_cast(name, names[name], TensorProto.FLOAT) for name in doubles_in]
    nodes += [node.__class__.FromString(node.SerializeToString()) for node in graph.node]
    nodes += [_cast(names[name], name, TensorProto.DOUBLE) for name in doubles_out if name not in doubles_in]
    del graph.node[:]
    graph.node.extend(nodes)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def _doubles(values: Any) -> list[str]:
    from onnx import TensorProto

    return [value.name for value in values if value.type.tensor_type.elem_type == TensorProto.DOUBLE]


def is_double_inside(model: Any) -> bool:
    """Whether anything but an input or an output is float64. Shapes and types must have been inferred."""
    from onnx import TensorProto

    if any(tensor.data_type == TensorProto.DOUBLE for tensor in all_tensors(model)):
        return True
    border = {value.name for value in (*model.graph.input, *model.graph.output)}
    inner = [name for graph in graphs(model.graph) for name in _doubles(graph.value_info)]
    casts = (node for node in all_nodes(model) if node.op_type in ("Cast", "ConstantOfShape", "RandomNormal"))
    made = (name for node in casts if any(a.i == TensorProto.DOUBLE for a in node.attribute) for name in node.output)
    return any(name not in border for name in (*inner, *made))


def narrow_float64(model: Any, folder: Path) -> list[str]:
    """Rewrites the model's inner float64 tensors as float32.

    Args:
        model: The model.
        folder: Of its external data, if it has any.

    Returns:
        Notes; empty when there was nothing to do.
    """
    from onnx import TensorProto

    if not is_double_inside(model):
        return []
    stored = [tensor for tensor in all_tensors(model) if tensor.data_type == TensorProto.DOUBLE]
    clamped = sum(_narrow_tensor(tensor, folder) for tensor in stored)
    _narrow_types(model)
    _border(model, _doubles(real_inputs(model.graph)), _doubles(model.graph.output))
    dropped = drop_idle_casts(model)
    notes = [f"computed float64 inside the graph in float32 ({len(stored)} stored tensors, {dropped} casts removed)"]
    if clamped:
        notes.append(f"clamped {clamped} float64 constants to float32's range")
    return notes


def _element_types(model: Any) -> dict[str, int]:
    from hub_onnxruntime.folding import infer

    graph = infer(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types.update({v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)})
    return types


def drop_idle_casts(model: Any) -> int:
    """Removes each Cast of the main graph that casts to the type its input has; returns how many."""
    graph = model.graph
    types = _element_types(model)
    outputs = {value.name for value in graph.output}
    casts = [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in outputs]
    idle = [node for node in casts if types.get(node.input[0]) in [a.i for a in node.attribute if a.name == "to"]]
    for node in idle:
        source, target = node.input[0], node.output[0]
        graph.node.remove(node)
        rename(graph.node, {target: source})
    return len(idle)
