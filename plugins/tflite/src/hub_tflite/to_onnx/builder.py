"""The ONNX graph as it is written: nodes in order, named values, constants."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from hub_onnxgraph.errors import Refused
from hub_tflite.to_onnx.lazy import ir, np

if TYPE_CHECKING:
    import numpy.typing as npt
    from onnx_ir import DataType, Graph, Node, Shape, SymbolicDim, Value

    Array = npt.NDArray[Any]
    Attribute = int | float | str | Sequence[int] | Sequence[float] | Sequence[str] | Graph | None
    Dims = Shape | Sequence[int | str | SymbolicDim | None] | None

OPSET = 21
IR_VERSION = 10
"""The IR version that came with opset 21 (onnx 1.16)."""

_INDICES = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "NonZero", "NonMaxSuppression"})
_WITH_INDICES = frozenset({"TopK", "Unique"})
_TRUTHS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf", "Not", "And", "Or"})
_SECOND = frozenset({"Where"})
_THIRD = frozenset({"OneHot"})
_SMALL = 64  # elements of constants of which equal ones are written once; hashing weights would cost more than it saves


class SharedValues(NamedTuple):
    """Names in use, with how often each was wanted, and constants: bodies see those of the outermost graph.

    Attributes:
        names: Name -> how often it was wanted.
        constants: Content, or identity, -> stored value.
        moved: (Stored value, move) -> stored value of the moved content.
    """

    names: dict[str, int]
    constants: dict[Hashable, Value]
    moved: dict[Hashable, Value]


class OnnxBuilder:
    """Writes one ONNX graph, or one body of a control-flow node.

    Args:
        outer: The builder of the graph that this one is a body in; names are unique over both, and its values can be
            used here.

    Attributes:
        nodes: Written so far, in order.
        borders: Names of values that are outputs of the model.
        moved: What was written -> its result, for what is wanted twice; see `quantized`.
        shared: What the outermost graph and all bodies in it have in common.
    """

    def __init__(self, outer: OnnxBuilder | None = None) -> None:
        self.nodes: list[Node] = []
        self.borders: set[str] = set()
        self.moved: dict[Hashable, Value] = {}
        self.shared: SharedValues = outer.shared if outer else SharedValues({}, {}, {})

    def name(self, wanted: str) -> str:
        """Return a name that no other value of the model has."""
        names = self.shared.names
        base, number = wanted or "value", names.get(wanted or "value", 0)
        names[base] = number + 1
        return base if not number else self.name(f"{base}_{number}")

    def value(self, name: str, dtype: DataType | None = None, shape: Dims = None) -> Value:
        """Make a value of this name that no node has written yet."""
        return described(ir.Value(name=self.name(name)), dtype, shape)

    def constant(self, array: Array, name: str = "constant") -> Value:
        """Return the value of a stored array; small ones of equal content are stored once."""
        known = self.shared.constants
        key = (array.dtype.name, array.shape, array.tobytes()) if array.size <= _SMALL else None
        if key in known:
            return known[key]
        made = self.value(name, ir.DataType.from_numpy(array.dtype), array.shape)
        made.const_value = ir.Tensor(array, name=made.name)
        known[key or id(made)] = made
        return made

    def stored(self) -> list[Value]:
        """Return every constant of the outermost graph."""
        return list(self.shared.constants.values())

    def emit(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Attribute] = MappingProxyType({}),
        outputs: int = 1,
    ) -> list[Value]:
        """Write a node; attributes that are None are left out."""
        given = {name: value for name, value in attributes.items() if value is not None}
        made = ir.node(op, list(inputs), attributes=given, num_outputs=outputs)
        made.name = self.name(op)
        self.nodes.append(made)
        for place, output in enumerate(made.outputs):
            output.name = self.name(f"{made.name}_out")
            described(output, _result_type(op, made.inputs, given, place), None)
        return list(made.outputs)

    def graph(self, inputs: Sequence[Value], outputs: Sequence[Value], name: str, *, body: bool = False) -> Graph:
        """Close the graph; a body leaves its constants to the outermost graph."""
        return ir.Graph(
            inputs=list(inputs),
            outputs=list(outputs),
            nodes=self.nodes,
            initializers=[] if body else self.stored(),
            name=name,
            opset_imports={"": OPSET},
        )


def described(value: Value, dtype: DataType | None, shape: Dims) -> Value:
    """Set the type and shape that are known."""
    if dtype is not None:
        value.type = ir.TensorType(dtype)
    if shape is not None:
        value.shape = ir.Shape(shape)
    return value


def stored_array(value: Value, what: str) -> Array:
    """Return the content of a value that must be a constant.

    Raises:
        Refused: It is computed.
    """
    array = array_of(value)
    if array is None:
        raise Refused(f"{what} is computed at run time")
    return array


def operand(node: Node, place: int = 0) -> Value:
    """Return an input that the operator cannot be without."""
    value = node.inputs[place]
    if value is None:
        raise Refused(f"{node.op_type} lacks input {place}")
    return value


def _result_type(
    op: str, inputs: Sequence[Value | None], attributes: Mapping[str, Attribute], place: int
) -> DataType | None:
    if op in _INDICES or (op in _WITH_INDICES and place):
        return ir.DataType.INT64
    to = attributes.get("to")
    if isinstance(to, int):
        return ir.DataType(to)
    if op in _TRUTHS:
        return ir.DataType.BOOL
    model = inputs[1 if op in _SECOND else 2 if op in _THIRD else 0] if inputs else None
    return None if model is None else model.dtype


def array_of(value: Value | None) -> Array | None:
    """Return the content of a constant, or None for a value that is computed or absent."""
    return None if value is None or value.const_value is None else np.asarray(value.const_value.numpy())
