"""Says which numerics an IR really computes in, from its layers and types alone.

A layer's precision is read off what its operands come from. OpenVINO writes a quantized activation as a `FakeQuantize`
(256 levels: int8, 65,536: int16), alone or followed by `Convert` to integers and back with `Subtract` and `Multiply`;
a quantized weight as a stored integer behind `Convert`, `Subtract` and `Multiply`, or as a `FakeQuantize` of a stored
float. Layers that only move values are looked through. Meaning of the operators: the operation sets of OpenVINO.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hub.spec import Layer, Numerics
from hub_openvino.ir import Ir, IrGraph, IrLayer, graphs_of

MULTIPLY_OPERATORS = frozenset({
    "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "BinaryConvolution",
    "DeformableConvolution", "MatMul", "ScaledDotProductAttention", "LSTMCell", "LSTMSequence", "GRUCell",
    "GRUSequence", "RNNCell", "RNNSequence", "AUGRUCell", "AUGRUSequence", "Einsum",
})  # fmt: skip
"""Operators that multiply and accumulate: where weights and time are."""

TABLE_OPERATORS = frozenset({"Gather", "GatherND", "GatherElements", "EmbeddingBagOffsetsSum", "EmbeddingBagPackedSum"})
"""Operators that read rows of a table: their weights are stored, not computed with."""

CONVERSIONS = frozenset({"FakeQuantize", "FakeConvert", "Convert", "ConvertLike"})
"""Operators that stand between precisions."""

_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "ScaledDotProductAttention": (0, 1, 2),
    "LSTMSequence": (0, 4, 5), "GRUSequence": (0, 3, 4), "RNNSequence": (0, 3, 4),
    "LSTMCell": (0, 3, 4), "GRUCell": (0, 2, 3), "RNNCell": (0, 2, 3),
}  # fmt: skip
"""Places of the inputs that are multiplied, where they are not the first two."""

MOVE_OPERATORS = frozenset({
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "VariadicSplit", "Slice", "StridedSlice", "Tile", "Pad",
    "Broadcast", "DepthToSpace", "SpaceToDepth", "BatchToSpace", "SpaceToBatch", "ShuffleChannels", "ReverseSequence",
    "MaxPool", "ReduceMax", "Gather",
})  # fmt: skip
"""Operators whose values are some of their first input's: what comes out was quantized if what went in was."""

_SCALING = frozenset({"Multiply", "Subtract", "Divide"})
_FLOATS = {"FP32": "fp32", "FP16": "fp16", "BF16": "bf16", "FP64": "fp64"}
_NARROW = {
    "I8": "int8", "U8": "int8", "I4": "int4", "U4": "int4", "U6": "int6", "U3": "int3", "U2": "int2", "I2": "int2",
    "NF4": "nf4", "F8E4M3": "fp8", "F8E5M2": "fp8", "F4E2M1": "fp4", "F8E8M0": "fp8",
}  # fmt: skip
_LEVELS_OF_8_BITS = 256
_LEVELS_OF_4_BITS = 16
DYNAMIC_SETTING = "runtime_options/DYNAMIC_QUANTIZATION_GROUP_SIZE"
"""Where a file says that the runtime is to quantize activations on the fly: a number above 0 (per group)."""


class IrOperand(NamedTuple):
    """What feeds a layer.

    Attributes:
        kind: The narrow type's word (`int8`, `int16`, `fp8`), or the float type's; empty where it is neither.
        stored: Whether it is a stored tensor.
        quantized: Whether it is an integer (or 8-bit float) with a scale.
        dynamic: Whether its range is measured at run time.
    """

    kind: str
    stored: bool = False
    quantized: bool = False
    dynamic: bool = False


def _stored_kind(node: IrLayer) -> str:
    return _kind(node.data.get("element_type", "").upper().replace("F32", "FP32").replace("F16", "FP16"))


def _kind(precision: str) -> str:
    """A type's word; bfloat16 comes as `BF16` from ports and as `bf16` from stored tensors."""
    precision = precision.replace("BFP16", "BF16")
    return _NARROW.get(precision, _FLOATS.get(precision, ""))


def _result(node: IrLayer) -> str:
    return node.outputs[0].precision if node.outputs else ""


