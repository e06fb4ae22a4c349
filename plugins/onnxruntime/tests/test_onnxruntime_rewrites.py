"""Rewrites beyond ONNX Runtime's optimizer: what is folded into convolutions, and weights that are unpacked once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from onnxscript import rewriter

from hub.spec import Numerics
from hub_onnxquant.weights import Form, quantize
from hub_onnxruntime.describe import summarize
from hub_onnxruntime.optimize import optimize
from hub_onnxruntime.rewrites import may_fit, rewritten
from plugins.onnxruntime.tests import onnx_graphs as graphs
from plugins.onnxruntime.tests import ort_models as models

RANDOM = np.random.default_rng(4)


def normal(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


def kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def scaled_swish(folder: Path, pads: int = 1) -> Path:
    """Conv, a scalar scale and offset, a hard swish in four operators, a scale and offset, Conv: as in PP-OCRv4."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["scale", "c1"], ["m1"]),
        helper.make_node("Add", ["m1", "offset"], ["a1"]),
        helper.make_node("Add", ["a1", "three"], ["plus"]),
        helper.make_node("Clip", ["plus", "zero", "six"], ["clipped"]),
        helper.make_node("Mul", ["a1", "clipped"], ["product"]),
        helper.make_node("Div", ["product", "six"], ["swish"]),
        helper.make_node("Mul", ["scale", "swish"], ["m2"]),
        helper.make_node("Add", ["m2", "offset"], ["a2"]),
        helper.make_node("Conv", ["a2", "w2", "b2"], ["y"], pads=[pads] * 4),
    ]
    stored = {"w1": normal(32, 3, 3, 3), "b1": normal(32), "w2": normal(16, 32, 3, 3), "b2": normal(16)}
    stored |= {"scale": np.full(1, 1.7, np.float32), "offset": np.full(1, -0.4, np.float32)}
    stored |= {name: np.array(number, np.float32) for name, number in (("zero", 0), ("three", 3), ("six", 6))}
    border = [graphs.value("x", ("n", 3, 12, 12))], [graphs.value("y", ("n", 16, "h", "w"))]
    return graphs.saved(graphs.model(nodes, *border, stored, opset=13), folder / "swish.onnx")


@pytest.mark.parametrize(("pads", "left"), [(1, {"Mul": 1, "Add": 1}), (0, {})])
def test_scalars_and_hard_swishes_go_into_the_convolutions(pads: int, left: dict[str, int], tmp_path: Path) -> None:
    source = scaled_swish(tmp_path, pads)
    path, notes = rewritten(source, tmp_path, 0)
    assert kinds(path) == {"Conv": 2, "HardSwish": 1, **left}  # an offset before padding cannot be moved behind it
    assert "10 -> " in notes[0].text
    for shape in ((1, 3, 12, 12), (3, 3, 12, 12)):
        feeds = {"x": normal(*shape)}
        found, wanted = models.plain_run(path, feeds)[0], models.plain_run(source, feeds)[0]
        assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_rules_that_are_wrong_are_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = rewriter.rewrite

    def spoilt(model: Any, **rules: Any) -> Any:
        result = right(model, **rules)
        value = next(item for item in result.graph.initializers.values() if item.const_value.shape.rank() == 4)
        value.const_value = ir.tensor(1.05 * value.const_value.numpy())
        return result

    monkeypatch.setattr(rewriter, "rewrite", spoilt)
    source = scaled_swish(tmp_path)
    path, notes = rewritten(source, tmp_path, 0)
    assert path == source
    assert notes[0].text.startswith("undid the rewrites of onnxscript: the result differs by ")


def test_rules_that_fail_leave_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise IndexError("a shape that no rule expects")

    monkeypatch.setattr(rewriter, "rewrite", failing)
    source = scaled_swish(tmp_path)
    path, (note,) = rewritten(source, tmp_path, 0)
    assert path == source
    assert note.text == "undid the rewrites of onnxscript: they failed with IndexError: a shape that no rule expects"


def test_other_graphs_are_not_touched(tmp_path: Path) -> None:
    assert not may_fit(onnx.load(models.attention(tmp_path)))
    source = graphs.saved(graphs.dense(), tmp_path / "dense.onnx")
    assert rewritten(source, tmp_path, 0) == (source, [])


@pytest.mark.parametrize("first", [False, True], ids=["as exported", "rewritten first"])
def test_float16_stays_float16(first: bool, tmp_path: Path) -> None:
    """onnxscript folds the casts behind float16 weights, ONNX Runtime where it expands HardSwish."""
    plain = scaled_swish(tmp_path)
    source = models.half(rewritten(plain, tmp_path, 0)[0] if first else plain, tmp_path)
    assert {tensor.data_type for tensor in onnx.load(source).graph.initializer} >= {onnx.TensorProto.FLOAT16}
    assert not may_fit(onnx.load(source))
    target = tmp_path / "out.onnx"
    optimize(source, target, tmp_path, "onnxruntime")
    assert summarize(target, "onnxruntime").state.numerics == Numerics.FP16


