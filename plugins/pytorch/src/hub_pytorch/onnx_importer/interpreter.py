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
from hub_pytorch.onnx_importer.standard import attributes_of, domain_of, opsets_of, since_version, without_functions
from hub_pytorch.onnx_importer.tracing import GraphBuilder, Value
from hub_pytorch.onnx_importer.values import tensor_of, torch_dtype

Scope = MutableMapping[str, Any]
_TORCH_ERRORS = (RuntimeError, ValueError, TypeError, IndexError)


@dataclass(frozen=True, slots=True)
class _Node:
    """The `registry.NodeContext` of one node."""

    version: int
    outputs: int
    importer: Importer
    scope: Scope

    def run(self, graph: Any, inputs: Sequence[Any]) -> list[Any]:
        """Translate a subgraph that sees this node's scope."""
        scope: Scope = ChainMap({}, self.scope)
        refuse_if(len(inputs) != len(graph.input), f"subgraph {graph.name!r} takes {len(graph.input)} inputs")
        scope.update(zip((i.name for i in graph.input), inputs, strict=True))
        return self.importer.run_graph(graph, scope)


class Importer:
    """Translates one model. Use once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = without_functions(model)
        self._opsets = opsets_of(self._model)
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
        outputs = [self._result(value) for value in self.run_graph(graph, scope)]
        return self._module(outputs, [value.name for value in inputs])

    def run_graph(self, graph: onnx.GraphProto, scope: Scope) -> list[Any]:
        """Translate the nodes of a graph into the scope and return the graph's outputs."""
        for name, tensor in _initializers(graph):
            scope[name] = tensor
            self._builder.name_constant(tensor, name, weight=True)
        for node in graph.node:
            self._run_node(node, scope)
        return [scope[output.name] for output in graph.output]

    def _placeholder(self, value: onnx.ValueInfoProto) -> Value:
        try:
            shape, element_type = _static_type(value)
            return self._builder.placeholder(value.name, shape, torch_dtype(element_type))
        except Refused as refusal:
            raise UnsupportedOperator("Input", 0, value.name, str(refusal)) from refusal

    def _run_node(self, node: onnx.NodeProto, scope: Scope) -> None:
        version = since_version(node, self._opsets)
        self._builder.current = next(iter(node.output), node.op_type)
        try:
            results = self._call(node, version, scope)
        except (Refused, *_TORCH_ERRORS) as error:
            raise _unsupported(node, version, error) from error
        for name, result in zip(node.output, results, strict=False):
            scope[name] = result
            self._remember(name, result)

    def _call(self, node: onnx.NodeProto, version: int, scope: Scope) -> tuple[Any, ...]:
        row = registry.find(domain_of(node.domain), node.op_type, version)
        if isinstance(row, str):
            raise Refused(row)
        inputs = [scope[name] if name else None for name in node.input]
        attributes = attributes_of(node)
        refuse_if(mismatch := row.mismatch([i is not None for i in inputs], attributes), str(mismatch))
        context = (_Node(version, len(node.output), self, scope),) if row.wants_node else ()
        with torch.no_grad():
            result = row.handler(*context, *inputs, **attributes)
        results = result if isinstance(result, tuple) else (result,)
        lacking = [i for i, name in enumerate(node.output) if name and (i >= len(results) or results[i] is None)]
        refuse_if(lacking, f"output {lacking} is not implemented")
        return results

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
