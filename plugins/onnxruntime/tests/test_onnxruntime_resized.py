"""Sizes that a file declares too small, overridden: the same operators at the size that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hub.spec import DescribeJob, ModelArtifact, RuntimeOptions, StepError
from hub_onnxruntime.describe import OnnxFormat
from hub_onnxruntime.prepare import prepare
from hub_onnxruntime.resized import RESIZED, resized_file
from hub_onnxruntime.runtime import OrtRuntime
from hub_onnxruntime.session import OrtSession

WANTED = (1, 1, 12, 21)
X = np.random.default_rng(1).standard_normal(WANTED).astype(np.float32)
KERNEL = np.random.default_rng(0).standard_normal((2, 1, 3, 3)).astype(np.float32)


def saved(path: Path, sizes: tuple[int, ...], *, flat: bool = False) -> Path:
    """A convolution, and behind it a Reshape to the example's 72 numbers where it is `flat`."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c" if flat else "y"], name="first")]
    nodes += [helper.make_node("Reshape", ["c", "to"], ["y"], name="flatten")] if flat else []
    stored = [numpy_helper.from_array(KERNEL, "w"), numpy_helper.from_array(np.array([5, 72]), "to")]
    made = [5, 72] if flat else [sizes[0], 2, sizes[2] - 2, sizes[3] - 2]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", sizes), ("y", made))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def opened(path: Path) -> tuple[ModelArtifact, list[str]]:
    summary = OnnxFormat().describe(DescribeJob(path=str(path), shapes={"x": WANTED}, overrides=True))
    artifact = ModelArtifact(
        path=str(path), state=summary.state, signature=summary.signature, sha256="", size_bytes=summary.size_bytes
    )
    return artifact, [finding.code for finding in summary.findings]


def test_a_declared_size_is_overridden(tmp_path: Path) -> None:
    """Held against the same network that was written for that size."""
    path = saved(tmp_path / "small.onnx", (5, 1, 8, 8))
    artifact, codes = opened(path)
    assert (artifact.state.form, codes[0]) == (RESIZED, "declared-size-overridden")
    assert [dim.size for dim in artifact.signature.inputs[0].shape] == [None, 1, None, None]
    wanted = OrtSession(saved(tmp_path / "right.onnx", WANTED)).run({"x": X})["y"]
    found = OrtRuntime().open(artifact, RuntimeOptions()).run({"x": X})["y"]
    np.testing.assert_array_equal(found, wanted)
    prepare(resized_file(path, tmp_path, {"x": WANTED}), tmp_path / "static.onnx", tmp_path, {"x": WANTED}, {})
    written = OrtSession(tmp_path / "static.onnx")
    np.testing.assert_allclose(written.run({"x": X})["y"], wanted, rtol=1e-5)
    (value,) = onnx.load(tmp_path / "static.onnx").graph.input
    assert tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) == WANTED


def test_sizes_are_overridden_for_the_users_own_model_alone(tmp_path: Path) -> None:
    job = DescribeJob(path=str(saved(tmp_path / "small.onnx", (5, 1, 8, 8))), shapes={"x": WANTED})
    summary = OnnxFormat().describe(job)
    assert [dim.size for dim in summary.signature.inputs[0].shape] == [5, 1, 8, 8]
    assert summary.state.form == ""


def test_the_operator_that_forbids_it_is_named(tmp_path: Path) -> None:
    artifact, _ = opened(saved(tmp_path / "flat.onnx", (5, 1, 8, 8), flat=True))
    session = OrtRuntime().open(artifact, RuntimeOptions())
    with pytest.raises(StepError, match="flatten"):
        session.run({"x": X})
