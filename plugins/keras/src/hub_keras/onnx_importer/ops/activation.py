"""Activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_keras.onnx_importer.applied import cast, elementwise, is_float, mapped
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, is_constant
from hub_onnxgraph import refuse_if
from hub_onnxgraph.since import ELEMENTWISE
from hub_onnxgraph.tensors import positive_axis

if TYPE_CHECKING:
    from keras import KerasTensor

_NONNEGATIVE = frozenset({"Sigmoid", "Softplus"})
_SAME = {"Sigmoid": "sigmoid", "Softplus": "softplus", "Softsign": "softsign", "Tanh": "tanh"}


def _register(name: str, function: str) -> None:
    @op(name, *ELEMENTWISE[name])
    def activation(x: KerasValue) -> KerasValue:
        return mapped(getattr(ops, function), x, nonnegative=name in _NONNEGATIVE)


for _row in _SAME.items():
    _register(*_row)


def of(number: float, tensor: KerasTensor) -> KerasTensor:
    """A number in a tensor's element type."""
    return np.asarray(number, str(tensor.dtype))


@op("Relu", 6, 13, 14)
def relu(x: KerasValue) -> KerasValue:
    """A layer, so that quantizers and readers find it."""
    if not is_float(x.dtype):
        return mapped(lambda t: ops.maximum(t, of(0, t)), x, wide=True, nonnegative=True)
    return x.like(x.graph.layer("ReLU", x.tensor), nonnegative=True)


@op("Elu", 6, 22)
def elu(x: KerasValue, *, alpha: float = 1.0) -> KerasValue:
    """ELU."""
    return x.like(x.graph.layer("ELU", x.tensor, alpha=alpha))


@op("Celu", 12, 28)
def celu(x: KerasValue, *, alpha: float = 1.0) -> KerasValue:
    """CELU."""
    return mapped(lambda t: ops.celu(t, alpha), x)


