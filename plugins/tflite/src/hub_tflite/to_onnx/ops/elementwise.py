"""Operators that work on each element, with numpy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hub_onnxgraph.errors import refuse_if
from hub_tflite.to_onnx.activation import clamp, relu
from hub_tflite.to_onnx.lazy import ir, np
from hub_tflite.to_onnx.registry import op

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode

_NARROW = ("INT8", "INT16", "UINT8", "UINT16", "UINT32")


def _is_float(value: Value) -> bool:
    return value.dtype in {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def wide(node: TfliteNode, value: Value) -> Value:
    """Convert narrow integers to int32 (uint32 to int64): ONNX Runtime has few kernels for them."""
    if value.dtype is None or value.dtype.name not in _NARROW:
        return value
    return node.cast(value, ir.DataType.INT64 if value.dtype.name == "UINT32" else ir.DataType.INT32)


def _widely(node: TfliteNode, kind: str, *inputs: Value) -> Value:
    """Write an operator in a type that ONNX Runtime has it for, and convert back: wrapping around as the kernels do."""
    dtype = node.dtype(inputs[0])
    return node.cast(node.emit(kind, *(wide(node, value) for value in inputs)), dtype)


def _unary(name: str, kind: str, newest: int = 1) -> None:
    @op(name, newest)
    def write(node: TfliteNode, x: Value) -> Value:
        return node.emit(kind, x)


for _name, _kind, _newest in (
    ("EXP", "Exp", 2), ("LOG", "Log", 2), ("SQRT", "Sqrt", 2), ("SIN", "Sin", 1), ("COS", "Cos", 1),
    ("FLOOR", "Floor", 1), ("CEIL", "Ceil", 1), ("ROUND", "Round", 1), ("TANH", "Tanh", 3), ("LOGISTIC", "Sigmoid", 3),
    ("ELU", "Elu", 1), ("HARD_SWISH", "HardSwish", 1), ("LOGICAL_NOT", "Not", 1), ("ABS", "Abs", 5),
    ("SIGN", "Sign", 2),
):  # fmt: skip
    _unary(_name, _kind, _newest)


def _binary(name: str, kind: str, newest: int = 1) -> None:
    @op(name, newest)
    def write(node: TfliteNode, x: Value, y: Value) -> Value:
        return _widely(node, kind, x, y)


for _name, _kind, _newest in (
    ("ADD", "Add", 5), ("SUB", "Sub", 5), ("MUL", "Mul", 7), ("DIV", "Div", 2), ("POW", "Pow", 1),
    ("MAXIMUM", "Max", 4), ("MINIMUM", "Min", 4), ("STABLEHLO_ADD", "Add", 1), ("STABLEHLO_MULTIPLY", "Mul", 1),
    ("STABLEHLO_MAXIMUM", "Max", 1), ("STABLEHLO_MINIMUM", "Min", 1),
):  # fmt: skip
    _binary(_name, _kind, _newest)


def _logical(name: str, kind: str) -> None:
    @op(name)
    def write(node: TfliteNode, x: Value, y: Value) -> Value:
        return node.emit(kind, x, y)


for _name, _kind in (("LOGICAL_AND", "And"), ("LOGICAL_OR", "Or")):
    _logical(_name, _kind)


def _comparison(name: str, kind: str, newest: int) -> Callable[[TfliteNode, Value, Value], Value]:
    @op(name, newest)
    def write(node: TfliteNode, x: Value, y: Value) -> Value:
        return node.emit(kind, wide(node, x), wide(node, y))

    return write


for _name, _kind, _newest in (
    ("GREATER", "Greater", 2), ("GREATER_EQUAL", "GreaterOrEqual", 3), ("LESS", "Less", 3),
    ("LESS_EQUAL", "LessOrEqual", 2),
):  # fmt: skip
    _comparison(_name, _kind, _newest)
_equal = _comparison("EQUAL", "Equal", 5)


@op("NOT_EQUAL", 4)
def not_equal(node: TfliteNode, x: Value, y: Value) -> Value:
    """Not equal."""
    return node.emit("Not", _equal(node, x, y))


@op("NEG")
def neg(node: TfliteNode, x: Value) -> Value:
    """The negative."""
    return _widely(node, "Neg", x)


@op("RSQRT", 3)
def rsqrt(node: TfliteNode, x: Value) -> Value:
    """One over the square root."""
    return node.emit("Reciprocal", node.emit("Sqrt", x))


@op("SQUARE")
def square(node: TfliteNode, x: Value) -> Value:
    """The square."""
    return node.emit("Mul", x, x)


@op("SQUARED_DIFFERENCE", 2)
def squared_difference(node: TfliteNode, x: Value, y: Value) -> Value:
    """The square of the difference."""
    difference = node.emit("Sub", x, y)
    return node.emit("Mul", difference, difference)


@op("FLOOR_DIV", 3)
def floor_div(node: TfliteNode, x: Value, y: Value) -> Value:
    """The quotient rounded down; ONNX's integer Div rounds to zero."""
    if _is_float(x):
        return node.emit("Floor", node.emit("Div", x, y))
    a, b = wide(node, x), wide(node, y)
    return node.cast(node.emit("Div", node.emit("Sub", a, node.emit("Mod", a, b)), b), node.dtype(x))


