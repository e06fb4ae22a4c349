"""Outputs that a file declares in another shape than its operators give: ONNX Runtime warns of them and runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import Remark, UnsupportedModel
from hub_onnxgraph.graphs import all_nodes, all_tensors, with_inferred_shapes
from hub_onnxruntime.operators import RUNTIME_DOMAINS

if TYPE_CHECKING:
    import onnx

Shape = Sequence["int | str"]


class StaleOutput(NamedTuple):
    """One output whose declared shape is not the one that is computed."""

    name: str
    declared: Shape
    computed: Shape


def correct_outputs(model: onnx.ModelProto) -> list[StaleOutput]:
    """Give outputs the shape that is computed where the declared one contradicts it, in place; returns which.

    Shapes are inferred from inputs and operators alone. ONNX's inference is wrong of pools with `ceil_mode` (it says 6
    where the runtime gives 5), so that a file with one keeps what it declares. The model is copied several times:
    large tensors had better be forgotten before.
    """
    if any(_rounds_up(node) for node in all_nodes(model)):
        return []
    inferred = {value.name: value for value in _inferred(model).graph.output}
    found = []
    for value in model.graph.output:
        computed, declared = _shape(inferred[value.name]), _shape(value)
        if computed is None or declared is None or not _contradicts(declared, computed):
            continue
        value.type.tensor_type.shape.CopyFrom(inferred[value.name].type.tensor_type.shape)
        found.append(StaleOutput(value.name, declared, computed))
    return found


def stale_findings(outputs: Sequence[StaleOutput]) -> list[Remark]:
    """What to tell of them."""
    words = [f"{name} as {_words(declared)}, and computes {_words(computed)}" for name, declared, computed in outputs]
    text = f"the file declares {'; '.join(words)}: read as it is computed"
    return [Remark("finding", "output-shape-stale", text)] if words else []


def _words(shape: Shape) -> str:
    return "x".join(str(dim) or "?" for dim in shape) or "a scalar"


def _rounds_up(node: onnx.NodeProto) -> bool:
    return any(item.name == "ceil_mode" and item.i for item in node.attribute)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes that follow from its inputs; ONNX Runtime's integer operators as floats, if need be.

    A float copy computes with the weights: there is none where some of them are not in the model.
    """
    import onnx

    from hub_onnxruntime.float_copy import float_copy

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    inside = not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in all_tensors(bare))
    if inside and any(node.domain in RUNTIME_DOMAINS for node in bare.graph.node):
        try:
            float_copy(bare)
        except UnsupportedModel:
            bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for value in bare.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    made = with_inferred_shapes(bare)
    while _add_ranks(bare, made):
        made = with_inferred_shapes(bare)
    return made


def _add_ranks(bare: onnx.ModelProto, inferred: onnx.ModelProto) -> bool:
    """Note the ranks of reshaped values whose sizes are computed: ONNX's inference gives up there; False for none."""
    from onnx import helper

    graph = bare.graph
    values = (*inferred.graph.value_info, *inferred.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    known = {value.name for value in (*values, *graph.value_info) if _shape(value) is not None}
    ranks = {name: rank for name, rank in _reshaped(graph) if name in kinds and name not in known}
    outputs = {value.name: value for value in graph.output}
    for name, rank in ranks.items():
        value = helper.make_tensor_value_info(name, kinds[name], [None] * rank)
        if name in outputs:
            outputs[name].CopyFrom(value)
        else:
            graph.value_info.append(value)
    return bool(ranks)


def _reshaped(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Yields each result of a Reshape to sizes that are put together one by one, with how many those are."""
    makers = {name: node for node in graph.node for name in node.output}
    single = {tensor.name for tensor in graph.initializer if math.prod(tensor.dims) == 1}
    single |= {name for name, node in makers.items() if node.op_type == "Unsqueeze"}
    single |= {name for name, node in makers.items() if node.op_type == "Constant" and _is_one(node)}
    for node in graph.node:
        # Up to opset 4 the sizes are an attribute.
        sizes = makers.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) > 1 else None
        if sizes is not None and sizes.op_type == "Concat" and single.issuperset(sizes.input):
            yield node.output[0], len(sizes.input)


def _is_one(constant: onnx.NodeProto) -> bool:
    return any(item.name == "value" and list(item.t.dims) == [1] for item in constant.attribute)


def _shape(value: onnx.ValueInfoProto) -> list[int | str] | None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim]


def _contradicts(declared: Shape, computed: Shape) -> bool:
    """Whether the ranks differ, or two fixed sizes at one place do."""
    pairs = zip(declared, computed, strict=False)
    fixed = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int) and a > 0 and b > 0]
    return len(declared) != len(computed) or any(a != b for a, b in fixed)
