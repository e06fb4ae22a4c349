"""Normalizations, in their inference form."""

from __future__ import annotations

from hub_keras.onnx_importer.applied import added
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.ops.norms import with_statistics
from hub_keras.onnx_importer.registry import NodeContext, op
from hub_keras.onnx_importer.values import Item, KerasValue, channels_last, fixed, is_constant
from hub_onnxgraph import Refused, refuse_if
from hub_onnxgraph.tensors import positive_axis

_FLOAT32 = 1  # onnx.TensorProto.FLOAT


@op("BatchNormalization", 7, 9, 14, 15)
def batch_normalization(  # noqa: PLR0913 - the operator's own parameters
    node: NodeContext,
    x: KerasValue,
    scale: Item,
    bias: Item,
    mean: Item,
    var: Item,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> KerasValue:
    """By the running statistics: a layer where they are known."""
    refuse_if(training_mode or node.outputs > 1, "training_mode is not implemented")
    arrays = [item for item in (scale, bias, mean, var) if is_constant(item)]
    if len(arrays) == 4:  # noqa: PLR2004 - all of them
        result = x.graph.layer(
            "BatchNormalization",
            x.tensor,
            arrays=arrays,
            after=arrays[0],
            axis=x.axis(1) if x.ndim > 1 else -1,
            epsilon=epsilon,
            momentum=momentum,
        )
        return x.like(result)
    return _by_given(x, (scale, bias, mean, var), epsilon)


def _by_given(x: KerasValue, statistics: tuple[Item, ...], epsilon: float) -> KerasValue:
    """Statistics that are computed."""
    shape = [1] * x.ndim
    shape[x.axis(1)] = -1
    parts = [item.plain() if isinstance(item, KerasValue) else x.graph.constant(item) for item in statistics]
    scale, bias, mean, var = (ops.reshape(part, shape) for part in parts)
    factor = ops.multiply(scale, ops.rsqrt(ops.add(var, np.asarray(epsilon, x.dtype))))
    return x.like(added(ops.multiply(ops.subtract(x.tensor, mean), factor), bias))


@op("LayerNormalization", 17)
def layer_normalization(  # noqa: PLR0913 - the operator's own parameters
    node: NodeContext,
    x: KerasValue,
    scale: Item,
    bias: Item | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = _FLOAT32,
) -> KerasValue | tuple[KerasValue, ...]:
    """Over the axes from the given one on."""
    refuse_if(stash_type != _FLOAT32, f"stash_type {stash_type}")
    axes = list(range(positive_axis(axis, x.ndim), x.ndim))
    if node.outputs > 1:
        return with_statistics(x, scale, bias, axes, epsilon)
    return layer_norm(x, scale, bias, axes, epsilon)


def layer_norm(x: KerasValue, scale: Item, bias: Item | None, axes: list[int], epsilon: float) -> KerasValue:
    """A LayerNormalization layer over ONNX axes; scale and bias have their shape."""
    inner = tuple(x.shape[axis] for axis in axes)
    if isinstance(scale, KerasValue) or isinstance(bias, KerasValue):
        raise Refused("scale or bias that is computed")
    refuse_if(any(p is not None and tuple(p.shape) != inner for p in (scale, bias)), "scale or bias of another shape")
    order = x.order if len(axes) == 1 else tuple(range(x.ndim))
    where = order.index(axes[0]) if len(axes) == 1 else axes
    arrays = [scale] if bias is None else [scale, bias]
    result = x.graph.layer(
        "LayerNormalization",
        x.stored(order),
        arrays=arrays,
        after=scale,
        axis=where,
        epsilon=epsilon,
        center=bias is not None,
    )
    return x.made(result, order)


@op("GroupNormalization", 21)
def group_normalization(
    x: KerasValue, scale: Item, bias: Item, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = _FLOAT32
) -> KerasValue:
    """Scale and bias for each channel."""
    refuse_if(stash_type != _FLOAT32, f"stash_type {stash_type}")
    return _group_norm(x, scale, bias, num_groups, epsilon)


def _group_norm(x: KerasValue, scale: Item, bias: Item, groups: int, epsilon: float) -> KerasValue:
    if isinstance(scale, KerasValue) or isinstance(bias, KerasValue):
        raise Refused("scale or bias that is computed")
    order = channels_last(x.ndim)
    result = x.graph.layer(
        "GroupNormalization",
        x.stored(order),
        arrays=[scale, bias],
        after=scale,
        groups=groups,
        axis=-1,
        epsilon=epsilon,
    )
    return x.made(result, order)


@op("InstanceNormalization", 6, 22)
def instance_normalization(x: KerasValue, scale: Item, bias: Item, *, epsilon: float = 1e-5) -> KerasValue:
    """By each channel's own statistics over its spatial axes: groups of one channel."""
    return _group_norm(x, scale, bias, fixed(scale, 0), epsilon)
