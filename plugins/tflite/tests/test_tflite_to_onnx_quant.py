"""Quantized TFLite files as ONNX: the same numerics, border and results, with the runtimes' rounding between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub._steps import steps_of
from hub.spec import ConvertJob, ConvertOptions, ModelArtifact, Numerics
from hub_onnxgraph.errors import UnsupportedOperator
from hub_onnxruntime.describe import OnnxFormat
from hub_onnxruntime.describe import summarize as describe_onnx
from hub_onnxruntime.runtime import ExplainedSession
from hub_onnxruntime.session import OrtSession
from hub_tflite.convert import QUANTIZING
from hub_tflite.describe import describe_file
from hub_tflite.plugin import TfliteFormat
from hub_tflite.runtime import LiteRtSession
from hub_tflite.to_onnx import quantized
from hub_tflite.to_onnx.edge import IMPORTER, convert
from hub_tflitefile.schema import new, parse, to_bytes
from plugins.tflite.tests import tflite_graphs as graphs
from plugins.tflite.tests.tflite_graphs import Graph

CARRIED_DB = 25.0
"""hub's gate for a step that keeps a quantized source's scales."""
QUANTIZERS = {edge.id: edge for edge in QUANTIZING}
IMAGES = slice(1400, 1464)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return graphs.save_samples(tmp_path_factory.mktemp("calibration"), slice(0, 48))


def quantize(edge: str, source: Path, samples: Path, **options: Any) -> Path:
    summary = describe_file(source)
    artifact = ModelArtifact(
        path=str(source), state=summary.state, signature=summary.signature, sha256="", size_bytes=summary.size_bytes
    )
    output = source.with_name("quantized.tflite")
    job = ConvertJob(
        target=QUANTIZERS[edge].gives.states(Numerics.FP32)[0],
        source=artifact, output=str(output), scratch=str(source.parent), calibration=str(samples),
        options=ConvertOptions(**options),
    )  # fmt: skip
    QUANTIZERS[edge].convert(job)
    return output


def sqnr_db(wanted: list[Any], found: list[Any]) -> float:
    a, b = (np.concatenate([array.ravel() for array in arrays]).astype(np.float64) for arrays in (wanted, found))
    error = float(((a - b) ** 2).sum())
    return 10 * float(np.log10((a**2).sum() / error)) if error else 300.0


def compare(path: Path, feeds: list[dict[str, Any]]) -> float:
    """Convert, check what the edge claims with the reader of ONNX, and return the worst output's SQNR in dB."""
    output = path.with_suffix(".onnx")
    convert(path, output)
    before, after = describe_file(path), describe_onnx(output)
    assert IMPORTER.takes(before.state)
    assert IMPORTER.check(before, ConvertOptions())
    assert after.state in IMPORTER.gives.states(before.state.numerics)
    for old, fresh in zip(
        (*before.signature.inputs, *before.signature.outputs), (*after.signature.inputs, *after.signature.outputs),
        strict=True,
    ):  # fmt: skip
        assert (old.name, old.dtype, len(old.shape)) == (fresh.name, fresh.dtype, len(fresh.shape))
    tflite, onnx = LiteRtSession(path.read_bytes(), "reference"), OrtSession(output)
    wanted, found = [tflite.run(feed) for feed in feeds], [onnx.run(feed) for feed in feeds]
    return min(sqnr_db([one[name] for one in wanted], [one[name] for one in found]) for name in wanted[0])


def image_feeds(dtype: Any = np.float32, scale: float = 1.0, point: int = 0) -> list[dict[str, Any]]:
    images = graphs.digits()[0][IMAGES]
    stored = images if dtype == np.float32 else np.clip(np.rint(images / scale) + point, -128, 127).astype(dtype)
    return [{graphs.INPUT: image[None]} for image in stored]


@pytest.mark.parametrize("edge", sorted(QUANTIZERS))
def test_files_of_every_quantizer(edge: str, tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier("MASKED" if "mixed" in edge else "RELU"), tmp_path / "digits.tflite")
    assert compare(quantize(edge, source, samples), image_feeds()) > CARRIED_DB


