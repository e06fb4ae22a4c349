"""Convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hub_keras.onnx_importer.applied import added
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Value, channels_last, is_constant, plain
from hub_keras.onnx_importer.windows import (
    explicit_pads,
    extents,
    is_same,
    known_sizes,
    numbers,
    pad_spatial,
    spatial_rank,
    split_totals,
)
from hub_onnxgraph import refuse_if


@dataclass(frozen=True, slots=True)
class Form:
    """The numbers of a convolution."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int

    @property
    def rank(self) -> int:
        """Spatial axes."""
        return len(self.kernel)

    @property
    def windows(self) -> list[int]:
        """The extent of the kernel."""
        return extents(self.kernel, self.dilations)


@op("Conv", 1, 11, 22)
def conv(  # noqa: PLR0913 - the operator's own parameters
    x: Any,
    w: Any,
    b: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Value:
    """Cross-correlation of NC... with MC.../group."""
    refuse_if(not isinstance(x, Value), "a convolution of a constant by a kernel that is computed")
    rank = spatial_rank(x)
    refuse_if(kernel_shape and kernel_shape != list(w.shape[2:]), f"kernel_shape {kernel_shape} with {w.shape}")
    form = Form(tuple(w.shape[2:]), tuple(numbers(strides, rank)), tuple(numbers(dilations, rank)), group)
    around = explicit_pads(auto_pad, pads, x, form.windows, form.strides)
    same = any(around) and is_same(x, around, form.windows, form.strides)
    source = x if same or not any(around) else pad_spatial(x, around)
    if is_constant(w) and (b is None or is_constant(b)):
        return _conv_layer(source, w, b, form, "same" if same else "valid")
    return _conv_op(source, w, b, form, "same" if same else "valid")


def _conv_layer(x: Value, w: Any, b: Any, form: Form, padding: str) -> Value:
    """A layer with its weights; strides together with dilation, which TensorFlow lacks, are taken as every s-th."""
    both = max(form.strides) > 1 and max(form.dilations) > 1
    refuse_if(both and padding == "same", "strides and dilations together with padding that depends on the size")
    tensor = x.stored(channels_last(x.ndim))
    kind, kernel, config = _kind(x, w, form)
    result = x.graph.layer(
        kind,
        tensor,
        arrays=[kernel] if b is None else [kernel, b],
        after=w,
        kernel_size=form.kernel,
        strides=(1,) * form.rank if both else form.strides,
        dilation_rate=form.dilations,
        padding=padding,
        use_bias=b is not None,
        **config,
    )
    if both:
        result = result[(slice(None), *(slice(None, None, stride) for stride in form.strides), slice(None))]
    return x.made(result, channels_last(x.ndim))


_DEPTHWISE_RANKS = (1, 2)


def _kind(x: Value, w: Any, form: Form) -> tuple[str, Any, dict[str, Any]]:
    """The layer's class, the kernel as it takes it, and its own arguments."""
    rank, channels = form.rank, form.group * w.shape[1]
    refuse_if(x.shape[1] not in {None, channels}, f"{x.shape[1]} channels, the kernel takes {channels}")
    last = np.transpose(w, (*range(2, rank + 2), 1, 0))
    even = len(set(form.strides)) == 1 and (max(form.strides) == 1 or max(form.dilations) == 1)
    if form.group == channels > 1 and rank in _DEPTHWISE_RANKS and even:
        shape = (*form.kernel, channels, w.shape[0] // channels)
        return f"DepthwiseConv{rank}D", np.reshape(last, shape), {"depth_multiplier": shape[-1]}
    return f"Conv{rank}D", last, {"filters": w.shape[0], "groups": form.group}


def _conv_op(x: Value, w: Any, b: Any, form: Form, padding: str) -> Value:
    """A kernel that is computed: keras.ops."""
    refuse_if(form.group != 1, f"{form.group} groups with a kernel that is computed")
    refuse_if(max(form.strides) > 1 and max(form.dilations) > 1, "strides and dilations with a computed kernel")
    order = (*range(2, form.rank + 2), 1, 0)
    kernel = w.stored(order) if isinstance(w, Value) else x.graph.constant(np.transpose(w, order))
    result = ops.conv(
        x.stored(channels_last(x.ndim)),
        kernel,
        strides=form.strides,
        padding=padding,
        data_format="channels_last",
        dilation_rate=form.dilations,
    )
    if b is not None:
        result = added(result, plain(x.graph, b))
    return x.made(result, channels_last(x.ndim))


@op("ConvTranspose", 1, 11, 22)
def conv_transpose(  # noqa: PLR0913 - the operator's own parameters
    x: Any,
    w: Any,
    b: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Value:
    """Transposed convolution; pads crop the full result, output_padding extends its end."""
    refuse_if(not (isinstance(x, Value) and is_constant(w)), "a kernel that is computed")
    rank = spatial_rank(x)
    refuse_if(kernel_shape and kernel_shape != list(w.shape[2:]), f"kernel_shape {kernel_shape} with {w.shape}")
    form = Form(tuple(w.shape[2:]), tuple(numbers(strides, rank)), tuple(numbers(dilations, rank)), group)
    refuse_if(max(form.strides) > 1 and max(form.dilations) > 1, "strides and dilations together")
    extra = output_padding or [0] * rank
    wanted = output_shape[-rank:] if output_shape else None
    if wanted is not None or auto_pad.startswith("SAME"):
        pads = _crop(x, auto_pad, wanted, form, extra)
    crop = pads or [0] * (2 * rank)
    ends = [e - p for e, p in zip(extra, crop[rank:], strict=True)]
    return _transposed(x, w, b, form, [*[-p for p in crop[:rank]], *ends])


def _crop(x: Value, auto_pad: str, wanted: list[int] | None, form: Form, extra: list[int]) -> list[int]:
    """The crop that reaches a wanted output size; the odd one is taken as the standard's formula says."""
    refuse_if(auto_pad not in {"NOTSET", "SAME_UPPER", "SAME_LOWER"}, f"auto_pad {auto_pad} with output_shape")
    sizes = known_sizes(x, "the output's size") if wanted is not None else [1] * form.rank
    target = wanted if wanted is not None else list(form.strides)
    parts = zip(sizes, form.strides, form.windows, extra, target, strict=True)
    totals = [stride * (size - 1) + window + more - size_out for size, stride, window, more, size_out in parts]
    return split_totals(totals, upper=auto_pad == "SAME_UPPER")


def _transposed(x: Value, w: Any, b: Any, form: Form, pads: list[int]) -> Value:
    """The full result, cut and padded, then the bias: pads of zeros come before it."""
    split = [x] if form.group == 1 else _groups(x, form.group)
    kernels = np.split(w, form.group)
    extended = max(pads) > 0
    biases = [None] * form.group if b is None or extended else list(np.split(np.asarray(b), form.group))
    parts = [_full(part, kernel, bias, form) for part, kernel, bias in zip(split, kernels, biases, strict=True)]
    joined = (
        parts[0] if len(parts) == 1 else x.made(ops.concatenate([p.tensor for p in parts], axis=-1), parts[0].order)
    )
    result = pad_spatial(joined, pads) if any(pads) else joined
    return result if b is None or not extended else result.like(added(result.tensor, plain(x.graph, b)))


def _groups(x: Value, count: int) -> list[Value]:
    order = channels_last(x.ndim)
    return [x.made(part, order) for part in ops.split(x.stored(order), count, axis=-1)]


def _full(x: Value, w: Any, b: Any, form: Form) -> Value:
    """One group, without pads. Keras' `valid` result of a kernel narrower than the stride is longer: it is cut."""
    kernel = np.transpose(w, (*range(2, form.rank + 2), 1, 0))
    result = x.graph.layer(
        f"Conv{form.rank}DTranspose",
        x.stored(channels_last(x.ndim)),
        arrays=[kernel] if b is None else [kernel, b],
        after=w,
        filters=w.shape[1],
        kernel_size=form.kernel,
        strides=form.strides,
        dilation_rate=form.dilations,
        padding="valid",
        use_bias=b is not None,
    )
    made = x.made(result, channels_last(x.ndim))
    surplus = [max(s - k, 0) for s, k in zip(form.strides, form.windows, strict=True)]
    return pad_spatial(made, [*[0] * form.rank, *[-s for s in surplus]]) if any(surplus) else made
