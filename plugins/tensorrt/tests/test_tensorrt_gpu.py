"""On an NVIDIA GPU: engines are valid, run, compute what the source does, and say how. Not run where there is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hub as python_interface
from hub_tensorrt import cuda
from hub_tensorrt.cache import device_cache
from hub_tensorrt.libraries import LIBRARIES, RTX, TENSORRT
from plugins.tensorrt.tests.tensorrt_models import convolution

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not cuda.gpus(), reason="not run: there is no NVIDIA GPU here"),
]
HERE = [library for library in LIBRARIES if library.is_here]
ROOT = Path(__file__).parents[3]


def supported() -> bool:
    """Whether TensorRT-RTX, or TensorRT itself, builds for the GPU that is here."""
    return TENSORRT.is_here or (RTX.is_here and cuda.gpus()[0].capability in RTX.capabilities)


def convert(hub: Callable[..., Any], model: Path, output: Path, *words: str | Path) -> Any:
    return hub("convert", model, "--to", "tensorrt", "-o", output, "--json", "--force", *words)


@pytest.mark.parametrize("words", [(), ("--fp16",), ("--bf16",)], ids=lambda words: " ".join(words) or "float32")
def test_an_engine_computes_what_the_source_does(hub: Callable[..., Any], tmp_path: Path, words: tuple[str]) -> None:
    if not supported():
        pytest.skip(f"no builder here is for {cuda.gpus()[0]}")
    ran = convert(
        hub, convolution(tmp_path / "m.onnx", "batch"), tmp_path / "out.engine", "--shape", "x=1..8x3x8x8", *words
    )
    assert ran.status == 0, ran.err
    assert ran.json["level"] == "device-run"
    assert ran.json["parity"]["passed"]
    assert "latency p50" in ran.json["execution"]["settings"]
    assert hub("verify", tmp_path / "m.onnx", tmp_path / "out.engine", "--json").json["passed"]


def test_int8_of_a_real_model_keeps_its_accuracy(hub: Callable[..., Any], tmp_path: Path) -> None:
    if not supported():
        pytest.skip(f"no builder here is for {cuda.gpus()[0]}")
    samples = ROOT / "samples" / "digits_torch"
    data = ("--int8", "--calibration", samples / "calibration.npz", "--test", samples / "test.npz")
    ran = convert(hub, samples / "digits.pt2", tmp_path / "digits.engine", *data)
    assert ran.status == 0, ran.err
    assert ran.json["level"] == "device-run"
    assert ran.json["accuracy"]["result"] > ran.json["accuracy"]["source"] - 0.02


def test_a_gpu_that_the_builder_is_not_for_gets_a_reason(hub: Callable[..., Any], tmp_path: Path) -> None:
    gpu = cuda.gpus()[0]
    if not RTX.is_here or TENSORRT.is_here or gpu.capability in RTX.capabilities:
        pytest.skip("TensorRT-RTX alone, on a GPU that it is not for, is what this is about")
    ran = convert(hub, convolution(tmp_path / "m.onnx"), tmp_path / "out.engine")
    assert ran.json["level"] == "aot-built"
    assert f"the GPU here, {gpu.name}, is sm{gpu.capability}" in ran.json["not_run"]["reason"]


def test_a_session_keeps_its_kernels_and_times_itself(hub: Callable[..., Any], tmp_path: Path) -> None:
    if not supported():
        pytest.skip(f"no builder here is for {cuda.gpus()[0]}")
    assert convert(hub, convolution(tmp_path / "m.onnx"), tmp_path / "out.engine").status == 0
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    with python_interface.open_session(str(tmp_path / "out.engine")) as model:
        first = model.run(feeds)["y"]
        np.testing.assert_array_equal(model.run(feeds)["y"], first)
        said = model.execution(feeds)
    assert said.layers
    assert said.device == cuda.gpus()[0].name
    if RTX in HERE and TENSORRT not in HERE:
        assert device_cache("kernels", RTX, RTX.version, cuda.gpus()[0]).exists()
