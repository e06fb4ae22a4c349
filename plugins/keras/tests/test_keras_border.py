"""A list of one output is not a tensor to be indexed: the batch stays."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from hub_keras.load import load_model


def test_list_of_one_output_keeps_its_batch(tmp_path: Path) -> None:
    import keras

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Keras under NumPy 2 saves with a deprecated copy keyword
        x = keras.Input((4,), name="x")
        keras.Model([x], [keras.layers.Dense(3, name="y")(x)]).save(tmp_path / "listed.keras")
        loaded = load_model(tmp_path / "listed.keras")
    (made,) = loaded.call([np.ones((2, 4), np.float32)])
    assert tuple(made.shape) == (2, 3)
    assert [len(spec.shape) for spec in loaded.signature.outputs] == [2]
