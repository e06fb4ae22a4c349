"""Conversions between reals and integers.

The importer rounds every result that the file stores in integers, so these operators hand their input on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph.errors import refuse_if
from hub_tflite.to_onnx.lazy import ir, np
from hub_tflite.to_onnx.registry import op

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode

_MOST_BITS = 16


@op("QUANTIZE", 4)
def quantize(node: TfliteNode, x: Value) -> Value:  # noqa: ARG001 - the importer rounds
    """Rounding to the result's grid, from reals or from another grid."""
    return x


@op("DEQUANTIZE", 6)
def dequantize(node: TfliteNode, x: Value) -> Value:
    """The real values; float16 and bfloat16 become float32."""
    return x if x.dtype == ir.DataType.FLOAT else node.emit("Cast", x, to=int(ir.DataType.FLOAT))


@op("FAKE_QUANT", 2)
def fake_quant(  # the options' own names
    node: TfliteNode,
    x: Value,
    *,
    min: float,  # noqa: A002
    max: float,  # noqa: A002
    num_bits: int,
) -> Value:
    """Rounding to 2 ** num_bits values of a range that is moved until zero is one of them (LiteRT's kernel)."""
    refuse_if(not 2 <= num_bits <= _MOST_BITS, f"{num_bits} bits")  # noqa: PLR2004 - the kernel's own limit
    highest = 2**num_bits - 1
    scale = (max - min) / highest
    point = np.clip(np.round(-min / scale), 0, highest)
    low, high = (node.like(x, float((edge - point) * scale)) for edge in (0, highest))
    held = node.emit("Div", node.emit("Sub", node.emit("Clip", x, low, high), low), node.like(x, scale))
    whole = node.emit("Floor", node.emit("Add", held, node.like(x, 0.5)))
    return node.emit("Add", node.emit("Mul", whole, node.like(x, scale)), low)
