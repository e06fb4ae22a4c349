from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hub.spec import ConvertOptions, DType, EffectError, ShapeNeeded, StepError, UnknownName
from hub_keras.flatbuffer import name_interface
from hub_tflitefile.schema import read, to_bytes
from plugins.keras.tests import keras_cases as cases
from plugins.keras.tests import keras_networks as networks

# Keras reads TensorFlow's variables through numpy's old __array__ protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
# TensorFlow's converter says this for every int8 conversion whose inputs stay float.
_FLOAT_INPUTS = pytest.mark.filterwarnings("ignore:Statistics for quantized inputs:UserWarning")
Network = Callable[..., Path]
PARITY = 1e-5  # float32 rounding through these depths; see the README's table


@pytest.mark.parametrize("name", networks.NAMES)
def test_frozen_function_keeps_interface_and_values(name: str, network: Network, tmp_path: Path) -> None:
    path, output = network(name), tmp_path / "m.tflite"
    cases.convert("keras.tflite-frozen", path, output, ConvertOptions(shapes=networks.shapes(name)))
    signature = cases.describe(path).signature
    assert cases.interface(output) == ([i.name for i in signature.inputs], [o.name for o in signature.outputs])
    feeds = networks.feeds(name)
    assert cases.relative_error(cases.run_tflite(output, feeds), cases.reference(path, feeds)) < PARITY


@pytest.mark.parametrize("edge", ["keras.tflite-saved", "keras.tflite-unrolled"])
@pytest.mark.parametrize("name", ["lstm_state", "gru_stack", "bilstm"])
def test_other_engines_agree(edge: str, name: str, network: Network, tmp_path: Path) -> None:
    path, output = network(name), tmp_path / "m.tflite"
    cases.convert(edge, path, output, ConvertOptions(shapes=networks.shapes(name)))
    signature = cases.describe(path).signature
    assert cases.interface(output) == ([i.name for i in signature.inputs], [o.name for o in signature.outputs])
    feeds = networks.feeds(name)
    assert cases.relative_error(cases.run_tflite(output, feeds), cases.reference(path, feeds)) < PARITY


def test_savedmodel_engine_keeps_the_weights_of_a_convolutional_network(network: Network, tmp_path: Path) -> None:
    path, output = network("unet"), tmp_path / "m.tflite"
    cases.convert("keras.tflite-saved", path, output, ConvertOptions(shapes=networks.shapes("unet")))
    feeds = networks.feeds("unet")
    assert cases.relative_error(cases.run_tflite(output, feeds), cases.reference(path, feeds)) < PARITY


def test_unrolled_file_has_no_loop(network: Network, tmp_path: Path) -> None:
    output = tmp_path / "m.tflite"
    options = ConvertOptions(shapes=networks.shapes("gru_stack"))
    done = cases.convert("keras.tflite-unrolled", network("gru_stack"), output, options)
    assert "WHILE" not in cases.operators_of(output)
    assert any(note.text.startswith("unrolled gru") for note in done.notes)


def test_batch_of_three(network: Network, tmp_path: Path) -> None:
    path, output = network("bilstm"), tmp_path / "m.tflite"
    cases.convert("keras.tflite-frozen", path, output, ConvertOptions(shapes=networks.shapes("bilstm", batch=3)))
    feeds = networks.feeds("bilstm", batch=3)
    assert cases.relative_error(cases.run_tflite(output, feeds), cases.reference(path, feeds)) < PARITY


def test_open_batch_is_asked_for(network: Network, tmp_path: Path) -> None:
    with pytest.raises(ShapeNeeded) as caught:
        cases.convert("keras.tflite-frozen", network("lstm"), tmp_path / "m.tflite")
    assert caught.value.hint == "--shape signal=1x20x6"


def test_shape_for_no_input(network: Network, tmp_path: Path) -> None:
    options = ConvertOptions(shapes={"signa": (1, 20, 6)})
    with pytest.raises(UnknownName, match="signa"):
        cases.convert("keras.tflite-frozen", network("lstm"), tmp_path / "m.tflite", options)


