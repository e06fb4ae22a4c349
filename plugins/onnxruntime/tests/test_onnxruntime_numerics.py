"""What a file computes in, read from hand-built files: one property each, and a sibling that differs in it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub.spec import Numerics
from hub_onnxgraph.numerics import find_numerics
from hub_onnxruntime.describe import summarize
from hub_onnxruntime.session import OrtSession
from plugins.onnxruntime.tests import onnx_graphs as graphs

TYPES = {
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int4": TensorProto.INT4,
    "float8": TensorProto.FLOAT8E4M3FN,
}


class Net:
    """A few nodes on one input [n, 4]; `made` is the tensor to go on from."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.made = "x"

    def name(self, word: str) -> str:
        return f"{word}{len(self.nodes)}_{len(self.tensors)}"

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"node_{output}", **attributes))
        return output

    def store(self, array: Any, kind: int) -> str:
        name = self.name("stored")
        array = np.asarray(array)
        self.tensors.append(helper.make_tensor(name, kind, array.shape, array.reshape(-1)))
        return name

    def scale(self) -> str:
        return self.store(np.float32(0.05), TensorProto.FLOAT)

    def quantize(self, kind: str = "int8") -> None:
        """QuantizeLinear and DequantizeLinear on the tensor made last."""
        zero = self.store(0, TYPES[kind])
        scale = self.scale()
        quantized = self.add("QuantizeLinear", self.made, scale, zero)
        self.made = self.add("DequantizeLinear", quantized, scale, zero)

    def weight(self, kind: str = "") -> str:
        """A float weight [4, 4], or one behind a DequantizeLinear."""
        if not kind:
            return self.store(np.eye(4, dtype=np.float32), TensorProto.FLOAT)
        stored, zero = self.store(np.eye(4) * 3, TYPES[kind]), self.store(0, TYPES[kind])
        return self.add("DequantizeLinear", stored, self.scale(), zero)

    def matmul(self, weight: str) -> None:
        self.made = self.add("MatMul", self.made, weight)

    def model(self, opset: int = 21) -> Any:
        self.nodes.append(helper.make_node("Identity", [self.made], ["y"]))
        inputs, outputs = [graphs.value("x", ["n", 4])], [graphs.value("y", ["n", 4])]
        graph = helper.make_graph(self.nodes, "graph", inputs, outputs, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def static(activation: str = "int8", weight: str = "int8", *, layers: int = 1, floats: int = 0) -> Any:
    net = Net()
    for _ in range(layers):
        net.quantize(activation)
        net.matmul(net.weight(weight))
    for _ in range(floats):
        net.made = net.add("Relu", net.made)
        net.matmul(net.weight())
    return net.model()


@pytest.mark.parametrize(
    ("operands", "found"), [(2, Numerics.INT8_MIXED), (1, Numerics.INT8)], ids=["a product", "a transposition"]
)
def test_an_einsum_in_float_is_seen_where_it_multiplies(operands: int, found: Numerics) -> None:
    net = Net()
    net.quantize()
    net.matmul(net.weight("int8"))
    given = (net.made, net.weight())[:operands]
    net.made = net.add("Einsum", *given, equation="ij,jk->ik" if operands > 1 else "ij->ij")
    assert find_numerics(net.model()).numerics is found


def test_weights_that_are_made_narrow_are_computed_with_as_such() -> None:
    """What a preparation folds into float16 weights was float16 before."""
    net = Net()
    weight = net.add("Cast", net.weight(), to=TensorProto.FLOAT16)
    net.made = net.add("MatMul", net.add("Cast", net.made, to=TensorProto.FLOAT16), weight)
    net.made = net.add("Cast", net.made, to=TensorProto.FLOAT)
    assert find_numerics(onnx.shape_inference.infer_shapes(net.model())).numerics is Numerics.FP16


def weights_only(kind: str) -> Any:
    net = Net()
    net.matmul(net.weight(kind))
    return net.model()


def moved() -> Any:
    """Quantized operands that reach the operator through operators that only move values, as from an NHWC source."""
    net = Net()
    net.quantize()
    shape = net.store(np.array([-1, 4]), TensorProto.INT64)
    net.made = net.add("Reshape", net.add("Transpose", net.made, perm=[0, 1]), shape)
    net.matmul(net.add("Transpose", net.weight("int8"), perm=[1, 0]))
    return net.model(opset=20)  # ONNX Runtime 1.32 opens no int8 DequantizeLinear before a Transpose from opset 21 on


def dynamic_integer() -> Any:
    net = Net()
    net.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]))
    weight, zero = net.store(np.eye(4) * 3, TensorProto.INT8), net.store(0, TensorProto.INT8)
    net.made = net.add("Mul", net.add("Cast", net.add("MatMulInteger", "q", weight, "z", zero), to=1), "s")
    return net.model()


