"""Applying keras.ops to values: element types kept as ONNX has them, layouts kept where no element has to move."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hub_keras.onnx_importer.dims import OpenSize
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.values import Item, KerasValue, align, sizes
from hub_onnxgraph import Refused, refuse_if
from hub_onnxgraph.tensors import positive_axis

if TYPE_CHECKING:
    from keras import KerasTensor

Function = Callable[..., Any]

_SMALL = {"int8": "int32", "uint8": "int32", "int16": "int32", "uint16": "int32", "uint32": "int64"}


def dtype_of(item: Item) -> str:
    """The element type of a value or a constant."""
    return item.dtype if isinstance(item, KerasValue) else str(item.dtype)


def is_float(dtype: str) -> bool:
    """Whether an element type is floating-point."""
    return "float" in dtype


def wide_dtype(dtype: str) -> str:
    """An integer type in which TensorFlow computes, that holds all of a smaller one."""
    return _SMALL.get(dtype, dtype)


def cast(tensor: KerasTensor, dtype: str) -> KerasTensor:
    """A Keras tensor or an array in an element type; no operation where it has it."""
    if str(tensor.dtype) == dtype:
        return tensor
    return ops.cast(tensor, dtype) if hasattr(tensor, "_keras_history") else tensor.astype(dtype)


def elementwise(function: Function, *items: Item, dtype: str | None = None, wide: bool = False) -> KerasValue:
    """Apply a function of broadcast operands.

    Args:
        function: Takes Keras tensors and arrays.
        items: Values and constants.
        dtype: The result's element type; the first item's by default.
        wide: Whether small integers are computed in a wider type.
    """
    operands, model = align(*items)
    if wide:
        operands = [cast(operand, wide_dtype(str(operand.dtype))) for operand in operands]
    return model.like(cast(function(*operands), dtype or dtype_of(items[0])))


def mapped(function: Function, x: KerasValue, *, wide: bool = False, nonnegative: bool = False) -> KerasValue:
    """Apply a function of one tensor; the element type stays."""
    source = cast(x.tensor, wide_dtype(x.dtype)) if wide else x.tensor
    return x.like(cast(function(source), x.dtype), nonnegative=nonnegative)


def selected(value: KerasValue, axis: int, index: slice) -> KerasTensor:
    """A slice of the stored tensor along a stored axis."""
    return value.tensor[tuple([slice(None)] * axis + [index])]


def size_of(value: KerasValue, axis: int, what: str) -> int:
    """The size of an ONNX axis.

    Raises:
        Refused: It is open.
    """
    return sizes(value, [positive_axis(axis, value.ndim)], what)[0]


def number(item: object, what: str) -> int:
    """A whole number that holds no open size.

    Raises:
        Refused: It does.
    """
    refuse_if(isinstance(item, OpenSize), f"{what} is the open size {item}; {getattr(item, 'advice', '')}")
    if not isinstance(item, int):
        raise Refused(f"{what} {item} is no whole number")
    return int(item)


def along(vector: KerasTensor, axis: int, rank: int) -> KerasTensor:
    """A constant vector in a shape that broadcasts along a stored axis."""
    return vector.reshape([-1 if i == axis else 1 for i in range(rank)])


def added(a: KerasTensor, b: KerasTensor) -> KerasTensor:
    """A sum that Keras computes right on TensorFlow.

    There `ops.add` takes a second operand with one axis longer than 1 for a bias, when the first operand's last or
    second axis is as long, wherever that axis is: [[1, 2], [3, 4]] + [[0], [9]] adds 9 to the second column
    (keras/src/backend/tensorflow/numpy.py, `add`). Such operands change places, or the negative is subtracted.
    """
    first, second = tuple(a.shape), tuple(b.shape)
    if not _taken_for_bias(first, second):
        return ops.add(a, b)
    if not _taken_for_bias(second, first):
        return ops.add(b, a)
    return ops.subtract(a, ops.negative(b) if hasattr(b, "_keras_history") else np.negative(b))


def _taken_for_bias(first: tuple[int | None, ...], second: tuple[int | None, ...]) -> bool:
    """Whether the second operand may be added along another axis than its own; an open size may be any."""
    surely = {i for i, size in enumerate(second) if size is not None and size > 1}
    may = [i for i, size in enumerate(second) if size not in {0, 1} and surely <= {i}]
    return len(first) > 1 and any(_misplaced(first, second[i], len(second) - i, len(second)) for i in may)


def _misplaced(first: tuple[int | None, ...], size: int | None, from_end: int, rank: int) -> bool:
    """Whether a vector on the axis that is so many from the end may be read as another axis's."""
    last, second = first[-1], first[1]
    as_last = last == size or (None in {last, size} and last != 1)
    as_second = second == size or (None in {second, size} and second != 1)
    fits = rank <= len(first)
    right_last = fits and from_end == 1
    right_second = fits and len(first) - from_end == 1
    sure_last = last == size and size is not None
    return (as_last and not right_last) or (as_second and not sure_last and not right_second)
