"""What ONNX Runtime makes of a model: every operator of the file accounted for, precision as it really ran."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from hub.spec import Execution, Processor
from hub_onnxquant import runtime_options
from hub_onnxruntime import execution as execution_module
from hub_onnxruntime.accounting import account
from hub_onnxruntime.profiling import kernels_of
from hub_onnxruntime.runtime import ExplainedSession
from plugins.onnxruntime.tests import onnx_graphs as graphs
from plugins.onnxruntime.tests import ort_models as models
from tests.zoo import fetch

MULTIPLY = {"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "MatMulInteger"}


def explained(path: Path, feeds: dict[str, Any]) -> Execution:
    return ExplainedSession(path, threads=1).execution(feeds)


def operators(path: Path) -> Counter[str]:
    """What onnx reads in the file: main graph and subgraphs, constants not counted."""

    def walk(graph: Any) -> Counter[str]:
        nodes = [node for node in graph.node if node.op_type != "Constant"]
        counts = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    counts += walk(attribute.g)
        return counts

    return walk(onnx.load(path).graph)


def closes(execution: Execution, path: Path) -> bool:
    """Whether covers and eliminated together are the file's operators: none is forgotten, none is invented."""
    written = operators(path)
    covered = Counter(name for layer in execution.layers for name in layer.covers)
    assert Counter(execution.operators) == written
    assert set(covered) <= set(written)
    gone = Counter(execution.eliminated)
    return all(covered[name] + gone[name] >= count and gone[name] <= count for name, count in written.items())


REAL = {
    "ocr_cls": "Conv + BatchNormalization + Relu -> com.microsoft.nchwc::Conv",
    "ocr_det": "Conv + HardSigmoid -> com.microsoft.nchwc::Conv",
    "magika_onnx": "MatMul + Add -> Gemm",
    "vad_fixed_onnx": "Conv + Relu -> com.microsoft::FusedConv",
}


@pytest.mark.parametrize("name", REAL)
def test_the_account_of_real_models_closes(name: str) -> None:
    path = fetch.path(name)
    execution = explained(path, models.sample(name))
    assert closes(execution, path)
    assert not MULTIPLY & set(execution.eliminated)
    covered = Counter(word for layer in execution.layers for word in layer.covers if word in MULTIPLY)
    assert covered == Counter({key: count for key, count in operators(path).items() if key in MULTIPLY})
    assert set(execution.by_device) == {"CPUExecutionProvider"}
    assert sum(layer.time_share or 0.0 for layer in execution.layers) == pytest.approx(1.0)
    assert execution.timed_by == "ONNX Runtime's profile of 5 runs"
    assert set(execution.by_precision) <= {"fp32", "integer", "conversion"}
    assert execution.settings["graph optimization level"] == "ORT_ENABLE_ALL"
    assert name.startswith("ocr") is False or REAL[name] in execution.fusions or not _has_nchwc(execution)
    assert name.startswith("ocr") or REAL[name] in execution.fusions


def _has_nchwc(execution: Execution) -> bool:
    """Whether this processor has the blocked layouts: x86 and ARM have, others not."""
    return any("nchwc" in layer.operator for layer in execution.layers)


@pytest.mark.scheduled
@pytest.mark.parametrize("name", ["ocr_rec", "vad_onnx", "vad_half_onnx", "vad_ifless_onnx"])
def test_the_account_of_harder_models_closes(name: str) -> None:
    """The detectors of voice hold two models, of which the sample rate chooses one: the other is eliminated."""
    execution = explained(fetch.path(name), models.sample(name))
    assert closes(execution, fetch.path(name))
    done = {word for layer in execution.layers for word in layer.covers}
    assert MULTIPLY & set(operators(fetch.path(name))) <= done


