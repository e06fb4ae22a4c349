"""Walks a TFLite graph in execution order and has each operator's function write it in ONNX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hub.spec import StepError, UnsupportedModel
from hub_tflite.describe import border, signature_of
from hub_tflite.schema import constant, numbers, operator_name, text, type_name
from hub_tflite.to_onnx import hybrid, quantized
from hub_tflite.to_onnx.activation import fused
from hub_tflite.to_onnx.builder import IR_VERSION, OPSET, Builder, array_of, described
from hub_tflite.to_onnx.errors import Refused, UnsupportedOperator, refuse_if
from hub_tflite.to_onnx.folding import folded
from hub_tflite.to_onnx.lazy import ir, np
from hub_tflite.to_onnx.sparse import densified
from hub_tflite.to_onnx.table import FUSED, Row, table

if TYPE_CHECKING:
    from onnx_ir import DataType, Model, Value

    from hub.spec import TensorSpec

_ELEMENTS = {
    "FLOAT64": "DOUBLE", "FLOAT32": "FLOAT", "FLOAT16": "FLOAT16", "BFLOAT16": "BFLOAT16", "INT64": "INT64",
    "INT32": "INT32", "INT16": "INT16", "INT8": "INT8", "UINT64": "UINT64", "UINT32": "UINT32", "UINT16": "UINT16",
    "UINT8": "UINT8", "BOOL": "BOOL", "COMPLEX64": "FLOAT",
}  # fmt: skip
_COMPLEX = "COMPLEX64"
_OF_INTEGERS = frozenset({"CAST", "BITCAST"})
"""Operators that take a quantized tensor's integers as they are."""
_OF_COMPLEX = frozenset({"REAL", "IMAG", "COMPLEX_ABS"})


def element_type(tensor: Any) -> DataType:
    """Return ONNX's element type of a TFLite tensor; a complex one is two floats, see `ops.signal`.

    Raises:
        Refused: ONNX has no such type, or only inside quantization.
    """
    name = type_name(tensor)
    refuse_if(name not in _ELEMENTS, f"{text(tensor.name)} is of type {name}")
    found: DataType = ir.DataType[_ELEMENTS[name]]
    return found


def dims_of(tensor: Any) -> tuple[int | None, ...]:
    """Return the sizes of a tensor, None where the file leaves one open."""
    sizes = numbers(tensor.shapeSignature) or numbers(tensor.shape)
    return tuple(size if size >= 0 else None for size in sizes)


@dataclass(slots=True)
class Scope:
    """One subgraph under translation.

    Attributes:
        model: The whole file.
        graph: The subgraph.
        builder: Where its nodes are written.
        values: Tensor index -> value, for every tensor made so far.
        ranked: Whether the file says of each tensor if its rank is known.
        bound: Ids of values that have a tensor's name already.
    """

    model: Any
    graph: Any
    builder: Builder
    ranked: bool
    values: dict[int, Value] = field(default_factory=dict)
    bound: set[int] = field(default_factory=set)

    def bind(self, index: int, value: Value) -> None:
        """Take a value as a tensor, as it is."""
        self.values[index] = value
        self.bound.add(id(value))

    def read(self, index: int) -> Value:
        """Return the value of a tensor; constants are stored at their first use."""
        if index in self.values:
            return self.values[index]
        tensor = self.graph.tensors[index]
        if tensor.isVariable:
            self.bind(index, quantized.zeros(self.builder, tensor))
            return self.values[index]
        data = constant(self.model, tensor)
        refuse_if(data is None, f"{text(tensor.name)} is used before it is made")
        shape, kind = numbers(tensor.shape), type_name(tensor)
        packed = kind in quantized.PACKED
        refuse_if(packed and tensor.sparsity, f"{text(tensor.name)} is sparse and packed")
        array = (
            quantized.unpacked(data, kind, math.prod(shape)) if packed
            else np.frombuffer(data, element_type(tensor).numpy())
        )  # fmt: skip
        array = densified(array, tensor.sparsity, shape) if tensor.sparsity else array.reshape(shape)
        self.bind(index, self._stored(tensor, array))
        return self.values[index]

    def _stored(self, tensor: Any, array: Any) -> Value:
        if quantized.is_quantized(tensor):
            return quantized.stored(self.builder, self.model, self.graph, tensor, array)
        refuse_if(type_name(tensor) in quantized.PACKED, f"{text(tensor.name)} is {type_name(tensor)} without a scale")
        return self.builder.constant(array, text(tensor.name))

    def write(self, index: int, value: Value) -> None:
        """Take a result as a tensor: it gets the tensor's name, type and shape unless it has another's."""
        tensor = self.graph.tensors[index]
        if quantized.is_quantized(tensor):
            self.bind(index, quantized.requantized(self.builder, tensor, value, dims_of(tensor)))
            return
        if id(value) not in self.bound and array_of(value) is None:
            value.name = self.builder.name(text(tensor.name))
            known_rank = tensor.hasRank or not self.ranked or bool(numbers(tensor.shape))
            dims = (*dims_of(tensor), *([2] if type_name(tensor) == _COMPLEX else []))
            described(value, element_type(tensor), dims if known_rank else None)
        self.bind(index, value)


