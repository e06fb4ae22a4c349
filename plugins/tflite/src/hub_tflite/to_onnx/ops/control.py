"""Loops, branches, calls, and variables that hold a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hub_onnxgraph.errors import Refused, refuse_if
from hub_tflite.to_onnx.builder import OnnxBuilder, array_of, described
from hub_tflite.to_onnx.lazy import ir, np
from hub_tflite.to_onnx.registry import op
from hub_tflitefile.schema import numbers, text

if TYPE_CHECKING:
    from onnx_ir import Graph, Value

    from hub_tflite.to_onnx.node import TfliteNode


@op("WHILE")
def while_(node: TfliteNode, *state: Value, cond_subgraph_index: int, body_subgraph_index: int) -> tuple[Value, ...]:
    """A Loop whose condition is computed before the first step and behind each."""
    refuse_if(any(value.dtype is None for value in state), "variables, or values of unknown type, in a loop's state")
    (first,) = node.inline(cond_subgraph_index, state)
    inner = OnnxBuilder(node.scope.builder)
    step = inner.value("step", ir.DataType.INT64, ())
    go_on = inner.value("go_on", ir.DataType.BOOL, ())
    carried = [_carried(node, inner, body_subgraph_index, place, value) for place, value in enumerate(state)]
    results = node.inline(body_subgraph_index, carried, inner)
    (again,) = node.inline(cond_subgraph_index, results, inner)
    outputs = _own(inner, [_truth(inner, again), *results])
    graph = inner.graph([step, go_on, *carried], outputs, "body", body=True)
    made = node.emits("Loop", None, _truth(node.scope.builder, first), *state, outputs=len(state), body=graph)
    return tuple(described(result, value.dtype, None) for result, value in zip(made, state, strict=True))


def _carried(node: TfliteNode, inner: OnnxBuilder, subgraph: int, place: int, value: Value) -> Value:
    """Make a body's input: of the type that is computed with, and of the shape that the body's own tensor has."""
    graph = node.scope.file.model.subgraphs[subgraph]
    tensor = graph.tensors[numbers(graph.inputs)[place]]
    sizes = numbers(tensor.shapeSignature) or numbers(tensor.shape)
    known = bool(sizes) or tensor.hasRank
    shape = [size if size >= 0 else None for size in sizes]
    return inner.value(text(tensor.name), value.dtype, shape if known else None)


def _truth(builder: OnnxBuilder, value: Value) -> Value:
    """A condition as a scalar: TFLite takes any tensor of one element."""
    if value.shape is not None and len(value.shape) == 0:
        return value
    shape = builder.constant(np.zeros(0, np.int64))
    return described(builder.emit("Reshape", [value, shape])[0], ir.DataType.BOOL, ())


def _own(builder: OnnxBuilder, values: Sequence[Value]) -> list[Value]:
    """Return values that a body's own nodes make, each another one."""
    made: list[Value] = []
    nodes = {id(node) for node in builder.nodes}
    for value in values:
        own = id(value.producer()) in nodes and not any(value is other for other in made)
        made.append(value if own else described(builder.emit("Identity", [value])[0], value.dtype, value.shape))
    return made


@op("IF")
def if_(
    node: TfliteNode, condition: Value, *inputs: Value, then_subgraph_index: int, else_subgraph_index: int
) -> tuple[Value, ...]:
    """One of two branches, which use the values outside as they are."""
    branches = [_branch(node, index, inputs) for index in (then_subgraph_index, else_subgraph_index)]
    truth = _truth(node.scope.builder, condition)
    made = node.emits("If", truth, outputs=node.outputs, then_branch=branches[0], else_branch=branches[1])
    types = [value.dtype for value in branches[0].outputs]
    return tuple(described(result, dtype, None) for result, dtype in zip(made, types, strict=True))


def _branch(node: TfliteNode, subgraph: int, inputs: Sequence[Value]) -> Graph:
    inner, results = node.body(subgraph, inputs)
    return inner.graph([], _own(inner, results), "branch", body=True)


@op("CALL")
def call(node: TfliteNode, *inputs: Value, subgraph: int) -> tuple[Value, ...]:
    """Another subgraph, written in this place."""
    return tuple(node.inline(subgraph, inputs))


@op("CALL_ONCE")
def call_once(node: TfliteNode, *, init_subgraph_index: int = 0) -> tuple[Value, ...]:
    """A subgraph that gives variables their first values."""
    with node.initializing():
        node.inline(init_subgraph_index, [])
    return ()


@op("VAR_HANDLE")
def var_handle(
    node: TfliteNode, *, container: str | bytes | None = None, shared_name: str | bytes | None = None
) -> Value:
    """The name of a variable: a value that no ONNX node may use."""
    handle: Value = ir.Value(name=f"variable {text(container or '')}/{text(shared_name or '')}")
    node.scope.bind(numbers(node.operator.outputs)[0], handle)
    return handle


@op("ASSIGN_VARIABLE")
def assign_variable(node: TfliteNode, handle: Value, value: Value) -> tuple[Value, ...]:
    """A variable's first value; later ones are state between runs, which an ONNX graph does not have."""
    refuse_if(not node.is_initializing, f"{handle.name} is written at run time: state between runs")
    refuse_if(array_of(value) is None, f"the first value of {handle.name} is computed")
    node.variables[str(handle.name)] = value
    return ()


@op("READ_VARIABLE")
def read_variable(node: TfliteNode, handle: Value) -> Value:
    """The value that a variable was given at the start."""
    found = node.variables.get(str(handle.name))
    if found is None:
        raise Refused(f"{handle.name} is read before it has a value")
    return found
