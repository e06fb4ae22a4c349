"""Walking an ONNX graph node by node; what a value is, and how an operator is computed, is the importer's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from hub_onnxgraph.errors import Refused, UnsupportedOperator, refuse_if
from hub_onnxgraph.standard import (
    attributes_of,
    definition,
    domain_of,
    opsets_of,
    since_version,
    with_attributes,
)
from hub_onnxgraph.table import Operator, Table

Scope = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """Where nodes run: the values they see, and the opsets they are written in."""

    scope: Scope
    opsets: dict[str, int]


@dataclass(frozen=True, slots=True)
class Node:
    """The `table.NodeContext` of one node."""

    proto: onnx.NodeProto
    version: int
    walker: Walker
    frame: Frame

    @property
    def name(self) -> str:
        """The node's name, or that of its first output."""
        return str(self.proto.name or next(iter(self.proto.output), self.proto.op_type))

    @property
    def outputs(self) -> int:
        """How many outputs the node declares."""
        return len(self.proto.output)

    def run(self, graph: onnx.GraphProto, inputs: Sequence[Any]) -> list[Any]:
        """Translate a subgraph that sees this node's scope."""
        scope: Scope = ChainMap({}, self.frame.scope)
        refuse_if(len(inputs) != len(graph.input), f"subgraph {graph.name!r} takes {len(graph.input)} inputs")
        scope.update(zip((i.name for i in graph.input), inputs, strict=True))
        return self.walker.run_graph(graph, Frame(scope, self.frame.opsets))

    def scalar(self, value: Any, what: str) -> Any:
        """Return a constant of one element as a Python number."""
        return self.walker.scalar(value, what)

    def constant(self, array: np.ndarray) -> Any:
        """Return a numpy array as a constant of the importer's."""
        return self.walker.tensor_of(onnx.numpy_helper.from_array(array))


class Walker(ABC):
    """Translates nodes in order, through the rows of a table, or through the standard's definition of an operator.

    Attributes:
        table: The importer's rows.
        framework: Its name, for messages.
        framework_errors: What the framework raises when it does not accept a form.
    """

    table: Table
    framework: str
    framework_errors: tuple[type[Exception], ...] = (RuntimeError, ValueError, TypeError, IndexError)

    @abstractmethod
    def tensor_of(self, proto: onnx.TensorProto) -> Any:
        """Return a constant as the importer holds it.

        Raises:
            Refused: Its element type is not implemented.
        """

    @abstractmethod
    def type_of(self, value: Any) -> onnx.TypeProto:
        """Return a value's ONNX type, for definitions that depend on it; an empty one when it is no tensor."""

    @abstractmethod
    def scalar(self, value: Any, what: str) -> Any:
        """Return a constant of one element as a Python number.

        Raises:
            Refused: It is not known at import time, or has not exactly one element.
        """

    def call(self, row: Operator, arguments: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        """Compute one operator."""
        return row(arguments, attributes)

    def begin(self, node: onnx.NodeProto) -> None:  # noqa: B027 - a hook that an importer may leave alone
        """Hear that a node is about to be translated."""

    def initialized(self, name: str, value: Any) -> None:  # noqa: B027 - a hook that an importer may leave alone
        """Hear of an initializer."""

    def produced(self, name: str, value: Any) -> None:  # noqa: B027 - a hook that an importer may leave alone
        """Hear of a node's output."""

    def run_graph(self, graph: onnx.GraphProto, frame: Frame) -> list[Any]:
        """Translate the nodes of a graph into the frame and return the graph's outputs.

        Raises:
            UnsupportedOperator: A node, or a form of it, is not implemented.
        """
        for name, tensor in self._initializers(graph):
            frame.scope[name] = tensor
            self.initialized(name, tensor)
        for node in graph.node:
            self._run_node(node, frame)
        return [frame.scope[output.name] for output in graph.output]

    def _initializers(self, graph: onnx.GraphProto) -> Iterator[tuple[str, Any]]:
        if graph.sparse_initializer:
            raise UnsupportedOperator("Initializer", 0, graph.name, "sparse initializers are not implemented")
        for proto in graph.initializer:
            try:
                yield proto.name, self.tensor_of(proto)
            except Refused as refusal:
                raise UnsupportedOperator("Initializer", 0, proto.name, str(refusal)) from refusal

    def _run_node(self, node: onnx.NodeProto, frame: Frame) -> None:
        version = since_version(node, frame.opsets)
        self.begin(node)
        try:
            results = self._translate(node, version, frame)
        except Refused as error:
            raise self._unsupported(node, version, error) from error
        except self.framework_errors as error:
            raise self._unsupported(node, version, error) from error
        for name, result in zip(node.output, results, strict=False):
            frame.scope[name] = result
            self.produced(name, result)

    def _translate(self, node: onnx.NodeProto, version: int, frame: Frame) -> tuple[Any, ...]:
        row = self.table.find(node.op_type, version, domain_of(node.domain))
        undefined = [name for name in node.input if name and name not in frame.scope]
        refuse_if(undefined, f"inputs {undefined} are not defined")
        inputs = [frame.scope[name] if name else None for name in node.input]
        if isinstance(row, str):
            results = self._run_definition(node, inputs, frame, row)
        else:
            results = self._handled(row, inputs, Node(node, version, self, frame))
        lacking = [i for i, name in enumerate(node.output) if name and (i >= len(results) or results[i] is None)]
        refuse_if(lacking, f"output {lacking} is not implemented")
        return results

    def _handled(self, row: Operator, inputs: list[Any], node: Node) -> tuple[Any, ...]:
        """Call a row's function once the node fits its contract."""
        attributes = attributes_of(node.proto, self.tensor_of)
        refuse_if(mismatch := row.mismatch([value is not None for value in inputs], attributes), str(mismatch))
        result = self.call(row, (*((node,) if row.wants_node else ()), *inputs), attributes)
        return result if isinstance(result, tuple) else (result,)

    def _run_definition(self, node: onnx.NodeProto, inputs: list[Any], frame: Frame, reason: str) -> tuple[Any, ...]:
        """Translate an operator that has no row by the standard's own definition of it, where it has one."""
        body = definition(node, frame.opsets, [self.type_of(value) for value in inputs])
        if body is None:
            raise Refused(reason)
        names = list(body.input)
        values = dict(zip(names, [*inputs, *[None] * (len(names) - len(inputs))], strict=True))
        inner = Frame({"": None, **values}, {**frame.opsets, **opsets_of(body)})
        for step in with_attributes(body, node):
            self._run_node(step, inner)
        return tuple(inner.scope.get(name) for name in body.output)

    def _unsupported(self, node: onnx.NodeProto, version: int, error: Exception) -> UnsupportedOperator:
        if isinstance(error, UnsupportedOperator):
            return error
        reason = str(error) if isinstance(error, Refused) else f"{self.framework} does not accept this form: {error}"
        op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        return UnsupportedOperator(op, version, node.name or next(iter(node.output), ""), reason)
