"""Before the slow part: one finding each, with what hub does about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hub.spec import ConvertOptions, Remark, Support
from hub_onnxruntime import findings, large, operators
from hub_onnxruntime.describe import summarize
from hub_onnxruntime.onnx2tf_edge import ONNX2TF
from plugins.onnxruntime.tests import onnx_graphs as graphs
from tests.zoo import fetch


def found(proto: Any, folder: Path) -> dict[str, Remark]:
    summary = summarize(graphs.saved(proto, folder / "m.onnx"))
    return {finding.code: finding for finding in summary.findings}


def test_a_plain_model_has_no_finding(tmp_path: Path) -> None:
    assert not found(graphs.dense(), tmp_path)


def test_an_old_opset_is_raised() -> None:
    codes = {finding.code: finding for finding in summarize(fetch.path("ocr_cls")).findings}
    assert codes["old-opset"].text == "the model uses opset 11"
    assert codes["old-opset"].hint.startswith("hub raises it to 17")
    assert codes["old-opset"].kind == "finding"


def test_what_the_runtime_does_not_open_blocks_and_says_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = graphs.dense()
    proto.ir_version = 900
    assert "900" in operators.refused_version(proto)
    assert not operators.refused_version(graphs.dense())
    monkeypatch.setattr(findings, "refused_version", lambda _model: "ONNX Runtime 1: too new")
    finding = found(graphs.dense(), tmp_path)["newer-than-runtime"]
    assert finding.kind == "blocker"
    assert finding.text.endswith("ONNX Runtime 1: too new")


def test_operators_without_a_kernel_come_from_the_runtimes_own_list(tmp_path: Path) -> None:
    kind = TensorProto.UINT8
    node = helper.make_node("ImageDecoder", ["x"], ["y"])
    proto = graphs.model([node], [graphs.value("x", ["n"], kind)], [graphs.value("y", ["h", "w", 3], kind)], opset=20)
    finding = found(proto, tmp_path)["no-kernel"]
    assert re.search(r"CPU kernel: ImageDecoder of opset 20 \(ONNX Runtime [\d.]+ has it in no version\)", finding.text)
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):  # and so it is
        onnx_session(proto)


def test_a_kernel_of_other_versions_only_says_of_which(tmp_path: Path) -> None:
    node = helper.make_node("Upsample", ["x", "scales"], ["y"])
    border = [graphs.value("x", [1, 1, 4, 4]), graphs.value("scales", [4])], [graphs.value("y", [1, 1, 8, 8])]
    finding = found(graphs.model([node], *border, opset=17), tmp_path)["no-kernel"]
    assert "Upsample of opset 10" in finding.text
    assert "has it of opset 7 to 8, 9)" in finding.text
    x, scales = np.ones((1, 1, 4, 4), np.float32), np.array([1, 1, 2, 2], np.float32)
    old = onnx_session(graphs.model([node], *border, opset=9))  # and so it has
    assert old.run(None, {"x": x, "scales": scales})[0].shape == (1, 1, 8, 8)


def test_an_operator_of_a_later_opset_says_of_which(tmp_path: Path) -> None:
    node = helper.make_node("Gelu", ["x"], ["y"])
    border = [graphs.value("x", [4])], [graphs.value("y", [4])]
    finding = found(graphs.model([node], *border, opset=17), tmp_path)["custom-operators"]
    assert finding.kind == "blocker"
    assert finding.text.endswith("Gelu is in ONNX from opset 20 on, and the model uses opset 17")
    assert finding.hint == "Export the model again with an opset that has them."
    assert not found(graphs.model([node], *border, opset=20), tmp_path)


def test_operators_that_the_runtime_has_before_onnx_are_its_own() -> None:
    """Checked against the runtime's list of kernels, and ONNX's history of operators."""
    first = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            first[schema.name] = min(schema.since_version, first.get(schema.name, schema.since_version))
    lowest = {name: min(low for low, _ in ranges) for name, ranges in operators.kernel_versions().items()}
    early = {name for name, low in lowest.items() if low < first.get(name, 2**31)}
    assert early == operators.RUNTIME_STANDARD


def onnx_session(proto: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", ["vad_onnx", "ocr_det", "ocr_rec", "magika_onnx"])
def test_real_models_lack_no_kernel(name: str) -> None:
    assert not operators.without_kernel(onnx.load(fetch.path(name)))


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    proto = graphs.model(
        [helper.make_node("Twice", ["x"], ["y"], domain="own")], [graphs.value("x", [4])], [graphs.value("y", [4])]
    )
    opsets = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    proto.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], body, opsets))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    finding = found(proto, tmp_path)["local-functions"]
    assert finding.text == "1 local functions: Twice"


def test_external_data_names_its_files(tmp_path: Path) -> None:
    summary = summarize(graphs.external(tmp_path / "m.onnx", "weights.bin"))
    (finding,) = summary.findings
    assert finding.code == "external-data"
    assert finding.text == "1 tensors are stored in weights.bin"
    assert "above, weights go to FILE.data" in finding.hint


def test_a_large_model_says_what_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "LARGE_BYTES", 100)
    finding = found(graphs.dense(), tmp_path)["large-model"]
    assert finding.hint == "Its weights stay in files while hub works on the graph, and no simplifying tool is run."
    monkeypatch.setattr(findings, "TFLITE_BYTES", 100)
    assert "TFLite cannot hold it" in found(graphs.dense(), tmp_path)["large-model"].hint


def test_tflite_is_refused_a_model_of_more_than_two_gibibytes(tmp_path: Path) -> None:
    import msgspec

    summary = summarize(graphs.saved(graphs.dense(), tmp_path / "m.onnx"), "static")
    assert ONNX2TF.check(summary, ConvertOptions())
    verdict = ONNX2TF.check(msgspec.structs.replace(summary, size_bytes=2**31), ConvertOptions())
    assert verdict.support is Support.NEVER
    assert "2 GiB" in verdict.reason
