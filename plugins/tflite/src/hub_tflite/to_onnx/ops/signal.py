"""Sparse constants, and Fourier transforms with their complex results.

A complex value is a float one in ONNX, with an axis of (real, imaginary) more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_tflite.to_onnx.registry import op

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode


@op("DENSIFY")
def densify(node: TfliteNode, x: Value) -> Value:
    """The constant in full: sparse ones are unpacked as they are read."""
    return node.emit("Identity", x)


@op("RFFT2D")
def rfft2d(node: TfliteNode, x: Value, lengths: Value) -> Value:
    """The transform of the last axis, one-sided, then that of the axis before; both are cropped or filled up."""
    rows, columns = (node.emit("Gather", node.int64(lengths), node.constant(place)) for place in (0, 1))
    signal = node.emit("Unsqueeze", x, node.constant([0, -1]))
    along = node.emit("DFT", signal, columns, node.constant(-2), onesided=1)
    return node.emit("Squeeze", node.emit("DFT", along, rows, node.constant(-3)), node.constant([0]))


def _part(node: TfliteNode, x: Value, place: int) -> Value:
    return node.emit("Gather", x, node.constant(place), axis=-1)


@op("REAL")
def real(node: TfliteNode, x: Value) -> Value:
    """The real part."""
    return _part(node, x, 0)


@op("IMAG")
def imag(node: TfliteNode, x: Value) -> Value:
    """The imaginary part."""
    return _part(node, x, 1)


@op("COMPLEX_ABS")
def complex_abs(node: TfliteNode, x: Value) -> Value:
    """The length."""
    return node.emit("ReduceL2", x, node.constant([-1]), keepdims=0)
