from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hub.spec import ConvertOptions, ModelRefused, ModelUnreadable, Numerics, State, StepError, UnsupportedModel
from hub_keras.plugin import hub_load_weights, hub_save_live_model
from plugins.keras.tests import keras_cases as cases
from plugins.keras.tests import keras_networks as networks

# Keras reads TensorFlow's variables through numpy's old __array__ protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
Network = Callable[..., Path]


def test_describes_as_the_author_declared(network: Network) -> None:
    summary = cases.describe(network("dict_io"))
    assert summary.state == State(format="keras", numerics=Numerics.FP32)
    assert [str(spec) for spec in summary.signature.inputs] == ["b: float32[batchx4]", "a: float32[batchx4]"]
    assert [spec.name for spec in summary.signature.outputs] == ["zeta", "alpha"]
    assert summary.parameters == 4 * 6 + 6 + 6 * 2 + 2 + 6 * 3 + 3
    assert summary.operators["Dense"] == 3


def test_three_outputs_of_one_layer_have_three_names(network: Network) -> None:
    outputs = cases.describe(network("lstm_state")).signature.outputs
    assert [spec.name for spec in outputs] == ["speech", "cell", "cell_1"]


def test_open_dimensions_have_names_and_tokens_a_range(network: Network) -> None:
    (frames,) = cases.describe(network("gru_stack")).signature.inputs
    assert str(frames) == "frames: float32[batchxframes_1x5]"
    (tokens,) = cases.describe(network("text")).signature.inputs
    assert tokens.value_range == (0.0, 199.0)


def test_runs_are_repeatable_and_any_batch(network: Network) -> None:
    for batch in (1, 4):
        feeds = networks.feeds("cnn_bn", batch=batch)
        first, second = (cases.reference(network("cnn_bn"), feeds) for _ in range(2))
        assert first["probabilities"].shape == (batch, 10)
        assert np.array_equal(first["probabilities"], second["probabilities"])


def test_missing_input_is_named(network: Network) -> None:
    with pytest.raises(StepError, match="extra"):
        cases.reference(network("multi_io"), {"picture": networks.feeds("multi_io")["picture"]})


def test_hdf5_and_keras_files_agree(network: Network, tmp_path: Path) -> None:
    feeds = networks.feeds("multi_io")
    old = network("multi_io", ".h5")
    renamed = tmp_path / "model.bin"
    renamed.write_bytes(old.read_bytes())
    assert cases.relative_error(cases.reference(renamed, feeds), cases.reference(network("multi_io"), feeds)) < 1e-6


def _keras_2_file(path: Path, **layer: Any) -> Path:
    """A Sequential with one Dense layer, as Keras 2.0 wrote it: no module names, bytes attributes."""
    dense = {"class_name": "Dense", "config": {"name": "dense_1", "units": 2, "batch_input_shape": [None, 3],
             "activation": "linear", "dtype": "float32", "use_bias": True}, **layer}  # fmt: skip
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": [dense]}).encode()
        file.attrs["keras_version"] = b"2.0.5"
        file.attrs["backend"] = b"tensorflow"
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [b"dense_1"]
        group = weights.create_group("dense_1")
        group.attrs["weight_names"] = [b"dense_1/kernel:0", b"dense_1/bias:0"]
        group["dense_1/kernel:0"] = np.arange(6, dtype=np.float32).reshape(3, 2)
        group["dense_1/bias:0"] = np.array([10, 20], np.float32)
    return path


def test_file_of_keras_2(tmp_path: Path) -> None:
    path = _keras_2_file(tmp_path / "old.h5")
    (spec,) = cases.describe(path).signature.inputs
    feeds = {spec.name: np.array([[1, 10, 100]], np.float32)}
    assert cases.reference(path, feeds)["dense_1"].tolist() == [[430.0, 551.0]]


