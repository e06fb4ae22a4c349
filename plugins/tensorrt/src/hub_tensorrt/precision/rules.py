"""TensorRT's rules for quantized ONNX models, told from the file alone.

Independent of the code that writes such models: it reads with onnx and imports nothing of the writer. The rules are
those of TensorRT's "Working with Quantized Types", and what tensorrt_rtx 1.7.1 refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hub.spec import Remark
from hub_onnxgraph.graphs import graphs, opset_of, subgraphs
from hub_onnxgraph.numerics import multiplies
from hub_onnxgraph.signature import dtype_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from onnx import GraphProto, ModelProto, NodeProto

    Array = npt.NDArray[np.generic]

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_SINCE = {"int8": 10, "float8e4m3fn": 19, "int4": 21, "float4e2m1": 23}
"""Quantized types that TensorRT has -> opset that has them."""

_WEIGHTS_ONLY = frozenset({"int4"})
_CHANNELS_OPSET, _BLOCKS_OPSET = 13, 21
_FOREIGN = {
    "DynamicQuantizeLinear": "it quantizes activations with ranges of each run; TensorRT takes constant scales",
    "QLinearConv": "TensorRT takes QuantizeLinear and DequantizeLinear around a float Conv",
    "QLinearMatMul": "TensorRT takes QuantizeLinear and DequantizeLinear around a float MatMul",
    "ConvInteger": "TensorRT takes QuantizeLinear and DequantizeLinear around a float Conv",
    "MatMulInteger": "TensorRT takes QuantizeLinear and DequantizeLinear around a float MatMul",
}
_CHANNEL_AXES = {"Conv": (0,), "ConvTranspose": (1,)}
_ANONYMOUS = frozenset({"?", "None", "unk", "unknown"})
_AGAIN = "Quantize the float model again for TensorRT: --to tensorrt --int8 --calibration DATA."


@dataclass(slots=True)
class _Values:
    """What is known of the names in one graph: who makes them, who reads them, what is stored."""

    makers: dict[str, NodeProto] = field(default_factory=dict)
    readers: dict[str, list[NodeProto]] = field(default_factory=dict)
    stored: dict[str, Array] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)

    def inner(self, graph: GraphProto) -> _Values:
        """The values of a graph inside this one, which sees the outer ones."""
        from onnx import numpy_helper

        made = {name: node for node in graph.node for name in node.output if name}
        readers = {name: list(nodes) for name, nodes in self.readers.items() if name not in made}
        for node in graph.node:
            for name in dict.fromkeys(_read_by(node)):
                readers.setdefault(name, []).append(node)
        stored = {tensor.name: tensor for tensor in graph.initializer}
        stored |= {
            node.output[0]: attribute.t
            for node in graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
        kinds = {name: dtype_name(tensor.data_type) for name, tensor in stored.items()}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kinds.setdefault(value.name, dtype_name(value.type.tensor_type.elem_type))
        needed = {name for node in graph.node if node.op_type in {_QUANTIZE, _DEQUANTIZE} for name in node.input}
        arrays = {name: numpy_helper.to_array(tensor) for name, tensor in stored.items() if name in needed}
        return _Values(
            {**self.makers, **made},
            readers,
            {**self.stored, **arrays},
            {**self.types, **kinds},
            self.outputs | {value.name for value in graph.output},
        )


def _read_by(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, also from inside its subgraphs."""
    yield from node.input
    for graph in subgraphs(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from _read_by(inner)


def check_rules(model: ModelProto) -> tuple[Remark, ...]:
    """Returns a finding for every rule of TensorRT that a model breaks, each with the node, the values and the cure.

    Args:
        model: External data loaded; it need not be quantized at all. What its functions hold is looked at where they
            are called.
    """
    from hub_onnxgraph.standard import without_functions

    model = without_functions(model)
    return (*_dim_names(model.graph), *_in_graph(model.graph, _Values(), opset_of(model)))


def _in_graph(graph: GraphProto, outer: _Values, opset: int) -> Iterator[Remark]:
    values = outer.inner(graph)
    for node in graph.node:
        if node.op_type in _FOREIGN:
            yield Remark("blocker", "qdq-operator", _at(node, _FOREIGN[node.op_type]), _AGAIN)
        elif node.op_type in {_QUANTIZE, _DEQUANTIZE}:
            yield from _pair_findings(node, values, opset)
        for inner in subgraphs(node):
            yield from _in_graph(inner, values, opset)


def _at(node: NodeProto, message: str) -> str:
    return f"{node.op_type} {node.name or node.output[0]!r}: {message}"


def _attributes(node: NodeProto) -> dict[str, int]:
    return {attribute.name: int(attribute.i) for attribute in node.attribute}


def quantized_type(node: NodeProto, values: _Values) -> str:
    """The quantized element type of a QuantizeLinear or DequantizeLinear; ONNX's default is uint8."""
    from onnx import TensorProto

    given = [values.types.get(name, "") for name in node.input[2:3]]
    if node.op_type == _DEQUANTIZE:
        maker = values.makers.get(node.input[0])
        made = quantized_type(maker, values) if maker is not None and maker.op_type == _QUANTIZE else ""
        given += [values.types.get(node.input[0], ""), made]
    number = _attributes(node).get("output_dtype", 0)
    given += [dtype_name(number)] if number and number != TensorProto.UNDEFINED else []
    return next((kind for kind in given if kind), "uint8")


def _pair_findings(node: NodeProto, values: _Values, opset: int) -> Iterator[Remark]:
    import numpy as np

    kind, maker = quantized_type(node, values), values.makers.get(node.input[0])
    constant = node.input[0] in values.stored or (maker is not None and maker.op_type == "Constant")
    if kind == "int32":
        message = "the bias is int32 behind a DequantizeLinear; TensorRT takes a float bias"
        yield Remark("blocker", "qdq-bias", _at(node, message), _AGAIN)
        return
    if kind not in _SINCE:
        yield Remark(
            "blocker", "qdq-type", _at(node, f"TensorRT has no quantized {kind}; it has {', '.join(_SINCE)}"), _AGAIN
        )
    elif opset < _SINCE[kind]:
        hint = f"Raise the opset: onnx.version_converter.convert_version(model, {_SINCE[kind]})."
        yield Remark(
            "blocker",
            "qdq-opset",
            _at(node, f"{kind} is in ONNX from opset {_SINCE[kind]}, the model uses {opset}"),
            hint,
        )
    if kind in _WEIGHTS_ONLY and not constant and not (maker is not None and maker.op_type == _QUANTIZE):
        yield Remark(
            "blocker",
            "qdq-type",
            _at(node, f"TensorRT has {kind} for stored weights only, and this is an activation"),
            _AGAIN,
        )
    if node.op_type == _QUANTIZE and kind in _WEIGHTS_ONLY and not constant:
        yield Remark(
            "blocker",
            "qdq-type",
            _at(node, f"TensorRT has {kind} for stored weights only, and this is an activation"),
            _AGAIN,
        )
    for name in node.input[2:3]:
        if name and name not in values.stored:
            yield Remark("blocker", "qdq-zero-point", _at(node, f"the zero point {name!r} is no constant"), _AGAIN)
        elif name and np.any(values.stored[name].astype(np.float32)):
            found = values.stored[name].astype(np.float32).ravel()
            message = f"zero points from {found.min():g} to {found.max():g}; TensorRT takes 0 only (symmetric)"
            yield Remark("blocker", "qdq-zero-point", _at(node, message), _AGAIN)
    yield from _scale_findings(node, values, opset, constant=constant)
    if node.op_type == _QUANTIZE:
        yield from _unpaired(node, values)


def _scale_findings(node: NodeProto, values: _Values, opset: int, *, constant: bool) -> Iterator[Remark]:
    import numpy as np

    scale = values.stored.get(node.input[1])
    if scale is None:
        yield Remark("blocker", "qdq-scale", _at(node, f"the scale {node.input[1]!r} is no constant"), _AGAIN)
        return
    found = scale.astype(np.float64).ravel()
    bad = found[~(np.isfinite(found) & (found > 0))]
    if bad.size:
        yield Remark(
            "blocker", "qdq-scale", _at(node, f"a scale is {bad[0]:g}; scales are positive and finite"), _AGAIN
        )
    block = _attributes(node).get("block_size", 0)
    if block or scale.ndim > 1:
        yield from _block_findings(node, values, opset, scale)
    elif scale.size > 1:
        if opset < _CHANNELS_OPSET:
            yield Remark(
                "blocker",
                "qdq-opset",
                _at(node, f"scales per channel are in ONNX from opset 13, the model uses {opset}"),
                _AGAIN,
            )
        if not constant and not _quantizes_stored(node, values):
            yield Remark(
                "blocker", "qdq-axis", _at(node, f"{scale.size} scales on an activation; TensorRT takes one"), _AGAIN
            )
            return
        yield from _axis_findings(node, values)


def _quantizes_stored(node: NodeProto, values: _Values) -> bool:
    maker = values.makers.get(node.input[0])
    return maker is not None and maker.op_type == _QUANTIZE and maker.input[0] in values.stored


def _shape(node: NodeProto, values: _Values) -> tuple[int, ...] | None:
    """Dimensions of the stored tensor that a node of a pair takes."""
    maker = values.makers.get(node.input[0])
    name = maker.input[0] if maker is not None and maker.op_type == _QUANTIZE else node.input[0]
    return values.stored[name].shape if name in values.stored else None


def _axis_findings(node: NodeProto, values: _Values) -> Iterator[Remark]:
    """Scales per channel lie along the output channels of every operator that reads the weights."""
    shape = _shape(node, values)
    if node.op_type != _DEQUANTIZE or shape is None:
        return
    axis = _attributes(node).get("axis", 1)
    axis += len(shape) if axis < 0 else 0
    scales = values.stored[node.input[1]].size
    if not 0 <= axis < len(shape) or shape[axis] != scales:
        sizes = "x".join(map(str, shape))
        yield Remark(
            "blocker", "qdq-axis", _at(node, f"{scales} scales along axis {axis} of weights of {sizes}"), _AGAIN
        )
        return
    for reader in values.readers.get(node.output[0], []):
        wanted = _channel_axes(reader, node.output[0], len(shape))
        if wanted and axis not in wanted:
            message = (
                f"scales along axis {axis}; {reader.op_type} {reader.name!r} has its output channels along {wanted[0]}"
            )
            yield Remark("blocker", "qdq-axis", _at(node, message), _AGAIN)


def _channel_axes(reader: NodeProto, name: str, rank: int) -> tuple[int, ...]:
    """The axis of a reader's output channels in its weights; empty where it has none."""
    if reader.op_type == "Gemm":
        return (0 if _attributes(reader).get("transB") else 1,) if reader.input[1] == name else (0, 1)
    if reader.op_type == "MatMul":
        return (rank - 1,) if reader.input[1] == name else (rank - 2,)
    return _CHANNEL_AXES.get(reader.op_type, ())


def _block_findings(node: NodeProto, values: _Values, opset: int, scale: Array) -> Iterator[Remark]:
    shape, block = _shape(node, values), _attributes(node).get("block_size", 0)
    if opset < _BLOCKS_OPSET:
        yield Remark(
            "blocker", "qdq-opset", _at(node, f"blocks are in ONNX from opset 21, the model uses {opset}"), _AGAIN
        )
    if shape is None:
        yield Remark(
            "blocker", "qdq-block", _at(node, "blocks on an activation; TensorRT takes them on stored weights"), _AGAIN
        )
        return
    axis = _attributes(node).get("axis", 1)
    axis += len(shape) if axis < 0 else 0
    sizes = "x".join(map(str, shape))
    if block <= 0 or not 0 <= axis < len(shape) or shape[axis] % block:
        message = f"blocks of {block} along axis {axis} of weights of {sizes}: the size must be a multiple of the block"
        yield Remark(
            "blocker",
            "qdq-block",
            _at(node, message),
            "Leave this layer in float, or choose a block that divides the axis.",
        )
        return
    wanted = tuple(math.ceil(size / block) if place == axis else size for place, size in enumerate(shape))
    if scale.shape != wanted:
        found = "x".join(map(str, scale.shape))
        yield Remark(
            "blocker", "qdq-block", _at(node, f"scales of {found} for weights of {sizes} in blocks of {block}"), _AGAIN
        )
    for reader in values.readers.get(node.output[0], []):
        channels = _channel_axes(reader, node.output[0], len(shape))
        if axis in channels and len(channels) == 1:
            message = f"blocks lie along axis {axis}, the output channels of {reader.op_type} {reader.name!r}"
            yield Remark("blocker", "qdq-block", _at(node, f"{message}; they belong along the summed axis"), _AGAIN)


def _unpaired(node: NodeProto, values: _Values) -> Iterator[Remark]:
    readers = values.readers.get(node.output[0], [])
    others = [reader for reader in readers if reader.op_type != _DEQUANTIZE]
    if others:
        names = ", ".join(f"{reader.op_type} {reader.name!r}" for reader in others)
        yield Remark(
            "blocker", "qdq-pair", _at(node, f"{names} reads the quantized values; a DequantizeLinear must"), _AGAIN
        )
    elif not readers or node.output[0] in values.outputs:
        yield Remark("blocker", "qdq-pair", _at(node, "no DequantizeLinear reads the quantized values"), _AGAIN)


def _dim_names(graph: GraphProto) -> Iterator[Remark]:
    """Dimensions with one name are one size to TensorRT, so that placeholders must not be names."""
    for value in graph.input:
        names = Counter(dim.dim_param for dim in value.type.tensor_type.shape.dim if dim.dim_param)
        for name, count in names.items():
            if name in _ANONYMOUS and count > 1:
                message = f"input {value.name!r} has {count} dimensions named {name!r}, one size to TensorRT"
                yield Remark("blocker", "dim-names", message, "Give each a name of its own.")


def words(findings: tuple[Remark, ...]) -> str:
    """Findings in one line, the first five of many."""
    few = 5
    more = f"; and {len(findings) - few} more" if len(findings) > few else ""
    return "; ".join(f"[{finding.code}] {finding.text}" for finding in findings[:few]) + more


def float_products(model: ModelProto) -> list[str]:
    """Returns the operators that multiply and do not read dequantized values in both operands."""
    names = []
    for graph in graphs(model.graph):
        made: Mapping[str, NodeProto] = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            if multiplies(node):
                makers = [made.get(name) for name in node.input[:2]]
                if any(maker is None or maker.op_type != _DEQUANTIZE for maker in makers):
                    names.append(node.name or node.output[0])
    return names
