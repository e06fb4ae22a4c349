"""Float copies of quantized models, held against the float model that they were made of, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from hub_onnxgraph.graphs import raise_opset
from hub_onnxgraph.numerics import numerics_of
from hub_onnxruntime.float_copy import float_copy, needed_opset

Floats = npt.NDArray[np.float32]
MICROSOFT = "com.microsoft"
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


def _made(
    nodes: list[onnx.NodeProto],
    kinds: Mapping[str, tuple[int, Sequence[int | str]]],
    constants: Mapping[str, Any],
    opset: int = 21,
) -> onnx.ModelProto:
    infos = {name: helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in kinds.items()}
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    outputs = [info for name, info in infos.items() if name == "y"]
    graph = helper.make_graph(nodes, "g", [info for name, info in infos.items() if name != "y"], outputs, weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)], ir_version=10
    )


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


ROW: dict[str, tuple[int, Sequence[int | str]]] = {name: (TensorProto.FLOAT, [1, 4]) for name in ("x", "y")}
FOUR = RNG.uniform(-0.9, 0.9, (1, 4)).astype(np.float32)


def _holds(model: onnx.ModelProto, x: npt.NDArray[Any], step: float) -> None:
    """The copy is float, and gives what ONNX Runtime gives of the file itself, but for its rounding."""
    wanted = InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    float_copy(model)
    onnx.checker.check_model(model, full_check=True)
    found = InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    assert found.dtype == wanted.dtype
    assert np.abs(wanted).max() > 8 * step
    np.testing.assert_allclose(found.astype(float), wanted.astype(float), atol=step)


def _node(kind: str, inputs: str, output: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, [name.strip("-") for name in inputs.split()], [output], domain=domain, **attributes)


def test_integers_that_are_cast_are_the_integers() -> None:
    nodes = [
        _node("QuantizeLinear", "x s z", "q"),
        _node("Cast", "q", "c", to=TensorProto.FLOAT),
        _node("Sub", "c f", "d"),
        _node("Mul", "d s", "y"),
    ]
    constants = {"s": np.float32(0.01), "z": np.uint8(120), "f": np.float32(120)}
    _holds(_made(nodes, ROW, constants), FOUR, 0.006)
    nodes[1] = _node("Cast", "q", "c", to=TensorProto.INT32)
    constants |= {"f": np.int32(120), "s2": np.float32(1)}
    with pytest.raises(UnsupportedModel, match="INT32"):
        float_copy(_made([*nodes[:3], _node("Cast", "d", "y", to=TensorProto.FLOAT)], ROW, constants))


@pytest.mark.parametrize(("scale", "zero"), [(0.02, 120), (0.01, 100), (0.02, 0)])
def test_a_reader_reads_with_its_own_scale_and_zero_point(scale: float, zero: int) -> None:
    nodes = [_node("QuantizeLinear", "x s z", "q"), _node("DequantizeLinear", "q t u", "y")]
    constants = {"s": np.float32(0.01), "z": np.uint8(120), "t": np.float32(scale), "u": np.uint8(zero)}
    _holds(_made(nodes, ROW, constants), FOUR, 0.011)


@pytest.mark.parametrize("zero", ["", "z"])
def test_a_product_without_a_zero_point_is_one_of_the_integers(zero: str) -> None:
    nodes = [
        _node("QuantizeLinear", "x s z", "q"),
        _node("MatMulInteger", f"q w {zero}", "m"),
        _node("Cast", "m", "y", to=TensorProto.FLOAT),
    ]
    weights = RNG.integers(-9, 9, (4, 4)).astype(np.int8)
    _holds(_made(nodes, ROW, {"s": np.float32(0.01), "z": np.uint8(128), "w": weights}), FOUR, 18)


def test_a_zero_point_that_is_computed_is_not_taken_for_zero() -> None:
    nodes = [
        _node("Cast", "k", "z", to=TensorProto.INT8),
        _node("DequantizeLinear", "w s z", "r"),
        _node("MatMul", "x r", "y"),
    ]
    ends = ROW | {"k": (TensorProto.FLOAT, [])}
    with pytest.raises(UnsupportedModel, match="z, which"):
        float_copy(_made(nodes, ends, {"w": np.eye(4, dtype=np.int8), "s": np.float32(1)}))


def test_ends_are_those_of_the_type_that_is_written() -> None:
    nodes = [
        _node("QuantizeLinear", "x s", "q", output_dtype=TensorProto.INT8),
        _node("DequantizeLinear", "q s", "y"),
    ]
    _holds(_made(nodes, ROW, {"s": np.float32(0.005)}), FOUR, 0.003)


def test_scales_in_half_precision_make_weights_in_half_precision() -> None:
    nodes = [
        _node("QuantizeLinear", "x s z", "q"),
        _node("DequantizeLinear", "q s z", "d"),
        _node("DequantizeLinear", "w s", "r"),
        _node("MatMul", "d r", "y"),
    ]
    ends = {name: (TensorProto.FLOAT16, [1, 4]) for name in ("x", "y")}
    constants = {"s": np.float16(0.0625), "z": np.int8(3), "w": RNG.integers(-99, 99, (4, 4)).astype(np.int8)}
    _holds(_made(nodes, ends, constants), FOUR.astype(np.float16), 0.5)


IMAGE: dict[str, tuple[int, Sequence[int | str]]] = {
    "x": (TensorProto.FLOAT, [1, 4, 3, 3]),
    "y": (TensorProto.FLOAT, [1, 4, 3, 3]),
}
GRID = {"s": np.float32(0.01), "z": np.uint8(120), "t": np.float32(0.02), "u": np.uint8(100)}


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("QLinearAdd", "q s z q s z t u", {}),
        ("QLinearMul", "q s z q s z t u", {}),
        ("QLinearSigmoid", "q s z t u", {}),
        ("QLinearLeakyRelu", "q s z t u", {"alpha": 0.5}),
        ("QLinearSoftmax", "q s z t u", {"axis": 1, "opset": 13}),
        ("QLinearGlobalAveragePool", "q s z t u", {"channels_last": 0}),
        ("QLinearAveragePool", "q s z t u", {"kernel_shape": [2, 2]}),
        ("QLinearConcat", "t u q s z q s z", {"axis": 1}),
    ],
)
def test_operators_of_onnx_runtime_are_what_they_are_named_for(
    kind: str, inputs: str, attributes: dict[str, Any]
) -> None:
    nodes = [
        _node("QuantizeLinear", "x s z", "q"),
        _node(kind, inputs, "r", MICROSOFT, **attributes),
        _node("DequantizeLinear", "r t u", "y"),
    ]
    ends = IMAGE | {"y": (TensorProto.FLOAT, ["n", "c", "h", "w"])}
    _holds(_made(nodes, ends, GRID), RNG.uniform(-0.9, 0.9, (1, 4, 3, 3)).astype(np.float32), 0.021)


@pytest.mark.parametrize("turned", [0, 1])
def test_a_gemm_of_integers_has_its_bias_and_a_scale_for_each_column(turned: int) -> None:
    nodes = [_node("QuantizeLinear", "x s z", "q"), _node("QGemm", "q s z w c v b", "y", MICROSOFT, transB=turned)]
    weights = RNG.integers(-99, 99, (3, 4) if turned else (4, 3)).astype(np.int8)
    columns = {"c": np.array([0.01, 0.02, 0.03], np.float32), "v": np.zeros(3, np.int8)}
    constants = GRID | columns | {"w": weights, "b": np.array([900, -500, 300], np.int32)}
    _holds(_made(nodes, ROW | {"y": (TensorProto.FLOAT, [1, 3])}, constants), FOUR, 0.05)


def test_integers_from_outside_are_read_in_the_opset_of_the_file() -> None:
    nodes = [_node("QLinearConv", "x s z w s v t u", "q"), _node("DequantizeLinear", "q t u", "y")]
    ends = {"x": (TensorProto.UINT8, [1, 4, 3, 3]), "y": (TensorProto.FLOAT, [1, 4, 3, 3])}
    constants = GRID | {"w": RNG.integers(-99, 99, (4, 4, 1, 1)).astype(np.int8), "v": np.int8(0)}
    _holds(_made(nodes, ends, constants, 11), RNG.integers(0, 255, (1, 4, 3, 3)).astype(np.uint8), 0.011)


def test_integers_that_are_moved_to_an_output_stay() -> None:
    nodes = [
        _node("QuantizeLinear", "x s z", "q"),
        _node("DequantizeLinear", "q s z", "d"),
        _node("Add", "d d", "e"),
        _node("QuantizeLinear", "e s z", "p"),
        _node("Reshape", "p to", "r"),
        _node("ReduceMax", "r over", "y"),
    ]
    constants = {"s": np.float32(0.02), "z": np.int8(5), "to": np.array([2, 2]), "over": np.array([1])}
    _holds(_made(nodes, ROW | {"y": (TensorProto.INT8, [2, 1])}, constants), FOUR, 2)


def test_sixteen_bits_at_the_ends_need_the_opset_that_has_them() -> None:
    """ONNX Runtime's own QuantizeLinear has them in any; a copy has ONNX's."""
    nodes = [
        _node("QuantizeLinear", "x s z", "q", MICROSOFT),
        _node("DequantizeLinear", "q s z", "d", MICROSOFT),
        _node("Neg", "d", "e"),
        _node("QuantizeLinear", "e s z", "y", MICROSOFT),
    ]
    ends = ROW | {"y": (TensorProto.UINT16, [1, 4])}
    model = _made(nodes, ends, {"s": np.float32(0.001), "z": np.uint16(30000)}, 13)
    raised, _ = raise_opset(model, needed_opset(model))
    _holds(raised, FOUR, 1)


def _with_body() -> onnx.ModelProto:
    pair = [_node("QuantizeLinear", "x s z", "q"), _node("DequantizeLinear", "q s z", "r")]
    result = [helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 4])]
    body = helper.make_graph(pair, "then", [], result)
    same = helper.make_graph([_node("Identity", "x", "i")], "else", [], [
        helper.make_tensor_value_info("i", TensorProto.FLOAT, [1, 4])
    ])  # fmt: skip
    branch = helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=same)
    return _made([branch], ROW, GRID | {"yes": np.ones((), bool)})


def _in_blocks() -> onnx.ModelProto:
    node = _node("MatMulNBits", "x w s", "y", MICROSOFT, K=16, N=4, bits=4, block_size=16)
    ends = {"x": (TensorProto.FLOAT, [1, 16]), "y": (TensorProto.FLOAT, [1, 4])}
    constants = {"w": np.zeros((4, 1, 8), np.uint8), "s": np.ones(4, np.float32)}
    return _made([node], ends, constants)


def _of_two_scales() -> onnx.ModelProto:
    nodes = [_node("DequantizeLinear", "w s", "r", axis=0), _node("MatMul", "x r", "y")]
    constants = {"w": np.eye(4, dtype=np.int8), "s": np.array([1, 2], np.float32)}
    return _made(nodes, ROW, constants)


def _of_floats() -> onnx.ModelProto:
    return _made([_node("Neg", "x", "y")], ROW, {})


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (_with_body, "QuantizeLinear q"),
        (_in_blocks, "MatMulNBits y"),
        (_of_two_scales, r"shape \(2,\)"),
        (_of_floats, "no operator on integers"),
    ],
)
def test_what_has_no_float_copy_is_refused_by_name(build: Callable[[], onnx.ModelProto], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=named):
        float_copy(build())
