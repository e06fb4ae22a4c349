"""One operator under translation: what its function may ask, and where it writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hub.spec import Remark
from hub_onnxgraph.errors import Refused, refuse_if
from hub_tflite.to_onnx import hybrid, quantized
from hub_tflite.to_onnx.builder import OPSET, OnnxBuilder, array_of, described, stored_array
from hub_tflite.to_onnx.folding import folded
from hub_tflite.to_onnx.lazy import ir, np
from hub_tflite.to_onnx.scope import element_type
from hub_tflitefile.schema import numbers, operator_name

if TYPE_CHECKING:
    import numpy.typing as npt
    from onnx_ir import DataType, Value

    from hub_tflite.to_onnx.builder import Array, Attribute
    from hub_tflite.to_onnx.scope import SubgraphScope
    from hub_tflitefile.tables import OperatorT, TensorT


class TfliteNode:
    """One operator under translation: what its function may ask, and where it writes.

    Attributes:
        name: The operator's name in the schema.
        version: Its version in the file.
        operator: The schema's object.
        scope: The subgraph that it is in.
        outputs: How many outputs it declares.
    """

    def __init__(self, scope: SubgraphScope, operator: OperatorT) -> None:
        self.scope = scope
        self.operator = operator
        self.name = operator_name(scope.file.model, operator)
        self.version = int(scope.file.model.operatorCodes[operator.opcodeIndex].version)
        self.outputs = len(numbers(operator.outputs))
        self._hybrid = hybrid.is_hybrid(scope, self.name, operator)

    def emit(self, op: str, *inputs: Value | None, **attributes: Attribute) -> Value:
        """Write an ONNX node with one output; small arithmetic on constants is done at once."""
        given = {name: value for name, value in attributes.items() if value is not None}
        result = folded(op, [self.known(value) for value in inputs], given, OPSET)
        if result is not None:
            return self.scope.builder.constant(np.asarray(result))
        product = hybrid.product(self.scope.builder, op, inputs, given) if self._hybrid else None
        return self.scope.builder.emit(op, inputs, given)[0] if product is None else product

    def emits(self, op: str, *inputs: Value | None, outputs: int, **attributes: Attribute) -> tuple[Value, ...]:
        """Write an ONNX node with several outputs."""
        return tuple(self.scope.builder.emit(op, inputs, attributes, outputs))

    def constant(self, values: npt.ArrayLike, dtype: DataType | npt.DTypeLike | None = None) -> Value:
        """Store an array or numbers: integers as int64 unless another type (ONNX's or numpy's) is given."""
        wanted = dtype.numpy() if isinstance(dtype, ir.DataType) else dtype
        array = np.asarray(values, wanted)
        if wanted is None and array.size == 0:
            array = array.astype(np.int64)
        return self.scope.builder.constant(array)

    def like(self, value: Value, number: npt.ArrayLike) -> Value:
        """Store one number in the type of a value."""
        return self.constant(number, value.dtype)

    def known(self, value: Value | None) -> Array | None:
        """Return the content of a constant, None for a value that is computed."""
        return array_of(value)

    def integers(self, value: Value, what: str) -> list[int]:
        """Return the content of a constant as a list of integers.

        Raises:
            Refused: It is computed at run time.
        """
        return [int(number) for number in stored_array(value, what).reshape(-1)]

    def shape(self, value: Value) -> tuple[int | None, ...]:
        """Return the sizes of a value, None for open ones.

        Raises:
            Refused: Not even its rank is known.
        """
        if value.shape is None:
            raise Refused(f"the rank of {value.name} is not known")
        return tuple(dim if isinstance(dim, int) else None for dim in value.shape)

    def sizes(self, value: Value, axes: Sequence[int] | None = None) -> list[int]:
        """Return the sizes of some axes, or of all.

        Raises:
            Refused: One of them is open.
        """
        shape = self.shape(value)
        found = [shape[axis] for axis in (range(len(shape)) if axes is None else axes)]
        refuse_if(None in found, f"{value.name} has open sizes {shape}")
        return [size for size in found if size is not None]

    def rank(self, value: Value) -> int:
        """Return the number of axes; see `shape`."""
        return len(self.shape(value))

    def result(self, output: int = 0) -> TensorT:
        """Return the file's record of an output tensor."""
        return self.scope.graph.tensors[numbers(self.operator.outputs)[output]]

    def result_type(self, output: int = 0) -> DataType:
        """Return the element type of an output as it is computed: float where its integers stand for reals."""
        tensor = self.result(output)
        return ir.DataType.FLOAT if quantized.is_quantized(tensor) else element_type(tensor)

    def dtype(self, value: Value) -> DataType:
        """Return the element type of a value.

        Raises:
            Refused: It is not known, as that of a variable's handle.
        """
        if value.dtype is None:
            raise Refused(f"the type of {value.name} is not known")
        return value.dtype

    def cast(self, value: Value, dtype: DataType) -> Value:
        """Convert to another element type; constants at once, and nothing where it has that type."""
        if value.dtype == dtype:
            return value
        array = self.known(value)
        if array is not None:
            return self.scope.builder.constant(array.astype(dtype.numpy()), str(value.name))
        return self.emit("Cast", value, to=int(dtype))

    def int64(self, value: Value) -> Value:
        """Convert to int64, the type of every shape and index in ONNX."""
        return self.cast(value, ir.DataType.INT64)

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        """Permute axes; constants at once."""
        array = self.known(value)
        if array is not None:
            return self.scope.builder.constant(array.transpose(perm), str(value.name))
        moved = quantized.transposed(self.scope.builder, value, perm)
        if moved is not None:
            return moved
        made = self.emit("Transpose", value, perm=list(perm))
        return made if value.shape is None else described(made, None, [value.shape[axis] for axis in perm])

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """Reshape to constant sizes (one may be -1); constants at once."""
        array = self.known(value)
        if array is not None:
            return self.scope.builder.constant(array.reshape(shape), str(value.name))
        moved = quantized.reshaped(self.scope.builder, value, shape)
        if moved is not None:
            return moved
        made = self.emit("Reshape", value, self.constant(np.asarray(shape, np.int64)))
        return described(made, None, [size if size > 0 else None for size in shape])

    def inline(self, subgraph: int, inputs: Sequence[Value], builder: OnnxBuilder | None = None) -> list[Value]:
        """Translate another subgraph in this place, or in a body, and return its outputs."""
        return self.scope.file.inline(subgraph, inputs, builder or self.scope.builder)

    @property
    def variables(self) -> dict[str, Value]:
        """Name of a variable -> its value."""
        return self.scope.file.variables

    @property
    def is_initializing(self) -> bool:
        """Whether this runs once, before everything else."""
        return self.scope.file.is_initializing

    @contextmanager
    def initializing(self) -> Iterator[None]:
        """What is translated inside runs once, before everything else."""
        self.scope.file.is_initializing = True
        yield
        self.scope.file.is_initializing = False

    def note(self, remark: Remark) -> None:
        """Tell of something once."""
        if remark not in self.scope.file.notes:
            self.scope.file.notes.append(remark)

    def keep(self, place: int, value: Value) -> None:
        """Let an input that the operator changes in place, its state, be this value from here on."""
        self.scope.bind(numbers(self.operator.inputs)[place], value)

    def body(self, subgraph: int, inputs: Sequence[Value]) -> tuple[OnnxBuilder, list[Value]]:
        """Translate another subgraph into a body of its own, which may use values of this graph.

        Returns:
            Where more can be written, and the subgraph's outputs. `OnnxBuilder.graph(…, body=True)` closes it.
        """
        inner = OnnxBuilder(self.scope.builder)
        return inner, self.scope.file.inline(subgraph, inputs, inner)
