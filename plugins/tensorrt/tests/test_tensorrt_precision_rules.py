"""TensorRT's rules: each is broken once in a model that is right otherwise, and found with its node and values."""

from __future__ import annotations

import re
from collections.abc import Callable

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub_tensorrt.precision.rules import check_rules, float_products

Array = npt.NDArray[np.generic]
RANDOM = np.random.default_rng(0)


def node(operator: str, inputs: list[str], output: str, axis: int | None = None, block: int = 0) -> onnx.NodeProto:
    made = helper.make_node(operator, inputs, [output], name=f"{output}.{operator}")
    if axis is not None:
        made.attribute.append(helper.make_attribute("axis", axis))
    if block:
        made.attribute.append(helper.make_attribute("block_size", block))
    return made


def model(
    nodes: list[onnx.NodeProto], stored: dict[str, Array], shape: list[int | str], opset: int = 21
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def scalar(value: float, kind: npt.DTypeLike = np.float32) -> Array:
    return np.array(value, kind)


def conv() -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """A Conv with a pair on its activation, int8 weights per channel and a float bias."""
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], "xq"),
        node("DequantizeLinear", ["xq", "xs", "xz"], "xd"),
        node("DequantizeLinear", ["w", "ws", "wz"], "wd", axis=0),
        node("Conv", ["xd", "wd", "b"], "y"),
    ]
    stored = {
        "xs": scalar(0.1),
        "xz": scalar(0, np.int8),
        "w": RANDOM.integers(-127, 128, (4, 3, 1, 1)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
        "b": np.zeros(4, np.float32),
    }
    return nodes, stored


def matmul(shape: tuple[int, int], axis: int, block: int, scales: tuple[int, ...]) -> onnx.ModelProto:
    """A MatMul whose int4 weights are in blocks."""
    stored: dict[str, Array] = {
        "w": RANDOM.integers(-7, 8, shape).astype(ml_dtypes.int4),
        "ws": np.full(scales, 0.01, np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], name="wd", axis=axis, block_size=block),
        node("MatMul", ["x", "wd"], "y"),
    ]
    return model(nodes, stored, [2, shape[0]])


def test_a_model_by_the_rules_has_no_finding() -> None:
    nodes, stored = conv()
    made = model(nodes, stored, ["N", 3, 8, 8])
    assert check_rules(made) == ()
    assert float_products(made) == []
    assert check_rules(matmul((64, 8), 0, 32, (2, 8))) == ()


Change = Callable[[list[onnx.NodeProto], dict[str, Array]], object]


def changed(change: Change, opset: int = 21) -> onnx.ModelProto:
    nodes, stored = conv()
    change(nodes, stored)
    return model(nodes, stored, ["N", 3, 8, 8], opset)


def all_as(kind: npt.DTypeLike) -> Change:
    """Activations in another quantized type."""
    return lambda _, stored: stored.update(xz=scalar(0, kind))


def int32_bias(nodes: list[onnx.NodeProto], stored: dict[str, Array]) -> None:
    nodes.insert(3, node("DequantizeLinear", ["bq", "bs"], "bd", axis=0))
    nodes[-1].input[2] = "bd"
    stored |= {"bq": np.zeros(4, np.int32), "bs": np.full(4, 0.001, np.float32)}


def computed_scale(nodes: list[onnx.NodeProto], stored: dict[str, Array]) -> None:
    nodes.insert(0, node("Abs", ["s"], "xs"))
    stored["s"] = stored.pop("xs")


def computed_zero_point(nodes: list[onnx.NodeProto], stored: dict[str, Array]) -> None:
    nodes.insert(0, node("Identity", ["z"], "xz"))
    stored["z"] = stored.pop("xz")


def read_by_others(nodes: list[onnx.NodeProto], _stored: dict[str, Array]) -> None:
    nodes.append(node("Abs", ["xq"], "z"))


def read_by_none(nodes: list[onnx.NodeProto], _stored: dict[str, Array]) -> None:
    del nodes[1]
    nodes[-1].input[0] = "x"


def along_inputs(nodes: list[onnx.NodeProto], stored: dict[str, Array]) -> None:
    nodes[2].attribute[0].i = 1
    stored.update(ws=np.full(3, 0.01, np.float32), wz=np.zeros(3, np.int8))


def per_channel_activation(_: list[onnx.NodeProto], stored: dict[str, Array]) -> None:
    stored.update(xs=np.full(3, 0.1, np.float32), xz=np.zeros(3, np.int8))


def on_the_fly(nodes: list[onnx.NodeProto], _stored: dict[str, Array]) -> None:
    nodes.insert(0, helper.make_node("DynamicQuantizeLinear", ["x"], ["dq", "ds", "dz"], name="dynamic"))


