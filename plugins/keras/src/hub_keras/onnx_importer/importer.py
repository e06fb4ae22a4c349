"""From an ONNX model to a Keras functional model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

from hub_keras.onnx_importer.dims import OpenSize, advice, fold_open, is_sizes, sizes_array, symbols_of
from hub_keras.onnx_importer.folding import fold, foldable
from hub_keras.onnx_importer.graph import KerasGraph, layer_dtype
from hub_keras.onnx_importer.lazy import keras, layers, np
from hub_keras.onnx_importer.ops.activation import gelu
from hub_keras.onnx_importer.ops.dense import dense
from hub_keras.onnx_importer.patterns import biased_products, exact_gelus
from hub_keras.onnx_importer.registry import TABLE
from hub_keras.onnx_importer.values import (
    KerasValue,
    array_of,
    channels_last,
    dtype_name,
    element_type,
    scalar,
    value_of,
)
from hub_onnxgraph import Operator, Refused, UnsupportedOperator, refuse_if
from hub_onnxgraph.standard import opsets_of, without_functions
from hub_onnxgraph.walker import Frame, Node, Scope, Walker

_IMAGE_RANK = 4
_MATRIX = 2
# Broadcast operators: onnx' shape inference invents a new name where two open sizes meet that it cannot compare.
_BROADCAST = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Or", "Pow", "Sub", "Where", "Relu", "Cast"}
)


@dataclass(frozen=True, slots=True)
class Imported:
    """An imported model.

    Attributes:
        model: The Keras model.
        inputs: ONNX input -> its name in the Keras model, in order.
        outputs: The same for outputs.
        moved: ONNX inputs and outputs that have another layout: Keras axes = ONNX axes transposed by (0, 2, 3, 1).
    """

    model: Any
    inputs: dict[str, str]
    outputs: dict[str, str]
    moved: frozenset[str]


class KerasImporter(Walker):
    """Translates one model. Use once."""

    table = TABLE
    framework = "Keras"
    framework_errors = (*Walker.framework_errors, AttributeError)  # a known array where only a tensor is taken

    def __init__(self, model: onnx.ModelProto, io_layout: str = "", *, saved: bool = True) -> None:
        self._model = without_functions(model)
        self._last = io_layout == "nhwc"
        self._graph = KerasGraph(saved=saved)
        self._moved: set[str] = set()
        self._symbols = symbols_of(self._model)
        self._gelus = exact_gelus(self._model.graph)
        self._products = biased_products(self._model.graph)
        self._summed: set[str] = set()

    def run(self) -> Imported:
        """Return the Keras model.

        Raises:
            UnsupportedOperator: A node, or a form of it, is not implemented.
        """
        graph = self._model.graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        names = {value.name: self._graph.reserve(value.name) for value in inputs}
        outputs = {value.name: self._graph.reserve(value.name) for value in graph.output}
        self._graph.advice = advice(inputs)
        scope: Scope = {value.name: self._placeholder(value, names[value.name]) for value in inputs}
        if not scope:
            raise UnsupportedOperator("Input", 0, "", "the model has no inputs")
        tensors = [value.tensor for value in scope.values()]
        self._graph.anchor = min(tensors, key=lambda tensor: (None in tensor.shape, 0 in tensor.shape))
        results = self.run_graph(graph, Frame(scope, opsets_of(self._model)))
        made = [self._result(v, name, key) for v, (key, name) in zip(results, outputs.items(), strict=True)]
        self._graph.settle(made)
        name = self._graph.unique(graph.name or "model")
        model = keras.Model(_bare(tensors), _bare(made), name=name)
        return Imported(model, names, outputs, frozenset(self._moved))

    def tensor_of(self, proto: onnx.TensorProto) -> Any:
        """A numpy array."""
        return array_of(proto)

    def scalar(self, value: Any, what: str) -> Any:
        """A Python number."""
        return scalar(value, what)

    def type_of(self, value: Any) -> onnx.TypeProto:
        """Element type and shape."""
        if isinstance(value, KerasValue):
            return onnx.helper.make_tensor_type_proto(element_type(value.dtype), list(value.shape))
        if not hasattr(value, "dtype") or value.dtype == object:
            return onnx.TypeProto()
        return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)

    def begin(self, node: onnx.NodeProto) -> None:
        """Name what the node makes after it."""
        self._graph.current = node.name or next(iter(node.output), node.op_type)

    def initialized(self, name: str, value: Any) -> None:
        """A weight."""
        self._graph.remember(value, name, initializer=True)

    def produced(self, name: str, value: Any) -> None:
        """Name the operation after what it makes; a constant after its node."""
        if isinstance(value, KerasValue):
            self._graph.rename(value.tensor, name)
            self._declare(name, value)
        elif hasattr(value, "dtype") and self._graph.name_of(value) is None:
            self._graph.remember(value, name)

    def _run_node(self, node: onnx.NodeProto, frame: Frame) -> None:
        """Make nodes that together are one function one operation; what is left over, no output reaches."""
        if node.output and node.output[0] in self._summed:
            return
        x = frame.scope.get(self._gelus.get(node.output[0], "")) if node.op_type == "Mul" else None
        if isinstance(x, KerasValue):
            self.begin(node)
            frame.scope[node.output[0]] = made = gelu(x)
            self.produced(node.output[0], made)
            return
        product = self._products.get(node.output[0]) if node.op_type == "MatMul" else None
        source = frame.scope.get(node.input[0]) if product else None
        if (
            product is None
            or not isinstance(source, KerasValue)
            or "float" not in source.dtype
            or source.ndim < _MATRIX
        ):
            super()._run_node(node, frame)
            return
        self.begin(node)
        kernel, bias = frame.scope[node.input[1]], frame.scope[product.bias]
        frame.scope[product.result] = made = dense(source, kernel, bias, bias)
        self._summed.add(product.result)
        self.produced(product.result, made)

    def _handled(self, row: Operator, inputs: list[Any], node: Node) -> tuple[Any, ...]:
        if foldable(node.proto, inputs):
            return fold(node.proto, node.version, inputs)
        if (
            any(map(is_sizes, inputs))
            and node.proto.op_type in {"Expand", "ConstantOfShape"}
            and not any(isinstance(item, KerasValue) for item in inputs)
        ):
            # A constant of an open shape is a tensor, since its size depends on the run.
            fills = [array_of(attribute.t).reshape(()) for attribute in node.proto.attribute]
            constant = inputs[0] if node.proto.op_type == "Expand" else next(iter(fills), np.zeros((), "float32"))
            made = self._graph.expanded(constant, inputs[-1].tolist())
            return (KerasValue(self._graph, made, tuple(range(len(made.shape)))),)
        open_sizes = fold_open(node.proto, inputs)
        results = super()._handled(row, inputs, node) if open_sizes is None else (open_sizes,)
        if node.proto.op_type in _BROADCAST:
            # What is broadcast has the open sizes of what it is made of, where they are the same.
            value = results[0]
            for axis in range(value.ndim if isinstance(value, KerasValue) else 0):
                found = {
                    size for item in inputs if item is not None for size in _size_from_end(item, value.ndim - axis)
                }
                if len(found) == 1:
                    self._graph.declare(value.tensor, value.axis(axis), found.pop())
        return tuple(sizes_array(item) if isinstance(item, OpenSize) else item for item in results)

    def _declare(self, name: str, value: KerasValue) -> None:
        """Name the open sizes of a tensor as ONNX's shape inference names them."""
        for axis, symbol in enumerate(self._symbols.get(name, ())):
            if symbol and axis < value.ndim:
                self._graph.declare(value.tensor, value.axis(axis), symbol)

    def _placeholder(self, value: onnx.ValueInfoProto, name: str) -> KerasValue:
        try:
            shape, kind = _type(value)
            dtype = dtype_name(kind)
        except Refused as refusal:
            raise UnsupportedOperator("Input", 0, value.name, str(refusal)) from refusal
        order = tuple(range(len(shape)))
        if self._last and len(shape) == _IMAGE_RANK:
            order = channels_last(_IMAGE_RANK)
            self._moved.add(value.name)
        tensor = keras.Input(batch_shape=tuple(shape[axis] for axis in order), dtype=dtype, name=name)
        made = KerasValue(self._graph, tensor, order)
        self._declare(value.name, made)
        return made

    def _result(self, item: Any, name: str, key: str) -> Any:
        if not isinstance(item, KerasValue) and not hasattr(item, "dtype"):
            raise UnsupportedOperator("Output", 0, key, "only tensors can be outputs of the model")
        value = value_of(self._graph, item)
        last = self._last and value.ndim == _IMAGE_RANK
        if last:
            self._moved.add(key)
        tensor = value.stored(channels_last(_IMAGE_RANK)) if last else value.plain()
        return self._named(tensor, name)

    def _named(self, tensor: Any, name: str) -> Any:
        """The tensor, made by an operation of the output's name."""
        history = tensor._keras_history  # noqa: SLF001 - Keras' only way from tensor to operation
        alone = len(history.operation._inbound_nodes[history.node_index].outputs) == 1  # noqa: SLF001 - as above
        if isinstance(history.operation, layers.InputLayer) or not alone or id(history.operation) in self._outputs:
            return layers.Identity(name=name, dtype=layer_dtype(tensor))(tensor)
        self._outputs.add(id(history.operation))
        history.operation.name = name
        return tensor

    @property
    def _outputs(self) -> set[int]:
        return self._graph.finished


def _size_from_end(item: Any, place: int) -> list[Any]:
    """The size of an axis that is so many from the end, unless it is 1."""
    sizes = item.sizes if isinstance(item, KerasValue) else list(item.shape)
    return [size for size in sizes[len(sizes) - place :][:1] if size != 1] if place <= len(sizes) else []


def _bare(tensors: list[Any]) -> Any:
    """One tensor goes without a list, as a person would write it."""
    return tensors[0] if len(tensors) == 1 else tensors


def _type(value: onnx.ValueInfoProto) -> tuple[tuple[int | None, ...], int]:
    tensor = value.type.tensor_type
    refuse_if(not value.type.HasField("tensor_type"), "only tensors can be inputs of the model")
    refuse_if(not tensor.HasField("shape"), "the rank is unknown; fix the shape first")
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim), tensor.elem_type
