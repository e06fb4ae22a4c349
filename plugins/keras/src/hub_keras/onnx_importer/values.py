"""A tensor with its layout, and helpers that read constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from hub_keras.onnx_importer.dims import Array, OpenSize, Size
from hub_keras.onnx_importer.graph import KerasGraph, Permutation
from hub_keras.onnx_importer.lazy import np, ops
from hub_onnxgraph import Refused, refuse_if
from hub_onnxgraph.tensors import ELEMENT_TYPES, positive_axis

if TYPE_CHECKING:
    import onnx
    from keras import KerasTensor
    from typing_extensions import TypeIs

Item: TypeAlias = "KerasValue | Array"
"""What an operator is given: a tensor that depends on the model's inputs, or a known array."""


@dataclass(frozen=True, slots=True, eq=False)
class KerasValue:
    """A tensor of the Keras graph, stored in an order of axes of its own.

    Attributes:
        graph: The graph it belongs to.
        tensor: The Keras tensor.
        order: Axis i of `tensor` is the ONNX axis `order[i]`. Channels-last pictures have (0, 2, 3, 1).
        nonnegative: Whether no element is below zero.
    """

    graph: KerasGraph
    tensor: KerasTensor
    order: Permutation
    nonnegative: bool = False

    @property
    def ndim(self) -> int:
        """The rank."""
        return len(self.order)

    @property
    def dtype(self) -> str:
        """The element type, as Keras and numpy name it."""
        return str(self.tensor.dtype)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape in ONNX's order of axes; None for an open size."""
        return tuple(self.tensor.shape[self.axis(i)] for i in range(self.ndim))

    @property
    def sizes(self) -> list[Size]:
        """The shape, in which an open size is a `dims.OpenSize`."""
        return [self.graph.size(self.tensor, self.axis(i)) for i in range(self.ndim)]

    @property
    def is_plain(self) -> bool:
        """Whether it is stored in ONNX's order."""
        return self.order == tuple(range(self.ndim))

    def axis(self, onnx_axis: int) -> int:
        """Where an ONNX axis is stored.

        Raises:
            Refused: The axis is outside the rank.
        """
        return self.order.index(positive_axis(onnx_axis, self.ndim))

    def axes(self, onnx_axes: Sequence[int]) -> list[int]:
        """Where ONNX axes are stored."""
        return [self.axis(axis) for axis in onnx_axes]

    def stored(self, order: Sequence[int]) -> KerasTensor:
        """The Keras tensor in another order of axes; a transpose only where elements have to move."""
        return self.graph.transposed(self.tensor, tuple(self.order.index(axis) for axis in order))

    def plain(self) -> KerasTensor:
        """The Keras tensor in ONNX's order of axes."""
        return self.stored(range(self.ndim))

    def like(self, tensor: KerasTensor, *, nonnegative: bool = False) -> KerasValue:
        """A result of the same rank that is stored in the same order."""
        return KerasValue(self.graph, tensor, self.order, nonnegative)

    def made(self, tensor: KerasTensor, order: Sequence[int] | None = None, *, nonnegative: bool = False) -> KerasValue:
        """A result with an order of its own, ONNX's by default."""
        return KerasValue(self.graph, tensor, tuple(range(len(tensor.shape)) if order is None else order), nonnegative)


def fixed(item: Item, axis: int) -> int:
    """The size of an axis.

    Raises:
        Refused: It is open.
    """
    return sizes(item, [axis % item.ndim], "this form")[0] if isinstance(item, KerasValue) else int(item.shape[axis])


def channels_last(rank: int) -> Permutation:
    """The order of axes that Keras' spatial layers take."""
    return (0, *range(2, rank), 1)


def graph_of(*items: Item | None) -> KerasGraph:
    """The graph that the first tensor belongs to."""
    return next(item.graph for item in items if isinstance(item, KerasValue))


def is_constant(item: Item | None) -> TypeIs[Array]:
    """Whether a value is known at import time."""
    return not isinstance(item, KerasValue)


def value_of(graph: KerasGraph, item: Item) -> KerasValue:
    """A tensor of the graph; a constant becomes one."""
    if isinstance(item, KerasValue):
        return item
    return KerasValue(graph, graph.symbolic(item), tuple(range(item.ndim)))


def plain(graph: KerasGraph, item: Item) -> KerasTensor | Array:
    """An operand of a keras.ops function in ONNX's order of axes."""
    return item.plain() if isinstance(item, KerasValue) else graph.constant(item)