class Node:
    """One operator under translation: what its function may ask, and where it writes.

    Attributes:
        name: The operator's name in the schema.
        version: Its version in the file.
        operator: The schema's object.
        scope: The subgraph that it is in.
        outputs: How many outputs it declares.
    """

    def __init__(self, importer: Importer, scope: Scope, operator: Any) -> None:
        self._importer = importer
        self.scope = scope
        self.operator = operator
        self.name = operator_name(importer.model, operator)
        self.version = int(importer.model.operatorCodes[operator.opcodeIndex].version)
        self.outputs = len(numbers(operator.outputs))
        self._hybrid = hybrid.is_hybrid(scope, self.name, operator)

    def emit(self, op: str, *inputs: Value | None, **attributes: Any) -> Value:
        """Write an ONNX node with one output; small arithmetic on constants is done at once."""
        given = {name: value for name, value in attributes.items() if value is not None}
        result = folded(op, [self.known(value) for value in inputs], given, OPSET)
        if result is not None:
            return self.scope.builder.constant(np.asarray(result))
        product = hybrid.product(self.scope.builder, op, inputs, given) if self._hybrid else None
        return self.scope.builder.emit(op, inputs, **given)[0] if product is None else product

    def emits(self, op: str, *inputs: Value | None, outputs: int, **attributes: Any) -> tuple[Value, ...]:
        """Write an ONNX node with several outputs."""
        return tuple(self.scope.builder.emit(op, inputs, outputs, **attributes))

    def constant(self, values: Any, dtype: Any = None) -> Value:
        """Store an array or numbers: integers as int64 unless another type (ONNX's or numpy's) is given."""
        wanted = dtype.numpy() if isinstance(dtype, ir.DataType) else dtype
        array = np.asarray(values, wanted)
        if wanted is None and array.size == 0:
            array = array.astype(np.int64)
        return self.scope.builder.constant(array)

    def like(self, value: Value, number: float) -> Value:
        """Store one number in the type of a value."""
        return self.constant(number, value.dtype)

    def known(self, value: Value | None) -> Any:
        """Return the content of a constant, None for a value that is computed."""
        return None if value is None else array_of(value)

    def integers(self, value: Value, what: str) -> list[int]:
        """Return the content of a constant as a list of integers.

        Raises:
            Refused: It is computed at run time.
        """
        array = self.known(value)
        refuse_if(array is None, f"{what} is computed at run time")
        return [int(number) for number in array.reshape(-1)]

    def shape(self, value: Value) -> tuple[int | None, ...]:
        """Return the sizes of a value, None for open ones.

        Raises:
            Refused: Not even its rank is known.
        """
        refuse_if(value.shape is None, f"the rank of {value.name} is not known")
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

    def result(self, output: int = 0) -> Any:
        """Return the file's record of an output tensor."""
        return self.scope.graph.tensors[numbers(self.operator.outputs)[output]]

    def result_type(self, output: int = 0) -> DataType:
        """Return the element type of an output as it is computed: float where its integers stand for reals."""
        tensor = self.result(output)
        real: DataType = ir.DataType.FLOAT
        return real if quantized.is_quantized(tensor) else element_type(tensor)

    def cast(self, value: Value, dtype: Any) -> Value:
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

    def inline(self, subgraph: int, inputs: Sequence[Value], builder: Builder | None = None) -> list[Value]:
        """Translate another subgraph in this place, or in a body, and return its outputs."""
        return self._importer.inline(subgraph, inputs, builder or self.scope.builder)

    @property
    def variables(self) -> dict[str, Value]:
        """Name of a variable -> its value."""
        return self._importer.variables

    @property
    def is_initializing(self) -> bool:
        """Whether this runs once, before everything else."""
        return self._importer.is_initializing

    @contextmanager
    def initializing(self) -> Iterator[None]:
        """What is translated inside runs once, before everything else."""
        self._importer.is_initializing = True
        yield
        self._importer.is_initializing = False

    def note(self, line: str) -> None:
        """Tell of something once."""
        if line not in self._importer.notes:
            self._importer.notes.append(line)

    def keep(self, place: int, value: Value) -> None:
        """Let an input that the operator changes in place, its state, be this value from here on."""
        self.scope.bind(numbers(self.operator.inputs)[place], value)

    def body(self, subgraph: int, inputs: Sequence[Value]) -> tuple[Builder, list[Value]]:
        """Translate another subgraph into a body of its own, which may use values of this graph.

        Returns:
            Where more can be written, and the subgraph's outputs. `Builder.graph(…, body=True)` closes it.
        """
        inner = Builder(self.scope.builder)
        return inner, self._importer.inline(subgraph, inputs, inner)


