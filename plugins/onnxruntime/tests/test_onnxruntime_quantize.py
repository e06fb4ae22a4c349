"""Quantizing edges: real models, results read with onnx and run in ONNX Runtime, and faults planted in both."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub.spec import (
    AlreadyQuantized,
    CalibrationError,
    ConvertJob,
    ConvertOptions,
    HubError,
    ModelArtifact,
    Numerics,
    Processor,
    Signature,
    State,
    StepOutput,
    UnsupportedModel,
    write_sample,
)
from hub_onnxquant import static
from hub_onnxquant.placement import Extent, place
from hub_onnxquant.qdq import Scheme, Signedness
from hub_onnxquant.recipe import Recipe
from hub_onnxquant.switches import measure_noise, with_switches
from hub_onnxquant.weights import Form, quantize_blocks
from hub_onnxruntime import large
from hub_onnxruntime.describe import summarize
from hub_onnxruntime.prepare import prepare, prepare_dynamic
from hub_onnxruntime.quantize.convert import QUANTIZING
from hub_onnxruntime.quantize.cpu import best_signedness
from hub_onnxruntime.quantize.source import open_source
from hub_onnxruntime.session import OrtSession
from plugins.onnxruntime.tests import onnx_graphs as graphs
from tests.zoo import data, fetch

Feeds = dict[str, Any]
EDGES = {edge.id: edge for edge in QUANTIZING}


def sqnr_db(expected: list[Feeds], found: list[Feeds]) -> float:
    """Of the worst output, computed here and not by the code under test."""
    worst = []
    for name in expected[0]:
        a = np.concatenate([item[name].ravel() for item in expected]).astype(np.float64)
        b = np.concatenate([item[name].ravel() for item in found]).astype(np.float64)
        worst.append(10 * np.log10((a @ a) / max((a - b) @ (a - b), 1e-30)))
    return float(min(worst))


def run(path: Path, samples: list[Feeds]) -> list[Feeds]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return [dict(zip(names, session.run(names, feeds), strict=True)) for feeds in samples]


class Workshop:
    """A float model, calibration samples in a folder, and other samples to judge on."""

    def __init__(self, folder: Path, model: Path, calibration: list[Feeds], test: list[Feeds]) -> None:
        self.folder, self.model, self.test = folder, model, test
        self.calibration = folder / "calibration"
        for index, feeds in enumerate(calibration):
            write_sample(self.calibration, index, feeds)
        self._runs = 0
        self._done: dict[str, tuple[StepOutput, Path]] = {}

    def job(self, edge: str) -> ConvertJob:
        self._runs += 1
        scratch = self.folder / f"scratch{self._runs}"
        scratch.mkdir()
        source = ModelArtifact(
            path=str(self.model),
            state=State(format="onnx", form="static"),
            signature=Signature(inputs=(), outputs=()),
            sha256="",
            size_bytes=self.model.stat().st_size,
        )
        samples = str(self.calibration) if EDGES[edge].needs_calibration else ""
        output = self.folder / f"result{self._runs}.onnx"
        (target,) = EDGES[edge].gives.states(Numerics.FP32)
        return ConvertJob(target=target, source=source, output=str(output), scratch=str(scratch), calibration=samples)

    def convert(self, edge: str) -> tuple[Path, StepOutput]:
        """Runs an edge, once."""
        if edge not in self._done:
            job = self.job(edge)
            self._done[edge] = EDGES[edge].convert(job), Path(job.output)
        done, path = self._done[edge]
        return path, done

    def sqnr_db(self, result: Path) -> float:
        return sqnr_db(run(self.model, self.test), run(result, self.test))


def rows(name: str, part: Any, count: int) -> list[Feeds]:
    arrays = data.feeds(name, part, count)
    return [{key: array[i : i + 1] for key, array in arrays.items()} for i in range(count)]


def workshop(folder: Path, name: str, count: int) -> Workshop:
    calibration = rows(name, "calibration", count)
    shapes = {key: array.shape for key, array in calibration[0].items()}
    (folder / "prepare").mkdir()
    prepare(fetch.path(name), folder / "float.onnx", folder / "prepare", shapes, {})
    return Workshop(folder, folder / "float.onnx", calibration, rows(name, "test", count))


@pytest.fixture(scope="module")
def ocr_cls(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return workshop(tmp_path_factory.mktemp("ocr_cls"), "ocr_cls", 4)


@pytest.fixture(scope="module")
def magika(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return workshop(tmp_path_factory.mktemp("magika"), "magika_onnx", 3)


@pytest.fixture(scope="module")
def vad(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("vad")
    (folder / "prepare").mkdir()
    shapes = {"input": (1, 576), "state": (2, 1, 128)}
    prepare(fetch.path("vad_onnx"), folder / "float.onnx", folder / "prepare", shapes, {"sr": 16000})
    parts = []
    for part, count in (("calibration", 16), ("test", 8)):
        arrays = data.feeds("vad_onnx", part, count)  # type: ignore[arg-type]  # the two words of `Part`
        parts.append([{key: arrays[key][i] for key in ("input", "state")} for i in range(count)])
    return Workshop(folder, folder / "float.onnx", *parts)


def stored(model: Any) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_int8_is_integer_from_one_convolution_to_the_next(ocr_cls: Workshop) -> None:
    path, done = ocr_cls.convert("onnx.int8")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    arrays = stored(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:
        weights = makers[node.input[1]]
        assert weights.op_type == "DequantizeLinear"
        assert [a.i for a in weights.attribute if a.name == "axis"] == [0]
        integers, scales, zeros = (arrays[name] for name in weights.input)
        assert scales.shape == zeros.shape == (integers.shape[0],)  # one scale per output channel
        assert len(set(zeros.tolist())) == 1  # uneven zero points run 6 times slower in ONNX Runtime
        assert int(zeros[0]) == (128 if integers.dtype == np.uint8 else 0)
        assert makers[node.input[0]].op_type == "DequantizeLinear"
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert summarize(path).state.numerics == Numerics.INT8
    assert ocr_cls.sqnr_db(path) > 20
    assert done.recipe is not None
    assert done.recipe.samples == 4
    assert done.recipe.settings["ranges"]
    assert not done.recipe.kept_float


def test_int8_kernels_are_integer_kernels(ocr_cls: Workshop, tmp_path: Path) -> None:
    """ONNX Runtime's own optimized graph: no convolution is left in float."""
    path, _ = ocr_cls.convert("onnx.int8")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    float_count = sum(node.op_type == "Conv" for node in onnx.load(ocr_cls.model).graph.node)
    assert counts["QLinearConv"] == float_count
    assert not counts["Conv"]