def dynamic_qdq() -> Any:
    net = Net()
    net.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]))
    net.made = net.add("DequantizeLinear", "q", "s", "z")
    net.matmul(net.weight("int8"))
    return net.model()


def static_integer() -> Any:
    net = Net()
    zero, scale = net.store(0, TensorProto.UINT8), net.scale()
    quantized = net.add("QuantizeLinear", "x", scale, zero)
    weight = net.store(np.eye(4) * 3, TensorProto.INT8)
    net.made = net.add("Mul", net.add("Cast", net.add("MatMulInteger", quantized, weight), to=1), scale)
    return net.model()


def behind_a_product() -> Any:
    """Integers that an integer product gives, turned, go into the next one, as ONNX Runtime fuses attention."""
    net = Net()
    zero, scale = net.store(0, TensorProto.UINT8), net.scale()
    weight, flat = net.store(np.eye(4) * 3, TensorProto.INT8), net.store(0, TensorProto.INT8)
    quantized = net.add("QuantizeLinear", "x", scale, zero)
    product = net.add("QLinearMatMul", quantized, scale, zero, weight, scale, flat, scale, zero)
    turned = net.add("Transpose", product, perm=[0, 1])
    net.made = net.add("Mul", net.add("Cast", net.add("MatMulInteger", turned, weight), to=1), scale)
    return net.model()


def dynamic_moved() -> Any:
    net = Net()
    net.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]))
    net.made = net.add("DequantizeLinear", net.add("Transpose", "q", perm=[0, 1]), "s", "z")
    net.matmul(net.weight("int8"))
    return net.model()


def activations_only(*, multiplies: bool) -> Any:
    net = Net()
    net.quantize()
    net.made = net.add("Relu", net.made)
    if multiplies:
        net.matmul(net.weight())
    return net.model()


def cast_half() -> Any:
    net = Net()
    half = net.store(np.eye(4, dtype=np.float16).view(np.uint16), TensorProto.UINT16)
    net.tensors[-1].CopyFrom(numpy_helper.from_array(np.eye(4, dtype=np.float16), half))
    net.matmul(net.add("Cast", half, to=TensorProto.FLOAT))
    return net.model()


def table(kind: str) -> Any:
    """Rows of a quantized table, added to the input."""
    net = Net()
    rows = net.add("Gather", net.weight(kind), net.store(0, TensorProto.INT64), axis=0)
    net.made = net.add("Add", "x", rows)
    return net.model()


def in_branch() -> Any:
    """The quantized weight is used inside an `If` of the graph that stores it."""
    net = Net()
    weight = net.weight("int8")
    branches = [
        helper.make_graph([helper.make_node("MatMul", ["x", weight], [f"{word}_y"], name=word)], word, [], [value])
        for word in ("then", "else")
        for value in [helper.make_empty_tensor_value_info(f"{word}_y")]
    ]
    condition = net.store(np.array([True]), TensorProto.BOOL)
    net.made = net.add("If", condition, then_branch=branches[0], else_branch=branches[1])
    return net.model()


