"""The inputs and outputs of an ONNX graph as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import onnx

# Dims that exporters write when they mean "unknown"; two of them say nothing about each other.
ANONYMOUS = frozenset({"", "?", "None", "unk", "unknown"})


class TensorInfo(NamedTuple):
    """One input or output.

    Attributes:
        name: As in the graph.
        dtype: numpy's name of the element type (`float32`), or ONNX's in lower case where numpy has none.
        shape: One entry per dim, an int or a symbol; None when the graph does not even say the rank.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None

    @property
    def is_static(self) -> bool:
        """Whether the rank and every dim are known."""
        return self.shape is not None and all(isinstance(dim, int) for dim in self.shape)


def dtype_name(elem_type: int) -> str:
    """Returns the element type's name: `float32`, `int64`, `bool`, `bfloat16`, `string` …."""
    from onnx import TensorProto

    names = {"FLOAT": "float32", "DOUBLE": "float64"}
    name: str = TensorProto.DataType.Name(elem_type)
    return names.get(name, name.lower())


def _dim(dim: onnx.TensorShapeProto.Dimension, symbol: str, taken: set[str]) -> int | str:
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return int(dim.dim_value)
    name = str(dim.dim_param)
    if name in ANONYMOUS:
        name = symbol
        while name in taken:
            name += "_"
    taken.add(name)
    return name


def tensor_info(value: onnx.ValueInfoProto, taken: set[str] | None = None) -> TensorInfo:
    """Reads one ValueInfoProto.

    An unknown dim (unset, zero, negative, `?`) becomes a symbol of its own, `<tensor>_dim<index>`. A named dim keeps
    its name: the same name in two places means the same size.
    """
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "untyped"
        return TensorInfo(value.name, str(kind).removesuffix("_type"), None)
    if not tensor.HasField("shape"):
        return TensorInfo(value.name, dtype_name(tensor.elem_type), None)
    used = taken if taken is not None else set()
    dims = [_dim(dim, f"{value.name}_dim{index}", used) for index, dim in enumerate(tensor.shape.dim)]
    return TensorInfo(value.name, dtype_name(tensor.elem_type), tuple(dims))


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Returns the graph's inputs without those that are initializers (IR version 3 listed both)."""
    stored = {tensor.name for tensor in graph.initializer}
    stored.update(tensor.values.name for tensor in graph.sparse_initializer)
    return [value for value in graph.input if value.name not in stored]


def inputs_of(graph: onnx.GraphProto) -> list[TensorInfo]:
    """Returns the inputs that a caller must feed, in order. No made-up symbol is one that the file uses."""
    values = real_inputs(graph)
    named = {dim.dim_param for value in values for dim in value.type.tensor_type.shape.dim}
    return [tensor_info(value, set(named)) for value in values]


def outputs_of(graph: onnx.GraphProto) -> list[TensorInfo]:
    """Returns the outputs, in order."""
    return [tensor_info(value) for value in graph.output]