def without_zero_point(nodes: list[onnx.NodeProto], _stored: dict[str, Array]) -> None:
    for pair in nodes[:2]:
        pair.input.pop()


BROKEN: dict[str, tuple[Change, str, str]] = {
    "asymmetric activation": (lambda _, s: s.update(xz=scalar(3, np.int8)), "qdq-zero-point", "from 3 to 3"),
    "asymmetric weights": (
        lambda _, s: s.update(wz=np.array([0, -5, 0, 2], np.int8)),
        "qdq-zero-point",
        "wd.DequantizeLinear.* from -5 to 2",
    ),
    "computed zero point": (computed_zero_point, "qdq-zero-point", "is no constant"),
    "uint8": (all_as(np.uint8), "qdq-type", "no quantized uint8"),
    "uint4": (all_as(ml_dtypes.uint4), "qdq-type", "no quantized uint4"),
    "int16": (all_as(np.int16), "qdq-type", "no quantized int16"),
    "int4 activation": (all_as(ml_dtypes.int4), "qdq-type", "int4 for stored weights only"),
    "fp8 E5M2": (all_as(ml_dtypes.float8_e5m2), "qdq-type", "no quantized float8e5m2"),
    "no zero point is uint8": (without_zero_point, "qdq-type", "uint8"),
    "zero scale": (lambda _, s: s.update(xs=scalar(0)), "qdq-scale", "a scale is 0"),
    "negative scale": (lambda _, s: s.update(ws=np.array([1, -2, 1, 1], np.float32)), "qdq-scale", "a scale is -2"),
    "infinite scale": (lambda _, s: s.update(xs=scalar(np.inf)), "qdq-scale", "a scale is inf"),
    "computed scale": (computed_scale, "qdq-scale", "'xs' is no constant"),
    "weights along inputs": (along_inputs, "qdq-axis", "axis 1; Conv 'y.Conv' has its output channels along 0"),
    "wrong number of scales": (
        lambda _, s: s.update(ws=np.ones(3, np.float32), wz=np.zeros(3, np.int8)),
        "qdq-axis",
        "3 scales along axis 0 of weights of 4x3x1x1",
    ),
    "activation per channel": (per_channel_activation, "qdq-axis", "3 scales on an activation"),
    "int32 bias": (int32_bias, "qdq-bias", "the bias is int32"),
    "read by others": (read_by_others, "qdq-pair", "Abs 'z.Abs' reads the quantized values"),
    "read by none": (read_by_none, "qdq-pair", "no DequantizeLinear reads"),
    "on the fly": (on_the_fly, "qdq-operator", "'dynamic': it quantizes activations with ranges of each run"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_rule_is_found(name: str) -> None:
    change, code, words = BROKEN[name]
    found = check_rules(changed(change))
    assert any(finding.code == code and re.search(words, finding.text) for finding in found), found
    assert all(finding.kind == "blocker" and finding.hint for finding in found)


def test_types_need_their_opset() -> None:
    first, *_ = check_rules(changed(all_as(ml_dtypes.float8_e4m3fn), opset=17))
    assert first.code == "qdq-opset"
    assert "opset 19, the model uses 17" in first.text
    assert "onnx.version_converter" in first.hint
    assert any("from opset 13" in finding.text for finding in check_rules(changed(lambda *_: None, opset=12)))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (matmul((60, 8), 0, 32, (2, 8)), "blocks of 32 along axis 0 of weights of 60x8"),
        (matmul((64, 8), 0, 32, (3, 8)), "scales of 3x8 for weights of 64x8 in blocks of 32"),
        (matmul((64, 32), 1, 32, (64, 1)), "axis 1, the output channels of MatMul"),
    ],
)
def test_blocks_divide_the_summed_axis(made: onnx.ModelProto, words: str) -> None:
    (finding,) = check_rules(made)
    assert finding.code == "qdq-block"
    assert words in finding.text


def test_rules_hold_inside_branches_too() -> None:
    nodes, stored = conv()
    stored["xz"] = scalar(7, np.int8)
    inner = model(nodes, stored, [1, 3, 8, 8]).graph
    del inner.input[:]
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner, name="choice")
    outer = model([branch], {"c": np.ones((), np.bool_)}, [1, 3, 8, 8])
    assert [finding.code for finding in check_rules(outer)] == ["qdq-zero-point"] * 4


def test_anonymous_dimensions_are_one_size_to_tensorrt() -> None:
    nodes, stored = conv()
    (finding,) = check_rules(model(nodes, stored, [1, 3, "?", "?"]))
    assert finding.code == "dim-names"
    assert "input 'x' has 2 dimensions named '?'" in finding.text
