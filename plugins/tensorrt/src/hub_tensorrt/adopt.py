"""Takes an ONNX file that somebody else quantized, or wrote in half precision, where TensorRT's rules allow it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import ConvertJob, Remark, StepOutput, UnsupportedModel, UsageError
from hub_onnxgraph.graphs import graphs
from hub_onnxgraph.signature import ANONYMOUS, real_inputs
from hub_onnxgraph.standard import without_functions
from hub_tensorrt.precision.rules import check_rules, words

if TYPE_CHECKING:
    import onnx


def adopt(job: ConvertJob) -> StepOutput:
    """Write the file as it is, but for what the rules and the builder's report could not see through.

    Its functions are inlined, casts of stored tensors are stored, dimensions that the request fixes are fixed, and
    nameless ones get names. TensorRT itself says less than its rules: it reads uint8 as int8 with other values, and
    float64 as float32.

    Raises:
        UnsupportedModel: It breaks a rule; the message says which, where, and what to do.
    """
    import onnx

    given = onnx.load(job.source.path)
    model = without_functions(given)
    notes = list(_made_plain(model, len(given.functions), job.options.shapes))
    broken = [finding for finding in check_rules(model) if finding.kind == "blocker"]
    if broken:
        each = tuple({finding.code: finding for finding in reversed(broken)}.values())[::-1]  # the first of its kind
        message = f"it breaks rules of TensorRT in {len(broken)} places, such as {words(each)}"
        raise UnsupportedModel(message, hint=broken[0].hint)
    Path(job.output).write_bytes(model.SerializeToString(deterministic=True))
    return StepOutput(notes=tuple(notes))


def _made_plain(model: onnx.ModelProto, functions: int, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Remark]:
    if functions:
        yield Remark("note", "functions-inlined", f"inlined {functions} local functions")
    casts = sum(map(_store_casts, graphs(model.graph)))
    if casts:
        yield Remark("note", "casts-stored", f"stored {casts} constants in the type that they were cast to")
    fixed = _fix_dims(model.graph, shapes)
    if fixed:
        yield Remark("note", "dims-fixed", f"fixed {', '.join(f'{name} to {size}' for name, size in fixed.items())}")
    named = _name_dims(model.graph)
    if named:
        yield Remark("note", "dims-named", f"gave {named} nameless dimensions names of their own")


def _store_casts(graph: onnx.GraphProto) -> int:
    """Replace each Cast of a stored float by what it gives, which the rules read; returns how many there were."""
    from onnx import TensorProto, helper, numpy_helper

    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    stored |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    made = {
        node.output[0]: next(item.i for item in node.attribute if item.name == "to")  # `saturate` may come first
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in stored
    }
    casts = [node for node in graph.node if node.output[0] in made]
    casts = [node for node in casts if {stored[node.input[0]].data_type, made[node.output[0]]} <= floats]
    for node in casts:
        kind = helper.tensor_dtype_to_np_dtype(made[node.output[0]])
        array = numpy_helper.to_array(stored[node.input[0]]).astype(kind)
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)
    read = {name for inner in graphs(graph) for node in inner.node for name in node.input}
    read |= {value.name for value in graph.output}
    for name in {node.input[0] for node in casts} - read:
        for tensor in [tensor for tensor in graph.initializer if tensor.name == name]:
            graph.initializer.remove(tensor)
        for node in [node for node in graph.node if name in node.output]:
            graph.node.remove(node)
    return len(casts)


def _fix_dims(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Give open dimensions of inputs the sizes that the request has for them, wherever they are named; returns them.

    Raises:
        UsageError: One name has two sizes.
    """
    sizes: dict[str, int] = {}
    for value in real_inputs(graph):
        dims = zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False)
        for axis, (dim, size) in enumerate(dims):
            if not dim.HasField("dim_value") or dim.dim_value <= 0:
                name = dim.dim_param if dim.dim_param not in ANONYMOUS else f"{value.name}_dim{axis}"
                if sizes.setdefault(name, size) != size:
                    hint = f"give the same size wherever the model says {name}: it is one size there"
                    raise UsageError(f"{name} is {sizes[name]} and {size}", hint=hint)
                dim.dim_value = size
    for value in (*graph.input, *graph.value_info, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    return sizes


def _name_dims(graph: onnx.GraphProto) -> int:
    """Name every dimension that has none, or a word for none, as the reader does; returns how many."""
    count = 0
    for value in (*graph.input, *graph.value_info, *graph.output):
        for index, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and dim.dim_param in ANONYMOUS:
                dim.dim_param = f"{value.name}_dim{index}"
                count += 1
    return count
