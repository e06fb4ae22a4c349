"""Models of gigabytes: their large tensors stay in files, so that the graph can be worked on as a small one.

A *light* model is an ONNX model whose tensors above `KEPT_BYTES` are external data in one folder, where ONNX Runtime
and the checker find them when the model is written there. onnx-ir moves the bytes from file to file, a piece at a time.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hub_onnxgraph.graphs import all_tensors, proto_of
from hub_onnxruntime.files import ExternalTensor, external_path, external_tensors, place_of

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

LARGE_BYTES = 2**30
"""From here on models are made light. One protocol buffer ends at 2 GiB, and tools copy what they are given."""

KEPT_BYTES = 2**19
"""Tensors up to this size stay in the graph: all that constant folding reads (65,536 elements of 8 bytes)."""

WEIGHTS = "weights.data"
_ALIGNMENT = 4096  # of external data, so that it can be mapped (ONNX's external data format)


def size_on_disk(path: Path, outside: list[Path]) -> int:
    """Returns the bytes of a model's file and of its external data."""
    return sum(os.path.getsize(file) for file in (path, *outside))  # noqa: PTH202 - no stat object needed


def opened(model: onnx.ModelProto, folder: Path) -> ir.Model:
    """Returns a light model as onnx-ir's, its data in `folder`."""
    import onnx_ir as ir

    result = ir.from_proto(model)
    ir.external_data.set_base_dir(result.graph, folder)
    return result


def move_out(model: ir.Model, data: Path) -> onnx.ModelProto:
    """Writes the large tensors of a model to a new file; what is small and outside comes into the model."""
    import onnx_ir as ir

    ir.external_data.unload_from_model(
        model, data.parent, data.name, size_threshold_bytes=KEPT_BYTES, alignment=_ALIGNMENT, align_threshold=0
    )
    return proto_of(model)


def lighten(model: onnx.ModelProto, source: Path, folder: Path) -> int:
    """Makes a model light, in place. Its data is copied: onnx's checker refuses links, hard ones too.

    Args:
        model: Loaded without its external data.
        source: The folder of its external data.
        folder: Where the light model's data shall be, in one file.

    Returns:
        The number of bytes that stay outside.

    Raises:
        ExternalDataError: As `hub_onnxruntime.files.external_path`.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    light = ir.from_proto(model)
    LiftConstantsToInitializersPass(size_limit=0)(light)
    for graph in light.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _found(value.const_value, source)
    model.CopyFrom(move_out(light, folder / WEIGHTS))
    return (folder / WEIGHTS).stat().st_size


def write_large(model: onnx.ModelProto, folder: Path, target: Path) -> None:
    """Writes a light model with its data beside it, in `<target>.data`.

    Args:
        model: Light, its data in `folder`. It may be changed, and its data moved.
        folder: See `lighten`.
        target: The `.onnx` file to write.
    """
    data = target.with_name(f"{target.name}.data")
    places = external_tensors(model)
    needed = sum(place.length + _ALIGNMENT for place in places)
    if {place.location for place in places} == {WEIGHTS} and (folder / WEIGHTS).stat().st_size <= needed:
        shutil.move(folder / WEIGHTS, data)  # gigabytes are not copied where hardly any of them is left out
        for tensor in filter(place_of, all_tensors(model)):
            next(entry for entry in tensor.external_data if entry.key == "location").value = data.name
    else:
        model = move_out(opened(model, folder), data)
    target.write_bytes(model.SerializeToString(deterministic=True))


def forget_data(model: onnx.ModelProto) -> None:
    """Drops the bytes of large tensors, for a reader that needs their types and shapes only."""
    from onnx import TensorProto

    for tensor in all_tensors(model):
        if place_of(tensor) is None and not tensor.string_data and tensor.ByteSize() > KEPT_BYTES:
            kept = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            kept.data_location = TensorProto.EXTERNAL
            tensor.CopyFrom(kept)


def _found(tensor: ir.ExternalTensor, folder: Path) -> ir.ExternalTensor:
    """Returns a tensor by the path that hub has checked: onnx-ir by itself refuses files with a second hard link."""
    import onnx_ir as ir

    place = ExternalTensor(tensor.name, str(tensor.location), tensor.offset or 0, tensor.length or 0)
    path = external_path(folder, place).resolve()
    return ir.ExternalTensor(path, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=tensor.name)
