"""Says which numerics a TFLite file really computes in, from its tensors alone and without the quantizer's code.

An operator's precision is read off the types at its border: the activations that go in, the weights (also behind a
DEQUANTIZE of a constant), the results. Rules of the kernels: LiteRT's 8-bit quantization specification and the hybrid
kernels of CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, BATCH_MATMUL and EMBEDDING_LOOKUP (float in, int8 weights:
activations are quantized on the fly).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub.spec import Layer, Numerics
from hub_tflitefile.schema import constant, numbers, operator_name, text, type_name

if TYPE_CHECKING:
    from hub_tflitefile.tables import ModelT, OperatorT, SubGraphT

MULTIPLY_OPERATORS = frozenset({
    "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE", "FULLY_CONNECTED",
    "BATCH_MATMUL", "LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "RNN",
    "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_RNN", "SVDF",
})  # fmt: skip
"""Operators that multiply and accumulate: where weights and time are."""

TABLE_OPERATORS = frozenset({"EMBEDDING_LOOKUP", "GATHER", "GATHER_ND", "HASHTABLE_LOOKUP"})
"""Operators that read rows of a table: their weights are stored, not computed with."""

MOVE_OPERATORS = frozenset({
    "RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "CONCATENATION", "PACK", "UNPACK", "SQUEEZE",
    "EXPAND_DIMS", "PAD", "PADV2", "MIRROR_PAD", "TILE", "BROADCAST_TO", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE",
    "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "REVERSE_V2", "SHAPE", "RANK", "SELECT", "SELECT_V2", "FILL", "IF",
    "WHILE", "CALL", "CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "DYNAMIC_UPDATE_SLICE",
    "BROADCAST_ARGS", "STABLEHLO_COMPOSITE", "CAST", "BITCAST", "RESIZE_NEAREST_NEIGHBOR", *TABLE_OPERATORS,
})  # fmt: skip
"""Operators that move values and compute none."""

CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE", "DENSIFY", "FAKE_QUANT"})

_REALS = frozenset({"FLOAT32", "FLOAT16", "BFLOAT16", "FLOAT64"})
_STATIC = {"INT8": "int8", "UINT8": "uint8", "INT16": "int16"}
_FLOAT_WITH = {
    "INT8": "int8-dynamic", "UINT8": "int8-dynamic", "INT4": "int4-dynamic", "INT2": "int2-dynamic",
    "FLOAT16": "fp16-weights", "BFLOAT16": "bf16-weights",
}  # fmt: skip
_FLOAT_BEHIND_DEQUANTIZE = {
    "INT8": "int8-weights", "UINT8": "int8-weights", "INT4": "int4-weights", "INT2": "int2-weights",
    "FLOAT16": "fp16-weights", "BFLOAT16": "bf16-weights",
}  # fmt: skip
_PLAIN = {"FLOAT64": "fp64", "FLOAT16": "fp16", "BFLOAT16": "bf16"}
_FLOAT_LAYER = frozenset({"fp32", "fp64", "fp16", "bf16"})
_NARROW_WEIGHTS = frozenset({*_FLOAT_WITH.values(), *_FLOAT_BEHIND_DEQUANTIZE.values()})


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorInput:
    """One input of an operator.

    Attributes:
        type: Element type in the schema's words; of the stored constant where `dequantized`.
        weight: Whether it is a constant (stored in the file).
        dequantized: Whether the constant reaches the operator through a DEQUANTIZE.
        quantized: Whether it has a scale.
        size: Number of stored bytes of a constant; 0 for an activation.
    """

    type: str
    weight: bool
    dequantized: bool
    quantized: bool
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionReport:
    """What was found.

    Attributes:
        numerics: The one word for the file.
        layers: Every operator in execution order with its precision.
        counts: Precision -> number of multiplying and table operators.
        left_float: Computing operators with float activations in a file with integer ones, and operators wholly in
            float in a file with quantized weights.
    """

    numerics: Numerics
    layers: tuple[Layer, ...]
    counts: dict[str, int]
    left_float: tuple[Layer, ...]


def precision_report(model: ModelT) -> PrecisionReport:
    """Reads every operator of every subgraph and decides on the file's numerics."""
    layers = tuple(layer for graph in model.subgraphs for layer in _layers(model, graph))
    weighted = [layer for layer in layers if layer.operator in MULTIPLY_OPERATORS | TABLE_OPERATORS]
    still = MOVE_OPERATORS | CONVERSIONS
    computing = [layer for layer in layers if layer.operator not in still and layer.precision != "integer"]
    numerics = decide(computing, weighted)
    # With static activations, float ones on narrow weights count as left in float too.
    static = numerics in {Numerics.INT8, Numerics.INT8_MIXED, Numerics.INT16X8}
    words = _FLOAT_LAYER | _NARROW_WEIGHTS if static else _FLOAT_LAYER if numerics.is_quantized else frozenset()
    left = tuple(layer for layer in computing if layer.precision in words)
    counts = Counter(layer.precision for layer in weighted if layer.precision != "integer")
    return PrecisionReport(numerics=numerics, layers=layers, counts=dict(counts), left_float=left)


