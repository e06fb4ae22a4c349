"""Describes a TFLite file: signature, operators, precisions, sizes, findings. It runs nothing."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from hub.spec import Dim, Finding, ModelSummary, Numerics, QuantParams, Signature, State, TensorSpec
from hub_tflite.numerics import PrecisionReport, precision_report
from hub_tflite.schema import (
    constant,
    dtype_of,
    has_outside_buffers,
    numbers,
    operator_name,
    operators,
    parse,
    read_bytes,
    text,
    verify,
)

FORMAT = "tflite"
_THROUGH = frozenset({"CAST", "RESHAPE", "EXPAND_DIMS", "SQUEEZE"})
_SHOWN = 8


def describe_file(path: str | Path) -> ModelSummary:
    """Reads a file into a summary.

    Raises:
        ModelNotFound: There is no such file.
        ModelUnreadable: It is truncated, corrupt or not TFLite.
    """
    content = read_bytes(path)
    verify(content, path)
    model = parse(content, path)
    report = precision_report(model)
    custom = custom_operators(model)
    return ModelSummary(
        state=State(format=FORMAT, numerics=report.numerics),
        signature=signature_of(model),
        operators=dict(sorted(Counter(operator_name(model, op) for _, op in operators(model)).items())),
        custom_operators=custom,
        parameters=parameter_count(model),
        size_bytes=len(content),
        files=(str(Path(path).resolve()),),
        versions=_versions(model),
        findings=tuple(_findings(model, content, report, custom)),
        layers=report.layers,
    )


def custom_operators(model: Any) -> tuple[str, ...]:
    """Returns the operators that the plain runtime does not have, Flex operators among them, sorted."""
    names = {operator_name(model, op) for _, op in operators(model)}
    return tuple(sorted(name.removeprefix("custom::") for name in names if name.startswith(("custom::", "builtin "))))


def parameter_count(model: Any) -> int:
    """Returns the number of elements of constant tensors that hold real numbers, each buffer counted once."""
    sizes: dict[int, int] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            scaled = tensor.quantization is not None and tensor.quantization.scale is not None
            if constant(model, tensor) is not None and (dtype_of(tensor).is_float or scaled):
                sizes[int(tensor.buffer)] = math.prod(numbers(tensor.shape))
    return sum(sizes.values())


def border(model: Any) -> tuple[Any, list[tuple[str, int]], list[tuple[str, int]]]:
    """Returns the main subgraph and its (name, tensor index) of inputs and outputs, in the graph's order.

    Names are the signature's where the file has one, else the tensors'.
    """
    signature = model.signatureDefs[0] if model.signatureDefs else None
    graph = model.subgraphs[int(signature.subgraphIndex) if signature else 0]
    inputs = _named(graph, numbers(graph.inputs), signature.inputs if signature else None)
    return graph, inputs, _named(graph, numbers(graph.outputs), signature.outputs if signature else None)


def _named(graph: Any, indices: list[int], maps: Any) -> list[tuple[str, int]]:
    if not maps:
        return [(text(graph.tensors[index].name), index) for index in indices]
    order = {index: place for place, index in enumerate(indices)}
    pairs = [(text(entry.name), int(entry.tensorIndex)) for entry in maps]
    return sorted(pairs, key=lambda pair: order.get(pair[1], len(order)))


def signature_of(model: Any) -> Signature:
    """Returns inputs and outputs with types, shapes (symbolic where `shape_signature` has -1) and scales."""
    graph, inputs, outputs = border(model)
    ranges = _index_ranges(model, graph)
    return Signature(
        inputs=tuple(_spec(graph, name, index, ranges.get(index)) for name, index in inputs),
        outputs=tuple(_spec(graph, name, index) for name, index in outputs),
    )


def _spec(graph: Any, name: str, index: int, value_range: tuple[float, float] | None = None) -> TensorSpec:
    tensor = graph.tensors[index]
    shape = numbers(tensor.shape)
    declared = numbers(tensor.shapeSignature) or shape
    dims = (Dim.of(size if size >= 0 else f"{name}_{axis}") for axis, size in enumerate(declared))
    quant = quant_params(tensor)
    return TensorSpec(name=name, dtype=dtype_of(tensor), shape=tuple(dims), quant=quant, value_range=value_range)


def quant_params(tensor: Any) -> QuantParams | None:
    """Returns scale and zero point; None for a tensor without."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) == 0:
        return None
    points = numbers(quantization.zeroPoint) or [0] * len(quantization.scale)
    axis = int(quantization.quantizedDimension) if len(quantization.scale) > 1 else None
    return QuantParams(scale=tuple(float(s) for s in quantization.scale), zero_point=tuple(points), axis=axis)


