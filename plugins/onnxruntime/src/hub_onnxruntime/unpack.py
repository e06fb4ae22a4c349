"""Narrow weights of convolutions and recurrences, written so that ONNX Runtime unpacks them once, when it opens a file.

ONNX Runtime folds no DequantizeLinear: it dequantizes at each run, and a convolution whose weights are no constant gets
no blocked layout (measured on magika: 15.8 ms instead of 8.6). A Cast and a Mul of constants it folds. The file stays
as small, runs as fast as float and takes as much memory as float. Matrices stay: for their blocks there is MatMulNBits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_onnxruntime.files import load_structure, save
from hub_onnxruntime.graphs import constant_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator

KEEPERS = ("ConstantFolding",)
"""Optimizers of ONNX Runtime to leave out where it saves such a file: the weights would be stored in float."""

_MOST_CHANNELS = 2**16
_INTEGERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_READERS = frozenset({"Conv", "ConvTranspose", "LSTM", "GRU", "RNN"})


def foldable(source: Path, scratch: Path) -> tuple[Path, list[str]]:
    """Returns a file with every such DequantizeLinear rewritten, or the source itself where there is none; and notes.

    Args:
        source: An `.onnx` file in one piece.
        scratch: A folder for the result.
    """
    model = load_structure(source)
    if any(node.op_type in _INTEGERS for node in model.graph.node):  # there, weights are read as they are
        return source, []
    nodes = [part for node in model.graph.node for part in _parts(node, model.graph)]
    count = sum(node.op_type == "Cast" for node in nodes) - sum(node.op_type == "Cast" for node in model.graph.node)
    if not count:
        return source, []
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    path = scratch / "foldable.onnx"
    save(model, path)
    return path, [f"{count} narrow weights are unpacked when the file is opened, not at each run: as fast as float"]


def _parts(node: Any, graph: Any) -> Iterator[Any]:
    if not _is_narrow(node, graph):
        yield node
        return
    sizes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
    yield from _unpacking(node, sizes[node.input[0]], axis, per_channel=bool(sizes[node.input[1]]))


def _is_narrow(node: Any, graph: Any) -> bool:
    """Whether a node dequantizes stored weights that only these operators read, not in blocks and around zero."""
    import numpy as np

    if node.op_type != "DequantizeLinear" or not _only_read_by(graph, node.output[0]):
        return False
    stored = {tensor.name: tensor for tensor in graph.initializer}
    blocks = any(a.name == "block_size" and a.i for a in node.attribute)
    zeros = constant_arrays(graph, _MOST_CHANNELS)
    symmetric = all(name in zeros and not np.any(zeros[name]) for name in node.input[2:])
    return symmetric and not blocks and all(name in stored for name in node.input)


def _only_read_by(graph: Any, name: str) -> bool:
    readers = [node.op_type for node in graph.node if name in node.input]
    return bool(readers) and _READERS.issuperset(readers) and all(value.name != name for value in graph.output)


def _unpacking(node: Any, rank: int, axis: int, *, per_channel: bool) -> Iterator[Any]:
    """Cast, the scales brought to the weights' rank, and Mul."""
    from onnx import TensorProto, helper

    weights, scales = node.input[:2]
    floats, spread = f"{node.output[0]}/float", f"{node.output[0]}/spread"
    yield helper.make_node("Cast", [weights], [floats], name=f"{node.name}/Cast", to=TensorProto.FLOAT)
    if per_channel:
        axes = [place for place in range(rank) if place != axis % rank]
        stored = helper.make_tensor("", TensorProto.INT64, [len(axes)], axes)
        yield helper.make_node("Constant", [], [f"{spread}/axes"], name=f"{node.name}/axes", value=stored)
        yield helper.make_node("Unsqueeze", [scales, f"{spread}/axes"], [spread], name=f"{node.name}/Unsqueeze")
    factors = spread if per_channel else scales
    yield helper.make_node("Mul", [floats, factors], list(node.output), name=f"{node.name}/Mul")
