"""Outputs that are declared in another shape than they are computed in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub_onnxruntime.describe import summarize
from hub_onnxruntime.large import KEPT_BYTES
from hub_onnxruntime.session import OrtSession


def saved(folder: Path, nodes: list[onnx.NodeProto], declared: list[int | str], opset: int = 13) -> Path:
    """A network on 1x1x8x8 with an output `y`, a 3 x 3 kernel `w` and the axis `one`."""
    kernel = np.random.default_rng(0).standard_normal((2, 1, 3, 3)).astype(np.float32)
    stored = [numpy_helper.from_array(kernel, "w"), numpy_helper.from_array(np.array([1]), "one")]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, declared)
    graph = helper.make_graph(nodes, "g", [given], [made], stored)
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7), path)
    return path


CONVOLUTION = helper.make_node("Conv", ["x", "w"], ["c"])
LARGEST = helper.make_node("ReduceMax", ["c"], ["y"], axes=[1], keepdims=0)


@pytest.mark.parametrize("declared", [[1, 8, 8], [1, "rows"], [1]])
def test_the_shape_that_is_computed_is_read(declared: list[int | str], tmp_path: Path) -> None:
    path = saved(tmp_path, [CONVOLUTION, LARGEST], declared)
    summary = summarize(path)
    assert [dim.size for dim in summary.signature.outputs[0].shape] == [1, 6, 6]
    assert summary.findings[0].code == "output-shape-stale"
    assert "computes 1x6x6" in summary.findings[0].text
    assert OrtSession(path).run({"x": np.ones((1, 1, 8, 8), np.float32)})["y"].shape == (1, 6, 6)


def test_what_is_declared_and_true_stays(tmp_path: Path) -> None:
    """A name where a size is computed contradicts nothing."""
    summary = summarize(saved(tmp_path, [CONVOLUTION, LARGEST], ["batch", 6, "columns"]))
    assert [dim.size for dim in summary.signature.outputs[0].shape] == [1, 6, 6]
    assert "output-shape-stale" not in {finding.code for finding in summary.findings}


def test_a_rank_follows_from_sizes_that_are_computed(tmp_path: Path) -> None:
    nodes = [
        CONVOLUTION,
        helper.make_node("Abs", ["one"], ["n"]),
        helper.make_node("Unsqueeze", ["n"], ["n1"], axes=[0]),
        helper.make_node("Squeeze", ["n1"], ["n0"]),
        helper.make_node("Unsqueeze", ["n0"], ["a"], axes=[0]),
        helper.make_node("Neg", ["one"], ["b"]),
        helper.make_node("Squeeze", ["b"], ["b0"]),
        helper.make_node("Unsqueeze", ["b0"], ["b1"], axes=[0]),
        helper.make_node("Concat", ["a", "one", "b1"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["c", "sizes"], ["y"]),
    ]
    path = saved(tmp_path, nodes, [1, "length"], 12)
    assert len(summarize(path).signature.outputs[0].shape) == 3
    assert OrtSession(path).run({"x": np.ones((1, 1, 8, 8), np.float32)})["y"].shape == (1, 1, 72)


def test_a_reshape_whose_sizes_are_an_attribute(tmp_path: Path) -> None:
    """As it is up to opset 4: it has one operand."""
    path = saved(tmp_path, [CONVOLUTION, helper.make_node("Reshape", ["c"], ["y"], shape=[1, 72])], [1, 72], 4)
    assert [dim.size for dim in summarize(path).signature.outputs[0].shape] == [1, 72]
    assert OrtSession(path).run({"x": np.ones((1, 1, 8, 8), np.float32)})["y"].shape == (1, 72)


@pytest.mark.parametrize("size", [8, 1024])
def test_large_weights_are_forgotten_before_shapes_are_inferred(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inference copies what it is given; the sizes that it finds are the same."""
    given = []
    inferred = onnx.shape_inference.infer_shapes
    monkeypatch.setattr(
        onnx.shape_inference, "infer_shapes", lambda model: given.append(model.ByteSize()) or inferred(model)
    )
    weight = numpy_helper.from_array(np.ones((size, size), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, size]) for name, rows in (("x", 1), ("y", 2))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    assert [dim.size for dim in summarize(tmp_path / "m.onnx").signature.outputs[0].shape] == [1, size]
    assert max(given) < KEPT_BYTES


def test_pools_that_round_up_keep_what_is_declared(tmp_path: Path) -> None:
    """ONNX's inference is wrong of their sizes, so that nothing is corrected by it."""
    pool = helper.make_node("MaxPool", ["c"], ["y"], kernel_shape=[1, 1], strides=[4, 4], ceil_mode=1)
    summary = summarize(saved(tmp_path, [CONVOLUTION, pool], [1, 2, 5, 5]))
    assert [dim.size for dim in summary.signature.outputs[0].shape] == [1, 2, 5, 5]
