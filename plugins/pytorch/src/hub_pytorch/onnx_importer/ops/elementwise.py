"""Arithmetic, comparisons, logic and activations: one element of the result from one element of each input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from hub_onnxgraph import refuse_if
from hub_onnxgraph.since import ELEMENTWISE
from hub_pytorch.onnx_importer import unsigned, values
from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.registry import op
from hub_pytorch.onnx_importer.values import is_constant, scalar

if TYPE_CHECKING:
    from torch import Tensor

# Operators that are one torch function of the same meaning; both round halves to even.
_UNARY = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh", "Atan": "atan",
    "Atanh": "atanh", "BitwiseNot": "bitwise_not", "Ceil": "ceil", "Cos": "cos", "Cosh": "cosh", "Erf": "erf",
    "Exp": "exp", "Floor": "floor", "IsNaN": "isnan", "Log": "log", "Neg": "neg", "Not": "logical_not",
    "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round", "Sigmoid": "sigmoid", "Sign": "sign",
    "Sin": "sin", "Sinh": "sinh", "Sqrt": "sqrt", "Tan": "tan", "Tanh": "tanh",
}  # fmt: skip
_BINARY = {
    "Add": "add", "And": "logical_and", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor", "Equal": "eq", "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt",
    "LessOrEqual": "le", "Mul": "mul", "Or": "logical_or", "Sub": "sub", "Xor": "logical_xor",
}  # fmt: skip
_VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


def _apply(name: str, *xs: Tensor, **options: Any) -> Tensor:
    """A torch function, through a type in which torch can compute it: it only stores wide unsigned integers."""
    if xs[0].dtype in {torch.uint16, torch.uint32, torch.uint64} and name != "eq":
        return unsigned.apply(name, *xs, **options)
    result: Tensor = getattr(torch, name)(*xs, **options)
    return result


def _register_unary(name: str, torch_name: str) -> None:
    @op(name, *ELEMENTWISE[name])
    def unary(x: Tensor) -> Tensor:
        return _apply(torch_name, x)


def _register_binary(name: str, torch_name: str) -> None:
    @op(name, *ELEMENTWISE[name])
    def binary(a: Tensor, b: Tensor) -> Tensor:
        return _apply(torch_name, a, b)


def _register_variadic(name: str, torch_name: str) -> None:
    @op(name, *ELEMENTWISE[name])
    def variadic(first: Tensor, *others: Tensor) -> Tensor:
        return reduce(partial(_apply, torch_name), others, first)


for _row in _UNARY.items():
    _register_unary(*_row)
for _row in _BINARY.items():
    _register_binary(*_row)
for _row in _VARIADIC.items():
    _register_variadic(*_row)


@op("Mean", 8, 13)
def mean(first: Tensor, *others: Tensor) -> Tensor:
    """Mean of all inputs, broadcast."""
    return torch.div(reduce(torch.add, others, first), 1 + len(others))


@op("Div", 7, 13, 14)
def div(a: Tensor, b: Tensor) -> Tensor:
    """Division; of integers, truncated."""
    return torch.div(a, b) if a.dtype.is_floating_point else _apply("div", a, b, rounding_mode="trunc")


@op("Mod", 10, 13, 28)
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Remainder with the divisor's sign, or with the dividend's when fmod is 1."""
    return _apply("fmod" if fmod else "remainder", a, b)


@op("Pow", 7, 12, 13, 15)
def power(a: Tensor, b: Tensor) -> Tensor:
    """Power in the base's dtype."""
    if is_constant(b) and b.numel() == 1 and b.ndim <= a.ndim and float(b) in {1.0, 2.0, 3.0, 0.5}:
        return torch.pow(a, scalar(b, "exponent")).to(a.dtype)
    return torch.pow(a, b).to(a.dtype)


@op("BitShift", 11, 28)
def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """Shift of integers; by less than 0, or by their width or more, only the sign remains, and nothing to the left."""
    refuse_if(direction not in {"LEFT", "RIGHT"}, f"direction {direction}")
    name = f"bitwise_{direction.lower()}_shift"
    shift: Callable[[Tensor, Tensor], Tensor] = getattr(torch, name)
    if a.dtype in {torch.uint16, torch.uint32, torch.uint64}:
        return unsigned.apply(name, a, b)
    width = torch.iinfo(a.dtype).bits
    inside = torch.logical_and(torch.ge(b, 0), torch.lt(b, width))
    if direction == "RIGHT" and a.dtype.is_signed:
        return shift(a, torch.where(inside, b, width - 1))
    return torch.where(inside, shift(a, torch.where(inside, b, 0)), torch.zeros_like(a))