def test_symmetric_form_has_no_zero_points(magika: Workshop) -> None:
    path, done = magika.convert("onnx.int8-symmetric")
    model = onnx.load(path)
    arrays = stored(model)
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert quantizers
    assert all(arrays[node.input[2]].dtype == np.int8 and not arrays[node.input[2]].any() for node in quantizers)
    assert done.recipe is not None
    assert done.recipe.symmetric_activations
    assert magika.sqnr_db(path) > 15


def test_recurrent_layers_stay_in_float_and_are_named(vad: Workshop) -> None:
    verdict = EDGES["onnx.int8"].check(summarize(vad.model, "static"), ConvertOptions())
    assert not verdict
    assert "LSTM" in verdict.reason
    path, done = vad.convert("onnx.int8-mixed")
    assert summarize(path).state.numerics == Numerics.INT8_MIXED
    assert done.recipe is not None
    names = {node.name for node in onnx.load(path).graph.node if node.op_type == "LSTM"}
    assert names
    assert names <= set(done.recipe.kept_float)
    assert vad.sqnr_db(path) > 20


def test_mixed_keeps_the_layer_that_int8_hurts_most(tmp_path: Path) -> None:
    """Planted: one convolution whose input has an outlier 3,000 times its other values."""
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8 for i in range(3)}
    gain = np.ones((1, 8, 1, 1), np.float32)
    gain[0, 0] = 3000.0
    back = np.ones((8, 8, 3, 3), np.float32)
    back[:, 0] = 0.0003
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="plain", pads=[1] * 4),
        helper.make_node("Mul", ["a", "gain"], ["b"], name="spread"),
        helper.make_node("Tanh", ["a"], ["t"], name="tanh"),
        helper.make_node("Conv", ["b", "v1"], ["c"], name="fragile", pads=[1] * 4),
        helper.make_node("Conv", ["t", "w2"], ["d"], name="other", pads=[1] * 4),
        helper.make_node("Add", ["c", "d"], ["y"], name="sum"),
    ]
    arrays = {"w0": weights["w0"], "v1": weights["w1"] * back, "w2": weights["w2"], "gain": gain}
    shape = (1, 8, 12, 12)
    model = graphs.model(nodes, [graphs.value("x", shape)], [graphs.value("y", shape)], arrays)
    samples = [{"x": random.standard_normal(shape).astype(np.float32)} for _ in range(6)]
    shop = Workshop(tmp_path, graphs.saved(model, tmp_path / "m.onnx"), samples[:4], samples[4:])
    source = open_source(str(shop.model), str(shop.calibration))
    source.watch()
    recipe = Recipe(Extent.BETWEEN, "min-max", Scheme.of(Signedness.U8U8))
    trials = static.trials_of(source)
    placement = place(source.model, recipe.extent)
    noise = measure_noise(source, placement, static.ranges_of(source, placement, recipe.method), recipe.scheme)
    assert set(noise.names) == {"plain", "fragile", "other"}
    assert noise.names[int(noise.alone.sum(axis=1).argmax())] == "fragile"
    assert (noise.rest < 1e-9 * noise.signal).all()
    model, names = with_switches(source.model, placement, static.ranges_of(source, placement, "min-max"), recipe.scheme)
    on = source.session(model).run({**samples[0], "hub/switch": np.ones(len(names), bool)})["y"]
    whole = source.session(static.apply(source, recipe)).run(samples[0])["y"]
    wrong = np.square(whole - source.judge.expected[0]["y"]).sum()
    assert np.square(on - whole).sum() < wrong / 1000  # every switch on: the quantized model
    taken = static.mixed(source, trials, trials.attempt(recipe))
    assert taken.recipe.kept[0] == "fragile"
    assert taken.sqnr_db > trials.attempt(recipe).sqnr_db + 5
    assert re.search(r"1 layers in float: \d", trials.notes[-1].text)


