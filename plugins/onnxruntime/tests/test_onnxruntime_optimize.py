"""ONNX Runtime's offline optimization: the same model, with its operators, right and readable elsewhere."""

from __future__ import annotations

import importlib
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hub._steps import steps_of
from hub.spec import PREPARED, STATIC, ConvertOptions, Numerics, Support
from hub_onnxruntime import large
from hub_onnxruntime.describe import OnnxFormat, summarize
from hub_onnxruntime.optimize import OPTIMIZING
from hub_onnxruntime.plugin import PREPARE, PREPARE_DYNAMIC
from plugins.onnxruntime.tests import onnx_graphs as graphs
from plugins.onnxruntime.tests import ort_models as models
from tests.zoo import fetch


def border(path: Path) -> list[tuple[str, Any]]:
    """Names, types and dims of inputs and outputs, as onnx reads them."""
    graph = onnx.load(path, load_external_data=False).graph
    return [(value.name, value.type.tensor_type.elem_type) for value in (*graph.input, *graph.output)]


def open_dims(path: Path) -> list[tuple[str, int]]:
    graph = onnx.load(path).graph
    return [(v.name, sum(d.dim_value <= 0 for d in v.type.tensor_type.shape.dim)) for v in graph.input]


def domains(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node if node.domain == "com.microsoft")


def close(found: list[Any], wanted: list[Any]) -> bool:
    pairs = zip(found, wanted, strict=True)
    return all(np.allclose(a, b, atol=1e-4 * max(1.0, np.abs(b).max())) for a, b in pairs)


def test_every_numerics_and_form_has_its_ways() -> None:
    steps = steps_of((*OPTIMIZING, PREPARE, PREPARE_DYNAMIC), {"onnx": OnnxFormat()})
    ways = {(step.source.form, step.target.form, step.target.numerics) for step in steps}
    forms = itertools.product(OnnxFormat.numerics, ("", STATIC, PREPARED), ("onnxruntime", "ort"))
    for numerics, source, form in forms:
        assert (source, form, numerics) in ways
    assert not any(edge.lossy for edge in OPTIMIZING)


@pytest.mark.parametrize(
    ("name", "made"),
    [("ocr_cls", "FusedConv"), ("ocr_det", "FusedConv"), ("vad_fixed_onnx", "FusedConv"), ("magika_onnx", "")],
)
def test_real_models_compute_the_same(name: str, made: str, tmp_path: Path) -> None:
    source = fetch.path(name)
    path, done = models.convert("onnxruntime.optimize", source, tmp_path)
    assert close(models.plain_run(path, models.sample(name)), models.plain_run(source, models.sample(name)))
    assert border(path) == border(source)
    assert open_dims(path) == open_dims(source)
    assert not made or domains(path)[made]
    assert "nchwc" not in str(onnx.load(path).graph.node)
    summary = summarize(path, "onnxruntime")
    assert summary.state.form == "onnxruntime"
    assert not summary.custom_operators
    assert any(note.text.startswith("ONNX Runtime: ") for note in done.notes)
    assert any("level extended" in note.text for note in done.notes)


@pytest.mark.scheduled
@pytest.mark.parametrize("name", ["ocr_rec", "vad_onnx", "vad_half_onnx", "vad_ifless_onnx"])
def test_harder_real_models_compute_the_same(name: str, tmp_path: Path) -> None:
    path, _ = models.convert("onnxruntime.optimize", fetch.path(name), tmp_path)
    assert close(models.plain_run(path, models.sample(name)), models.plain_run(fetch.path(name), models.sample(name)))
    assert open_dims(path) == open_dims(fetch.path(name))


def test_int8_stays_int8_and_becomes_integer_operators(tmp_path: Path) -> None:
    source = models.qdq("ocr_cls", tmp_path)
    path, _ = models.convert("onnxruntime.optimize", source, tmp_path)
    kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert kinds["QLinearConv"] == 53
    assert not kinds["Conv"]
    assert summarize(path, "onnxruntime").state.numerics == summarize(source).state.numerics == Numerics.INT8
    wanted = models.plain_run(source, models.sample("ocr_cls"))
    assert close(models.plain_run(path, models.sample("ocr_cls")), wanted)


def test_int8_dynamic_stays_what_it_is(tmp_path: Path) -> None:
    source = models.dynamic(models.attention(tmp_path), tmp_path)
    path, _ = models.convert("onnxruntime.optimize", source, tmp_path)
    assert domains(path).keys() & {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
    assert summarize(path, "onnxruntime").state.numerics == Numerics.INT8_DYNAMIC
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 5, 32)).astype(np.float32)}
    assert close(models.plain_run(path, feeds), models.plain_run(source, feeds))