def test_the_account_of_an_int8_model_closes(tmp_path: Path) -> None:
    path = models.qdq("ocr_cls", tmp_path)
    execution = explained(path, models.sample("ocr_cls"))
    assert closes(execution, path)
    whole = "DequantizeLinear + DequantizeLinear + DequantizeLinear + Conv + QuantizeLinear"
    fused = {name: count for name, count in execution.fusions.items() if name.startswith(whole)}
    assert sum(fused.values()) == operators(path)["Conv"] == 53
    assert not MULTIPLY & set(execution.eliminated)
    int8 = {layer.operator for layer in execution.layers if layer.precision == "int8"}
    assert {"com.microsoft::QLinearConv", "com.microsoft::QGemm"} <= int8
    assert not any("QDQ pairs not fused" in obstacle.text for obstacle in execution.remarks)


def test_pairs_that_the_kernels_do_not_fuse_are_an_obstacle(tmp_path: Path) -> None:
    """Signed activations: ONNX Runtime 1.32 fuses 31 of the 53 convolutions, and the profile shows the others."""
    from onnxruntime.quantization import QuantType

    path = models.qdq("ocr_cls", tmp_path, activation_type=QuantType.QInt8)
    execution = explained(path, models.sample("ocr_cls"))
    assert closes(execution, path)
    floats = [layer for layer in execution.layers if layer.operator.endswith("Conv") and layer.precision == "fp32"]
    words = [obstacle for obstacle in execution.remarks if "QDQ pairs not fused" in obstacle.text]
    assert bool(words) == bool(floats)
    if floats:
        assert int(words[0].text.split()[0]) >= len(floats)


def test_one_operator_forced_into_float_between_quantized_ones_is_named(tmp_path: Path) -> None:
    """A planted fault: the float output of one convolution is an output of the model too, so it has to stay float."""
    stored = {
        "s": np.float32(0.05), "z": np.uint8(128), "ws": np.float32(0.02), "wz": np.int8(0),
        "w": np.random.default_rng(0).integers(-50, 50, (4, 4, 3, 3)).astype(np.int8),
    }  # fmt: skip

    def convolution(source: str, name: str) -> list[Any]:
        return [
            helper.make_node("DequantizeLinear", [source, "s", "z"], [f"{name}_x"]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], [f"{name}_w"]),
            helper.make_node("Conv", [f"{name}_x", f"{name}_w"], [f"{name}_y"], name=name, pads=[1, 1, 1, 1]),
            helper.make_node("QuantizeLinear", [f"{name}_y", "s", "z"], [f"{name}_q"]),
        ]

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        *convolution("xq", "first"),
        *convolution("first_q", "second"),
        helper.make_node("DequantizeLinear", ["second_q", "s", "z"], ["y"]),
    ]
    dims = [1, 4, 8, 8]
    outputs = [graphs.value("y", dims), graphs.value("second_y", dims)]
    feeds = {"x": np.ones(dims, np.float32)}
    for kept, count in ((outputs[:1], 0), (outputs, 1)):
        path = graphs.saved(graphs.model(nodes, [graphs.value("x", dims)], kept, stored), tmp_path / f"{count}.onnx")
        execution = explained(path, feeds)
        assert closes(execution, path)
        products = Counter(layer.precision for layer in execution.layers if "Conv" in layer.covers)
        assert products == Counter({"int8": 2 - count} | ({"fp32": 1} if count else {}))
        said = [obstacle for obstacle in execution.remarks if "QDQ pairs not fused" in obstacle.text]
        assert len(said) == count
        assert all("1 QDQ pairs" in obstacle.text and "'second" in obstacle.text for obstacle in said)


def test_dynamic_quantization_is_told_from_static(tmp_path: Path) -> None:
    path = models.dynamic(models.attention(tmp_path), tmp_path)
    execution = explained(path, {"x": np.ones((2, 5, 32), np.float32)})
    assert closes(execution, path)
    assert execution.by_precision["int8-dynamic"].layers == operators(path)["MatMulInteger"]


