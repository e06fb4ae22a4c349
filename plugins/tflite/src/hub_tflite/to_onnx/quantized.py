"""Quantized tensors as QuantizeLinear and DequantizeLinear.

Inside the importer a quantized tensor is the float value behind a DequantizeLinear. A result that the file stores in
integers goes through a QuantizeLinear and comes back through a DequantizeLinear, so every operator is written in float
and a runtime finds the pattern that it fuses: DequantizeLinear, operator, QuantizeLinear. Permutations and reshapes are
moved to the integers' side, since they would stand in the middle of that pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hub_onnxgraph.errors import Refused, refuse_if
from hub_tflite.to_onnx.builder import OnnxBuilder, array_of, described, operand, stored_array
from hub_tflite.to_onnx.lazy import ir, np
from hub_tflitefile.interface import quant_params
from hub_tflitefile.schema import constant, numbers, text, type_name

if TYPE_CHECKING:
    from onnx_ir import Model, Value
    from onnx_ir import Node as OnnxNode

    from hub_tflite.to_onnx.builder import Array
    from hub_tflitefile.tables import Bytes, ModelT, SubGraphT, TensorT

ACTIVATIONS = frozenset({"INT8", "UINT8", "INT16"})
"""Types of quantized activations: those of LiteRT's kernels."""
STORED = frozenset({*ACTIVATIONS, "INT4", "INT2", "INT32", "INT64"})
PACKED = {"INT4": 4, "INT2": 2}
"""Types of which several share a byte, with their bits."""
Move = tuple[str, tuple[int, ...]]
"""`Transpose` or `Reshape`, with the order of axes or the sizes."""
_LARGEST_INT32 = 2**31 - 1
_POINTWISE = frozenset({"Relu", "Clip"})
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class QuantGrid(NamedTuple):
    """How integers stand for reals: real = scale * (integer - zero_point).

    Attributes:
        scale: float32: a scalar, a vector along `axis`, or one value per block of `block` integers along `axis`.
        zero_point: Of the shape of `scale`, in the integers' type.
        axis: 0 for a scalar scale.
        block: 0 unless block-wise.
    """

    scale: Array
    zero_point: Array
    axis: int = 0
    block: int = 0

    def transposed(self, perm: Sequence[int]) -> QuantGrid:
        """The grid of transposed integers."""
        if self.block:
            return self._replace(
                scale=self.scale.transpose(perm), zero_point=self.zero_point.transpose(perm), axis=perm.index(self.axis)
            )
        return self._replace(axis=perm.index(self.axis)) if self.scale.ndim else self


def is_quantized(tensor: TensorT) -> bool:
    """Whether a tensor's integers stand for reals."""
    details = tensor.quantization is not None and tensor.quantization.details is not None
    return details or quant_params(tensor) is not None


def unpacked(data: Bytes, kind: str, count: int) -> Array:
    """Return the integers of a packed buffer, the low bits of each byte first, as int8."""
    bits = PACKED[kind]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (np.frombuffer(data, np.uint8)[:, None] >> shifts).reshape(-1)[:count] & (2**bits - 1)
    integers: Array = fields.astype(np.int8) - ((fields >> (bits - 1)).astype(np.int8) << bits)
    return integers


def stored(builder: OnnxBuilder, model: ModelT, graph: SubGraphT, tensor: TensorT, array: Array) -> Value:
    """Store a constant's integers and return their real values.

    Args:
        builder: Where to write.
        model: The schema's object.
        graph: The tensor's subgraph.
        tensor: The constant.
        array: Its integers, in its shape; int4 and int2 unpacked.

    Raises:
        Refused: Its grid is not one of those above.
    """
    kind = type_name(tensor)
    refuse_if(kind not in STORED, f"{text(tensor.name)} is quantized to {kind}")
    if kind == "INT64":
        return _wide_bias(builder, tensor, array)
    if kind in PACKED:
        import ml_dtypes

        array = array.astype(ml_dtypes.int4)
    grid = _blocks(model, graph, tensor, array.dtype) or _grid(tensor, array.dtype)
    return dequantized(builder, builder.constant(array, text(tensor.name)), grid)