def test_a_wrong_scale_is_seen_by_the_judge(magika: Workshop) -> None:
    """Planted: one activation's scale a tenth of what it is."""
    path, _ = magika.convert("onnx.int8")
    model = onnx.load(path)
    pair = [node for node in model.graph.node if node.op_type == "QuantizeLinear"][-1]
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == pair.input[1])
    right = magika.sqnr_db(path)
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / 10, scale.name))
    source = open_source(str(magika.model), str(magika.calibration))
    found = source.judge.sqnr_db(OrtSession(magika.model, content=model.SerializeToString()))
    assert found < right - 10


def test_dims_kept_open_with_samples_of_several_sizes(tmp_path: Path) -> None:
    """The text direction classifier's prepared form, calibrated at two widths, runs at a third."""
    (tmp_path / "prepare").mkdir()
    prepare_dynamic(fetch.path("ocr_cls"), tmp_path / "float.onnx", tmp_path / "prepare", {}, {})
    whole = rows("ocr_cls", "calibration", 3)
    sizes = ((48, 192), (48, 96), (32, 160))
    cut = [{"x": np.ascontiguousarray(feeds["x"][:, :, :h, :w])} for feeds, (h, w) in zip(whole, sizes, strict=True)]
    shop = Workshop(tmp_path, tmp_path / "float.onnx", cut[:2], cut[2:])
    path, done = shop.convert("onnx.int8")
    assert done.recipe is not None
    assert done.recipe.samples == 2
    before, after = run(shop.model, shop.test), run(path, shop.test)
    assert [v.shape for v in before[0].values()] == [v.shape for v in after[0].values()]
    assert summarize(path).signature == summarize(shop.model).signature