def convolution(folder: Path) -> Path:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    border = [graphs.value("x", ("n", 64, 8, 8))], [graphs.value("y", ("n", 128, 6, 6))]
    stored = {"w": normal(128, 64, 3, 3), "b": normal(128)}
    return graphs.saved(graphs.model(nodes, *border, stored, opset=21), folder / "conv.onnx")


def recurrence(folder: Path) -> Path:
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["", "y"], hidden_size=32)]
    border = [graphs.value("x", (5, "n", 24))], [graphs.value("y", (1, "n", 32))]
    stored = {"w": normal(1, 128, 24), "r": normal(1, 128, 32)}
    return graphs.saved(graphs.model(nodes, *border, stored, opset=21), folder / "lstm.onnx")


def narrowed(source: Path, folder: Path) -> Path:
    model = onnx.load(source)
    assert quantize(model, source.parent, Form(8, 0, symmetric=True))
    return graphs.saved(model, folder / "narrow.onnx")


def executed(path: Path, folder: Path) -> list[Any]:
    """The nodes that a session with ONNX Runtime's own defaults executes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "executed.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(onnx.load(folder / "executed.onnx").graph.node)


@pytest.mark.parametrize(
    ("make", "shape", "count"), [(convolution, (2, 64, 8, 8), 1), (recurrence, (5, 2, 24), 2)], ids=["Conv", "LSTM"]
)
def test_narrow_weights_are_stored_narrow_and_unpacked_once(
    make: Any, shape: tuple[int, ...], count: int, tmp_path: Path
) -> None:
    source = make(tmp_path)
    narrow, target = narrowed(source, tmp_path), tmp_path / "out.onnx"
    assert {"DequantizeLinear"} <= {node.op_type for node in executed(narrow, tmp_path)}  # what ONNX Runtime does alone
    notes = optimize(narrow, target, tmp_path, "onnxruntime")
    assert f"{count} narrow weights are unpacked when the file is opened" in " ".join(note.text for note in notes)
    assert target.stat().st_size < 0.35 * source.stat().st_size
    assert not {"DequantizeLinear", "Cast", "Mul"} & {node.op_type for node in executed(target, tmp_path)}
    assert summarize(target, "onnxruntime").state.numerics == Numerics.INT8_WEIGHTS
    feeds = {"x": normal(*shape)}
    found, wanted = models.plain_run(target, feeds)[0], models.plain_run(narrow, feeds)[0]
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_weights_around_another_zero_are_unpacked_around_it(tmp_path: Path) -> None:
    model = onnx.load(narrowed(convolution(tmp_path), tmp_path))
    node = next(node for node in model.graph.node if node.op_type == "DequantizeLinear")
    model.graph.initializer.append(numpy_helper.from_array(np.full(128, 3, np.int8), "zero"))
    node.input.append("zero")
    shifted, target = graphs.saved(model, tmp_path / "shifted.onnx"), tmp_path / "out.onnx"
    notes = optimize(shifted, target, tmp_path, "onnxruntime")
    assert "1 narrow weights are unpacked" in " ".join(note.text for note in notes)
    assert kinds(target)["Sub"] == 1
    assert summarize(target, "onnxruntime").state.numerics == Numerics.INT8_WEIGHTS
    feeds = {"x": normal(2, 64, 8, 8)}
    found, wanted = models.plain_run(target, feeds)[0], models.plain_run(shifted, feeds)[0]
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def product(folder: Path, rows: int, columns: int) -> Path:
    border = [graphs.value("x", ("n", rows))], [graphs.value("y", ("n", columns))]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return graphs.saved(graphs.model([node], *border, {"w": normal(rows, columns)}, opset=21), folder / "product.onnx")


@pytest.mark.parametrize("symmetric", [True, False])
def test_blocks_of_a_small_matrix_are_unpacked_too(symmetric: bool, tmp_path: Path) -> None:
    source = product(tmp_path, 257, 64)  # the last block is shorter
    model, target = onnx.load(source), tmp_path / "out.onnx"
    model.ir_version = 10  # the first with 4-bit tensors
    assert quantize(model, tmp_path, Form(4, 64, symmetric=symmetric))
    narrow = graphs.saved(model, tmp_path / "narrow.onnx")
    optimize(narrow, target, tmp_path, "onnxruntime")
    assert [node.op_type for node in executed(target, tmp_path)] == ["MatMul"]
    assert target.stat().st_size < 0.3 * source.stat().st_size
    assert summarize(target, "onnxruntime").state.numerics == Numerics.INT4_WEIGHTS
    feeds = {"x": normal(3, 257)}
    model.opset_import[0].version = 21
    found = models.plain_run(target, feeds)[0]
    wanted = onnx.reference.ReferenceEvaluator(model).run(None, feeds)[0]  # ONNX Runtime multiplies blocks less exactly
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_a_large_matrix_stays_packed(tmp_path: Path) -> None:
    model, target = onnx.load(product(tmp_path, 1024, 1024)), tmp_path / "out.onnx"
    model.ir_version = 10
    assert quantize(model, tmp_path, Form(4, 64, symmetric=True))
    optimize(graphs.saved(model, tmp_path / "narrow.onnx"), target, tmp_path, "onnxruntime")
    assert kinds(target) == {"MatMulNBits": 1}
