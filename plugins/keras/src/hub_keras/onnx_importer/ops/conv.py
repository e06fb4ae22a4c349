"""Convolutions."""

from __future__ import annotations

from typing import Any

from hub_keras.onnx_importer.applied import added
from hub_keras.onnx_importer.dims import Array
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, channels_last, fixed, is_constant, plain
from hub_keras.onnx_importer.windows import explicit_pads, is_same, known_sizes, pad_spatial, spatial_rank
from hub_onnxgraph import Refused, refuse_if
from hub_onnxgraph.windows import Convolution, Sliding, Transposed


@op("Conv", 1, 11, 22)
def conv(x: Item, w: Item, b: Item | None = None, *, form: Convolution) -> KerasValue:
    """Cross-correlation of NC... with MC.../group."""
    if not isinstance(x, KerasValue):
        raise Refused("a convolution of a constant by a kernel that is computed")
    spatial_rank(x)
    window = form.of([fixed(w, i) for i in range(2, w.ndim)])
    around = explicit_pads(form, window, x)
    same = any(around) and is_same(x, around, window)
    source = x if same or not any(around) else pad_spatial(x, around)
    if is_constant(w) and (b is None or is_constant(b)):
        return _conv_layer(source, w, b, window, "same" if same else "valid")
    refuse_if(window.group != 1, f"{window.group} groups with a kernel that is computed")
    refuse_if(max(window.strides) > 1 and max(window.dilations) > 1, "strides and dilations with a computed kernel")
    order = (*range(2, window.rank + 2), 1, 0)
    kernel = w.stored(order) if isinstance(w, KerasValue) else source.graph.constant(np.transpose(w, order))
    result = ops.conv(
        source.stored(channels_last(source.ndim)),
        kernel,
        strides=window.strides,
        padding="same" if same else "valid",
        data_format="channels_last",
        dilation_rate=window.dilations,
    )
    if b is not None:
        result = added(result, plain(source.graph, b))
    return source.made(result, channels_last(source.ndim))


def _conv_layer(x: KerasValue, w: Array, b: Array | None, window: Sliding, padding: str) -> KerasValue:
    """A layer with its weights; strides together with dilation, which TensorFlow lacks, are taken as every s-th."""
    both = max(window.strides) > 1 and max(window.dilations) > 1
    refuse_if(both and padding == "same", "strides and dilations together with padding that depends on the size")
    tensor = x.stored(channels_last(x.ndim))
    kind, kernel, config = _kind(x, w, window)
    result = x.graph.layer(
        kind,
        tensor,
        arrays=[kernel] if b is None else [kernel, b],
        after=w,
        kernel_size=window.kernel,
        strides=(1,) * window.rank if both else window.strides,
        dilation_rate=window.dilations,
        padding=padding,
        use_bias=b is not None,
        **config,
    )
    if both:
        result = result[(slice(None), *(slice(None, None, stride) for stride in window.strides), slice(None))]
    return x.made(result, channels_last(x.ndim))


_DEPTHWISE_RANKS = (1, 2)  # Keras has no DepthwiseConv3D


def _kind(x: KerasValue, w: Array, window: Sliding) -> tuple[str, Array, dict[str, Any]]:
    """The layer's class, the kernel as it takes it, and its own arguments."""
    rank, channels = window.rank, window.group * w.shape[1]
    refuse_if(x.shape[1] not in {None, channels}, f"{x.shape[1]} channels, the kernel takes {channels}")
    last = np.transpose(w, (*range(2, rank + 2), 1, 0))
    # TensorFlow's depthwise convolution has one stride for all axes, and none together with dilation.
    even = len(set(window.strides)) == 1 and (max(window.strides) == 1 or max(window.dilations) == 1)
    if window.group == channels > 1 and rank in _DEPTHWISE_RANKS and even:
        shape = (*window.kernel, channels, w.shape[0] // channels)
        return f"DepthwiseConv{rank}D", np.reshape(last, shape), {"depth_multiplier": shape[-1]}
    return f"Conv{rank}D", last, {"filters": w.shape[0], "groups": window.group}


@op("ConvTranspose", 1, 11, 22)
def conv_transpose(x: Item, w: Item, b: Item | None = None, *, form: Transposed) -> KerasValue:
    """Transposed convolution; pads crop the full result, output_padding extends its end."""
    if not isinstance(x, KerasValue) or isinstance(w, KerasValue):
        raise Refused("a kernel that is computed")
    rank = spatial_rank(x)
    window = form.of([fixed(w, i) for i in range(2, w.ndim)])
    crop, extra = form.crop(window, lambda: known_sizes(x, "the output's size"))
    ends = [e - p for e, p in zip(extra, crop[rank:], strict=True)]
    return _transposed(x, w, b, window, [*[-p for p in crop[:rank]], *ends])


def _transposed(x: KerasValue, w: Array, b: Item | None, window: Sliding, pads: list[int]) -> KerasValue:
    """The full result, cut and padded, then the bias: pads of zeros come before it."""
    split = [x] if window.group == 1 else _groups(x, window.group)
    kernels = np.split(w, window.group)
    extended = max(pads) > 0
    biases = [None] * window.group if b is None or extended else list(np.split(np.asarray(b), window.group))
    parts = [_full(part, kernel, bias, window) for part, kernel, bias in zip(split, kernels, biases, strict=True)]
    joined = (
        parts[0] if len(parts) == 1 else x.made(ops.concatenate([p.tensor for p in parts], axis=-1), parts[0].order)
    )
    result = pad_spatial(joined, pads) if any(pads) else joined
    return result if b is None or not extended else result.like(added(result.tensor, plain(x.graph, b)))


def _groups(x: KerasValue, count: int) -> list[KerasValue]:
    order = channels_last(x.ndim)
    return [x.made(part, order) for part in ops.split(x.stored(order), count, axis=-1)]


def _full(x: KerasValue, w: Array, b: Array | None, window: Sliding) -> KerasValue:
    """One group, without pads."""
    # TensorFlow has no transposed convolution with dilations on CPUs: zeros between the kernel's elements say the same.
    spread = np.zeros((*w.shape[:2], *window.extents), w.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, step) for step in window.dilations))] = w
    kernel = np.transpose(spread, (*range(2, window.rank + 2), 1, 0))
    result = x.graph.layer(
        f"Conv{window.rank}DTranspose",
        x.stored(channels_last(x.ndim)),
        arrays=[kernel] if b is None else [kernel, b],
        after=w,
        filters=w.shape[1],
        kernel_size=tuple(window.extents),
        strides=window.strides,
        padding="valid",
        use_bias=b is not None,
    )
    # Keras' `valid` result of a kernel narrower than the stride is longer than ONNX's.
    made = x.made(result, channels_last(x.ndim))
    surplus = [max(s - k, 0) for s, k in zip(window.strides, window.extents, strict=True)]
    return pad_spatial(made, [*[0] * window.rank, *[-s for s in surplus]]) if any(surplus) else made
