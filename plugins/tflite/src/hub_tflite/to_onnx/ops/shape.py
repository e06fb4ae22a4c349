"""Operators that move elements and leave them as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph.errors import refuse_if
from hub_tflite.to_onnx.registry import op

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode


@op("RESHAPE")
def reshape(node: TfliteNode, x: Value, shape: Value | None = None, *, new_shape: list[int] = []) -> Value:  # noqa: B006 - read only
    """The same elements in another shape; the operand goes before the option."""
    if shape is not None and node.known(shape) is None:
        return node.emit("Reshape", x, node.int64(shape), allowzero=1)
    wanted = new_shape if shape is None else node.integers(shape, "the shape")
    return node.emit("Reshape", x, node.constant(wanted), allowzero=1 if 0 in wanted else None)


@op("TRANSPOSE", 7)
def transpose(node: TfliteNode, x: Value, perm: Value) -> Value:
    """Axes in another order."""
    return node.transpose(x, node.integers(perm, "the order of axes"))


@op("SQUEEZE", 2)
def squeeze(node: TfliteNode, x: Value, *, squeeze_dims: list[int]) -> Value:
    """Without axes of size 1: those named, or all."""
    sizes = node.shape(x)
    refuse_if(not squeeze_dims and None in sizes, f"all axes of size 1 of {sizes}")
    axes = squeeze_dims or [axis for axis, size in enumerate(sizes) if size == 1]
    return node.emit("Squeeze", x, node.constant(axes)) if axes else node.emit("Identity", x)


@op("EXPAND_DIMS")
def expand_dims(node: TfliteNode, x: Value, axis: Value) -> Value:
    """With an axis of size 1 more."""
    return node.emit("Unsqueeze", x, node.constant(node.integers(axis, "the axis")))


@op("CONCATENATION", 5)
def concatenation(node: TfliteNode, *xs: Value, axis: int) -> Value:
    """Inputs behind each other along an axis."""
    return node.emit("Concat", *xs, axis=axis)


@op("SHAPE")
def shape_of(node: TfliteNode, x: Value, *, out_type: int = 0) -> Value:
    """The sizes of all axes."""
    del out_type  # the output tensor says it as well
    if x.shape is not None and None not in node.shape(x):
        return node.constant(node.sizes(x), node.result_type())
    return node.cast(node.emit("Shape", x), node.result_type())


@op("PAD", 5)
def pad(node: TfliteNode, x: Value, paddings: Value) -> Value:
    """Zeros around; paddings are rows of (before, after)."""
    return _padded(node, x, paddings, None)


@op("PADV2", 5)
def padv2(node: TfliteNode, x: Value, paddings: Value, value: Value) -> Value:
    """A constant around."""
    return _padded(node, x, paddings, node.reshape(value, ()))


def _padded(node: TfliteNode, x: Value, paddings: Value, value: Value | None) -> Value:
    turned = node.transpose(node.int64(paddings), (1, 0))
    return node.emit("Pad", x, node.reshape(turned, (-1,)), value)
