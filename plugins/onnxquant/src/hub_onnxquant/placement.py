"""Decides which tensors of a graph are quantized, so that ONNX Runtime's kernels take the integers from one another.

ONNX Runtime computes `DequantizeLinear -> Conv -> QuantizeLinear` in integers only with all three around the operator,
`MatMul` and `Gemm` also without the last one. So a recipe that quantizes inputs alone computes convolutions in float.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
PRODUCTS = frozenset({*CONVOLUTIONS, "Gemm", "MatMul"})
"""Operators that multiply and have integer forms: where the weights and the time are."""

_ELEMENTWISE = frozenset({"Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "LeakyRelu", "Sigmoid"})
"""Operators with an integer kernel for `DequantizeLinear -> operator -> QuantizeLinear` in ONNX Runtime."""

_CLAMPS = frozenset({"Relu", "Clip"})
"""Absorbed by the QuantizeLinear behind them, whose range ends where theirs does."""

_MOVES = frozenset({"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice"})
"""Operators that ONNX Runtime runs on the integers themselves where both sides have one scale."""


class Extent(IntEnum):
    """How much is quantized; each level holds the one before."""

    INPUTS = 1
    OUTPUTS = 2
    BETWEEN = 3

    @property
    def words(self) -> str:
        """For notes and recipes."""
        return ("inputs of products", "inputs of products, outputs of convolutions", "products and what joins them")[
            self - 1
        ]


@dataclass(frozen=True, slots=True)
class Placement:
    """What gets a pair of QuantizeLinear and DequantizeLinear.

    Attributes:
        products: Names of the multiplying nodes that compute in integers.
        joined: Names of the other nodes that do.
        behind: Tensors that every consumer reads quantized.
        before: Tensors that only the nodes in `products` and `joined` read quantized.
        same: Tensor -> tensor whose scale it shares.
    """

    products: tuple[str, ...]
    joined: tuple[str, ...]
    behind: tuple[str, ...]
    before: tuple[str, ...]
    same: dict[str, str] = field(default_factory=dict)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Every quantized activation."""
        return tuple(dict.fromkeys((*self.behind, *self.before)))


class Wiring:
    """Who makes and who reads each tensor of a model's main graph, and which tensors are float32."""

    def __init__(self, model: ModelProto) -> None:
        from onnx import TensorProto

        graph = model.graph
        self.nodes = list(graph.node)
        self.stored = {tensor.name for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        made = {name for node in self.nodes for name in node.output} | {value.name for value in graph.input}
        values = (*graph.input, *graph.value_info, *graph.output)
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT} & made

    def activations(self, node: NodeProto) -> list[str]:
        """The float tensors that a node reads and that no file stores."""
        return [name for name in dict.fromkeys(node.input) if name in self.floats and name not in self.stored]

    def anchor(self, node: NodeProto) -> str:
        """The tensor to quantize for a node's output: behind a clamp that alone reads it."""
        name = str(node.output[0])
        readers = self.readers[name]
        alone = len(readers) == 1 and name not in self.outputs and readers[0].op_type in _CLAMPS
        return str(readers[0].output[0]) if alone and readers[0].input[0] == name else name


def products_of(model: ModelProto) -> list[str]:
    """Returns the names of the nodes that multiply float activations, in execution order."""
    wiring = Wiring(model)
    return [node.name for node in wiring.nodes if node.op_type in PRODUCTS and _is_quantizable(node, wiring)]


def _is_quantizable(node: NodeProto, wiring: Wiring) -> bool:
    """Whether every operand is a float activation or a stored tensor, at least one an activation."""
    operands = list(node.input[:2])
    known = all(name in wiring.floats or name in wiring.stored for name in operands)
    return known and any(name not in wiring.stored for name in operands)


def candidates(model: ModelProto) -> list[str]:
    """Returns every activation that any placement may quantize, in execution order."""
    wiring = Wiring(model)
    names = (name for node in wiring.nodes for name in _touched(node, wiring))
    return list(dict.fromkeys(names))


def _touched(node: NodeProto, wiring: Wiring) -> Iterator[str]:
    if node.op_type in PRODUCTS or node.op_type in _ELEMENTWISE:
        yield from wiring.activations(node)
        yield from (name for name in (node.output[0], wiring.anchor(node)) if name in wiring.floats)


def place(model: ModelProto, extent: Extent, kept: Iterable[str] = ()) -> Placement:
    """Chooses the tensors to quantize.

    Args:
        model: Shapes and types inferred, every node with a name of its own.
        extent: How much.
        kept: Nodes that stay in float.
    """
    wiring, left = Wiring(model), set(kept)
    products = {name for name in products_of(model) if name not in left}
    behind: dict[str, None] = {}
    joined: list[str] = []
    same: dict[str, str] = {}
    for node in wiring.nodes:
        if node.name in left:
            continue
        if node.name in products:
            if node.op_type in CONVOLUTIONS and extent >= Extent.OUTPUTS:
                behind[wiring.anchor(node)] = None
        elif _joins(node, wiring, behind) and extent >= Extent.BETWEEN:
            joined.append(node.name)
            behind[wiring.anchor(node)] = None
        elif node.op_type in _MOVES and node.input[0] in behind and _leads_on(node, wiring, products):
            behind[node.output[0]] = None
            same[node.output[0]] = same.get(node.input[0], node.input[0])
    units = products | set(joined)
    before = [name for node in wiring.nodes if node.name in units for name in wiring.activations(node)]
    return Placement(
        products=tuple(node.name for node in wiring.nodes if node.name in products),
        joined=tuple(joined),
        behind=tuple(behind),
        before=tuple(name for name in dict.fromkeys(before) if name not in behind),
        same=same,
    )


def _joins(node: NodeProto, wiring: Wiring, behind: Iterable[str]) -> bool:
    """Whether an operator between integers can take and give integers: all that it reads is quantized."""
    if node.op_type not in _ELEMENTWISE or wiring.anchor(node) in wiring.outputs:
        return False
    reads = wiring.activations(node)
    whole = len(reads) == len([name for name in dict.fromkeys(node.input) if name])
    return bool(reads) and whole and all(name in behind for name in reads)


def _leads_on(node: NodeProto, wiring: Wiring, products: set[str]) -> bool:
    """Whether what a moving operator gives is read by a product, at once or behind other moves."""
    readers = wiring.readers[node.output[0]]
    return any(
        reader.name in products or (reader.op_type in _MOVES and _leads_on(reader, wiring, products))
        for reader in readers
    )
