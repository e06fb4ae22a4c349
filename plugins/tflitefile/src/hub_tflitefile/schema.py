"""Reads and writes the TFLite flatbuffer as plain objects, with the runtime's generated schema.

Two layouts are read: weights inside the flatbuffer, and weights behind it (`Buffer.offset`), as ai-edge-quantizer and
files above 2 GiB have them. Only the first is written, so that every reader in the field can open the result.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from hub.spec import DType, ModelNotFound, ModelUnreadable, UnsupportedModel

if TYPE_CHECKING:
    from hub_tflitefile.tables import Bytes, Integers, ModelT, OperatorT, SubGraphT, TensorT

IDENTIFIER = b"TFL3"
FLATBUFFER_LIMIT = 2**31 - 1
"""Bytes: offsets inside a flatbuffer are signed 32-bit numbers (flatbuffers' specification)."""

_UNREADABLE = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
_DTYPES = {
    "FLOAT64": DType.FLOAT64, "FLOAT32": DType.FLOAT32, "FLOAT16": DType.FLOAT16, "BFLOAT16": DType.BFLOAT16,
    "INT64": DType.INT64, "INT32": DType.INT32, "INT16": DType.INT16, "INT8": DType.INT8, "INT4": DType.INT4,
    "UINT64": DType.UINT64, "UINT32": DType.UINT32, "UINT16": DType.UINT16, "UINT8": DType.UINT8,
    "BOOL": DType.BOOL, "STRING": DType.STRING, "COMPLEX64": DType.COMPLEX64,
}  # fmt: skip


def _schema() -> ModuleType:
    return import_module("ai_edge_litert.schema_py_generated")


@cache
def _names(enum: str) -> dict[int, str]:
    return {value: name for name, value in vars(getattr(_schema(), enum)).items() if isinstance(value, int)}


def code_of(enum: str, name: str) -> int:
    """Returns the number of an enum's member, such as `("TensorType", "INT8")`."""
    return int(getattr(getattr(_schema(), enum), name))


Table = TypeVar("Table")


@overload
def new(table: type[Table], **fields: Any) -> Table: ...
@overload
def new(table: str, **fields: Any) -> Any: ...
def new(table: type[Table] | str, **fields: Any) -> Any:  # the fields are the schema's own
    """Makes an empty table object (`tables.TensorT`, `"AddOptionsT"`, …) and sets the given fields."""
    made = getattr(_schema(), table if isinstance(table, str) else table.__name__)()
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def operator_name(model: ModelT, operator: OperatorT) -> str:
    """Returns the builtin's name, or `custom::Name` for a custom operator (Flex operators are named `Flex…`)."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(int(code.builtinCode), int(code.deprecatedBuiltinCode))
    name = _names("BuiltinOperator").get(number, f"builtin {number}")
    return f"custom::{text(code.customCode)}" if name == "CUSTOM" else name


def type_name(tensor: TensorT) -> str:
    """Returns the element type's name in the schema: `FLOAT32`."""
    return _names("TensorType").get(int(tensor.type), f"type {tensor.type}")


def dtype_of(tensor: TensorT) -> DType:
    """Returns the element type, `DType.UNKNOWN` where the contract has no word for it."""
    return _DTYPES.get(type_name(tensor), DType.UNKNOWN)


def text(value: bytes | str | None) -> str:
    """Decodes a name; bytes that are not UTF-8 are shown escaped."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value or ""


def numbers(values: Integers | None) -> list[int]:
    """Returns a vector of the schema (an array, a list, or None when absent) as a list of integers."""
    return [] if values is None else [int(value) for value in values]


def constant(model: ModelT, tensor: TensorT) -> Bytes | None:
    """Returns the bytes of a constant tensor, or None for an activation."""
    data = model.buffers[tensor.buffer].data
    return None if data is None or len(data) == 0 else data


def content(model: ModelT, tensor: TensorT) -> Bytes:
    """Returns the bytes of a tensor that is known to be a constant.

    Raises:
        ValueError: It is none.
    """
    data = constant(model, tensor)
    if data is None:
        raise ValueError(f"{text(tensor.name)} is no constant")
    return data


def operators(model: ModelT) -> Iterator[tuple[SubGraphT, OperatorT]]:
    """Yields (subgraph, operator) in execution order."""
    for graph in model.subgraphs:
        for operator in graph.operators:
            yield graph, operator


def operator_counts(model: ModelT) -> dict[str, int]:
    """Returns operator name -> how often it stands in all subgraphs, sorted by name."""
    return dict(sorted(Counter(operator_name(model, operator) for _, operator in operators(model)).items()))


def custom_operators(model: ModelT) -> tuple[str, ...]:
    """Returns the operators that the plain runtime does not have, Flex operators among them, sorted."""
    unknown = ("custom::", "builtin ")
    return tuple(sorted(name.removeprefix("custom::") for name in operator_counts(model) if name.startswith(unknown)))


def read_bytes(path: str | Path) -> bytes:
    """Returns the file's content after a look at its header.

    Raises:
        ModelNotFound: There is no such file.
        ModelUnreadable: The identifier at byte 4 is not `TFL3`.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelNotFound(f"{file} is not a file", hint="give the path of a .tflite file")
    content = file.read_bytes()
    if content[4:8] != IDENTIFIER:
        raise ModelUnreadable(
            f"{file} ({len(content)} bytes) is no TFLite file: bytes 4 to 8 are {content[4:8]!r}, not {IDENTIFIER!r}",
            hint="convert the model to TFLite first",
        )
    return content


_UNRUNNABLE = ("custom op", "Custom op", "Op builtin_code", "Didn't find op for builtin opcode")


def verify(content: bytes, path: str | Path) -> None:
    """Has the runtime's own flatbuffer verifier check every offset, before anything follows one.

    Raises:
        ModelUnreadable: The file is truncated or corrupt.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    except (ValueError, RuntimeError) as error:
        if any(words in str(error) for words in _UNRUNNABLE):
            return  # readable, though this runtime has not the operator: opening it for a run says so
        reason = str(error).strip().splitlines()[0]
        raise ModelUnreadable(
            f"{path} is truncated or corrupt: {reason}", hint="copy or export the file again"
        ) from error


def read(path: str | Path) -> ModelT:
    """Reads a file into a tree of schema objects, every buffer inlined.

    Raises:
        ModelNotFound: There is no such file.
        ModelUnreadable: It is not a whole, well-formed TFLite file.
    """
    content = read_bytes(path)
    verify(content, path)
    return parse(content, path)


def parse(content: bytes, path: str | Path = "the model") -> ModelT:
    """Parses verified bytes; see `read`."""
    import numpy as np

    schema = _schema()
    try:
        model: ModelT = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        for buffer in model.buffers or []:
            if buffer.offset > 1:
                if buffer.offset + buffer.size > len(content):
                    raise ValueError(f"a buffer ends at byte {buffer.offset + buffer.size} of {len(content)}")
                buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
        _check_indices(model)
    except _UNREADABLE as error:
        raise ModelUnreadable(f"{path} is corrupt: {error}", hint="copy or export the file again") from error
    return model


def has_outside_buffers(content: bytes) -> bool:
    """Whether weights lie behind the flatbuffer instead of inside it."""
    model = _schema().Model.GetRootAs(content, 0)
    return any(model.Buffers(index).Offset() > 1 for index in range(model.BuffersLength()))


def _check_indices(model: ModelT) -> None:
    if not model.subgraphs or not model.buffers:
        raise ValueError("no subgraph or no buffers")
    for graph in model.subgraphs:
        for name in ("tensors", "operators"):
            setattr(graph, name, getattr(graph, name) or [])
        used = [*numbers(graph.inputs), *numbers(graph.outputs)]
        used += [i for op in graph.operators for i in (*numbers(op.inputs), *numbers(op.outputs))]
        used += [index for tensor in graph.tensors for index in _stored_beside(tensor)]
        _within(used, len(graph.tensors), "tensor", low=-1)
        _within([op.opcodeIndex for op in graph.operators], len(model.operatorCodes or []), "operator code")
        _within([tensor.buffer for tensor in graph.tensors], len(model.buffers), "buffer")
    for signature in model.signatureDefs or []:
        _within([signature.subgraphIndex], len(model.subgraphs), "subgraph")


def _stored_beside(tensor: TensorT) -> list[int]:
    """Tensors that hold scales and zero points of blocks; 0 or less says that there are none."""
    details = None if tensor.quantization is None else tensor.quantization.details
    return [getattr(details, field, 0) for field in ("scales", "zeroPoints") if getattr(details, field, 0)]


def _within(indices: list[int], size: int, what: str, low: int = 0) -> None:
    wrong = [index for index in indices if not low <= index < size]
    if wrong:
        raise ValueError(f"{what} {wrong[0]} of {size} is referred to")


def to_bytes(model: ModelT) -> bytes:
    """Packs one self-contained flatbuffer, every buffer inside it.

    Raises:
        UnsupportedModel: It would be larger than a flatbuffer can be.
    """
    import flatbuffers

    weights = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    if weights >= FLATBUFFER_LIMIT:
        raise UnsupportedModel(
            f"{weights} bytes of weights do not fit into one flatbuffer ({FLATBUFFER_LIMIT} bytes)",
            hint="ask for a smaller precision, such as --precision int8-weights",
        )
    builder = flatbuffers.Builder(weights + 65536)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())