def align(*items: Item) -> tuple[list[KerasTensor | Array], KerasValue]:
    """Operands of an elementwise function that broadcasts, brought into one order of axes at the least cost.

    Returns:
        Keras tensors or numpy arrays, and a value whose `like` makes the result (it has the result's rank and order).
    """
    rank = max(item.ndim for item in items)
    whole = [item for item in items if isinstance(item, KerasValue) and item.ndim == rank]
    order = _cheapest(whole) if whole else tuple(range(rank))
    operands = [_operand(graph_of(*items), item, order) for item in items]
    model = KerasValue(graph_of(*items), None, order)
    return operands, model


def _cheapest(values: Sequence[KerasValue]) -> Permutation:
    """The order that moves the fewest elements; channels-last rather than ONNX's when that is the same."""
    orders = sorted({value.order for value in values}, key=lambda order: order == tuple(range(len(order))))
    return min(orders, key=lambda order: sum(_cost(value, order) for value in values))


_OPEN = 64  # what an open size counts when two ways are compared


def _cost(value: KerasValue, order: Permutation) -> int:
    permutation = tuple(value.order.index(axis) for axis in order)
    if value.graph.is_free(value.tensor, permutation):
        return 0
    return math.prod(_OPEN if size is None else size for size in value.tensor.shape)


def _operand(graph: KerasGraph, item: Item, order: Permutation) -> KerasTensor | Array:
    rank, plain_order = len(order), tuple(range(len(order)))
    if isinstance(item, KerasValue):
        if item.ndim == rank:
            return item.stored(order)
        return item.plain() if order == plain_order else _raised(item, rank).stored(order)
    if order == plain_order or item.ndim == 0:
        return graph.constant(item)
    return graph.constant(np.transpose(np.reshape(item, (1,) * (rank - item.ndim) + item.shape), order))


def _raised(value: KerasValue, rank: int) -> KerasValue:
    """The value with leading axes of size 1."""
    missing = rank - value.ndim
    tensor = ops.expand_dims(value.tensor, axis=tuple(range(missing)))
    return value.made(tensor, (*range(missing), *(axis + missing for axis in value.order)))


def dtype_name(element_type: int) -> str:
    """Return Keras' name of an ONNX element type.

    Raises:
        Refused: Keras has no such type.
    """
    if element_type not in ELEMENT_TYPES:
        raise Refused(f"element type {element_type} is not implemented")
    return ELEMENT_TYPES[element_type]


def element_type(dtype: str) -> int:
    """Return the ONNX element type of a Keras dtype."""
    return next(number for number, name in ELEMENT_TYPES.items() if name == dtype)


def array_of(proto: onnx.TensorProto) -> Array:
    """Return an ONNX tensor as a numpy array.

    Raises:
        Refused: The data lies outside the model and was not loaded.
    """
    from onnx import TensorProto, numpy_helper

    if proto.data_location == TensorProto.EXTERNAL:
        raise Refused(f"the data of tensor {proto.name!r} is external and was not loaded")
    return np.ascontiguousarray(numpy_helper.to_array(proto)).reshape(tuple(proto.dims))


def known(item: Item, what: str) -> Any:
    """Return a constant's content as Python numbers, nested as its shape is.

    Raises:
        Refused: The value is computed from the model's inputs.
    """
    if not is_constant(item):
        raise Refused(f"{what} must be known at import time, and is computed from the model's inputs")
    return item.tolist()


def ints(item: Item, what: str) -> list[Any]:
    """Return a constant of rank 0 or 1 as a list of whole numbers (or of open sizes, where it holds some)."""
    content = known(item, what)
    return list(content) if isinstance(content, list) else [content]


def scalar(item: Item, what: str) -> Any:
    """Return a constant of one element as a Python number.

    Raises:
        Refused: The value is not constant, or has not exactly one element.
    """
    content = known(item.reshape(-1) if is_constant(item) else item, what)
    refuse_if(len(content) != 1, f"{what} has {len(content)} elements, one is expected")
    return content[0]


def sizes(value: KerasValue, axes: Sequence[int], what: str) -> list[int]:
    """Return the sizes of axes.

    Raises:
        Refused: One is open.
    """
    found = []
    for size in (value.sizes[axis] for axis in axes):
        if isinstance(size, OpenSize):
            raise Refused(f"{what} needs the open size {size}; {size.advice}")
        found.append(size)
    return found
