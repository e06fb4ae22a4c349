"""Float copies of quantized models, held against the float model that they were made of, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from hub.spec import Numerics, UnsupportedModel
from hub_onnxgraph.numerics import numerics_of
from hub_onnxruntime.float_copy import float_copy

Floats = npt.NDArray[np.float32]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((16, 3, 8, 8)).astype(np.float32)


def stored(name: str, *shape: int) -> onnx.TensorProto:
    fan = int(np.prod(shape[1:])) or 1
    return numpy_helper.from_array((RNG.standard_normal(shape) / np.sqrt(fan)).astype(np.float32), name)


def network() -> onnx.ModelProto:
    """A convolution, a ReLU that quantizers take out, a pool, a sum, a dense layer and an LSTM."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], kernel_shape=[1, 1]),
        helper.make_node("Add", ["p1", "c2"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["rows"]),
        helper.make_node("LSTM", ["rows", "w", "r", "b"], ["", "h"], hidden_size=6, direction="bidirectional"),
        helper.make_node("Reshape", ["h", "flat"], ["last"]),
        helper.make_node("MatMul", ["last", "w3"], ["y"]),
    ]
    weights = [
        stored("w1", 4, 3, 3, 3), stored("b1", 4), stored("w2", 4, 4, 1, 1), stored("b2", 4), stored("w", 2, 24, 4),
        stored("r", 2, 24, 6), stored("b", 2, 48), stored("w3", 12, 5),
        numpy_helper.from_array(np.array([16, 1, 4]), "shape"), numpy_helper.from_array(np.array([1, 12]), "flat"),
    ]  # fmt: skip
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 8, 8]), ("y", [1, 5]))
    ]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


class Samples(CalibrationDataReader):  # type: ignore[misc] # untyped
    """The samples, one by one."""

    def __init__(self) -> None:
        self.left = iter(X)

    def get_next(self) -> dict[str, Floats] | None:
        found = next(self.left, None)
        return None if found is None else {"x": found[None]}


def _qdq(source: Path, target: Path) -> None:
    quantize_static(source, target, Samples(), per_channel=True, activation_type=QuantType.QUInt8)


def _operators(source: Path, target: Path) -> None:
    quantize_static(
        source,
        target,
        Samples(),
        quant_format=QuantFormat.QOperator,
        op_types_to_quantize=["Conv", "MatMul", "MaxPool"],
    )


def _dynamic(source: Path, target: Path) -> None:
    quantize_dynamic(source, target, op_types_to_quantize=["Conv", "MatMul", "LSTM"])


def results(model: onnx.ModelProto, inputs: Floats = X) -> Floats:
    session = InferenceSession(model.SerializeToString())
    return np.concatenate([session.run(None, {"x": x[None]})[0] for x in inputs])


def sqnr(wanted: Floats, found: Floats) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum()))


@pytest.mark.parametrize(
    ("quantize", "operators"),
    [
        (_qdq, {"QuantizeLinear", "DequantizeLinear"}),
        (_operators, {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"}),
        (_dynamic, {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM"}),
    ],
)
def test_a_copy_is_float_and_nearer_to_what_was_quantized(
    quantize: Callable[[Path, Path], None], operators: set[str], tmp_path: Path
) -> None:
    """Its weights are rounded, its activations are not: it is as near to the float model as rounded weights alone."""
    source = network()
    onnx.save(source, tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", tmp_path / "int8.onnx")
    quantized = onnx.load(tmp_path / "int8.onnx")
    wanted, narrow = results(source), results(quantized)
    done = float_copy(quantized)
    assert set(done) >= operators
    onnx.checker.check_model(quantized, full_check=True)
    assert numerics_of(onnx.shape_inference.infer_shapes(quantized)) is Numerics.FP32
    assert not {node.op_type for node in quantized.graph.node} & operators
    found = results(quantized)
    assert sqnr(narrow, found) > 25
    assert sqnr(wanted, found) > max(30, sqnr(wanted, narrow) - 1)


def _made(nodes: list[onnx.NodeProto], kinds: dict[str, tuple[int, list[int]]], constants: dict[str, Any]) -> Any:
    infos = {name: helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in kinds.items()}
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    outputs = [info for name, info in infos.items() if name == "y"]
    graph = helper.make_graph(nodes, "g", [info for name, info in infos.items() if name != "y"], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_weights_alone_are_exactly_what_their_integers_stand_for() -> None:
    """Scales in blocks of two rows, with zero points."""
    levels, zero = RNG.integers(-8, 8, (4, 3)).astype(np.int8), np.array([[1, 0, -2], [0, 3, 0]], np.int8)
    scale = np.array([[0.5, 1, 2], [0.25, 1, 4]], np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0, block_size=2),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    ends = {"x": (TensorProto.FLOAT, [1, 4]), "y": (TensorProto.FLOAT, [1, 3])}
    model = _made(nodes, ends, {"q": levels, "s": scale, "z": zero})
    float_copy(model)
    x = RNG.standard_normal((1, 4)).astype(np.float32)
    real = (levels - np.repeat(zero, 2, 0)) * np.repeat(scale, 2, 0)
    np.testing.assert_allclose(InferenceSession(model.SerializeToString()).run(None, {"x": x})[0], x @ real, rtol=1e-6)


def test_what_integers_cannot_say_is_cut_off_as_before() -> None:
    """A ReLU is in the zero point: without the bounds of its integers a copy would give negative numbers."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ends = {name: (TensorProto.FLOAT, [1, 4]) for name in ("x", "y")}
    model = _made(nodes, ends, {"s": np.float32(0.5), "z": np.uint8(0)})
    float_copy(model)
    x = np.array([[-3, 0.3, 100, 200]], np.float32)
    found = InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, np.array([[0, 0.3, 100, 127.5]], np.float32))


def test_integers_at_the_ends_stay() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "t", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "t", "z"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["y"]),
    ]
    ends = {"x": (TensorProto.INT8, [1, 2]), "y": (TensorProto.INT8, [1, 2])}
    constants = {"s": np.float32(0.5), "t": np.float32(1), "z": np.int8(3), "w": np.eye(2, dtype=np.float32) * 2}
    model = _made(nodes, ends, constants)
    float_copy(model)
    assert numerics_of(onnx.shape_inference.infer_shapes(model)) is Numerics.FP32
    found = InferenceSession(model.SerializeToString()).run(None, {"x": np.array([[4, -7]], np.int8)})[0]
    np.testing.assert_array_equal(found, np.array([[5, -17]], np.int8))  # 0.5 and -5, doubled, in steps of 0.5 from 3


def test_integers_that_are_computed_with_are_refused() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("BitwiseAnd", ["q", "mask"], ["b"]),
        helper.make_node("DequantizeLinear", ["b", "s", "z"], ["y"]),
    ]
    ends = {name: (TensorProto.FLOAT, [1, 4]) for name in ("x", "y")}
    model = _made(nodes, ends, {"s": np.float32(0.5), "z": np.uint8(0), "mask": np.full((1, 4), 254, np.uint8)})
    with pytest.raises(UnsupportedModel, match="BitwiseAnd"):
        float_copy(model)
