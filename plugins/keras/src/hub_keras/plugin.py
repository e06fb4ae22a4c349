"""The hooks. Every command that plans imports this module, so each imports what it offers when it is called."""

from __future__ import annotations

import sys
from pathlib import Path

from hub.spec import Edge, Format, Identification, ModelUnreadable, Runtime, hookimpl

_DETAIL = {"keras-zip": ".keras archive", "hdf5": "HDF5", "savedmodel": "TensorFlow SavedModel"}


@hookimpl
def hub_register_formats() -> list[Format]:
    """Offer the reader."""
    from hub_keras.formats import KerasFormat

    return [KerasFormat()]


@hookimpl
def hub_register_edges() -> list[Edge]:
    """Offer the edges."""
    from hub_keras.edges import EDGES
    from hub_keras.from_onnx import IMPORTER
    from hub_keras.onnx_tflite import NATIVE

    return [*EDGES, IMPORTER, NATIVE]


@hookimpl
def hub_register_runtimes() -> list[Runtime]:
    """Offer the runtime."""
    from hub_keras.runtime import KerasRuntime

    return [KerasRuntime()]


@hookimpl
def hub_identify_format(path: Path, header: bytes) -> Identification | None:
    """Recognise a `.keras` archive, an HDF5 file, or a SavedModel folder."""
    from hub_keras.archive import kind_of

    kind = kind_of(path, header)
    if not kind:
        return None
    form = "savedmodel" if kind == "savedmodel" else ""
    return Identification(format="keras", form=form, detail=_DETAIL[kind])


@hookimpl
def hub_load_weights(model: object, weights: Path) -> bool | None:
    """Load `.weights.h5`, `.h5` or `.keras` into a `keras.Model`."""
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model):
        return None
    try:
        model.load_weights(weights)
    except (ValueError, OSError, KeyError) as error:
        hint = "the weights are of another architecture, or no .weights.h5, .h5 or .keras"
        raise ModelUnreadable(f"{weights.name} does not fit the builder's model: {error}", hint=hint) from error
    return True


@hookimpl
def hub_save_live_model(model: object, folder: Path, example_inputs: object) -> Path | None:
    """Save a `keras.Model`: as `.keras`, or exported as a SavedModel when it holds classes of the caller's own."""
    from hub_keras.archive import custom_objects

    del example_inputs
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model):
        return None
    if model.inputs and not custom_objects(keras.saving.serialize_keras_object(model)):
        path = folder / "model.keras"
        model.save(path)
        return path
    path = folder / "model"
    model.export(path, verbose=False)
    return path
