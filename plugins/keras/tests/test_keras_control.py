"""ONNX whose course values decide: as a Keras model, and with TensorFlow's own operations in TFLite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub.spec import (
    ConvertJob,
    ConvertOptions,
    Dim,
    DType,
    ModelArtifact,
    ModelSummary,
    Signature,
    State,
    TensorSpec,
    UnsupportedModel,
)
from hub_keras.onnx_importer import UnsupportedOperator, import_onnx
from hub_keras.onnx_tflite import NATIVE
from plugins.keras.tests import onnx_node_judge as judge

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # Keras uses old parts of numpy
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
value = helper.make_tensor_value_info


def model(nodes: Sequence[onnx.NodeProto], ends: tuple[list[Any], list[Any]], **stored: Any) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(np.asarray(item), name) for name, item in stored.items()]
    graph = helper.make_graph(nodes, "g", *ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def runtime(made: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def branches() -> onnx.ModelProto:
    then = helper.make_graph([helper.make_node("Mul", ["x", "two"], ["a"])], "t", [], [value("a", FLOAT, [2, 4])])
    other = helper.make_graph([helper.make_node("Exp", ["x"], ["b"])], "e", [], [value("b", FLOAT, [2, 4])])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
    ]
    ends = [value("x", FLOAT, [2, 4])], [value("y", FLOAT, [2, 4])]
    return model(nodes, ends, two=np.float32(2), zero=np.float32(0))


def until(*, collects: bool = False) -> onnx.ModelProto:
    """Halves until all is small."""
    nodes = [
        helper.make_node("Mul", ["s", "half"], ["s2"]),
        helper.make_node("ReduceMax", ["s2"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "one"], ["again"]),
        *([helper.make_node("Identity", ["s2"], ["each"])] if collects else []),
    ]
    outs = [value("again", BOOL, []), value("s2", FLOAT, [2, 4]), *([value("each", FLOAT, [2, 4])] if collects else [])]
    body = helper.make_graph(
        nodes, "b", [value("i", INT64, []), value("go", BOOL, []), value("s", FLOAT, [2, 4])], outs
    )
    names = ["y", "all"] if collects else ["y"]
    loop = helper.make_node("Loop", ["most_steps", "yes", "x"], names, body=body)
    ends = [value("x", FLOAT, [2, 4])], [value(name, FLOAT, None) for name in names]
    return model(
        [loop], ends, half=np.float32(0.5), one=np.float32(1), most_steps=np.int64(12), yes=np.asarray(1, bool)
    )


@pytest.mark.parametrize("made", [branches(), until()], ids=["If", "Loop"])
@pytest.mark.parametrize("factor", [1.0, -1.0, 1000.0])
def test_values_decide_at_run_time(made: onnx.ModelProto, factor: float) -> None:
    x = np.float32(factor) * np.linspace(0.1, 1, 8, dtype=np.float32).reshape(2, 4)
    (wanted,) = runtime(made, {"x": x})
    (got,) = judge.run(import_onnx(made), [x])
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_as_many_results_as_a_run_takes_are_refused() -> None:
    with pytest.raises(UnsupportedOperator, match="how many steps' results are collected"):
        import_onnx(until(collects=True))


def suppression(center: int, iou: float = 0.4) -> onnx.ModelProto:
    nodes = [
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "least"], ["kept"],
                         center_point_box=center),
        helper.make_node("Gather", ["kept", "columns"], ["places"], axis=1),
        helper.make_node("GatherND", ["boxes", "places"], ["chosen"]),
    ]  # fmt: skip
    ends = (
        [value("boxes", FLOAT, [2, 9, 4]), value("scores", FLOAT, [2, 3, 9])],
        [value("kept", INT64, ["n", 3]), value("chosen", FLOAT, ["n", 4])],
    )
    numbers = {"most": np.int64(4), "iou": np.float32(iou), "least": np.float32(0.7), "columns": np.array([0, 2])}
    return model(nodes, ends, **numbers)


def suppressing_tflite(made: onnx.ModelProto, folder: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    onnx.save(made, folder / "m.onnx")
    inputs = (("boxes", (2, 9, 4)), ("scores", (2, 3, 9)))
    signature = Signature(
        inputs=tuple(
            TensorSpec(name=name, dtype=DType.FLOAT32, shape=tuple(Dim(size=size) for size in shape))
            for name, shape in inputs
        ),
        outputs=tuple(
            TensorSpec(name=name, dtype=dtype, shape=(Dim(symbol="n"), Dim(size=size)))
            for name, dtype, size in (("kept", DType.INT64, 3), ("chosen", DType.FLOAT32, 4))
        ),
    )
    source = ModelArtifact(
        path=str(folder / "m.onnx"), state=State(format="onnx", form="static"), signature=signature, sha256="",
        size_bytes=0,
    )  # fmt: skip
    job = ConvertJob(
        target=State(format="tflite"), source=source, output=str(folder / "m.tflite"), scratch=str(folder),
        options=ConvertOptions(),
    )  # fmt: skip
    NATIVE.convert(job)
    return Interpreter(str(folder / "m.tflite"), num_threads=1).get_signature_runner()


@pytest.mark.parametrize("center", [0, 1])
def test_suppression_is_that_of_onnx_runtime_in_tflite(center: int, tmp_path: Path) -> None:
    made = suppression(center)
    runner = suppressing_tflite(made, tmp_path)
    rng = np.random.default_rng(center)
    counts = set()
    for _ in range(4):
        corners = rng.uniform(0, 3, (2, 9, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(0.5, 3, (2, 9, 2))], -1).astype(np.float32)
        feeds = {"boxes": boxes, "scores": rng.uniform(0, 1, (2, 3, 9)).astype(np.float32)}
        kept, chosen = runtime(made, feeds)
        got = runner(**feeds)
        np.testing.assert_array_equal(got["kept"], kept)
        np.testing.assert_array_equal(got["chosen"], chosen)
        counts.add(len(kept))
    assert len(counts) > 1  # the size depends on the values


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_box_stays_at_an_overlap_that_equals_the_bound(overlap: float, tmp_path: Path) -> None:
    """Two boxes of sizes that are powers of two, so that no rounding is in their overlap; the others score nothing."""
    made = suppression(0, overlap)
    second = {0.0: [0, 1, 1, 2], 0.5: [0, 0, 1, 0.5]}[overlap]
    boxes = np.tile(np.float32([5, 5, 6, 6]), (2, 9, 1))
    boxes[:, :2] = [[0, 0, 1, 1], second]
    scores = np.zeros((2, 3, 9), np.float32)
    scores[..., :2] = [0.9, 0.8]
    feeds = {"boxes": boxes, "scores": scores}
    kept, _ = runtime(made, feeds)
    assert len(kept) == 2 * 3 * 2
    np.testing.assert_array_equal(suppressing_tflite(made, tmp_path)(**feeds)["kept"], kept)


def test_a_bound_of_one_is_refused(tmp_path: Path) -> None:
    """The next float is no overlap, and TFLite names one of two equal boxes twice there."""
    with pytest.raises(UnsupportedModel, match="overlaps up to 1"):
        suppressing_tflite(suppression(0, 1.0), tmp_path)


def test_a_keras_file_holds_no_suppression() -> None:
    with pytest.raises(UnsupportedOperator, match="size that depends on values"):
        import_onnx(suppression(0))


def test_what_a_keras_file_holds_goes_through_one() -> None:
    summary = ModelSummary(state=State(format="onnx"), signature=Signature(inputs=(), outputs=()), operators={"If": 1})
    assert "nothing in it" in NATIVE.check(summary, ConvertOptions()).reason


@pytest.mark.parametrize("length", [None, 9, 14])
def test_a_real_signal_comes_back_from_its_frequencies(length: int | None) -> None:
    size = length or 12
    nodes = [helper.make_node("DFT", ["x", "length" if length else "", "axis"], ["y"], inverse=1, onesided=1)]
    numbers: dict[str, Any] = {"axis": np.int64(1)} | ({"length": np.int64(length)} if length else {})
    ends = [value("x", FLOAT, [2, size // 2 + 1, 2])], [value("y", FLOAT, [2, size, 1])]
    made = model(nodes, ends, **numbers)
    made.opset_import[0].version = 20
    signal = np.random.default_rng(0).standard_normal((2, size))
    half = np.fft.rfft(signal)
    (got,) = judge.run(import_onnx(made), [np.stack([half.real, half.imag], -1).astype(np.float32)])
    np.testing.assert_allclose(got[..., 0], signal, atol=1e-5)