class Importer:
    """Translates one file.

    Args:
        model: The schema's object, buffers inlined (`schema.read`).

    Attributes:
        notes: What is worth telling of the translation.
        renamed: Output in the file -> its name in the result, where an input has the same name.
        variables: Name of a variable -> its value.
        is_initializing: Whether the first values of variables are read.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.notes: list[str] = []
        self.renamed: dict[str, str] = {}
        self.variables: dict[str, Value] = {}
        self.is_initializing = False
        self._ranked = any(tensor.hasRank for graph in model.subgraphs for tensor in graph.tensors)

    def run(self) -> Model:
        """Translate the main subgraph: that of the first signature, or the first.

        Raises:
            UnsupportedOperator: An operator, or a form of it, has no translation.
            UnsupportedModel: The border cannot be kept.
        """
        graph, inputs, outputs = border(self.model)
        signature = signature_of(self.model)
        builder = Builder()
        try:
            values = [
                _border_value(builder, spec, graph.tensors[i])
                for spec, (_, i) in zip(signature.inputs, inputs, strict=True)
            ]
            names = [builder.name(spec.name) for spec in signature.outputs]
            wanted = [spec.name for spec in signature.outputs]
            self.renamed = {old: new for old, new in zip(wanted, names, strict=True) if old != new}
            self._note_signatures()
            entries = {
                i: quantized.border_value(builder, graph.tensors[i], value)
                for (_, i), value in zip(inputs, values, strict=True)
            }
            scope = self._subgraph(graph, entries, builder)
            results = [_named(scope, i, name) for name, (_, i) in zip(names, outputs, strict=True)]
            for result, spec, (_, i) in zip(results, signature.outputs, outputs, strict=True):
                described(
                    result, element_type(graph.tensors[i]), [str(d) if d.size is None else d.size for d in spec.shape]
                )
        except Refused as refusal:
            raise UnsupportedModel(f"no ONNX form: {refusal}") from refusal
        made: Model = ir.Model(builder.graph(values, results, "main"), ir_version=IR_VERSION, producer_name="hub")
        quantized.lower_opset(made)
        return made

    def inline(self, subgraph: int, inputs: Sequence[Value], builder: Builder) -> list[Value]:
        """Translate a subgraph into `builder` on given inputs and return its outputs."""
        graph = self.model.subgraphs[subgraph]
        scope = self._subgraph(graph, dict(zip(numbers(graph.inputs), inputs, strict=True)), builder)
        return [scope.read(index) for index in numbers(graph.outputs)]

    def _note_signatures(self) -> None:
        keys = [text(signature.signatureKey) for signature in self.model.signatureDefs or []]
        if len(keys) > 1:
            self.notes.append(f"the signature {keys[0]} was converted, {', '.join(keys[1:])} left out")

    def _subgraph(self, graph: Any, inputs: dict[int, Value], builder: Builder) -> Scope:
        left = [index for index in numbers(graph.inputs) if index not in inputs]
        refuse_if(left, f"inputs {[text(graph.tensors[index].name) for index in left]} are not in the signature")
        scope = Scope(self.model, graph, builder, self._ranked)
        for index, value in inputs.items():
            scope.bind(index, value)
        for operator in graph.operators:
            self._translate(scope, operator)
        return scope

    def _translate(self, scope: Scope, operator: Any) -> None:
        node = Node(self, scope, operator)
        try:
            results = _run(table().get(node.name), node)
            for index, result in zip(numbers(operator.outputs), results, strict=True):
                scope.write(index, result)
        except Refused as refusal:
            raise UnsupportedOperator(node.name, node.version, _place(node), str(refusal)) from refusal


def _place(node: Node) -> str:
    return text(node.result().name) if node.outputs else ""


def _run(row: Row | None, node: Node) -> tuple[Value, ...]:
    """Call a row's function once the operator fits its contract."""
    if row is None:
        raise Refused("the operator is not implemented")
    indices = numbers(node.operator.inputs)
    given = options_of(node.operator)
    complex_inputs = [i for i in indices if i >= 0 and type_name(node.scope.graph.tensors[i]) == _COMPLEX]
    refuse_if(complex_inputs and node.name not in _OF_COMPLEX, "complex operands")
    refuse_if(
        mismatch := row.mismatch(node.version, [i >= 0 for i in indices], None if given is None else _telling(given)),
        str(mismatch),
    )
    tensors = node.scope.graph.tensors
    if node.outputs:
        quantized.refuse_other_grids(node.name, [tensors[index] for index in indices], node.result())
    inputs = [node.scope.read(index) if index >= 0 else None for index in indices]
    if node.name in _OF_INTEGERS:
        inputs = [value if value is None else quantized.integers_of(value) for value in inputs]
    options, _ = given or ({}, {})
    result = row.handler(node, *inputs, **{name: value for name, value in options.items() if name in row.options})
    results = result if isinstance(result, tuple) else (result,)
    refuse_if(len(results) != node.outputs, f"{node.outputs} outputs, {len(results)} are implemented")
    if options.get(FUSED) and FUSED not in row.options:
        results = (fused(node, results[0], options[FUSED]), *results[1:])
    return results


