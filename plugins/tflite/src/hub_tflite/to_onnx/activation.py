"""Fused activations (`ActivationFunctionType` of the schema)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph.errors import refuse_if
from hub_tflite.to_onnx.lazy import ir

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode

_NAMES = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
_CLAMPS: dict[str, tuple[float, float]] = {"RELU_N1_TO_1": (-1, 1), "RELU6": (0, 6)}


def activate(node: TfliteNode, value: Value, function: int) -> Value:
    """Write a fused activation behind a value."""
    name = _NAMES[function] if 0 <= function < len(_NAMES) else f"number {function}"
    refuse_if(name not in {"NONE", "RELU", "TANH", *_CLAMPS}, f"the fused activation {name} is not implemented")
    if name == "NONE":
        return value
    if name == "TANH":
        return node.emit("Tanh", value)
    return relu(node, value) if name == "RELU" else clamp(node, value, *_CLAMPS[name])


def fused(node: TfliteNode, value: Value, function: int) -> Value:
    """Write the activation that an operator's options name.

    Raises:
        Refused: Only recurrent operators have tanh: LiteRT's other kernels leave it out.
    """
    refuse_if(_NAMES[function : function + 1] == ("TANH",), "a fused TANH, which LiteRT's kernels leave out")
    return activate(node, value, function)


def relu(node: TfliteNode, value: Value) -> Value:
    """Write max(x, 0); ONNX Runtime has no Relu of int64."""
    return (
        node.emit("Max", value, node.like(value, 0)) if value.dtype == ir.DataType.INT64 else node.emit("Relu", value)
    )


def clamp(node: TfliteNode, value: Value, low: float, high: float) -> Value:
    """Write min(max(x, low), high)."""
    return node.emit("Clip", value, node.like(value, low), node.like(value, high))