def _as_keras_2(node: Any) -> Any:
    """Turn a configuration of Keras 3 into what tf-keras 2 wrote for the same layers."""
    if isinstance(node, list):
        return [_as_keras_2(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("class_name") == "DTypePolicy":
        return node["config"]["name"]
    if "inbound_nodes" in node:
        node = {**node, "inbound_nodes": [_calls(call) for call in node["inbound_nodes"]]}
    kept = {key: _as_keras_2(value) for key, value in node.items() if key not in _NOT_IN_KERAS_2}
    if "batch_shape" in kept:
        kept["batch_input_shape"] = kept.pop("batch_shape")
    if isinstance(kept.get("config"), dict):
        kept["config"].update(_ONLY_IN_KERAS_2.get(kept.get("class_name", ""), {}))
    return kept


_NOT_IN_KERAS_2 = {"module", "registered_name", "build_config", "shared_object_id", "zero_output_for_mask", "optional",
                   "quantization_config", "lora_rank"}  # fmt: skip
_ONLY_IN_KERAS_2: dict[str, dict[str, Any]] = {
    "LSTM": {"time_major": False, "implementation": 2},
    "GRU": {"time_major": False, "implementation": 2},
    "DepthwiseConv2D": {"groups": 1},
    "SeparableConv2D": {"groups": 1, "kernel_initializer": None},
    "BatchNormalization": {"axis": [3]},
}


def _calls(call: dict[str, Any]) -> list[list[Any]]:
    tensors = call["args"][0] if isinstance(call["args"][0], list) else [call["args"][0]]
    return [[*tensor["config"]["keras_history"], {}] for tensor in tensors]


@pytest.mark.parametrize("name", ["depthwise", "gru_stack", "bilstm", "unet", "multi_io", "text"])
def test_networks_as_tf_keras_2_wrote_them(name: str, network: Network, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.h5"
    path.write_bytes(network(name, ".h5").read_bytes())
    with h5py.File(path, "r+") as file:
        config = _as_keras_2(json.loads(file.attrs["model_config"]))
        file.attrs["model_config"] = json.dumps(config)
    feeds = networks.feeds(name)
    assert cases.relative_error(cases.reference(path, feeds), cases.reference(network(name), feeds)) < 1e-6
    assert (cases.describe(path).findings != ()) is (name not in {"multi_io", "text"})


def test_batch_normalization_of_this_keras_is_read_as_it_stands(network: Network) -> None:
    assert cases.describe(network("cnn_bn")).findings == ()


def test_unknown_class_in_a_file_of_keras_2(tmp_path: Path) -> None:
    path = _keras_2_file(tmp_path / "old.h5", class_name="Wavelet")
    with pytest.raises(UnsupportedModel, match="Wavelet"):
        cases.describe(path)


def _export(model: Any, folder: Path) -> Path:
    model.export(folder, verbose=False)
    return folder


@pytest.mark.parametrize(("name", "engine"), [("multi_io", "frozen"), ("multi_io", "saved"), ("lstm", "frozen")])
def test_savedmodel_converts_through_its_signature(name: str, engine: str, tmp_path: Path) -> None:
    folder, output = _export(networks.build(name), tmp_path / "saved"), tmp_path / "m.tflite"
    summary = cases.describe(folder)
    assert summary.state.form == "savedmodel"
    assert [spec.name for spec in summary.signature.inputs] == sorted(networks.shapes(name))
    assert len(summary.files) > 2
    cases.convert(f"keras.tflite-{engine}", folder, output, ConvertOptions(shapes=networks.shapes(name)))
    signature = summary.signature
    assert cases.interface(output) == ([i.name for i in signature.inputs], [o.name for o in signature.outputs])
    feeds = networks.feeds(name)
    assert cases.relative_error(cases.run_tflite(output, feeds), cases.reference(folder, feeds)) < 1e-5


def test_savedmodel_that_calls_python_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(
        lambda x: {"y": tf.ensure_shape(tf.numpy_function(lambda v: v, [x], tf.float32), (1,))},
        input_signature=[tf.TensorSpec((1,), tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.serve)
    with pytest.raises(ModelRefused, match="PyFunc"):
        cases.describe(tmp_path / "saved")


def _with_slots(folder: Path) -> Path:
    """A dense layer whose optimizer is an object of a kind that TensorFlow 2.21 does not know, as Keras 2 saved it."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    module = tf.Module()
    module.weight = tf.Variable(np.arange(6, dtype=np.float32).reshape(3, 2) / 7)
    module.momentum = tf.Variable(np.zeros((3, 2), np.float32))
    module.optimizer = tf.Module()
    module.serve = tf.function(
        lambda x: {"y": tf.nn.relu(x @ module.weight) - 1, "z": tf.reduce_sum(x, -1)},
        input_signature=[tf.TensorSpec((None, 3), tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve, "other": module.serve})
    file = folder / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    objects = proto.meta_graphs[0].object_graph_def.nodes
    places = {child.local_name: child.node_id for child in objects[0].children}
    optimizer = objects[places["optimizer"]]
    optimizer.user_object.identifier = "optimizerV1"
    optimizer.slot_variables.add(
        original_variable_node_id=places["weight"], slot_name="momentum", slot_variable_node_id=places["momentum"]
    )
    file.write_bytes(proto.SerializeToString())
    return folder


def test_savedmodel_that_tensorflow_2_cannot_load(tmp_path: Path) -> None:
    folder, output = _with_slots(tmp_path / "saved"), tmp_path / "m.tflite"
    summary = cases.describe(folder)
    assert [finding.code for finding in summary.findings] == ["graph-alone"]
    assert "add_slot" in summary.findings[0].text
    assert summary.parameters == 6
    assert [(spec.name, str(spec.shape[0])) for spec in summary.signature.inputs] == [("x", "batch")]
    feeds = {"x": np.float32([[1, -2, 3], [0.5, 0, -1]])}
    wanted = {"y": np.maximum(feeds["x"] @ (np.arange(6, dtype=np.float32).reshape(3, 2) / 7), 0) - 1,
              "z": feeds["x"].sum(-1)}  # fmt: skip
    assert cases.relative_error(cases.reference(folder, feeds), wanted) < 1e-6
    cases.convert("keras.tflite-frozen", folder, output, ConvertOptions(shapes={"x": (2, 3)}))
    assert cases.relative_error(cases.run_tflite(output, feeds), wanted) < 1e-6


def test_truncated_savedmodel(tmp_path: Path) -> None:
    folder = _export(networks.build("dict_io"), tmp_path / "saved")
    graph = folder / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(ModelUnreadable):
        cases.describe(folder)


def test_savedmodel_with_truncated_variables(tmp_path: Path) -> None:
    """Each loader refuses them with an error of TensorFlow's own, which is no RuntimeError."""
    folder = _with_slots(tmp_path / "saved")
    (data,) = (folder / "variables").glob("variables.data-*")
    data.write_bytes(data.read_bytes()[:10])
    with pytest.raises(ModelUnreadable, match="nor by its loader of version 1") as refused:
        cases.describe(folder)
    assert refused.value.code == "model-unreadable"


def test_damaged_weights_are_unreadable(network: Network, tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "cut.keras"
    source = network("text")
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(path, "w") as cut:
        for name in whole.namelist():
            cut.writestr(name, whole.read(name)[:2000] if name.endswith(".h5") else whole.read(name))
    with pytest.raises(ModelUnreadable):
        cases.describe(path)


def test_live_model_is_saved_with_its_custom_class(tmp_path: Path) -> None:
    import keras

    @keras.saving.register_keras_serializable(package="shop")
    class Twice(keras.layers.Layer):  # type: ignore[misc]  # keras is untyped here
        def call(self, x: Any) -> Any:
            return x * 2.0

    inputs = keras.Input((3,), name="x")
    custom = keras.Model(inputs, Twice(name="y")(inputs))
    path = hub_save_live_model(model=custom, folder=tmp_path, example_inputs=None)
    assert path is not None
    feeds = {"x": np.ones((1, 3), np.float32)}
    assert next(iter(cases.reference(path, feeds).values())).tolist() == [[2.0, 2.0, 2.0]]
    plain = hub_save_live_model(model=networks.build("dict_io"), folder=tmp_path, example_inputs=None)
    assert plain is not None
    assert plain.suffix == ".keras"
    assert hub_save_live_model(model="no model", folder=tmp_path, example_inputs=None) is None


def test_layers_can_be_looked_into(network: Network) -> None:
    from hub.spec import RuntimeOptions
    from hub_keras.runtime import KerasRuntime

    path = network("cnn_bn")
    session = KerasRuntime().open(cases.artifact(path, cases.describe(path)), RuntimeOptions())
    feeds = networks.feeds("cnn_bn")
    outputs = session.run(feeds)
    seen = session.intermediate(feeds, ("probabilities", "conv2d"))
    assert np.allclose(seen["probabilities"], outputs["probabilities"], atol=1e-6)
    assert seen["conv2d"].shape == (1, 32, 32, 8)
    with pytest.raises(StepError, match="no layer nonsense"):
        session.intermediate(feeds, ("nonsense",))


def test_weights_are_loaded_whole_or_refused(tmp_path: Path) -> None:
    import keras

    def made(units: int) -> keras.Model:
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])

    source, same, other = made(2), made(2), made(4)
    weights = tmp_path / "w.weights.h5"
    source.save_weights(weights)
    assert hub_load_weights(same, weights)
    for had, has in zip(source.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(had, has)
    with pytest.raises(ModelUnreadable, match="does not fit the builder's model"):
        hub_load_weights(other, weights)
    assert hub_load_weights({}, weights) is None
