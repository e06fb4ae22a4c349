"""Stores float32 constants as float16 with a DEQUANTIZE behind each: the form that every TFLite runtime takes."""

from __future__ import annotations

from typing import Any

from hub_tflite.rewrite import operator_code
from hub_tflite.schema import code_of, constant, new, numbers, text, type_name

LARGEST = 65504.0
"""Largest finite float16."""

LEAST_ELEMENTS = 16
"""Constants with fewer elements are not worth a DEQUANTIZE."""


def halve_constants(model: Any) -> list[str]:
    """Turns every float32 constant of some size into float16; returns notes.

    Values beyond float16's range (attention masks) keep their tensor in float32.
    """
    kept: list[str] = []
    count = sum(_halve_graph(model, graph, kept) for graph in model.subgraphs)
    notes = [f"{count} constants are stored in float16"]
    return notes + ([f"kept in float32, beyond float16's range: {', '.join(kept)}"] if kept else [])


def _halve_graph(model: Any, graph: Any, kept: list[str]) -> int:
    conversions = []
    for index in _constants_of(model, graph):
        half = _half_values(model, graph.tensors[index], kept)
        if half is not None:
            conversions.append(_behind_dequantize(model, graph, index, half))
    graph.operators = conversions + graph.operators
    return len(conversions)


def _constants_of(model: Any, graph: Any) -> list[int]:
    used = {index for operator in graph.operators for index in numbers(operator.inputs) if index >= 0}
    border = {*numbers(graph.inputs), *numbers(graph.outputs)}
    return [i for i in sorted(used - border) if _is_worth_it(model, graph.tensors[i])]


def _is_worth_it(model: Any, tensor: Any) -> bool:
    data = constant(model, tensor)
    plain = type_name(tensor) == "FLOAT32" and tensor.sparsity is None and not tensor.isVariable
    return plain and data is not None and len(data) >= 4 * LEAST_ELEMENTS


def _half_values(model: Any, tensor: Any, kept: list[str]) -> Any:
    import numpy as np

    values = np.frombuffer(constant(model, tensor), np.float32)
    if float(np.abs(values).max()) > LARGEST:
        kept.append(text(tensor.name))
        return None
    return np.frombuffer(values.astype(np.float16).tobytes(), np.uint8)


def _behind_dequantize(model: Any, graph: Any, index: int, half: Any) -> Any:
    tensor = graph.tensors[index]
    model.buffers.append(new("BufferT", data=half))
    stored = new(
        "TensorT",
        name=f"{text(tensor.name)}_float16".encode(),
        shape=numbers(tensor.shape),
        type=code_of("TensorType", "FLOAT16"),
        buffer=len(model.buffers) - 1,
        hasRank=True,
    )
    graph.tensors.append(stored)
    tensor.buffer = 0
    return new(
        "OperatorT",
        opcodeIndex=operator_code(model, "DEQUANTIZE", version=3),
        inputs=[len(graph.tensors) - 1],
        outputs=[index],
        builtinOptionsType=code_of("BuiltinOptions", "DequantizeOptions"),
        builtinOptions=new("DequantizeOptionsT"),
    )