def test_a_stored_matrix_on_the_left_gets_one_scale(tmp_path: Path) -> None:
    """ONNX Runtime's kernel refuses one for each row, on the first run and not before."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["w", "x"], ["y"], "mix"), helper.make_node("Exp", ["y"], ["z"], "out")],
        "mixing",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [8, 16])],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [5, 16])],
        [numpy_helper.from_array(rng.normal(0, 0.3, (5, 8)).astype(np.float32), "w")],
    )
    path = tmp_path / "float.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    samples = [{"x": rng.normal(0, 1, (8, 16)).astype(np.float32)} for _ in range(24)]
    shop = Workshop(tmp_path, path, samples[:16], samples[16:])
    result, _ = shop.convert("onnx.int8")
    assert shop.sqnr_db(result) > 25
    scales = [tensor for tensor in onnx.load(result).graph.initializer if tensor.name == "w/scale"]
    assert [list(tensor.dims) for tensor in scales] == [[]]


def test_int16x8_is_closer_than_int8(magika: Workshop) -> None:
    wide, _ = magika.convert("onnx.int16x8")
    model = onnx.load(wide)
    assert next(entry.version for entry in model.opset_import if not entry.domain) >= 21
    assert summarize(wide).state.numerics == Numerics.INT16X8
    narrow, _ = magika.convert("onnx.int8")
    assert magika.sqnr_db(wide) > magika.sqnr_db(narrow)


def test_dynamic_int8(magika: Workshop) -> None:
    path, done = magika.convert("onnx.int8-dynamic")
    model = onnx.load(path)
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["MatMulInteger"] == 2
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert done.recipe is not None
    assert done.recipe.kept_float == ("Conv",)
    assert magika.sqnr_db(path) > 35


def test_dynamic_lstm_is_an_operator_of_the_runtime(vad: Workshop) -> None:
    path, _ = vad.convert("onnx.int8-dynamic-lstm")
    summary = summarize(path)
    assert summary.operators["com.microsoft::DynamicQuantizeLSTM"] == 1
    assert vad.sqnr_db(path) > 25


@pytest.mark.parametrize(("edge", "least", "share"), [("onnx.int8-weights", 35, 0.3), ("onnx.int4-weights", 15, 0.3)])
def test_weights_alone(magika: Workshop, edge: str, least: float, share: float) -> None:
    path, done = magika.convert(edge)
    assert done.recipe is not None
    assert summarize(path).state.numerics == done.recipe.numerics == EDGES[edge].gives.numerics
    assert path.stat().st_size < share * magika.model.stat().st_size
    assert not any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)
    assert magika.sqnr_db(path) > least


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_off_by_half_a_step_at_most(bits: int, symmetric: bool) -> None:
    array = np.random.default_rng(0).standard_normal((70, 6)).astype(np.float32)  # 70 is no multiple of 32
    found = quantize_blocks(array, 0, Form(bits, 32, symmetric=symmetric))
    assert found.scales.shape == found.zero_points.shape == (3, 6)
    scales, zeros = (np.repeat(part.astype(np.float32), 32, axis=0)[:70] for part in (found.scales, found.zero_points))
    error = np.abs((found.integers.astype(np.float32) - zeros) * scales - array)
    clipped = (1 if symmetric else 0.5) * np.abs(scales)  # the sign that has a step less may be cut by one
    assert (error <= clipped + 1e-6).all()


def test_a_table_is_looked_up_in_integers(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((100, 64)).astype(np.float32)
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    ids = graphs.value("ids", (2, 5), TensorProto.INT64)
    model = graphs.model([node], [ids], [graphs.value("y", (2, 5, 64))], {"table": table})
    feeds = [{"ids": np.arange(10).reshape(2, 5)}]
    shop = Workshop(tmp_path, graphs.saved(model, tmp_path / "m.onnx"), feeds, feeds)
    path, _ = shop.convert("onnx.int8-weights")
    first = onnx.load(path).graph.node[0]
    assert first.op_type == "Gather"
    assert stored(onnx.load(path))[first.input[0]].dtype == np.int8
    assert shop.sqnr_db(path) > 40


def test_large_model_in_low_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that models of gigabytes take: weights one by one, what stays float in a file beside the result."""
    random = np.random.default_rng(0)
    arrays = {"w": random.standard_normal((256, 256)).astype(np.float32), "odd": np.ones((300, 1, 256), np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "odd"], ["y"])]
    model = graphs.model(nodes, [graphs.value("x", (1, 256))], [graphs.value("y", (300, 1, 256))], arrays)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=1000)
    monkeypatch.setattr(large, "KEPT_BYTES", 2**10)
    monkeypatch.setattr("hub_onnxruntime.quantize.narrow.LARGE_BYTES", 2**10)
    monkeypatch.setattr("hub_onnxruntime.quantize.source.LARGE_BYTES", 2**10)
    feeds = [{"x": random.standard_normal((1, 256)).astype(np.float32)}]
    shop = Workshop(tmp_path, path, feeds, feeds)
    result, _ = shop.convert("onnx.int4-weights")
    assert result.with_name(f"{result.name}.data").is_file()
    assert shop.sqnr_db(result) > 15
    with pytest.raises(UnsupportedModel, match="gigabyte"):
        shop.convert("onnx.int8")


