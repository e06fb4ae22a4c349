"""The reader, the numerics judge, the runtime and the hooks."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from hub.spec import (
    DeviceMissing,
    Layer,
    ModelArtifact,
    ModelNotFound,
    ModelUnreadable,
    Numerics,
    RuntimeOptions,
    Signature,
    State,
    StepError,
    UsageError,
    parse_expectations,
)
from hub_tflite import plugin
from hub_tflite.describe import describe_file
from hub_tflite.numerics import decide
from hub_tflite.rewrite import STATIC, apply, rename
from hub_tflite.runtime import VARIANTS, LiteRtRuntime, LiteRtSession
from hub_tflitefile.schema import code_of, new, parse, read, to_bytes
from plugins.tflite.tests import tflite_graphs as graphs


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return graphs.save(graphs.classifier(), tmp_path / "digits.tflite")


def test_summary(digits: Path) -> None:
    summary = describe_file(digits)
    assert summary.state == State(format="tflite")
    assert list(map(str, summary.signature.inputs)) == ["image: float32[1x64]"]
    assert list(map(str, summary.signature.outputs)) == ["scores: float32[1x10]"]
    assert summary.operators == {"FULLY_CONNECTED": 2, "RELU": 1, "SOFTMAX": 1}
    assert summary.parameters == 64 * 64 + 64 + 64 * 10 + 10
    assert summary.size_bytes == digits.stat().st_size
    assert summary.layers[0] == Layer(name="hidden", operator="FULLY_CONNECTED", precision="fp32")
    assert not summary.findings


def test_identification_reads_the_header_only(digits: Path) -> None:
    found = plugin.hub_identify_format(digits, digits.read_bytes()[:64])
    assert found is not None
    assert found.format == "tflite"
    assert plugin.hub_identify_format(digits, b"PK\x03\x04 a zip file") is None
    assert plugin.hub_identify_format(digits, b"") is None


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x00" * 4 + b"TFL3", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 4000])
def test_broken_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelUnreadable):
        describe_file(path)


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tflite", tmp_path):
        with pytest.raises(ModelNotFound):
            describe_file(path)


@pytest.mark.parametrize("length", [20, 100, 1000, 5000, 15000])
def test_truncated(length: int, digits: Path) -> None:
    digits.write_bytes(digits.read_bytes()[:length])
    with pytest.raises(ModelUnreadable, match="truncated or corrupt"):
        describe_file(digits)


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_are_read_or_refused(seed: int, digits: Path) -> None:
    generator = np.random.default_rng(seed)
    content = bytearray(digits.read_bytes())
    for place in generator.integers(8, len(content), 20):
        content[place] = generator.integers(256)
    digits.write_bytes(content)
    with contextlib.suppress(ModelUnreadable):  # anything else, a crash of the process most of all, fails
        assert describe_file(digits).layers


def test_index_out_of_range(digits: Path) -> None:
    model = read(digits)
    model.subgraphs[0].operators[0].inputs = [0, 99, 1]
    with pytest.raises(ModelUnreadable, match=r"99 of \d+"):
        parse(to_bytes(model))


@pytest.mark.parametrize(
    ("computing", "weighted", "numerics"),
    [
        (["int8", "int8"], ["int8"], Numerics.INT8),
        (["int8", "fp32"], ["int8"], Numerics.INT8_MIXED),
        (["int8", "int8-weights"], ["int8"], Numerics.INT8_MIXED),
        (["int16x8", "int16"], ["int16x8"], Numerics.INT16X8),
        (["int8-dynamic", "fp32"], ["int8-dynamic", "fp32"], Numerics.INT8_DYNAMIC),
        (["int4-weights", "int8-weights"], ["int4-weights", "int8-weights"], Numerics.INT4_WEIGHTS),
        (["int8-weights", "fp32"], ["int8-weights"], Numerics.INT8_WEIGHTS),
        (["fp16-weights"], ["fp16-weights"], Numerics.FP16),
        (["fp32"], ["fp32"], Numerics.FP32),
        (["fp32"], ["int8-dynamic"], Numerics.INT8_DYNAMIC),  # an embedding table
        ([], [], Numerics.FP32),
    ],
)
def test_one_word_for_a_file(computing: list[str], weighted: list[str], numerics: Numerics) -> None:
    def layers(precisions: list[str]) -> list[Layer]:
        return [Layer(name="", operator="", precision=precision) for precision in precisions]

    assert decide(layers(computing), layers(weighted)) is numerics


def test_symbolic_dimensions_and_resize(tmp_path: Path) -> None:
    model = graphs.classifier()
    for index in (*model.subgraphs[0].inputs, *model.subgraphs[0].outputs):
        tensor = model.subgraphs[0].tensors[index]
        tensor.shapeSignature = [-1, *tensor.shape[1:]]
    path = graphs.save(model, tmp_path / "digits.tflite")
    assert list(map(str, describe_file(path).signature.inputs)) == ["image: float32[image_0x64]"]
    session = LiteRtSession(path.read_bytes())
    images = graphs.digits()[0]
    together = session.run({graphs.INPUT: images[:5]})[graphs.OUTPUT]
    assert together.shape == (5, 10)
    alone = session.run({graphs.INPUT: images[:1]})[graphs.OUTPUT]
    np.testing.assert_allclose(together[:1], alone, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_are_copies(variant: str, digits: Path) -> None:
    session = LiteRtSession(digits.read_bytes(), variant)
    images = graphs.digits()[0]
    first = session.run({graphs.INPUT: images[:1]})[graphs.OUTPUT]
    kept = first.copy()
    session.run({graphs.INPUT: images[1:2]})
    np.testing.assert_array_equal(first, kept)
    session.close()


def counter(tmp_path: Path) -> Path:
    """A fused SVDF: its state is a variable tensor."""
    made = graphs.Graph()
    source, result = made.tensor("x", (1, 3)), made.tensor("y", (1, 2))
    feature = made.constant("feature", np.ones((2, 3), np.float32))
    time = made.constant("time", np.ones((2, 4), np.float32))
    state = made.tensor("state", (1, 8), isVariable=True)
    made.add("SVDF", [source, feature, time, -1, state], [result], "SVDFOptions", rank=1)
    return graphs.save(made.model([source], [result]), tmp_path / "counter.tflite")


def test_hidden_state_is_reset_before_each_run(tmp_path: Path) -> None:
    path = counter(tmp_path)
    assert [finding.code for finding in describe_file(path).findings] == ["hidden-state"]
    session = LiteRtSession(path.read_bytes())
    runs = [session.run({"x": np.ones((1, 3), np.float32)})["y"].tolist() for _ in range(3)]
    assert runs == [[[3.0, 3.0]]] * 3


@pytest.mark.parametrize(
    "feeds",
    [{}, {"picture": np.zeros((1, 64), np.float32)}, {"image": np.zeros((1, 64), np.int32)}],
)
def test_feeds_that_do_not_fit(feeds: dict[str, np.ndarray], digits: Path) -> None:
    with pytest.raises(UsageError):
        LiteRtSession(digits.read_bytes()).run(feeds)


def test_feed_of_an_impossible_size(digits: Path) -> None:
    with pytest.raises(StepError):
        LiteRtSession(digits.read_bytes()).run({"image": np.zeros((1, 63), np.float32)})


def test_custom_operator(tmp_path: Path) -> None:
    made = graphs.Graph()
    source, result = made.tensor("x", (1, 3)), made.tensor("y", (1, 3))
    made.add("CUSTOM", [source], [result])
    made.codes[0].customCode = b"FlexErf"
    path = graphs.save(made.model([source], [result]), tmp_path / "flex.tflite")
    summary = describe_file(path)
    assert summary.custom_operators == ("FlexErf",)
    assert summary.findings[0].kind == "blocker"
    with pytest.raises(StepError, match="FlexErf"):
        LiteRtSession(path.read_bytes())


def test_other_devices_are_refused(digits: Path) -> None:
    state, signature = State(format="tflite"), Signature(inputs=(), outputs=())
    artifact = ModelArtifact(path=str(digits), state=state, signature=signature, sha256="", size_bytes=0)
    with pytest.raises(DeviceMissing, match="cuda"):
        LiteRtRuntime().open(artifact, RuntimeOptions(device="cuda"))
    assert LiteRtRuntime().open(artifact, RuntimeOptions(variant="reference"))


def test_embedding_rows_bound_an_input(tmp_path: Path) -> None:
    made = graphs.Graph()
    ids, rows = made.tensor("ids", (4,), "INT32"), made.tensor("rows", (4, 8))
    table = made.constant("table", np.ones((30, 8), np.float32))
    made.add("EMBEDDING_LOOKUP", [ids, table], [rows])
    path = graphs.save(made.model([ids], [rows]), tmp_path / "table.tflite")
    assert describe_file(path).signature.inputs[0].value_range == (0.0, 29.0)


@pytest.mark.parametrize("middle", ["RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "LEAKY_RELU", "MAXIMUM"])
@pytest.mark.parametrize("matmul", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_rewrites_keep_the_values(middle: str, matmul: bool, variant: str) -> None:
    model = graphs.classifier(middle, matmul=matmul)
    before = LiteRtSession(to_bytes(model), variant)
    assert apply(model, STATIC)
    after = LiteRtSession(to_bytes(model), variant)
    for image in graphs.digits()[0][:20]:
        feeds = {graphs.INPUT: image[None]}
        np.testing.assert_allclose(after.run(feeds)["scores"], before.run(feeds)["scores"], atol=2e-6)


def test_rename(digits: Path) -> None:
    model = read(digits)
    told = rename(model, {"image": "x"}, {"scores": "y"})
    assert [remark.text for remark in told] == ["image was renamed to x", "scores was renamed to y"]
    digits.write_bytes(to_bytes(model))
    session = LiteRtSession(digits.read_bytes())
    assert set(session.run({"x": np.zeros((1, 64), np.float32)})) == {"y"}


def test_weights_behind_the_flatbuffer_are_found(digits: Path) -> None:
    model = read(digits)
    weights = max(
        range(len(model.buffers)), key=lambda i: 0 if model.buffers[i].data is None else len(model.buffers[i].data)
    )
    data = bytes(model.buffers[weights].data)
    plain = LiteRtSession(to_bytes(model)).run({"image": graphs.digits()[0][:1]})["scores"]
    model.buffers[weights] = new("BufferT", offset=2**40, size=len(data))
    length = len(to_bytes(model))
    model.buffers[weights].offset = length + -length % 16
    content = to_bytes(model)
    digits.write_bytes(content + b"\x00" * (-len(content) % 16) + data)
    assert [finding.code for finding in describe_file(digits).findings] == ["outside-buffers"]
    inlined = LiteRtSession(to_bytes(read(digits))).run({"image": graphs.digits()[0][:1]})["scores"]
    np.testing.assert_array_equal(inlined, plain)


def test_hooks_offer_what_the_package_has() -> None:
    assert [form.name for form in plugin.hub_register_formats()] == ["tflite"]
    assert [runtime.name for runtime in plugin.hub_register_runtimes()] == ["litert"]
    edges = plugin.hub_register_edges()
    assert {edge.gives.format for edge in edges if edge.lossy} == {"tflite"}
    assert [edge.id for edge in edges if edge.gives.format == "onnx"] == ["tflite.onnx", "tflite.onnx-tf2onnx"]
    assert all(edge.deterministic and not edge.toolchain for edge in edges)


def test_declared_gaps_name_edges_and_operators_that_exist() -> None:
    text = Path(plugin.__file__).with_name("expectations.toml").read_text()
    gaps = parse_expectations(text)
    assert gaps
    for gap in gaps:
        assert gap.edge in {edge.id for edge in plugin.hub_register_edges()}
        assert all(code_of("BuiltinOperator", name) for name in gap.operators)
