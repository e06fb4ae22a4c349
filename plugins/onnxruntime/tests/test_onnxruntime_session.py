"""ONNX Runtime as hub's runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub.spec import StepError
from hub_onnxruntime.session import OrtSession
from plugins.onnxruntime.tests import onnx_graphs as graphs
from tests.zoo import data, fetch


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return graphs.saved(graphs.dense(["n", 4]), tmp_path / "dense.onnx")


def test_it_computes_what_the_graph_says(dense: Path) -> None:
    weights = numpy_helper.to_array(graphs.dense().graph.initializer[0])
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert OrtSession(dense).run({"x": x})["y"] == pytest.approx(x @ weights, rel=1e-6)


@pytest.mark.parametrize("variant", ["optimized", "basic", "plain"])
def test_levels_agree_and_repeat_to_the_bit(variant: str) -> None:
    feeds = data.feeds("magika_onnx", "test", 2)
    session = OrtSession(fetch.path("magika_onnx"), variant)
    first, again = session.run(feeds)["target_label"], session.run(feeds)["target_label"]
    assert np.array_equal(first, again)
    plain = OrtSession(fetch.path("magika_onnx"), "plain").run(feeds)["target_label"]
    assert first == pytest.approx(plain, abs=1e-5)


def test_results_are_copies(dense: Path) -> None:
    session = OrtSession(dense)
    first = session.run({"x": np.ones((1, 4), np.float32)})["y"]
    kept = first.copy()
    session.run({"x": np.zeros((1, 4), np.float32)})
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "int64", "uint8", "bool", "str"])
def test_every_element_type_passes(dtype: str, tmp_path: Path) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(object if dtype == "str" else dtype))
    node = helper.make_node("Identity", ["x"], ["y"])
    proto = graphs.model([node], [graphs.value("x", [2], kind)], [graphs.value("y", [2], kind)])
    x = np.array(["a", "bc"], dtype=object) if dtype == "str" else np.array([0, 1], dtype=dtype)
    y = OrtSession(graphs.saved(proto, tmp_path / "m.onnx")).run({"x": x})["y"]
    assert y.dtype == x.dtype
    assert np.array_equal(x, y)


def test_bfloat16_travels_as_bits(tmp_path: Path) -> None:
    from onnx import TensorProto

    node = helper.make_node("Identity", ["x"], ["y"])
    kind = TensorProto.BFLOAT16
    proto = graphs.model([node], [graphs.value("x", [2], kind)], [graphs.value("y", [2], kind)])
    bits = np.array([0x3F80, 0xC000], np.uint16)  # 1.0 and -2.0
    y = OrtSession(graphs.saved(proto, tmp_path / "m.onnx")).run({"x": bits})["y"]
    assert np.array_equal(y.view(np.uint16), bits)


def test_intermediate_tensors() -> None:
    session = OrtSession(fetch.path("ocr_cls"))
    feeds = data.feeds("ocr_cls", "test", 1)
    inner = session.intermediate(["save_infer_model/scale_0.tmp_1", "relu_0.tmp_0"]).run(feeds)
    assert inner["relu_0.tmp_0"].min() == 0.0
    whole = session.run(feeds)["save_infer_model/scale_0.tmp_1"]
    assert inner["save_infer_model/scale_0.tmp_1"] == pytest.approx(whole, rel=1e-4)


def test_refusals_are_coded(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="It takes x: tensor") as caught:
        raise_from_run(dense)
    assert "dense.onnx" in caught.value.message
    with pytest.raises(StepError, match=r"refuses custom\.onnx"):
        OrtSession(graphs.saved(graphs.custom_operator(), tmp_path / "custom.onnx"))


def test_a_flag_with_a_wrong_value_is_answered_with_the_way_to_freeze_it() -> None:
    feeds = {name: np.asarray(rows[0]) for name, rows in data.feeds("vad_onnx", "test", 1).items()}
    with pytest.raises(StepError) as caught:
        OrtSession(fetch.path("vad_onnx")).run(feeds | {"sr": np.array(1, np.int64)})
    assert "--constant sr=VALUE" in caught.value.hint


def raise_from_run(path: Path) -> None:
    try:
        OrtSession(path).run({"x": np.ones((1, 4), np.int64)})
    except StepError as error:
        raise type(error)(f"{error.message} {error.hint}") from error


def test_bfloat16_is_rounded_after_every_operator_where_there_is_no_kernel(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ml = pytest.importorskip("ml_dtypes")
    stored = {
        "w": random.standard_normal((8, 3, 3, 3)).astype(ml.bfloat16),
        "m": random.standard_normal((288, 5)).astype(ml.bfloat16),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["xb"], to=TensorProto.BFLOAT16),
        helper.make_node("Conv", ["xb", "w"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["z"]),
        helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT),
    ]
    sizes = {"x": [1, 3, 8, 8], "y": [1, 5]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sizes.items()}
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "graph", [values["x"]], [values["y"]], tensors)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)
    session = OrtSession(path)
    assert session.widened
    x = random.standard_normal((1, 3, 8, 8)).astype(np.float32)
    given = session.run({"x": x})["y"]
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(ml.bfloat16)[0].astype(np.float32), (3, 3), axis=(1, 2))
    convolved = np.einsum("chwij,ocij->ohw", windows, stored["w"].astype(np.float32)).astype(ml.bfloat16)
    whole = convolved.reshape(1, -1).astype(np.float32) @ stored["m"].astype(np.float32)
    assert (given == given.astype(ml.bfloat16).astype(np.float32)).all()
    np.testing.assert_allclose(given, whole, rtol=2**-7, atol=2**-5)
