"""Files that are read otherwise than they are written: declared sizes that are overridden, dictionaries as tensors."""

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


def forest(path: Path, *domains: str) -> Path:
    """A tree of one decision, as scikit-learn's exporters write it: probabilities as a list of dictionaries."""
    tree = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "probs"], domain="ai.onnx.ml", post_transform="NONE",
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[1, 0, 0], nodes_values=[0.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        class_treeids=[0, 0, 0, 0], class_nodeids=[1, 1, 2, 2], class_ids=[0, 1, 0, 1],
        class_weights=[0.75, 0.25, 0.125, 0.875], classlabels_int64s=[3, 7],
    )  # fmt: skip
    zipped = helper.make_node("ZipMap", ["probs"], ["p"], domain="ai.onnx.ml", classlabels_int64s=[3, 7])
    values = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2]),
        helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
        helper.make_value_info("p", helper.make_sequence_type_proto(values)),
    ]
    graph = helper.make_graph([tree, zipped], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid(domain, {"": 17, "ai.onnx.ml": 3}[domain]) for domain in domains]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize("domains", [("", "ai.onnx.ml"), ("ai.onnx.ml",)])
def test_dictionaries_are_read_as_the_tensor_of_their_values(domains: tuple[str, ...], tmp_path: Path) -> None:
    """Also where the file imports no standard operators, as it writes none."""
    from onnxruntime import InferenceSession

    path = forest(tmp_path / "forest.onnx", *domains)
    artifact, codes = opened(path)
    assert codes[0] == "dictionaries-as-tensors"
    assert [str(dim) for dim in artifact.signature.outputs[1].shape] == ["rows", "2"]
    x = np.float32([[0, 0.4], [0, 0.6], [9, 0.5]])
    label, rows = InferenceSession(path).run(None, {"x": x})
    found = OrtRuntime().open(artifact, RuntimeOptions()).run({"x": x})
    np.testing.assert_array_equal(found["label"], label)
    np.testing.assert_array_equal(found["p"], np.float32([[row[3], row[7]] for row in rows]))
    copy = resized_file(path, tmp_path, {})
    onnx.checker.check_model(onnx.load(copy), full_check=True)
    np.testing.assert_array_equal(OrtSession(copy).run({"x": x})["p"], found["p"])