def _index_ranges(model: Any, graph: Any) -> dict[int, tuple[float, float]]:
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
                ranges[source.get(ids, ids)] = (0.0, float(_rows(operator, name, table) - 1))
    return {index: ranges[index] for index in numbers(graph.inputs) if index in ranges}


def _rows(operator: Any, name: str, table: Any) -> int:
    shape = numbers(table.shape)
    axis = int(operator.builtinOptions.axis) if name == "GATHER" and operator.builtinOptions else 0
    return shape[axis]


def _versions(model: Any) -> dict[str, str]:
    found = {"schema": str(model.version), "subgraphs": str(len(model.subgraphs)), "buffers": str(len(model.buffers))}
    if model.description:
        found["producer"] = text(model.description)
    return found | {text(entry.name): "present" for entry in model.metadata or []}


def _findings(model: Any, content: bytes, report: PrecisionReport, custom: tuple[str, ...]) -> list[Finding]:
    findings = [
        _custom_finding(custom) if custom else None,
        _float_finding(report) if report.left_float else None,
        None if model.signatureDefs else Finding(
            code="no-signature", message="the file has no signature: tensor names are used for inputs and outputs"
        ),
        Finding(
            code="outside-buffers", message="weights lie behind the flatbuffer: some readers do not find them there"
        ) if has_outside_buffers(content) else None,
        _variable_finding(model),
        _signature_finding(model),
    ]  # fmt: skip
    return [finding for finding in findings if finding is not None]


def _custom_finding(custom: tuple[str, ...]) -> Finding:
    return Finding(
        code="custom-operators",
        message=f"the plain runtime has no kernel for {', '.join(custom)}",
        hint="export the model again without Flex or custom operators",
        blocking=True,
    )


def _float_finding(report: PrecisionReport) -> Finding:
    names = [f"{layer.operator} {layer.name}" for layer in report.left_float]
    shown = "; ".join(names[:_SHOWN]) + (f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    counts = ", ".join(f"{count} {precision}" for precision, count in sorted(report.counts.items()))
    kind = "left-in-float" if report.numerics in _STATIC_NUMERICS else "float-activations"
    return Finding(code=kind, message=f"layers by precision: {counts}; float activations in {shown}")


_STATIC_NUMERICS = frozenset({Numerics.INT8, Numerics.INT8_MIXED, Numerics.INT16X8})


def _signature_finding(model: Any) -> Finding | None:
    keys = [text(signature.signatureKey) for signature in model.signatureDefs or []]
    if len(keys) <= 1:
        return None
    message = f"{len(keys)} signatures: {', '.join(keys)}; hub reads and runs {keys[0]}"
    return Finding(code="several-signatures", message=message)


def _variable_finding(model: Any) -> Finding | None:
    names = [text(t.name) for graph in model.subgraphs for t in graph.tensors if t.isVariable]
    if not names:
        return None
    message = f"{len(names)} variable tensors keep state between calls: {', '.join(names[:_SHOWN])}"
    return Finding(code="hidden-state", message=message, hint="hub resets them before each run")