def _wide_bias(builder: OnnxBuilder, tensor: TensorT, array: Array) -> Value:
    """The bias of int16 kernels: as int32 where it fits, which is the widest that ONNX scales, else in float."""
    grid = _grid(tensor, np.dtype(np.int32))
    if np.abs(array).max(initial=0) <= _LARGEST_INT32:
        return dequantized(builder, builder.constant(array.astype(np.int32), text(tensor.name)), grid)
    shape = [-1 if axis == grid.axis else 1 for axis in range(array.ndim)] if grid.scale.ndim else []
    real = array * grid.scale.astype(np.float64).reshape(shape)
    return builder.constant(real.astype(np.float32), text(tensor.name))


def _grid(tensor: TensorT, dtype: np.dtype[Any]) -> QuantGrid:
    quant = quant_params(tensor)
    if quant is None:
        raise Refused(f"the quantization of {text(tensor.name)} is of a kind that is not implemented")
    scale, points = np.asarray(quant.scale, np.float32), np.asarray(quant.zero_point).astype(dtype)
    if scale.size == 1:
        return QuantGrid(scale.reshape(()), points.reshape(()))
    return QuantGrid(scale, np.broadcast_to(points, scale.shape), quant.axis or 0)


def _blocks(model: ModelT, graph: SubGraphT, tensor: TensorT, dtype: np.dtype[Any]) -> QuantGrid | None:
    """The grid of block-wise quantization: scales and zero points in tensors of their own."""
    details = None if tensor.quantization is None else tensor.quantization.details
    if details is None:
        return None
    refuse_if(not hasattr(details, "blockSize"), f"{text(tensor.name)} is quantized in a custom way")
    scales = graph.tensors[details.scales]
    data = constant(model, scales)
    if data is None:
        raise Refused(f"the scales of {text(tensor.name)} are computed at run time")
    scale = np.frombuffer(data, np.float16 if type_name(scales) == "FLOAT16" else np.float32)
    axis = len(numbers(tensor.shape)) - 1
    shape = [*numbers(tensor.shape)[:axis], -1]
    scale = scale.astype(np.float32).reshape(shape)
    points = graph.tensors[details.zeroPoints] if details.zeroPoints > 0 else None
    given = None if points is None else constant(model, points)
    refuse_if(given is not None and np.frombuffer(given, np.uint8).any(), "block-wise zero points")
    return QuantGrid(scale, np.zeros(scale.shape, dtype), axis, int(details.blockSize))


def dequantized(builder: OnnxBuilder, integers: Value, grid: QuantGrid) -> Value:
    """Write the real values of integers."""
    scale, point = builder.constant(grid.scale, "scale"), builder.constant(grid.zero_point, "zero_point")
    known = (DEQUANTIZE, id(integers), grid.axis, id(scale), id(point))
    if known not in builder.moved:
        inputs = [integers, scale] if grid.zero_point.dtype == np.int32 else [integers, scale, point]
        axis = grid.axis if grid.scale.ndim else None
        made = builder.emit(DEQUANTIZE, inputs, {"axis": axis, "block_size": grid.block or None})[0]
        builder.moved[known] = described(made, ir.DataType.FLOAT, integers.shape)
    return builder.moved[known]


_COPIES = {"ONE_HOT": (2, 3), "SELECT": (1, 2), "SELECT_V2": (1, 2), "PADV2": (0, 2)}
"""Operators whose kernels copy integers of these operands as they are, whatever their scales."""


def refuse_other_grids(name: str, inputs: Sequence[TensorT], output: TensorT) -> None:
    """Refuse an operator that copies integers from another grid than its result's: LiteRT does not scale them.

    TensorFlow 2.21's converter writes such ONE_HOT operators, whose zeros come out as another number.
    """
    wanted = quant_params(output)
    if wanted is None:
        return
    for place in _COPIES.get(name, ()):
        found = quant_params(inputs[place])
        same = found is not None and (found.scale, found.zero_point) == (wanted.scale, wanted.zero_point)
        refuse_if(not same, f"{text(inputs[place].name)} is on another grid than the result, which LiteRT disregards")


def zeros(builder: OnnxBuilder, tensor: TensorT) -> Value:
    """The state before a run: real zeros, also where the file keeps integers."""
    sizes = numbers(tensor.shapeSignature) or numbers(tensor.shape)
    refuse_if(any(size < 0 for size in sizes), f"the state {text(tensor.name)} is of open size {sizes}")
    refuse_if(not is_quantized(tensor) and type_name(tensor) != "FLOAT32", f"a state of type {type_name(tensor)}")
    return builder.constant(np.zeros(sizes, np.float32), text(tensor.name))


