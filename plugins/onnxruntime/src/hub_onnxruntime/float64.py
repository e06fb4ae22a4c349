"""Turns float64 inside a graph into float32; inputs and outputs keep their type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hub.spec import Remark
from hub_onnxgraph.graphs import all_nodes, all_tensors, graphs

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# Integer attributes that hold an element type.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype"})


def is_double_inside(model: onnx.ModelProto) -> bool:
    """Whether anything but an input or an output is float64. Shapes and types must have been inferred."""
    from onnx import TensorProto

    if any(tensor.data_type == TensorProto.DOUBLE for tensor in all_tensors(model)):
        return True
    signature = {value.name for value in (*model.graph.input, *model.graph.output)}
    values = (value for graph in graphs(model.graph) for value in graph.value_info)
    inner = (value.name for value in values if value.type.tensor_type.elem_type == TensorProto.DOUBLE)
    casts = (node for node in all_nodes(model) if node.op_type in ("Cast", "ConstantOfShape", "RandomNormal"))
    made = (name for node in casts if any(a.i == TensorProto.DOUBLE for a in node.attribute) for name in node.output)
    return any(name not in signature for name in (*inner, *made))


def narrow_float64(model: ir.Model) -> list[Remark]:
    """Rewrites a model's inner float64 tensors as float32; types must have been inferred. Returns notes."""
    import onnx_ir as ir
    from onnx_ir.passes.common import NameFixPass

    graph = model.graph
    inputs = [value for value in graph.inputs if value.dtype == ir.DataType.DOUBLE]
    outputs = [value for value in graph.outputs if value.dtype == ir.DataType.DOUBLE]
    stored, clamped = 0, 0
    for inner in list(model.graphs()):
        for value in inner.initializers.values():
            if value.const_value is not None and value.const_value.dtype == ir.DataType.DOUBLE:
                clamped += _beyond_float32(value.const_value)
                value.const_value = _narrowed(value.const_value)
                stored += 1
        for node in inner:
            clamped_here, stored_here = _narrow_attributes(node)
            clamped, stored = clamped + clamped_here, stored + stored_here
        made = [value for node in inner for value in node.outputs]
        for value in (*inner.inputs, *inner.initializers.values(), *made):
            if value.dtype == ir.DataType.DOUBLE:
                value.dtype = ir.DataType.FLOAT
    _cast_at_signature(graph, inputs, outputs)
    dropped = drop_idle_casts(graph)
    NameFixPass()(model)
    text = f"computed float64 inside the graph in float32 ({stored} stored tensors, {dropped} casts removed)"
    notes = [Remark("note", "float64-narrowed", text)]
    if clamped:
        text = f"clamped {clamped} float64 constants to float32's range"
        notes.append(Remark("note", "float64-clamped", text))
    return notes


def _beyond_float32(tensor: ir.TensorProtocol) -> int:
    import numpy as np

    array = tensor.numpy()
    return int(np.count_nonzero(np.isfinite(array) & (np.abs(array) > np.finfo(np.float32).max)))


def _narrowed(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    """A float64 tensor as float32, finite values clamped; computed when it is written, so that one is in memory."""
    import numpy as np
    import onnx_ir as ir

    def narrow() -> ir.TensorProtocol:
        array, largest = tensor.numpy(), np.finfo(np.float32).max
        clamped = np.where(np.isfinite(array), np.clip(array, -largest, largest), array)
        return ir.Tensor(clamped.astype(np.float32), name=tensor.name)

    return ir.LazyTensor(narrow, ir.DataType.FLOAT, ir.Shape(tensor.shape.numpy()), name=tensor.name)


def _narrow_attributes(node: ir.Node) -> tuple[int, int]:
    """Returns (values that were clamped, tensors that were narrowed)."""
    import onnx_ir as ir

    clamped, stored = 0, 0
    for name, attribute in list(node.attributes.items()):
        if name in _TYPE_ATTRIBUTES and attribute.value == ir.DataType.DOUBLE:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == ir.DataType.DOUBLE:
            clamped, stored = clamped + _beyond_float32(attribute.as_tensor()), stored + 1
            node.attributes[name] = ir.AttrTensor(name, _narrowed(attribute.as_tensor()))
    return clamped, stored


def _cast_at_signature(graph: ir.Graph, inputs: Iterable[ir.Value], outputs: Iterable[ir.Value]) -> None:
    """Puts a Cast behind each float64 input and before each float64 output."""
    import onnx_ir as ir

    for value in inputs:
        value.dtype = ir.DataType.DOUBLE
        inner = ir.Value(name=f"{value.name}_float32", type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        value.replace_all_uses_with(inner)
        graph.insert_before(graph[0], _cast(value, inner, ir.DataType.FLOAT))
    for value in outputs:
        outer = ir.Value(name=value.name, type=ir.TensorType(ir.DataType.DOUBLE), shape=value.shape)
        graph.outputs[graph.outputs.index(value)] = outer
        value.name = f"{value.name}_float32"
        graph.append(_cast(value, outer, ir.DataType.DOUBLE))


def _cast(source: ir.Value, target: ir.Value, to: ir.DataType) -> ir.Node:
    import onnx_ir as ir

    return ir.node("Cast", [source], {"to": int(to)}, outputs=[target], name=f"Cast_{target.name}")


def drop_idle_casts(graph: ir.Graph) -> int:
    """Removes each Cast of a graph that casts to the type its input has; returns how many."""
    dropped = 0
    for node in graph:
        source = node.inputs[0] if node.op_type == "Cast" else None
        if source is None or node.outputs[0].is_graph_output() or source.dtype != node.attributes["to"].value:
            continue
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)
        dropped += 1
    return dropped
