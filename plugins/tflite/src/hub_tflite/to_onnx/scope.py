"""What one subgraph, and one file, has under translation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hub.spec import Remark
from hub_onnxgraph.errors import Refused, refuse_if
from hub_tflite.to_onnx import quantized
from hub_tflite.to_onnx.builder import OnnxBuilder, array_of, described
from hub_tflite.to_onnx.lazy import ir, np
from hub_tflite.to_onnx.sparse import densified
from hub_tflitefile.schema import constant, numbers, text, type_name

if TYPE_CHECKING:
    from onnx_ir import DataType, Value

    from hub_tflite.to_onnx.builder import Array
    from hub_tflitefile.tables import ModelT, SubGraphT, TensorT

_ELEMENTS = {
    "FLOAT64": "DOUBLE", "FLOAT32": "FLOAT", "FLOAT16": "FLOAT16", "BFLOAT16": "BFLOAT16", "INT64": "INT64",
    "INT32": "INT32", "INT16": "INT16", "INT8": "INT8", "UINT64": "UINT64", "UINT32": "UINT32", "UINT16": "UINT16",
    "UINT8": "UINT8", "BOOL": "BOOL", "COMPLEX64": "FLOAT",
}  # fmt: skip
COMPLEX = "COMPLEX64"


def element_type(tensor: TensorT) -> DataType:
    """Return ONNX's element type of a TFLite tensor; a complex one is two floats, see `ops.signal`.

    Raises:
        Refused: ONNX has no such type, or only inside quantization.
    """
    name = type_name(tensor)
    refuse_if(name not in _ELEMENTS, f"{text(tensor.name)} is of type {name}")
    return ir.DataType[_ELEMENTS[name]]


def dims_of(tensor: TensorT) -> tuple[int | None, ...]:
    """Return the sizes of a tensor, None where the file leaves one open."""
    sizes = numbers(tensor.shapeSignature) or numbers(tensor.shape)
    return tuple(size if size >= 0 else None for size in sizes)


@dataclass(slots=True)
class FileTranslation:
    """What the subgraphs of one file share.

    Attributes:
        model: The file.
        inline: Translates another subgraph into a builder on given inputs, and returns its outputs.
        notes: What is worth telling of the translation.
        variables: Name of a variable -> its value.
        is_initializing: Whether the first values of variables are read.
        is_ranked: Whether the file says of each tensor if its rank is known.
    """

    model: ModelT
    inline: Callable[[int, Sequence[Value], OnnxBuilder], list[Value]]
    notes: list[Remark] = field(default_factory=list)
    variables: dict[str, Value] = field(default_factory=dict)
    is_initializing: bool = False
    is_ranked: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_ranked = any(tensor.hasRank for graph in self.model.subgraphs for tensor in graph.tensors)


@dataclass(slots=True)
class SubgraphScope:
    """One subgraph under translation.

    Attributes:
        file: What it shares with the others.
        graph: The subgraph.
        builder: Where its nodes are written.
        values: Tensor index -> value, for every tensor made so far.
        bound: Ids of values that have a tensor's name already.
    """

    file: FileTranslation
    graph: SubGraphT
    builder: OnnxBuilder
    values: dict[int, Value] = field(default_factory=dict)
    bound: set[int] = field(default_factory=set)

    def bind(self, index: int, value: Value) -> None:
        """Take a value as a tensor, as it is."""
        self.values[index] = value
        self.bound.add(id(value))

    def read(self, index: int) -> Value:
        """Return the value of a tensor; constants are stored at their first use."""
        if index not in self.values:
            tensor = self.graph.tensors[index]
            is_state = tensor.isVariable
            self.bind(index, quantized.zeros(self.builder, tensor) if is_state else self._stored(tensor))
        return self.values[index]

    def _stored(self, tensor: TensorT) -> Value:
        array = self._content(tensor)
        if quantized.is_quantized(tensor):
            return quantized.stored(self.builder, self.file.model, self.graph, tensor, array)
        refuse_if(type_name(tensor) in quantized.PACKED, f"{text(tensor.name)} is {type_name(tensor)} without a scale")
        return self.builder.constant(array, text(tensor.name))

    def _content(self, tensor: TensorT) -> Array:
        data = constant(self.file.model, tensor)
        if data is None:
            raise Refused(f"{text(tensor.name)} is used before it is made")
        shape, kind = numbers(tensor.shape), type_name(tensor)
        if kind in quantized.PACKED:
            refuse_if(tensor.sparsity, f"{text(tensor.name)} is sparse and packed")
            return quantized.unpacked(data, kind, math.prod(shape)).reshape(shape)
        array: Array = np.frombuffer(data, element_type(tensor).numpy())
        return densified(array, tensor.sparsity, shape) if tensor.sparsity else array.reshape(shape)

    def write(self, index: int, value: Value) -> None:
        """Take a result as a tensor: it gets the tensor's name, type and shape unless it has another's."""
        tensor = self.graph.tensors[index]
        if quantized.is_quantized(tensor):
            self.bind(index, quantized.requantized(self.builder, tensor, value, dims_of(tensor)))
            return
        if id(value) not in self.bound and array_of(value) is None:
            value.name = self.builder.name(text(tensor.name))
            known_rank = tensor.hasRank or not self.file.is_ranked or bool(numbers(tensor.shape))
            dims = (*dims_of(tensor), *([2] if type_name(tensor) == COMPLEX else []))
            described(value, element_type(tensor), dims if known_rank else None)
        self.bind(index, value)
