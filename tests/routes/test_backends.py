"""Real models to ONNX Runtime and OpenVINO, through the installed command: every cell comes to what is written here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.zoo.backends import BACKENDS, MODELS, convert, place_of
from tests.zoo.cells import CASES

EXPECTED: dict[tuple[str, str], dict[str, str]] = {
    ("ocr-cls", "onnxruntime"): {"fp32": "pass", "fp16": "pass", "int8-dynamic": "pass", "int8": "pass"},
    ("magika", "onnxruntime"): {"fp16": "pass", "int8-dynamic": "pass", "int8": "pass", "int4-weights": "pass"},
    ("vad-onnx", "onnxruntime"): {"int8": "mixed"},  # its LSTM stays in float
    ("ocr-rec", "onnxruntime"): {"int8": "pass"},
    # NNCF has no 4-bit form of its small convolutions; TFLite's quantizer has, and OpenVINO reads it (25.5 dB)
    ("ocr-cls", "openvino"): {
        "fp32": "pass",
        "fp16": "pass",
        "int8-weights": "pass",
        "int8": "pass",
        "int4-weights": "pass",
    },
    ("vad-onnx", "openvino"): {"fp32": "pass", "int8": "mixed"},  # 21.9 dB, its LSTM in float
    ("ocr-rec", "openvino"): {"int8": "mixed"},  # 14.4 dB; 11.9 dB with every layer in int8
    ("emotion", "openvino"): {"fp32": "pass"},
}
"""`pass`, `mixed` (int8 with named layers in float), or the code of the refusal; a change in either direction fails."""

IN_CI = {
    ("ocr-cls", "onnxruntime", "int8"),
    ("magika", "onnxruntime", "int8-dynamic"),
    ("vad-onnx", "onnxruntime", "int8"),
    ("ocr-cls", "openvino", "int8"),
    ("vad-onnx", "openvino", "fp32"),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder and one cache for all cells: float steps are shared, as they are for a user."""
    made = tmp_path_factory.mktemp("backends")
    os.environ["HUB_CACHE_DIR"] = str(made / "cache")
    return made


def _cells() -> list[pytest.param]:
    return [
        pytest.param(*cell, word, id="-".join(cell), marks=[pytest.mark.scheduled] * (cell not in IN_CI))
        for (name, target), row in EXPECTED.items()
        for precision, word in row.items()
        for cell in ((name, target, precision),)
    ]


@pytest.mark.real
@pytest.mark.parametrize(("name", "target", "precision", "word"), _cells())
def test_cell(name: str, target: str, precision: str, word: str, folder: Path) -> None:
    artifact = place_of(MODELS[name], folder) / f"{target}.{precision}{BACKENDS[target].suffix}"
    outcome = convert(MODELS[name], target, precision, artifact)
    assert outcome.word == word, outcome.document.get("error", outcome.document.get("parity"))
    assert artifact.exists() == (outcome.status == 0)
    if outcome.status == 0:
        _check_receipt(outcome.document, target)


def _check_receipt(receipt: dict[str, Any], target: str) -> None:
    """What ran and how fast is in the receipt, read from the backend that was asked for."""
    assert receipt["parity"]["passed"]
    assert receipt["execution"]["runtime"] == target
    assert receipt["execution"]["timed_by"]
    assert sum(part["time_share"] for part in receipt["execution"]["devices"].values()) == pytest.approx(1, abs=1e-3)
    assert len(receipt["execution"]["devices"]) == 1
    assert {timing["model"] for timing in receipt["speed"]["timings"]} >= {"source", "result"}
    if receipt["result"]["state"]["numerics"].startswith("int8"):
        words = set(receipt["execution"]["precisions"])
        assert words & {"int8", "int8-dynamic", "int8-weights"}, words
    told = {remark["code"] for remark in receipt["remarks"]} & {"not-faster", "speed-untold"}
    slower = {"not-faster"} if receipt["speed"]["speedup"] < 1 else set()
    assert told in (slower, {"speed-untold"})  # the latter on a machine with other work


@pytest.mark.real
@pytest.mark.scheduled
def test_weights_that_int8_breaks_go_back_to_float(folder: Path) -> None:
    """Random weights behind 52 layers: int8 weights alone leave 2.2 dB, with every activation in float."""
    artifact = place_of(CASES["mobilenet-v2"], folder) / "openvino.int8.xml"
    outcome = convert(CASES["mobilenet-v2"], "openvino", "int8", artifact)
    assert outcome.word == "mixed", outcome.document.get("error")
    step = next(step for step in reversed(outcome.document["steps"]) if step.get("local"))
    assert step["recipe"]["settings"]["float_weights"]
    assert "failed" not in step["local"] or not step["local"]["failed"]
    assert outcome.document["parity"]["outputs"][0]["sqnr_db"] > 18


@pytest.mark.real
def test_the_ort_form_is_one_that_onnx_does_not_read_and_onnx_runtime_does(folder: Path) -> None:
    artifact = place_of(MODELS["ocr-cls"], folder) / "model.ort"
    outcome = convert(MODELS["ocr-cls"], "onnxruntime", "fp32", artifact)
    assert outcome.word == "pass", outcome.document
    assert artifact.read_bytes()[4:8] == b"ORTM"
    with pytest.raises(Exception, match=r"[Pp]ars"):  # protobuf's own error, whatever its class
        onnx.load(artifact)


@pytest.mark.real
@pytest.mark.scheduled
def test_a_speed_that_int8_does_not_have_is_refused_after_every_form_was_tried(folder: Path) -> None:
    artifact = place_of(MODELS["ocr-cls"], folder) / "fast.onnx"
    outcome = convert(MODELS["ocr-cls"], "onnxruntime", "int8", artifact, "--require-speedup", "50")
    assert outcome.word == "too-slow", outcome.document
    attempts = [(item["route"], item["edge"]) for item in outcome.document["error"]["attempts"]]
    tried = {edge for route, last in attempts for edge in route[: route.index(last) + 1]}
    assert any("symmetric" in edge or "mixed" in edge for edge in tried), tried
    assert not artifact.exists()
