from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from hub.spec import ConvertJob, ConvertOptions, DescribeJob, ModelArtifact, ModelSummary, RuntimeOptions, State
from hub_pytorch import PyTorchFormat
from hub_pytorch.edges import EDGES
from hub_pytorch.runtime import PyTorchRuntime

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.jit is deprecated; its files are in the field
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # torch.export uses old parts of torch
    pytest.mark.filterwarnings("ignore::UserWarning"),  # the same
]

Feeds = dict[str, npt.NDArray[Any]]
SHAPES: dict[str, tuple[int, ...]] = {"x": (1, 576), "state": (2, 1, 128)}


def artifact(path: Path, summary: ModelSummary) -> ModelArtifact:
    return ModelArtifact(
        path=str(path),
        state=summary.state,
        signature=summary.signature,
        sha256="",
        size_bytes=summary.size_bytes,
    )


def test_the_voice_detector_hides_state_and_says_which_part_does_not(vad_jit: Path) -> None:
    summary = PyTorchFormat().describe(DescribeJob(path=str(vad_jit)))
    (finding,) = [item for item in summary.findings if item.kind == "blocker"]
    assert finding.code == "hidden-state"
    assert "_state" in finding.text
    assert "--submodule _model" in finding.hint


def test_the_detectors_core_computes_what_its_authors_onnx_file_does(
    vad_jit: Path, vad_fixed_onnx: Path, tmp_path: Path
) -> None:
    summary = PyTorchFormat().describe(DescribeJob(path=str(vad_jit), submodule="_model", shapes=SHAPES))
    source = artifact(vad_jit, summary)
    options = ConvertOptions(submodule="_model", shapes=SHAPES)
    output = tmp_path / "core.pt2"
    program = State(format="pytorch")
    job = ConvertJob(target=program, source=source, output=str(output), scratch=str(tmp_path), options=options)
    next(edge for edge in EDGES if edge.id == "pytorch.export-torchscript").convert(job)
    core = artifact(output, PyTorchFormat().describe(DescribeJob(path=str(output))))
    script = PyTorchRuntime().open(source, RuntimeOptions(submodule="_model"))
    program = PyTorchRuntime().open(core, RuntimeOptions())
    theirs = onnxruntime.InferenceSession(vad_fixed_onnx, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    state = np.zeros((2, 1, 128), np.float32)
    for _ in range(5):
        sound = (generator.standard_normal((1, 576)) * 0.1).astype(np.float32)
        feeds: Feeds = {"x": sound, "state": state}
        got, wanted = program.run(feeds), script.run(feeds)
        assert all(np.array_equal(got[name], wanted[name]) for name in wanted)
        speech, state = theirs.run(None, {"input": sound, "state": state})
        assert np.allclose(got["output_0"], speech, atol=1e-5)
        assert np.allclose(got["output_1"], state, atol=1e-4)
