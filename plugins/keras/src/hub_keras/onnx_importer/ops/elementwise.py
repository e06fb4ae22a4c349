"""Arithmetic, comparisons and activations: one element of the result from one element of each input."""

from __future__ import annotations

from typing import Any

from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Value, align, dtype_name, is_constant, positive_axis, scalar
from hub_onnxgraph import refuse_if

_Rows = tuple[tuple[str, str, tuple[int, ...]], ...]
_UNARY: _Rows = (
    ("Abs", "abs", (6, 13)),
    ("Ceil", "ceil", (6, 13)),
    ("Cos", "cos", (7, 22)),
    ("Erf", "erf", (9, 13)),
    ("Exp", "exp", (6, 13)),
    ("Floor", "floor", (6, 13)),
    ("Log", "log", (6, 13)),
    ("Neg", "negative", (6, 13)),
    ("Not", "logical_not", (1,)),
    ("Reciprocal", "reciprocal", (6, 13)),
    ("Round", "round", (11, 22)),
    ("Sigmoid", "sigmoid", (6, 13)),
    ("Sign", "sign", (9, 13)),
    ("Sin", "sin", (7, 22)),
    ("Softplus", "softplus", (1, 22)),
    ("Softsign", "softsign", (1, 22)),
    ("Sqrt", "sqrt", (6, 13)),
    ("Tanh", "tanh", (6, 13)),
)
_BINARY: _Rows = (
    ("Add", "add", (7, 13, 14)),
    ("And", "logical_and", (7,)),
    ("Equal", "equal", (7, 11, 13, 19)),
    ("Greater", "greater", (7, 9, 13)),
    ("GreaterOrEqual", "greater_equal", (12, 16)),
    ("Less", "less", (7, 9, 13)),
    ("LessOrEqual", "less_equal", (12, 16)),
    ("Mul", "multiply", (7, 13, 14)),
    ("Or", "logical_or", (7,)),
    ("Sub", "subtract", (7, 13, 14)),
    ("Xor", "logical_xor", (7,)),
)
_POSITIVE = frozenset({"Abs", "Exp", "Sigmoid", "Softplus", "Sqrt"})


def _register_unary(name: str, keras_name: str, versions: tuple[int, ...]) -> None:
    @op(name, *versions)
    def unary(x: Value) -> Value:
        return x.like(getattr(ops, keras_name)(x.tensor), nonnegative=name in _POSITIVE)


def _register_binary(name: str, keras_name: str, versions: tuple[int, ...]) -> None:
    @op(name, *versions)
    def binary(a: Any, b: Any) -> Value:
        return _apply(keras_name, a, b)


def _apply(keras_name: str, a: Any, b: Any) -> Value:
    operands, model = align(a, b)
    return model.like(getattr(ops, keras_name)(*operands))


for _row in _UNARY:
    _register_unary(*_row)
for _row in _BINARY:
    _register_binary(*_row)


@op("Relu", 6, 13, 14)
def relu(x: Value) -> Value:
    """A layer, so that quantizers and readers find it."""
    if "float" not in x.dtype:
        return x.like(ops.maximum(x.tensor, np.zeros((), x.dtype)), nonnegative=True)
    return x.like(x.graph.layer("ReLU", x.tensor), nonnegative=True)


@op("LeakyRelu", 6, 16)
def leaky_relu(x: Value, *, alpha: float = 0.01) -> Value:
    """A slope below zero."""
    return x.like(x.graph.layer("LeakyReLU", x.tensor, negative_slope=alpha))


@op("Elu", 6, 22)
def elu(x: Value, *, alpha: float = 1.0) -> Value:
    """An exponential below zero."""
    return x.like(x.graph.layer("ELU", x.tensor, alpha=alpha))