@op("FLOOR_MOD", 2)
def floor_mod(node: TfliteNode, x: Value, y: Value) -> Value:
    """The remainder with the divisor's sign."""
    if not _is_float(x):
        return node.emit("Mod", x, y)
    rest, zero = node.emit("Mod", x, y, fmod=1), node.like(x, 0)
    signs = node.emit("Xor", node.emit("Less", y, zero), node.emit("Less", rest, zero))
    wrong = node.emit("And", signs, node.emit("Not", node.emit("Equal", rest, zero)))
    return node.emit("Where", wrong, node.emit("Add", rest, y), rest)


def _is_negative(node: TfliteNode, x: Value) -> Value:
    """Whether the sign is minus: also of the zero that one divided by gives minus infinity."""
    zero = node.like(x, 0)
    return node.emit("Or", node.emit("Less", x, zero), node.emit("Less", node.emit("Reciprocal", x), zero))


@op("ATAN2")
def atan2(node: TfliteNode, y: Value, x: Value) -> Value:
    """The angle of (x, y): atan(y / x), turned by half a circle left of the axis; ONNX has no Atan2."""
    zero, half, quarter = (node.like(x, number) for number in (0, float(np.pi), float(np.pi / 2)))
    below = _is_negative(node, y)
    upright = node.emit("Equal", x, zero)
    turn = node.emit("Where", _is_negative(node, x), node.emit("Where", below, node.emit("Neg", half), half), zero)
    angle = node.emit("Atan", node.emit("Div", y, node.emit("Where", upright, node.like(x, 1), x)))
    pole = node.emit("Where", below, node.emit("Neg", quarter), quarter)
    pole = node.emit("Where", node.emit("Equal", y, zero), turn, pole)
    return node.emit("Where", upright, pole, node.emit("Add", angle, turn))


@op("RELU", 3)
def rectified(node: TfliteNode, x: Value) -> Value:
    """The positive part."""
    return relu(node, x)


@op("RELU6", 3)
def relu6(node: TfliteNode, x: Value) -> Value:
    """Held between 0 and 6."""
    return clamp(node, x, 0, 6)


@op("RELU_N1_TO_1")
def relu_n1_to_1(node: TfliteNode, x: Value) -> Value:
    """Held between -1 and 1."""
    return clamp(node, x, -1, 1)


@op("RELU_0_TO_1")
def relu_0_to_1(node: TfliteNode, x: Value) -> Value:
    """Held between 0 and 1."""
    return clamp(node, x, 0, 1)


@op("LEAKY_RELU", 2)
def leaky_relu(node: TfliteNode, x: Value, *, alpha: float) -> Value:
    """Negative values scaled."""
    return node.emit("LeakyRelu", x, alpha=float(alpha))


@op("PRELU")
def prelu(node: TfliteNode, x: Value, alpha: Value) -> Value:
    """Negative values scaled by a constant per element."""
    return node.emit("PRelu", x, alpha)


@op("GELU", 2)
def gelu(node: TfliteNode, x: Value, *, approximate: bool = False) -> Value:
    """X times the normal distribution's function, exact or by tanh."""
    return node.emit("Gelu", x, approximate="tanh" if approximate else "none")


@op("SOFTMAX", 3)
def softmax(node: TfliteNode, x: Value, *, beta: float) -> Value:
    """Softmax of beta x over the last axis."""
    scaled = x if beta == 1.0 else node.emit("Mul", x, node.like(x, beta))
    return node.emit("Softmax", scaled, axis=-1)


