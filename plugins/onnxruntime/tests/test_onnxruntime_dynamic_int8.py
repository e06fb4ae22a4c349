"""Dynamic int8: matrices are stored as int8, and weights that stay in float are told where they are many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub.spec import Numerics
from hub_onnxgraph.numerics import numerics_of
from hub_onnxruntime.quantize.dynamic import scales_folded
from hub_onnxruntime.quantize.narrow import MATRICES, dynamic_int8

WIDTH = 48


def saved(folder: Path, nodes: list[onnx.NodeProto], shapes: tuple[list[int], list[int]], **stored: Any) -> Path:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip("xy", shapes, strict=True)
    ]
    constants = [numpy_helper.from_array(np.asarray(item), name) for name, item in stored.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def drawn(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32) * 0.2


def gemms(folder: Path) -> Path:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["a"], name="first", alpha=0.5, beta=3.0, transB=1),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "v"], ["y"], name="second", alpha=-2.0),
    ]
    stored = {"w": drawn(64, WIDTH), "b": drawn(64), "v": drawn(64, 32)}
    return saved(folder, nodes, ([3, WIDTH], [3, 32]), **stored)


def gru(folder: Path) -> Path:
    nodes = [
        helper.make_node("GRU", ["x", "w", "r"], ["", "h"], name="gru", hidden_size=WIDTH),
        helper.make_node("Squeeze", ["h", "zero"], ["s"]),
        helper.make_node("MatMul", ["s", "v"], ["y"], name="last"),
    ]
    stored = {
        "w": drawn(1, 3 * WIDTH, 32), "r": drawn(1, 3 * WIDTH, WIDTH), "zero": np.array([0]), "v": drawn(WIDTH, 40),
    }  # fmt: skip
    return saved(folder, nodes, ([5, 2, 32], [2, 40]), **stored)


def sqnr(float_path: Path, made: onnx.ModelProto) -> float:
    """Of the result against the float file, on inputs that the conversion did not see."""
    options = {"providers": ["CPUExecutionProvider"]}
    one = onnxruntime.InferenceSession(str(float_path), **options)
    other = onnxruntime.InferenceSession(made.SerializeToString(), **options)
    shape = one.get_inputs()[0].shape
    x = np.random.default_rng(7).standard_normal(shape, dtype=np.float32)
    (wanted,), (got,) = one.run(None, {"x": x}), other.run(None, {"x": x})
    return float(10 * np.log10(np.sum(wanted**2) / max(np.sum((wanted - got) ** 2), 1e-12)))


@pytest.mark.parametrize("make", [gemms, gru])
def test_no_matrix_stays_in_float(make: Any, tmp_path: Path) -> None:
    path = make(tmp_path)
    done = dynamic_int8(str(path), MATRICES)
    wide = [t.name for t in done.model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1]
    assert wide == []
    assert numerics_of(done.model) is Numerics.INT8_DYNAMIC
    assert sqnr(path, done.model) > 30
    assert "weights-left-float" not in {note.code for note in done.notes}
    told = [note.text for note in done.notes if note.code == "weights-stored-narrow"]
    assert len(told) == (make is gru)


def test_folded_scales_compute_the_same(tmp_path: Path) -> None:
    path = gemms(tmp_path)
    made, count = scales_folded(onnx.load(path))
    assert count == 2
    assert not {attribute.name for node in made.graph.node for attribute in node.attribute} & {"alpha", "beta"}
    assert sqnr(path, made) > 100


@pytest.mark.parametrize("inputs", [["x", "w"], ["x", "w", ""]])
def test_a_beta_of_nothing_is_dropped(inputs: list[str], tmp_path: Path) -> None:
    node = helper.make_node("Gemm", inputs, ["y"], name="only", alpha=0.5, beta=3.0)
    path = saved(tmp_path, [node], ([3, WIDTH], [3, 32]), w=drawn(WIDTH, 32))
    made, count = scales_folded(onnx.load(path))
    assert (count, list(made.graph.node[0].attribute)) == (1, [])
    assert sqnr(path, made) > 100


def test_convolutions_that_stay_in_float_are_named_with_their_share(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["c"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "v"], ["y"], name="last"),
    ]
    path = saved(tmp_path, nodes, ([1, 8, 6, 6], [1, 40]), k=drawn(32, 8, 3, 3), v=drawn(32, 40))
    (warned,) = [note for note in dynamic_int8(str(path), MATRICES).notes if note.code == "weights-left-float"]
    assert (warned.kind, warned.text) == ("warning", "64% of the weights stay in float, those of Conv")