@op("Selu", 6, 22)
def selu(x: Value, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Value:
    """A scaled exponential below zero."""
    grown = ops.multiply(ops.elu(x.tensor, alpha=alpha), np.asarray(gamma, x.dtype))
    return x.like(grown)


@op("PRelu", 7, 9, 16)
def prelu(x: Value, slope: Any) -> Value:
    """A learned slope below zero: a layer where there is one for each channel."""
    per_channel = is_constant(slope) and slope.ndim > 0 and x.ndim > 2 and "float" in x.dtype
    if per_channel and slope.size == slope.shape[max(slope.ndim - x.ndim + 1, 0)] and slope.ndim >= x.ndim - 1:
        inner = [1] * (x.ndim - 1)
        inner[x.axis(1) - 1] = slope.size
        shared = [axis for axis in range(1, x.ndim) if axis != x.axis(1)]
        made = x.graph.layer("PReLU", x.tensor, arrays=[slope.reshape(inner)], after=slope, shared_axes=shared)
        return x.like(made)
    operands, model = align(x, slope)
    zero = np.zeros((), x.dtype)
    return model.like(ops.where(ops.less(operands[0], zero), ops.multiply(*operands), operands[0]))


@op("HardSigmoid", 6, 22)
def hard_sigmoid(x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    """A line, cut off at zero and one."""
    line = ops.add(ops.multiply(x.tensor, np.asarray(alpha, x.dtype)), np.asarray(beta, x.dtype))
    return x.like(ops.clip(line, 0.0, 1.0), nonnegative=True)


@op("HardSwish", 14, 22)
def hard_swish(x: Value) -> Value:
    """The input times its hard sigmoid of slope 1/6."""
    return x.like(x.graph.layer("Activation", x.tensor, activation="hard_silu"))


@op("Gelu", 20)
def gelu(x: Value, *, approximate: str = "none") -> Value:
    """The input times the normal distribution at it."""
    refuse_if(approximate not in {"none", "tanh"}, f"approximate {approximate}")
    return x.like(ops.gelu(x.tensor, approximate=approximate == "tanh"))


@op("Div", 7, 13, 14)
def div(a: Any, b: Any) -> Value:
    """Division; of integers, the quotient without its fraction."""
    operands, model = align(a, b)
    if "float" in str(operands[0].dtype):
        return model.like(ops.divide(*operands))
    quotient = ops.floor_divide(ops.abs(operands[0]), ops.abs(operands[1]))
    return model.like(ops.multiply(quotient, ops.multiply(ops.sign(operands[0]), ops.sign(operands[1]))))


@op("Pow", 7, 12, 13, 15)
def power(a: Any, b: Any) -> Value:
    """A power, in the base's type; squares are products."""
    if is_constant(b) and b.size == 1 and b.ndim <= a.ndim and b.reshape(-1)[0] == 2:
        return a.like(ops.square(a.tensor), nonnegative=True)
    operands, model = align(a, b)
    kind = str(operands[0].dtype)
    return model.like(ops.cast(ops.power(*operands), kind))


@op("Cast", 6, 9, 13, 19, 21, 23, 24, 25)
def cast(x: Value, *, to: int, saturate: int = 1) -> Value:
    """Another element type."""
    del saturate  # it is about eight-bit floats
    return x.like(ops.cast(x.tensor, dtype_name(to)), nonnegative=x.nonnegative and x.dtype != "bool")


@op("Where", 9, 16)
def where(condition: Any, a: Any, b: Any) -> Value:
    """A choice for each element."""
    operands, model = align(condition, a, b)
    return model.like(ops.where(*operands))


@op("Clip", 6)
def clip_attributes(x: Value, *, min: float = -3.4028234663852886e38, max: float = 3.4028234663852886e38) -> Value:  # noqa: A002
    """Bounds as attributes."""
    return _clip(x, min, max)


@op("Clip", 11, 12, 13)
def clip(x: Value, low: Any = None, high: Any = None) -> Value:
    """Bounds as inputs."""
    bounds = [None if bound is None else scalar(bound, "a bound") for bound in (low, high)]
    return _clip(x, *bounds)


def _clip(x: Value, low: float | None, high: float | None) -> Value:
    nonnegative = x.nonnegative or (low is not None and low >= 0)
    if low == 0 and high is not None and 0 < high < _FAR and "float" in x.dtype:
        return x.like(x.graph.layer("ReLU", x.tensor, max_value=float(high)), nonnegative=True)
    tensor = x.tensor
    tensor = tensor if low is None else ops.maximum(tensor, np.asarray(low, x.dtype))
    tensor = tensor if high is None else ops.minimum(tensor, np.asarray(high, x.dtype))
    return x.like(tensor, nonnegative=nonnegative)


_FAR = 1e30


@op("Softmax", 13)
def softmax(x: Value, *, axis: int = -1) -> Value:
    """Along one axis."""
    return x.like(x.graph.layer("Softmax", x.tensor, axis=x.axis(axis)), nonnegative=True)


@op("Softmax", 1, 11)
def softmax_flat(x: Value, *, axis: int = 1) -> Value:
    """Over all axes from the given one on."""
    axes = x.axes(range(positive_axis(axis, x.ndim), x.ndim))
    made = x.graph.layer("Softmax", x.tensor, axis=axes[0]) if len(axes) == 1 else _softmax_over(x.tensor, axes)
    return x.like(made, nonnegative=True)


def _softmax_over(tensor: Any, axes: list[int]) -> Any:
    shifted = ops.exp(ops.subtract(tensor, ops.max(tensor, axis=axes, keepdims=True)))
    return ops.divide(shifted, ops.sum(shifted, axis=axes, keepdims=True))


@op("LogSoftmax", 13)
def log_softmax(x: Value, *, axis: int = -1) -> Value:
    """Along one axis."""
    return x.like(ops.log_softmax(x.tensor, axis=x.axis(axis)))


def _register_variadic(name: str, keras_name: str, versions: tuple[int, ...]) -> None:
    @op(name, *versions)
    def variadic(*xs: Any) -> Any:
        result = xs[0]
        for x in xs[1:]:
            both_known = is_constant(result) and is_constant(x)
            result = getattr(np, keras_name)(result, x) if both_known else _apply(keras_name, result, x)
        return result


for _row in (("Max", "maximum", (8, 12, 13)), ("Min", "minimum", (8, 12, 13)), ("Sum", "add", (8, 13))):
    _register_variadic(*_row)