@op("LOG_SOFTMAX", 2)
def log_softmax(node: TfliteNode, x: Value) -> Value:
    """Logarithm of the softmax over the last axis."""
    return node.emit("LogSoftmax", x, axis=-1)


@op("L2_NORMALIZATION", 2)
def l2_normalization(node: TfliteNode, x: Value) -> Value:
    """Division by the length along the last axis, which counts as 1e-6 at least (TFLite's kernel)."""
    length = node.emit("ReduceL2", x, node.constant([-1]), keepdims=1)
    return node.emit("Div", x, node.emit("Max", length, node.like(x, 1e-6)))


@op("CAST", 8)
def cast(node: TfliteNode, x: Value, *, in_data_type: int = 0, out_data_type: int = 0) -> Value:
    """Conversion to the output's type; the options repeat what the tensors say, and old files have none."""
    del in_data_type, out_data_type
    return node.emit("Cast", x, to=int(node.result_type()))


@op("BITCAST")
def bitcast(node: TfliteNode, x: Value) -> Value:
    """The same bits as another type: ONNX has no such operator at this opset."""
    refuse_if(node.result_type() != x.dtype, f"the bits of {x.dtype} as {node.result_type()}")
    return node.emit("Identity", x)


@op("ADD_N")
def add_n(node: TfliteNode, *xs: Value) -> Value:
    """The sum of all inputs."""
    total = xs[0]
    for x in xs[1:]:
        total = node.emit("Add", total, x)
    return total


@op("SELECT_V2", 2)
def select_v2(node: TfliteNode, condition: Value, x: Value, y: Value) -> Value:
    """X where the condition holds, else y."""
    return node.emit("Where", condition, x, y)


@op("SELECT", 4)
def select(node: TfliteNode, condition: Value, x: Value, y: Value) -> Value:
    """As SELECT_V2, but a condition of one axis chooses rows."""
    rank = node.rank(x)
    if node.rank(condition) == 1 and rank > 1:
        condition = node.emit("Unsqueeze", condition, node.constant(list(range(1, rank))))
    return node.emit("Where", condition, x, y)


@op("BITWISE_XOR")
def bitwise_xor(node: TfliteNode, x: Value, y: Value) -> Value:
    """Exclusive or of bits."""
    return node.emit("Xor" if x.dtype == ir.DataType.BOOL else "BitwiseXor", x, y)


@op("STABLEHLO_AND")
def stablehlo_and(node: TfliteNode, x: Value, y: Value) -> Value:
    """And of bits."""
    return node.emit("And" if x.dtype == ir.DataType.BOOL else "BitwiseAnd", x, y)


@op("RIGHT_SHIFT")
def right_shift(node: TfliteNode, x: Value, y: Value) -> Value:
    """Arithmetic shift: floor(x / 2 ** y), y held in the type's bits; ONNX shifts unsigned numbers only."""
    last = node.constant(node.dtype(x).bitwidth - 1)
    places = node.emit("Min", node.emit("Max", node.int64(y), node.constant(0)), last)
    powers = node.int64(
        node.emit(
            "BitShift", node.constant(1, ir.DataType.UINT64), node.cast(places, ir.DataType.UINT64), direction="LEFT"
        )
    )
    return node.cast(floor_div(node, node.int64(x), powers), node.dtype(x))


@op("STABLEHLO_SHIFT_LEFT")
def shift_left(node: TfliteNode, x: Value, y: Value) -> Value:
    """Shift to the left; the bits of signed numbers are those of unsigned ones."""
    unsigned = ir.DataType.UINT64
    moved = node.emit("BitShift", node.cast(x, unsigned), node.cast(y, unsigned), direction="LEFT")
    return node.cast(moved, node.dtype(x))


@op("BUCKETIZE")
def bucketize(node: TfliteNode, x: Value, *, boundaries: list[float]) -> Value:
    """How many boundaries are not above each element."""
    column = node.emit("Unsqueeze", node.cast(x, ir.DataType.FLOAT), node.constant([-1]))
    above = node.emit("GreaterOrEqual", column, node.constant(np.asarray(boundaries, np.float32)))
    return node.emit("ReduceSum", node.cast(above, ir.DataType.INT32), node.constant([-1]), keepdims=0)


@op("ZEROS_LIKE")
def zeros_like(node: TfliteNode, x: Value) -> Value:
    """Zeros of the input's shape."""
    return node.emit("Expand", node.like(x, 0), node.emit("Shape", x))
