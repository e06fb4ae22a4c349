"""Load `.keras` and HDF5 models with Keras, on whichever backend this process runs."""

from __future__ import annotations

import collections
import dataclasses
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.spec import ModelUnreadable, Remark, SetupError, Signature, StepError, TensorSpec, UnsupportedModel
from hub_keras.archive import Config, KerasArchive, classes_without_module, read_archive, refuse_code, unknown_classes
from hub_keras.legacy import modernize, write_copy
from hub_keras.loaded import Key, LoadedModel, leaves, rebuild, spec_of, unique
from hub_keras.ranges import input_ranges

if TYPE_CHECKING:
    from types import ModuleType

    from hub_keras.frameworks import KerasLayer, KerasModel

TENSORFLOW = "tensorflow-cpu>=2.19 | tensorflow>=2.19"
_SUFFIX = {"keras-zip": ".keras", "hdf5": ".h5"}


def load_model(path: Path, *, backend: str = "tensorflow", allow_pickle: bool = False) -> LoadedModel:
    """Load a Keras file or a SavedModel folder.

    Args:
        path: File or folder.
        backend: The Keras backend to load on; SavedModel needs `tensorflow`.
        allow_pickle: Whether code that comes with the model may run.

    Raises:
        ModelUnreadable: It is no whole model.
        ModelRefused: It holds code.
        UnsupportedModel: It uses a class or operator that the framework does not have.
        SetupError: This process already runs another Keras backend.
    """
    if path.is_dir():
        from hub_keras.savedmodel import load_saved_model

        return load_saved_model(path, allow_pickle=allow_pickle)
    return load_keras(path, backend=backend, allow_pickle=allow_pickle)


def load_keras(path: Path, *, backend: str, allow_pickle: bool) -> LoadedModel:
    """Load a `.keras` or HDF5 file. See `load_model`."""
    archive = read_archive(path)
    refuse_code(archive, path, allow_pickle=allow_pickle)
    keras = import_keras(backend)
    known = {*dir(keras.layers), *dir(keras.models), "Functional"}
    unknown = tuple(name for name in classes_without_module(archive.config) if name not in known)
    if unknown:
        raise unknown_classes(path, unknown)
    config, changes = modernize(archive.config)
    with tempfile.TemporaryDirectory(prefix="hub-keras-") as folder:
        named = _named(path, archive, config, Path(folder))
        model = _load(keras, named, f"{path} (written by {archive.versions})", allow_pickle=allow_pickle)
    loaded = wrap(keras, model, archive)
    return dataclasses.replace(loaded, findings=(*_legacy_findings(changes), *loaded.findings))


