"""Convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph.errors import refuse_if
from hub_tflite.to_onnx.registry import op
from hub_tflite.to_onnx.windows import SAME, Window, channels_first, channels_last
from hub_tflitefile.schema import numbers

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode


def _convolve(node: TfliteNode, x: Value, w: Value, bias: Value | None, window: Window, group: int) -> Value:
    """Write Conv for an input of channels last and weights that are ONNX's already."""
    rank = node.rank(x)
    pads = window.pads(node.shape(x)[1:-1])
    result = node.emit(
        "Conv", channels_first(node, x), w, bias,
        kernel_shape=list(window.kernel), strides=list(window.strides), dilations=list(window.dilations), group=group,
        **pads,
    )  # fmt: skip
    return channels_last(node, result, rank)


@op("CONV_2D", 8)
def conv_2d(  # noqa: PLR0913 - the operator's own options
    node: TfliteNode,
    x: Value,
    w: Value,
    bias: Value | None = None,
    *,
    padding: int,
    stride_w: int,
    stride_h: int,
    dilation_w_factor: int,
    dilation_h_factor: int,
) -> Value:
    """Convolution of N H W C with O H W I/groups."""
    kernel = node.sizes(w, (1, 2))
    (inner,), (channels,) = node.sizes(w, (3,)), node.sizes(x, (3,))
    window = Window(kernel, (stride_h, stride_w), (dilation_h_factor, dilation_w_factor), padding)
    return _convolve(node, x, node.transpose(w, (0, 3, 1, 2)), bias, window, channels // inner)


@op("DEPTHWISE_CONV_2D", 7)
def depthwise_conv_2d(  # noqa: PLR0913 - the operator's own options
    node: TfliteNode,
    x: Value,
    w: Value,
    bias: Value | None = None,
    *,
    padding: int,
    stride_w: int,
    stride_h: int,
    dilation_w_factor: int,
    dilation_h_factor: int,
    depth_multiplier: int,
) -> Value:
    """A filter per channel and multiplier: weights 1 H W (C times multiplier)."""
    (channels,), (results,) = node.sizes(x, (3,)), node.sizes(w, (3,))
    refuse_if(
        depth_multiplier and depth_multiplier * channels != results,
        f"multiplier {depth_multiplier} from {channels} to {results}",
    )
    window = Window(node.sizes(w, (1, 2)), (stride_h, stride_w), (dilation_h_factor, dilation_w_factor), padding)
    return _convolve(node, x, node.transpose(w, (3, 0, 1, 2)), bias, window, channels)


@op("CONV_3D")
def conv_3d(  # noqa: PLR0913 - the operator's own options
    node: TfliteNode,
    x: Value,
    w: Value,
    bias: Value | None = None,
    *,
    padding: int,
    stride_d: int,
    stride_w: int,
    stride_h: int,
    dilation_d_factor: int,
    dilation_w_factor: int,
    dilation_h_factor: int,
) -> Value:
    """Convolution of N D H W C with D H W I O."""
    (inner,), (channels,) = node.sizes(w, (3,)), node.sizes(x, (4,))
    dilations = (dilation_d_factor, dilation_h_factor, dilation_w_factor)
    window = Window(node.sizes(w, (0, 1, 2)), (stride_d, stride_h, stride_w), dilations, padding)
    return _convolve(node, x, node.transpose(w, (4, 3, 0, 1, 2)), bias, window, channels // inner)


def _deconvolve(node: TfliteNode, shape: Value, x: Value, w: Value, bias: Value | None, window: Window) -> Value:
    """Write ConvTranspose: TFLite names the result's size, ONNX what is cut from the full one."""
    known = node.known(shape)
    recorded = numbers(known if known is not None else node.result().shapeSignature)
    sizes, wanted = node.shape(x)[1:-1], ([size if size >= 0 else None for size in recorded[1:-1]] or [None])
    first = channels_first(node, x)
    if None in sizes or None in wanted:
        return channels_last(node, _cut(node, shape, first, (w, bias), window), len(sizes) + 2)
    crops = [
        _crop(window, axis, size or 0, out or 0) for axis, (size, out) in enumerate(zip(sizes, wanted, strict=True))
    ]
    begins, ends, more = (list(part) for part in zip(*crops, strict=True))
    result = _conv_transpose(node, first, (w, bias), window, pads=[*begins, *ends], output_padding=more)
    return channels_last(node, result, len(sizes) + 2)


def _conv_transpose(
    node: TfliteNode, first: Value, weights: tuple[Value, Value | None], window: Window, **attributes: list[int]
) -> Value:
    kernel, strides, dilations = (list(part) for part in window[:3])
    return node.emit(
        "ConvTranspose", first, *weights, kernel_shape=kernel, strides=strides, dilations=dilations, **attributes
    )


def _crop(window: Window, axis: int, size: int, wanted: int) -> tuple[int, int, int]:
    """Return what to cut at the beginning and the end of an axis, and what to add at its end."""
    stride = window.strides[axis]
    excess = (size - 1) * stride + window.extent(axis) - wanted
    total, missing = max(excess, 0), max(-excess, 0)
    refuse_if(missing >= max(stride, 2), f"an output {missing} larger than the full convolution")
    begin = total // 2 if window.padding == SAME else 0
    return begin, total - begin, missing


def _cut(node: TfliteNode, shape: Value, first: Value, weights: tuple[Value, Value | None], window: Window) -> Value:
    """Write the full convolution and cut the wanted sizes out of it at run time."""
    axes = list(range(len(window.strides)))
    full = _conv_transpose(node, first, weights, window, output_padding=[stride - 1 for stride in window.strides])
    wanted = node.emit("Gather", node.int64(shape), node.constant([axis + 1 for axis in axes]))
    begin = node.constant([0 for _ in axes])
    if window.padding == SAME:
        places = node.emit("Sub", node.emit("Shape", first, start=2), node.constant(1))
        reach = node.emit("Mul", places, node.constant(list(window.strides)))
        excess = node.emit(
            "Sub", node.emit("Add", reach, node.constant([window.extent(axis) for axis in axes])), wanted
        )
        begin = node.emit("Div", node.emit("Max", excess, node.constant(0)), node.constant(2))
    return node.emit("Slice", full, begin, node.emit("Add", begin, wanted), node.constant([axis + 2 for axis in axes]))


@op("TRANSPOSE_CONV", 5)
def transpose_conv(  # noqa: PLR0913 - the operator's own options
    node: TfliteNode,
    shape: Value,
    w: Value,
    x: Value,
    bias: Value | None = None,
    *,
    padding: int,
    stride_w: int,
    stride_h: int,
) -> Value:
    """Transposed convolution with weights O H W I."""
    window = Window(node.sizes(w, (1, 2)), (stride_h, stride_w), (1, 1), padding)
    return _deconvolve(node, shape, x, node.transpose(w, (3, 0, 1, 2)), bias, window)


@op("CONV_3D_TRANSPOSE")
def conv_3d_transpose(  # noqa: PLR0913 - the operator's own options
    node: TfliteNode,
    shape: Value,
    w: Value,
    x: Value,
    bias: Value | None = None,
    *,
    padding: int,
    stride_d: int,
    stride_w: int,
    stride_h: int,
    dilation_d_factor: int,
    dilation_w_factor: int,
    dilation_h_factor: int,
) -> Value:
    """Transposed convolution with weights D H W O I."""
    dilations = (dilation_d_factor, dilation_h_factor, dilation_w_factor)
    window = Window(node.sizes(w, (0, 1, 2)), (stride_d, stride_h, stride_w), dilations, padding)
    return _deconvolve(node, shape, x, node.transpose(w, (4, 3, 0, 1, 2)), bias, window)
