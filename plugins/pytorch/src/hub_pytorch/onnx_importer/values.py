"""Reading constants: ONNX tensors as torch tensors, and constant inputs as Python values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub_onnxgraph import Refused
from hub_onnxgraph.tensors import ELEMENT_TYPES
from hub_pytorch.onnx_importer import narrow
from hub_pytorch.onnx_importer.lazy import torch

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray
    from torch import Tensor

    from hub_pytorch.onnx_importer.tracing import TracedValue

# onnx.TensorProto.DataType -> name of the torch dtype.
_DTYPES = {**ELEMENT_TYPES, 14: "complex64", 15: "complex128", **narrow.FLOATS}


def torch_dtype(element_type: int) -> torch.dtype:
    """Return the torch dtype of an ONNX element type.

    Raises:
        Refused: torch has no such type (strings; 2- and 4-bit numbers, which only some operators may have).
    """
    if element_type not in _DTYPES:
        raise Refused(f"element type {element_type} is not implemented")
    dtype: torch.dtype = getattr(torch, _DTYPES[element_type])
    return dtype


def held_dtype(element_type: int) -> torch.dtype:
    """Return the torch dtype that holds an ONNX element type: its own, or a wider one.

    Raises:
        Refused: There is none (strings).
    """
    if element_type in narrow.CARRIERS:
        dtype: torch.dtype = getattr(torch, narrow.CARRIERS[element_type])
        return dtype
    return torch_dtype(element_type)


def cast(x: Tensor, element_type: int, *, saturate: bool = True, round_mode: str = "up") -> Tensor:
    """Convert a tensor to an ONNX element type.

    Raises:
        Refused: The conversion is not implemented.
    """
    if element_type in narrow.CARRIERS or element_type in narrow.FLOATS:
        if narrow.kind_of(x) == element_type or (
            element_type in narrow.FLOATS and x.dtype == torch_dtype(element_type)
        ):
            return x
        return narrow.cast(x, element_type, saturate=saturate, round_mode=round_mode)
    dtype = torch_dtype(element_type)
    if narrow.kind_of(x) is not None and dtype == x.dtype:
        return torch.clone(x)  # a value of its own, which no longer stands for a smaller type
    return x.to(dtype)


def element_type(value: Tensor | TracedValue) -> int:
    """Return the ONNX element type of a tensor."""
    dtype, kind = value.dtype, narrow.kind_of(value)
    if kind is not None:
        return kind
    return next(number for number, name in _DTYPES.items() if getattr(torch, name) == dtype)


def tensor_of(proto: onnx.TensorProto, folder: str = "") -> Tensor:
    """Return an ONNX tensor as a torch tensor that owns its memory.

    Args:
        proto: The tensor. Data that lies outside the model is read and not kept in it.
        folder: The folder of the model's file; empty when there is none.

    Raises:
        Refused: The element type is not implemented, or the data lies outside the model and cannot be read.
    """
    dtype = held_dtype(proto.data_type)
    array: NDArray[Any] = _array(proto, folder).reshape(tuple(proto.dims))
    if proto.data_type in narrow.CARRIERS:
        wide = torch.from_numpy(array.astype("float32" if dtype.is_floating_point else "int32"))
        held: Tensor = narrow.marked(wide.to(dtype), proto.data_type)
        return held
    if proto.data_type in _VIEWED:  # numpy has it by another package, whose types torch does not know
        return torch.from_numpy(array.view(f"int{8 * dtype.itemsize}").copy()).view(dtype)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _array(proto: onnx.TensorProto, folder: str) -> NDArray[Any]:
    import numpy as np
    from onnx import TensorProto, checker, numpy_helper

    if proto.data_location != TensorProto.EXTERNAL:
        return np.ascontiguousarray(numpy_helper.to_array(proto))
    if not folder:
        raise Refused(f"the data of tensor {proto.name!r} is external and was not loaded")
    try:
        return np.ascontiguousarray(numpy_helper.to_array(proto, folder))
    except (OSError, ValueError, checker.ValidationError) as error:
        raise Refused(f"the data of tensor {proto.name!r} is external and cannot be read: {error}") from error


_VIEWED = {16, *narrow.FLOATS}  # 16 is bfloat16


def is_constant(value: Any) -> bool:
    """Tell whether a value is known at import time."""
    return isinstance(value, torch.Tensor)


def is_known(value: Any) -> bool:
    """Tell whether a value is known at import time up to the dynamic sizes."""
    from hub_pytorch.onnx_importer.tracing import Known

    return isinstance(value, Known)


def known(value: Any, what: str) -> Any:
    """Return a constant's content as Python numbers, nested as its shape is; dynamic sizes are torch.SymInt.

    Raises:
        Refused: the value is computed from the data of the model's inputs.
    """
    if is_known(value):
        return value.content.tolist()
    if not is_constant(value):
        raise Refused(f"{what} must be known at import time, and is computed from the model's inputs")
    return value.tolist()


def ints(value: Any, what: str) -> list[Any]:
    """Return a constant of rank 0 or 1 as a list of integers; dynamic sizes are torch.SymInt."""
    content = known(value, what)
    items = content if isinstance(content, list) else [content]
    return [item if isinstance(item, torch.SymInt) else int(item) for item in items]


def scalar(value: Any, what: str) -> Any:
    """Return a constant of one element as a Python number.

    Raises:
        Refused: the value is not constant, or has not exactly one element.
    """
    content = known(value, what)
    while isinstance(content, list):
        if len(content) != 1:
            raise Refused(f"{what} has {len(content)} elements, one is expected")
        content = content[0]
    return content
