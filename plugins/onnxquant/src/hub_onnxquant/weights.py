"""Weights alone in integers: stored narrow, dequantized before use; activations stay float.

Standard operators: `DequantizeLinear`, per channel (opset 13) or block-wise along the summed axis (opset 21), where
ONNX Runtime multiplies 4-bit blocks without writing the floats out. Rows are looked up in integers and dequantized
behind the `Gather`, so that a table is not dequantized whole. Only the graph and one tensor at a time are in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub_onnxgraph.graphs import add_constant, all_names, fresh_name, prune
from hub_onnxquant.placement import CONVOLUTIONS
from hub_onnxquant.qdq import attributes, quantize_weights, weight_axis

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from onnx import ModelProto, NodeProto

    Array = npt.NDArray[np.generic]
    Floats = npt.NDArray[np.float32]

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_MULTIPLY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FEWEST = 1024  # elements: below, scales and nodes outweigh what is saved
_EIGHT = 8


@dataclass(frozen=True, slots=True)
class Form:
    """How weights are stored.

    Attributes:
        bits: 4 or 8, of matrices; convolutions, recurrences and tables always take 8.
        block: Elements of one scale along the summed axis; 0 for a whole channel.
        symmetric: Whether the zero point is 0.
        convolutions: Whether convolutions are stored in integers too.
        strict: Whether only matrices of products are stored in integers, only where blocks divide the summed axis, and
            with positive scales: TensorRT.

    Grouped convolutions keep float weights: they have few, and one rounded value weighs much in their short sums.
    """

    bits: int
    block: int
    symmetric: bool
    convolutions: bool = True
    strict: bool = False

    def __str__(self) -> str:
        span = f"blocks of {self.block}" if self.block else "one scale per channel"
        left = "" if self.convolutions else ", convolutions in float"
        return f"{self.bits} bits, {span}, {'symmetric' if self.symmetric else 'asymmetric'}{left}"


class Blocks(NamedTuple):
    """Integers with one scale and zero point for each block along an axis."""

    integers: Array
    scales: Array
    zero_points: Array


def quantize_blocks(array: Array, axis: int, form: Form) -> Blocks:
    """Rounds block by block.

    Args:
        array: Float weights; their size along `axis` need not be a multiple of the block.
        axis: The axis that blocks lie along.
        form: Bits, block and symmetry.
    """
    import ml_dtypes
    import numpy as np

    low, high = (-(2 ** (form.bits - 1)), 2 ** (form.bits - 1) - 1) if form.symmetric else (0, 2**form.bits - 1)
    narrow = {(4, True): ml_dtypes.int4, (4, False): ml_dtypes.uint4, (8, True): np.int8, (8, False): np.uint8}
    values: Floats = np.moveaxis(array.astype(np.float32), axis, -1)
    size = values.shape[-1]
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -size % form.block)])
    blocks = padded.reshape(*values.shape[:-1], -1, form.block)
    if form.symmetric:
        scales, zeros = _symmetric(blocks, low, form), np.zeros(blocks.shape[:-1], np.float32)
    else:
        least, most = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
        scales = np.maximum((most - least) / high, np.float32(1e-12))
        zeros = np.clip(np.rint(-least / scales), low, high)
    integers = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], low, high)
    integers = integers.reshape(*padded.shape)[..., :size]
    kind = narrow[form.bits, form.symmetric]
    parts = (integers.astype(kind), scales.astype(np.float32), zeros.astype(kind))
    return Blocks(*(np.ascontiguousarray(np.moveaxis(part, -1, axis)) for part in parts))


def _symmetric(blocks: Floats, low: int, form: Form) -> Floats:
    """Scales by which the value of largest magnitude is the most negative integer: one step more (llama.cpp).

    They have the sign of that value; positive ones give up that step.
    """
    import numpy as np

    if form.strict:
        positive: Floats = np.maximum(np.abs(blocks).max(axis=-1) / np.float32(-low - 1), np.float32(1e-12))
        return positive

    place = np.abs(blocks).argmax(axis=-1)[..., None]
    extreme = np.take_along_axis(blocks, place, -1)[..., 0]
    scales = extreme / low
    found: Floats = np.where(np.abs(scales) < np.float32(1e-12), np.float32(1e-12), scales)
    return found


class _Store:
    """Writes narrow tensors into a model, and nodes before the ones that use them."""

    def __init__(self, model: ModelProto, folder: Path) -> None:
        self.graph = model.graph
        self._folder = str(folder)
        self._taken = all_names(model.graph) | {node.name for node in model.graph.node}
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._made: dict[tuple[str, int, int], str] = {}
        self.nodes: list[NodeProto] = []
        self.stored: dict[str, str] = {}

    def array(self, name: str) -> Array | None:
        """A stored float32 matrix or larger, worth quantizing."""
        from math import prod

        from onnx import TensorProto, numpy_helper

        tensor = self._tensors.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:  # noqa: PLR2004 - no vector
            return None
        return numpy_helper.to_array(tensor, self._folder) if prod(tensor.dims) >= _FEWEST else None

    def add(self, wish: str, array: Array) -> str:
        name = fresh_name(wish, self._taken)
        add_constant(self.graph, name, array)
        return name

    def node(
        self, operator: str, inputs: list[str], wish: str, axis: int | None = None, block: int | None = None
    ) -> str:
        from onnx import helper

        output = fresh_name(wish, self._taken)
        name = fresh_name(f"{output}/{operator}", self._taken)
        node = helper.make_node(operator, inputs, [output], name=name)
        written = [(word, value) for word, value in (("axis", axis), ("block_size", block)) if value is not None]
        node.attribute.extend(helper.make_attribute(word, value) for word, value in written)
        self.nodes.append(node)
        return output

    def channels(self, name: str, array: Array, axis: int) -> str:
        """A tensor in int8 with one scale per channel; the name of its dequantized values."""
        key = (name, axis, 0)
        if key not in self._made:
            found = quantize_weights(array, axis)
            operands = [self.add(f"{name}/int8", found.integers), self.add(f"{name}/scale", found.scales)]
            self._made[key] = self.node("DequantizeLinear", operands, f"{name}/dequantized", axis=axis)
            self.stored[name] = "int8"
        return self._made[key]

    def blocks(self, name: str, array: Array, axis: int, form: Form) -> str:
        """The same block-wise."""
        key = (name, axis, form.block)
        if key not in self._made:
            operands = self.block_operands(name, array, axis, form)
            self._made[key] = self.node(
                "DequantizeLinear", operands, f"{name}/dequantized", axis=axis, block=form.block
            )
        return self._made[key]

    def block_operands(self, name: str, array: Array, axis: int, form: Form) -> list[str]:
        found = quantize_blocks(array, axis, form)
        self.stored[name] = str(found.integers.dtype)
        operands = [self.add(f"{name}/{found.integers.dtype}", found.integers), self.add(f"{name}/scale", found.scales)]
        return operands if form.symmetric else [*operands, self.add(f"{name}/zero_point", found.zero_points)]


def _rewrite(node: NodeProto, store: _Store, form: Form) -> bool:
    """Gives a copied node narrow weights; True where the node itself was replaced."""
    if node.op_type == "Gather" and not form.strict:
        return _rewrite_lookup(node, store, form)
    if node.op_type == "Gemm" and form.block:
        return _rewrite_gemm(node, store, form)
    places = (1, 2) if node.op_type in _RECURRENT and not form.strict else (1,) if node.op_type in _MULTIPLY else ()
    for place in places:
        array = store.array(node.input[place])
        if array is None:
            continue
        axis = 1 if node.op_type in _RECURRENT else weight_axis(node, array.ndim)
        if attributes(node).get("group", 1) != 1 or (node.op_type in CONVOLUTIONS and not form.convolutions):
            continue
        if form.strict and (node.op_type != "MatMul" or not _divides(form, array.shape[-2])):
            continue
        if node.op_type == "MatMul" and form.block:
            node.input[place] = store.blocks(node.input[place], array, array.ndim - 2, form)
        else:
            node.input[place] = store.channels(node.input[place], array, axis)
    return False


def _divides(form: Form, size: int) -> bool:
    """Whether the blocks lie along an axis without a rest."""
    return not form.block or size % form.block == 0


def _rewrite_gemm(node: NodeProto, store: _Store, form: Form) -> bool:
    """Writes a Gemm as MatMul and Add, which ONNX Runtime multiplies block by block; it does not do so for Gemm."""
    written = attributes(node)
    plain = not written.get("transA") and written.get("alpha", 1.0) == 1.0 and written.get("beta", 1.0) == 1.0
    array = store.array(node.input[1])
    if array is None or not plain:
        return False
    name, matrix = node.input[1], array.T if written.get("transB") else array
    if form.strict and not _divides(form, matrix.shape[0]):
        return False
    blocks = store.blocks(name, matrix, 0, form)
    product = store.node("MatMul", [node.input[0], blocks], f"{node.output[0]}/product")
    if len(node.input) > 2 and node.input[2]:  # noqa: PLR2004 - A, B, C
        store.node("Add", [product, node.input[2]], f"{node.output[0]}/sum")
    store.nodes[-1].output[0] = node.output[0]
    return True


def _rewrite_lookup(node: NodeProto, store: _Store, form: Form) -> bool:
    """Looks rows up in integers: Gather of them, Gather of their scales, DequantizeLinear."""
    array = store.array(node.input[0])
    if array is None or array.ndim != 2 or attributes(node).get("axis", 0) != 0 or not form.block:  # noqa: PLR2004
        return False
    table = Form(_EIGHT, form.block, symmetric=True)  # Gather takes no 4-bit integers
    operands = store.block_operands(node.input[0], array, 1, table)
    rows = [store.node("Gather", [operand, node.input[1]], f"{operand}/rows", axis=0) for operand in operands]
    store.node("DequantizeLinear", rows, f"{node.output[0]}/dequantized", axis=-1, block=form.block)
    store.nodes[-1].output[0] = node.output[0]
    return True


def quantize(model: ModelProto, folder: Path, form: Form) -> dict[str, str]:
    """Stores a model's weights narrow, in place.

    Args:
        model: Opset 13 or more, 21 for blocks. Its external data may be outside.
        folder: Where the external data is.
        form: How.

    Returns:
        Tensor -> element type, for each that was quantized.
    """
    store = _Store(model, folder)
    for node in [type(node).FromString(node.SerializeToString()) for node in model.graph.node]:
        if not _rewrite(node, store, form):
            store.nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(store.nodes)
    prune(model.graph)
    return store.stored
