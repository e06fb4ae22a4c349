"""Pytest fixtures: paths of the zoo's models, fetched on first use. Load with ``pytest_plugins``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.zoo import data, fetch, keras_zoo, vad


def _file(name: str) -> Callable[[], Path]:
    def model() -> Path:
        return fetch.path(name)

    model.__doc__ = f"Path of `{name}` (zoo.toml says what it is)."
    return pytest.fixture(scope="session", name=name)(model)


emotion_h5 = _file("emotion_h5")
emotion_tflite = _file("emotion_tflite")
vad_onnx = _file("vad_onnx")
vad_op15_onnx = _file("vad_op15_onnx")
vad_ifless_onnx = _file("vad_ifless_onnx")
vad_half_onnx = _file("vad_half_onnx")
vad_fixed_onnx = _file("vad_fixed_onnx")
vad_jit = _file("vad_jit")
ocr_det = _file("ocr_det")
ocr_rec = _file("ocr_rec")
ocr_cls = _file("ocr_cls")
magika_onnx = _file("magika_onnx")
efficientnet_pth = _file("efficientnet_pth")
minilm_safetensors = _file("minilm_safetensors")
minilm_config = _file("minilm_config")


@pytest.fixture(scope="session")
def vad_core_jit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TorchScript core of the voice-activity detector with explicit state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated; its files are in the field
        return vad.save_core(fetch.path("vad_jit"), tmp_path_factory.mktemp("vad") / "vad_core.jit")


@pytest.fixture(scope="session")
def mobilenet_keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNetV2 of keras.applications as a `.keras` file."""
    return keras_zoo.save_mobilenet(tmp_path_factory.mktemp("mobilenet") / "mobilenet_v2.keras")


@pytest.fixture(scope="session")
def zoo_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], data.DataSet]:
    """Function from a model's name in `data.MAKERS` to its calibration and test files, written once."""
    made: dict[str, data.DataSet] = {}

    def write(name: str) -> data.DataSet:
        if name not in made:
            made[name] = data.write(name, tmp_path_factory.mktemp(name))
        return made[name]

    return write