class IrOperands:
    """Follows the inputs of a graph's layers back through what only moves or scales values.

    Each layer is looked at once: a chain of layers that use a value twice would be walked 2^n times otherwise.
    """

    def __init__(self, graph: IrGraph) -> None:
        self._graph = graph
        self._known: dict[int, IrOperand] = {}
        self._rules = {
            "Concat": self._concat, "FakeQuantize": self._fake_quantize, "FakeConvert": self._fake_convert,
            "Convert": self._convert, "ConvertLike": self._convert, **dict.fromkeys(_SCALING, self._scaled),
        }  # fmt: skip

    def of(self, node: IrLayer, place: int) -> IrOperand:
        """What feeds the input at a place."""
        source = self._graph.source(node, place)
        if source is None:
            return IrOperand("")
        if source.key not in self._known:
            self._known[source.key] = self._from(source)
        return self._known[source.key]

    def _from(self, source: IrLayer) -> IrOperand:
        if source.is_constant:
            return IrOperand(_stored_kind(source), stored=True)
        if source.type in MOVE_OPERATORS:
            return self.of(source, 0)
        rule = self._rules.get(source.type)
        return rule(source) if rule else IrOperand(_kind(_result(source)))

    def _all(self, node: IrLayer) -> list[IrOperand]:
        return [self.of(node, place) for place in range(len(node.inputs))]

    def _concat(self, node: IrLayer) -> IrOperand:
        return min(self._all(node), key=lambda part: (part.quantized, not part.stored), default=IrOperand(""))

    def _fake_quantize(self, node: IrLayer) -> IrOperand:
        levels = int(node.data.get("levels", _LEVELS_OF_8_BITS))
        narrow = "int4" if levels <= _LEVELS_OF_4_BITS else "int8"
        kind = narrow if levels <= _LEVELS_OF_8_BITS else "int16"
        return IrOperand(kind, stored=self.of(node, 0).stored, quantized=True)

    def _fake_convert(self, node: IrLayer) -> IrOperand:
        return IrOperand("fp8", stored=self.of(node, 0).stored, quantized=True)

    def _convert(self, node: IrLayer) -> IrOperand:
        """From a narrow type: quantized, unless the model is fed such integers; from float to float: looked through."""
        before = self.of(node, 0)
        if before.quantized or before.stored:
            return before._replace(quantized=before.quantized or before.kind in _NARROW.values())
        narrow = _kind(node.inputs[0].precision) if node.inputs else ""
        if narrow not in _NARROW.values() or self._is_fed(node):
            return IrOperand(_kind(_result(node)))
        return IrOperand(narrow, quantized=True, dynamic=True)

    def _is_fed(self, node: IrLayer) -> bool:
        """Whether a layer's values come from an input of the model, moved at most."""
        source = self._graph.source(node, 0)
        while source is not None and source.type in MOVE_OPERATORS:
            source = self._graph.source(source, 0)
        return source is None or source.type == "Parameter"

    def _scaled(self, node: IrLayer) -> IrOperand:
        """A scale or zero point that is applied to something quantized leaves it quantized."""
        parts = self._all(node)
        quantized = [part for part in parts if part.quantized]
        others = [part for part in parts if not part.quantized]
        if quantized and (all(part.stored for part in parts[1:]) or any(part.dynamic for part in quantized)):
            return quantized[0]
        if others and all(part.stored for part in parts):
            return quantized[0] if quantized else others[0]
        return IrOperand(_kind(_result(node)))


def precision_of(operands: IrOperands, node: IrLayer) -> str:
    """Returns one layer's precision: `int8`, `int16x8`, `int8-dynamic`, `int4-weights`, `fp16`, `fp32`, `integer` …."""
    if node.type in CONVERSIONS:
        return "conversion"
    if node.type in MULTIPLY_OPERATORS:
        return _of_product([operands.of(node, place) for place in _OPERANDS.get(node.type, (0, 1))], _result(node))
    if node.type in TABLE_OPERATORS:
        table = operands.of(node, 0)
        if table.stored and table.quantized:
            return f"{table.kind}-weights"
    return _FLOATS.get(_result(node), "integer")


def _of_product(operands: list[IrOperand], result: str) -> str:
    """An operator multiplies in integers when all that it multiplies is quantized, or what comes out is integers."""
    moving = [item for item in operands if not item.stored]
    if moving and all(item.quantized or (item.stored and result == "I32") for item in operands):
        if any(item.dynamic for item in moving):
            return "int8-dynamic"
        kinds = {item.kind for item in moving}
        return "int16x8" if "int16" in kinds else "fp8" if "fp8" in kinds else "int8"
    narrow = [item.kind for item in operands if item.stored and item.quantized]
    if narrow:
        return f"{narrow[0]}-weights"
    halves = [item.kind for item in operands if item.stored and item.kind in {"fp16", "bf16"}]
    floats = halves or [item.kind for item in operands if item.kind in _FLOATS.values()]
    return floats[0] if floats else "integer"