def test_float16_keeps_what_overflows(tmp_path: Path) -> None:
    """Planted: a sum of squares beyond 65504 between two layers, and a mask of -3.4e38."""
    random = np.random.default_rng(0)
    arrays = {
        "w": random.standard_normal((64, 64)).astype(np.float32),
        "big": np.array(400.0, np.float32),
        "mask": np.where(np.arange(64) < 32, 0, -3.4e38).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="product"),
        helper.make_node("Mul", ["a", "big"], ["b"], name="grow"),
        helper.make_node("Mul", ["b", "b"], ["c"], name="square"),
        helper.make_node("Sqrt", ["c"], ["d"], name="root"),
        helper.make_node("Add", ["d", "mask"], ["e"], name="masked"),
        helper.make_node("Softmax", ["e"], ["y"], name="softmax"),
        helper.make_node("MatMul", ["a", "w"], ["z"], name="after"),
    ]
    outputs = [graphs.value("y", (2, 64)), graphs.value("z", (2, 64))]
    model = graphs.model(nodes, [graphs.value("x", (2, 64))], outputs, arrays)
    feeds = [{"x": random.standard_normal((2, 64)).astype(np.float32) * np.float32(0.01)}]
    shop = Workshop(tmp_path, graphs.saved(model, tmp_path / "m.onnx"), feeds, feeds)
    path, done = shop.convert("onnx.fp16")
    assert done.recipe is not None
    assert {"square", "root", "masked"} <= set(done.recipe.kept_float)
    assert "product" not in done.recipe.kept_float
    result = onnx.load(path)
    types = {tensor.name: tensor.data_type for tensor in result.graph.initializer}
    product = next(node for node in result.graph.node if node.name == "product")
    assert types[product.input[1]] == TensorProto.FLOAT16
    assert [v.type.tensor_type.elem_type for v in (*result.graph.input, *result.graph.output)] == [
        TensorProto.FLOAT
    ] * 3
    assert all(np.isfinite(array).all() for array in run(path, feeds)[0].values())
    assert summarize(path).state.numerics == Numerics.FP16


def test_float16_of_a_real_model(magika: Workshop) -> None:
    path, _ = magika.convert("onnx.fp16")
    assert magika.sqnr_db(path) > 45
    assert path.stat().st_size < 0.55 * magika.model.stat().st_size


def test_quantized_models_are_not_quantized_again(magika: Workshop, tmp_path: Path) -> None:
    path, _ = magika.convert("onnx.int8")
    for edge in ("onnx.int8", "onnx.int4-weights", "onnx.fp16"):
        assert not EDGES[edge].check(summarize(path), ConvertOptions())
        again = Workshop(tmp_path / edge, path, rows("magika_onnx", "calibration", 1), [])
        with pytest.raises(AlreadyQuantized, match="int8 already"):
            again.convert(edge)


@pytest.mark.parametrize(
    ("edge", "reason"),
    [("onnx.int8", "nothing in the model"), ("onnx.int8-dynamic", "on the fly"), ("onnx.int4-weights", "no weight")],
)
def test_nothing_to_quantize(tmp_path: Path, edge: str, reason: str) -> None:
    model = graphs.model(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")], [graphs.value("x", (1, 4))], [graphs.value("y", (1, 4))]
    )
    feeds = [{"x": np.ones((1, 4), np.float32)}]
    shop = Workshop(tmp_path, graphs.saved(model, tmp_path / "m.onnx"), feeds, feeds)
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        shop.convert(edge)
    assert caught.value.hint


def damaged(kind: str) -> list[Feeds]:
    good = np.ones((1, 4), np.float32)
    return {
        "none": [],
        "shape": [{"x": np.ones((1, 5), np.float32)}],
        "name": [{"z": good}],
        "dtype": [{"x": good.astype(np.float64)}],
    }[kind]


@pytest.mark.parametrize("kind", ["none", "shape", "name", "dtype"])
def test_samples_that_do_not_fit(tmp_path: Path, kind: str) -> None:
    shop = Workshop(tmp_path, graphs.saved(graphs.dense(), tmp_path / "m.onnx"), damaged(kind), [])
    (tmp_path / "calibration").mkdir(exist_ok=True)
    with pytest.raises(CalibrationError) as caught:
        shop.convert("onnx.int8")
    assert caught.value.hint


def test_an_old_opset_is_refused_with_the_way_out(tmp_path: Path) -> None:
    model = graphs.dense()
    model.opset_import[0].version = 12
    feeds = [{"x": np.ones((1, 4), np.float32)}]
    shop = Workshop(tmp_path, graphs.saved(model, tmp_path / "m.onnx"), feeds, [])
    with pytest.raises(UnsupportedModel, match="opset 12"):
        shop.convert("onnx.int8")


