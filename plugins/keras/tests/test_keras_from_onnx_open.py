"""ONNX to Keras at open sizes: run at two sizes, and what depends on the run is refused."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from hub.spec import ConvertOptions
from hub_keras.from_onnx import convert_from_onnx, operations
from hub_keras.onnx_importer import UnsupportedOperator, import_onnx
from plugins.keras.tests import onnx_networks as networks

pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

PARITY = 1e-4  # of the largest output; what issue 3 asks for

# Network, what is open in its input, and two shapes.
_Case = tuple[Any, dict[int, str], tuple[tuple[int, ...], tuple[int, ...]]]
CASES: dict[str, _Case] = {
    "cnn": (networks.resnet, {0: "batch", 2: "height"}, ((2, 3, 32, 32), (3, 3, 48, 32))),
    "unet": (networks.UNet, {0: "batch", 3: "width"}, ((2, 3, 32, 32), (3, 3, 32, 16))),
    "lstm": (lambda: networks.Recurrent("LSTM", both=False), {0: "batch", 1: "time"}, ((2, 6, 8), (3, 4, 8))),
    "bigru": (lambda: networks.Recurrent("GRU", both=True), {0: "batch"}, ((2, 6, 8), (3, 6, 8))),
}

# Runs without hub: only Keras and numpy.
_ALONE = """
import os, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("hub"):
            raise ImportError(f"{name} is barred")
sys.meta_path.insert(0, Barred())
import keras, numpy as np
for folder in sys.argv[1:]:
    model = keras.models.load_model(f"{folder}/model.keras")
    given = np.load(f"{folder}/inputs.npz")
    np.savez(f"{folder}/outputs.npz", **{name: np.asarray(model(given[name], training=False)) for name in given.files})
"""


def _export(name: str, folder: Path) -> Path:
    """The `prepared` form of a network with open sizes."""
    import torch

    from hub_onnxruntime.prepare import prepare_dynamic

    torch.manual_seed(0)
    build, axes, (shape, _) = CASES[name]
    with warnings.catch_warnings():  # the exporter only makes the input here, and says it is old
        warnings.simplefilter("ignore")
        torch.onnx.export(
            build().eval(),
            (torch.randn(shape),),
            str(folder / "raw.onnx"),
            dynamo=False,
            opset_version=17,
            input_names=["in0"],
            dynamic_axes={"in0": axes},
        )
    (folder / "scratch").mkdir()
    prepare_dynamic(folder / "raw.onnx", folder / "model.onnx", folder / "scratch", {}, {})
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every network converted with open sizes, then loaded and run at two sizes in a process that cannot import hub."""
    import onnxruntime

    top = tmp_path_factory.mktemp("open")
    for name, (_, _, shapes) in CASES.items():
        folder = top / name
        folder.mkdir()
        path = _export(name, folder)
        convert_from_onnx(path, ConvertOptions(), folder / "model.keras")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        given = {str(shape): rng.standard_normal(shape).astype(np.float32) for shape in shapes}
        np.savez(folder / "inputs.npz", allow_pickle=False, **given)
        expected = {key: session.run(None, {"in0": array})[0] for key, array in given.items()}
        np.savez(folder / "expected.npz", allow_pickle=False, **expected)
    folders = [str(top / name) for name in CASES]
    subprocess.run([sys.executable, "-c", _ALONE, *folders], check=True, capture_output=True)
    return top


@pytest.mark.parametrize("name", sorted(CASES))
def test_plain_keras_computes_it_at_two_sizes(name: str, alone: Path) -> None:
    made, expected = (np.load(alone / name / f"{kind}.npz") for kind in ("outputs", "expected"))
    assert len(expected.files) == len({expected[key].shape for key in expected.files}) == 2
    for key in expected.files:
        assert made[key].shape == expected[key].shape
        assert np.abs(made[key] - expected[key]).max() < PARITY * np.abs(expected[key]).max()


