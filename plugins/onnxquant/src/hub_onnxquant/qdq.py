"""Writes QuantizeLinear and DequantizeLinear into a graph.

ONNX Runtime's own `QDQQuantizer` is not used: with unsigned weights per channel it writes zero points of 127 and 128 in
one tensor, which ONNX Runtime then runs 6 times slower; it takes 5 s a try on 100 layers, and cannot place a pair by
what reads it. Formulas: ONNX's QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from hub_onnxgraph.graphs import add_constant, all_names, fresh_name, prune
from hub_onnxquant.placement import PRODUCTS, Placement

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from onnx import ModelProto, NodeProto

    Array = npt.NDArray[np.generic]
    Floats = npt.NDArray[np.float64]

Range = tuple[float, float]
_INT32 = 2**31 - 1
FP8 = "float8e4m3fn"
"""ONNX's word for fp8 with 4 bits of exponent, without infinity."""

_LARGEST = {"int8": 127, "int16": 32767, FP8: 448}
_MIDDLE = 128  # the zero point of unsigned weights: exactly the signed ones, shifted
_TINIEST = 1e-12  # a scale must be positive, also of a tensor that is always 0


class Signedness(StrEnum):
    """Element types of activations and weights.

    Measured in ONNX Runtime 1.32's matrix kernels (MLAS), extremes in, against exact sums: without VNNI u8s8 adds pairs
    of products in 16 bits and saturates (0.51 of the right value); u8u8 is exact and takes 1.0 to 1.3 of its time; s8s8
    is exact and takes 4 to 18 times as long. Depthwise kernels add in 32 bits for every signedness.
    """

    U8S8 = "u8s8"
    U8U8 = "u8u8"
    S8S8 = "s8s8"


@dataclass(frozen=True, slots=True)
class Scheme:
    """Element types.

    Attributes:
        activations: `uint8`, or `int8`, `int16` or `FP8`, which are symmetric.
        weights: `int8` or `FP8`; or `uint8` with zero point 128, except in grouped convolutions, whose kernels need
            neither.
        integer_bias: Whether biases become int32, in the product of the operands' scales.
    """

    activations: str
    weights: str
    integer_bias: bool = True

    @classmethod
    def of(cls, signedness: Signedness) -> Scheme:
        """The scheme of a signedness."""
        words = {"u": "uint8", "s": "int8"}
        return cls(words[signedness[0]], words[signedness[2]])

    @property
    def symmetric(self) -> bool:
        """Whether activations have zero point 0."""
        return self.activations in _LARGEST


class Affine(NamedTuple):
    """real = scale * (quantized - zero_point)."""

    scale: float
    zero_point: int


def _numpy_type(kind: str) -> np.dtype[np.generic]:
    import ml_dtypes
    import numpy as np

    return np.dtype(ml_dtypes.float8_e4m3fn if kind == FP8 else kind)


def affine(found: Range, kind: str) -> Affine:
    """Returns the parameters for a range of real values, widened to hold 0."""
    low, high = min(found[0], 0.0), max(found[1], 0.0)
    if kind in _LARGEST:
        return Affine(max(-low, high, _TINIEST) / _LARGEST[kind], 0)
    scale = max(high - low, _TINIEST) / 255
    return Affine(scale, round(-low / scale))


class QuantizedWeights(NamedTuple):
    """Integers, or fp8, with one scale per channel of `axis`, or one for all; zero point 0."""

    integers: Array
    scales: Array
    axis: int | None


def quantize_weights(
    array: Array, axis: int | None, least: Array | float = 0.0, kind: str = "int8"
) -> QuantizedWeights:
    """Rounds to int8 in -127..127, or fp8 in -448..448, symmetric.

    Args:
        array: Float weights.
        axis: The output channels', which get a scale each; None for one scale.
        least: Lower bound of the scales, where an int32 bias needs coarser ones.
        kind: `int8` or `FP8`.
    """
    import numpy as np

    others = tuple(place for place in range(array.ndim) if axis is None or place != axis)
    values = array.astype(np.float64)
    scales = np.maximum(np.abs(values).max(axis=others) / _LARGEST[kind], np.maximum(least, _TINIEST))
    shape = [-1 if place == axis else 1 for place in range(array.ndim)]
    steps = np.clip(values / scales.reshape(shape), -_LARGEST[kind], _LARGEST[kind])
    integers = (steps if kind == FP8 else np.rint(steps)).astype(_numpy_type(kind))
    return QuantizedWeights(integers, np.asarray(scales, np.float32), axis)


