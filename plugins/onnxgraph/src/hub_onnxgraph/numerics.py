"""Says which numerics an ONNX file really computes in, from its operators and types alone.

An operator's precision is read off what its operands come from: a `DequantizeLinear` of an activation, a
`DequantizeLinear` of a stored tensor (or a `Cast`, for integers with a `Mul` behind it), or neither. Operators
that only move values are looked through.
Rules of the operators: ONNX's QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, QLinear* and *Integer, and ONNX
Runtime's contrib operators.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import Layer, Numerics
from hub_onnxgraph.graphs import all_tensors, subgraphs
from hub_onnxgraph.signature import dtype_name

if TYPE_CHECKING:
    import onnx

MULTIPLY_OPERATORS = frozenset({
    "Conv", "ConvTranspose", "DeformConv", "Einsum", "Gemm", "MatMul", "LSTM", "GRU", "RNN",
})  # fmt: skip
"""Operators that multiply and accumulate: where weights and time are. All but Einsum take the weights second or later;
an Einsum of one operand only moves or adds up."""

FUSED_OPERATORS = frozenset({
    "FusedConv", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "NhwcFusedConv", "Attention",
    "MultiHeadAttention", "GroupQueryAttention",
})  # fmt: skip
"""What ONNX Runtime's optimization makes of multiplying operators in float."""