@op("Where", 9, 16)
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Choice by element."""
    return torch.where(condition, a, b)


@op("IsInf", 10, 20)
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Whether an element is an infinity of a wanted sign."""
    if detect_negative and detect_positive:
        return torch.isinf(x)
    if detect_negative:
        return torch.eq(x, -torch.inf)
    return torch.eq(x, torch.inf) if detect_positive else torch.zeros_like(x, dtype=torch.bool)


@op("Cast", 6, 9, 13, 19, 21, 23, 24, 25, 28)
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Conversion of type."""
    return values.cast(x, to, saturate=bool(saturate), round_mode=round_mode)


@op("CastLike", 15, 19, 21, 23, 24, 25)
def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Conversion to another tensor's type."""
    return values.cast(x, values.element_type(like), saturate=bool(saturate), round_mode=round_mode)


@op("Clip", 6)
def clip_attributes(x: Tensor, *, min: float = -3.402823466e38, max: float = 3.402823466e38) -> Tensor:  # noqa: A002
    """Limits as attributes."""
    return torch.clamp(x, min, max)


@op("Clip", 11, 12, 13)
def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Limits as inputs; a low limit above the high one gives the high one, as in torch."""
    if all(limit is None or is_constant(limit) for limit in (low, high)):
        limits = [None if limit is None else scalar(limit, "limit") for limit in (low, high)]
        return x if limits == [None, None] else torch.clamp(x, *limits)
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@op("Elu", 6, 22)
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """ELU."""
    return functional.elu(x, alpha)


@op("Celu", 12, 28)
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """CELU."""
    return functional.celu(x, alpha)


@op("Selu", 6, 22)
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    """SELU with its two constants."""
    return gamma * torch.where(torch.gt(x, 0), x, alpha * (torch.exp(x) - 1))


@op("LeakyRelu", 6, 16)
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """Leaky ReLU."""
    return functional.leaky_relu(x, alpha)


@op("PRelu", 7, 9, 16)
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Parametric ReLU; the slope broadcasts to x."""
    return torch.where(torch.lt(x, 0), torch.mul(x, slope), x)


@op("HardSigmoid", 6, 22)
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Clamp of a line to 0..1."""
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@op("HardSwish", 14, 22)
def hard_swish(x: Tensor) -> Tensor:
    """Hard swish: alpha 1/6, beta 0.5."""
    return functional.hardswish(x)


@op("Gelu", 20)
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """GELU, exact or by tanh."""
    return functional.gelu(x, approximate=approximate)


@op("Mish", 18, 22)
def mish(x: Tensor) -> Tensor:
    """Mish."""
    return functional.mish(x)


@op("Swish", 24)
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Swish, x times the sigmoid of alpha x."""
    return torch.mul(x, torch.sigmoid(x if alpha == 1.0 else x * alpha))


@op("Softplus", *ELEMENTWISE["Softplus"])
def softplus(x: Tensor) -> Tensor:
    """Log of 1 + exp; torch switches to x above 20, where float32 cannot tell them apart."""
    return functional.softplus(x)


@op("Softsign", *ELEMENTWISE["Softsign"])
def softsign(x: Tensor) -> Tensor:
    """Softsign."""
    return functional.softsign(x)


@op("ThresholdedRelu", 10, 22)
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Keep what is above alpha."""
    return torch.where(torch.gt(x, alpha), x, 0.0)


@op("Shrink", 9)
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Shrink towards zero beyond lambd, zero within."""
    inner = torch.where(torch.gt(x, lambd), x - bias, torch.zeros_like(x))
    return torch.where(torch.lt(x, -lambd), x + bias, inner)


@op("Dropout", 7, 10)
def dropout_attributes(x: Tensor, *, ratio: float = 0.5) -> tuple[Tensor, Tensor]:
    """Nothing at inference; the mask is all ones."""
    del ratio
    return x, torch.ones(x.shape, dtype=torch.bool)


@op("Dropout", 12, 13, 22)
def dropout(
    x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Nothing at inference; the mask is all ones. Training is refused."""
    del ratio, seed
    refuse_if(training is not None and scalar(training, "training_mode"), "training_mode is not implemented")
    return x, torch.ones(x.shape, dtype=torch.bool)
