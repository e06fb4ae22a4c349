"""Sessions beyond `run`: devices, several runs at once, tensors inside, and the runtime's names as targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hub.spec import (
    DeviceMissing,
    Explains,
    ModelArtifact,
    RunsAsync,
    RuntimeOptions,
    ShowsIntermediates,
    Signature,
    State,
    StepError,
    UnknownName,
)
from hub_onnxruntime.describe import OnnxFormat
from hub_onnxruntime.runtime import OrtRuntime
from hub_onnxruntime.session import OrtSession
from plugins.onnxruntime.tests import ort_models as models


@pytest.fixture
def block(tmp_path: Path) -> Path:
    return models.attention(tmp_path)


def artifact(path: Path) -> ModelArtifact:
    signature = Signature(inputs=(), outputs=())
    return ModelArtifact(path=str(path), state=State(format="onnx"), signature=signature, sha256="", size_bytes=0)


def test_its_name_is_a_target_with_a_form_for_each_suffix() -> None:
    runtime = OrtRuntime()
    assert runtime.targets == {".onnx": ("onnx", "onnxruntime"), ".ort": ("onnx", "ort")}
    assert OnnxFormat().written_forms == {".ort": "ort"}


def test_a_session_does_all_that_the_contract_has(block: Path) -> None:
    session = OrtRuntime().open(artifact(block), RuntimeOptions(threads=1))
    assert isinstance(session, RunsAsync)
    assert isinstance(session, ShowsIntermediates)
    assert isinstance(session, Explains)


def test_runs_side_by_side_give_what_each_gives_alone(block: Path) -> None:
    random = np.random.default_rng(0)
    feeds = [{"x": random.standard_normal((1, tokens, 32)).astype(np.float32)} for tokens in range(2, 14)]
    session = OrtSession(block, threads=1)
    alone = [session.run(item)["y"] for item in feeds]
    futures = [session.run_async(item) for item in feeds]
    for future, wanted in zip(futures, alone, strict=True):
        assert np.array_equal(future.result(timeout=60)["y"], wanted)
    session.close()


def test_an_error_of_an_async_run_is_the_runs_own(block: Path) -> None:
    future = OrtSession(block).run_async({"x": np.ones((1, 2, 5), np.float32)})
    with pytest.raises(StepError, match=r"failed on attention\.onnx"):
        future.result(timeout=60)


def test_tensors_inside_are_the_files_own(block: Path) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 5, 32)).astype(np.float32)}
    inner = OrtSession(block).intermediate(["weights", "normed"]).run(feeds)
    assert inner["weights"].sum(axis=-1) == pytest.approx(1.0, abs=1e-5)
    assert inner["normed"].shape == (2, 5, 32)


def test_an_unknown_tensor_is_named_with_the_nearest(block: Path) -> None:
    with pytest.raises(UnknownName, match="'wieghts'") as caught:
        OrtSession(block).intermediate(["wieghts"])
    assert caught.value.hint == "Did you mean 'weights'?"


def test_a_device_that_is_not_there_is_refused_with_those_that_are(block: Path) -> None:
    assert "ROCMExecutionProvider" not in onnxruntime.get_available_providers()
    with pytest.raises(DeviceMissing, match=r"no device 'rocm' here; it has .*cpu"):
        OrtRuntime().open(artifact(block), RuntimeOptions(device="rocm"))


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_device_that_is_installed_and_does_not_start_is_refused(block: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime falls back to the CPU with a warning in its log."""
    there = ["FancyExecutionProvider", *onnxruntime.get_available_providers()]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    with pytest.raises((DeviceMissing, StepError), match="FancyExecutionProvider"):
        OrtSession(block, device="fancy")


def test_threads_and_precision_change_no_value_on_the_processor(block: Path) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 5, 32)).astype(np.float32)}
    results = [
        OrtRuntime().open(artifact(block), RuntimeOptions(threads=threads, precision=precision)).run(feeds)["y"]
        for threads, precision in ((1, ""), (2, ""), (1, "auto"))
    ]
    assert results[0] == pytest.approx(results[1], abs=1e-6)
    assert np.array_equal(results[0], results[2])
    with pytest.raises(StepError, match="ONNX Runtime computes in float32 here, not in bf16"):
        OrtRuntime().open(artifact(block), RuntimeOptions(precision="bf16"))


def test_an_optimized_file_opens_again(block: Path, tmp_path: Path) -> None:
    path, _ = models.convert("onnxruntime.optimize", block, tmp_path)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 5, 32)).astype(np.float32)}
    assert OrtSession(path).run(feeds)["y"] == pytest.approx(OrtSession(block).run(feeds)["y"], abs=1e-5)
    assert OrtSession(path).intermediate(["normed"]).run(feeds)["normed"].shape == (2, 5, 32)
