"""ONNX to Keras: networks against ONNX Runtime, in Keras, in a process without hub, and in TFLite."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import helper

from hub.spec import ConvertJob, ConvertOptions, ModelArtifact, Numerics, Signature, State, StepError
from hub_keras.edges import BY_ID
from hub_keras.from_onnx import IMPORTER, operations
from hub_keras.onnx_importer import UnsupportedOperator, import_onnx, unsupported_operators
from plugins.keras.tests import onnx_networks as networks
from plugins.keras.tests.keras_cases import operators_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

Arrays = list[Any]
PARITY = 1e-4  # of the largest output; what issue 3 asks for
NAMES = sorted(networks.NETWORKS)

# Networks that TensorFlow's converter does not take, with what it says.
_REFUSED = {
    "text": "'tf.Transpose' op",  # it moves a transpose over the bias of a Conv1D, and counts the axes wrong
}

# Runs without hub: only Keras and numpy.
_ALONE = """
import os, sys
os.environ["KERAS_BACKEND"] = sys.argv[1]
class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("hub"):
            raise ImportError(f"{name} is barred")
sys.meta_path.insert(0, Barred())
import keras, numpy as np
for folder in sys.argv[2:]:
    model = keras.models.load_model(f"{folder}/model.keras")
    given = np.load(f"{folder}/inputs.npz")
    tensors = [given[name] for name in given.files]
    result = model(tensors if len(tensors) > 1 else tensors[0], training=False)
    result = result if isinstance(result, list | tuple) else [result]
    np.savez(f"{folder}/outputs-{sys.argv[1]}.npz", *[keras.ops.convert_to_numpy(item) for item in result])
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every network: ONNX, inputs, what ONNX Runtime computes, and the Keras file of the edge."""
    folder = tmp_path_factory.mktemp("onnx")
    for name in NAMES:
        _prepare(name, folder)
    return folder


def _prepare(name: str, folder: Path) -> None:
    import onnxruntime

    path = networks.export(name, folder)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {
        item.name: rng.integers(0, 50, item.shape)
        if "int" in item.type
        else rng.standard_normal(item.shape).astype(np.float32)
        for item in session.get_inputs()
    }
    place = folder / name
    place.mkdir()
    np.savez(place / "inputs.npz", **feeds)
    np.savez(place / "expected.npz", *session.run(None, feeds))
    job = _job("keras.import-onnx", path, place / "model.keras", "onnx")
    (note,) = IMPORTER.convert(job).notes
    (place / "note.txt").write_text(note.text)


def _job(edge: str, source: Path, output: Path, form: str, options: ConvertOptions | None = None) -> ConvertJob:
    scratch = output.parent / f"scratch-{output.name}"
    scratch.mkdir(exist_ok=True)
    state = State(format=form, form="static" if form == "onnx" else "")
    nothing = Signature(inputs=(), outputs=())
    artifact = ModelArtifact(path=str(source), state=state, signature=nothing, sha256="", size_bytes=0)
    target = IMPORTER if edge == IMPORTER.id else BY_ID[edge]
    (end,) = target.gives.states(Numerics.FP32)
    return ConvertJob(
        target=end, source=artifact, output=str(output), scratch=str(scratch), options=options or ConvertOptions()
    )


def _arrays(path: Path) -> Arrays:
    held = np.load(path)
    return [held[name] for name in held.files]


def error(made: Iterable[Any], expected: Arrays) -> float:
    """The largest difference, in parts of the largest expected value."""
    pairs = list(zip(made, expected, strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)) for a, b in pairs)


@pytest.fixture(scope="module")
def alone(exported: Path) -> Path:
    """Every file loaded and run by plain Keras in a process that cannot import hub."""
    folders = [str(exported / name) for name in NAMES]
    subprocess.run([sys.executable, "-c", _ALONE, "tensorflow", *folders], check=True, capture_output=True)
    return exported


@pytest.mark.parametrize("name", NAMES)
def test_plain_keras_computes_what_onnx_runtime_computes(name: str, alone: Path) -> None:
    place = alone / name
    assert error(_arrays(place / "outputs-tensorflow.npz"), _arrays(place / "expected.npz")) < PARITY


@pytest.mark.parametrize("name", NAMES)
def test_transposes_are_those_of_the_border(name: str, exported: Path) -> None:
    imported = import_onnx(onnx.load(exported / f"{name}.onnx"))
    found = operations(imported.model)
    assert found["Transpose"] + found["Permute"] <= networks.NETWORKS[name][2], found
    assert not {"Lambda", "Conv"} & found.keys()


@pytest.mark.parametrize("name", sorted(_REFUSED))
def test_what_the_keras_edge_refuses(name: str, exported: Path, tmp_path: Path) -> None:
    job = _job("keras.tflite-frozen", exported / name / "model.keras", tmp_path / "m.tflite", "keras")
    with pytest.raises(StepError, match=_REFUSED[name]):
        BY_ID["keras.tflite-frozen"].convert(job)


@pytest.mark.parametrize("name", sorted({*NAMES} - {*_REFUSED}))
def test_tflite_through_the_keras_edge(name: str, exported: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    place = exported / name
    output = place / "model.tflite"
    BY_ID["keras.tflite-frozen"].convert(_job("keras.tflite-frozen", place / "model.keras", output, "keras"))
    runner = Interpreter(str(output), num_threads=1).get_signature_runner()
    given = np.load(place / "inputs.npz")
    made = runner(**{key: given[key] for key in given.files})
    names = _output_names(exported / f"{name}.onnx")
    assert error([made[key] for key in names], _arrays(place / "expected.npz")) < PARITY
    assert operators_of(output).count("TRANSPOSE") <= networks.NETWORKS[name][2]


def _output_names(path: Path) -> list[str]:
    return [output.name.replace("/", "_") for output in onnx.load(path).graph.output]


def test_channels_last_on_request_needs_no_transpose(exported: Path) -> None:
    imported = import_onnx(onnx.load(exported / "resnet.onnx"), "nhwc")
    assert imported.moved == {"in0"}
    assert operations(imported.model)["Transpose"] == 0
    picture = _arrays(exported / "resnet" / "inputs.npz")[0].transpose(0, 2, 3, 1)
    made = [np.array(imported.model(picture, training=False))]
    assert error(made, _arrays(exported / "resnet" / "expected.npz")) < PARITY


def test_a_wrong_weight_is_seen(exported: Path) -> None:
    model = onnx.load(exported / "resnet.onnx")
    changed = model.graph.initializer[0]
    array = onnx.numpy_helper.to_array(changed) * np.float32(1.01)
    changed.CopyFrom(onnx.numpy_helper.from_array(array, changed.name))
    imported = import_onnx(model)
    made = [np.array(imported.model(_arrays(exported / "resnet" / "inputs.npz")[0], training=False))]
    assert error(made, _arrays(exported / "resnet" / "expected.npz")) > PARITY


def test_it_trains(exported: Path) -> None:
    model = import_onnx(onnx.load(exported / "mobilenet.onnx")).model
    paths = [weight.path for weight in model.trainable_weights]
    assert any(path.endswith("/kernel") for path in paths)
    model.compile(optimizer="sgd", loss="mse")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 32, 32)).astype(np.float32)
    losses = model.fit(x, np.ones((1, 10), np.float32), epochs=4, verbose=0, batch_size=1).history["loss"]
    assert losses[-1] < losses[0]


def test_layers_are_named_after_the_weights(exported: Path) -> None:
    model = import_onnx(onnx.load(exported / "unet.onnx")).model
    assert {"down", "deep", "last"} <= {layer.name for layer in model.layers}
    assert model.inputs[0].name == "in0"


def _alone(op: str, **attributes: Any) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2, 4, 4])
    result = helper.make_tensor_value_info("y/z", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y/z"], name="n", **attributes)], "g", [value], [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_names_with_a_slash_are_declared(tmp_path: Path) -> None:
    onnx.save(_alone("Relu"), tmp_path / "m.onnx")
    done = IMPORTER.convert(_job("keras.import-onnx", tmp_path / "m.onnx", tmp_path / "m.keras", "onnx"))
    assert [(bound.source, bound.target) for bound in done.bindings] == [("y/z", "y_z")]


def test_what_is_not_known_is_refused() -> None:
    assert unsupported_operators(_alone("Relu", surprise=1)) == {"Relu": "attribute surprise is not implemented"}
    with pytest.raises(UnsupportedOperator, match="attribute surprise is not implemented"):
        import_onnx(_alone("Relu", surprise=1))


def _gelu(order: str, half: float = 0.5) -> onnx.ModelProto:
    """The exact GELU as exporters write it: which of x, the sum and the half are multiplied first."""
    first, second = {"sum": ("x", "sum"), "half": ("x", "half"), "gate": ("sum", "half")}[order]
    (third,) = {"x", "sum", "half"} - {first, second}
    nodes = [
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["sum"]),
        helper.make_node("Mul", [first, second], ["part"]),
        helper.make_node("Mul", [third, "part"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 5]) for name in ("x", "y")]
    numbers = {"root": np.sqrt(2), "one": 1, "half": half}
    stored = [onnx.numpy_helper.from_array(np.float32(number), name) for name, number in numbers.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("order", ["sum", "half", "gate"])
@pytest.mark.parametrize(("half", "becomes"), [(0.5, "Gelu"), (0.4, "Erf")])
def test_the_exact_gelu_is_one_operation(order: str, half: float, becomes: str) -> None:
    onnx_model = _gelu(order, half)
    model = import_onnx(onnx_model).model
    assert {"Gelu", "Erf"} & operations(model).keys() == {becomes}
    x = np.linspace(-4, 4, 10, dtype=np.float32).reshape(2, 5)
    expected = onnx.reference.ReferenceEvaluator(onnx_model).run(None, {"x": x})
    assert error([np.array(model(x))], expected) < PARITY


# In a process of its own: TensorFlow dies of it, and is asked with and without a graph.
_AS_A_GRAPH = """
import sys
import keras, numpy as np, tensorflow as tf
model = keras.models.load_model(sys.argv[1])
rows = np.load(sys.argv[2])
np.save(sys.argv[3], tf.function(model, autograph=False)(tf.constant(rows)).numpy())
"""


def test_channels_that_a_sum_widens_run_as_a_graph(tmp_path: Path) -> None:
    """A convolution, its bias and a sum are one kernel of oneDNN, which crashes on what comes out of `tf.pad`."""
    rng = np.random.default_rng(0)
    constants = {
        "weight": rng.standard_normal((8, 6, 1, 1)).astype(np.float32),
        "bias": rng.standard_normal(8).astype(np.float32),
        "pads": np.array([0, 0, 0, 0, 0, 2, 0, 0], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "weight", "bias"], ["convolved"], kernel_shape=[1, 1]),
        helper.make_node("Pad", ["x", "pads"], ["wide"]),
        helper.make_node("Add", ["convolved", "wide"], ["y"]),
    ]
    border = [helper.make_tensor_value_info(name, 1, [1, count, 64, 64]) for name, count in (("x", 6), ("y", 8))]
    kept = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "widened", border[:1], border[1:], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rows = rng.standard_normal((1, 6, 64, 64)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    import_onnx(model).model.save(tmp_path / "model.keras")
    words = [sys.executable, "-c", _AS_A_GRAPH, *(tmp_path / name for name in ("model.keras", "rows.npy", "y.npy"))]
    subprocess.run([str(word) for word in words], check=True)
    (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": rows})
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-4, atol=1e-4)