def test_a_value_that_is_not_finite_has_no_range(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Log", ["x"], ["l"], name="log"),
        helper.make_node("MatMul", ["l", "w"], ["y"], name="product"),
    ]
    arrays = {"w": np.ones((4, 3), np.float32)}
    model = graphs.model(nodes, [graphs.value("x", (1, 4))], [graphs.value("y", (1, 3))], arrays)
    feeds = [{"x": np.zeros((1, 4), np.float32)}]
    shop = Workshop(tmp_path, graphs.saved(model, tmp_path / "m.onnx"), feeds, feeds)
    with pytest.raises(CalibrationError, match="not finite in y"):
        shop.convert("onnx.int8")


def test_an_activation_that_is_not_finite_has_no_range(tmp_path: Path) -> None:
    """Its infinity does not reach the output, so that only the ranges tell."""
    nodes = [
        helper.make_node("Log", ["x"], ["l"], name="log"),
        helper.make_node("MatMul", ["l", "w"], ["m"], name="product"),
        helper.make_node("Exp", ["m"], ["e"], name="exp"),
        helper.make_node("Add", ["e", "one"], ["y"], name="sum"),
    ]
    arrays = {"w": np.ones((4, 3), np.float32), "one": np.ones(3, np.float32)}
    model = graphs.model(nodes, [graphs.value("x", (1, 4))], [graphs.value("y", (1, 3))], arrays)
    feeds = [{"x": np.zeros((1, 4), np.float32)}]
    shop = Workshop(tmp_path, graphs.saved(model, tmp_path / "m.onnx"), feeds, feeds)
    with pytest.raises(CalibrationError, match="has no range"):
        shop.convert("onnx.int8")


def test_int8_mixed_goes_on_from_what_int8_tried(magika: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second edge in a process applies no recipe that the first one judged, and comes to the same."""
    source = open_source(str(magika.model), str(magika.calibration))
    source.watch()
    source.known.clear()
    scheme = Scheme.of(Signedness.U8U8)
    first = static.trials_of(source)
    best = static.best(source, first, scheme)
    monkeypatch.setattr(static, "insert", None)
    again = static.trials_of(source)
    assert static.best(source, again, scheme) is best
    assert again.notes == first.notes


@pytest.mark.parametrize(
    ("machine", "features", "form"),
    [
        ("x86_64", "fpu sse avx2 fma", Signedness.U8U8),
        ("x86_64", "avx2 avx512f avx512_vnni", Signedness.U8S8),
        ("x86_64", "avx2 avx_vnni", Signedness.U8S8),
        ("aarch64", "fp asimd asimddp", Signedness.S8S8),
        ("arm64", "", Signedness.S8S8),
        ("AMD64", "", Signedness.U8U8),
    ],
)
def test_signedness_follows_the_processor(machine: str, features: str, form: Signedness) -> None:
    found = Processor(name="some", features=frozenset(features.split()))
    assert best_signedness(machine, found) is form


def test_unsigned_weights_do_not_saturate(tmp_path: Path) -> None:
    """Extremes in: pairs of products beyond 16 bits, where u8s8 kernels without VNNI give half of the sum."""
    arrays = {"w": np.full((64, 32), 1.0, np.float32)}
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    model = graphs.model([node], [graphs.value("x", (16, 64))], [graphs.value("y", (16, 32))], arrays)
    feeds = [{"x": np.full((16, 64), 1.0, np.float32)}]
    shop = Workshop(tmp_path, graphs.saved(model, tmp_path / "m.onnx"), feeds, feeds)
    path, _ = shop.convert("onnx.int8")
    assert run(path, feeds)[0]["y"] == pytest.approx(64.0, rel=0.01)


@pytest.mark.scheduled
@pytest.mark.parametrize("name", ["ocr_det", "ocr_rec"])
def test_hard_models(tmp_path: Path, name: str) -> None:
    """Naive int8 of both is noise: ONNX Runtime's defaults give the detector 5 dB and the recogniser 1."""
    shop = workshop(tmp_path, name, 32)
    path, _ = shop.convert("onnx.int8")
    whole = shop.sqnr_db(path)
    assert whole > 13  # hub's gate for int8
    path, done = shop.convert("onnx.int8-mixed")
    assert done.recipe is not None
    assert done.recipe.kept_float
    assert shop.sqnr_db(path) > whole + 2


def test_errors_are_hubs_own(tmp_path: Path) -> None:
    """Whatever is wrong with a model arrives as an error with a code."""
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    shop = Workshop(tmp_path, path, [{"x": np.ones((1, 4), np.float32)}], [])
    for edge in EDGES:
        with pytest.raises(HubError):
            shop.convert(edge)
