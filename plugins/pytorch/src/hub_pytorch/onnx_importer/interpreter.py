"""Walking an ONNX graph: constants are computed at once, everything else is recorded in a torch.fx graph."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import fx

from hub_pytorch.onnx_importer import registry
from hub_pytorch.onnx_importer.errors import Refused, UnsupportedOperator, refuse_if
from hub_pytorch.onnx_importer.standard import (
    attributes_of,
    definition,
    domain_of,
    opsets_of,
    since_version,
    with_attributes,
    without_functions,
)
from hub_pytorch.onnx_importer.tracing import GraphBuilder, Value
from hub_pytorch.onnx_importer.values import element_type, tensor_of, torch_dtype

Scope = MutableMapping[str, Any]
_TORCH_ERRORS = (RuntimeError, ValueError, TypeError, IndexError)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where nodes run: the values they see, and the opsets they are written in."""

    scope: Scope
    opsets: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Node:
    """The `registry.NodeContext` of one node."""

    version: int
    outputs: int
    importer: Importer
    frame: _Frame

    def run(self, graph: Any, inputs: Sequence[Any]) -> list[Any]:
        """Translate a subgraph that sees this node's scope."""
        scope: Scope = ChainMap({}, self.frame.scope)
        refuse_if(len(inputs) != len(graph.input), f"subgraph {graph.name!r} takes {len(graph.input)} inputs")
        scope.update(zip((i.name for i in graph.input), inputs, strict=True))
        return self.importer.run_graph(graph, _Frame(scope, self.frame.opsets))


class Importer:
    """Translates one model. Use once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = without_functions(model)
        self._builder = GraphBuilder()

    def run(self) -> Any:
        """Return the torch.fx.GraphModule.

        Raises:
            UnsupportedOperator: a node, or a form of it, is not implemented.
        """
        graph = self._model.graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        scope: Scope = {value.name: self._placeholder(value) for value in inputs}
        outputs = [self._result(value) for value in self.run_graph(graph, _Frame(scope, opsets_of(self._model)))]
        return self._module(outputs, [value.name for value in inputs])

    def run_graph(self, graph: onnx.GraphProto, frame: _Frame) -> list[Any]:
        """Translate the nodes of a graph into the frame and return the graph's outputs."""
        for name, tensor in _initializers(graph):
            frame.scope[name] = tensor
            self._builder.name_constant(tensor, name, weight=True)
        for node in graph.node:
            self._run_node(node, frame)
        return [frame.scope[output.name] for output in graph.output]

    def _placeholder(self, value: onnx.ValueInfoProto) -> Value:
        try:
            shape, kind = _static_type(value)
            return self._builder.placeholder(value.name, shape, torch_dtype(kind))
        except Refused as refusal:
            raise UnsupportedOperator("Input", 0, value.name, str(refusal)) from refusal

    def _run_node(self, node: onnx.NodeProto, frame: _Frame) -> None:
        version = since_version(node, frame.opsets)
        self._builder.current = next(iter(node.output), node.op_type)
        try:
            results = self._call(node, version, frame)
        except (Refused, *_TORCH_ERRORS) as error:
            raise _unsupported(node, version, error) from error
        for name, result in zip(node.output, results, strict=False):
            frame.scope[name] = result
            self._remember(name, result)

    def _call(self, node: onnx.NodeProto, version: int, frame: _Frame) -> tuple[Any, ...]:
        row = registry.find(domain_of(node.domain), node.op_type, version)
        undefined = [name for name in node.input if name and name not in frame.scope]
        refuse_if(undefined, f"inputs {undefined} are not defined")
        inputs = [frame.scope[name] if name else None for name in node.input]
        if isinstance(row, str):
            results = self._run_definition(node, inputs, frame, row)
        else:
            results = _handled(row, node, inputs, _Node(version, len(node.output), self, frame))
        lacking = [i for i, name in enumerate(node.output) if name and (i >= len(results) or results[i] is None)]
        refuse_if(lacking, f"output {lacking} is not implemented")
        return results

    def _run_definition(self, node: onnx.NodeProto, inputs: list[Any], frame: _Frame, reason: str) -> tuple[Any, ...]:
        """Translate an operator that has no row by the standard's own definition of it, where it has one."""
        body = definition(node, frame.opsets, [_type_of(value) for value in inputs])
        if body is None:
            raise Refused(reason)
        names = list(body.input)
        values = dict(zip(names, [*inputs, *[None] * (len(names) - len(inputs))], strict=True))
        inner = _Frame({"": None, **values}, {**frame.opsets, **opsets_of(body)})
        for step in with_attributes(body, node):
            self._run_node(step, inner)
        return tuple(inner.scope.get(name) for name in body.output)

    def _remember(self, name: str, result: Any) -> None:
        if isinstance(result, Value):
            result.node.meta.setdefault("onnx", name)
        elif isinstance(result, torch.Tensor):
            self._builder.name_constant(result, name)

    def _result(self, value: Any) -> Any:
        """An output of its own: inputs and constants are copied."""
        refuse = not isinstance(value, torch.Tensor | Value)
        if refuse:
            raise UnsupportedOperator("Output", 0, "", "only tensors can be outputs of the model")
        if isinstance(value, torch.Tensor):
            return torch.clone(self._builder.constant(value))
        return torch.clone(value) if value.node.op in {"placeholder", "get_attr"} else value

    def _module(self, outputs: list[Value], input_names: list[str]) -> Any:
        graph = self._builder.graph
        nodes = [value.node for value in outputs]
        graph.output(nodes[0] if len(nodes) == 1 else tuple(nodes))
        graph.eliminate_dead_code()
        for node in graph.nodes:
            node.meta.pop("val", None)
        module = fx.GraphModule(self._builder.root, graph, "OnnxModel")
        module.meta["onnx_inputs"] = input_names
        module.meta["onnx_outputs"] = [output.name for output in self._model.graph.output]
        return module.eval()