def _telling(given: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """The options that differ from the schema's defaults."""
    options, defaults = given
    return {name: value for name, value in options.items() if value != defaults[name]}


def options_of(operator: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the options by the schema's names with their defaults, or None for an operator without."""
    options = operator.builtinOptions if operator.builtinOptions is not None else operator.builtinOptions2
    return None if options is None else (_fields(options), _fields(type(options)()))


def _fields(options: Any) -> dict[str, Any]:
    return {_snake(name): _plain(value) for name, value in vars(options).items()}


def _snake(name: str) -> str:
    return re.sub(r"(?<=.)([A-Z])", r"_\1", name).lower()


def _plain(value: Any) -> Any:
    """Vectors become lists; an absent one is the same as an empty one."""
    return [] if value is None else value.tolist() if hasattr(value, "tolist") else value


def _border_value(builder: Builder, spec: TensorSpec, tensor: Any) -> Value:
    refuse_if(type_name(tensor) == _COMPLEX, f"{spec.name} is complex")
    made = builder.value(spec.name, element_type(tensor), [str(d) if d.size is None else d.size for d in spec.shape])
    if made.name != spec.name:
        raise StepError(f"two inputs or outputs are named {spec.name}")
    return made


def _named(scope: Scope, index: int, name: str) -> Value:
    """Return the value of an output under its name in the signature; inputs and constants are copied."""
    value = scope.read(index)
    refuse_if(type_name(scope.graph.tensors[index]) == _COMPLEX, f"{name} is complex")
    if quantized.is_quantized(scope.graph.tensors[index]):
        value = quantized.integers_of(value)
    if value.producer() is None or value.name in scope.builder.borders:
        value = scope.builder.emit("Identity", [value])[0]
    value.name = name
    scope.builder.borders.add(name)
    return value
