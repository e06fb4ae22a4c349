"""Walks a TFLite graph in execution order and has each operator's function write it in ONNX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hub.spec import Remark, StepError, UnsupportedModel
from hub_onnxgraph import Refused, UnsupportedOperator, refuse_if
from hub_tflite.describe import signature_of
from hub_tflite.to_onnx import quantized
from hub_tflite.to_onnx.activation import fused
from hub_tflite.to_onnx.builder import IR_VERSION, OnnxBuilder, described
from hub_tflite.to_onnx.lazy import ir
from hub_tflite.to_onnx.node import TfliteNode
from hub_tflite.to_onnx.registry import FUSED, IGNORED, TABLE
from hub_tflite.to_onnx.scope import COMPLEX, FileTranslation, SubgraphScope, element_type
from hub_tflitefile.interface import interface_of
from hub_tflitefile.schema import numbers, text, type_name

if TYPE_CHECKING:
    from onnx_ir import Model, Value

    from hub.spec import TensorSpec
    from hub_tflitefile.tables import ModelT, SubGraphT, TensorT

_OF_INTEGERS = frozenset({"CAST", "BITCAST"})
"""Operators that take a quantized tensor's integers as they are."""
_OF_HANDLES = frozenset({"ASSIGN_VARIABLE", "READ_VARIABLE", "CALL", "IF", "WHILE", "STABLEHLO_COMPOSITE"})
_OF_COMPLEX = frozenset({"REAL", "IMAG", "COMPLEX_ABS"})


class TfliteImporter:
    """Translates one file.

    Args:
        model: The file.

    Attributes:
        file: What its subgraphs share, with the notes of the translation.
        renamed: Output in the file -> its name in the result, where an input has the same name.
    """

    def __init__(self, model: ModelT) -> None:
        self.model = model
        self.file = FileTranslation(model, self.inline)
        self.renamed: dict[str, str] = {}

    def run(self) -> Model:
        """Translate the main subgraph: that of the first signature, or the first.

        Raises:
            UnsupportedOperator: An operator, or a form of it, has no translation.
            UnsupportedModel: The inputs and outputs cannot be kept.
        """
        graph, inputs, outputs = interface_of(self.model)
        signature = signature_of(self.model)
        builder = OnnxBuilder()
        try:
            values = [
                _input_value(builder, spec, graph.tensors[i])
                for spec, (_, i) in zip(signature.inputs, inputs, strict=True)
            ]
            names = [builder.name(spec.name) for spec in signature.outputs]
            wanted = [spec.name for spec in signature.outputs]
            self.renamed = {old: new for old, new in zip(wanted, names, strict=True) if old != new}
            keys = [text(signature.signatureKey) for signature in self.model.signatureDefs or []]
            if len(keys) > 1:
                said = f"the signature {keys[0]} was converted, {', '.join(keys[1:])} left out"
                self.file.notes.append(Remark("note", "signatures-left-out", said))
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
        made = ir.Model(builder.graph(values, results, "main"), ir_version=IR_VERSION, producer_name="hub")
        quantized.lower_opset(made)
        return made

    def inline(self, subgraph: int, inputs: Sequence[Value], builder: OnnxBuilder) -> list[Value]:
        """Translate a subgraph into `builder` on given inputs and return its outputs."""
        refuse_if(not 0 <= subgraph < len(self.model.subgraphs), f"there is no subgraph {subgraph}")
        graph = self.model.subgraphs[subgraph]
        scope = self._subgraph(graph, dict(zip(numbers(graph.inputs), inputs, strict=True)), builder)
        return [scope.read(index) for index in numbers(graph.outputs)]

    def _subgraph(self, graph: SubGraphT, inputs: dict[int, Value], builder: OnnxBuilder) -> SubgraphScope:
        left = [index for index in numbers(graph.inputs) if index not in inputs]
        refuse_if(left, f"inputs {[text(graph.tensors[index].name) for index in left]} are not in the signature")
        scope = SubgraphScope(self.file, graph, builder)
        for index, value in inputs.items():
            scope.bind(index, value)
        for operator in graph.operators:
            node = TfliteNode(scope, operator)
            try:
                for index, result in zip(numbers(operator.outputs), _run(node), strict=True):
                    scope.write(index, result)
            except Refused as refusal:
                place = text(node.result().name) if node.outputs else ""
                raise UnsupportedOperator(node.name, node.version, place, str(refusal)) from refusal
        return scope