CASES: dict[str, tuple[Any, Numerics]] = {
    "float": (lambda: static(layers=0, floats=2), Numerics.FP32),
    "int8": (lambda: static(layers=2), Numerics.INT8),
    "uint8": (lambda: static("uint8", layers=2), Numerics.INT8),
    "one float layer": (lambda: static(layers=2, floats=1), Numerics.INT8_MIXED),
    "float weight": (lambda: activations_only(multiplies=True), Numerics.INT8_MIXED),
    "nothing multiplies": (lambda: activations_only(multiplies=False), Numerics.INT8),
    "moved operands": (moved, Numerics.INT8),
    "int16 activations": (lambda: static("int16", "int8"), Numerics.INT16X8),
    "int8 weights": (lambda: weights_only("int8"), Numerics.INT8_WEIGHTS),
    "int4 weights": (lambda: weights_only("int4"), Numerics.INT4_WEIGHTS),
    "fp8 weights": (lambda: weights_only("float8"), Numerics.FP8),
    "fp8": (lambda: static("float8", "float8"), Numerics.FP8),
    "dynamic, integer operators": (dynamic_integer, Numerics.INT8_DYNAMIC),
    "dynamic, QDQ": (dynamic_qdq, Numerics.INT8_DYNAMIC),
    "dynamic, moved": (dynamic_moved, Numerics.INT8_DYNAMIC),
    "static, integer operators": (static_integer, Numerics.INT8),
    "static, behind a product": (behind_a_product, Numerics.INT8),
    "fp16 weights behind a cast": (cast_half, Numerics.FP16),
    "int8 table": (lambda: table("int8"), Numerics.INT8_WEIGHTS),
    "in a branch": (in_branch, Numerics.INT8_WEIGHTS),
}


@pytest.mark.parametrize("case", CASES)
def test_numerics_of_hand_built_files(case: str, tmp_path: Path) -> None:
    make, wanted = CASES[case]
    proto = make()
    onnx.checker.check_model(proto, full_check=True)
    path = graphs.saved(proto, tmp_path / "m.onnx")
    assert summarize(path).state.numerics is wanted
    OrtSession(path).run({"x": np.ones((2, 4), np.float32)})  # the hand-built file is a model that runs


def test_the_layers_that_stay_in_float_are_named(tmp_path: Path) -> None:
    summary = summarize(graphs.saved(static(layers=1, floats=1), tmp_path / "m.onnx"))
    finding = next(item for item in summary.findings if item.code == "left-in-float")
    left = [layer.name for layer in summary.layers if layer.operator == "MatMul" and layer.precision == "fp32"]
    assert finding.text == f"1 multiplying operators stay in float: {left[0]}"
    words = [layer.precision for layer in summary.layers if layer.operator == "MatMul"]
    assert words == ["int8", "fp32"]


def half(kind: type[np.floating[Any]]) -> Any:
    proto = graphs.dense()
    weights = numpy_helper.to_array(proto.graph.initializer[0]).astype(kind)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    return proto


def test_a_half_model_and_a_double_one() -> None:
    assert find_numerics(half(np.float16)).numerics is Numerics.FP16
    assert find_numerics(half(np.float64)).numerics is Numerics.FP32


def test_what_onnx_runtimes_own_quantizer_writes(tmp_path: Path) -> None:
    from onnxruntime import quantization

    source = graphs.saved(graphs.dense(["n", 4]), tmp_path / "m.onnx")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped here
        def __init__(self) -> None:
            self.left = [{"x": np.ones((1, 4), np.float32)}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    quantization.quantize_dynamic(source, tmp_path / "dynamic.onnx")
    quantization.quantize_static(source, tmp_path / "static.onnx", Reader())
    assert summarize(tmp_path / "dynamic.onnx").state.numerics is Numerics.INT8_DYNAMIC
    assert summarize(tmp_path / "static.onnx").state.numerics is Numerics.INT8
