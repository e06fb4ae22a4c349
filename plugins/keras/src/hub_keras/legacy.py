"""Architectures written by Keras 2, in Keras 3's words.

Keras 3 refuses options that it no longer has, also where their value asks for nothing. What is neutral is dropped and
said; any other value stays, and Keras refuses it.
"""

from __future__ import annotations

import copy
import inspect
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from hub_keras.archive import Config, KerasArchive, walk_objects

# Option -> (value that asks for nothing, layers whose class lacks it in some Keras 3: `renorm` is back in 3.15).
# Source: the get_config of tf-keras 2.15.
_NEUTRAL: dict[str, tuple[object, frozenset[str]]] = {
    "groups": (1, frozenset({"DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D",
                             "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"})),
    "time_major": (False, frozenset({"LSTM", "GRU", "SimpleRNN", "RNN"})),
    "virtual_batch_size": (None, frozenset({"BatchNormalization"})),
    "renorm": (False, frozenset({"BatchNormalization"})),
    "adjustment": (None, frozenset({"BatchNormalization"})),
    "kernel_initializer": (None, frozenset({"SeparableConv1D", "SeparableConv2D"})),
    "kernel_regularizer": (None, frozenset({"SeparableConv1D", "SeparableConv2D"})),
    "kernel_constraint": (None, frozenset({"SeparableConv1D", "SeparableConv2D"})),
}  # fmt: skip

_ABSENT = object()


def modernize(config: Config) -> tuple[Config, tuple[str, ...]]:
    """Rewrite a serialized model.

    Returns:
        The rewritten configuration, and what was changed; the input itself and nothing when nothing was.
    """
    fresh = copy.deepcopy(config)
    changes = tuple(dict.fromkeys(change for node in list(walk_objects(fresh)) for change in _rewrite(node)))
    return (fresh, changes) if changes else (config, ())


def _rewrite(node: Config) -> Iterator[str]:
    if node["class_name"] == "Sequential":
        yield from _sequential(node)
    kind, config = node["class_name"], node.get("config")
    if isinstance(config, dict):
        for option, (neutral, kinds) in _NEUTRAL.items():
            held = config.get(option, _ABSENT)
            if kind in kinds and held == neutral and type(held) is type(neutral) and option not in _options(kind):
                del config[option]
                yield f"{kind} without {option}={neutral}"
        axis = config.get("axis")
        if kind == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:
            config["axis"] = axis[0]
            yield "BatchNormalization axis as a number"
        # Wrappers look up the layer that they hold by its module, which Keras 2 did not write.
        for key in _HELD:
            held = config.get(key)
            if isinstance(held, dict) and "class_name" in held and "module" not in held:
                held.update(module="keras.layers", registered_name=None)
                yield "wrapped layers with their module"


def _options(kind: str) -> frozenset[str]:
    """The options that this Keras' class takes."""
    import keras

    return frozenset(inspect.signature(getattr(keras.layers, kind).__init__).parameters)


_HELD = ("layer", "backward_layer", "cell")


def _sequential(node: Config) -> Iterator[str]:
    """Keras before 2.2.3 wrote the layers alone; the input's shape was an option of the first one until Keras 3."""
    if isinstance(node["config"], list):
        node["config"] = {"name": "sequential", "layers": node["config"]}
        yield "Sequential with a name"
    layers = node["config"].get("layers") or [{}]
    shape = layers[0].get("config", {}).get("batch_input_shape")
    if shape is not None and layers[0]["class_name"] != "InputLayer":
        # The input layer that Keras 2 makes for the first layer of a Sequential, by the name it gives it.
        config = {"name": f"{layers[0]['config']['name']}_input", "batch_input_shape": shape, "dtype": "float32"}
        layers.insert(0, {"class_name": "InputLayer", "config": config})
        yield "input as a layer"
    for layer in layers[1:]:
        if layer.get("config", {}).pop("batch_input_shape", None) is not None:
            yield "input shape in the input layer alone"


def write_copy(path: Path, archive: KerasArchive, config: Config, target: Path) -> Path:
    """Copy a model file with another configuration."""
    {"hdf5": _copy_hdf5, "keras-zip": _copy_zip}[archive.kind](path, config, target)
    return target


def _copy_hdf5(path: Path, config: Config, target: Path) -> None:
    import h5py

    shutil.copyfile(path, target)
    with h5py.File(target, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)


def _copy_zip(path: Path, config: Config, target: Path) -> None:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copied:
        for name in source.namelist():
            copied.writestr(name, json.dumps(config) if name == "config.json" else source.read(name))