STATIC_OPERATORS = frozenset({"QLinearConv", "QLinearMatMul", "QGemm", "QLinearConvTranspose"})
INTEGER_OPERATORS = frozenset({"MatMulInteger", "ConvInteger", "MatMulIntegerToFloat", "QAttention"})
DYNAMIC_OPERATORS = frozenset({"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
TABLE_OPERATORS = frozenset({"Gather", "GatherElements", "GatherND"})
"""Operators that read rows of a table: their weights are stored, not computed with."""

BLOCK_OPERATORS = frozenset({"MatMulNBits", "GatherBlockQuantized"})
_QUANTIZE = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
CONVERSIONS = frozenset({*_QUANTIZE, "DequantizeLinear"})
_MOVES = frozenset({
    "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Concat", "Pad", "Expand",
    "Tile", "DepthToSpace", "SpaceToDepth", "Dropout", "Gather",
})  # fmt: skip
"""Operators that move values and compute none: what comes out was quantized if what went in was."""

_BYTES = frozenset({"int8", "uint8"})
_WORDS = frozenset({"int16", "uint16"})
_NARROW = {"int4": "int4", "uint4": "int4", "int2": "int2", "uint2": "int2", "int8": "int8", "uint8": "int8"}
_WIDE, _HALF = frozenset({"float32", "float64"}), frozenset({"float16", "bfloat16"})
_FLOATS = {"float32": "fp32", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}
_HALVES = {"fp16": Numerics.FP16, "fp16-weights": Numerics.FP16, "bf16": Numerics.BF16, "bf16-weights": Numerics.BF16}
_FEWEST_OPERANDS = {"LSTM": 3, "GRU": 3, "RNN": 3}  # X, W, R; the others take an activation and a weight


class OnnxOperand(NamedTuple):
    """Where an input of an operator comes from.

    Attributes:
        type: Element type: of the stored tensor or of the quantized values behind it, else of the value itself.
        stored: Whether it is in the file.
        quantized: Whether it comes through a DequantizeLinear.
        dynamic: Whether its scale is computed at run time.
        cast: Whether it is stored in another float type than it is used in.
    """

    type: str
    stored: bool = False
    quantized: bool = False
    dynamic: bool = False
    cast: bool = False


@dataclass(slots=True)
class GraphScope:
    """Names that are visible in a graph: who makes them, what is stored, which types are known."""

    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def inner(self, graph: onnx.GraphProto) -> GraphScope:
        """The scope of a graph inside this one."""
        made = {name: node for node in graph.node for name in node.output if name}
        values = (*graph.input, *graph.value_info, *graph.output)
        types = {value.name: dtype_name(value.type.tensor_type.elem_type) for value in values}
        stored = {tensor.name: dtype_name(tensor.data_type) for tensor in graph.initializer}
        stored |= {node.output[0]: kind for node in graph.node if (kind := _constant_type(node))}
        return GraphScope(self.producers | made, self.stored | stored, self.types | types | stored)

    def operand(self, name: str) -> OnnxOperand:
        """Follows a name back through operators that only move values."""
        while name not in self.stored:
            node = self.producers.get(name)
            if node is None or not node.input:
                return OnnxOperand(self.types.get(name, ""))
            if node.op_type == "DequantizeLinear":
                return self._dequantized(node)
            if node.op_type == "Cast" and node.input[0] in self.stored:
                kind, used = self.stored[node.input[0]], _narrows_to(node)
                narrowed = kind in _WIDE and bool(used)
                return OnnxOperand(used if narrowed else kind, stored=True, cast=not narrowed)
            if node.op_type == "Mul" and (kind := self._unpacked(node)):
                return OnnxOperand(kind, stored=True, quantized=True)
            if node.op_type not in _MOVES:
                return OnnxOperand(self.types.get(name, ""))
            name = node.input[0]
        return OnnxOperand(self.stored[name], stored=True)

    def _unpacked(self, node: onnx.NodeProto) -> str:
        """The integer type of stored weights that a Cast, a Sub and this Mul make float; empty for others."""
        shifted = self.producers.get(node.input[0])
        centred = shifted is not None and shifted.op_type == "Sub"
        integers = self.operand(shifted.input[0] if shifted is not None and centred else node.input[0])
        whole = integers.cast and integers.type in _NARROW and self.operand(node.input[1]).stored
        return integers.type if whole else ""

    def _dequantized(self, node: onnx.NodeProto) -> OnnxOperand:
        source = self.operand(node.input[0])
        kind = source.type if source.stored else self._quantized_type(node)
        maker = self._maker(node.input[0])
        dynamic = maker is not None and maker.op_type == "DynamicQuantizeLinear"
        return OnnxOperand(kind, stored=source.stored, quantized=True, dynamic=dynamic)

    def _quantized_type(self, node: onnx.NodeProto) -> str:
        """The type of a DequantizeLinear's input: its zero point has the same one."""
        known = [self.types[name] for name in (*node.input[2:3], node.input[0]) if self.types.get(name)]
        return known[0] if known else "uint8"

    def is_static(self, name: str) -> bool:
        """Whether these integers are on a grid whose range was measured before, not in the run itself."""
        maker = self._maker(name)
        return maker is not None and maker.op_type.startswith(("QuantizeLinear", "QLinear", "QGemm"))

    def _maker(self, name: str) -> onnx.NodeProto | None:
        """What makes a value, behind operators that move or choose it; none where a caller or the file gives it."""
        node = self.producers.get(name)
        while node is not None and (node.op_type in _MOVES or node.op_type == "MaxPool") and node.input:
            node = self.producers.get(node.input[0])
        return node


def _narrows_to(node: onnx.NodeProto) -> str:
    """The half-wide type that a Cast makes; empty for any other."""
    made = next((dtype_name(int(a.i)) for a in node.attribute if a.name == "to"), "") if node.op_type == "Cast" else ""
    return made if made in _HALF else ""


def _constant_type(node: onnx.NodeProto) -> str:
    if node.op_type != "Constant":
        return ""
    return next((dtype_name(a.t.data_type) for a in node.attribute if a.name == "value"), "")


def scoped_nodes(model: onnx.ModelProto) -> Iterable[tuple[onnx.NodeProto, GraphScope]]:
    """Yields every node of the main graph, its subgraphs and the local functions, with the names visible to it."""
    yield from _in_graph(model.graph, GraphScope())
    for function in model.functions:
        made = GraphScope({name: node for node in function.node for name in node.output if name})
        yield from ((node, made) for node in function.node)


def _in_graph(graph: onnx.GraphProto, outer: GraphScope) -> Iterable[tuple[onnx.NodeProto, GraphScope]]:
    scope = outer.inner(graph)
    for node in graph.node:
        yield node, scope
        for subgraph in subgraphs(node):
            yield from _in_graph(subgraph, scope)


def precision_of(node: onnx.NodeProto, scope: GraphScope) -> str:
    """Returns one operator's precision: `int8`, `int16x8`, `int8-dynamic`, `int4-weights`, `fp16`, `fp32` …."""
    kind = node.op_type
    if kind in CONVERSIONS:
        return "conversion"
    if kind in STATIC_OPERATORS:
        return "int8"
    if kind in INTEGER_OPERATORS:
        return "int8" if scope.is_static(node.input[0]) else "int8-dynamic"
    if kind in DYNAMIC_OPERATORS:
        return "int8-dynamic"
    if kind in BLOCK_OPERATORS:
        return "int8-weights" if block_bits(node) == 8 else "int4-weights"  # noqa: PLR2004 - the operator's own numbers
    return _of_operands(kind, [scope.operand(name) for name in node.input if name], scope.types.get(_first(node), ""))


def block_bits(node: onnx.NodeProto | None) -> int:
    """Returns the bits of an operator's weights in blocks; 4 where it does not say."""
    return next((int(a.i) for a in node.attribute if a.name == "bits"), 4) if node is not None else 4


def _first(node: onnx.NodeProto) -> str:
    return node.output[0] if node.output else ""


def _of_operands(kind: str, operands: list[OnnxOperand], result: str) -> str:
    moving = [operand for operand in operands if not operand.stored]
    weighted = kind in MULTIPLY_OPERATORS | FUSED_OPERATORS | TABLE_OPERATORS
    needed = operands[: _FEWEST_OPERANDS.get(kind, 2)] if weighted else moving
    activations = [operand for operand in needed if not operand.stored]
    if activations and kind not in TABLE_OPERATORS and all(operand.quantized for operand in needed):
        kinds = {operand.type for operand in activations}
        if any(operand.dynamic for operand in activations):
            return "int8-dynamic"
        if kinds & _WORDS:
            return "int16x8"
        return "fp8" if any("float8" in kind for kind in kinds) else "int8"
    weights = [operand for operand in needed if operand.stored] if weighted else []
    for operand in weights:
        if operand.quantized:
            return "fp8-weights" if "float8" in operand.type else f"{_NARROW.get(operand.type, 'int16')}-weights"
        if operand.cast and operand.type in ("float16", "bfloat16"):
            return f"{_FLOATS[operand.type]}-weights"
    floats = [operand.type for operand in (*weights, *moving) if operand.type in _FLOATS]
    floats += [result] if result in _FLOATS else []
    return _FLOATS[floats[0]] if floats else "integer"


class FileNumerics(NamedTuple):
    """What was found.

    Attributes:
        numerics: The one word for the file.
        left_float: Multiplying operators in float in a file whose other ones compute in integers.
    """

    numerics: Numerics
    left_float: tuple[str, ...]


def numerics_of(model: onnx.ModelProto) -> Numerics:
    """Tells from operators and types what the model computes in. Its types must have been inferred."""
    return find_numerics(model).numerics


def find_numerics(model: onnx.ModelProto) -> FileNumerics:
    """Decides on the one word for a file.

    `int8` needs int8 operands in every operator that multiplies; one in float makes it `int8-mixed`. What only rounds
    the model's own outputs makes none: a float model may have integers at its ends. Below static
    quantization the weights decide, and the narrowest type names the file.
    """
    nodes = list(scoped_nodes(model))
    layers = [(node, precision_of(node, scope)) for node, scope in nodes]
    computing = [(node, word) for node, word in layers if multiplies(node) and word != "integer"]
    found = Counter(word for _, word in computing)
    tables = {word for node, word in layers if node.op_type in TABLE_OPERATORS}
    tables |= {word for node, scope in nodes if (word := _looked_up(node, scope))}
    ends = {value.name for value in model.graph.output} - {name for node, _ in nodes for name in node.input}
    inner = [(node, scope) for node, scope in nodes if ends.isdisjoint(node.output)]
    numerics = _static_numerics(found, inner) or _by_weights({*found, *tables}) or _by_elements(model)
    still_float = [node.name or _first(node) for node, word in computing if word in _FLOATS.values()]
    return FileNumerics(numerics, tuple(still_float) if numerics.is_quantized else ())


def _looked_up(node: onnx.NodeProto, scope: GraphScope) -> str:
    """The word for a DequantizeLinear of rows looked up in a stored table of integers; empty for any other."""
    if node.op_type != "DequantizeLinear" or node.input[0] in scope.stored:
        return ""
    source = scope.operand(node.input[0])
    return f"{_NARROW[source.type]}-weights" if source.stored and source.type in _NARROW else ""


def multiplies(node: onnx.NodeProto) -> bool:
    """Whether an operator multiplies and accumulates, in whatever numbers."""
    every = (
        MULTIPLY_OPERATORS
        | FUSED_OPERATORS
        | STATIC_OPERATORS
        | INTEGER_OPERATORS
        | DYNAMIC_OPERATORS
        | BLOCK_OPERATORS
    )
    return node.op_type in every and (node.op_type != "Einsum" or len(node.input) > 1)


def _static_numerics(found: Mapping[str, int], nodes: list[tuple[onnx.NodeProto, GraphScope]]) -> Numerics | None:
    if found.get("int8"):
        return Numerics.INT8 if set(found) == {"int8"} else Numerics.INT8_MIXED
    if found.get("int16x8"):
        return Numerics.INT16X8
    if found.get("fp8"):
        return Numerics.FP8
    kinds = {kind for node, scope in nodes if (kind := _activation_type(node, scope))}
    if kinds & _WORDS:
        return Numerics.INT16X8
    if kinds & _BYTES:  # no operator multiplies in integers: a file without any is int8, one in float is not
        return Numerics.INT8_MIXED if found else Numerics.INT8
    return None


def _activation_type(node: onnx.NodeProto, scope: GraphScope) -> str:
    """The element type that a QuantizeLinear gives an activation; empty for any other node."""
    if node.op_type != "QuantizeLinear" or scope.operand(node.input[0]).stored:
        return ""
    zero_point = next((scope.types.get(name, "") for name in node.input[2:3]), "")
    return zero_point or scope.types.get(node.output[0], "") or "uint8"


_BY_WEIGHTS: tuple[tuple[set[str], Numerics], ...] = (
    ({"int4-weights", "int2-weights"}, Numerics.INT4_WEIGHTS),
    ({"int8-dynamic"}, Numerics.INT8_DYNAMIC),
    ({"int8-weights"}, Numerics.INT8_WEIGHTS),
    ({"fp8-weights"}, Numerics.FP8),
)


def _by_weights(words: set[str]) -> Numerics | None:
    return next((numerics for wanted, numerics in _BY_WEIGHTS if wanted & words), None)


def _by_elements(model: onnx.ModelProto) -> Numerics:
    """A float file's word: the float type that most stored elements have, or are made before anything reads them."""
    narrowed = {node.input[0]: made for node in model.graph.node if (made := _narrows_to(node))}
    wide = {name for node in model.graph.node if not _narrows_to(node) for name in node.input}
    counts: Counter[str] = Counter()
    for tensor in all_tensors(model):
        used = narrowed.get(tensor.name, "") if tensor.name not in wide else ""
        word = _FLOATS.get(used or dtype_name(tensor.data_type), "")
        counts[word] += math.prod(tensor.dims) if word else 0
    return _HALVES.get(max(counts, key=lambda word: counts[word], default=""), Numerics.FP32)


def layers_of(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """Returns the main graph's operators in execution order with the precision that each computes in."""
    scope = GraphScope().inner(model.graph)
    return tuple(
        Layer(name=node.name or _first(node), operator=operator_key(node), precision=precision_of(node, scope))
        for node in model.graph.node
    )


def operator_key(node: onnx.NodeProto) -> str:
    """Returns `Conv`, or `domain::Operator` outside the standard domain."""
    return str(node.op_type) if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
