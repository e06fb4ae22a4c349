"""An ONNX graph from inside: integer operators whose scales stand elsewhere."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hub_onnxgraph.inside import InsideOnnx


def saved(folder: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    kept = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    file = folder / "model.onnx"
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "main", values[:1], values[1:], kept)
    onnx.save(helper.make_model(graph, opset_imports=opsets), file)
    return file


def test_an_integer_product_has_the_grid_of_the_scale_behind_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("Mul", ["s", "w_scale"], ["scales"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "w_zero"], ["p"]),
        helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "scales"], ["y"]),
    ]
    weights = np.array([[-3, 4], [5, -6]], np.int8)
    scale = np.array([0.5, 0.25], np.float32)
    file = saved(tmp_path, nodes, {"w": weights, "w_scale": scale, "w_zero": np.zeros(2, np.int8)})
    found = InsideOnnx.constants(file, ["w"])["w"]
    assert np.array_equal(found.values, weights * scale)
    assert np.array_equal(found.step, scale[None])
    product = next(layer for layer in InsideOnnx.inside(file).layers if layer.operator == "MatMulInteger")
    assert product.inputs == ("q", "w", "z")


def test_a_recurrent_layer_has_a_grid_for_each_weight_and_the_slots_of_the_float_one(tmp_path: Path) -> None:
    inputs = ["x", "w", "r", "b", "", "", "", "", "w_scale", "w_zero", "r_scale", "r_zero"]
    nodes = [helper.make_node("DynamicQuantizeLSTM", inputs, ["y"], domain="com.microsoft", hidden_size=1)]
    constants = {name: np.ones((1, 2, 4), np.int8) for name in ("w", "r")} | {"b": np.zeros((1, 8), np.float32)}
    constants |= {f"{name}_scale": np.array([step], np.float32) for name, step in (("w", 0.5), ("r", 0.25))}
    constants |= {f"{name}_zero": np.zeros(1, np.int8) for name in "wr"}
    file = saved(tmp_path, nodes, constants)
    found = InsideOnnx.constants(file, ["w", "r"])
    assert [float(found[name].values.max()) for name in "wr"] == [0.5, 0.25]
    assert InsideOnnx.inside(file).layers[0].inputs == ("x", "w", "r", "b", "", "", "", "")


def test_a_norm_says_its_epsilon(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "w"], ["m"], epsilon=1e-3),
        helper.make_node("LeakyRelu", ["m"], ["y"], alpha=0.1),
    ]
    norm, other = InsideOnnx.inside(saved(tmp_path, nodes, {"w": np.ones(4, np.float32)})).layers
    assert (norm.epsilon, other.epsilon) == (np.float32(1e-3), None)