@pytest.mark.parametrize("middle", ["RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "LEAKY_RELU"])
def test_clamps_in_integers(middle: str, tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier(middle), tmp_path / "digits.tflite")
    assert compare(quantize("tflite.int8", source, samples), image_feeds()) > CARRIED_DB


def test_integer_border_is_kept(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier(), tmp_path / "digits.tflite")
    path = quantize("tflite.int8", source, samples, io_dtype="int8")
    quant = describe_file(path).signature.inputs[0].quant
    assert quant is not None
    feeds = image_feeds(np.int8, quant.scale[0], quant.zero_point[0])
    assert compare(path, feeds) > CARRIED_DB
    shown = describe_onnx(path.with_suffix(".onnx")).signature.inputs[0].quant
    assert shown is None or shown == quant


def test_the_runtime_fuses_the_pattern(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier(), tmp_path / "digits.tflite")
    path = quantize("tflite.int8", source, samples)
    convert(path, tmp_path / "fused.onnx")
    executed = ExplainedSession(tmp_path / "fused.onnx").execution(image_feeds()[0]).report.executed
    assert {name: count for name, count in executed.items() if "::" in name} == {
        "com.microsoft::QGemm": 2,
        "com.microsoft::QLinearSoftmax": 1,
    }


def test_a_wrong_zero_point_is_seen(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = graphs.save(graphs.classifier(), tmp_path / "digits.tflite")
    path = quantize("tflite.int8", source, samples)
    good = quantized._rounded
    monkeypatch.setattr(
        quantized, "_rounded",
        lambda builder, value, grid: good(builder, value, grid._replace(zero_point=grid.zero_point // 2)),
    )  # fmt: skip
    assert compare(path, image_feeds()) < CARRIED_DB


def _scaled(made: Graph, index: int, scale: Any, point: Any = 0, axis: int = 0) -> int:
    scales = np.atleast_1d(np.asarray(scale, np.float32))
    points = np.broadcast_to(np.asarray(point, np.int64), scales.shape).copy()
    made.tensors[index].quantization = new(
        "QuantizationParametersT", scale=scales, zeroPoint=points, quantizedDimension=axis
    )
    return index


def uint8_dense() -> Any:
    """An old file: everything uint8, weights with a zero point."""
    rng = np.random.default_rng(0)
    made = Graph()
    x = _scaled(made, made.tensor("x", (1, 8), "UINT8"), 0.02, 120)
    w = _scaled(made, made.constant("w", rng.integers(0, 256, (5, 8)).astype(np.uint8), "UINT8"), 0.01, 131)
    b = _scaled(made, made.constant("b", rng.integers(-500, 500, 5).astype(np.int32), "INT32"), 0.0002)
    y = _scaled(made, made.tensor("y", (1, 5), "UINT8"), 0.05, 110)
    made.add("FULLY_CONNECTED", [x, w, b], [y], "FullyConnectedOptions")
    return made.model([x], [y])


def test_old_uint8_files(tmp_path: Path) -> None:
    path = graphs.save(uint8_dense(), tmp_path / "old.tflite")
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.integers(0, 256, (1, 8)).astype(np.uint8)} for _ in range(20)]
    assert compare(path, feeds) > CARRIED_DB


def packed_dense(*, units: int = 5, width: int = 7) -> tuple[Any, Any]:
    """Float rows times int4 weights, an odd number of them, two in a byte; and the weights in float."""
    rng = np.random.default_rng(0)
    made = Graph()
    values = rng.integers(-8, 8, (units, width)).astype(np.int8)
    low = np.append(values.ravel(), np.int8(0) if values.size % 2 else np.zeros(0, np.int8)).astype(np.int8)
    packed = (low[::2] & 15).view(np.uint8) | ((low[1::2] & 15).view(np.uint8) << 4)
    x, y = made.tensor("x", (1, width)), made.tensor("y", (1, units))
    w = made.constant("w", packed.astype(np.uint8), "INT4")
    made.tensors[w].shape = [units, width]
    scale = rng.uniform(0.01, 0.1, units).astype(np.float32)
    _scaled(made, w, scale)
    real = made.tensor("real", (units, width))
    made.add("DEQUANTIZE", [w], [real], "DequantizeOptions")
    made.add("FULLY_CONNECTED", [x, real, -1], [y], "FullyConnectedOptions")
    return made.model([x], [y]), values * scale[:, None]


def test_packed_int4(tmp_path: Path) -> None:
    """Against numpy: the layout in the byte is the schema's, low bits first."""
    model, weights = packed_dense()
    path = graphs.save(model, tmp_path / "packed.tflite")
    convert(path, tmp_path / "packed.onnx")
    x = np.random.default_rng(1).standard_normal((1, 7)).astype(np.float32)
    np.testing.assert_allclose(OrtSession(tmp_path / "packed.onnx").run({"x": x})["y"], x @ weights.T, rtol=1e-5)
    assert describe_onnx(tmp_path / "packed.onnx").state.numerics is Numerics.INT4_WEIGHTS


def test_int2_is_unpacked() -> None:
    assert quantized.unpacked(np.array([0b11_10_01_00], np.uint8), "INT2", 4).tolist() == [0, 1, -2, -1]


def test_blocks_of_int4(tmp_path: Path) -> None:
    """A scale for every four weights of a row, in a tensor of their own."""
    model, _ = packed_dense(units=4, width=8)
    graph = model.subgraphs[0]
    w = next(tensor for tensor in graph.tensors if tensor.name == b"w")
    scales = np.random.default_rng(2).uniform(0.01, 0.1, (4, 2)).astype(np.float16)
    model.buffers.append(new("BufferT", data=np.frombuffer(scales.tobytes(), np.uint8)))
    stored = new("TensorT", name=b"scales", shape=[4, 2], type=1, buffer=len(model.buffers) - 1)
    graph.tensors.append(stored)
    w.quantization = new("QuantizationParametersT", detailsType=2, details=new("BlockwiseQuantizationT", blockSize=4))
    w.quantization.details.scales = len(graph.tensors) - 1
    convert(graphs.save(model, tmp_path / "blocks.tflite"), tmp_path / "blocks.onnx")
    values = quantized.unpacked(model.buffers[w.buffer].data, "INT4", 32).reshape(4, 2, 4)
    weights = (values * scales.astype(np.float32)[:, :, None]).reshape(4, 8)
    x = np.random.default_rng(1).standard_normal((1, 8)).astype(np.float32)
    np.testing.assert_allclose(OrtSession(tmp_path / "blocks.onnx").run({"x": x})["y"], x @ weights.T, rtol=1e-5)


def test_scales_of_blocks_that_are_computed_are_refused(tmp_path: Path) -> None:
    model, _ = packed_dense(units=4, width=8)
    graph = model.subgraphs[0]
    graph.tensors.append(new("TensorT", name=b"scales", shape=[4, 2], type=1))
    w = next(tensor for tensor in graph.tensors if tensor.name == b"w")
    w.quantization = new("QuantizationParametersT", detailsType=2, details=new("BlockwiseQuantizationT", blockSize=4))
    w.quantization.details.scales = len(graph.tensors) - 1
    path = tmp_path / "odd.tflite"
    path.write_bytes(to_bytes(model))
    with pytest.raises(UnsupportedOperator, match="scales of w are computed"):
        convert_unread(path, tmp_path / "odd.onnx")


def test_cast_takes_the_integers_as_they_are(tmp_path: Path) -> None:
    made = Graph()
    x = _scaled(made, made.tensor("x", (1, 4), "INT8"), 0.5, 3)
    y = made.tensor("y", (1, 4))
    made.add("CAST", [x], [y], "CastOptions", inDataType=9, outDataType=0)
    path = graphs.save(made.model([x], [y]), tmp_path / "cast.tflite")
    convert(path, tmp_path / "cast.onnx")
    feeds = {"x": np.array([[-128, 0, 3, 127]], np.int8)}
    np.testing.assert_array_equal(OrtSession(tmp_path / "cast.onnx").run(feeds)["y"], [[-128, 0, 3, 127]])
    np.testing.assert_array_equal(LiteRtSession(path.read_bytes()).run(feeds)["y"], [[-128, 0, 3, 127]])


def test_fake_quant(tmp_path: Path) -> None:
    made = Graph()
    x, y = made.tensor("x", (1, 101)), made.tensor("y", (1, 101))
    made.add("FAKE_QUANT", [x], [y], "FakeQuantOptions", min=-1.0, max=2.1, numBits=4)
    made.codes[-1].version = 2
    path = graphs.save(made.model([x], [y]), tmp_path / "fake.tflite")
    convert(path, tmp_path / "fake.onnx")
    feeds = {"x": np.linspace(-3, 4, 101, dtype=np.float32)[None]}
    wanted, found = LiteRtSession(path.read_bytes()).run(feeds)["y"], OrtSession(tmp_path / "fake.onnx").run(feeds)["y"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "scale", "words"),
    [("INT8", [0.1, 0.2], "scale per channel"), ("INT32", [0.1], "quantized INT32"), ("INT8", [-0.1], "scale -0.1")],
)
def test_grids_that_have_no_form_are_refused(kind: str, scale: list[float], words: str, tmp_path: Path) -> None:
    made = Graph()
    x, y = made.tensor("x", (1, 2)), _scaled(made, made.tensor("y", (1, 2), kind), scale, axis=1)
    made.add("QUANTIZE", [x], [y], "QuantizeOptions")
    path = tmp_path / "odd.tflite"
    path.write_bytes(to_bytes(made.model([x], [y])))
    with pytest.raises(UnsupportedOperator, match=words):
        convert_unread(path, tmp_path / "odd.onnx")


def convert_unread(path: Path, output: Path) -> None:
    """Translate without LiteRT's own look at the file, which refuses some of these too."""
    from hub_tflite.to_onnx.importer import TfliteImporter

    TfliteImporter(parse(path.read_bytes())).run()
    assert not output.exists()


def test_every_numerics_has_its_edge() -> None:
    steps = steps_of([IMPORTER], {"tflite": TfliteFormat(), "onnx": OnnxFormat()})
    assert {step.source.numerics for step in steps} == set(TfliteFormat.numerics)
    assert IMPORTER.keeps_dynamic
    assert not IMPORTER.lossy
    differing = {(step.source.numerics, step.target.numerics) for step in steps} - {(item, item) for item in Numerics}
    assert differing == {(Numerics.INT8_MIXED, Numerics.INT8), (Numerics.INT8_DYNAMIC, Numerics.INT8_WEIGHTS)}
