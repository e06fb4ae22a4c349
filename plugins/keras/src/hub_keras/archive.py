"""Read what a Keras file says of itself, with zipfile and h5py only: no layer is built, no code is run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.spec import ModelRefused, ModelUnreadable, UnsupportedModel

ZIP_MAGIC = b"PK\x03\x04"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
SAVED_MODEL_FILE = "saved_model.pb"
_CONFIG_LIMIT = 256 << 20  # bytes; the largest architecture of keras.applications takes 0.3 MB

# Layers whose configuration is code, or a pointer to code outside the file.
_CODE_LAYERS = frozenset({"Lambda", "TFSMLayer", "TorchModuleWrapper", "FlaxLayer", "JaxLayer"})


Config = dict[str, Any]
"""A serialized object of Keras: JSON of any depth, with `class_name` and `config` in it."""


@dataclass(frozen=True, slots=True)
class KerasArchive:
    """The architecture in a Keras file.

    Attributes:
        kind: `keras-zip` or `hdf5`.
        config: The model's serialized configuration: class_name, config, and for Keras 3 module and registered_name.
        versions: Writer's versions, as the file says.
    """

    kind: str
    config: Config
    versions: dict[str, str]


def kind_of(path: Path, header: bytes) -> str:
    """Tell `keras-zip`, `hdf5` or `savedmodel` from bytes and folder contents; empty for anything else."""
    if path.is_dir():
        return "savedmodel" if (path / SAVED_MODEL_FILE).is_file() else ""
    if header.startswith(HDF5_MAGIC):
        return "hdf5"
    return "keras-zip" if header.startswith(ZIP_MAGIC) and _zip_has_config(path) else ""


def _zip_has_config(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"config.json", "metadata.json"} <= set(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def read_archive(path: Path) -> KerasArchive:
    """Read the configuration of a `.keras` or HDF5 file.

    Raises:
        ModelUnreadable: It is neither, is truncated, or holds weights without an architecture.
    """
    with path.open("rb") as file:
        header = file.read(len(HDF5_MAGIC))
    return _read_hdf5(path) if header == HDF5_MAGIC else _read_zip(path)


def _read_zip(path: Path) -> KerasArchive:
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(_member(archive, "config.json"))
            metadata = json.loads(_member(archive, "metadata.json"))
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError) as error:
        raise _unreadable(path, f"is no whole .keras archive: {error}") from error
    versions = {key: str(value) for key, value in metadata.items() if key != "date_saved"}
    return KerasArchive("keras-zip", _checked(path, config), versions)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > _CONFIG_LIMIT:
        raise ValueError(f"{name} unpacks to {size} bytes, more than {_CONFIG_LIMIT}")
    return archive.read(name)


def _read_hdf5(path: Path) -> KerasArchive:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            attributes = {key: _text(file.attrs[key]) for key in file.attrs}
    except (OSError, KeyError, RuntimeError) as error:
        raise _unreadable(path, f"is no whole HDF5 file: {error}") from error
    if "model_config" not in attributes:
        raise _unreadable(path, "is an HDF5 file without an architecture (weights only, or not from Keras)")
    try:
        config = json.loads(attributes["model_config"])
    except ValueError as error:
        raise _unreadable(path, f"holds an architecture that is no JSON: {error}") from error
    versions = {key: attributes[key] for key in ("keras_version", "backend") if key in attributes}
    return KerasArchive("hdf5", _checked(path, config), versions)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _checked(path: Path, config: object) -> Config:
    if not isinstance(config, dict) or "class_name" not in config:
        raise _unreadable(path, "holds a configuration that names no model class")
    return config


def _unreadable(path: Path, what: str) -> ModelUnreadable:
    return ModelUnreadable(f"{path} {what}", hint="save the whole model again: model.save('model.keras')")


def walk_objects(node: object) -> Iterator[Config]:
    """Yield every serialized object (a mapping with a class_name) in a configuration, outermost first."""
    if isinstance(node, dict):
        if isinstance(node.get("class_name"), str):
            yield node
        for value in node.values():
            yield from walk_objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk_objects(value)


def code_layers(config: Config) -> tuple[str, ...]:
    """Names of the layers, at any depth, that hold code or point at code: `Lambda (scale_half)`."""
    found = [
        f"{item['class_name']} ({_name(item)})"
        for item in walk_objects(config)
        if item["class_name"] in _CODE_LAYERS or item["class_name"] == "__lambda__"
    ]
    return tuple(dict.fromkeys(found))


def _name(item: Config) -> str:
    config = item.get("config")
    name = item.get("name") or (config.get("name") if isinstance(config, dict) else "")
    return str(name or "unnamed")


def custom_objects(config: Config) -> tuple[str, ...]:
    """Registered names of the classes and functions that Keras itself does not have.

    Keras 3 (and Keras 2 from 2.12) writes the module of each object; older HDF5 files do not, and their classes are
    looked up when Keras is there (`hub_keras.load`).
    """
    found = [_registered(item) for item in walk_objects(config) if _is_custom(item)]
    return tuple(dict.fromkeys(found))


def _is_custom(item: Config) -> bool:
    if "registered_name" not in item or item["class_name"].startswith("__"):
        return False
    module = str(item.get("module") or "")
    return module.partition(".")[0] != "keras"


def _registered(item: Config) -> str:
    if item["class_name"] == "function":
        return str(item.get("config"))
    return str(item.get("registered_name") or item["class_name"])


def classes_without_module(config: Config) -> tuple[str, ...]:
    """Class names of layers in an old HDF5 configuration, which does not say where they come from."""
    layers = [item for node in walk_objects(config) for item in _layers_of(node) if "module" not in item]
    return tuple(dict.fromkeys(str(item.get("class_name")) for item in layers))


def _layers_of(node: Config) -> list[Config]:
    config = node.get("config")
    layers = config.get("layers", []) if isinstance(config, dict) else config
    return [item for item in layers if isinstance(item, dict)] if isinstance(layers, list) else []


def refuse_code(archive: KerasArchive, path: Path, *, allow_pickle: bool) -> None:
    """Stop before Keras sees a file that it cannot or must not load.

    Raises:
        ModelRefused: A Lambda layer, or another layer that holds code, and `allow_pickle` is off.
        UnsupportedModel: A class that only the author's program has.
    """
    code = code_layers(archive.config)
    if code and not allow_pickle:
        raise ModelRefused(
            f"{path} holds {', '.join(code)}: loading it would run code that came with the file",
            hint="replace it by keras.layers and keras.ops, or, for a file you trust, add --allow-pickle",
        )
    custom = custom_objects(archive.config)
    if custom:
        raise unknown_classes(path, custom)


def unknown_classes(path: Path, names: tuple[str, ...]) -> UnsupportedModel:
    """Make the error for classes that Keras does not have."""
    return UnsupportedModel(
        f"{path} uses {', '.join(names)}, which Keras does not have",
        hint="in the program that defines it: model.export('FOLDER'), then convert the SavedModel FOLDER",
    )