def import_keras(backend: str) -> Any:
    """Import Keras on a backend: the choice is fixed when it is imported first."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = backend
    import keras

    if keras.backend.backend() != backend:
        raise SetupError(
            f"Keras runs on {keras.backend.backend()} in this process, and this needs {backend}",
            hint=f"start the process with KERAS_BACKEND={backend}",
        )
    return keras


def _load(keras: ModuleType, path: Path, label: str, *, allow_pickle: bool) -> KerasModel:
    try:
        model: KerasModel = keras.saving.load_model(path, compile=False, safe_mode=not allow_pickle)
    except (ValueError, TypeError, KeyError, OSError, AttributeError, IndexError, NotImplementedError) as error:
        raise ModelUnreadable(
            f"Keras {keras.__version__} cannot load {label}: {error}",
            hint="save it again with Keras 3: model.save('model.keras')",
        ) from error
    return model


def _named(path: Path, archive: KerasArchive, config: Config, folder: Path) -> Path:
    """Keras chooses its reader by the suffix: give it the one that the bytes ask for, and its own words."""
    suffix = _SUFFIX[archive.kind]
    if config is not archive.config:
        return write_copy(path, archive, config, folder / f"model{suffix}")
    if path.suffix == suffix or (suffix, path.suffix) == (".h5", ".hdf5"):
        return path
    return Path(shutil.copyfile(path, folder / f"model{suffix}"))


def _legacy_findings(changes: Sequence[str]) -> tuple[Remark, ...]:
    message = f"written by Keras 2; read as: {', '.join(changes)}"
    return (Remark("finding", "keras-2", message),) if changes else ()


def wrap(keras: ModuleType, model: KerasModel, archive: KerasArchive) -> LoadedModel:
    """Describe a loaded Keras model.

    Raises:
        UnsupportedModel: It is a subclassed model, which has no declared inputs.
    """
    graph = getattr(model, "_functional", None) or model
    inputs, outputs = getattr(graph, "_inputs_struct", None), getattr(graph, "_outputs_struct", None)
    if inputs is None or outputs is None:
        raise UnsupportedModel(
            f"{model.name} ({type(model).__name__}) declares no inputs: only its author's program knows its shapes",
            hint="there: model.export('FOLDER'), then convert the SavedModel FOLDER",
        )
    layers = list(model._flatten_layers(include_self=False))  # noqa: SLF001 the public `layers` stops at nested models
    taken = _input_specs(inputs, layers, input_ranges(layers))
    signature = Signature(inputs=taken, outputs=_output_specs(outputs, [spec.name for spec in taken]))
    keys = [key for key, _ in leaves(outputs)]
    return LoadedModel(
        call=lambda tensors: _call(model, inputs, keys, tensors),
        signature=signature,
        operators=dict(collections.Counter(type(layer).__name__ for layer in layers)),
        model=model,
        parameters=int(model.count_params()),
        weight_dtypes=tuple(str(weight.dtype) for weight in model.weights),
        findings=_findings(layers, signature),
        versions={**archive.versions, "read_with": f"keras {keras.__version__}", "file": archive.kind},
    )


def _call(model: KerasModel, inputs: object, keys: Sequence[Key], tensors: Sequence[object]) -> list[object]:
    """Call the model; the leaves come in the declared order.

    Keras may return a bare tensor where a list of one was declared, so leaves are never taken by indexing the result:
    a list's place 0 and a tensor's first row are both `[0]`.

    Raises:
        StepError: The model returned another structure than it declared.
    """
    made = dict(leaves(model(rebuild(inputs, iter(tensors)), training=False)))
    if set(made) == set(keys):
        return [made[key] for key in keys]
    if len(made) == len(keys) == 1:
        return list(made.values())
    raise StepError(f"the model declares outputs {list(keys)} and returns {list(made)}", hint="export it again")


def _input_specs(
    inputs: object, layers: Sequence[KerasLayer], ranges: dict[str, tuple[float, float]]
) -> tuple[TensorSpec, ...]:
    words = {"channels_last": "NHWC", "channels_first": "NCHW"}
    said = (words.get(str(getattr(layer, "data_format", "")), "") for layer in layers)
    layout = next((word for word in said if word), "")
    found = list(leaves(inputs))
    names = unique([_dict_name(key) or tensor.name for key, tensor in found])
    specs = []
    for name, (_, tensor) in zip(names, found, strict=True):
        spec = spec_of(name, str(tensor.dtype), tensor.shape, layout if len(tensor.shape) == _IMAGE_RANK else "")
        specs.append(
            TensorSpec(
                name=spec.name,
                dtype=spec.dtype,
                shape=spec.shape,
                layout=spec.layout,
                value_range=ranges.get(tensor.name),
            )
        )
    return tuple(specs)


_IMAGE_RANK = 4


def _output_specs(outputs: object, taken: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Name outputs by their key in a dict, else by the layer that makes them.

    An output that is an input, or is named like one, gets a counter: no format has one name on both sides.
    """
    found = list(leaves(outputs))
    said = [_dict_name(key) or tensor._keras_history.operation.name for key, tensor in found]  # noqa: SLF001
    names = unique([*taken, *said])[len(taken) :]
    return tuple(spec_of(name, str(tensor.dtype), tensor.shape) for name, (_, tensor) in zip(names, found, strict=True))


def _dict_name(key: Key) -> str:
    return "_".join(map(str, key)) if any(isinstance(part, str) for part in key) else ""


def _findings(layers: Sequence[KerasLayer], signature: Signature) -> tuple[Remark, ...]:
    return (*_precision_findings(layers), *_state_findings(layers), *_string_findings(signature))


def _precision_findings(layers: Sequence[KerasLayer]) -> list[Remark]:
    computed = {str(getattr(layer, "compute_dtype", "float32")) for layer in layers} - {"float32", "None"}
    low = sorted(computed & {"float16", "bfloat16", "float64"})
    message = f"layers compute in {', '.join(low)}; TFLite and the parity check compute in float32"
    return [Remark("finding", "mixed-precision", message)] if low else []


def _state_findings(layers: Sequence[KerasLayer]) -> list[Remark]:
    names = [layer.name for layer in layers if getattr(layer, "stateful", False)]
    message = f"{', '.join(names)}: stateful; the state between calls is lost, each call starts from the saved one"
    hint = "give the state as inputs and outputs (return_state=True, initial_state=...)"
    return [Remark("finding", "hidden-state", message, hint)] if names else []


def _string_findings(signature: Signature) -> list[Remark]:
    names = [spec.name for spec in signature.inputs if spec.dtype.value == "string"]
    message = f"{', '.join(names)}: string input; no target takes strings"
    hint = "convert the part after the text layer: its inputs are token numbers"
    return [Remark("blocker", "string-input", message, hint)] if names else []


def tensorflow_version() -> str:
    """Version of the TensorFlow distribution that is installed, without importing it; empty for none."""
    for name in ("tensorflow-cpu", "tensorflow"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
