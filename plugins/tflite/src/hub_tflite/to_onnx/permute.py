"""Which ONNX nodes compute the same with their axes in another order, and how they are rewritten for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hub_tflite.to_onnx.builder import array_of
from hub_tflite.to_onnx.lazy import ir, np

if TYPE_CHECKING:
    from onnx_ir import Node, Value

    from hub_tflite.to_onnx.builder import Array

Constants = Callable[["Array"], "Value"]
"""Stores an array in the graph."""

_UNARY = frozenset({
    "Abs", "Cast", "Ceil", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "IsNaN", "LeakyRelu", "Log", "Neg", "Not", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sqrt", "Tanh",
    "QuantizeLinear", "DequantizeLinear", "Softmax", "LogSoftmax", "Pad", "Slice", "Tile", "Expand", "Split",
    "ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceL2",
})  # fmt: skip
"""The first operand has the axes; the others are sizes, axes, bounds and scales."""
_BROADCAST = frozenset({
    "Add", "And", "BitwiseAnd", "BitwiseXor", "Concat", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Where", "Xor",
})  # fmt: skip
"""All operands have the axes, or are constants that broadcast."""
_BY_AXIS = {"Slice": 3, "ReduceSum": 1, "ReduceMean": 1, "ReduceProd": 1, "ReduceMax": 1, "ReduceMin": 1, "ReduceL2": 1}
"""Operator -> its input that lists axes."""
_PER_AXIS = {"Pad": 1, "Tile": 1, "Expand": 1}
"""Operator -> its input that holds a number (Pad: two) for each axis."""


def rank_of(value: Value | None) -> int | None:
    """Return the number of axes, None where it is not known."""
    return None if value is None or value.shape is None else len(value.shape)


def _array(node: Node, place: int) -> Array | None:
    """Return the content of an input, None where it is computed or absent."""
    return array_of(node.inputs[place]) if place < len(node.inputs) else None


def followers(node: Node, rank: int) -> tuple[list[int], list[int]] | None:
    """Return which inputs and outputs of a node go along with an order of axes; None when the node has its own."""
    if node.domain or node.op_type not in _UNARY | _BROADCAST:
        return None
    inputs = [0] if node.op_type in _UNARY else _moving(node, rank)
    outputs = [i for i, value in enumerate(node.outputs) if rank_of(value) == rank]
    if not inputs or any(rank_of(node.inputs[i]) != rank for i in inputs):
        return None
    if not _parameters_known(node):
        return None
    if len(outputs) != len(node.outputs):
        return (inputs, outputs) if not outputs and _keeps_order(node, rank) else None
    return inputs, outputs


def _moving(node: Node, rank: int) -> list[int]:
    """The operands that are neither constants nor single numbers; none where one is of lower rank."""
    found = []
    for place, value in enumerate(node.inputs):
        if value is None:
            return []
        if (array_of(value) is not None and node.op_type != "Concat") or (
            value.shape is not None and all(size == 1 for size in value.shape) and rank_of(value) != rank
        ):
            continue
        found.append(place)
    return found if all(rank_of(node.inputs[place]) == rank for place in found) else []


def _parameters_known(node: Node) -> bool:
    if node.op_type == "Pad" and len(node.inputs) > 3:  # noqa: PLR2004 - the fourth input of Pad lists axes
        return False
    place = _BY_AXIS.get(node.op_type, _PER_AXIS.get(node.op_type))
    if place is not None and len(node.inputs) > place and node.inputs[place] is not None:
        return _array(node, place) is not None
    return node.op_type not in _PER_AXIS


def _keeps_order(node: Node, rank: int) -> bool:
    """Whether what a reduction leaves is in the same order with channels first and last."""
    axes = _array(node, 1) if node.op_type in _BY_AXIS else None
    if axes is None:
        return False
    gone = {int(axis) % rank for axis in axes.reshape(-1)}
    left = [axis for axis in range(rank) if axis not in gone]
    first = [axis for axis in (0, rank - 1, *range(1, rank - 1)) if axis in left]
    last = [axis for axis in (0, *range(2, rank), 1) if axis in left]
    return first == left == last


def permute(node: Node, perm: Sequence[int], constants: Constants) -> None:
    """Rewrite a node for operands whose axis `i` is the former axis `perm[i]`."""
    rank = len(perm)
    if node.op_type in _BROADCAST:
        _permute_constants(node, perm, constants)
    _permute_axis(node, perm)
    if node.op_type == "Slice" and (len(node.inputs) < 4 or node.inputs[3] is None):  # noqa: PLR2004 - axes
        starts = _array(node, 1)
        _put(node, 3, constants(np.arange(rank if starts is None else starts.size)))
    place = _BY_AXIS.get(node.op_type)
    axes = None if place is None else _array(node, place)
    if place is not None and axes is not None:
        moved = [list(perm).index(int(axis) % rank) for axis in axes.reshape(-1)]
        _put(node, place, constants(np.asarray(moved, np.int64)))
    place = _PER_AXIS.get(node.op_type)
    numbers = None if place is None else _array(node, place)
    if place is not None and numbers is not None:
        rows = numbers.reshape(-1, rank)
        _put(node, place, constants(np.ascontiguousarray(rows[:, list(perm)]).reshape(-1)))
    for value in node.outputs:
        if value.shape is not None and len(value.shape) == rank:
            value.shape = ir.Shape([value.shape[axis] for axis in perm])


def _put(node: Node, place: int, value: Value) -> None:
    if len(node.inputs) <= place:
        node.resize_inputs(place + 1)
    node.replace_input_with(place, value)


def _permute_axis(node: Node, perm: Sequence[int]) -> None:
    """Move the `axis` attribute of operators that have one."""
    defaults: dict[str, int] = {
        "Concat": 0,
        "Split": 0,
        "Softmax": -1,
        "LogSoftmax": -1,
        "QuantizeLinear": 1,
        "DequantizeLinear": 1,
    }
    if node.op_type in defaults:
        given = node.attributes.get("axis")
        axis: int = given.as_int() if given is not None else defaults[node.op_type]
        node.attributes["axis"] = ir.AttrInt64("axis", list(perm).index(int(axis) % len(perm)))


def _permute_constants(node: Node, perm: Sequence[int], constants: Constants) -> None:
    for place, value in enumerate(node.inputs):
        array = array_of(value)
        if array is not None and array.ndim and array.size > 1:
            full = array.reshape([1] * (len(perm) - array.ndim) + list(array.shape))
            node.replace_input_with(place, constants(full.transpose(perm)))
