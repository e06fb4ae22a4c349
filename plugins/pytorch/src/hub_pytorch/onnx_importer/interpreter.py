"""ONNX to torch.fx: constants are computed at once, everything else is recorded in a graph."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from torch import fx

from hub_onnxgraph import Operator, Refused, UnsupportedOperator, refuse_if
from hub_onnxgraph.standard import opsets_of, without_functions
from hub_onnxgraph.walker import Frame, Scope, Walker
from hub_pytorch.onnx_importer import narrow, symbolic
from hub_pytorch.onnx_importer.checking import guards_that_matter
from hub_pytorch.onnx_importer.dimensions import undecided
from hub_pytorch.onnx_importer.registry import TABLE
from hub_pytorch.onnx_importer.sizes import is_symbolic
from hub_pytorch.onnx_importer.tracing import FunctionWatch, GraphBuilder, TracedValue, copied
from hub_pytorch.onnx_importer.values import element_type, held_dtype, scalar, tensor_of


class TorchImporter(Walker):
    """Translates one model. Use once."""

    table = TABLE
    framework = "torch"
    framework_errors = (*Walker.framework_errors, AssertionError)

    def __init__(self, model: onnx.ModelProto, folder: str = "") -> None:
        self._folder = folder
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
        outputs = [self._result(value) for value in self.run_graph(graph, Frame(scope, opsets_of(self._model)))]
        return self._module(outputs, [value.name for value in inputs])

    def tensor_of(self, proto: onnx.TensorProto) -> Any:
        """A torch tensor."""
        return tensor_of(proto, self._folder)

    def scalar(self, value: Any, what: str) -> Any:
        """A Python number, the same at all dynamic sizes."""
        number = scalar(value, what)
        refuse_if(is_symbolic(number), f"{what} must be known at import time, and is computed from dynamic sizes")
        return number

    def type_of(self, value: Any) -> onnx.TypeProto:
        """Element type and shape."""
        if not isinstance(value, torch.Tensor | TracedValue):
            return onnx.TypeProto()
        sizes = [None if is_symbolic(size) else size for size in value.shape]
        return onnx.helper.make_tensor_type_proto(element_type(value), sizes)

    def call(self, row: Operator, arguments: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        """Compute without a gradient."""
        kind = narrow.check(row.name, arguments[row.wants_node :])
        with torch.no_grad(), undecided(), FunctionWatch():
            folded = symbolic.fold(self._builder, row.name, arguments, attributes)
            result = row(arguments, attributes) if folded is None else folded
        self._builder.dimensions.refuse_fixed()
        if kind is not None:
            for value in result if isinstance(result, tuple) else (result,):
                narrow.marked(value, kind)
        return result

    def begin(self, node: onnx.NodeProto) -> None:
        """Name what the node makes after its first output."""
        self._builder.current = next(iter(node.output), node.op_type)

    def initialized(self, name: str, value: Any) -> None:
        """A weight."""
        self._builder.name_constant(value, name, weight=True)

    def produced(self, name: str, value: Any) -> None:
        """Remember the ONNX name."""
        if isinstance(value, TracedValue):
            value.node.meta.setdefault("onnx", name)
        elif isinstance(value, torch.Tensor):
            self._builder.name_constant(value, name)

    def _unsupported(self, node: onnx.NodeProto, version: int, error: Exception) -> UnsupportedOperator:
        """Say of a form that torch does not accept that it may be one size among the dynamic ones that does not fit."""
        refusal = super()._unsupported(node, version, error)
        if error is refusal or not isinstance(error, self.framework_errors):
            return refusal
        reason = refusal.reason + self._builder.dimensions.fix_all()
        return UnsupportedOperator(refusal.op, version, refusal.node, reason)

    def _placeholder(self, value: onnx.ValueInfoProto) -> TracedValue:
        try:
            refuse_if(not value.type.HasField("tensor_type"), "only tensors can be inputs of the model")
            tensor = value.type.tensor_type
            refuse_if(not tensor.HasField("shape"), "the rank is unknown; fix the shape")
            shape = [self._size(dim, value.name, axis) for axis, dim in enumerate(tensor.shape.dim)]
            self._builder.dimensions.inputs.setdefault(value.name, {})
            placeholder = self._builder.placeholder(value.name, shape, held_dtype(tensor.elem_type))
            return narrow.marked(placeholder, tensor.elem_type) if tensor.elem_type in narrow.CARRIERS else placeholder
        except Refused as refusal:
            raise UnsupportedOperator("Input", 0, value.name, str(refusal)) from refusal

    def _size(self, dim: onnx.TensorShapeProto.Dimension, owner: str, axis: int) -> Any:
        if dim.dim_value > 0 or (
            dim.HasField("dim_value") and not dim.dim_value
        ):  # -1 stands for "unknown" in some files
            return dim.dim_value
        return self._builder.dimensions.symbol(dim.dim_param, owner, axis)

    def _result(self, value: Any) -> Any:
        """An output of its own: inputs and constants are copied."""
        refuse = not isinstance(value, torch.Tensor | TracedValue)
        if refuse:
            raise UnsupportedOperator("Output", 0, "", "only tensors can be outputs of the model")
        if isinstance(value, torch.Tensor):
            return copied(self._builder.constant(value))
        return copied(value) if value.node.op in {"placeholder", "get_attr"} else value

    def _module(self, outputs: list[TracedValue], input_names: list[str]) -> Any:
        graph = self._builder.graph
        nodes = [value.node for value in outputs]
        end = graph.output(nodes[0] if len(nodes) == 1 else tuple(nodes))
        graph.eliminate_dead_code()
        guards = []
        if self._builder.dimensions.guards:
            draft = fx.GraphModule(self._builder.root, graph, "OnnxModel")
            guards = guards_that_matter(draft, self._builder.dimensions)
        with graph.inserting_before(next(node for node in graph.nodes if node.op != "placeholder")):
            self._builder.assert_dimensions()
        with graph.inserting_before(end):
            self._builder.assert_guards(guards)
        for node in graph.nodes:
            node.meta.pop("val", None)
        module = fx.GraphModule(self._builder.root, graph, "OnnxModel")
        module.meta["onnx_inputs"] = input_names
        module.meta["onnx_outputs"] = [output.name for output in self._model.graph.output]
        module.meta["onnx_dynamic"] = self._builder.dimensions.inputs
        module.meta["onnx_sizes"] = self._builder.dimensions.sizes
        return module.eval()
