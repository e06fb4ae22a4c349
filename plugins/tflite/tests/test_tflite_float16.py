"""float16 weights taken back to float32: bit for bit what the runtime computes with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hub.spec import ConvertJob, Edge, ModelArtifact, Numerics, UnsupportedModel
from hub_tflite.convert import QUANTIZING, WIDEN
from hub_tflite.describe import describe_file
from hub_tflite.runtime import VARIANTS, LiteRtSession
from hub_tflitefile.schema import code_of, operator_counts, read
from plugins.tflite.tests import tflite_graphs as graphs
from plugins.tflite.tests.tflite_handmade import densify

(HALVE,) = (edge for edge in QUANTIZING if edge.id == "tflite.fp16")


def convert(edge: Edge, source: Path) -> Path:
    """A step from a file to the file beside it."""
    summary = describe_file(source)
    artifact = ModelArtifact(
        path=str(source), state=summary.state, signature=summary.signature, sha256="", size_bytes=summary.size_bytes
    )
    result = source.with_name(f"{edge.id}.tflite")
    target = edge.gives.states(summary.state.numerics)[0]
    edge.convert(ConvertJob(target=target, source=artifact, output=str(result), scratch=str(source.parent)))
    return result


@pytest.mark.parametrize("middle", ["RELU", "MASKED"])  # a mask that float16 cannot hold: the file is half in half
def test_the_same_bits(middle: str, tmp_path: Path) -> None:
    half = convert(HALVE, graphs.save(graphs.classifier(middle), tmp_path / "digits.tflite"))
    assert describe_file(half).state.numerics is Numerics.FP16
    wide = convert(WIDEN, half)
    summary = describe_file(wide)
    assert summary.state.numerics is Numerics.FP32
    assert "DEQUANTIZE" not in operator_counts(read(wide))
    assert {layer.precision for layer in summary.layers} == {"fp32"}
    for variant in VARIANTS:
        before, after = (LiteRtSession(file.read_bytes(), variant) for file in (half, wide))
        for image in graphs.digits()[0][1400:1440]:
            feeds = {graphs.INPUT: image[None]}
            assert before.run(feeds)[graphs.OUTPUT].tobytes() == after.run(feeds)[graphs.OUTPUT].tobytes()


def test_sparse_constants_are_written_in_full(tmp_path: Path) -> None:
    source = graphs.save(densify(half=True).model, tmp_path / "sparse.tflite")
    wide = convert(WIDEN, source)
    assert operator_counts(read(wide)) == {"ADD": 1}
    x = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
    (before,), (after,) = (LiteRtSession(file.read_bytes()).run({"x": x}).values() for file in (source, wide))
    assert before.tobytes() == after.tobytes() == (x + np.float32([[0, 2, 0, 0], [0] * 4, [5, 0, 0, 7]])).tobytes()


def test_rows_looked_up_in_float16_are_refused(tmp_path: Path) -> None:
    made = graphs.Graph()
    ids, rows, real = (
        made.tensor("ids", (2,), "INT32"),
        made.tensor("rows", (2, 4), "FLOAT16"),
        made.tensor("y", (2, 4)),
    )
    table = made.constant("table", np.ones((8, 4), np.float16), "FLOAT16")
    made.add("GATHER", [table, ids], [rows], "GatherOptions")
    made.add("CAST", [rows], [real], "CastOptions", inDataType=code_of("TensorType", "FLOAT16"), outDataType=0)
    source = graphs.save(made.model([ids], [real]), tmp_path / "table.tflite")
    with pytest.raises(UnsupportedModel, match="float16 reaches GATHER rows"):
        convert(WIDEN, source)
