"""Describes a TFLite file: signature, operators, precisions, sizes, findings. It runs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import Dim, ModelSummary, Numerics, Remark, Signature, State, TensorSpec
from hub_tflite.numerics import PrecisionReport, precision_report
from hub_tflite.plain import RAW, PlainParts, is_raw, make_plain
from hub_tflite.plain.variables import NEXT
from hub_tflitefile.interface import interface_of, quant_params
from hub_tflitefile.schema import (
    constant,
    custom_operators,
    dtype_of,
    has_outside_buffers,
    numbers,
    operator_counts,
    operator_name,
    parse,
    read_bytes,
    text,
    verify,
)

if TYPE_CHECKING:
    from hub_tflitefile.tables import ModelT, SubGraphT

FORMAT = "tflite"
_THROUGH = frozenset({"CAST", "RESHAPE", "EXPAND_DIMS", "SQUEEZE"})
_SHOWN = 8


def describe_file(path: str | Path) -> ModelSummary:
    """Reads a file into a summary, in its plain form where it is raw.

    Raises:
        ModelNotFound: There is no such file.
        ModelUnreadable: It is truncated, corrupt or not TFLite.
        UnsupportedModel: It is raw, of a kind that has no plain form.
    """
    content = read_bytes(path)
    verify(content, path)
    model = parse(content, path)
    form = RAW if is_raw(model) else ""
    written = make_plain(model)
    report = precision_report(model)
    custom = custom_operators(model)
    found = {"schema": str(model.version), "subgraphs": str(len(model.subgraphs)), "buffers": str(len(model.buffers))}
    if model.description:
        found["producer"] = text(model.description)
    return ModelSummary(
        state=State(format=FORMAT, numerics=report.numerics, form=form),
        signature=signature_of(model),
        operators=operator_counts(model),
        custom_operators=custom,
        parameters=parameter_count(model),
        size_bytes=len(content),
        files=(str(Path(path).resolve()),),
        versions=found | {text(entry.name): "present" for entry in model.metadata or []},
        findings=(*_of_written(written), *_findings(model, content, report, custom)),
        layers=report.layers,
    )


def parameter_count(model: ModelT) -> int:
    """Returns the number of elements of constant tensors that hold real numbers, each buffer counted once."""
    sizes: dict[int, int] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            scaled = tensor.quantization is not None and tensor.quantization.scale is not None
            if constant(model, tensor) is not None and (dtype_of(tensor).is_float or scaled):
                sizes[int(tensor.buffer)] = math.prod(numbers(tensor.shape))
    return sum(sizes.values())


def signature_of(model: ModelT) -> Signature:
    """Returns inputs and outputs with types, shapes (symbolic where `shape_signature` has -1) and scales."""
    graph, inputs, outputs = interface_of(model)
    ranges = _index_ranges(model, graph)
    return Signature(
        inputs=tuple(_spec(graph, name, index, ranges.get(index)) for name, index in inputs),
        outputs=tuple(_spec(graph, name, index) for name, index in outputs),
    )


def _spec(graph: SubGraphT, name: str, index: int, value_range: tuple[float, float] | None = None) -> TensorSpec:
    tensor = graph.tensors[index]
    shape = numbers(tensor.shape)
    declared = numbers(tensor.shapeSignature) or shape
    dims = (Dim.of(size if size >= 0 else f"{name}_{axis}") for axis, size in enumerate(declared))
    quant = quant_params(tensor)
    return TensorSpec(name=name, dtype=dtype_of(tensor), shape=tuple(dims), quant=quant, value_range=value_range)


def _index_ranges(model: ModelT, graph: SubGraphT) -> dict[int, tuple[float, float]]:
    """Returns input tensor -> (0, rows - 1) for every integer input that picks rows of a constant table."""
    source: dict[int, int] = {}
    ranges: dict[int, tuple[float, float]] = {}
    for operator in graph.operators:
        name, inputs = operator_name(model, operator), numbers(operator.inputs)
        if name in _THROUGH and inputs:
            source[numbers(operator.outputs)[0]] = source.get(inputs[0], inputs[0])
        picks = {"EMBEDDING_LOOKUP": (0, 1), "GATHER": (1, 0)}.get(name)
        if picks:
            ids, table = inputs[picks[0]], graph.tensors[inputs[picks[1]]]
            if constant(model, table) is not None and len(numbers(table.shape)) > 1:
                axis = int(operator.builtinOptions.axis) if name == "GATHER" and operator.builtinOptions else 0
                ranges[source.get(ids, ids)] = (0.0, float(numbers(table.shape)[axis] - 1))
    return {index: ranges[index] for index in numbers(graph.inputs) if index in ranges}


_STATIC_NUMERICS = frozenset({Numerics.INT8, Numerics.INT8_MIXED, Numerics.INT16X8})


def _of_written(written: PlainParts) -> Iterator[Remark]:
    if written.operators:
        text = f"{', '.join(written.operators)}: LiteRT has no kernel, read as the plain operators that they stand for"
        yield Remark("finding", "custom-operators-written", text)
    if written.states:
        names = ", ".join(state.name for state in written.states)
        text = f"state between runs is read as inputs, and as outputs of that name and {NEXT}: {names}"
        kept = [f"--state {state.name}={state.output}" for state in written.states if state.starts_at_zero]
        hint = f"{kept[0]} keeps one inside where the target can" if kept else ""
        yield Remark("finding", "state-lifted", text, hint)
    other = [str(state) for state in written.states if not state.starts_at_zero]
    if other:
        text = f"before the first run these states are not stored as 0: {', '.join(other)}"
        yield Remark("finding", "state-starts-elsewhere", text, "feed these values in the first run")


def _findings(model: ModelT, content: bytes, report: PrecisionReport, custom: tuple[str, ...]) -> Iterator[Remark]:
    if custom:
        message = f"the plain runtime has no kernel for {', '.join(custom)}"
        hint = "export the model again without Flex or custom operators"
        yield Remark("blocker", "custom-operators", message, hint)
    if report.left_float:
        names = [f"{layer.operator} {layer.name}" for layer in report.left_float]
        shown = "; ".join(names[:_SHOWN]) + (f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        counts = ", ".join(f"{count} {precision}" for precision, count in sorted(report.counts.items()))
        said = f"layers by precision: {counts}; float activations in {shown}"
        static = report.numerics in _STATIC_NUMERICS
        yield Remark("finding", "left-in-float", said) if static else Remark("finding", "float-activations", said)
    if not model.signatureDefs:
        message = "the file has no signature: tensor names are used for inputs and outputs"
        yield Remark("finding", "no-signature", message)
    if has_outside_buffers(content):
        message = "weights lie behind the flatbuffer: some readers do not find them there"
        yield Remark("finding", "outside-buffers", message)
    states = [text(t.name) for graph in model.subgraphs for t in graph.tensors if t.isVariable]
    if states:
        message = f"{len(states)} variable tensors keep state between calls: {', '.join(states[:_SHOWN])}"
        yield Remark("finding", "hidden-state", message, "hub resets them before each run")
    keys = [text(signature.signatureKey) for signature in model.signatureDefs or []]
    if len(keys) > 1:
        message = f"{len(keys)} signatures: {', '.join(keys)}; hub reads and runs {keys[0]}"
        yield Remark("finding", "several-signatures", message)
