"""Half precision in ONNX, stored or computed in, becomes float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub.spec import ConvertJob, ModelArtifact, Numerics, StepOutput
from hub_onnxruntime.describe import summarize
from hub_onnxruntime.plugin import PREPARE_DYNAMIC, WIDEN, WIDEN_DYNAMIC
from hub_onnxruntime.session import OrtSession
from plugins.onnxruntime.tests.onnx_graphs import HALF_WEIGHTS, half_network

HALF = TensorProto.FLOAT16


def widened(model: Any, folder: Path, edge: Any = WIDEN_DYNAMIC) -> tuple[Path, Path, StepOutput]:
    source, result = folder / "half.onnx", folder / "wide.onnx"
    onnx.save(model, source)
    summary = summarize(source)
    artifact = ModelArtifact(
        path=str(source), state=summary.state, signature=summary.signature, sha256="", size_bytes=summary.size_bytes
    )
    scratch = folder / "scratch"
    scratch.mkdir()
    target = edge.gives.states(Numerics.FP16)[0]
    done = edge.convert(ConvertJob(target=target, source=artifact, output=str(result), scratch=str(scratch)))
    return source, result, done


@pytest.mark.parametrize("border", [TensorProto.FLOAT, HALF])
@pytest.mark.parametrize("kind", ["first", "both", "stored"])
def test_float32_throughout(kind: str, border: int, tmp_path: Path) -> None:
    edge = PREPARE_DYNAMIC if kind == "first" else WIDEN_DYNAMIC  # most of its weights are float32
    source, result, done = widened(half_network(kind, border), tmp_path, edge)
    before, after = summarize(source), summarize(result, "prepared")
    assert before.state.numerics is (Numerics.FP32 if kind == "first" else Numerics.FP16)
    assert (after.state.numerics, after.state.form) == (Numerics.FP32, "prepared")
    assert after.signature == before.signature
    assert {layer.precision for layer in after.layers} <= {"fp32", "fp16"[: 4 * (border == HALF)]}  # casts at the ends
    assert sum(note.code in {"half-widened", "half-weights-widened"} for note in done.notes) == 1
    stored = [numpy_helper.to_array(tensor) for tensor in onnx.load(result).graph.initializer]
    matrices = [array for array in stored if array.ndim == 2]
    assert [array.dtype for array in matrices] == [np.float32] * 2
    assert all(any(np.array_equal(array, half) for half in HALF_WEIGHTS) for array in matrices)
    x = np.random.default_rng(1).standard_normal((8, 16)).astype(helper.tensor_dtype_to_np_dtype(border))
    right = x.astype(np.float32)
    for matrix in HALF_WEIGHTS:
        right = np.maximum(right @ matrix.astype(np.float32), 0)
    given, found = OrtSession(source).run({"x": x})["y"], OrtSession(result).run({"x": x})["y"]
    assert given.dtype == found.dtype == x.dtype
    scale = np.abs(right).max()
    assert np.abs(given.astype(np.float32) - right).max() / scale < 3e-3
    assert np.abs(found.astype(np.float32) - right).max() / scale < (1e-6 if border != HALF else 5e-4)


def test_what_is_only_stored_in_half_is_bit_for_bit_the_same(tmp_path: Path) -> None:
    source, result, _ = widened(half_network("stored"), tmp_path)
    x = np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32)
    assert OrtSession(source).run({"x": x})["y"].tobytes() == OrtSession(result).run({"x": x})["y"].tobytes()


def test_the_static_form(tmp_path: Path) -> None:
    model = half_network("both")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    _, result, _ = widened(model, tmp_path, WIDEN)
    assert summarize(result, "static").state.form == "static"