def like(builder: OnnxBuilder, model: Value, integers: Value) -> Value:
    """Write the real values of integers that are on the grid of a value's own."""
    node = _dequantizer(model)
    if node is None:
        raise Refused(f"{model.name} is not quantized")
    return _as_before(builder, node, integers)


def border_value(builder: OnnxBuilder, tensor: TensorT, integers: Value) -> Value:
    """Return the real values of an input, or of integers that another graph made."""
    return dequantized(builder, integers, _activation_grid(tensor)) if is_quantized(tensor) else integers


def _activation_grid(tensor: TensorT) -> QuantGrid:
    kind = type_name(tensor)
    refuse_if(kind not in ACTIVATIONS, f"{text(tensor.name)} is computed in quantized {kind}")
    grid = _grid(tensor, np.dtype(kind.lower()))
    refuse_if(grid.scale.ndim, f"{text(tensor.name)} is computed with a scale per channel")
    refuse_if(not (math.isfinite(grid.scale) and grid.scale > 0), f"{text(tensor.name)} has scale {grid.scale}")
    return grid


def requantized(builder: OnnxBuilder, tensor: TensorT, value: Value, dims: Sequence[int | None]) -> Value:
    """Write the rounding of a result to its tensor's grid and return the real values.

    Args:
        builder: Where to write.
        tensor: The result in the file.
        value: What was computed, in float.
        dims: The result's sizes.

    Raises:
        Refused: The tensor has no grid of an activation.
    """
    grid = _activation_grid(tensor)
    same = _with_grid(value, grid)
    integers = _integers(builder, value, grid) if same is None else same
    if integers.producer() is not None and integers.name not in builder.borders and same is None:
        integers.name = builder.name(text(tensor.name))
    described(integers, ir.DataType[type_name(tensor)], dims)
    node = integers.producer()
    if same is None and node is not None and node.op_type == "Transpose":
        perm = list(node.attributes["perm"].as_ints())
        described(operand(node), None, [dims[perm.index(axis)] for axis in range(len(perm))])
    return dequantized(builder, integers, grid)


def integers_of(value: Value) -> Value:
    """Return the integers behind a quantized tensor's real values; other values as they are."""
    node = _dequantizer(value)
    return value if node is None else operand(node)


def _dequantizer(value: Value) -> OnnxNode | None:
    node = value.producer()
    return node if node is not None and node.op_type == DEQUANTIZE else None


def _grid_of_node(node: OnnxNode) -> QuantGrid:
    scale = stored_array(operand(node, 1), "a scale")
    given = stored_array(operand(node, 2), "a zero point") if len(node.inputs) > 2 else None  # noqa: PLR2004
    point = np.zeros(scale.shape, np.int32) if given is None else given
    axis, block = node.attributes.get("axis"), node.attributes.get("block_size")
    return QuantGrid(scale, point, axis.as_int() if axis else 0, block.as_int() if block else 0)


def _with_grid(value: Value, grid: QuantGrid) -> Value | None:
    """Return the integers of a value that is on this grid already."""
    node = _dequantizer(value)
    if node is None or operand(node).const_value is not None or operand(node, 1).const_value is None:
        return None
    found = _grid_of_node(node)
    same = found.zero_point.dtype == grid.zero_point.dtype and not found.scale.ndim
    return operand(node) if same and found.scale == grid.scale and found.zero_point == grid.zero_point else None


def _integers(builder: OnnxBuilder, value: Value, grid: QuantGrid) -> Value:
    """Round; behind a permutation the rounding goes before it."""
    steps: list[OnnxNode] = []
    node = value.producer()
    while node is not None and node.op_type in _POINTWISE:
        steps.append(node)
        node = operand(node).producer()
    if node is None or node.op_type != "Transpose" or operand(node).producer() is None:
        return _rounded(builder, value, grid)
    inner = operand(node)
    for step in reversed(steps):
        inner = builder.emit(step.op_type, [inner, *step.inputs[1:]])[0]
    return _permuted(builder, _rounded(builder, inner, grid), node.attributes["perm"].as_ints())


def _rounded(builder: OnnxBuilder, value: Value, grid: QuantGrid) -> Value:
    made = builder.emit(
        QUANTIZE, [value, builder.constant(grid.scale, "scale"), builder.constant(grid.zero_point, "zero_point")]
    )[0]
    return described(made, ir.DataType.from_numpy(grid.zero_point.dtype), value.shape)