@pytest.mark.parametrize("name", ["cnn", "unet"])
def test_open_pictures_are_transposed_at_the_border_only(name: str, alone: Path) -> None:
    found = operations(import_onnx(onnx.load(alone / name / "model.onnx")).model)
    assert found["Transpose"] + found["Permute"] <= networks.NETWORKS["resnet" if name == "cnn" else name][2]


def _model(nodes: list[Any], inputs: dict[str, list[Any]], constants: dict[str, Any]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    result = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    stored = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", values, result, stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made, data_prop=True)


def _reshaped_by_another(first: str, second: str) -> onnx.ModelProto:
    """One input gets the first size of another."""
    nodes = [
        helper.make_node("Shape", ["b"], ["size"], end=1),
        helper.make_node("Concat", ["size", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["a", "shape"], ["y"], name="reshape"),
    ]
    return _model(nodes, {"a": [first, "T", 4], "b": [second, 3]}, {"rest": [-1, 2]})


def test_sizes_of_one_name_are_equal() -> None:
    model = import_onnx(_reshaped_by_another("N", "N")).model
    made = model([np.ones((3, 5, 4), np.float32), np.ones((3, 3), np.float32)])
    assert made.shape == (3, 10, 2)


def test_sizes_of_two_names_are_not_taken_as_equal() -> None:
    with pytest.raises(UnsupportedOperator, match=r"shape \[M, .* --shape a=NxTx4 --shape b=Mx3"):
        import_onnx(_reshaped_by_another("N", "M"))


def test_arithmetic_on_sizes() -> None:
    nodes = [
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"]),
        helper.make_node("Gather", ["shape", "one"], ["t"]),
        helper.make_node("Mul", ["n", "t"], ["both"]),
        helper.make_node("Unsqueeze", ["both", "axis"], ["listed"]),
        helper.make_node("Concat", ["listed", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["a", "wanted"], ["y"]),
    ]
    constants = {"zero": 0, "one": 1, "axis": [0], "rest": [4]}
    model = import_onnx(_model(nodes, {"a": ["N", "T", 4]}, constants)).model
    assert [model(np.ones((n, 5, 4), np.float32)).shape for n in (2, 3)] == [(10, 4), (15, 4)]


def _expanded(other: str) -> onnx.ModelProto:
    """A constant as often as the first size of an input, and the input joined to it."""
    nodes = [
        helper.make_node("Shape", [other], ["size"], end=1),
        helper.make_node("Concat", ["size", "rest"], ["shape"], axis=0),
        helper.make_node("Expand", ["row", "shape"], ["rows"]),
        helper.make_node("Concat", ["rows", "a"], ["y"], axis=1),
    ]
    row = np.asarray([[-1.0, 2.0]], np.float32)
    return _model(nodes, {"a": ["N", 3]}, {"rest": [2], "row": row})


@pytest.mark.parametrize("count", [1, 4])
def test_a_constant_is_repeated_for_each_sample(count: int) -> None:
    a = np.full((count, 3), 5.0, np.float32)
    made = np.asarray(import_onnx(_expanded("a")).model(a))
    assert np.array_equal(made, np.hstack([np.tile(np.float32([[-1, 2]]), (count, 1)), a]))


def test_a_comparison_that_depends_on_the_run_is_refused() -> None:
    nodes = [
        helper.make_node("Shape", ["a"], ["size"], end=1),
        helper.make_node("Equal", ["size", "one"], ["alone"]),
        helper.make_node("Where", ["alone", "one", "size"], ["chosen"]),
        helper.make_node("Expand", ["a", "chosen"], ["y"]),
    ]
    with pytest.raises(UnsupportedOperator, match=r"the size N must be known .* --shape a=Nx3, with a number for N"):
        import_onnx(_model(nodes, {"a": ["N", 3]}, {"one": [1]}))


def test_a_refusal_names_the_size_and_the_flag() -> None:
    nodes = [helper.make_node("Pad", ["a", "pads"], ["y"], mode="reflect")]
    with pytest.raises(UnsupportedOperator, match=r"mode reflect needs the open size T; fix it: --shape a=2xT, with a"):
        import_onnx(_model(nodes, {"a": [2, "T"]}, {"pads": [0, 1, 0, 1]}))
