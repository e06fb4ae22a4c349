"""Every edge from Keras to ONNX and PyTorch on networks and on every public layer, each result run at two sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plugins.keras.tests import keras_judge, keras_layer_zoo

# Keras reads TensorFlow's variables through numpy's old __array__ protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
Verdicts = keras_judge.Verdicts

# Networks for CI: borders (dicts, lists, several outputs, names, whole numbers, masks), open sizes, recurrence.
_SMALL = ("lstm_state", "dict_io", "multi_io", "nested", "masked", "passed_on", "bytes", "tokens_open", "pictures")
# Layers for CI: each was wrong on some engine, or needs a repair.
_TELLING = (
    "Conv2D-grouped", "Conv2DTranspose-padded", "AveragePooling2D-same", "GRU-before", "Embedding-masked",
    "TimeDistributed", "Activation-gelu", "Activation-celu", "UpSampling2D-bicubic", "Resizing-area",
    "ActivityRegularization", "MixUp", "Hashing",
)  # fmt: skip
# The torch backend takes a second or more for each: a few in CI, all in the scheduled part.
_TORCH = ("dict_io", "nested", "passed_on", "tokens_open", "AveragePooling2D-same", "UpSampling2D-bicubic", "MixUp")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write models and their references once."""
    folder, done = tmp_path_factory.mktemp("judged"), set[tuple[str, bool]]()

    def write(*names: str, saved_model: bool = False) -> Path:
        place = folder / ("saved" if saved_model else "keras")
        place.mkdir(exist_ok=True)
        fresh = [name for name in names if (name, saved_model) not in done]
        keras_judge.prepare(fresh, place, saved_model=saved_model)
        done.update((name, saved_model) for name in fresh)
        return place

    return write


def _report(edge: str, found: Verdicts, names: tuple[str, ...], refused: set[str]) -> None:
    """Everything is judged, nothing is wrong, and only what is expected is refused."""
    print(found.line(edge))  # noqa: T201 shown by pytest -s and on failure
    assert len(found.passed) + len(found.refused) + len(found.wrong) == len(names)
    assert found.wrong == {}
    assert found.refused.keys() <= refused


# Refused by an engine in CI's part; the reason stands in the plugin's README.
_REFUSED_HERE = {
    "keras.onnx-tf2onnx": {"Conv2DTranspose-padded", "Resizing-area", "MixUp", "Hashing"},
    "keras.onnx-torch": {"UpSampling2D-bicubic", "MixUp"},
    "keras.pytorch": {"UpSampling2D-bicubic", "MixUp"},
}


@pytest.mark.parametrize("edge", _REFUSED_HERE)
def test_borders_and_telling_layers(edge: str, prepared: Callable[..., Path]) -> None:
    names = (*_SMALL, *_TELLING) if edge == "keras.onnx-tf2onnx" else _TORCH
    _report(edge, keras_judge.judge(edge, names, prepared(*names)), names, _REFUSED_HERE[edge])


def test_savedmodel_to_onnx(prepared: Callable[..., Path]) -> None:
    names = ("lstm_state", "dict_io", "tokens_open", "pictures")
    folder = prepared(*names, saved_model=True)
    _report("keras.onnx-tf2onnx", keras_judge.judge("keras.onnx-tf2onnx", names, folder), names, set())


@pytest.mark.scheduled
@pytest.mark.parametrize(
    ("edge", "name"), [("keras.pytorch-static", "masked"), ("keras.onnx-torch-static", "gru_stack")]
)
def test_what_cannot_stay_open_passes_at_fixed_shapes(edge: str, name: str, prepared: Callable[..., Path]) -> None:
    _report(edge, keras_judge.judge(edge, [name], prepared(name)), (name,), set())


def _swap_outputs(path: Path) -> None:
    import onnx

    model = onnx.load(path)
    first, second = model.graph.output[0].name, model.graph.output[1].name
    model.graph.output[0].name, model.graph.output[1].name = second, first
    onnx.save(model, path)


def _fix_batch(path: Path) -> None:
    import onnx

    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)


def _move_weight(path: Path) -> None:
    import numpy as np
    import onnx

    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[0] += 0.05
    weight.raw_data = values.tobytes()
    onnx.save(model, path)


@pytest.mark.parametrize("fault", [_swap_outputs, _fix_batch, _move_weight])
def test_planted_fault_is_seen(fault: Callable[[Path], None], prepared: Callable[..., Path]) -> None:
    found = keras_judge.judge_here("keras.onnx-tf2onnx", ["multi_io"], prepared("multi_io"), spoil=fault)
    assert found.wrong.keys() == {"multi_io"}


def test_every_public_layer_has_a_model() -> None:
    assert keras_layer_zoo.uncovered() == set()


# Passed of all 262 layers and networks: may only rise.
_FLOORS = {"keras.onnx-tf2onnx": 244, "keras.onnx-torch": 238, "keras.pytorch": 244}


@pytest.mark.scheduled
@pytest.mark.parametrize("edge", _FLOORS)
def test_every_layer(edge: str, prepared: Callable[..., Path]) -> None:
    names = (*keras_judge.LAYERS, *keras_judge.NETWORKS)
    found = keras_judge.judge(edge, names, prepared(*names))
    print(found.line(edge))  # noqa: T201 shown by pytest -s and on failure
    assert found.wrong == {}
    assert len(found.passed) >= _FLOORS[edge]