def _handled(row: registry.Operator, node: onnx.NodeProto, inputs: list[Any], context: _Node) -> tuple[Any, ...]:
    """Call a row's function once the node fits its contract."""
    attributes = attributes_of(node)
    refuse_if(mismatch := row.mismatch([value is not None for value in inputs], attributes), str(mismatch))
    with torch.no_grad():
        result = row.handler(*((context,) if row.wants_node else ()), *inputs, **attributes)
    return result if isinstance(result, tuple) else (result,)


def _type_of(value: Any) -> onnx.TypeProto:
    """The ONNX type of a value, for definitions that depend on it; empty when it is no tensor."""
    if not isinstance(value, torch.Tensor | Value):
        return onnx.TypeProto()
    return onnx.helper.make_tensor_type_proto(element_type(value.dtype), list(value.shape))


def _initializers(graph: onnx.GraphProto) -> Iterator[tuple[str, Any]]:
    if graph.sparse_initializer:
        raise UnsupportedOperator("Initializer", 0, graph.name, "sparse initializers are not implemented")
    for proto in graph.initializer:
        try:
            yield proto.name, tensor_of(proto)
        except Refused as refusal:
            raise UnsupportedOperator("Initializer", 0, proto.name, str(refusal)) from refusal


def _static_type(value: onnx.ValueInfoProto) -> tuple[tuple[int, ...], int]:
    tensor = value.type.tensor_type
    refuse_if(not value.type.HasField("tensor_type"), "only tensors can be inputs of the model")
    refuse_if(not tensor.HasField("shape"), "the shape is unknown; fix it first")
    unknown = [i for i, dim in enumerate(tensor.shape.dim) if not dim.HasField("dim_value")]
    refuse_if(unknown, f"dimensions {unknown} are dynamic; fix them first")
    return tuple(dim.dim_value for dim in tensor.shape.dim), tensor.elem_type


def _unsupported(node: onnx.NodeProto, version: int, error: Exception) -> UnsupportedOperator:
    if isinstance(error, UnsupportedOperator):
        return error
    reason = str(error) if isinstance(error, Refused) else f"torch does not accept this form: {error}"
    op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return UnsupportedOperator(op, version, node.name or next(iter(node.output), ""), reason)
