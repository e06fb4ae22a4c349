"""State kept inside a model, through the installed command: a voice detector that remembers from chunk to chunk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import hub
from hub._files import sha256_model
from hub.spec import RuntimeOptions, UsageError
from tests.zoo import data, fetch
from tests.zoo.cells import ROOT

openvino = pytest.importorskip("openvino", reason="the target is OpenVINO")
FLAGS = ("--state", "state=stateN", "--constant", "sr=16000")
Chunks = list[np.ndarray[Any, Any]]


def command(*words: object) -> tuple[int, dict[str, Any]]:
    program = str(Path(sys.executable).with_name("hub"))
    done = subprocess.run(
        [program, *map(str, words), "--json"],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


class Kept(NamedTuple):
    """A stateful result, its receipt, and the data it was checked on."""

    path: Path
    receipt: dict[str, Any]
    test: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real chunks of 36 ms in order, without the state, which no user has on disk."""
    folder = tmp_path_factory.mktemp("state")
    chunks = np.stack([feeds["input"] for feeds in sequence("test", 24)])
    np.savez(folder / "test.npz", input=chunks)
    np.savez(folder / "calibration.npz", input=np.stack([feeds["input"] for feeds in sequence("calibration", 24)]))
    return folder


def sequence(part: str, count: int) -> list[dict[str, Any]]:
    arrays = data.feeds("vad_ifless_onnx", part, count)
    return [{"input": np.asarray(rows, np.float32)} for rows in arrays["input"]]


@pytest.fixture(scope="module")
def kept(place: Path) -> Kept:
    output = place / "vad.xml"
    status, receipt = command(
        "convert", fetch.path("vad_ifless_onnx"), "--to", "openvino", *FLAGS, "--test", place / "test.npz", "-o", output
    )
    assert status == 0, receipt
    return Kept(output, receipt, place / "test.npz")


