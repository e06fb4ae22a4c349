"""Bad input of every kind, through the installed command: a coded error, a hint, its exit status, nothing written."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
HUB = str(Path(sys.executable).with_name("hub"))
SAMPLES = {
    ".pt2": ROOT / "samples/digits_torch/digits.pt2",
    ".keras": ROOT / "samples/digits_keras/digits.keras",
}
SUFFIXES = (".onnx", ".tflite", ".keras", ".h5", ".pt2", ".pt", ".jit")
Maker = Callable[[Path], Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def failing(model: str | Path, *words: str | Path, folder: Path) -> tuple[int, dict[str, Any]]:
    """Convert, expect an error, and check that nothing is left where the artifact would be."""
    output = folder / "published" / "out.tflite"
    command = [HUB, "convert", str(model), "--to", "tflite", "-o", str(output), "--json", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    error = json.loads(done.stdout)["error"]
    assert error["hint"], error
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
    return done.returncode, error


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", ["empty", "random", "text"])
def test_garbage_under_every_extension(suffix: str, content: str, tmp_path: Path) -> None:
    model = tmp_path / f"model{suffix}"
    garbage = {"empty": b"", "random": np.random.default_rng(7).bytes(5000), "text": b"not a model\n" * 99}
    model.write_bytes(garbage[content])
    status, error = failing(model, folder=tmp_path)
    assert (status, error["code"]) == (2, "model-unreadable")
    assert str(model) in error["message"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_under_every_extension(suffix: str, tmp_path: Path, whole: dict[str, Path]) -> None:
    content = whole[suffix].read_bytes()
    model = tmp_path / f"model{suffix}"
    model.write_bytes(content[: len(content) * 2 // 3])
    status, error = failing(model, folder=tmp_path)
    assert (status, error["code"]) == (2, "model-unreadable"), error


@pytest.fixture(scope="session")
def whole(emotion_h5: Path, emotion_tflite: Path, ocr_cls: Path, vad_core_jit: Path) -> dict[str, Path]:
    """A real file of each kind."""
    return {
        ".h5": emotion_h5,
        ".tflite": emotion_tflite,
        ".onnx": ocr_cls,
        ".pt": vad_core_jit,
        ".jit": vad_core_jit,
    } | SAMPLES


def test_missing_file_and_plain_folder(tmp_path: Path) -> None:
    status, error = failing(tmp_path / "absent.onnx", folder=tmp_path)
    assert (status, error["code"]) == (2, "model-not-found")
    (tmp_path / "folder").mkdir()
    status, error = failing(tmp_path / "folder", folder=tmp_path)
    assert (status, error["code"]) == (2, "model-unreadable")


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


@pytest.mark.parametrize(("model", "hint"), [(True, "give that: "), (False, "net.xml is not beside it")])
def test_the_second_file_of_a_model_leads_to_the_first(tmp_path: Path, *, model: bool, hint: str) -> None:
    (tmp_path / "net.bin").write_bytes(bytes(range(256)))
    if model:
        (tmp_path / "net.xml").write_text("<net/>")
    status, error = failing(tmp_path / "net.bin", folder=tmp_path)
    assert (status, error["code"]) == (2, "model-unreadable")
    assert "is a side file of a model in openvino" in error["message"]
    assert hint in error["hint"]


def test_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes(pickle.dumps(_Bomb()))
    status, error = failing(model, folder=tmp_path)
    assert (status, error["code"]) == (2, "model-refused")
    assert "--allow-pickle" in error["hint"]
    assert not (tmp_path / "exploded").exists()


def test_lambda_layer_is_refused(tmp_path: Path) -> None:
    script = (
        "import keras; x = keras.Input((4,)); "
        f"keras.Model(x, keras.layers.Lambda(lambda v: v + 1)(x)).save({str(tmp_path / 'lambda.keras')!r})"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, capture_output=True)
    status, error = failing(tmp_path / "lambda.keras", folder=tmp_path)
    assert (status, error["code"]) == (2, "model-refused")
    assert "ambda" in error["message"]


def _onnx(node: Any, weights: Any = ()) -> Any:
    import onnx

    value = onnx.helper.make_tensor_value_info
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph([node], "g", [value("x", float32, [1, 4])], [value("y", float32, [1, 4])], weights)
    domains = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("acme", 1)]
    return onnx.helper.make_model(graph, opset_imports=domains, ir_version=9)


def test_custom_operator_is_named(tmp_path: Path) -> None:
    import onnx

    node = onnx.helper.make_node("Frobnicate", ["x"], ["y"], domain="acme")
    onnx.save(_onnx(node), tmp_path / "custom.onnx")
    status, error = failing(tmp_path / "custom.onnx", folder=tmp_path)
    assert (status, error["code"]) == (3, "unsupported-model")
    assert "Frobnicate" in error["message"]


@pytest.mark.parametrize("location", ["absent.bin", "../outside.bin", "/etc/hostname"])
def test_external_data_missing_or_outside(location: str, tmp_path: Path) -> None:
    import onnx

    (tmp_path / "inner").mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(16))
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    (tmp_path / "inner" / "model.onnx").write_bytes(_onnx(node, [tensor]).SerializeToString())
    status, error = failing(tmp_path / "inner" / "model.onnx", folder=tmp_path)
    assert (status, error["code"]) == (2, "external-data")


def _planted(kind: str) -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).random((20, 1, 8, 8), np.float32)
    wrong = images.copy()
    wrong[3, 0, 2, 2] = np.nan
    return {
        "name": {"picture": images},
        "shape": {"image": images[:, :, :7]},
        "dtype": {"image": images.astype(str)},
        "nan": {"image": wrong},
        "empty": {"image": images[:0]},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [("name", "picture"), ("shape", "7"), ("dtype", "image"), ("nan", "NaN"), ("empty", "no samples")],
)
def test_calibration_that_does_not_fit(kind: str, words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **_planted(kind))
    status, error = failing(SAMPLES[".pt2"], "--int8", "--calibration", tmp_path / "data.npz", folder=tmp_path)
    assert (status, error["code"]) == (2, "calibration")
    assert words in error["message"] + error["hint"]


@pytest.mark.parametrize(("words", "near"), [(("--to", "tflit"), "tflite"), (("--precision", "int9"), "int8")])
def test_unknown_names_get_a_suggestion(words: tuple[str, str], near: str, tmp_path: Path) -> None:
    status, error = failing(SAMPLES[".pt2"], *words, folder=tmp_path)
    assert (status, error["code"]) == (2, "unknown-name")
    assert near in error["hint"]


def test_static_int8_without_data_is_refused(tmp_path: Path) -> None:
    status, error = failing(SAMPLES[".pt2"], "--int8=static", folder=tmp_path)
    assert (status, error["code"]) == (3, "no-route")
    assert "--calibration" in error["hint"]


def test_dynamic_dims_are_asked_for_with_the_flag(tmp_path: Path, ocr_det: Path) -> None:
    status, error = failing(ocr_det, folder=tmp_path)
    assert (status, error["code"]) == (2, "shape-needed")
    assert "--shape x=" in error["hint"]


def test_kill_in_the_middle_leaves_nothing_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_CACHE_DIR", str(tmp_path / "cache"))
    output = tmp_path / "out" / "digits.tflite"
    command = [HUB, "convert", str(SAMPLES[".pt2"]), "--to", "tflite", "--int8=dynamic", "-o", str(output)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 300
        while not list((tmp_path / "cache").glob("objects/*/*/out/model.tflite")) and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
    assert not output.exists()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["steps"][0]["cached"]
    assert output.exists()


def test_a_source_that_draws_random_numbers_is_told(tmp_path: Path) -> None:
    """Two sessions draw alike, so that the noise looks exact; one session that runs a sample twice does not."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [helper.make_node("RandomNormalLike", ["x"], ["n"], "noise"), helper.make_node("Add", ["x", "n"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in "xy"]
    model = tmp_path / "noise.onnx"
    graph = helper.make_graph(nodes, "noise", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model)
    command = [HUB, "convert", str(model), "--to", "onnxruntime", "-o", str(tmp_path / "out.onnx"), "--json"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    (told,) = [remark for remark in json.loads(done.stdout)["remarks"] if remark["code"] == "source-unsteady"]
    assert "another y when the same sample is run once more" in told["text"]
