"""The reader: signatures, operators, versions, findings, and refusals with a code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub.spec import ExternalDataError, ModelSummary, ModelUnreadable, Numerics, UnsupportedModel
from hub_onnxruntime.describe import summarize
from plugins.onnxruntime.tests import onnx_graphs as graphs
from tests.zoo import fetch


def codes(summary: ModelSummary) -> list[str]:
    return [finding.code for finding in summary.findings]


def test_voice_activity_detector() -> None:
    summary = summarize(fetch.path("vad_onnx"))
    assert list(map(str, summary.signature.inputs)) == [
        "input: float32[input_dim0xinput_dim1]",
        "state: float32[2xstate_dim1x128]",
        "sr: int64[]",
    ]
    assert [spec.name for spec in summary.signature.outputs] == ["output", "stateN"]
    assert summary.versions["opset ai.onnx"] == "16"
    assert summary.operators["If"] == 25
    assert codes(summary) == ["old-opset", "control-flow", "flag-input"]
    assert summary.findings[2].hint == "Freeze it to the value that you use: --constant sr=VALUE."
    assert not any(finding.kind == "blocker" for finding in summary.findings)


def test_dims_that_say_nothing_get_a_name_each() -> None:
    spec = summarize(fetch.path("ocr_cls")).signature.inputs[0]
    assert str(spec) == "x: float32[x_dim0x3xx_dim2xx_dim3]"


def test_one_symbol_in_two_places_stays_one(tmp_path: Path) -> None:
    summary = summarize(graphs.saved(graphs.dense(["n", 4]), tmp_path / "m.onnx"))
    assert summary.signature.inputs[0].shape[0] == summary.signature.outputs[0].shape[0]


def test_stored_tensors_are_no_inputs(tmp_path: Path) -> None:
    proto = graphs.dense()
    proto.graph.input.append(graphs.value("w", [4, 3]))
    summary = summarize(graphs.saved(proto, tmp_path / "m.onnx"))
    assert [spec.name for spec in summary.signature.inputs] == ["x"]
    assert summary.parameters == 12


def test_an_output_without_a_shape_is_inferred(tmp_path: Path) -> None:
    proto = graphs.dense()
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    summary = summarize(graphs.saved(proto, tmp_path / "m.onnx"))
    assert summary.signature.outputs[0].fixed_shape == (1, 3)


def test_findings_on_custom_operators_block(tmp_path: Path) -> None:
    summary = summarize(graphs.saved(graphs.custom_operator(), tmp_path / "m.onnx"))
    assert summary.custom_operators == ("com.example::Wobble",)
    assert [finding.code for finding in summary.findings if finding.kind == "blocker"] == ["custom-operators"]


def test_an_operator_that_no_opset_has_is_custom(tmp_path: Path) -> None:
    proto = graphs.model([helper.make_node("Erfc", ["x"], ["y"])], [graphs.value("x", [4])], [graphs.value("y", [4])])
    assert summarize(graphs.saved(proto, tmp_path / "m.onnx")).custom_operators == ("ai.onnx::Erfc",)


def test_float64_inside_is_found(tmp_path: Path) -> None:
    summary = summarize(graphs.saved(graphs.float64_inside(), tmp_path / "m.onnx"))
    assert "float64-inside" in codes(summary)


def quantized() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    stored = {"s": np.float32(0.1), "z": np.int8(0)}
    return graphs.model(nodes, [graphs.value("x", [4])], [graphs.value("y", [4])], stored)


def half() -> onnx.ModelProto:
    proto = graphs.dense()
    weights = numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float16)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return proto


def test_numerics_are_read_from_the_file(tmp_path: Path) -> None:
    wanted = {Numerics.INT8: quantized(), Numerics.FP16: half(), Numerics.FP32: graphs.dense()}
    for numerics, proto in wanted.items():
        assert summarize(graphs.saved(proto, tmp_path / "m.onnx")).state.numerics is numerics


def test_the_static_form_is_checked_not_believed(tmp_path: Path) -> None:
    fixed = graphs.saved(graphs.dense(), tmp_path / "fixed.onnx")
    assert summarize(fixed, "static").state.form == "static"
    assert summarize(fixed).state.form == ""
    assert summarize(fetch.path("vad_onnx"), "static").state.form == ""


def test_external_data_counts(tmp_path: Path) -> None:
    path = graphs.external(tmp_path / "m.onnx", "weights.bin")
    summary = summarize(path)
    assert [Path(file).name for file in summary.files] == ["m.onnx", "weights.bin"]
    assert summary.size_bytes == path.stat().st_size + 48


def test_missing_and_short_external_data_is_refused(tmp_path: Path) -> None:
    path = graphs.external(tmp_path / "m.onnx", "weights.bin", write=False)
    with pytest.raises(ExternalDataError, match=r"'weights.bin' of tensor 'w' is missing"):
        summarize(path)
    (tmp_path / "weights.bin").write_bytes(bytes(47))
    with pytest.raises(ExternalDataError, match="has 47 bytes, 48 are needed"):
        summarize(path)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "C:\\weights.bin", "a/../../weights.bin", ""])
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(48))
    path = graphs.external(folder / "m.onnx", location, write=False)
    with pytest.raises(ExternalDataError, match="outside the model's folder"):
        summarize(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    path = graphs.external(folder / "m.onnx", "weights.bin", write=False)
    with pytest.raises(ExternalDataError, match="outside the model's folder"):
        summarize(path)


def test_a_newer_opset_or_ir_version_is_refused(tmp_path: Path) -> None:
    proto = graphs.dense()
    proto.opset_import[0].version = 900
    with pytest.raises(UnsupportedModel, match="opset 900; onnx"):
        summarize(graphs.saved(proto, tmp_path / "m.onnx"))
    proto = graphs.dense()
    proto.ir_version = 900
    with pytest.raises(UnsupportedModel, match="IR version 900"):
        summarize(graphs.saved(proto, tmp_path / "m.onnx"))


@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, 0.999])
def test_a_truncated_file_is_unreadable(keep: float, tmp_path: Path) -> None:
    whole = fetch.path("vad_half_onnx").read_bytes()
    path = tmp_path / "m.onnx"
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(ModelUnreadable):
        summarize(path)