def by_onnxruntime(chunks: Chunks) -> list[float]:
    """The source, its state fed back by hand."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(fetch.path("vad_ifless_onnx")), providers=["CPUExecutionProvider"])
    state, found = np.zeros((2, 1, 128), np.float32), []
    for chunk in chunks:
        answer, state = session.run(None, {"input": chunk, "state": state, "sr": np.array(16000, np.int64)})
        found.append(float(answer.ravel()[0]))
    return found


def by_openvino(path: Path, chunks: Chunks, *, reset: bool = False) -> list[float]:
    """The result on bare OpenVINO, with one request."""
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request, found = compiled.create_infer_request(), []
    for chunk in chunks:
        if reset:
            request.reset_state()
        found.append(float(request.infer({"input": chunk})["output"].ravel()[0]))
    return found


def test_the_result_remembers_what_the_source_is_told(kept: Kept) -> None:
    chunks = list(np.load(kept.test)["input"])
    wanted = by_onnxruntime(chunks)
    assert np.allclose(by_openvino(kept.path, chunks), wanted, atol=1e-4)
    assert np.abs(np.array(by_openvino(kept.path, chunks, reset=True)) - wanted).max() > 0.01  # the state matters
    kinds = [op.get_type_name() for op in openvino.Core().read_model(str(kept.path)).get_ops()]
    assert kinds.count("ReadValue") == kinds.count("Assign") == 1


def test_the_receipt_says_what_became_of_the_state(kept: Kept) -> None:
    changed = {(item["direction"], item["source"]["name"]): item for item in kept.receipt["contract"]}
    assert changed["input", "state"]["changes"] == ["kept inside the model, from stateN of the run before"]
    assert changed["output", "stateN"]["result"] is None
    assert [item["output"] for item in kept.receipt["parity"]["outputs"]] == ["output"]
    assert kept.receipt["parity"]["outputs"][0]["samples"] == 24
    assert kept.receipt["steps"][-1]["artifact"]["state"]["form"] == "stateful"


def test_a_model_that_forgets_is_found_out(kept: Kept, tmp_path: Path) -> None:
    """The planted fault: half of the state is lost between two runs. One run alone would look right."""
    from openvino import opset13

    sound = ("verify", fetch.path("vad_ifless_onnx"), kept.path, "--data", kept.test)
    assert command(*sound)[0] == 0
    model = openvino.Core().read_model(str(kept.path))
    (assign,) = [op for op in model.get_ops() if op.get_type_name() == "Assign"]
    before = assign.input_value(0)
    assign.input(0).replace_source_output(opset13.multiply(before, np.float32(0.5)).output(0))
    spoilt = tmp_path / "vad.xml"
    openvino.save_model(model, str(spoilt), compress_to_fp16=False)
    receipt = json.loads(kept.path.with_name("vad.xml.hub.json").read_text())
    receipt["result"]["sha256"] = sha256_model(spoilt, [spoilt, spoilt.with_suffix(".bin")])
    (tmp_path / "vad.xml.hub.json").write_text(json.dumps(receipt))
    status, found = command("verify", fetch.path("vad_ifless_onnx"), spoilt, "--data", kept.test)
    assert status == 6, found
    chunk = list(np.load(kept.test)["input"])[:1]
    assert np.allclose(by_openvino(spoilt, chunk), by_onnxruntime(chunk), atol=1e-4)


def test_int8_weights_keep_state_too(place: Path) -> None:
    status, receipt = command(
        "convert", fetch.path("vad_ifless_onnx"), "--to", "openvino", "--precision", "int8-weights", *FLAGS,
        "--calibration", place / "calibration.npz", "--test", place / "test.npz", "-o", place / "vad8.xml",
    )  # fmt: skip
    assert status == 0, receipt
    assert receipt["result"]["state"] == {"format": "openvino", "numerics": "int8-weights", "form": "stateful"}
    chunks = list(np.load(place / "test.npz")["input"])
    assert np.allclose(by_openvino(place / "vad8.xml", chunks), by_onnxruntime(chunks), atol=0.1)


def test_a_session_keeps_state_until_it_is_reset(kept: Kept) -> None:
    chunks = [{"input": chunk} for chunk in np.load(kept.test)["input"][:4]]
    with hub.open_session(str(kept.path), how=RuntimeOptions(keep_state=True)) as model:
        first = [float(model.run(feeds)["output"].ravel()[0]) for feeds in chunks]
        assert float(model.run(chunks[0])["output"].ravel()[0]) != first[0]
        model.reset_state()
        assert [float(model.run(feeds)["output"].ravel()[0]) for feeds in chunks] == first
        with pytest.raises(UsageError, match="one after the other"):
            model.run_async(chunks[0])
    with hub.open_session(str(kept.path)) as model:
        assert float(model.run(chunks[0])["output"].ravel()[0]) == float(model.run(chunks[0])["output"].ravel()[0])


@pytest.mark.parametrize(
    ("target", "flags", "code", "words"),
    [
        ("tflite", FLAGS, "usage", "no installed plugin writes a tflite model that keeps its state"),
        ("openvino", ("--state", "state=stat", *FLAGS[2:]), "unknown-name", "did you mean stateN"),
        ("openvino", ("--state", "state=stateN", "-o", "state.foo"), "usage", "its files end in .xml"),
        ("openvino", ("--state", "state=output", *FLAGS[2:]), "usage", "cannot be fed to"),
    ],
)
def test_a_state_that_cannot_be_kept_is_refused(
    target: str, flags: tuple[str, ...], code: str, words: str, place: Path
) -> None:
    output = place / ("none.tflite" if target == "tflite" else "none.xml")
    status, found = command(
        "convert", fetch.path("vad_ifless_onnx"), "--to", target, "-o", output, "--test", place / "test.npz", *flags
    )
    assert status
    assert found["error"]["code"] == code, found
    assert words in f"{found['error']['message']} {found['error']['hint']}"
    assert not output.exists()