class FoundNumerics(NamedTuple):
    """What was found.

    Attributes:
        numerics: The one word for the file.
        left_float: Names of multiplying layers in float, in a file whose other ones compute in integers.
    """

    numerics: Numerics
    left_float: tuple[str, ...]


def find_numerics(ir: Ir) -> FoundNumerics:
    """Decides on the one word for a file.

    `int8` needs int8 operands in every layer that multiplies; one in float makes it `int8-mixed`. Below static
    quantization the weights decide, and the narrowest type names the file. Weights alone with the runtime's dynamic
    quantization asked for in the file are `int8-dynamic`.
    """
    judged = [
        (node, precision_of(operands, node))
        for graph in graphs_of(ir.graph)
        for operands in [IrOperands(graph)]
        for node in graph.computing
    ]
    computing = [(node, word) for node, word in judged if node.type in MULTIPLY_OPERATORS and word != "integer"]
    words = Counter(word for _, word in computing)
    tables = {word for node, word in judged if node.type in TABLE_OPERATORS}
    matrices = {word for node, word in computing if node.type == "MatMul"}
    # The file asks for activations quantized at run time, and holds products that OpenVINO does so for.
    numerics = (
        _static(words)
        or _by_weights(
            {*words, *tables}, ir.info.get(DYNAMIC_SETTING, "0") not in {"", "0"} and "int8-weights" in matrices
        )
        or _by_elements(ir)
    )
    float_words = {*_FLOATS.values(), *(word for word in words if word.endswith("-weights"))}
    kept = tuple(node.name for node, word in computing if word in float_words)
    return FoundNumerics(numerics, kept if numerics in {Numerics.INT8_MIXED, Numerics.INT16X8, Numerics.FP8} else ())


def _static(words: Mapping[str, int]) -> Numerics | None:
    if words.get("int8"):
        return Numerics.INT8 if set(words) == {"int8"} else Numerics.INT8_MIXED
    if words.get("int16x8"):
        return Numerics.INT16X8
    return Numerics.FP8 if words.get("fp8") else None


_BY_WEIGHTS: tuple[tuple[set[str], Numerics], ...] = (
    ({"int4-weights", "nf4-weights", "fp4-weights", "int2-weights", "int3-weights"}, Numerics.INT4_WEIGHTS),
    ({"int8-dynamic"}, Numerics.INT8_DYNAMIC),
    ({"int8-weights", "int6-weights"}, Numerics.INT8_WEIGHTS),
    ({"fp8-weights"}, Numerics.FP8),
)


def _by_weights(words: set[str], on_the_fly: bool) -> Numerics | None:
    found = next((numerics for wanted, numerics in _BY_WEIGHTS if wanted & words), None)
    return Numerics.INT8_DYNAMIC if found == Numerics.INT8_WEIGHTS and on_the_fly else found


def _by_elements(ir: Ir) -> Numerics:
    """A float file's word: the float type that most stored elements have."""
    counts: Counter[str] = Counter()
    for node in constants_of(ir):
        counts[_stored_kind(node)] += elements(node)
    floats = {word: count for word, count in counts.items() if word in _FLOATS.values()}
    most = max(floats, key=lambda word: floats[word], default="fp32")
    return {"fp16": Numerics.FP16, "bf16": Numerics.BF16}.get(most, Numerics.FP32)


def constants_of(ir: Ir) -> Iterable[IrLayer]:
    """Yields every stored tensor."""
    return (node for graph in graphs_of(ir.graph) for node in graph.nodes.values() if node.is_constant)


def elements(node: IrLayer) -> int:
    """Number of elements of a stored tensor."""
    sizes = [int(size) for size in node.data.get("shape", "").replace(" ", "").split(",") if size]
    return math.prod(sizes)


def layers_of(ir: Ir) -> tuple[Layer, ...]:
    """Returns the main graph's layers in file order with the precision that each computes in."""
    operands = IrOperands(ir.graph)
    return tuple(
        Layer(name=node.name, operator=operator_key(node), precision=precision_of(operands, node))
        for node in ir.graph.computing
    )


def operator_key(node: IrLayer) -> str:
    """Returns `Convolution`, or `set::Operator` outside OpenVINO's public operation sets."""
    return node.type if is_public(node) else f"{node.opset}::{node.type}"


def is_public(node: IrLayer) -> bool:
    """Whether a layer is of a public operation set."""
    return node.opset.startswith("opset")
