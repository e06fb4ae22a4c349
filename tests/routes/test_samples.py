"""The samples through the installed command and the Python interface: real models, real data, real runtimes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hub
from hub.spec import processor

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
TORCH = ROOT / "samples" / "digits_torch"
KERAS = ROOT / "samples" / "digits_keras"
TORCH_DATA = ("--calibration", str(TORCH / "calibration.npz"), "--test", str(TORCH / "test.npz"))
KERAS_DATA = ("--calibration", str(KERAS / "calibration.npz"), "--test", str(KERAS / "test.npz"))


@pytest.fixture(scope="module", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One cache for this file: float steps are shared, as they are for a user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUB_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def run_hub(*words: str | Path, status: int = 0) -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("hub")), *map(str, words), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def convert(model: str | Path, output: Path, *words: str | Path) -> dict[str, Any]:
    return run_hub("convert", model, "--to", "tflite", "-o", output, *words)


def outputs(path: Path, images: np.ndarray, *, integers: bool = False) -> np.ndarray:
    """Run a file with LiteRT itself: nothing of hub is between the file and these numbers."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = []
    for image in images:
        fed = image[None]
        if integers:
            scale, zero = given["quantization"]
            fed = np.clip(np.round(fed / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(given["index"], fed)
        interpreter.invoke()
        answers.append(interpreter.get_tensor(made["index"]).copy()[0])
    return np.stack(answers)


def accuracy_of(path: Path, data: Path, name: str, *, integers: bool = False) -> float:
    with np.load(data) as arrays:
        found = outputs(path, arrays[name], integers=integers).argmax(axis=1)
        return float((found == arrays["label"]).mean())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-dynamic", "int8", "int16x8", "int4-weights"])
def test_torch_sample_keeps_its_accuracy(precision: str, tmp_path: Path) -> None:
    receipt = convert(TORCH / "digits.pt2", tmp_path / "digits.tflite", "--precision", precision, *TORCH_DATA)
    assert receipt["result"]["state"] == {"format": "tflite", "numerics": precision, "form": ""}
    assert receipt["accuracy"]["source"] == pytest.approx(0.99)
    assert receipt["accuracy"]["result"] >= 0.98
    assert accuracy_of(tmp_path / "digits.tflite", TORCH / "test.npz", "image") == receipt["accuracy"]["result"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_keras_sample_keeps_its_accuracy(precision: str, tmp_path: Path) -> None:
    receipt = convert(KERAS / "digits.keras", tmp_path / "digits.tflite", "--precision", precision, *KERAS_DATA)
    assert receipt["accuracy"]["result"] >= receipt["accuracy"]["source"] - 0.01
    assert accuracy_of(tmp_path / "digits.tflite", KERAS / "test.npz", "image") == receipt["accuracy"]["result"]


def test_integer_border(tmp_path: Path) -> None:
    path = tmp_path / "integer.tflite"
    receipt = convert(TORCH / "digits.pt2", path, "--int8", "--io-dtype", "int8", *TORCH_DATA)
    bindings = receipt["steps"][-1]["bindings"]
    assert {(bound["direction"], bound["dtype"]) for bound in bindings} == {("input", "int8"), ("output", "int8")}
    image, logits = receipt["contract"]
    assert (image["source"]["dtype"], image["result"]["dtype"]) == ("float32", "int8")
    assert image["result"]["quant"]["scale"][0] == pytest.approx(1 / 255, rel=0.02)
    assert logits["direction"] == "output"
    assert logits["changes"]
    assert accuracy_of(path, TORCH / "test.npz", "image", integers=True) >= 0.98


def test_channels_last_border(tmp_path: Path) -> None:
    receipt = convert(TORCH / "digits.pt2", tmp_path / "nhwc.tflite", "--io-layout", "nhwc")
    (image,) = receipt["result"]["signature"]["inputs"]
    assert [dim["size"] for dim in image["shape"]] == [1, 8, 8, 1]
    assert receipt["parity"]["passed"]


def test_builder_with_weights_equals_the_exported_program(tmp_path: Path) -> None:
    weights = ("--weights", TORCH / "digits.safetensors", "--shape", "image=1x1x8x8")
    receipt = convert("samples.digits_torch.model:build", tmp_path / "builder.tflite", *weights)
    assert receipt["source"]["path"] == "samples.digits_torch.model:build"
    convert(TORCH / "digits.pt2", tmp_path / "program.tflite")
    images = np.load(TORCH / "test.npz")["image"][:8]
    np.testing.assert_allclose(
        outputs(tmp_path / "builder.tflite", images), outputs(tmp_path / "program.tflite", images), rtol=1e-4, atol=1e-4
    )


def test_a_keras_builder_with_weights_equals_the_saved_model(tmp_path: Path) -> None:
    builder = "samples.digits_keras.train:convolutional"
    receipt = convert(builder, tmp_path / "b.tflite", "--weights", KERAS / "digits.keras")
    assert receipt["source"]["path"] == builder
    assert accuracy_of(tmp_path / "b.tflite", KERAS / "test.npz", "image") >= 0.97


@pytest.mark.parametrize(
    ("builder", "weights", "code", "words"),
    [
        ("builtins:dict", None, "foreign-model", "returned dict, not an nn.Module"),
        ("builtins:dict", "digits_torch/digits.safetensors", "usage", "no plugin loads weights into the dict"),
        (
            "samples.digits_keras.train:lstm",
            "digits_keras/digits.keras",
            "model-unreadable",
            "digits.keras does not fit the builder's model",
        ),
    ],
)
def test_a_builder_of_something_else_is_refused(
    tmp_path: Path, builder: str, weights: str | None, code: str, words: str
) -> None:
    more = ("--weights", ROOT / "samples" / weights) if weights else ()
    error = run_hub("convert", builder, "--to", "tflite", "-o", tmp_path / "out.tflite", *more, status=2)["error"]
    assert error["code"] == code
    assert words in error["message"]


def test_calibration_from_images_and_held_out(tmp_path: Path) -> None:
    images = ROOT / "samples" / "digits" / "calibration_images"
    spec = f"{images}/?size=8x8&scale=1/255&mean=0&std=1&channels=gray&layout=nchw"
    receipt = convert(TORCH / "digits.pt2", tmp_path / "digits.tflite", "--int8", "--calibration", spec)
    assert receipt["parity"]["inputs"] == "held-out"
    assert receipt["calibration"]["calibration_samples"] == 24
    assert receipt["calibration"]["held_out_samples"] == 6


def test_tflite_is_a_source_too(tmp_path: Path) -> None:
    convert(KERAS / "digits.keras", tmp_path / "float.tflite")
    receipt = convert(tmp_path / "float.tflite", tmp_path / "int8.tflite", "--int8", *KERAS_DATA)
    assert receipt["source"]["state"]["format"] == "tflite"
    assert receipt["accuracy"]["result"] >= receipt["accuracy"]["source"] - 0.01


def test_what_onnx_runtime_itself_makes_of_signed_int8_is_measured(tmp_path: Path) -> None:
    """Carried over exactly; without VNNI ONNX Runtime's default saturates on it, and hub says so with the figures."""
    convert(KERAS / "digits.keras", tmp_path / "d.tflite", "--int8", *KERAS_DATA)
    made = run_hub(
        "convert", tmp_path / "d.tflite", "--to", "onnx", "-o", tmp_path / "d.onnx", "--test", KERAS / "test.npz"
    )
    assert made["parity"]["passed"]
    assert made["deployed"]["reference_runtime"] == "litert"
    said = "onnxruntime by itself computes it otherwise"
    told = [remark["text"] for remark in made["remarks"] if remark["text"].startswith(said)]
    assert bool(told) != made["deployed"]["passed"]
    assert made["deployed"]["passed"] or processor().has_integer_dot is False
    assert all("session.x64quantprecision=1" in text and "SQNR" in text for text in told)


def test_verify_finds_what_convert_found_and_a_planted_fault(tmp_path: Path) -> None:
    path = tmp_path / "digits.tflite"
    receipt = convert(TORCH / "digits.pt2", path, "--int8", *TORCH_DATA)
    report = run_hub("verify", TORCH / "digits.pt2", path, "--data", TORCH / "test.npz")
    assert report["outputs"] == receipt["parity"]["outputs"]
    other = tmp_path / "other.tflite"
    convert(KERAS / "digits_gru.keras", other)
    path.write_bytes(other.read_bytes())
    error = run_hub("verify", TORCH / "digits.pt2", path, "--data", TORCH / "test.npz", status=2)["error"]
    assert "receipt" in error["message"]


def test_verify_without_a_receipt_judges_a_strangers_file(tmp_path: Path) -> None:
    convert(TORCH / "digits.pt2", tmp_path / "good.tflite")
    stranger = tmp_path / "stranger.tflite"
    content = bytearray((tmp_path / "good.tflite").read_bytes())
    weights = np.frombuffer(content, np.float32, len(content) // 4)
    place = int(np.abs(np.where(np.isfinite(weights) & (np.abs(weights) < 10), weights, 0)).argmax()) * 4
    content[place : place + 4] = np.float32(-50).tobytes()
    stranger.write_bytes(content)
    shape = ("--shape", "image=1x1x8x8", "--data", TORCH / "test.npz")
    assert not run_hub("verify", TORCH / "digits.pt2", stranger, *shape, status=6)["passed"]


def test_run_saves_what_the_model_computes(tmp_path: Path) -> None:
    convert(TORCH / "digits.pt2", tmp_path / "digits.tflite")
    run_hub("run", tmp_path / "digits.tflite", "--data", TORCH / "test.npz", "-o", tmp_path / "outputs.npz")
    with np.load(tmp_path / "outputs.npz") as saved, np.load(TORCH / "test.npz") as data:
        (made,) = saved.values()
        np.testing.assert_allclose(made[:, 0], outputs(tmp_path / "digits.tflite", data["image"]), rtol=1e-5, atol=1e-5)


def test_recurrent_sample_comes_out_right_or_mixed(tmp_path: Path) -> None:
    data = ("--calibration", KERAS / "calibration_rows.npz", "--test", KERAS / "test_rows.npz")
    receipt = convert(KERAS / "digits_lstm.keras", tmp_path / "lstm.tflite", "--int8", *data)
    assert receipt["accuracy"]["result"] >= receipt["accuracy"]["source"] - 0.02
    assert accuracy_of(tmp_path / "lstm.tflite", KERAS / "test_rows.npz", "rows") == receipt["accuracy"]["result"]


def test_live_torch_module_and_arrays(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    rows = np.load(KERAS / "calibration_rows.npz")["rows"][:40, 4]
    receipt = hub.convert(
        module,
        "tflite",
        precision="int8",
        calibration=rows,
        output=tmp_path / "live.tflite",
        example_inputs=(torch.zeros(1, 8),),
    )
    assert receipt.parity.passed
    assert receipt.parity.inputs == "held-out"
    assert (tmp_path / "live.tflite").exists()


def test_second_engine_takes_over_and_is_told(tmp_path: Path) -> None:
    receipt = convert(KERAS / "digits.keras", tmp_path / "digits.tflite", "--avoid", "keras.tflite-frozen")
    assert receipt["route"]["left_out"]["keras.tflite-frozen"]["text"] == "avoided on request"
    assert receipt["parity"]["passed"]


def test_a_gate_that_cannot_be_met_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "digits.tflite"
    gate = ("--min-sqnr", "200")
    words = ("convert", TORCH / "digits.pt2", "--to", "tflite", "--int8", "--strict", "-o", path, *gate, *TORCH_DATA)
    error = run_hub(*words, status=6)["error"]
    assert error["code"] == "parity"
    assert "SQNR" in error["message"]
    assert any(output["failures"] for output in error["attempts"][0]["parity"]["outputs"])
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_answers_the_same_to_everything_is_told(tmp_path: Path) -> None:
    import torch

    class Deaf(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 0 + 3

    receipt = hub.convert(Deaf(), "tflite", output=tmp_path / "deaf.tflite", example_inputs=(torch.zeros(1, 4),))
    assert any(remark.code == "outputs-constant" for remark in receipt.remarks)


def test_a_builder_is_as_large_as_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import torch\ndef build():\n    torch.manual_seed(0)\n    return torch.nn.Linear(64, 64)\n"
    (tmp_path / "seeded_builder.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    receipt = convert("seeded_builder:build", tmp_path / "half.tflite", "--fp16", "--shape", "input=1x64")
    assert receipt["source"]["size_bytes"] == 4 * (64 * 64 + 64)
    assert not any(remark["code"] == "not-smaller" for remark in receipt["remarks"])


@pytest.mark.scheduled
def test_what_one_output_keeps_in_the_cache_another_does_not_take_away(tmp_path: Path) -> None:
    """A file that names its side files is kept once for each name: another run may be publishing the first."""
    for name in ("one", "two"):
        run_hub("convert", TORCH / "digits.pt2", "--to", "openvino", "-o", tmp_path / f"{name}.xml")
    kept = {file.name for file in Path(os.environ["HUB_CACHE_DIR"]).glob("objects/*/*/out/*.xml")}
    assert {"one.xml", "two.xml"} <= kept
    receipt = json.loads((tmp_path / "one.xml.hub.json").read_text())
    assert all(Path(step["artifact"]["path"]).exists() for step in receipt["steps"])
