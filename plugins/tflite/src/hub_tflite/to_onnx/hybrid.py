"""Products of float activations with int8 weights, as LiteRT's hybrid kernels compute them: in integers.

The activation is rounded to 256 steps between its extremes at run time (DynamicQuantizeLinear), multiplied in integers,
and scaled back. The kernels of LiteRT take the extremes of each row, ONNX those of the whole tensor: for one row, and
for one image, that is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub_tflite.describe import quant_params
from hub_tflite.schema import constant, numbers, type_name
from hub_tflite.to_onnx.builder import array_of, described
from hub_tflite.to_onnx.lazy import ir, np
from hub_tflite.to_onnx.quantized import DEQUANTIZE, is_quantized

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.builder import Builder
    from hub_tflite.to_onnx.importer import Scope

KERNELS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"})
"""Operators of LiteRT that have such a kernel and an integer form in ONNX."""
_FORMS = {"Conv": "ConvInteger", "Gemm": "MatMulInteger", "MatMul": "MatMulInteger"}


def is_hybrid(scope: Scope, name: str, operator: Any) -> bool:
    """Whether an operator multiplies a float activation with stored int8 weights."""
    places = [index for index in numbers(operator.inputs)[:2] if index >= 0]
    if name not in KERNELS or len(places) < 2:  # noqa: PLR2004 - an activation and a weight
        return False
    x, w = (scope.graph.tensors[index] for index in places)
    stored = type_name(w) in {"INT8", "UINT8"} and constant(scope.model, w) is not None and quant_params(w) is not None
    return stored and not is_quantized(x)


def product(builder: Builder, op: str, inputs: tuple[Value | None, ...], attributes: dict[str, Any]) -> Value | None:
    """Write a product in integers; None where it is none, or its weights are not stored integers."""
    weight = inputs[1].producer() if op in _FORMS and inputs[1] is not None else None
    x = inputs[0]
    if x is None or weight is None or weight.op_type != DEQUANTIZE:
        return None
    integers, scale = array_of(weight.inputs[0]), array_of(weight.inputs[1])
    point = array_of(weight.inputs[2]) if len(weight.inputs) > 2 else None  # noqa: PLR2004 - a zero point
    if integers is None or (point is not None and np.any(point)):
        return None
    turned = bool(attributes.get("transB"))
    matrix = np.ascontiguousarray(integers.T if turned else integers)
    w = _stored(builder, weight.inputs[0], matrix, turned=turned)
    attributes = {} if op != "Conv" else attributes
    total = _in_integers(builder, _FORMS[op], (x, w), attributes, _aligned(op, scale, integers.ndim))
    return total if len(inputs) < 3 or inputs[2] is None else _biased(builder, op, total, inputs[2], integers.ndim)  # noqa: PLR2004


def _stored(builder: Builder, integers: Value, matrix: Any, *, turned: bool) -> Value:
    known = (id(integers), ("Transpose", turned))
    if known not in builder.shared.moved:
        builder.shared.moved[known] = builder.constant(matrix, str(integers.name)) if turned else integers
    return builder.shared.moved[known]


def _aligned(op: str, scale: Any, rank: int) -> Any:
    """A scale per result channel in the shape that multiplies the result."""
    return scale.reshape(-1, *[1] * (rank - 2)) if op == "Conv" and scale.ndim else scale


def _in_integers(
    builder: Builder, form: str, pair: tuple[Value, Value], attributes: dict[str, Any], scale: Any
) -> Value:
    xq, xs, xz = _rounded(builder, pair[0])
    total = builder.emit(form, [xq, pair[1], xz], **attributes)[0]
    described(total, ir.DataType.INT32, None)
    real = builder.emit("Cast", [total], to=int(ir.DataType.FLOAT))[0]
    step = builder.emit("Mul", [xs, builder.constant(scale, "scale")])[0]
    return builder.emit("Mul", [real, step])[0]


def _rounded(builder: Builder, x: Value) -> tuple[Value, Value, Value]:
    known = [("DynamicQuantizeLinear", id(x), place) for place in range(3)]
    if known[0] not in builder.moved:
        made = builder.emit("DynamicQuantizeLinear", [x], 3)
        described(made[0], ir.DataType.UINT8, x.shape)
        described(made[1], ir.DataType.FLOAT, ())
        described(made[2], ir.DataType.UINT8, ())
        builder.moved.update(zip(known, made, strict=True))
    first, second, third = (builder.moved[key] for key in known)
    return first, second, third


def _biased(builder: Builder, op: str, total: Value, bias: Value, rank: int) -> Value:
    if op == "Conv":
        shape = builder.constant(np.asarray([-1, *[1] * (rank - 2)], np.int64))
        array = array_of(bias)
        bias = (
            builder.emit("Reshape", [bias, shape])[0]
            if array is None
            else builder.constant(array.reshape(-1, *[1] * (rank - 2)), str(bias.name))
        )
    return builder.emit("Add", [total, bias])[0]