def test_float16_says_what_the_processor_makes_of_it(tmp_path: Path) -> None:
    source = models.half(fetch.path("ocr_cls"), tmp_path)
    path, done = models.convert("onnxruntime.optimize", source, tmp_path)
    assert any("casts around float16 operators" in note.text for note in done.notes)
    assert summarize(path, "onnxruntime").state.numerics == Numerics.FP16
    stored = Counter(tensor.data_type for tensor in onnx.load(path).graph.initializer)
    assert stored.most_common(1)[0][0] == onnx.TensorProto.FLOAT16
    wanted = models.plain_run(source, models.sample("ocr_cls"))
    assert close(models.plain_run(path, models.sample("ocr_cls")), wanted)


def test_attention_is_fused_and_open_dims_stay_open(tmp_path: Path) -> None:
    source = models.attention(tmp_path)
    path, done = models.convert("onnxruntime.optimize", source, tmp_path)
    assert domains(path)["Attention"] == 1
    assert domains(path)["SkipLayerNormalization"] == 1
    assert any("(bert): 1 Attention, 1 SkipLayerNormalization" in note.text for note in done.notes)
    for shape in ((1, 3, 32), (2, 7, 32)):
        feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
        assert close(models.plain_run(path, feeds), models.plain_run(source, feeds))


def spoilt(model: Any, *_: Any) -> Any:
    """A planted fault: the fused graph with one weight doubled."""
    optimizer = importlib.import_module("onnxruntime.transformers.optimizer")
    fused = optimizer.optimize_by_fusion.original(model, *_)
    tensor = next(item for item in fused.model.graph.initializer if item.name == "o_w")
    tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), "o_w"))
    return fused


def failing(_model: Any, *_: Any) -> Any:
    raise KeyError("a pattern that is none")


@pytest.mark.parametrize(
    ("fault", "words"), [(spoilt, "undid the bert fusions"), (failing, "they failed with KeyError")]
)
def test_a_fusion_that_is_wrong_or_fails_is_undone_and_said(
    fault: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = importlib.import_module("onnxruntime.transformers.optimizer")
    fault.original = optimizer.optimize_by_fusion
    monkeypatch.setattr(optimizer, "optimize_by_fusion", fault)
    source = models.attention(tmp_path)
    path, done = models.convert("onnxruntime.optimize", source, tmp_path)
    assert any(words in note.text for note in done.notes), done.notes
    assert not domains(path)["Attention"]
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 5, 32)).astype(np.float32)}
    assert close(models.plain_run(path, feeds), models.plain_run(source, feeds))


def test_weights_of_a_large_model_stay_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE_BYTES", 1000)
    source = models.attention(tmp_path)
    path, done = models.convert("onnxruntime.optimize", source, tmp_path)
    assert {file.name for file in path.parent.iterdir()} == {"m.onnx", "m.onnx.data"}
    assert any("no transformer fusions" in note.text for note in done.notes)
    assert summarize(path, "onnxruntime").files == (str(path), str(path.with_name("m.onnx.data")))
    feeds = {"x": np.ones((1, 3, 32), np.float32)}
    assert close(models.plain_run(path, feeds), models.plain_run(source, feeds))


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first, _ = models.convert("onnxruntime.optimize", fetch.path("ocr_cls"), tmp_path / "a")
    second, _ = models.convert("onnxruntime.optimize", fetch.path("ocr_cls"), tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_what_it_does_not_take_it_says(tmp_path: Path) -> None:
    plain, ort = OPTIMIZING
    summary = summarize(graphs.saved(graphs.dense(["n", 4]), tmp_path / "m.onnx"))
    assert plain.check(summary, ConvertOptions())
    assert "onnx.prepare fixes shapes" in plain.check(summary, ConvertOptions(shapes={"x": (1, 4)})).reason
    foreign = summarize(graphs.saved(graphs.custom_operator(), tmp_path / "c.onnx"))
    assert plain.check(foreign, ConvertOptions()).support is Support.NEVER
    huge = msgspec.structs.replace(summary, size_bytes=2**31)
    assert plain.check(huge, ConvertOptions())
    assert "2147483647" in ort.check(huge, ConvertOptions()).reason


@pytest.mark.parametrize("suffix", [".onnx", ".ort"])
def test_the_runtimes_name_is_a_target(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through hub's own door: planned, run in a worker, checked by the reader, compared at two sizes, published."""
    import hub

    monkeypatch.setenv("HUB_CACHE_DIR", str(tmp_path / "cache"))
    output = tmp_path / f"block{suffix}"
    receipt = hub.convert(models.attention(tmp_path), to="onnxruntime", output=output)
    assert receipt.result.state.form == {".onnx": "onnxruntime", ".ort": "ort"}[suffix]
    assert receipt.parity.passed
    assert len({item.runtime for item in receipt.parity.outputs}) == 2
    assert receipt.execution is not None
    assert "com.microsoft::Attention" in receipt.execution.executed
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 4, 32)).astype(np.float32)}
    assert close(models.plain_run(output, feeds), models.plain_run(tmp_path / "attention.onnx", feeds))
