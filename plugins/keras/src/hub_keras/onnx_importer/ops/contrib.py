"""ONNX Runtime's own operators, which its transformer optimizer writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_keras.onnx_importer.applied import added, elementwise, mapped
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.ops.dense import matmul
from hub_keras.onnx_importer.ops.normalization import layer_norm
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, is_constant
from hub_onnxgraph import refuse_if

if TYPE_CHECKING:
    from keras import KerasTensor

_DOMAIN = "com.microsoft"


@op("Gelu", 1, domain=_DOMAIN)
def gelu(x: KerasValue) -> KerasValue:
    """Exact GELU."""
    return mapped(lambda t: ops.gelu(t, approximate=False), x)


@op("BiasGelu", 1, domain=_DOMAIN)
def bias_gelu(x: Item, bias: Item) -> KerasValue:
    """Exact GELU of a sum."""
    return gelu(elementwise(added, x, bias))


@op("FastGelu", 1, domain=_DOMAIN)
def fast_gelu(x: KerasValue, bias: Item | None = None) -> KerasValue:
    """GELU by tanh, of a sum."""
    total = x if bias is None else elementwise(added, x, bias)
    return mapped(lambda t: ops.gelu(t, approximate=True), total)


@op("QuickGelu", 1, domain=_DOMAIN)
def quick_gelu(x: KerasValue, *, alpha: float = 1.702) -> KerasValue:
    """GELU by the logistic function."""
    return mapped(lambda t: ops.multiply(t, ops.sigmoid(ops.multiply(t, np.asarray(alpha, x.dtype)))), x)


@op("FusedMatMul", 1, domain=_DOMAIN)
def fused_matmul(a: Item, b: Item, *, alpha: float = 1.0, transA: int = 0, transB: int = 0) -> KerasValue:  # noqa: N803
    """Product of matrices, transposed on demand, times alpha."""
    product = matmul(_turned(a) if transA else a, _turned(b) if transB else b)
    return product if alpha == 1.0 else mapped(lambda t: ops.multiply(t, np.asarray(alpha, product.dtype)), product)


def _turned(x: Item) -> Item:
    """The last two axes exchanged: only their names, where the tensor is computed."""
    if x.ndim == 1:
        return x
    if is_constant(x):
        return np.swapaxes(x, -1, -2)
    other = {x.ndim - 1: x.ndim - 2, x.ndim - 2: x.ndim - 1}
    return x.made(x.tensor, [other.get(axis, axis) for axis in x.order])


@op("SkipLayerNormalization", 1, domain=_DOMAIN)
def skip_layer_normalization(
    x: Item, skip: Item, scale: Item, beta: Item | None = None, bias: Item | None = None, *, epsilon: float = 1e-12
) -> tuple[KerasValue | None, ...]:
    """Layer normalization of a sum over the last axis; the sum is the fourth output."""
    total = elementwise(added, x, skip)
    total = total if bias is None else elementwise(added, total, bias)
    return layer_norm(total, scale, beta, [total.ndim - 1], epsilon), None, None, total


@op("SimplifiedLayerNormalization", 1, domain=_DOMAIN)
def simplified_layer_normalization(
    x: KerasValue, scale: Item, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> KerasValue:
    """Normalization by the root of the mean square over the last axis."""
    refuse_if(stash_type != 1 or axis not in {-1, x.ndim - 1}, f"axis {axis}, stash_type {stash_type}")

    def normalized(t: KerasTensor, factor: KerasTensor) -> KerasTensor:
        square = ops.mean(ops.square(t), axis=x.axis(-1), keepdims=True)
        return ops.multiply(ops.multiply(t, ops.rsqrt(ops.add(square, np.asarray(epsilon, x.dtype)))), factor)

    return elementwise(normalized, x, scale)
