"""Arithmetic, comparisons, logic and bits: one element of the result from one element of each input."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING

from hub_keras.onnx_importer.applied import added, cast, dtype_of, elementwise, is_float, mapped, wide_dtype
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, dtype_name, is_constant, scalar
from hub_onnxgraph import refuse_if
from hub_onnxgraph.since import ELEMENTWISE

if TYPE_CHECKING:
    from keras import KerasTensor

# Operators that are one function of keras.ops of the same meaning; both round halves to even.
_UNARY = {
    "Abs": "abs", "Acos": "arccos", "Acosh": "arccosh", "Asin": "arcsin", "Asinh": "arcsinh", "Atan": "arctan",
    "Atanh": "arctanh", "BitwiseNot": "bitwise_not", "Ceil": "ceil", "Cos": "cos", "Cosh": "cosh", "Erf": "erf",
    "Exp": "exp", "Floor": "floor", "Log": "log", "Neg": "negative", "Not": "logical_not",
    "Reciprocal": "reciprocal", "Round": "round", "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Sqrt": "sqrt",
    "Tan": "tan",
}  # fmt: skip
_BINARY = {
    "Add": "add", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor",
    "Mul": "multiply", "Sub": "subtract",
}  # fmt: skip
_LOGICAL = {
    "And": "logical_and", "Equal": "equal", "Greater": "greater", "GreaterOrEqual": "greater_equal",
    "Less": "less", "LessOrEqual": "less_equal", "Or": "logical_or", "Xor": "logical_xor",
}  # fmt: skip
_VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


def _function(name: str) -> Callable[..., KerasTensor]:
    return added if name == "add" else getattr(ops, name)


def _register_unary(name: str, function: str) -> None:
    @op(name, *ELEMENTWISE[name])
    def unary(x: KerasValue) -> KerasValue:
        return mapped(getattr(ops, function), x, wide=name in {"Abs", "Neg", "Sign"}, nonnegative=name == "Abs")


def _register_binary(name: str, function: str) -> None:
    @op(name, *ELEMENTWISE[name])
    def binary(a: Item, b: Item) -> KerasValue:
        return elementwise(_function(function), a, b, wide=True)


def _register_logical(name: str, function: str) -> None:
    @op(name, *ELEMENTWISE[name])
    def logical(a: Item, b: Item) -> KerasValue:
        return elementwise(getattr(ops, function), a, b, dtype="bool", wide=True)


def _register_variadic(name: str, function: str) -> None:
    @op(name, *ELEMENTWISE[name])
    def variadic(first: Item, *others: Item) -> Item:
        if not others:
            return first
        return reduce(lambda a, b: elementwise(_function(function), a, b, wide=True), others, first)


for _row in _UNARY.items():
    _register_unary(*_row)
for _row in _BINARY.items():
    _register_binary(*_row)
for _row in _LOGICAL.items():
    _register_logical(*_row)
for _row in _VARIADIC.items():
    _register_variadic(*_row)


@op("Mean", 8, 13)
def mean(first: Item, *others: Item) -> Item:
    """Mean of all inputs, broadcast."""
    total = reduce(lambda a, b: elementwise(added, a, b), others, first)
    return mapped(lambda x: ops.divide(x, float(1 + len(others))), total) if isinstance(total, KerasValue) else total


@op("Div", 7, 13, 14)
def div(a: Item, b: Item) -> KerasValue:
    """Division; of integers, truncated."""
    return elementwise(ops.divide if is_float(dtype_of(a)) else _truncated, a, b, wide=True)


def _truncated(a: KerasTensor, b: KerasTensor) -> KerasTensor:
    """A quotient rounded towards zero, from one rounded down, which is one too low where there is a rest below zero."""
    if str(a.dtype).startswith("u"):
        return ops.floor_divide(a, b)
    down = ops.floor_divide(a, b)
    rest = ops.subtract(a, ops.multiply(down, b))
    below = ops.logical_and(ops.not_equal(rest, 0), ops.less(down, 0))
    return ops.add(down, cast(below, str(a.dtype)))


@op("Mod", 10, 13, 28)
def mod(a: Item, b: Item, *, fmod: int = 0) -> KerasValue:
    """Remainder with the divisor's sign, or with the dividend's when fmod is 1."""
    return elementwise(_signed_rest if fmod else ops.mod, a, b, wide=True)


def _signed_rest(a: KerasTensor, b: KerasTensor) -> KerasTensor:
    """The rest of the absolute values, with the dividend's sign."""
    rest = ops.mod(ops.abs(a), ops.abs(b))
    return ops.where(ops.less(a, 0), ops.negative(rest), rest)


@op("Pow", 7, 12, 13, 15)
def power(a: Item, b: Item) -> KerasValue:
    """Power in the base's dtype."""
    if isinstance(a, KerasValue) and is_constant(b) and b.size == 1 and b.ndim <= a.ndim and is_float(dtype_of(a)):
        easy = {1.0: ops.identity, 2.0: ops.square, 0.5: ops.sqrt}.get(float(b.reshape(())))
        if easy is not None and float(b.reshape(())) != 1.0:
            return mapped(easy, a, nonnegative=True)
    return elementwise(_power, a, b)


