"""Reading and writing ONNX files: external data, its safety, versions, size."""

from __future__ import annotations

import mmap
import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import ExternalDataError, ModelNotFound, ModelUnreadable, UnsupportedModel
from hub_onnxgraph.graphs import all_tensors
from hub_onnxruntime.identify import Kind, probe

if TYPE_CHECKING:
    import onnx

# A protocol buffer cannot be larger (onnx.checker.MAXIMUM_PROTOBUF).
MAX_PROTOBUF_BYTES = 2**31 - 1
_COPY_AGAIN = "Check that it is the right file; copy or download it again and compare its size."


class ExternalTensor(NamedTuple):
    """One tensor whose bytes are in another file; `location` is as written in the model."""

    name: str
    location: str
    offset: int
    length: int


def external_tensors(model: onnx.ModelProto) -> list[ExternalTensor]:
    """Returns the tensors that are stored outside the file, read from a model loaded without external data."""
    return [place for place in map(place_of, all_tensors(model)) if place is not None]


def place_of(tensor: onnx.TensorProto) -> ExternalTensor | None:
    """Returns where a tensor is stored outside the file; None when it is inside."""
    from onnx import TensorProto

    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    entry = {item.key: item.value for item in tensor.external_data}
    place = (entry.get("location", ""), int(entry.get("offset", 0)), int(entry.get("length", 0)))
    return ExternalTensor(tensor.name, *place)


def _leaves_folder(location: str) -> bool:
    """Whether a written location is absolute or climbs, in POSIX's or Windows' reading of it."""
    for reading in (PurePosixPath(location), PureWindowsPath(location)):
        if reading.is_absolute() or reading.drive or reading.root or ".." in reading.parts:
            return True
    return not location


def external_path(folder: Path, tensor: ExternalTensor) -> Path:
    """Returns the file that holds an external tensor.

    Raises:
        ExternalDataError: The location is absolute, climbs with `..` or goes through a symbolic link to outside
            `folder`; or the file is absent or shorter than it must be.
    """
    path = folder / tensor.location
    inside = not _leaves_folder(tensor.location) and path.resolve().is_relative_to(folder.resolve())
    if not inside:
        raise ExternalDataError(
            f"tensor {tensor.name!r} asks for data at {tensor.location!r}, outside the model's folder",
            hint="Put the data beside the model and save it again: onnx.save_model(..., save_as_external_data=True).",
        )
    size = os.path.getsize(path) if path.is_file() else -1  # noqa: PTH202 - no second stat object needed
    if size < tensor.offset + max(tensor.length, 0):
        state = "is missing" if size < 0 else f"has {size} bytes, {tensor.offset + tensor.length} are needed"
        raise ExternalDataError(
            f"the data file {tensor.location!r} of tensor {tensor.name!r} {state}",
            hint="Copy every data file that was written with the model into the model's folder.",
        )
    return path


def external_files(model: onnx.ModelProto, folder: Path) -> list[Path]:
    """Returns each file of external data once, in order of first use; raises as `external_path`."""
    return list(dict.fromkeys(external_path(folder, tensor) for tensor in external_tensors(model)))


def check_versions(model: onnx.ModelProto) -> None:
    """Refuses a model that is newer than the installed onnx library.

    Raises:
        UnsupportedModel: Its opset or its IR version is unknown to the library.
    """
    import onnx

    known = onnx.defs.onnx_opset_version()
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    hint = "Upgrade the onnx package, or save the model with an older opset."
    if opset > known:
        raise UnsupportedModel(f"the model uses opset {opset}; onnx {onnx.__version__} knows {known}", hint=hint)
    if model.ir_version > onnx.IR_VERSION:
        message = f"the model uses IR version {model.ir_version}; onnx {onnx.__version__} knows {onnx.IR_VERSION}"
        raise UnsupportedModel(message, hint=hint)


def mapped(path: Path) -> mmap.mmap:
    """Returns a file's bytes without reading them into memory."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def load_structure(path: Path) -> onnx.ModelProto:
    """Loads a model without its external data and checks that it can be read at all.

    Raises:
        ModelNotFound: There is no such file.
        ModelUnreadable: The file is empty, truncated, or no ONNX model.
        UnsupportedModel: It is newer than the installed onnx library.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}", hint="Check the path; an ONNX model is one file.")
    answer = probe(path)
    if answer.kind is not Kind.ONNX:
        state = "is a damaged ONNX model" if answer.kind is Kind.DAMAGED else "is no ONNX model"
        raise ModelUnreadable(f"{path.name} {state}: {answer.reason}", hint=_COPY_AGAIN)
    try:
        model = onnx.ModelProto()
        with mapped(path) as content, memoryview(content) as view:  # one copy of the tensors in memory, not two
            model.ParseFromString(view)
    except DecodeError as error:
        raise ModelUnreadable(f"{path.name} is a damaged ONNX model: {error}", hint=_COPY_AGAIN) from error
    check_versions(model)
    return model


def load(path: Path) -> onnx.ModelProto:
    """Loads a model with all its data in memory; its external data is checked before any byte of it is read.

    Raises:
        HubError: As `load_structure` and `external_path`.
    """
    model = load_structure(path)
    for tensor in all_tensors(model):
        place = place_of(tensor)
        if place is not None:
            with external_path(path.parent, place).open("rb") as file:
                file.seek(place.offset)
                # onnx's own loader refuses files with a second hard link, which stores of models are made of
                tensor.raw_data = file.read(place.length or -1)
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
    return model


def check(model: onnx.ModelProto, folder: Path) -> None:
    """Checks a model with onnx's checker; a light one by its path in `folder`, where its data is.

    Raises:
        onnx.checker.ValidationError: It is not valid.
        onnx.shape_inference.InferenceError: Its shapes contradict each other.
    """
    import onnx

    if not external_tensors(model):
        onnx.checker.check_model(model, full_check=True)
        return
    path = folder / "checked.onnx"
    save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Writes a model as one file; its external data, if any, is left where it is.

    Raises:
        UnsupportedModel: It takes more than the 2 GiB that one protocol buffer can hold.
    """
    size = model.ByteSize()
    if size > MAX_PROTOBUF_BYTES:
        message = f"the model takes {size} bytes, one ONNX file holds {MAX_PROTOBUF_BYTES}"
        raise UnsupportedModel(message, hint="Convert a smaller model, or one with float16 weights.")
    path.write_bytes(model.SerializeToString(deterministic=True))
