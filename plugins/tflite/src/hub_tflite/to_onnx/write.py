"""Finishes a translated model and writes the file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hub_tflite.to_onnx.layout import arrange
from hub_tflite.to_onnx.lazy import ir

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnx_ir import Model, TensorProtocol, Value

    from hub_tflite.to_onnx.builder import Array
    from hub_tflite.to_onnx.permute import Constants

EXTERNAL_ABOVE_BYTES = 1_800_000_000
"""A protobuf ends at 2 GiB; the graph needs some of that."""


def tidy(model: Model) -> None:
    """Remove transposes, and drop nodes and constants that nothing uses; inner shapes are left to readers."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

    RemoveUnusedNodesPass()(model)  # what nobody uses must not choose the order of what is used
    ShapeInferencePass()(model)
    arrange(model, _store(model))
    RemoveUnusedNodesPass()(model)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = value.type = None


def _store(model: Model) -> Constants:
    """Return what stores an array as a constant of the main graph."""
    numbers = count()

    def store(array: Array) -> Value:
        name = f"layout_{next(numbers)}"
        made = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
        made.const_value = ir.Tensor(array, name=name)
        model.graph.register_initializer(made)
        return made

    return store


def save(model: Model, path: Path) -> None:
    """Write the file; large weights go to `<path>.data` beside it. One weight at a time is copied."""
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weights > EXTERNAL_ABOVE_BYTES:
        ir.save(model, path, external_data=f"{path.name}.data")
        return
    stored = dict(model.graph.initializers)
    model.graph.initializers.clear()
    try:
        proto = ir.to_proto(model)
    finally:
        model.graph.initializers.update(stored)
    with path.open("wb") as file:
        _stream(proto, [value.const_value for value in stored.values() if value.const_value], file)


_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
"""Numbers of the fields in onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data."""


def _stream(proto: ModelProto, tensors: Sequence[TensorProtocol], file: BinaryIO) -> None:
    """Write a model and its weights in protobuf's encoding, without building the whole message in memory."""
    from onnx import TensorProto

    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    heads = [
        TensorProto(name=tensor.name, dims=tensor.shape.numpy(), data_type=int(tensor.dtype)).SerializeToString()
        + _field(_RAW_DATA, tensor.nbytes)
        for tensor in tensors
    ]
    sizes = [len(head) + tensor.nbytes for head, tensor in zip(heads, tensors, strict=True)]
    fields = [_field(_INITIALIZER, size) for size in sizes]
    file.write(proto.SerializeToString())
    file.write(_field(_GRAPH, len(graph) + sum(sizes) + sum(map(len, fields))))
    file.write(graph)
    for field, head, tensor in zip(fields, heads, tensors, strict=True):
        file.write(field + head)
        file.write(tensor.tobytes())


def _field(number: int, size: int) -> bytes:
    """The start of a field that holds so many bytes (protobuf's wire type 2)."""
    return _varint(number << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    groups = []
    while True:
        number, low = number >> 7, number & 0x7F
        groups.append(low | (0x80 if number else 0))
        if not number:
            return bytes(groups)