@op("Selu", 6, 22)
def selu(
    x: KerasValue, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> KerasValue:
    """SELU with its two constants."""
    return mapped(lambda t: ops.multiply(ops.elu(t, alpha), of(gamma, t)), x)


@op("LeakyRelu", 6, 16)
def leaky_relu(x: KerasValue, *, alpha: float = 0.01) -> KerasValue:
    """Leaky ReLU."""
    if alpha < 0:
        return mapped(lambda t: ops.where(ops.less(t, 0), ops.multiply(t, of(alpha, t)), t), x)
    return x.like(x.graph.layer("LeakyReLU", x.tensor, negative_slope=alpha))


@op("PRelu", 7, 9, 16)
def prelu(x: Item, slope: Item) -> Item:
    """Parametric ReLU; the slope broadcasts to x. A layer where there is one slope for each channel."""
    if isinstance(x, KerasValue) and is_constant(slope) and x.ndim > 2 and is_float(x.dtype):  # noqa: PLR2004 - spatial
        per_channel = slope.ndim > 0 and slope.size == slope.shape[max(slope.ndim - x.ndim + 1, 0)]
        if per_channel and slope.ndim >= x.ndim - 1:
            inner = [1] * (x.ndim - 1)
            inner[x.axis(1) - 1] = slope.size
            shared = [axis for axis in range(1, x.ndim) if axis != x.axis(1)]
            return x.like(
                x.graph.layer("PReLU", x.tensor, arrays=[slope.reshape(inner)], after=slope, shared_axes=shared)
            )
    return elementwise(lambda t, s: ops.where(ops.less(t, of(0, t)), ops.multiply(t, s), t), x, slope, wide=True)


@op("HardSigmoid", 6, 22)
def hard_sigmoid(x: KerasValue, *, alpha: float = 0.2, beta: float = 0.5) -> KerasValue:
    """Clamp of a line to 0..1."""
    if alpha == float(np.float32(1 / 6)) and beta == 0.5:  # noqa: PLR2004 - Keras' own line
        return mapped(ops.hard_sigmoid, x, nonnegative=True)

    def clamped(t: KerasTensor) -> KerasTensor:
        return ops.clip(ops.add(ops.multiply(t, of(alpha, t)), of(beta, t)), 0.0, 1.0)

    return mapped(clamped, x, nonnegative=True)


@op("HardSwish", 14, 22)
def hard_swish(x: KerasValue) -> KerasValue:
    """Hard swish: alpha 1/6, beta 0.5."""
    return x.like(x.graph.layer("Activation", x.tensor, activation="hard_silu"))


@op("Gelu", 20)
def gelu(x: KerasValue, *, approximate: str = "none") -> KerasValue:
    """GELU, exact or by tanh."""
    refuse_if(approximate not in {"none", "tanh"}, f"approximate {approximate}")
    return mapped(lambda t: ops.gelu(t, approximate=approximate == "tanh"), x)


@op("Mish", 18, 22)
def mish(x: KerasValue) -> KerasValue:
    """Mish."""
    return mapped(lambda t: ops.multiply(t, ops.tanh(ops.softplus(t))), x)


@op("Swish", 24)
def swish(x: KerasValue, *, alpha: float = 1.0) -> KerasValue:
    """Swish, x times the sigmoid of alpha x."""
    if alpha == 1.0:
        return mapped(ops.silu, x)
    return mapped(lambda t: ops.multiply(t, ops.sigmoid(ops.multiply(t, of(alpha, t)))), x)


@op("ThresholdedRelu", 10, 22)
def thresholded_relu(x: KerasValue, *, alpha: float = 1.0) -> KerasValue:
    """Keep what is above alpha."""
    return mapped(lambda t: ops.where(ops.greater(t, of(alpha, t)), t, of(0, t)), x, nonnegative=alpha >= 0)


@op("Shrink", 9)
def shrink(x: KerasValue, *, bias: float = 0.0, lambd: float = 0.5) -> KerasValue:
    """Shrink towards zero beyond lambd, zero within."""

    def shrunk(t: KerasTensor) -> KerasTensor:
        inner = ops.where(ops.greater(t, of(lambd, t)), ops.subtract(t, of(bias, t)), of(0, t))
        return ops.where(ops.less(t, of(-lambd, t)), ops.add(t, of(bias, t)), inner)

    return mapped(shrunk, x)


def _softmax_like(name: str, function: str) -> None:
    @op(name, 13)
    def plain(x: KerasValue, *, axis: int = -1) -> KerasValue:
        if name == "Softmax":
            return x.like(x.graph.layer("Softmax", x.tensor, axis=x.axis(axis)), nonnegative=True)
        return mapped(lambda t: getattr(ops, function)(t, axis=x.axis(axis)), x)

    @op(name, 1, 11)
    def flattened(x: KerasValue, *, axis: int = 1) -> Item:
        """Over all axes from the given one on."""
        first = axis + x.ndim if axis < 0 else axis
        refuse_if(first >= x.ndim, f"axis {axis} of rank {x.ndim}")
        if first == x.ndim - 1:
            return plain(x, axis=first)
        # A softmax over several axes by its definition, where they are stored.
        axes = tuple(x.axes(range(first, x.ndim)))
        total = ops.logsumexp(x.tensor, axis=axes, keepdims=True)
        log = ops.subtract(x.tensor, total)
        return x.like(log if name == "LogSoftmax" else ops.exp(log), nonnegative=name == "Softmax")


_softmax_like("Softmax", "softmax")
_softmax_like("LogSoftmax", "log_softmax")


@op("Hardmax", 13)
def hardmax(x: KerasValue, *, axis: int = -1) -> KerasValue:
    """One at the first maximum along the axis, zero elsewhere."""
    where = x.axis(positive_axis(axis, x.ndim))
    size = x.tensor.shape[where]
    refuse_if(size is None, "an open size of the axis")
    best = ops.argmax(x.tensor, axis=where, keepdims=True)
    steps = np.arange(size, dtype="int32").reshape([-1 if i == where else 1 for i in range(x.ndim)])
    return x.like(cast(ops.equal(best, steps), x.dtype), nonnegative=True)
