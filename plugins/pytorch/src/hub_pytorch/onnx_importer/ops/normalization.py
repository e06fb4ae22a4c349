"""Normalizations, in their inference form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hub_onnxgraph import refuse_if
from hub_onnxgraph.tensors import positive_axis
from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.ops.shape import pad_with
from hub_pytorch.onnx_importer.registry import NodeContext, op
from hub_pytorch.onnx_importer.sizes import is_int

if TYPE_CHECKING:
    from torch import Tensor

_FLOAT32 = 1  # onnx.TensorProto.FLOAT


@op("BatchNormalization", 7, 9, 14, 15)
def batch_normalization(  # noqa: PLR0913 - the operator's own parameters
    node: NodeContext,
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    """By the running statistics."""
    del momentum
    refuse_if(training_mode or node.outputs > 1, "training_mode is not implemented")
    return functional.batch_norm(x, mean, var, scale, bias, eps=epsilon)


@op("InstanceNormalization", 6, 22)
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """By each channel's own statistics over its spatial axes."""
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@op("LayerNormalization", 17)
def layer_normalization(  # noqa: PLR0913 - the operator's own parameters
    node: NodeContext,
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = _FLOAT32,
) -> Tensor | tuple[Tensor, ...]:
    """Over the axes from the given one on; with mean and inverse deviation as further outputs."""
    axis = positive_axis(axis, x.ndim)
    inner = tuple(x.shape[axis:])
    refuse_if(stash_type != _FLOAT32, f"stash_type {stash_type}")
    if (
        node.outputs == 1
        and x.dtype == torch.float32
        and all(map(is_int, inner))
        and all(p is None or tuple(p.shape) == inner for p in (scale, bias))
    ):
        return functional.layer_norm(x, inner, scale, bias, epsilon)
    axes = list(range(axis, x.ndim))
    wide = x.to(torch.float32)
    mean = torch.mean(wide, axes, keepdim=True)
    centred = torch.sub(wide, mean)
    inverse = torch.rsqrt(torch.mean(torch.mul(centred, centred), axes, keepdim=True) + epsilon)
    normal = torch.mul(torch.mul(centred, inverse).to(x.dtype), scale)
    return (normal if bias is None else torch.add(normal, bias)), mean, inverse


@op("RMSNormalization", 23)
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = _FLOAT32
) -> Tensor:
    """By the root of the mean square over the axes from the given one on."""
    refuse_if(stash_type != _FLOAT32, f"stash_type {stash_type}")
    axes = list(range(positive_axis(axis, x.ndim), x.ndim))
    wide = x.to(torch.float32)
    inverse = torch.rsqrt(torch.mean(torch.mul(wide, wide), axes, keepdim=True) + epsilon)
    return torch.mul(torch.mul(wide, inverse).to(x.dtype), scale)


@op("GroupNormalization", 18)
def group_normalization_18(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Scale and bias for each group."""
    shape = [1, num_groups, *[1] * (x.ndim - 1)]
    grouped = torch.reshape(x, [x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:]])
    normal = torch.reshape(functional.group_norm(x, num_groups, eps=epsilon), list(grouped.shape))
    scaled = torch.add(torch.mul(normal, torch.reshape(scale, shape)), torch.reshape(bias, shape))
    return torch.reshape(scaled, list(x.shape))


@op("GroupNormalization", 21)
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = _FLOAT32
) -> Tensor:
    """Scale and bias for each channel."""
    refuse_if(stash_type != _FLOAT32, f"stash_type {stash_type}")
    return functional.group_norm(x, num_groups, scale, bias, epsilon)


@op("LRN", 1, 13)
def lrn(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """By the squares of the neighbouring channels; of an even window the larger half comes after."""
    before = (size - 1) // 2
    pads = [0] * (2 * x.ndim)
    pads[1], pads[1 + x.ndim] = before, size - 1 - before
    squares = pad_with(torch.mul(x, x), pads, "constant", 0.0)
    total = torch.narrow(squares, 1, 0, x.shape[1])
    for offset in range(1, size):
        total = torch.add(total, torch.narrow(squares, 1, offset, x.shape[1]))
    return torch.div(x, torch.pow(total * (alpha / size) + bias, beta))


@op("LpNormalization", 1, 22)
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """By the Lp norm along one axis; a zero norm gives zero."""
    refuse_if(p not in {1, 2}, f"p {p}")
    size = torch.abs(x) if p == 1 else torch.mul(x, x)
    total = torch.sum(size, axis, keepdim=True)
    norm = total if p == 1 else torch.sqrt(total)
    return torch.div(x, torch.where(torch.eq(norm, 0), torch.ones_like(norm), norm))


@op("MeanVarianceNormalization", 9, 13)
def mean_variance_normalization(x: Tensor, *, axes: list[int] | None = None) -> Tensor:
    """To mean zero and deviation one over the axes, with the 1e-9 of the standard's definition."""
    over = [0, 2, 3] if axes is None else axes
    centred = torch.sub(x, torch.mean(x, over, keepdim=True))
    deviation = torch.sqrt(torch.mean(torch.mul(centred, centred), over, keepdim=True))
    return torch.div(centred, deviation + math.pow(10, -9))
