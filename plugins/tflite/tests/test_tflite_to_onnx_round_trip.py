"""TFLite to ONNX and back, through hub's Python interface: parity, names and numerics by hub's own gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hub
from hub_tflite.describe import describe_file
from hub_tflite.runtime import LiteRtSession
from plugins.tflite.tests import tflite_graphs as graphs

SAMPLES = Path(__file__).parents[3] / "samples" / "digits_keras"
RELATIVE = 1e-4
"""hub's float gate."""


def there_and_back(source: Path, folder: Path, test: Any) -> None:
    hub.convert(source, "onnx", output=folder / "there.onnx", test=test)
    hub.convert(folder / "there.onnx", "tflite", output=folder / "back.tflite", test=test)
    before, after = describe_file(source), describe_file(folder / "back.tflite")
    assert after.state.numerics is before.state.numerics
    for old, fresh in zip(before.signature.inputs, after.signature.inputs, strict=True):
        assert (old.name, old.dtype, old.shape) == (fresh.name, fresh.dtype, fresh.shape)
    assert [spec.name for spec in after.signature.outputs] == [spec.name for spec in before.signature.outputs]
    (first, *_) = ({name: array[:1] for name, array in test.items()},)
    wanted, found = (LiteRtSession(path.read_bytes()).run(first) for path in (source, folder / "back.tflite"))
    for name, array in wanted.items():
        assert np.abs(array - found[name]).max() <= RELATIVE * np.abs(array).max()


def test_a_dense_network(tmp_path: Path) -> None:
    source = graphs.save(graphs.classifier(), tmp_path / "digits.tflite")
    there_and_back(source, tmp_path, {graphs.INPUT: graphs.digits()[0][1400:1408]})


@pytest.mark.scheduled
@pytest.mark.parametrize(("name", "data"), [("digits", "test"), ("digits_lstm", "test_rows")])
def test_networks_of_keras(name: str, data: str, tmp_path: Path) -> None:
    with np.load(SAMPLES / f"{data}.npz") as kept:
        test = {key: kept[key][:8] for key in kept if key != "label"}
    key = next(iter(test))
    options = hub.ConvertOptions(shapes={key: (1, *test[key].shape[1:])})
    source = tmp_path / "source.tflite"
    hub.convert(SAMPLES / f"{name}.keras", "tflite", output=source, test=test, options=options)
    there_and_back(source, tmp_path, test)