def _power(a: KerasTensor, b: KerasTensor) -> KerasTensor:
    """TensorFlow's powers of integers are exact; of mixed types they are computed in the wider float."""
    base, exponent = str(a.dtype), str(b.dtype)
    if base == exponent and (is_float(base) or base in {"int32", "int64"}):
        return ops.power(a, b)
    kind = base if is_float(base) else (exponent if is_float(exponent) else "int64")
    return ops.power(cast(a, kind), cast(b, kind))


@op("BitShift", 11, 28)
def bit_shift(a: Item, b: Item, *, direction: str) -> KerasValue:
    """Shift of integers; by less than 0, or by their width or more, only the sign remains, and nothing to the left."""
    refuse_if(direction not in {"LEFT", "RIGHT"}, f"direction {direction}")
    left, dtype = direction == "LEFT", dtype_of(a)
    width = np.iinfo(dtype).bits

    def shifted(x: KerasTensor, by: KerasTensor) -> KerasTensor:
        kind = str(x.dtype)
        inside = ops.logical_and(ops.greater_equal(by, 0), ops.less(by, width))
        most = width - 1 if kind.startswith("i") and not left else 0
        safe = cast(ops.where(inside, by, np.asarray(most, kind)), kind)
        moved = (ops.bitwise_left_shift if left else ops.bitwise_right_shift)(x, safe)
        return moved if most else ops.where(inside, moved, np.asarray(0, kind))

    return elementwise(shifted, a, b)


@op("Where", 9, 16)
def where(condition: Item, a: Item, b: Item) -> KerasValue:
    """Choice by element."""
    return elementwise(ops.where, condition, a, b, dtype=dtype_of(a))


@op("IsNaN", 9, 13, 20)
def is_nan(x: KerasValue) -> KerasValue:
    """Whether an element is not a number."""
    return x.like(ops.isnan(x.tensor))


@op("IsInf", 10, 20)
def is_inf(x: KerasValue, *, detect_negative: int = 1, detect_positive: int = 1) -> KerasValue:
    """Whether an element is an infinity of a wanted sign."""
    infinite = ops.isinf(x.tensor)
    if detect_negative and detect_positive:
        return x.like(infinite)
    if not detect_negative and not detect_positive:
        return x.like(ops.zeros_like(x.tensor, dtype="bool"))
    side = ops.less(x.tensor, 0) if detect_negative else ops.greater(x.tensor, 0)
    return x.like(ops.logical_and(infinite, side))


@op("Cast", 6, 9, 13, 19, 21, 23, 24, 25, 28)
def cast_to(x: KerasValue, *, to: int, saturate: int = 1, round_mode: str = "up") -> KerasValue:
    """Conversion of type."""
    del saturate, round_mode  # for 8-bit floats, which have no name in Keras
    return x.like(converted(x.tensor, dtype_name(to)), nonnegative=x.nonnegative)


@op("CastLike", 15, 19, 21, 23, 24, 25)
def cast_like(x: Item, like: Item, *, saturate: int = 1, round_mode: str = "up") -> Item:
    """Conversion to another tensor's type; a constant stays one."""
    del saturate, round_mode
    if is_constant(x):
        return x.astype(dtype_of(like))
    return x.like(converted(x.tensor, dtype_of(like)), nonnegative=x.nonnegative)


def converted(tensor: KerasTensor, dtype: str) -> KerasTensor:
    """Convert a Keras tensor; a float to a small integer through a wide one, as processors do."""
    if is_float(str(tensor.dtype)) and wide_dtype(dtype) != dtype:
        return cast(cast(tensor, wide_dtype(dtype)), dtype)
    return cast(tensor, dtype)


@op("Clip", 6)
def clip_attributes(x: KerasValue, *, min: float = -3.402823466e38, max: float = 3.402823466e38) -> KerasValue:  # noqa: A002
    """Limits as attributes."""
    return _clip_known(x, min, max)


@op("Clip", 11, 12, 13)
def clip(x: Item, low: Item | None = None, high: Item | None = None) -> Item:
    """Limits as inputs; a low limit above the high one gives the high one."""
    if isinstance(x, KerasValue) and not isinstance(low, KerasValue) and not isinstance(high, KerasValue):
        least, most = (None if limit is None else scalar(limit, "limit") for limit in (low, high))
        return _clip_known(x, least, most)
    x = x if low is None else elementwise(ops.maximum, x, low, wide=True)
    return x if high is None else elementwise(ops.minimum, x, high, wide=True)


def _clip_known(x: KerasValue, low: float | None, high: float | None) -> KerasValue:
    def limited(tensor: KerasTensor) -> KerasTensor:
        tensor = tensor if low is None else ops.maximum(tensor, np.asarray(low, str(tensor.dtype)))
        return tensor if high is None else ops.minimum(tensor, np.asarray(high, str(tensor.dtype)))

    if low == 0 and high is not None and 0 < high < _FAR and is_float(x.dtype):
        return x.like(x.graph.layer("ReLU", x.tensor, max_value=float(high)), nonnegative=True)
    return (
        x if low is None and high is None else mapped(limited, x, wide=True, nonnegative=low is not None and low >= 0)
    )


_FAR = 1e30  # exporters write float32's largest number, 3.4e38, where there is no upper bound
