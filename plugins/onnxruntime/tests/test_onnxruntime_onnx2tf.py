"""ONNX -> TFLite by onnx2tf in its own environment, run in LiteRT against ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

import hub
from hub.spec import ConvertJob, ConvertOptions, ModelArtifact, Signature, State, StepOutput
from hub_onnxruntime import onnx2tf_edge
from hub_onnxruntime.describe import summarize
from hub_onnxruntime.prepare import prepare
from hub_onnxruntime.session import OrtSession
from plugins.onnxruntime.tests import onnx_graphs as graphs
from tests.zoo import data, fetch

pytestmark = pytest.mark.real
CONVERT = """
import sys, msgspec
from hub.spec import ConvertJob, HubError
from hub_onnxruntime.onnx2tf_edge import convert
job = msgspec.json.decode(open(sys.argv[1], "rb").read(), type=ConvertJob)
try:
    answer = msgspec.json.encode(convert(job))
except HubError as error:
    answer = msgspec.json.encode({"code": error.code, "message": error.message})
open(sys.argv[2], "wb").write(answer)
"""
Convert = Callable[[Path, Path], Any]


def uv(*arguments: str) -> None:
    links = {"UV_FIND_LINKS": os.environ["PIP_FIND_LINKS"]} if "PIP_FIND_LINKS" in os.environ else {}
    command = [sys.executable, "-m", "uv", *arguments, "--quiet"]
    subprocess.run(command, check=True, env=os.environ | links, timeout=600)


@pytest.fixture(scope="session")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Builds the toolchain as its lock says; returns a function that runs the edge inside it."""
    home = tmp_path_factory.mktemp("onnx2tf")
    python = str(home / "venv" / "bin" / "python")
    uv("venv", "--python", onnx2tf_edge.TOOLCHAIN.python, str(home / "venv"))
    toolchain = onnx2tf_edge.TOOLCHAIN
    uv("pip", "install", "--python", python, "--no-deps", *toolchain.requires)
    uv(
        "pip",
        "install",
        "--python",
        python,
        "--no-deps",
        "--python-version",
        toolchain.forced_python,
        *toolchain.forced,
    )
    packages = home / "packages"
    packages.mkdir()
    for module in (hub, sys.modules["hub_onnxruntime"]):
        folder = Path(module.__file__ or "").parent
        (packages / folder.name).symlink_to(folder)

    def run(source: Path, folder: Path) -> Any:
        job, answer = folder / "job.json", folder / "answer.json"
        job.write_bytes(msgspec.json.encode(job_for(source, folder)))
        command = [python, "-c", CONVERT, str(job), str(answer)]
        environment = {"PYTHONPATH": str(packages), "PATH": os.environ["PATH"]}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return msgspec.json.decode(answer.read_bytes())

    return run


def job_for(source: Path, folder: Path) -> ConvertJob:
    (folder / "scratch").mkdir()
    state, signature = State(format="onnx", form="static"), Signature(inputs=(), outputs=())
    artifact = ModelArtifact(path=str(source), state=state, signature=signature, sha256="", size_bytes=0)
    scratch = str(folder / "scratch")
    target, output = State(format="tflite"), str(folder / "out.tflite")
    return ConvertJob(target=target, source=artifact, output=output, scratch=scratch)


def lite(path: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    answer: dict[str, Any] = interpreter.get_signature_runner()(**feeds)
    return answer


class Case(NamedTuple):
    name: str
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, int | float | bool]
    bound: float


VAD = {"input": (1, 576), "state": (2, 1, 128)}
CASES = [
    Case("vad_onnx", VAD, {"sr": 16000}, 1e-4),
    Case("ocr_cls", {"x": (1, 3, 48, 192)}, {}, 1e-4),
    Case("ocr_det", {"x": (1, 3, 320, 320)}, {}, 1e-4),
    Case("magika_onnx", {"bytes": (1, 2048)}, {}, 1e-4),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_real_models_agree_with_onnx_runtime(case: Case, convert: Convert, tmp_path: Path) -> None:
    static = tmp_path / "static.onnx"
    (tmp_path / "prepare").mkdir()
    prepare(fetch.path(case.name), static, tmp_path / "prepare", case.shapes, case.constants)
    content = static.read_bytes()
    answer = convert(static, tmp_path)
    assert static.read_bytes() == content
    assert "code" not in answer, answer
    assert msgspec.convert(answer, StepOutput).bindings == ()
    arrays = data.feeds(case.name, "test", 1)
    feeds = {name: np.asarray(rows[0]) if case.name == "vad_onnx" else rows for name, rows in arrays.items()}
    feeds = {name: array for name, array in feeds.items() if name not in case.constants}
    wanted, found = OrtSession(static).run(feeds), lite(tmp_path / "out.tflite", feeds)
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        assert np.abs(found[name] - array).max() <= case.bound * np.abs(array).max()


def test_operators_that_no_runtime_has_are_a_failure(convert: Convert, tmp_path: Path) -> None:
    answer = convert(fetch.path("vad_half_onnx"), tmp_path)
    assert answer["code"] in ("unsupported-model", "step-failed")
    assert not (tmp_path / "out.tflite").exists()


def test_output_layout_is_held_by_a_reshape(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    node = helper.make_node("Relu", ["x"], ["y"])
    shape = [1, 2, 3, 3]
    proto = graphs.model([node], [graphs.value("x", shape)], [graphs.value("y", shape)])
    assert onnx2tf_edge.keep_output_layout(proto) == 1
    onnx.checker.check_model(proto, full_check=True)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert np.array_equal(OrtSession(graphs.saved(proto, tmp_path / "m.onnx")).run({"x": x})["y"], np.maximum(x, 0))


def test_loops_are_refused_before_anything_runs(tmp_path: Path) -> None:
    summary = summarize(graphs.saved(graphs.dense(), tmp_path / "m.onnx"))
    assert onnx2tf_edge.ONNX2TF.check(summary, ConvertOptions())
    looping = msgspec.structs.replace(summary, operators={"Loop": 1})
    verdict = onnx2tf_edge.ONNX2TF.check(looping, ConvertOptions())
    assert not verdict
    assert "Loop" in verdict.reason