def test_input_frozen_to_a_constant(network: Network, tmp_path: Path) -> None:
    path, output = network("multi_io"), tmp_path / "m.tflite"
    options = ConvertOptions(shapes=networks.shapes("multi_io"), constants={"extra": 0.5})
    done = cases.convert("keras.tflite-frozen", path, output, options)
    assert cases.interface(output)[0] == ["picture"]
    (binding,) = done.bindings
    assert (binding.source, binding.target, binding.constant) == ("extra", "", 0.5)
    feeds = networks.feeds("multi_io")
    whole = {**feeds, "extra": np.full((1, 4), 0.5, np.float32)}
    result = cases.run_tflite(output, {"picture": feeds["picture"]})
    assert cases.relative_error(result, cases.reference(path, whole)) < PARITY


@pytest.mark.parametrize("word", ["int8-dynamic", "fp16"])
def test_precision_without_data(word: str, network: Network, tmp_path: Path) -> None:
    path, output, plain = network("depthwise"), tmp_path / "m.tflite", tmp_path / "plain.tflite"
    options = ConvertOptions(shapes=networks.shapes("depthwise"))
    done = cases.convert(f"keras.tflite-tf-{word}", path, output, options)
    cases.convert("keras.tflite-frozen", path, plain, options)
    assert done.recipe is not None
    assert done.recipe.numerics == word
    assert output.stat().st_size < 0.75 * plain.stat().st_size
    feeds = networks.feeds("depthwise")
    assert cases.cosine(cases.run_tflite(output, feeds), cases.reference(path, feeds)) > 0.999


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    def written(name: str) -> str:
        folder = tmp_path_factory.mktemp(name)
        for seed in range(8):
            np.savez(folder / f"{seed:04d}.npz", allow_pickle=False, **networks.feeds(name, seed=100 + seed))
        return str(folder)

    return written


@_FLOAT_INPUTS
@pytest.mark.parametrize("name", ["cnn_bn", "lstm"])
def test_static_int8(name: str, network: Network, calibration: Callable[[str], str], tmp_path: Path) -> None:
    path, output = network(name), tmp_path / "m.tflite"
    options = ConvertOptions(shapes=networks.shapes(name))
    done = cases.convert("keras.tflite-tf-int8", path, output, options, calibration(name))
    assert done.recipe is not None
    assert done.recipe.samples == 8
    feeds = networks.feeds(name)
    assert cases.cosine(cases.run_tflite(output, feeds), cases.reference(path, feeds)) > 0.99


@_FLOAT_INPUTS
def test_integer_interface_is_declared(network: Network, calibration: Callable[[str], str], tmp_path: Path) -> None:
    path, output = network("depthwise"), tmp_path / "m.tflite"
    options = ConvertOptions(shapes=networks.shapes("depthwise"), io_dtype="int8")
    done = cases.convert("keras.tflite-tf-int8", path, output, options, calibration("depthwise"))
    opened = cases.interpreter(output)
    details = [*opened.get_input_details(), *opened.get_output_details()]
    declared = [(b.source, b.dtype, pytest.approx(b.scale), b.zero_point) for b in done.bindings]
    assert declared == [(d["name"], DType.INT8, *d["quantization"]) for d in details]
    assert all(detail["dtype"] == np.int8 for detail in details)


@_FLOAT_INPUTS
def test_no_calibration_samples(network: Network, tmp_path: Path) -> None:
    options = ConvertOptions(shapes=networks.shapes("cnn_bn"))
    with pytest.raises(StepError, match="no calibration samples"):
        cases.convert("keras.tflite-tf-int8", network("cnn_bn"), tmp_path / "m.tflite", options)


def test_wrong_number_of_outputs_is_caught(network: Network, tmp_path: Path) -> None:
    output = tmp_path / "m.tflite"
    cases.convert("keras.tflite-frozen", network("dict_io"), output, ConvertOptions(shapes=networks.shapes("dict_io")))
    model = read(output)
    model.subgraphs[0].outputs = model.subgraphs[0].outputs[:1]
    output.write_bytes(to_bytes(model))
    with pytest.raises(EffectError, match="2 inputs and 1 outputs"):
        name_interface(output, ["b", "a"], ["zeta", "alpha"])