def _permuted(builder: OnnxBuilder, integers: Value, perm: Sequence[int]) -> Value:
    """Permute integers; two permutations are written as one, or as none."""
    node = integers.producer()
    if node is not None and node.op_type == "Transpose":
        first = list(node.attributes["perm"].as_ints())
        integers, perm = operand(node), [first[axis] for axis in perm]
    if list(perm) == list(range(len(perm))):
        return integers
    known = ("Transpose", id(integers), tuple(perm))
    if known not in builder.moved:
        made = builder.emit("Transpose", [integers], {"perm": list(perm)})[0]
        shape = None if integers.shape is None else [integers.shape[axis] for axis in perm]
        builder.moved[known] = described(made, integers.dtype, shape)
    return builder.moved[known]


def transposed(builder: OnnxBuilder, value: Value, perm: Sequence[int]) -> Value | None:
    """Permute real values on the integers' side; None where there are no integers behind them."""
    node = _dequantizer(value)
    if node is None:
        return _half_moved(builder, value, ("Transpose", tuple(perm)), lambda array: array.transpose(perm))
    integers = operand(node)
    array = array_of(integers)
    if array is None:
        return _as_before(builder, node, _permuted(builder, integers, perm))
    moved = stored_move(builder, integers, ("Transpose", tuple(perm)), array.transpose(perm))
    return dequantized(builder, moved, _grid_of_node(node).transposed(perm))


def _as_before(builder: OnnxBuilder, node: OnnxNode, integers: Value) -> Value:
    """Write the real values of moved integers with the one scale they had."""
    known = (DEQUANTIZE, id(integers), *(id(value) for value in node.inputs[1:]))
    if known not in builder.moved:
        made = builder.emit(DEQUANTIZE, [integers, *node.inputs[1:]])[0]
        builder.moved[known] = described(made, ir.DataType.FLOAT, integers.shape)
    return builder.moved[known]


def reshaped(builder: OnnxBuilder, value: Value, shape: Sequence[int]) -> Value | None:
    """Reshape real values on the integers' side; None where there are none, or where their scale is not one number."""
    node = _dequantizer(value)
    if node is None:
        return _half_moved(builder, value, ("Reshape", tuple(shape)), lambda array: array.reshape(shape))
    integers, scale = operand(node), array_of(node.inputs[1])
    if scale is not None and scale.ndim:
        return None
    array = array_of(integers)
    if array is not None:
        moved = stored_move(builder, integers, ("Reshape", tuple(shape)), array.reshape(shape))
    else:
        moved = builder.emit("Reshape", [integers, builder.constant(np.asarray(shape, np.int64))])[0]
        described(moved, integers.dtype, [size if size > 0 else None for size in shape])
    return _as_before(builder, node, moved)


def stored_move(builder: OnnxBuilder, integers: Value, move: Move, array: Array) -> Value:
    """Store a moved constant once for all who want the same move."""
    known = (id(integers), move)
    if known not in builder.shared.moved:
        builder.shared.moved[known] = builder.constant(np.ascontiguousarray(array), str(integers.name))
    return builder.shared.moved[known]


def _half_moved(builder: OnnxBuilder, value: Value, move: Move, moved: Callable[[Array], Array]) -> Value | None:
    """Move a stored float16 constant behind its conversion to float32."""
    node = value.producer()
    if node is None or node.op_type != "Cast" or (array := array_of(node.inputs[0])) is None:
        return None
    kept = stored_move(builder, operand(node), move, moved(array))
    made = builder.emit("Cast", [kept], {"to": node.attributes["to"].as_int()})[0]
    return described(made, value.dtype, kept.shape)


def lower_opset(model: Model) -> None:
    """Write a quantized model in opset 20 unless it holds types that came with 21.

    ONNX Runtime 1.32 on x86 turns int8 activations to uint8 and forgets `output_dtype`, which opset 21 brought: such a
    file with a Transpose behind a DequantizeLinear does not load there.
    """
    nodes = [node for node in model.graph.all_nodes() if node.op_type in {QUANTIZE, DEQUANTIZE}]
    integers = [operand(node) if node.op_type == DEQUANTIZE else node.outputs[0] for node in nodes]
    newer = any("block_size" in node.attributes for node in nodes)
    newer |= any(value.dtype is not None and value.dtype.name in _SINCE_21 for value in integers)
    if nodes and not newer:
        model.graph.opset_imports[""] = 20


_SINCE_21 = frozenset({"INT4", "UINT4", "INT16", "UINT16"})