def test_float16_on_the_processor_is_computed_in_float32_and_said(tmp_path: Path) -> None:
    path = models.half(fetch.path("ocr_cls"), tmp_path)
    execution = explained(path, models.sample("ocr_cls"))
    assert closes(execution, path)
    assert {layer.precision for layer in execution.layers if "Conv" in layer.operator} == {"fp32"}
    assert any("casts around float16 operators" in obstacle.text for obstacle in execution.remarks)


def test_an_operator_that_moves_integers_is_integer(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Concat", ["shape", "one"], ["longer"], axis=0),
        helper.make_node("Reshape", ["x", "longer"], ["y"]),
    ]
    proto = graphs.model(
        nodes, [graphs.value("x", ["n", 4])], [graphs.value("y", ["n", 4, 1])], {"one": np.array([1], np.int64)}
    )
    execution = explained(graphs.saved(proto, tmp_path / "m.onnx"), {"x": np.ones((2, 4), np.float32)})
    found = {layer.operator: layer.precision for layer in execution.layers}
    assert found["Concat"] == "integer"
    assert found["Reshape"] == "fp32"


def test_an_optimized_file_is_explained_in_its_own_operators(tmp_path: Path) -> None:
    path, _ = models.convert("onnxruntime.optimize", models.attention(tmp_path), tmp_path)
    execution = explained(path, {"x": np.ones((2, 5, 32), np.float32)})
    assert execution.operators["com.microsoft::Attention"] == 1
    assert any(layer.covers == ("com.microsoft::Attention",) for layer in execution.layers)


def test_convolutions_of_an_optimized_file_are_credited_to_convolutions_alone(tmp_path: Path) -> None:
    path, _ = models.convert("onnxruntime.optimize", fetch.path("ocr_cls"), tmp_path)
    execution = explained(path, models.sample("ocr_cls"))
    assert closes(execution, path)
    convolutions = {"Conv", "com.microsoft::FusedConv"}
    others = [layer for layer in execution.layers if not layer.operator.endswith("Conv")]
    assert not [layer for layer in others if convolutions & set(layer.covers)]
    covered = Counter(word for layer in execution.layers for word in layer.covers if word in convolutions)
    assert covered.total() == 53
    if _has_nchwc(execution):
        assert execution.fusions["Conv + HardSigmoid + Mul -> com.microsoft.nchwc::Conv"] == 18


