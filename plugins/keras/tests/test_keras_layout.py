"""`--io-layout nchw` for a Keras model: transposed inside the result, declared, and right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hub.spec import ConvertOptions
from plugins.keras.tests import keras_cases as cases
from plugins.keras.tests import keras_networks as networks

# Keras reads TensorFlow's variables through numpy's old __array__ protocol.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Statistics for quantized inputs:UserWarning"),
]
Network = Callable[..., Path]
FORWARD = (0, 3, 1, 2)


@pytest.mark.parametrize("edge", ["keras.onnx-tf2onnx", "keras.tflite-frozen", "keras.tflite-tf-int8"])
def test_images_become_channels_first(edge: str, network: Network, tmp_path: Path) -> None:
    from plugins.keras.tests.keras_judge import _OPENERS

    path = network("unet")
    output = tmp_path / ("m.onnx" if "onnx" in edge else "m.tflite")
    for seed in range(4):
        np.savez(tmp_path / f"{seed}.npz", allow_pickle=False, **networks.feeds("unet", seed=seed))
    shapes = {} if "onnx" in edge else networks.shapes("unet")
    done = cases.convert(edge, path, output, ConvertOptions(io_layout="nchw", shapes=shapes), str(tmp_path))
    declared = [(bound.direction, bound.source, bound.permutation) for bound in done.bindings]
    assert declared == [("input", "scan", FORWARD), ("output", "mask", FORWARD)]
    feeds = networks.feeds("unet", seed=9)
    moved = {name: np.ascontiguousarray(value.transpose(FORWARD)) for name, value in feeds.items()}
    inputs, outputs, run = _OPENERS[output.suffix](output)
    assert (inputs, outputs) == (["scan"], ["mask"])
    (made,) = run(moved)
    assert made.shape == (1, 1, 32, 32)
    expected = cases.reference(path, feeds)["mask"].transpose(FORWARD)
    assert np.abs(made - expected).max() < (0.05 if "int8" in edge else 1e-5)
