"""Narrow weights, written so that ONNX Runtime unpacks them once, when it opens a file.

ONNX Runtime folds no DequantizeLinear: it dequantizes at each run, and a convolution whose weights are no constant gets
no blocked layout (measured on magika: 15.8 ms instead of 8.6). A Cast and a Mul of constants it folds. The file stays
as small, runs as fast as float and takes as much memory as float. So large matrices stay as they are: their blocks are
multiplied packed (MatMulNBits), which is what 4 bits are for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import Remark
from hub_onnxgraph.graphs import proto_of
from hub_onnxgraph.signature import dtype_name
from hub_onnxruntime.files import load_structure, save

if TYPE_CHECKING:
    import onnx_ir as ir

    from hub_onnxgraph.graphs import Array

_HALVES = frozenset({"float16", "bfloat16"})
_NARROW = frozenset({"int8", "uint8", "int4", "uint4"})

SMALL_MATRIX = 2**20
"""Elements. MatMulNBits with 2^22 took 0.2 to 1.0 of float's time for 1 to 128 rows; with 2^17, 0.6 to 1.4 (Zen 3)."""

_INTEGERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_LAYERS = frozenset({"Conv", "ConvTranspose", "LSTM", "GRU", "RNN"})
_MATRICES = frozenset({"MatMul", "Gemm"})


def keepers(source: Path) -> tuple[str, ...]:
    """Optimizers of ONNX Runtime to leave out where it saves a file whose weights are unpacked: it would store floats.

    Weights in float16 are unpacked by the casts that ONNX Runtime inserts; it folds them where it expands a function
    (HardSwish) and looks at the graph once more.
    """
    graph = load_structure(source).graph
    stored = {tensor.name: dtype_name(tensor.data_type) for tensor in graph.initializer}
    cast = any(node.op_type == "Cast" and stored.get(node.input[0]) in _NARROW for node in graph.node)
    return ("ConstantFolding",) if cast or _HALVES & set(stored.values()) else ()


def foldable(source: Path, scratch: Path) -> tuple[Path, list[Remark]]:
    """Returns a file with every such DequantizeLinear rewritten, or the source itself where there is none; and notes.

    Args:
        source: An `.onnx` file in one piece.
        scratch: A folder for the result.
    """
    import onnx_ir as ir

    model = ir.from_proto(load_structure(source))
    if any(node.op_type in _INTEGERS for node in model.graph):  # there, weights are read as they are
        return source, []
    chosen = [node for node in model.graph if node.op_type == "DequantizeLinear" and _is_folded_by_readers(node)]
    if not chosen:
        return source, []
    for node in chosen:
        _unpack(model.graph, node)
    path = scratch / "foldable.onnx"
    save(proto_of(model), path)
    text = f"{len(chosen)} narrow weights are unpacked when the file is opened, not at each run: as fast as float"
    return path, [Remark("note", "weights-unpacked-at-start", text)]


def _is_folded_by_readers(node: ir.Node) -> bool:
    """Whether these are stored weights with float32 scales that only fitting operators read."""
    import onnx_ir as ir

    given = [value for value in node.inputs if value is not None]
    if node.outputs[0].is_graph_output() or not all(value.is_initializer() for value in given):
        return False
    fitting = _LAYERS | (_MATRICES if math.prod(_sizes(given[0])) < SMALL_MATRIX else frozenset())
    readers = {reader.op_type for reader in node.outputs[0].consumers()}
    return given[1].dtype == ir.DataType.FLOAT and bool(readers) and fitting.issuperset(readers)


def _sizes(value: ir.Value) -> list[int]:
    return list(value.shape.numpy()) if value.shape is not None else []


def _unpack(graph: ir.Graph, node: ir.Node) -> None:
    """Writes (Cast - zero point) * scale, all of one shape, in the place of a DequantizeLinear."""
    import onnx_ir as ir
    from onnx_ir.tape import Tape

    tape, target = Tape(), node.outputs[0]
    weights, scales, *zero = (value for value in node.inputs if value is not None)

    def op(operator: str, inputs: Sequence[ir.Value], role: str, **written: int) -> ir.Value:
        result = ir.Value(name=f"{target.name}/{role}")
        return tape.op(operator, inputs, written, name=f"{node.name}/{operator}/{role}", output=result)

    def spread(value: ir.Value, count: int, role: str) -> ir.Value:
        """Brings scales or zero points to a shape that broadcasts against the weights (ONNX's DequantizeLinear)."""
        operator, axis, how = _broadcast(node, _sizes(weights), single=count == 1)
        stored = ir.Value(name=f"{target.name}/{role}/how", const_value=ir.tensor(how))
        graph.register_initializer(stored)
        return op(operator, [value, stored], role, **axis)

    floats = op("Cast", [weights], "float", to=ir.DataType.FLOAT)
    if zero:
        centre = op("Cast", zero, "zero", to=ir.DataType.FLOAT)
        zeros = spread(centre, math.prod(_sizes(zero[0])), "zeros")
        floats = op("Sub", [floats, zeros], "centred")
    product = op("Mul", [floats, spread(scales, math.prod(_sizes(scales)), "scales")], "product")
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, [target], [product])


def _broadcast(node: ir.Node, sizes: list[int], *, single: bool) -> tuple[str, dict[str, int], Array]:
    """The operator, its attributes and its second operand that spread scales or zero points over weights."""
    import numpy as np

    axis = node.attributes.get_int("axis", 1) % max(1, len(sizes))
    block = node.attributes.get_int("block_size", 0)
    if block:
        return "Gather", {"axis": axis}, np.arange(sizes[axis], dtype=np.int64) // block
    kept = () if single else (axis,)
    return "Reshape", {}, np.array([-1 if place in kept else 1 for place in range(len(sizes))], np.int64)
