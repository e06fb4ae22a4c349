"""Pools and normalization over neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_tflite.to_onnx.registry import op
from hub_tflite.to_onnx.windows import Window, channels_first, channels_last

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode


def _pool(node: TfliteNode, kind: str, x: Value, window: Window) -> Value:
    pads = window.pads(node.shape(x)[1:-1])
    first = channels_first(node, x)
    return channels_last(
        node, node.emit(kind, first, kernel_shape=list(window.kernel), strides=list(window.strides), **pads), 4
    )


@op("MAX_POOL_2D", 3)
def max_pool_2d(  # noqa: PLR0913 - the operator's own options
    node: TfliteNode, x: Value, *, padding: int, stride_w: int, stride_h: int, filter_width: int, filter_height: int
) -> Value:
    """The largest in each window."""
    window = Window((filter_height, filter_width), (stride_h, stride_w), (1, 1), padding)
    return _pool(node, "MaxPool", x, window)


@op("AVERAGE_POOL_2D", 3)
def average_pool_2d(  # noqa: PLR0913 - the operator's own options
    node: TfliteNode, x: Value, *, padding: int, stride_w: int, stride_h: int, filter_width: int, filter_height: int
) -> Value:
    """The mean of what each window holds of the input: padding is not counted."""
    window = Window((filter_height, filter_width), (stride_h, stride_w), (1, 1), padding)
    return _pool(node, "AveragePool", x, window)


@op("L2_POOL_2D")
def l2_pool_2d(  # noqa: PLR0913 - the operator's own options
    node: TfliteNode, x: Value, *, padding: int, stride_w: int, stride_h: int, filter_width: int, filter_height: int
) -> Value:
    """The root of the mean square of what each window holds of the input."""
    window = Window((filter_height, filter_width), (stride_h, stride_w), (1, 1), padding)
    squares = node.emit("Mul", x, x)
    squares.shape = x.shape
    return node.emit("Sqrt", _pool(node, "AveragePool", squares, window))


@op("LOCAL_RESPONSE_NORMALIZATION")
def local_response_normalization(
    node: TfliteNode, x: Value, *, radius: int, bias: float, alpha: float, beta: float
) -> Value:
    """Division by (bias + alpha * sum of squares of 2 radius + 1 channels) ** beta; ONNX's alpha is for their mean."""
    size = 2 * radius + 1
    result = node.emit("LRN", channels_first(node, x), size=size, bias=bias, alpha=alpha * size, beta=beta)
    return channels_last(node, result, node.rank(x))
