"""Turns other floats inside a graph into float32; inputs and outputs keep their type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import Remark
from hub_onnxgraph.graphs import all_nodes, all_tensors, graphs

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# Integer attributes that hold an element type.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype"})


def other_floats(model: onnx.ModelProto) -> set[str]:
    """Float types but float32 of anything but inputs and outputs. Shapes and types must have been inferred."""
    from onnx import TensorProto

    kinds = {TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
    signature = {value.name for value in (*model.graph.input, *model.graph.output)}
    values = (value for graph in graphs(model.graph) for value in graph.value_info if value.name not in signature)
    made = (node for node in all_nodes(model) if signature.isdisjoint(node.output))
    casts = (node for node in made if node.op_type in ("Cast", "ConstantOfShape", "RandomNormal"))
    found = {tensor.data_type for tensor in all_tensors(model)}
    found |= {value.type.tensor_type.elem_type for value in values}
    found |= {a.i for node in casts for a in node.attribute if a.name in _TYPE_ATTRIBUTES}
    return {word for kind, word in kinds.items() if kind in found}


def compute_in_float32(model: ir.Model) -> list[Remark]:
    """Rewrites a model's inner float64, float16 and bfloat16 tensors as float32; types must have been inferred.

    What a half is is a float32 too, so that stored weights stay exactly what they are. What the model rounded to half
    on the way is no longer rounded.
    """
    import onnx_ir as ir

    notes = []
    wide = _retyped(model, {ir.DataType.DOUBLE})
    if wide.stored or wide.values:
        text = (
            f"computed float64 inside the graph in float32 ({wide.stored} stored tensors, {wide.casts} casts removed)"
        )
        notes.append(Remark("note", "float64-narrowed", text))
    if wide.clamped:
        text = f"clamped {wide.clamped} float64 constants to float32's range"
        notes.append(Remark("note", "float64-clamped", text))
    half = _retyped(model, {ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
    if half.stored or half.values:
        text = (
            f"computed half precision inside the graph in float32 ({half.stored} tensors stored so, exactly; "
            f"{half.casts} casts removed)"
        )
        notes.append(Remark("note", "half-widened", text))
    return notes


class RetypedCounts(NamedTuple):
    """How many tensors were stored in another float, how many were made in one, and what it took."""

    stored: int
    values: int
    clamped: int
    casts: int


def _retyped(model: ir.Model, kinds: set[ir.DataType]) -> RetypedCounts:
    """Rewrites a model's inner tensors of some float types as float32."""
    import onnx_ir as ir
    from onnx_ir.passes.common import NameFixPass

    graph = model.graph
    inputs = [(value, value.dtype) for value in graph.inputs if value.dtype and value.dtype in kinds]
    outputs = [(value, value.dtype) for value in graph.outputs if value.dtype and value.dtype in kinds]
    stored, values, clamped = 0, 0, 0
    for inner in list(model.graphs()):
        for value in inner.initializers.values():
            if value.const_value is not None and value.const_value.dtype in kinds:
                clamped += _beyond_float32(value.const_value)
                value.const_value = _as_float32(value.const_value)
                stored += 1
        for node in inner:
            clamped_here, stored_here = _retype_attributes(node, kinds)
            clamped, stored = clamped + clamped_here, stored + stored_here
        made = [value for node in inner for value in node.outputs]
        for value in (*inner.inputs, *inner.initializers.values(), *made):
            if value.dtype in kinds:
                value.dtype = ir.DataType.FLOAT
                values += 1
    if not stored and not values:
        return RetypedCounts(0, 0, 0, 0)
    _cast_at_signature(graph, inputs, outputs)
    dropped = drop_idle_casts(graph)
    NameFixPass()(model)
    return RetypedCounts(stored, values, clamped, dropped)


def _beyond_float32(tensor: ir.TensorProtocol) -> int:
    import numpy as np
    import onnx_ir as ir

    if tensor.dtype != ir.DataType.DOUBLE:
        return 0
    array = tensor.numpy()
    return int(np.count_nonzero(np.isfinite(array) & (np.abs(array) > np.finfo(np.float32).max)))


def _as_float32(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    """A tensor as float32, finite values clamped; computed when it is written, so that one is in memory."""
    import numpy as np
    import onnx_ir as ir

    def convert() -> ir.TensorProtocol:
        array = tensor.numpy()
        if tensor.dtype == ir.DataType.DOUBLE:
            largest = np.finfo(np.float32).max
            array = np.where(np.isfinite(array), np.clip(array, -largest, largest), array)
        return ir.Tensor(array.astype(np.float32), name=tensor.name)

    return ir.LazyTensor(convert, ir.DataType.FLOAT, ir.Shape(tensor.shape.numpy()), name=tensor.name)


def _retype_attributes(node: ir.Node, kinds: set[ir.DataType]) -> tuple[int, int]:
    """Returns (values that were clamped, tensors that were rewritten)."""
    import onnx_ir as ir

    clamped, stored = 0, 0
    for name, attribute in list(node.attributes.items()):
        if name in _TYPE_ATTRIBUTES and attribute.value in kinds:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in kinds:
            clamped, stored = clamped + _beyond_float32(attribute.as_tensor()), stored + 1
            node.attributes[name] = ir.AttrTensor(name, _as_float32(attribute.as_tensor()))
    return clamped, stored


TypedValues = Iterable[tuple["ir.Value", "ir.DataType"]]


def _cast_at_signature(graph: ir.Graph, inputs: TypedValues, outputs: TypedValues) -> None:
    """Puts a Cast behind each input, and before each output, of another type."""
    import onnx_ir as ir

    for value, kind in inputs:
        value.dtype = kind
        inner = ir.Value(name=f"{value.name}_float32", type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        value.replace_all_uses_with(inner)
        graph.insert_before(graph[0], _cast(value, inner, ir.DataType.FLOAT))
    for value, kind in outputs:
        outer = ir.Value(name=value.name, type=ir.TensorType(kind), shape=value.shape)
        graph.outputs[graph.outputs.index(value)] = outer
        value.name = f"{value.name}_float32"
        graph.append(_cast(value, outer, kind))


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
