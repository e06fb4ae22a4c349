"""Products of float activations with int8 weights, as LiteRT's hybrid kernels compute them: in integers.

The activation is rounded to 256 steps between its extremes at run time (DynamicQuantizeLinear), multiplied in integers,
and scaled back. The kernels of LiteRT take the extremes of each row, ONNX those of the whole tensor: for one row, and
for one image, that is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hub_tflite.to_onnx.builder import array_of, described, operand, stored_array
from hub_tflite.to_onnx.lazy import ir, np
from hub_tflite.to_onnx.quantized import DEQUANTIZE, is_quantized, stored_move
from hub_tflitefile.interface import quant_params
from hub_tflitefile.schema import constant, numbers, type_name

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.builder import Attribute, OnnxBuilder
    from hub_tflite.to_onnx.scope import SubgraphScope
    from hub_tflitefile.tables import OperatorT

KERNELS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"})
"""Operators of LiteRT that have such a kernel and an integer form in ONNX."""
_FORMS = {"Conv": "ConvInteger", "Gemm": "MatMulInteger", "MatMul": "MatMulInteger"}


def is_hybrid(scope: SubgraphScope, name: str, operator: OperatorT) -> bool:
    """Whether an operator multiplies a float activation with stored int8 weights."""
    places = [index for index in numbers(operator.inputs)[:2] if index >= 0]
    if name not in KERNELS or len(places) < 2:  # noqa: PLR2004 - an activation and a weight
        return False
    x, w = (scope.graph.tensors[index] for index in places)
    stored = type_name(w) in {"INT8", "UINT8"} and constant(scope.file.model, w) is not None
    return stored and quant_params(w) is not None and not is_quantized(x)


def product(
    builder: OnnxBuilder, op: str, inputs: tuple[Value | None, ...], attributes: Mapping[str, Attribute]
) -> Value | None:
    """Write a product in integers; None where it is none, or its weights are not stored integers."""
    x, weight, bias = (*inputs, None, None, None)[:3]
    made = None if weight is None or op not in _FORMS else weight.producer()
    if x is None or made is None or made.op_type != DEQUANTIZE:
        return None
    stored, scale = operand(made), stored_array(operand(made, 1), "a scale")
    integers = array_of(stored)
    point = array_of(made.inputs[2]) if len(made.inputs) > 2 else None  # noqa: PLR2004 - a zero point
    if integers is None or (point is not None and np.any(point)):
        return None
    if attributes.get("transB"):
        stored = stored_move(builder, stored, ("Transpose", (1, 0)), integers.T)
    ones = [1] * (integers.ndim - 2) if op == "Conv" else []
    xq, xs, xz = _rounded(builder, x)
    total = builder.emit(_FORMS[op], [xq, stored, xz], attributes if op == "Conv" else {})[0]
    described(total, ir.DataType.INT32, None)
    real = builder.emit("Cast", [total], {"to": int(ir.DataType.FLOAT)})[0]
    # A scale and a bias per result channel, in the shape that fits the result.
    per_channel = builder.constant(scale.reshape(-1, *ones) if ones and scale.ndim else scale, "scale")
    result = builder.emit("Mul", [real, builder.emit("Mul", [xs, per_channel])[0]])[0]
    if bias is None:
        return result
    if op == "Conv":
        array, shape = array_of(bias), [-1, *ones]
        bias = (
            builder.emit("Reshape", [bias, builder.constant(np.asarray(shape, np.int64))])[0]
            if array is None
            else builder.constant(array.reshape(shape), str(bias.name))
        )
    return builder.emit("Add", [result, bias])[0]


def _rounded(builder: OnnxBuilder, x: Value) -> tuple[Value, Value, Value]:
    known = [("DynamicQuantizeLinear", id(x), place) for place in range(3)]
    if known[0] not in builder.moved:
        made = builder.emit("DynamicQuantizeLinear", [x], outputs=3)
        described(made[0], ir.DataType.UINT8, x.shape)
        described(made[1], ir.DataType.FLOAT, ())
        described(made[2], ir.DataType.UINT8, ())
        builder.moved.update(zip(known, made, strict=True))
    first, second, third = (builder.moved[key] for key in known)
    return first, second, third