@pytest.mark.parametrize(("features", "said"), [({"avx2"}, True), ({"avx2", "avx512_vnni"}, False), (set(), False)])
def test_the_processor_is_asked_for_its_int8_products(
    features: set[str], said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = Processor(name="some chip", features=frozenset(features))
    monkeypatch.setattr(execution_module, "processor", lambda: chip)
    path = models.dynamic(models.attention(tmp_path), tmp_path)
    found = explained(path, {"x": np.ones((2, 5, 32), np.float32)}).remarks
    obstacles = [remark.text for remark in found if remark.kind == "obstacle"]
    assert any("no int8 dot product: 4 int8 operators" in text for text in obstacles) == said


@pytest.mark.parametrize(("features", "saturates"), [({"avx2"}, True), ({"avx2", "avx512_vnni"}, False)])
def test_products_that_saturate_by_default_are_told_and_computed_exactly_where_pinned(
    features: set[str], saturates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = Processor(name="some chip", features=frozenset(features))
    for module in (execution_module, runtime_options):
        monkeypatch.setattr(module, "processor", lambda: chip)
    path = models.dynamic(models.attention(tmp_path), tmp_path)
    feeds = {"x": np.ones((2, 5, 32), np.float32)}
    assert ExplainedSession(path).exact == saturates
    pinned, plain = ExplainedSession(path), ExplainedSession(path, exact=False)
    assert all(remark.kind != "deviation" for remark in pinned.execution(feeds).remarks)
    said = [remark for remark in plain.execution(feeds).remarks if remark.kind == "deviation"]
    assert bool(said) == saturates
    assert all("multiply u8 by s8" in item.text and f"{runtime_options.EXACT}=1" in item.hint for item in said)


def test_integers_in_weights_alone_are_left_to_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's exact mode takes the zero points of such weights apart."""
    chip = Processor(name="some chip", features=frozenset({"avx2"}))
    monkeypatch.setattr(runtime_options, "processor", lambda: chip)
    stored = {"w": np.ones((4, 4), np.int8), "s": np.float32(1), "z": np.int8(0)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"]),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    model = graphs.model(nodes, [graphs.value("x", [1, 4])], [graphs.value("y", [1, 4])], stored)
    assert not ExplainedSession(graphs.saved(model, tmp_path / "m.onnx")).exact
    assert not ExplainedSession(tmp_path / "m.onnx", content=model.SerializeToString()).exact


def test_a_product_of_two_signed_activations_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them is transposed between its pair: ONNX Runtime makes the other u8 and leaves this one s8."""
    stored = {"s": np.float32(0.01), "z": np.int8(0), "t": np.float32(0.2)}
    nodes = [
        *(helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]) for name in "ab"),
        helper.make_node("Transpose", ["b_q"], ["bt_q"], perm=[0, 2, 1]),
        *(helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"]) for name in ("a", "bt")),
        helper.make_node("MatMul", ["a_d", "bt_d"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "t", "z"], ["m_q"]),
        helper.make_node("DequantizeLinear", ["m_q", "t", "z"], ["y"]),
    ]
    inputs = [graphs.value(name, [1, 6, 8]) for name in "ab"]
    model = graphs.model(nodes, inputs, [graphs.value("y", [1, 6, 6])], stored, opset=20)
    path = graphs.saved(model, tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    feeds = {name: rng.uniform(-1.28, 1.27, (1, 6, 8)).astype(np.float32) for name in "ab"}
    wanted = ReferenceEvaluator(model).run(None, feeds)[0]
    assert np.array_equal(ExplainedSession(path).run(feeds)["y"], wanted)
    monkeypatch.setattr(runtime_options, "processor", lambda: Processor(name="chip", features=frozenset({"avx2"})))
    assert runtime_options.exact_setting(path) == runtime_options.SIGNED
    dynamic = models.dynamic(models.attention(tmp_path), tmp_path)
    assert runtime_options.exact_setting(dynamic) == runtime_options.EXACT


def test_the_session_can_be_used_as_before_afterwards() -> None:
    session, feeds = ExplainedSession(fetch.path("ocr_cls")), models.sample("ocr_cls")
    before = session.run(feeds)
    session.execution(feeds)
    after = session.run(feeds)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_an_operator_that_nothing_executes_is_eliminated_and_not_credited() -> None:
    """The walk stops at what exists and at what is constant: a dead branch is nobody's work."""
    dead = helper.make_node("Relu", ["x"], ["nowhere"], name="dead")
    sum_ = helper.make_node("Add", ["x", "x"], ["s"], name="sum")
    rest = helper.make_node("Neg", ["s"], ["y"], name="rest")
    border = [graphs.value("x", [2])], [graphs.value("y", [2])]
    file = graphs.model([dead, sum_, rest], *border).graph
    books = account(file, graphs.model([sum_, rest], *border).graph)
    assert [books.words(place) for place in range(2)] == [("Add",), ("Neg",)]
    assert books.eliminated([0, 1]) == ["Relu"]
    assert books.eliminated([1]) == ["Relu", "Add"]


def event(name: str, ts: int, dur: int) -> dict[str, Any]:
    args = {"op_name": name.title(), "provider": "CPU", "node_index": "0"}
    return {"cat": "Node", "tid": 1, "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def test_the_time_of_a_body_is_not_the_loops_too() -> None:
    runs = [{"cat": "Session", "name": "model_run", "ts": at, "dur": 90, "tid": 1} for at in (0, 100)]
    first = [event("loop", 5, 80), event("body", 10, 20)]
    second = [event("loop", 105, 70), event("body", 110, 20), event("body", 140, 30)]
    seconds = {kernel.name: round(kernel.seconds * 1e6) for kernel in kernels_of([*runs, *first, *second])}
    assert seconds == {"loop": 20, "body": 50}
