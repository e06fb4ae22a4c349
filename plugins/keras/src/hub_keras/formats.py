"""The Keras format's reader."""

from __future__ import annotations

from pathlib import Path

from hub.spec import DescribeJob, Format, ModelSummary, Numerics, State
from hub_keras.load import load_model
from hub_keras.loaded import LoadedModel


class KerasFormat(Format):
    """Reads `.keras`, HDF5 and SavedModel."""

    name = "keras"
    suffixes = (".keras", ".h5", ".hdf5")
    numerics = (Numerics.FP32, Numerics.FP16, Numerics.BF16, Numerics.INT8_WEIGHTS)
    process = "keras-tensorflow"

    def describe(self, job: DescribeJob) -> ModelSummary:
        """Load the model and say what it is. See `hub.spec.Format`."""
        path = job.file
        loaded = load_model(path, allow_pickle=job.allow_pickle)
        files = files_of(path)
        return ModelSummary(
            state=State(format="keras", numerics=numerics_of(loaded), form="savedmodel" if path.is_dir() else ""),
            signature=loaded.signature,
            operators=loaded.operators,
            parameters=loaded.parameters,
            size_bytes=sum(file.stat().st_size for file in files),
            files=tuple(map(str, files)),
            versions=loaded.versions,
            findings=loaded.findings,
        )


def files_of(path: Path) -> list[Path]:
    """Every file of the model, in name order."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


_NUMERICS = {"float16": Numerics.FP16, "bfloat16": Numerics.BF16, "int8": Numerics.INT8_WEIGHTS}


def numerics_of(loaded: LoadedModel) -> Numerics:
    """The numerics that the weights are stored in: the lowest found."""
    held = set(loaded.weight_dtypes)
    return next((numerics for dtype, numerics in _NUMERICS.items() if dtype in held), Numerics.FP32)