class QdqWriter:
    """Collects the new graph. Nodes are copied, so that the model it starts from stays as it is."""

    def __init__(self, model: ModelProto, scheme: Scheme) -> None:
        self.model: ModelProto = type(model).FromString(model.SerializeToString())
        self.graph = self.model.graph
        self.scheme = scheme
        self.nodes: list[NodeProto] = []
        self.taken = all_names(self.graph) | {node.name for node in self.graph.node}
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self._weights: dict[tuple[str, int | None, bytes], str] = {}

    def constant(self, wish: str, array: Array) -> str:
        """Stores an array; returns its name."""
        name = fresh_name(wish, self.taken)
        add_constant(self.graph, name, array)
        return name

    def node(self, operator: str, inputs: list[str], output: str, axis: int | None = None) -> None:
        """Writes an operator behind those that there are."""
        from onnx import helper

        name = fresh_name(f"{output}/{operator}", self.taken)
        node = helper.make_node(operator, inputs, [output], name=name)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)

    def pair(self, source: str, target: str, parameters: Affine) -> None:
        """Writes source -> QuantizeLinear -> DequantizeLinear -> target."""
        import numpy as np

        kind = _numpy_type(self.scheme.activations)
        scale = self.constant(f"{target}/scale", np.array(parameters.scale, np.float32))
        zero = self.constant(f"{target}/zero_point", np.array(parameters.zero_point, kind))
        middle = fresh_name(f"{target}/quantized", self.taken)
        self.node("QuantizeLinear", [source, scale, zero], middle)
        self.node("DequantizeLinear", [middle, scale, zero], target)

    def weights(self, name: str, found: QuantizedWeights, *, signed: bool) -> str:
        """Writes stored integers -> DequantizeLinear; nodes that share a tensor and its scales share this too."""
        import numpy as np

        key = (name, found.axis, found.scales.tobytes())
        if key not in self._weights:
            integers = found.integers if signed else (found.integers.astype(np.int16) + _MIDDLE).astype(np.uint8)
            zeros = np.full(found.scales.shape, 0 if signed else _MIDDLE, integers.dtype)
            operands = [
                self.constant(f"{name}/quantized", integers),
                self.constant(f"{name}/scale", found.scales),
                self.constant(f"{name}/zero_point", zeros),
            ]
            self._weights[key] = fresh_name(f"{name}/dequantized", self.taken)
            self.node("DequantizeLinear", operands, self._weights[key], axis=found.axis)
        return self._weights[key]

    def bias(self, name: str, array: Array, scales: Floats) -> str:
        """Writes an int32 bias, whose scale is the product of the operands' scales."""
        import numpy as np

        integers = np.clip(np.rint(array.astype(np.float64) / scales), -_INT32, _INT32).astype(np.int32)
        operands = [
            self.constant(f"{name}/quantized", integers),
            self.constant(f"{name}/scale", scales.astype(np.float32)),
        ]
        target = fresh_name(f"{name}/dequantized", self.taken)
        self.node("DequantizeLinear", operands, target, axis=0)
        return target


def attributes(node: NodeProto) -> dict[str, object]:
    """Returns a node's attributes by name."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def weight_axis(node: NodeProto, rank: int) -> int:
    """Returns the axis of the output channels in a product's stored operand."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return 0 if node.op_type == "Conv" else 1
    if node.op_type == "Gemm":
        return 0 if attributes(node).get("transB") else 1
    return rank - 1


