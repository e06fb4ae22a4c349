"""Runs bfloat16 where ONNX Runtime has no kernels for it, as on the CPU: in float32, rounded after every operator.

It is what ONNX Runtime does by itself with float16 on the CPU, and what a GPU does with bfloat16 but for the order of
sums: operands of 8 significant bits, products and sums in float32, one rounding of the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph.graphs import all_names, fresh_name

if TYPE_CHECKING:
    import onnx

_KEPT = frozenset({"Cast", "Constant"})
"""Operators with bfloat16 that ONNX Runtime has everywhere."""


def widened(model: onnx.ModelProto) -> bytes:
    """The model with every operator on bfloat16 between a Cast to float32 and one back, as a file's content.

    Args:
        model: Its types must have been inferred; it is changed. External data stays where it is.
    """
    from onnx import TensorProto, helper

    graph, taken = model.graph, all_names(model.graph)
    values = (*graph.input, *graph.value_info, *graph.output)
    narrow = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    narrow |= {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.BFLOAT16}
    nodes: list[onnx.NodeProto] = []
    wide: dict[str, str] = {}

    def cast(source: str, target: str, kind: int) -> onnx.NodeProto:
        return helper.make_node("Cast", [source], [target], to=kind)

    for node in list(graph.node):
        if node.op_type in _KEPT or not narrow & {*node.input, *node.output}:
            nodes.append(node)
            continue
        for name in narrow & {*node.input} - wide.keys():
            wide[name] = fresh_name(f"{name}_wide", taken)
            nodes.append(cast(name, wide[name], TensorProto.FLOAT))
        inputs = [wide.get(name, name) for name in node.input]
        outputs = {name: fresh_name(f"{name}_unrounded", taken) for name in node.output if name in narrow}
        results = [outputs.get(name, name) for name in node.output]
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(results)
        nodes.append(node)
        nodes.extend(cast(unrounded, name, TensorProto.BFLOAT16) for name, unrounded in outputs.items())
    del graph.node[:]
    graph.node.extend(nodes)
    content: bytes = model.SerializeToString()
    return content
