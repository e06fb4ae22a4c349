"""Every edge on a trained network: numerics as an independent reader sees them, accuracy, both kernel sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub.spec import (
    CalibrationError,
    ConvertJob,
    ConvertOptions,
    DType,
    HubError,
    ModelArtifact,
    Numerics,
    StepOutput,
    UnsupportedModel,
)
from hub_tflite.convert import QUANTIZING
from hub_tflite.describe import describe_file
from hub_tflite.inside import InsideTflite
from hub_tflite.quantize import in_float, joined_outputs, layers, open_float, quantize, shared_weights
from hub_tflite.recipes import STATIC8, everywhere, only, products
from hub_tflite.rewrite import STATIC
from hub_tflite.rounding import measure_noise
from hub_tflite.runtime import VARIANTS, LiteRtSession
from hub_tflitefile.schema import has_outside_buffers, parse
from plugins.tflite.tests import tflite_graphs as graphs

EDGES = {edge.id: edge for edge in QUANTIZING}
ALL_INT8 = {"tflite.int8-mixed", "tflite.int8-mixed-products"}  # nothing to leave in float in so small a network


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return graphs.save_samples(tmp_path_factory.mktemp("calibration"), slice(0, 48))


def convert(edge: str, source: Path, samples: Path | str, **options: Any) -> tuple[Path, StepOutput]:
    summary = describe_file(source)
    artifact = ModelArtifact(
        path=str(source), state=summary.state, signature=summary.signature, sha256="", size_bytes=summary.size_bytes
    )
    output = source.with_name("result.tflite")
    job = ConvertJob(
        target=EDGES[edge].gives.states(Numerics.FP32)[0],
        source=artifact,
        output=str(output),
        scratch=str(source.parent),
        calibration=str(samples),
        options=ConvertOptions(**options),
    )
    return output, EDGES[edge].convert(job)


def scores(path: Path, variant: str = "") -> Any:
    session = LiteRtSession(path.read_bytes(), variant)
    return np.concatenate([session.run({graphs.INPUT: x[None]})[graphs.OUTPUT] for x in graphs.digits()[0][1400:]])


def accuracy(found: Any) -> float:
    return float((found.argmax(axis=1) == graphs.digits()[1][1400:]).mean())


def sqnr_db(expected: Any, found: Any) -> float:
    return float(10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()))


@pytest.mark.parametrize("edge", sorted(set(EDGES) - ALL_INT8))
def test_every_edge(edge: str, tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier(), tmp_path / "digits.tflite")
    before = source.read_bytes()
    result, output = convert(edge, source, samples)
    summary = describe_file(result)
    assert summary.state.numerics is EDGES[edge].gives.numerics
    assert [spec.name for spec in summary.signature.inputs] == [graphs.INPUT]
    assert [spec.name for spec in summary.signature.outputs] == [graphs.OUTPUT]
    assert not output.bindings
    assert (output.recipe is None) == (edge == "tflite.widen")  # which quantizes nothing
    assert source.read_bytes() == before
    expected = scores(source)
    assert accuracy(expected) > 0.9
    for variant in VARIANTS:
        found = scores(result, variant)
        assert accuracy(found) > accuracy(expected) - 0.02
        assert sqnr_db(expected, found) > 20


@pytest.mark.parametrize("edge", ["tflite.int8", "tflite.int8-dynamic", "tflite.int4-weights"])
def test_the_same_file_twice(edge: str, tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier(), tmp_path / "digits.tflite")
    first = convert(edge, source, samples)[0].read_bytes()
    assert convert(edge, source, samples)[0].read_bytes() == first


@pytest.mark.filterwarnings("ignore:Warning. Enabling .experimental_preserve_all:UserWarning")  # the bare tool's own
def test_constant_matmul_is_right_here_and_wrong_with_the_bare_tool(tmp_path: Path, samples: Path) -> None:
    from ai_edge_quantizer import quantizer, recipe

    source = graphs.save(graphs.classifier(matmul=True), tmp_path / "digits.tflite")
    expected = scores(source)
    tool = quantizer.Quantizer(source.read_bytes(), recipe.static_wi8_ai16())
    images = graphs.digits()[0]
    known = tool.calibrate({"serving_default": [{graphs.INPUT: images[k : k + 1]} for k in range(48)]})
    bare = LiteRtSession(bytes(tool.quantize(known, enable_progress_report=False).quantized_model))
    scale = 1 / 32767
    raw = [bare.run({graphs.INPUT: np.rint(x[None] / scale).astype(np.int16)})[graphs.OUTPUT] for x in images[1400:]]
    assert accuracy(np.concatenate(raw)) < accuracy(expected) - 0.1
    result, output = convert("tflite.int16x8", source, samples)
    assert sqnr_db(expected, scores(result)) > 30
    assert output.notes[0].text == "2 BATCH_MATMUL by a constant became FULLY_CONNECTED (same product)"


def test_scalar_operand_of_maximum(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier("MAXIMUM"), tmp_path / "digits.tflite")
    result, output = convert("tflite.int8", source, samples)
    assert sqnr_db(scores(source), scores(result)) > 20
    assert any("rank" in note.text for note in output.notes)


@pytest.mark.parametrize("middle", ["RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "LEAKY_RELU"])
def test_lone_clamps_are_quantized(middle: str, tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier(middle), tmp_path / "digits.tflite")
    result, _ = convert("tflite.int8", source, samples)
    assert describe_file(result).state.numerics is Numerics.INT8
    assert sqnr_db(scores(source), scores(result)) > 20


def test_stand_ins_for_infinity_refuse_int8_and_stay_in_float(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier("MASKED"), tmp_path / "digits.tflite")
    with pytest.raises(UnsupportedModel, match="infinity in summed"):
        convert("tflite.int8", source, samples)
    result, output = convert("tflite.int8-mixed", source, samples)
    summary = describe_file(result)
    assert summary.state.numerics is Numerics.INT8_MIXED
    assert output.recipe is not None
    assert "ADD summed" in output.recipe.kept_float
    assert sqnr_db(scores(source), scores(result)) > 20


def test_operator_without_integer_form(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier("EXP"), tmp_path / "digits.tflite")
    with pytest.raises(UnsupportedModel, match="would give int8-mixed; in float stay EXP active"):
        convert("tflite.int8", source, samples)
    result, _ = convert("tflite.int8-mixed-products", source, samples)
    left = [layer.operator for layer in describe_file(result).layers if layer.precision == "fp32"]
    assert left == ["EXP", "SOFTMAX"]


def precisions(path: Path) -> dict[str, str]:
    return {layer.name: layer.precision for layer in describe_file(path).layers}


def test_scores_beside_boxes_are_split_off(tmp_path: Path, samples: Path) -> None:
    """One scale for both has steps of more than a score: where they meet stays in float, and no product does."""
    source = graphs.save(graphs.detector_head(), tmp_path / "head.tflite")
    expected = scores(source)
    whole = tmp_path / "whole.tflite"
    whole.write_bytes(quantize(open_float(source, STATIC, str(samples)), everywhere(STATIC8)).content)
    assert sqnr_db(expected[:, 4:], scores(whole)[:, 4:]) < 5
    result, output = convert("tflite.int8", source, samples)
    assert describe_file(result).state.numerics is Numerics.INT8
    found = precisions(result)
    assert {name for name, word in found.items() if word == "fp32"} == {graphs.OUTPUT}
    for variant in VARIANTS:
        assert sqnr_db(expected[:, 4:], scores(result, variant)[:, 4:]) > 20
        assert sqnr_db(expected[:, :4], scores(result, variant)[:, :4]) > 20
    assert [note.code for note in output.notes].count("rounding-measured") == 0


def test_outputs_of_one_range_stay_joined_in_integers(tmp_path: Path, samples: Path) -> None:
    source = open_float(graphs.save(graphs.detector_head(), tmp_path / "head.tflite"), STATIC, str(samples))
    assert [rule.layers for rule in joined_outputs(source)] == [only([graphs.OUTPUT])]
    source.observed["boxes"] = source.observed["likely"]
    assert not joined_outputs(source)


def test_a_foreseen_noise_is_the_trials(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.detector_head(), tmp_path / "head.tflite")
    prepared = open_float(source, STATIC, str(samples))
    base = quantize(prepared, everywhere(STATIC8))
    noise = measure_noise(prepared.content, base.content, prepared.judge)
    for goal in (10, 20, 30):
        removed = noise.to_remove(goal)
        kept = (noise.ties & [name not in removed for name in noise.names]).any(axis=1)
        foreseen = (10 * np.log10(noise.signal / (noise.rest + noise.alone[kept].sum(axis=0)))).min()
        found = quantize(prepared, [*everywhere(STATIC8), *in_float(prepared, removed)])
        assert goal <= foreseen
        assert prepared.judge.sqnr_db(LiteRtSession(found.content)) == pytest.approx(foreseen, abs=3)


def test_weights_that_int8_destroys_are_float_and_no_others(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.coarse_weights(), tmp_path / "coarse.tflite")
    whole, _ = convert("tflite.int8", source, samples)
    assert sqnr_db(scores(source), scores(whole)) < 13
    result, output = convert("tflite.int8-mixed", source, samples)
    found = precisions(result)
    assert found["hidden"] == "fp32"
    assert found[graphs.OUTPUT] == "int8"
    assert sqnr_db(scores(source), scores(result)) > 20
    assert any("1 of them with float weights" in note.text for note in output.notes)


def test_a_sum_and_a_quotient_stay_in_float(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier("NORMED"), tmp_path / "digits.tflite")
    result, _ = convert("tflite.int8-mixed", source, samples)
    found = {layer.operator: layer.precision for layer in describe_file(result).layers}
    assert found["SUM"] == found["DIV"] == "fp32"
    assert found["FULLY_CONNECTED"] == "int8"
    for variant in VARIANTS:
        assert sqnr_db(scores(source), scores(result, variant)) > 20


def test_operators_of_an_old_file_are_known(tmp_path: Path, samples: Path) -> None:
    model = graphs.classifier()
    for code in model.operatorCodes:
        code.builtinCode = 0  # as files of before 2020 have it: their code is in the other field
    source = graphs.save(model, tmp_path / "old.tflite")
    result, _ = convert("tflite.int8", source, samples)
    assert sqnr_db(scores(source), scores(result)) > 20


def test_shared_weight_has_one_scheme(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.shared_weight(), tmp_path / "shared.tflite")
    prepared = open_float(source, STATIC, str(samples))
    first, second = (item for item in layers(prepared.model, prepared.model.subgraphs) if item.weight == "kernel")
    assert first.outputs == ("first",)
    assert shared_weights(prepared) == [{"first", second.outputs[0]}]
    rules = in_float(prepared, ["first"])
    found = quantize(prepared, [*products(STATIC8), *rules])
    precisions = {layer.name: layer.precision for layer in found.report.layers}
    assert precisions[first.outputs[0]] == precisions[second.outputs[0]] == "int8-weights"
    assert precisions["scores"] != "int8-weights"
    assert prepared.judge.sqnr_db(LiteRtSession(found.content)) > 20
    result, _ = convert("tflite.int4-weights-spared", source, "")
    assert sqnr_db(scores(source), scores(result)) > 15


@pytest.mark.parametrize("edge", ["tflite.int8-mixed", "tflite.int8-dynamic", "tflite.fp16"])
def test_loop_body(edge: str, tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.loop(), tmp_path / "loop.tflite")
    with pytest.raises(UnsupportedModel, match=r"in float stay FULLY_CONNECTED b_linear \(int8-weights\), RELU"):
        convert("tflite.int8", source, samples)
    result, _ = convert(edge, source, samples)
    body = [layer for layer in describe_file(result).layers if layer.name == "b_linear"]
    assert [layer.precision for layer in body] == [_BODY[edge]]
    for variant in VARIANTS:
        assert sqnr_db(scores(source), scores(result, variant)) > 20


_BODY = {"tflite.int8-mixed": "int8-weights", "tflite.int8-dynamic": "int8-dynamic", "tflite.fp16": "fp16-weights"}


def test_nothing_to_leave_in_float_is_not_mixed(tmp_path: Path, samples: Path) -> None:
    w1, b1, *_ = graphs.weights()
    made = graphs.Graph()
    image, hidden = made.tensor(graphs.INPUT, (1, 64)), made.tensor(graphs.OUTPUT, (1, 64))
    graphs._dense(made, image, hidden, (w1, b1), matmul=False)
    source = graphs.save(made.model([image], [hidden]), tmp_path / "one.tflite")
    with pytest.raises(UnsupportedModel, match="would give int8"):
        convert("tflite.int8-mixed", source, samples)


def test_integer_inputs_and_outputs(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier(), tmp_path / "digits.tflite")
    result, output = convert("tflite.int8", source, samples, io_dtype="int8")
    assert [(b.direction, b.dtype) for b in output.bindings] == [("input", DType.INT8), ("output", DType.INT8)]
    entry, leave = output.bindings
    session = LiteRtSession(result.read_bytes())
    rows = []
    for image in graphs.digits()[0][1400:]:
        fed = np.clip(np.rint(image[None] / entry.scale) + entry.zero_point, -128, 127).astype(np.int8)
        raw = session.run({graphs.INPUT: fed})[graphs.OUTPUT]
        assert raw.dtype == np.int8
        rows.append((raw.astype(np.float32) - leave.zero_point) * leave.scale)
    assert sqnr_db(scores(source), np.concatenate(rows)) > 20


def test_integer_border_goes_with_int8_only(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier(), tmp_path / "digits.tflite")
    assert {edge.id for edge in QUANTIZING if "io_dtype" in edge.honours} == {"tflite.int8", *ALL_INT8}
    with pytest.raises(UnsupportedModel, match="int16x8"):
        convert("tflite.int16x8", source, samples, io_dtype="int8")


def test_large_result_is_one_self_contained_file(tmp_path: Path) -> None:
    made = graphs.Graph()
    image, wide = made.tensor(graphs.INPUT, (1, 64)), made.tensor("wide", (1, 9000))
    kernel = np.random.default_rng(0).normal(size=(9000, 64)).astype(np.float32)
    graphs._dense(made, image, wide, (kernel.T, np.zeros(9000, np.float32)), matmul=False)
    source = graphs.save(made.model([image], [wide]), tmp_path / "wide.tflite")
    result, _ = convert("tflite.int8-weights", source, "")
    content = result.read_bytes()
    assert len(content) > 9000 * 64  # beyond 256 KiB the bare tool writes weights behind the flatbuffer
    assert not has_outside_buffers(content)
    assert parse(content).signatureDefs


def test_file_without_signature(tmp_path: Path, samples: Path) -> None:
    source = graphs.save(graphs.classifier(signature=False), tmp_path / "digits.tflite")
    result, output = convert("tflite.int8", source, samples)
    assert output.notes[0].text.startswith("a signature was added")
    assert sqnr_db(scores(source), scores(result)) > 20


@pytest.mark.parametrize("edge", ["tflite.fp16", "tflite.int8", "tflite.int8-dynamic", "tflite.int16x8"])
def test_symbolic_batch_stays_symbolic(edge: str, tmp_path: Path, samples: Path) -> None:
    model = graphs.classifier(matmul=True)
    for index in (*model.subgraphs[0].inputs, *model.subgraphs[0].outputs):
        tensor = model.subgraphs[0].tensors[index]
        tensor.shapeSignature = [-1, *tensor.shape[1:]]
    source = graphs.save(model, tmp_path / "digits.tflite")
    result, _ = convert(edge, source, samples)
    assert list(map(str, describe_file(result).signature.inputs)) == ["image: float32[image_0x64]"]
    images = graphs.digits()[0][1400:]
    for variant in VARIANTS:
        together = LiteRtSession(result.read_bytes(), variant).run({graphs.INPUT: images})[graphs.OUTPUT]
        assert sqnr_db(scores(source), together) > 20


def test_float16_keeps_what_it_cannot_hold(tmp_path: Path) -> None:
    source = graphs.save(graphs.classifier("MASKED"), tmp_path / "digits.tflite")
    result, output = convert("tflite.fp16", source, "")
    assert "kept in float32, beyond float16's range: mask" in [note.text for note in output.notes]
    assert sqnr_db(scores(source), scores(result)) > 50


@pytest.mark.parametrize("edge", [edge.id for edge in EDGES.values() if edge.needs_calibration])
def test_no_samples(edge: str, tmp_path: Path) -> None:
    source = graphs.save(graphs.classifier(), tmp_path / "digits.tflite")
    empty = tmp_path / "none"
    empty.mkdir()
    for folder in ("", empty):
        with pytest.raises(CalibrationError) as caught:
            convert(edge, source, folder)
        assert "--calibration" in caught.value.hint


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        ({"picture": np.zeros((1, 64), np.float32)}, r"sample 0 has \['picture'\], the model takes \['image'\]"),
        ({"image": np.zeros((1, 65), np.float32)}, "sample 0 does not fit the model"),
        ({"image": np.zeros((1, 64), np.float64)}, "sample 0 does not fit the model"),
    ],
)
def test_samples_that_do_not_fit(feeds: dict[str, Any], reason: str, tmp_path: Path) -> None:
    source = graphs.save(graphs.classifier(), tmp_path / "digits.tflite")
    np.savez(tmp_path / "0.npz", **feeds)
    with pytest.raises(CalibrationError, match=reason):
        convert("tflite.int8", source, tmp_path)


def test_the_tool_failing_is_a_coded_error(tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ai_edge_quantizer import quantizer

    def broken(*_: object, **__: object) -> None:
        raise ValueError("planted")

    source = graphs.save(graphs.classifier(), tmp_path / "digits.tflite")
    monkeypatch.setattr(quantizer.Quantizer, "quantize", broken)
    with pytest.raises(HubError, match="planted") as caught:
        convert("tflite.int8-dynamic", source, samples)
    assert caught.value.code == "step-failed"


@pytest.mark.parametrize("edge", ["tflite.int8", "tflite.int16x8"])
def test_a_bias_fits_where_its_channel_has_next_to_no_weights(edge: str, samples: Path, tmp_path: Path) -> None:
    model = graphs.classifier()
    graph = model.subgraphs[0]
    kernel, bias = (
        next(tensor for tensor in graph.tensors if tensor.name == name) for name in (b"hidden_kernel", b"hidden_bias")
    )
    weights, offsets = (
        np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32).copy() for tensor in (kernel, bias)
    )
    weights[:64], offsets[0] = 1e-13, 0.5
    for tensor, array in ((kernel, weights), (bias, offsets)):
        model.buffers[tensor.buffer].data = np.frombuffer(array.tobytes(), np.uint8)
    source = graphs.save(model, tmp_path / "float.tflite")
    result, _ = convert(edge, source, samples)
    inside = InsideTflite()
    stored = [name for layer in inside.inside(result).layers[:1] for name in layer.inputs[1:3]]
    kept = inside.constants(result, stored)
    assert np.abs(kept[stored[1]].values - offsets).max() <= kept[stored[1]].step.max() * 0.51
    assert kept[stored[1]].values[0] == pytest.approx(0.5, abs=1e-6)
    assert np.abs(kept[stored[0]].values[1:] - weights.reshape(64, 64)[1:]).max() <= kept[stored[0]].step.max() * 0.51
    assert np.isfinite(scores(result)).all()