def _has_plain_bias(node: NodeProto, writer: QdqWriter, channels: int) -> bool:
    """Whether a product's third operand is a stored vector, added as it is."""
    if len(node.input) < 3 or node.input[2] not in writer.tensors:  # noqa: PLR2004 - X, W, B
        return False
    written = attributes(node)
    scaled = node.op_type == "Gemm" and (written.get("alpha", 1.0), written.get("beta", 1.0)) != (1.0, 1.0)
    return not scaled and list(writer.tensors[node.input[2]].dims) == [channels]


def _write_weights(node: NodeProto, writer: QdqWriter, scale: float | None) -> None:
    """Gives a copied product integer weights, and an integer bias where its activation's scale is known."""
    import numpy as np
    from onnx import numpy_helper

    for place in (0, 1):
        tensor = writer.tensors.get(node.input[place])
        if tensor is None:
            continue
        array = numpy_helper.to_array(tensor)
        # ONNX Runtime's MatMulIntegerToFloat refuses more than one scale of what stands on the left.
        axis = weight_axis(node, array.ndim) if place else None
        grouped = attributes(node).get("group", 1) != 1
        if array.ndim < 2:  # noqa: PLR2004 - a vector has one row
            continue
        plain = (
            place == 1
            and scale is not None
            and writer.scheme.integer_bias
            and axis is not None
            and _has_plain_bias(node, writer, array.shape[axis])
        )
        bias = numpy_helper.to_array(writer.tensors[node.input[2]]) if plain else None
        least = 0.0 if bias is None or scale is None else np.abs(bias.astype(np.float64)) / (scale * _INT32)
        signed = writer.scheme.weights != "uint8" or grouped
        found = quantize_weights(array, axis, least, FP8 if writer.scheme.weights == FP8 else "int8")
        node.input[place] = writer.weights(node.input[place], found, signed=signed)
        if bias is not None and scale is not None:
            node.input[2] = writer.bias(node.input[2], bias, found.scales.astype(np.float64) * scale)


def insert(model: ModelProto, placement: Placement, ranges: Mapping[str, Range], scheme: Scheme) -> ModelProto:
    """Returns a quantized copy of a model.

    Args:
        model: Opset 13 or more (19 for fp8, 21 for int16), stored tensors as initializers.
        placement: What to quantize.
        ranges: Tensor -> range of its real values, for each tensor of the placement.
        scheme: Element types.
    """
    writer = QdqWriter(model, scheme)
    parameters = {
        name: affine(ranges[placement.same.get(name, name)], scheme.activations) for name in placement.tensors
    }
    targets = {name: fresh_name(f"{name}/dequantized", writer.taken) for name in placement.tensors}
    outputs = {value.name for value in writer.graph.output}
    units = {*placement.products, *placement.joined}
    behind, products = set(placement.behind), set(placement.products)

    def write_pair(name: str) -> None:
        if name in outputs and name in behind:  # the output keeps its name, the value before it gets another
            inner = fresh_name(f"{name}/float", writer.taken)
            writer.nodes[-1].output[:] = [inner if out == name else out for out in writer.nodes[-1].output]
            writer.pair(inner, name, parameters[name])
            targets[name] = name
        else:
            writer.pair(name, targets[name], parameters[name])

    for value in writer.graph.input:
        if value.name in targets:
            write_pair(value.name)
    for node in list(writer.graph.node):
        reads = targets if node.name in units else {name: targets[name] for name in behind}
        scale = parameters[node.input[0]].scale if node.name in products and node.input[0] in parameters else None
        node.input[:] = [reads.get(name, name) for name in node.input]
        if node.name in products and node.op_type in PRODUCTS:
            _write_weights(node, writer, scale)
        writer.nodes.append(node)
        for name in node.output:
            if name in targets:
                write_pair(name)
    copies = [type(node).FromString(node.SerializeToString()) for node in writer.nodes]
    del writer.graph.node[:]
    writer.graph.node.extend(copies)
    del writer.graph.value_info[:]
    prune(writer.graph)
    return writer.model
