"""The ONNX importer against ONNX Runtime, operator by operator, and what it refuses."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hub_pytorch.onnx_importer import UnsupportedOperator, import_onnx, unsupported_operators

Array = npt.NDArray[Any]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch uses old parts of itself
random = np.random.default_rng(7)


def floats(*shape: int) -> Array:
    return random.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def bytes_of(*shape: int) -> Array:
    return random.integers(0, 256, shape).astype(np.uint8)


@dataclass
class Case:
    """One node: its inputs (None: absent), which of them are constants, and its attributes."""

    op: str
    inputs: list[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: tuple[int, ...] = ()
    outputs: int = 1
    opset: int = 17
    domain: str = ""

    def model(self, **extra: Any) -> onnx.ModelProto:
        names = ["" if value is None else f"in{i}" for i, value in enumerate(self.inputs)]
        outs = [f"out{i}" for i in range(self.outputs)]
        node = helper.make_node(self.op, names, outs, name="the_node", domain=self.domain, **self.attributes, **extra)
        given = {name: value for name, value in zip(names, self.inputs, strict=True) if value is not None}
        fixed = {names[i] for i in self.constants}
        graph = helper.make_graph(
            [node],
            "one_node",
            [value_info(name, value) for name, value in given.items() if name not in fixed],
            [onnx.ValueInfoProto(name=name) for name in outs],
            [numpy_helper.from_array(given[name], name) for name in sorted(fixed)],
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)],
            ir_version=9,
        )

    @property
    def feeds(self) -> dict[str, Array]:
        return {f"in{i}": v for i, v in enumerate(self.inputs) if v is not None and i not in self.constants}


def value_info(name: str, value: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def by_onnxruntime(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def by_torch(module: Any, feeds: dict[str, Array]) -> list[Array]:
    with torch.no_grad():
        result = module(*(torch.from_numpy(feeds[name]) for name in module.meta["onnx_inputs"]))
    return [tensor.numpy() for tensor in (result if isinstance(result, tuple) else (result,))]


def assert_same(got: list[Array], wanted: list[Array], tolerance: float = 1e-5) -> None:
    assert len(got) == len(wanted) > 0
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        scale = max(float(np.abs(theirs.astype(np.float64)).max(initial=0)), 1e-6)
        assert float(np.abs(mine.astype(np.float64) - theirs).max(initial=0)) <= tolerance * scale


def recurrent(op: str, gates: int, directions: int, states: int, **attributes: Any) -> Case:
    hidden, size, steps, batch = 5, 3, 6, 2
    state: list[Array | None] = [floats(directions, batch, hidden) for _ in range(states)]
    weights: list[Array | None] = [
        floats(steps, batch, size),
        floats(directions, gates * hidden, size),
        floats(directions, gates * hidden, hidden),
        floats(directions, 2 * gates * hidden),
        None,
    ]
    kind = {"hidden_size": hidden, **attributes}
    return Case(op, [*weights, *state], kind, constants=(1, 2, 3), outputs=1 + states)


IMAGE = floats(1, 4, 9, 10)
CASES = {
    "lstm": recurrent("LSTM", 4, 1, 2),
    "lstm reverse": recurrent("LSTM", 4, 1, 2, direction="reverse"),
    "lstm both": recurrent("LSTM", 4, 2, 2, direction="bidirectional"),
    "lstm bare": Case("LSTM", [floats(4, 1, 3), floats(1, 20, 3), floats(1, 20, 5)], {"hidden_size": 5}, outputs=3),
    "gru": recurrent("GRU", 3, 1, 1, linear_before_reset=1),
    "gru both": recurrent("GRU", 3, 2, 1, linear_before_reset=1, direction="bidirectional"),
    "gru reset first": recurrent("GRU", 3, 1, 1, linear_before_reset=0),
    "gru reset first, both": recurrent("GRU", 3, 2, 1, direction="bidirectional"),
    "rnn relu": recurrent("RNN", 1, 2, 1, direction="bidirectional", activations=["Relu", "Relu"]),
    "conv same lower": Case("Conv", [IMAGE, floats(6, 4, 4, 2)], {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    "conv uneven": Case(
        "Conv",
        [IMAGE, floats(6, 2, 3, 3), floats(6)],
        {"pads": [0, 2, 1, 0], "dilations": [2, 1], "group": 2},
        (1, 2),
    ),
    "conv 1d": Case("Conv", [floats(2, 3, 20), floats(4, 3, 5)], {"pads": [2, 2], "strides": [2]}),
    "transposed": Case(
        "ConvTranspose",
        [IMAGE, floats(4, 3, 3, 3), floats(3)],
        {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 1]},
    ),
    "transposed grouped": Case("ConvTranspose", [IMAGE, floats(4, 3, 2, 2)], {"strides": [2, 2], "group": 2}),
    "transposed to a shape": Case(
        "ConvTranspose", [IMAGE, floats(4, 3, 3, 3)], {"strides": [2, 2], "output_shape": [18, 20]}
    ),
    "maximum, partial windows": Case(
        "MaxPool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 0, 0, 1]}
    ),
    "maximum with indices": Case("MaxPool", [IMAGE], {"kernel_shape": [2, 3], "strides": [2, 2]}, outputs=2),
    "maximum dilated": Case("MaxPool", [IMAGE], {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [1, 1, 1, 1]}),
    "mean, partial windows": Case(
        "AveragePool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 0, 1, 0]}
    ),
    "mean with pads": Case(
        "AveragePool", [IMAGE], {"kernel_shape": [3, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    ),
    "mean same upper": Case("AveragePool", [IMAGE], {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
    "nearest doubled": Case(
        "Resize",
        [IMAGE, None, np.array([1, 1, 2, 2], np.float32)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        (2,),
    ),
    "nearest odd": Case(
        "Resize", [IMAGE, None, None, ints(1, 4, 13, 7)], {"nearest_mode": "round_prefer_ceil"}, constants=(3,)
    ),
    "linear": Case("Resize", [IMAGE, None, None, ints(1, 4, 20, 7)], {"mode": "linear"}, (3,)),
    "linear by a broken scale": Case(
        "Resize", [IMAGE, None, np.array([1, 1, 1.7, 0.6], np.float32)], {"mode": "linear"}, (2,)
    ),
    "linear corners": Case(
        "Resize",
        [IMAGE, None, None, ints(1, 4, 17, 5)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        (3,),
    ),
    "cubic": Case("Resize", [IMAGE, None, None, ints(1, 4, 15, 12)], {"mode": "cubic", "cubic_coeff_a": -0.5}, (3,)),
    "antialiased": Case(
        "Resize", [IMAGE, None, None, ints(1, 4, 4, 5)], {"mode": "linear", "antialias": 1}, (3,), opset=18
    ),
    "cropped and resized": Case(
        "Resize",
        [IMAGE, np.array([0, 0, 0.2, -0.3, 1, 1, 0.7, 0.9], np.float32), None, ints(1, 4, 6, 8)],
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 3.0},
        (1, 3),
    ),
    "batch norm": Case(
        "BatchNormalization",
        [IMAGE, floats(4), floats(4), floats(4), np.abs(floats(4))],
        {"epsilon": 0.01},
        (1, 2, 3, 4),
    ),
    "instance norm": Case("InstanceNormalization", [IMAGE, floats(4), floats(4)], {"epsilon": 0.01}),
    "layer norm": Case("LayerNormalization", [IMAGE, floats(9, 10), floats(9, 10)], {"axis": 2}),
    "lrn": Case("LRN", [IMAGE], {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 2.0}),
    "old softmax": Case("Softmax", [floats(2, 3, 4)], {"axis": 1}, opset=11),
    "softmax": Case("Softmax", [floats(2, 3, 4)], {"axis": 1}),
    "gather from the end": Case("Gather", [floats(5, 6), ints(-1, 0, -6)], {"axis": 1}),
    "gather elements": Case("GatherElements", [floats(3, 4), ints(0, -1, 2).reshape(3, 1)], {"axis": 1}),
    "gather tuples": Case("GatherND", [floats(3, 4, 2), ints(0, -1, 2, 3).reshape(2, 2)]),
    "scatter tuples": Case(
        "ScatterND", [floats(3, 4, 2), ints(0, -1, 2, 3).reshape(2, 2), floats(2, 2)], {"reduction": "add"}
    ),
    "scatter": Case("ScatterElements", [floats(3, 4), ints(0, 2).reshape(1, 2), floats(1, 2)], {"axis": 0}),
    "backward slice": Case(
        "Slice", [floats(6, 7), ints(-1, 5), ints(-100, 0), ints(0, 1), ints(-2, -3)], constants=(1, 2, 3, 4)
    ),
    "reflected": Case("Pad", [floats(3, 4), ints(1, 2, 2, 3)], {"mode": "reflect"}, (1,)),
    "edges": Case("Pad", [floats(3, 4), ints(1, 0, 2, 5)], {"mode": "edge"}, (1,)),
    "cropped": Case("Pad", [floats(5, 4), ints(-1, 2, -2, 0), np.array(3, np.float32)], constants=(1, 2)),
    "uneven split": Case("Split", [floats(7, 2)], {"num_outputs": 3}, outputs=3, opset=18),
    "best": Case("TopK", [floats(3, 8), ints(3)], {"axis": 1, "largest": 0}, (1,), outputs=2),
    "cumulated": Case("CumSum", [floats(3, 5), np.array(1)], {"exclusive": 1, "reverse": 1}, (1,)),
    "gemm": Case(
        "Gemm", [floats(4, 3), floats(5, 4), floats(3, 1)], {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1}
    ),
    "dense": Case("Gemm", [floats(3, 4), floats(5, 4), floats(5)], {"transB": 1}, (1, 2)),
    "einsum": Case("Einsum", [floats(2, 3, 4), floats(4, 5)], {"equation": "bij, jk -> bki"}),
    "whole division": Case("Div", [ints(-7, 7, 8), ints(2, -2, 3)]),
    "remainder": Case("Mod", [ints(-7, 7, 8), ints(3, -3, 5)]),
    "power of integers": Case("Pow", [ints(2, -3, 4), np.array([2.0, 3.0, 0.5], np.float32)]),
    "hard sigmoid": Case("HardSigmoid", [floats(20)], {"alpha": 0.3, "beta": 0.4}),
    "extremes": Case("ReduceLogSumExp", [floats(3, 4, 5)], {"axes": [0, -1], "keepdims": 0}),
    "last of equals": Case("ArgMax", [np.zeros((3, 4), np.float32)], {"axis": 1, "select_last_index": 1}),
    "per axis": Case(
        "DequantizeLinear",
        [random.integers(-128, 128, (3, 4)).astype(np.int8), np.abs(floats(4)), np.array([1, -2, 3, 0], np.int8)],
        {"axis": 1},
        (1, 2),
    ),
    "quantized": Case(
        "QuantizeLinear", [floats(3, 4), np.array(0.02, np.float32), np.array(7, np.int8)], constants=(1, 2)
    ),
    "dynamically quantized": Case("DynamicQuantizeLinear", [floats(3, 4)], outputs=3),
    "integer convolution": Case(
        "ConvInteger", [bytes_of(1, 3, 8, 8), bytes_of(4, 3, 3, 3), np.array(120, np.uint8)], {"pads": [1, 1, 1, 1]}
    ),
    "quantized convolution": Case(
        "QLinearConv",
        [
            bytes_of(1, 3, 8, 8),
            np.array(0.02, np.float32),
            np.array(120, np.uint8),
            bytes_of(4, 3, 3, 3),
            np.abs(floats(4)) / 50,
            np.array([100, 100, 100, 100], np.uint8),
            np.array(0.5, np.float32),
            np.array(9, np.uint8),
            np.arange(4, dtype=np.int32) * 100,
        ],
        {"strides": [2, 2]},
        constants=(3, 4, 5),
    ),
    "sum normalized": Case(
        "SkipLayerNormalization",
        [floats(2, 3, 8), floats(2, 3, 8), floats(8), floats(8), floats(8)],
        {"epsilon": 1e-5},
        domain="com.microsoft",
    ),
    "fused product": Case(
        "FusedMatMul", [floats(2, 4, 3), floats(2, 4, 5)], {"alpha": 0.5, "transA": 1}, domain="com.microsoft"
    ),
    "fast gelu": Case("FastGelu", [floats(3, 8), floats(8)], domain="com.microsoft"),
    "celu, by its definition": Case("Celu", [floats(10)], {"alpha": 0.7}),
    "window, by its definition": Case("HannWindow", [np.array(10)], constants=(0,)),
    "transform": Case("DFT", [floats(2, 12, 1)], {"axis": 1, "onesided": 1}),
    "grid": Case("GridSample", [IMAGE, np.tanh(floats(1, 5, 6, 2))], {"mode": "bilinear", "padding_mode": "border"}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_operator_agrees_with_onnxruntime(case: Case) -> None:
    model = case.model()
    assert unsupported_operators(model) == {}
    assert_same(by_torch(import_onnx(model), case.feeds), by_onnxruntime(model, case.feeds))


@pytest.mark.parametrize("name", ["lstm both", "gru reset first", "linear", "transposed", "mean, partial windows"])
def test_result_can_be_exported_and_loaded(name: str, tmp_path: Any) -> None:
    case = CASES[name]
    module = import_onnx(case.model())
    arguments = tuple(torch.from_numpy(case.feeds[name]) for name in module.meta["onnx_inputs"])
    torch.export.save(torch.export.export(module, arguments), tmp_path / "net.pt2")
    again = torch.export.load(tmp_path / "net.pt2").module()(*arguments)
    assert_same(
        [t.numpy() for t in (again if isinstance(again, tuple) else (again,))], by_torch(module, case.feeds), 1e-6
    )


LSTM = CASES["lstm"]
REFUSED = {
    "peepholes": (Case("LSTM", [*LSTM.inputs, floats(1, 15)], LSTM.attributes, (1, 2, 3), 3), "peepholes"),
    "clipped cell": (recurrent("LSTM", 4, 1, 2, clip=3.0), "clip"),
    "coupled gates": (recurrent("LSTM", 4, 1, 2, input_forget=1), "input_forget"),
    "other activations": (recurrent("LSTM", 4, 1, 2, activations=["HardSigmoid", "Tanh", "Tanh"]), "activations"),
    "gru's other activations": (recurrent("GRU", 3, 1, 1, activations=["Sigmoid", "Relu"]), "activations"),
    "short sequences": (
        Case("LSTM", [*LSTM.inputs[:4], np.array([6, 4], np.int32)], LSTM.attributes, (1, 2, 3, 4), 3),
        "sequence_lens",
    ),
    "sequence lengths from outside": (
        Case("LSTM", [*LSTM.inputs[:4], np.array([6, 6], np.int32)], LSTM.attributes, (1, 2, 3), 3),
        "import time",
    ),
    "training": (
        Case("BatchNormalization", [IMAGE, *[np.abs(floats(4)) for _ in range(4)]], {"training_mode": 1}, outputs=3),
        "training_mode",
    ),
    "unclear corners": (
        Case(
            "Resize",
            [IMAGE, None, np.array([1, 1, 0.6, 0.6], np.float32)],
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            (2,),
        ),
        "disagree",
    ),
    "crop without a region": (
        Case(
            "Resize",
            [IMAGE, None, None, ints(1, 4, 5, 5)],
            {"coordinate_transformation_mode": "tf_crop_and_resize"},
            (3,),
        ),
        "without roi",
    ),
    "unknown reduction": (
        Case("ScatterND", [floats(3, 4), ints(1).reshape(1, 1), floats(1, 4)], {"reduction": "xor"}),
        "reduction xor",
    ),
    "unknown mode": (Case("Pad", [floats(3, 4), ints(1, 0, 2, 5)], {"mode": "mirror"}, (1,)), "mode mirror"),
    "auto_pad and pads": (
        Case("Conv", [IMAGE, floats(6, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "pads": [1, 1, 1, 1]}),
        "auto_pad",
    ),
    "shape from outside": (Case("Reshape", [floats(3, 4), ints(4, 3)]), "import time"),
    "result without a shape": (Case("NonZero", [floats(3, 4)]), "import time"),
    "strings": (Case("StringNormalizer", [np.array(["a"])]), "element type 8"),
    "four dimensions": (Case("Conv", [floats(1, 1, 3, 3, 3, 3), floats(1, 1, 1, 1, 1, 1)]), "spatial"),
}


@pytest.mark.parametrize(("case", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_form_that_is_not_implemented_is_refused(case: Case, reason: str) -> None:
    with pytest.raises(UnsupportedOperator, match=reason) as caught:
        import_onnx(case.model())
    assert caught.value.code == "unsupported-operator"
    assert caught.value.op in {case.op, "Input"}


@pytest.mark.parametrize("name", ["lstm", "conv uneven", "linear", "gemm", "best", "softmax", "quantized", "grid"])
def test_attribute_nobody_knows_is_refused(name: str) -> None:
    model = CASES[name].model(made_up=1)
    assert unsupported_operators(model) == {CASES[name].op: "attribute made_up is not implemented"}
    with pytest.raises(UnsupportedOperator, match="made_up") as caught:
        import_onnx(model)
    assert (caught.value.node, caught.value.version) != ("", 0)


def test_operator_of_another_domain_is_refused() -> None:
    model = CASES["softmax"].model()
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 3))
    assert unsupported_operators(model) == {"com.example.Softmax": "the operator is not implemented"}
    with pytest.raises(UnsupportedOperator) as caught:
        import_onnx(model)
    assert (caught.value.op, caught.value.version, caught.value.node) == ("com.example.Softmax", 3, "the_node")
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes: errors cross process borders
    assert (str(again), again.reason) == (str(caught.value), caught.value.reason)


def test_version_before_those_known_is_refused() -> None:
    model = CASES["softmax"].model()
    model.graph.node[0].op_type = "Upsample"
    model.opset_import[0].version = 7
    assert "version 7 is not implemented" in unsupported_operators(model)["Upsample"]


def test_dynamic_dimensions_are_told() -> None:
    model = parsed("""
        told (float[batch, "?", 3] x, float[batch, 3] y) => (float[batch, n, 3] z)
        <int64[1] one = {1}> { u = Unsqueeze(y, one)  z = Add(x, u) }""")
    module = import_onnx(model)
    assert module.meta["onnx_dynamic"] == {"x": {0: "batch", 1: "x_1"}, "y": {0: "batch"}}
    assert module.meta["onnx_sizes"].keys() == {"batch", "x_1"}
    with pytest.raises(AssertionError, match="batch differs"):
        module(torch.ones(2, 4, 3), torch.ones(3, 3))


def test_dimension_that_cannot_be_dynamic_is_refused_by_name() -> None:
    model = parsed("""
        fixed (float[batch, width] x, float[10, 4] w) => (float[batch, 4] y) { y = MatMul(x, w) }""")
    with pytest.raises(UnsupportedOperator, match=r"--shape x=") as caught:
        import_onnx(model)
    assert caught.value.op == "MatMul"


def test_data_left_outside_is_refused() -> None:
    model = CASES["dense"].model()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(UnsupportedOperator, match="external"):
        import_onnx(model)


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')


def test_shape_arithmetic_is_folded_away() -> None:
    model = parsed("""
        folded (float[2, 3, 4, 5] x) => (float[2, 60] y)
        <int64 zero = {0}, int64 one = {1}, int64[1] rest = {-1}> {
            shape = Shape(x)
            batch = Gather(shape, zero)
            axes = Constant<value_ints = [0]>()
            first = Unsqueeze(batch, axes)
            target = Concat<axis = 0>(first, rest)
            big = Greater(batch, one)
            z = If(big) <then_branch = yes () => (float[2, 60] a) { a = Reshape(x, target) },
                         else_branch = no () => (float[2, 60] b) { b = Flatten(x) }>
            y = Relu(z)
        }""")
    module = import_onnx(model)
    assert [node.op for node in module.graph.nodes] == ["placeholder", "call_function", "call_function", "output"]
    assert list(module.state_dict()) == []


def test_loop_is_unrolled() -> None:
    model = parsed("""
        looped (float[3] x) => (float[3] last, float[4, 3] steps)
        <int64 count = {4}, bool go = {1}> {
            last, steps = Loop(count, go, x) <body =
                body (int64 i, bool c, float[3] s) => (bool d, float[3] t, float[3] o) {
                d = Identity(c)
                f = Cast<to = 1>(i)
                t = Add(s, f)
                o = Mul(t, t)
            }>
        }""")
    feeds = {"x": floats(3)}
    assert_same(by_torch(import_onnx(model), feeds), by_onnxruntime(model, feeds))


def test_local_function_is_inlined() -> None:
    text = """<ir_version: 9, opset_import: ["": 17, "mine": 1]>
        agraph (float[3] x) => (float[3] y) { y = mine.Twice<factor = 3.0>(x) }
        <domain: "mine", opset_import: ["": 17]> Twice <factor> (a) => (b) {
            f = Constant<value_float: float = @factor>()
            b = Mul(a, f)
        }"""
    model = onnx.parser.parse_model(text)
    feeds = {"x": floats(3)}
    assert unsupported_operators(model) == {}
    assert_same(by_torch(import_onnx(model), feeds), by_onnxruntime(model, feeds))


def test_names_order_and_types_of_the_border_are_kept() -> None:
    model = parsed("""
        border (int32[2] b, float[2] a, int64[2] c) => (int64[2] two, float[2] one, int32[2] b_again)
        { one = Neg(a)  two = Add(c, c)  b_again = Identity(b) }""")
    model.graph.input[1].name = model.graph.node[0].input[0] = "a.1:0"
    module = import_onnx(model)
    assert module.meta["onnx_inputs"] == ["b", "a.1:0", "c"]
    assert module.meta["onnx_outputs"] == ["two", "one", "b_again"]
    assert [node.target for node in module.graph.nodes if node.op == "placeholder"] == ["b", "a_1_0", "c"]
    results = module(torch.tensor([1, 2], dtype=torch.int32), torch.ones(2), torch.tensor([5, 2**40]))
    assert [result.dtype for result in results] == [torch.int64, torch.float32, torch.int32]
    assert results[0].tolist() == [10, 2**41]


def test_parameters_carry_the_initializers_names() -> None:
    model = CASES["dense"].model()
    for tensor, name in zip(model.graph.initializer, ("encoder.0.weight", "encoder.0.type"), strict=True):
        node = model.graph.node[0]
        node.input[list(node.input).index(tensor.name)] = tensor.name = name
    module = import_onnx(model)
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
    assert shapes == {"encoder.0.weight": (5, 4), "encoder_0_type": (5,)}  # a module has a method called type


def test_constants_are_contiguous_however_they_were_computed() -> None:
    model = parsed("""
        transposed (float[2, 3] x) => (float[2, 4] y)
        <float[4, 3] w = {1,2,3,4,5,6,7,8,9,10,11,12}> { t = Transpose(w)  y = MatMul(x, t) }""")
    module = import_onnx(model)
    assert [tensor.is_contiguous() for tensor in module.buffers()] == [True]
    feeds = {"x": floats(2, 3)}
    assert_same(by_torch(module, feeds), by_onnxruntime(model, feeds))


def test_checking_needs_no_torch() -> None:
    script = (
        "import sys, onnx; from hub_pytorch.onnx_importer import unsupported_operators as u; "
        'm = onnx.parser.parse_model(\'<ir_version: 9, opset_import: ["": 17]> g (float[2] x) => (float[2] y) '
        "{ y = Relu(x) }'); assert u(m) == {}; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