def decide(computing: Iterable[Layer], weighted: Iterable[Layer]) -> Numerics:
    """Returns the one word for a file's operators.

    `int8` needs int8 activations in every computing operator; one in float makes it `int8-mixed`. Below static
    quantization the weights decide, and the narrowest type found names the file.
    """
    found = Counter(layer.precision for layer in computing)
    if found["int8"] or found["uint8"]:
        return Numerics.INT8 if set(found) <= {"int8", "uint8"} else Numerics.INT8_MIXED
    if found["int16x8"] or found["int16"]:
        return Numerics.INT16X8
    weights = {layer.precision for layer in weighted}
    return next((numerics for words, numerics in _BY_WEIGHTS if words & weights), Numerics.FP32)


_BY_WEIGHTS: tuple[tuple[set[str], Numerics], ...] = (
    ({"int4-weights", "int4-dynamic", "int2-weights", "int2-dynamic"}, Numerics.INT4_WEIGHTS),
    ({"int8-dynamic"}, Numerics.INT8_DYNAMIC),
    ({"int8-weights"}, Numerics.INT8_WEIGHTS),
    ({"fp16-weights"}, Numerics.FP16),
    ({"bf16-weights"}, Numerics.BF16),
)


def _layers(model: ModelT, graph: SubGraphT) -> Iterable[Layer]:
    stored: dict[int, int] = {}  # output -> constant of every DEQUANTIZE that reads one
    for operator in graph.operators:
        if operator_name(model, operator) in {"DEQUANTIZE", "DENSIFY"}:
            source = numbers(operator.inputs)[0]
            if constant(model, graph.tensors[source]) is not None:
                stored[numbers(operator.outputs)[0]] = source
    for operator in graph.operators:
        name = operator_name(model, operator)
        precision = _precision(model, graph, operator, stored)
        yield Layer(name=layer_name(graph, operator), operator=name, precision=precision)


def layer_name(graph: SubGraphT, operator: OperatorT) -> str:
    """Returns the name of the operator's first output, as tools that show TFLite graphs do."""
    outputs = [index for index in numbers(operator.outputs) if index >= 0]
    return text(graph.tensors[outputs[0]].name) if outputs else ""


def _operand(model: ModelT, graph: SubGraphT, index: int, producers: dict[int, int]) -> OperatorInput:
    tensor = graph.tensors[producers.get(index, index)]
    data = constant(model, tensor)
    quantization = tensor.quantization
    scaled = quantization is not None and quantization.scale is not None and len(quantization.scale) > 0
    return OperatorInput(
        type=type_name(tensor),
        weight=data is not None,
        dequantized=index in producers,
        quantized=scaled or (quantization is not None and quantization.details is not None),
        size=0 if data is None else len(data),
    )


def _precision(model: ModelT, graph: SubGraphT, operator: OperatorT, producers: dict[int, int]) -> str:
    name = operator_name(model, operator)
    inputs = [_operand(model, graph, index, producers) for index in numbers(operator.inputs) if index >= 0]
    outputs = [_operand(model, graph, index, {}) for index in numbers(operator.outputs) if index >= 0]
    if name in CONVERSIONS:
        return "conversion"
    values = [o for o in (*inputs, *outputs) if o.type in _REALS or o.quantized]
    moving = [o for o in values if not o.weight]
    if not moving:
        return "integer"
    return _of_values(moving, [o for o in values if o.weight], multiplies=name in MULTIPLY_OPERATORS | TABLE_OPERATORS)


def _of_values(moving: list[OperatorInput], weights: list[OperatorInput], *, multiplies: bool) -> str:
    """Returns the precision of an operator with these activations and constants; see the module's text."""
    kinds = {o.type for o in moving}
    if kinds <= set(_STATIC) and len(kinds) == 1:
        static = _STATIC[kinds.pop()]
        weighted = multiplies and any(o.type in {"INT8", "INT4"} for o in weights)
        return "int16x8" if static == "int16" and weighted else static
    if multiplies and weights:
        largest = max(weights, key=lambda o: o.size)
        table = _FLOAT_BEHIND_DEQUANTIZE if largest.dequantized else _FLOAT_WITH
        return table.get(largest.type, "fp32")
    return _PLAIN.get(next(iter(kinds)), "fp32") if len(kinds) == 1 else "fp32"