def _run(node: TfliteNode) -> tuple[Value, ...]:
    """Call a row's function once the operator fits its contract."""
    row = TABLE.find(node.name, node.version)
    if isinstance(row, str):
        raise Refused(row)
    tensors, indices = node.scope.graph.tensors, numbers(node.operator.inputs)
    while not row.variadic and len(indices) > len(row.required_inputs) and indices[-1] < 0:
        indices.pop()
    refuse_if(
        node.name not in _OF_COMPLEX and any(type_name(tensors[i]) == COMPLEX for i in indices if i >= 0),
        "complex operands",
    )
    table = node.operator.builtinOptions if node.operator.builtinOptions is not None else node.operator.builtinOptions2
    options, defaults = ({}, {}) if table is None else (_fields(table), _fields(type(table)()))
    known = {name: value for name, value in options.items() if name in row.attributes}
    silent = {*known, *IGNORED, FUSED}
    foreign = [f"{name}={value}" for name, value in options.items() if name not in silent and value != defaults[name]]
    refuse_if(mismatch := row.mismatch([i >= 0 for i in indices], [*known, *foreign]), str(mismatch))
    if node.outputs:
        quantized.refuse_other_grids(node.name, [tensors[index] for index in indices], node.result())
    inputs = [node.scope.read(index) if index >= 0 else None for index in indices]
    handles = [value for value in inputs if value is not None and value.dtype is None and value.producer() is None]
    refuse_if(handles and node.name not in _OF_HANDLES, "the handle of a variable as an operand")
    if node.name in _OF_INTEGERS:
        inputs = [value if value is None else quantized.integers_of(value) for value in inputs]
    result = row((node, *inputs), known)
    results = result if isinstance(result, tuple) else (result,)
    refuse_if(len(results) != node.outputs, f"{node.outputs} outputs, {len(results)} are implemented")
    if options.get(FUSED) and FUSED not in row.attributes:
        results = (fused(node, results[0], options[FUSED]), *results[1:])
    return results


def _fields(table: object) -> dict[str, Any]:
    """Fields of a table in snake case; vectors become lists, and an absent one is the same as an empty one."""
    fields = {re.sub(r"(?<=.)([A-Z])", r"_\1", name).lower(): value for name, value in vars(table).items()}
    lists = {name: value.tolist() for name, value in fields.items() if hasattr(value, "tolist")}
    return {name: [] if value is None else value for name, value in (fields | lists).items()}


def _input_value(builder: OnnxBuilder, spec: TensorSpec, tensor: TensorT) -> Value:
    refuse_if(type_name(tensor) == COMPLEX, f"{spec.name} is complex")
    made = builder.value(spec.name, element_type(tensor), [str(d) if d.size is None else d.size for d in spec.shape])
    if made.name != spec.name:
        raise StepError(f"two inputs or outputs are named {spec.name}")
    return made


def _named(scope: SubgraphScope, index: int, name: str) -> Value:
    """Return the value of an output under its name in the signature; inputs and constants are copied."""
    value = scope.read(index)
    refuse_if(type_name(scope.graph.tensors[index]) == COMPLEX, f"{name} is complex")
    if quantized.is_quantized(scope.graph.tensors[index]):
        value = quantized.integers_of(value)
    if value.producer() is None or value.name in scope.builder.borders:
        value = scope.builder.emit("Identity", [value])[0]
    value.name = name
    scope.builder.borders.add(name)
    return value
