"""The source models in their own frameworks, without hub: the reference that every result is compared with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bare_onnxruntime
from benchmarks.bare_onnxruntime import Arrays
from tests.zoo import fetch


class TorchModel:
    """A program, a TorchScript file, or one of the zoo's builders with its weights."""

    def __init__(self, model: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._model, self._ranks = _load(model)

    def feeds(self, arrays: Arrays) -> Any:
        """One sample as positional tensors; arrays are in the order of the model's inputs."""
        import torch

        found = [a if a.ndim == rank else a[None] for a, rank in zip(arrays.values(), self._ranks, strict=True)]
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in found]

    def run(self, arrays: Arrays) -> list[np.ndarray[Any, Any]]:
        """Run once."""
        import torch

        with torch.no_grad():
            result = self._model(*self.feeds(arrays))
        values = list(result.values()) if isinstance(result, dict) else result
        return [tensor.numpy() for tensor in (values if isinstance(values, list | tuple) else [values])]

    def turn(self, arrays: Arrays) -> Callable[[], object]:
        """A function that runs the model on one sample and does nothing else."""
        import torch

        feeds = self.feeds(arrays)

        def once() -> object:
            with torch.no_grad():
                return self._model(*feeds)

        return once


def _load(model: str) -> tuple[Any, tuple[int, ...]]:
    import torch

    if model.endswith(".jit"):
        return torch.jit.load(model).eval(), (2, 3)
    if model.endswith(".pt2"):
        return torch.export.load(model).module(), (4,)
    if "minilm" in model:
        from safetensors.torch import load_file

        from tests.zoo import minilm

        return _filled(minilm.build()[0], load_file(fetch.path("minilm_safetensors"))), (2, 2, 2)
    from tests.zoo import efficientnet_lite0

    return _filled(efficientnet_lite0.build()[0], torch.load(fetch.path("efficientnet_pth"), weights_only=True)), (4,)


def _filled(network: Any, weights: Any) -> Any:
    network.load_state_dict(weights)
    return network.eval()


class KerasModel:
    """A `.keras` or `.h5` file, on TensorFlow, traced once."""

    def __init__(self, model: str, threads: int) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        loaded = tf.keras.models.load_model(model, compile=False)
        self._call = tf.function(lambda x: loaded(x, training=False))

    def run(self, arrays: Arrays) -> list[np.ndarray[Any, Any]]:
        """Run once; the models here have one input and one output."""
        return [np.asarray(self.turn(arrays)())]

    def turn(self, arrays: Arrays) -> Callable[[], object]:
        """A function that runs the model on one sample and does nothing else."""
        import tensorflow as tf

        (array,) = arrays.values()
        feed = tf.constant(array[None])
        return lambda: self._call(feed)


Source = TorchModel | KerasModel | bare_onnxruntime.Model


def open_source(model: str, threads: int) -> Source:
    """Open a model as `hub convert` takes it."""
    if model.endswith(".onnx"):
        return bare_onnxruntime.Model(Path(model), threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (KerasModel if model.endswith((".keras", ".h5", ".hdf5")) else TorchModel)(model, threads)
