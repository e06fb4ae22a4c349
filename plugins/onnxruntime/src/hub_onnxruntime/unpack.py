"""Narrow weights, written so that ONNX Runtime unpacks them once, when it opens a file.

ONNX Runtime folds no DequantizeLinear: it dequantizes at each run, and a convolution whose weights are no constant gets
no blocked layout (measured on magika: 15.8 ms instead of 8.6). A Cast and a Mul of constants it folds. The file stays
as small, runs as fast as float and takes as much memory as float. So large matrices stay as they are: their blocks are
multiplied packed (MatMulNBits), which is what 4 bits are for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_onnxruntime.files import load_structure, save
from hub_onnxruntime.graphs import add_constant
from hub_onnxruntime.signature import dtype_name

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def foldable(source: Path, scratch: Path) -> tuple[Path, list[str]]:
    """Returns a file with every such DequantizeLinear rewritten, or the source itself where there is none; and notes.

    Args:
        source: An `.onnx` file in one piece.
        scratch: A folder for the result.
    """
    model = load_structure(source)
    if any(node.op_type in _INTEGERS for node in model.graph.node):  # there, weights are read as they are
        return source, []
    chosen = _chosen(model.graph)
    if not chosen:
        return source, []
    nodes = [part for node in model.graph.node for part in _parts(node, model.graph, chosen)]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    path = scratch / "foldable.onnx"
    save(model, path)
    return path, [
        f"{len(chosen)} narrow weights are unpacked when the file is opened, not at each run: as fast as float"
    ]


def _chosen(graph: Any) -> dict[str, list[int]]:
    """Dequantized weights that only fitting operators read -> their sizes."""
    from onnx import TensorProto

    stored = {tensor.name: tensor for tensor in graph.initializer}
    kept = {value.name for value in graph.output}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    found = {}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or any(name not in stored for name in node.input if name):
            continue
        sizes, name = list(stored[node.input[0]].dims), node.output[0]
        fitting = _LAYERS | (_MATRICES if math.prod(sizes) < SMALL_MATRIX else frozenset())
        floats = stored[node.input[1]].data_type == TensorProto.FLOAT
        if floats and name not in kept and readers.get(name) and fitting.issuperset(readers[name]):
            found[name] = sizes
    return found


def _parts(node: Any, graph: Any, chosen: Mapping[str, list[int]]) -> Iterator[Any]:
    """A node as it is, or what takes the place of a DequantizeLinear: (Cast - zero point) * scale, all of one shape."""
    from onnx import TensorProto, helper

    if node.op_type != "DequantizeLinear" or node.output[0] not in chosen:
        yield node
        return
    name = node.output[0]
    weights, scales, *zero = (given for given in node.input if given)
    floats = f"{name}/float"
    yield helper.make_node("Cast", [weights], [floats], name=f"{node.name}/Cast", to=TensorProto.FLOAT)
    if zero:
        yield helper.make_node("Cast", zero, [f"{name}/zero"], name=f"{node.name}/Cast_1", to=TensorProto.FLOAT)
        yield from _spread(node, f"{name}/zero", f"{name}/zeros", graph, chosen[name], stored=zero[0])
        yield helper.make_node("Sub", [floats, f"{name}/zeros"], [f"{name}/centred"], name=f"{node.name}/Sub")
        floats = f"{name}/centred"
    yield from _spread(node, scales, f"{name}/scales", graph, chosen[name], stored=scales)
    yield helper.make_node("Mul", [floats, f"{name}/scales"], [name], name=f"{node.name}/Mul")


def _spread(node: Any, source: str, target: str, graph: Any, sizes: list[int], *, stored: str) -> Iterator[Any]:
    """Brings scales or zero points to a shape that broadcasts against the weights (ONNX's DequantizeLinear)."""
    import numpy as np
    from onnx import helper

    written = {a.name: int(a.i) for a in node.attribute}
    axis = written.get("axis", 1) % max(1, len(sizes))
    dims = next(list(tensor.dims) for tensor in graph.initializer if tensor.name == stored)
    if written.get("block_size"):
        operator, constant = "Gather", np.arange(sizes[axis], dtype=np.int64) // written["block_size"]
    elif math.prod(dims) > 1:
        operator, constant = "Reshape", np.array([-1 if at == axis else 1 for at in range(len(sizes))], np.int64)
    else:
        operator, constant = "Reshape", np.ones(len(sizes), np.int64)
    add_constant(graph, f"{target}/how", constant)
    more = {"axis": axis} if operator == "Gather" else {}
    yield helper.make_node(operator, [source, f"{target}/how"], [target], name=f"{node.name}/{target}", **more)
