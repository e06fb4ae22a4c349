"""float16 constants with a DEQUANTIZE behind each, which every TFLite runtime takes: written, and taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub.spec import Remark
from hub_tflite.rewrite import add_constant, new_operator
from hub_tflite.to_onnx.sparse import densified
from hub_tflitefile.schema import constant, new, numbers, operator_name, text, type_name
from hub_tflitefile.tables import BufferT

if TYPE_CHECKING:
    from hub_tflitefile.tables import ModelT, OperatorT, SubGraphT

LARGEST = 65504.0
"""Largest finite float16."""

LEAST_ELEMENTS = 16
"""Constants with fewer elements are not worth a DEQUANTIZE."""


def halve_constants(model: ModelT) -> list[Remark]:
    """Turns every float32 constant of some size into float16; returns notes.

    Values beyond float16's range (attention masks) keep their tensor in float32.
    """
    import numpy as np

    kept: list[str] = []
    count = 0
    for graph in model.subgraphs:
        used = {index for operator in graph.operators for index in numbers(operator.inputs) if index >= 0}
        conversions = []
        for index in sorted(used - {*numbers(graph.inputs), *numbers(graph.outputs)}):
            tensor = graph.tensors[index]
            data = constant(model, tensor)
            plain = type_name(tensor) == "FLOAT32" and tensor.sparsity is None and not tensor.isVariable
            if data is None or not plain or len(data) < 4 * LEAST_ELEMENTS:
                continue
            values = np.frombuffer(data, np.float32)
            if float(np.abs(values).max()) > LARGEST:
                kept.append(text(tensor.name))
                continue
            name = f"{text(tensor.name)}_float16"
            stored = add_constant(model, graph, name, values.astype(np.float16), numbers(tensor.shape), "FLOAT16")
            tensor.buffer = 0
            conversions.append(new_operator(model, "DEQUANTIZE", [stored], [index], "DequantizeOptions", version=3))
        graph.operators = conversions + graph.operators
        count += len(conversions)
    notes = [Remark("note", "constants-in-float16", f"{count} constants are stored in float16")]
    if kept:
        said = f"kept in float32, beyond float16's range: {', '.join(kept)}"
        notes.append(Remark("note", "beyond-float16", said))
    return notes


def widen_constants(model: ModelT) -> list[Remark]:
    """Stores what a DEQUANTIZE makes of a float16 constant, and a DENSIFY of a sparse one.

    Exact: every float16 is a float32, and the runtime computes with the same numbers before and after. The operators
    go; one whose result is an output of its graph stays.
    """
    count = 0
    for graph in model.subgraphs:
        outputs = set(numbers(graph.outputs))
        kept = [  # in order of execution: a DENSIFY comes before the DEQUANTIZE behind it
            operator
            for operator in graph.operators
            if not outputs.isdisjoint(numbers(operator.outputs)) or not _written_out(model, graph, operator)
        ]
        count += len(graph.operators) - len(kept)
        graph.operators = kept
    return [Remark("note", "constants-widened", f"{count} DEQUANTIZE and DENSIFY became float32 constants, exactly")]


def _written_out(model: ModelT, graph: SubGraphT, operator: OperatorT) -> bool:
    """Makes a constant of an operator's result, where it only unpacks stored floats; False where it does not."""
    import numpy as np

    name = operator_name(model, operator)
    if name not in {"DEQUANTIZE", "DENSIFY"}:
        return False
    source, result = (graph.tensors[numbers(place)[0]] for place in (operator.inputs, operator.outputs))
    data, kind = constant(model, source), type_name(source)
    if data is None or kind not in {"FLOAT16", "FLOAT32"}:
        return False
    stored, sizes = np.frombuffer(data, np.float16 if kind == "FLOAT16" else np.float32), numbers(source.shape)
    full = stored.reshape(sizes) if source.sparsity is None else densified(stored, source.sparsity, sizes)
    if name == "DEQUANTIZE":
        full = full.astype(np.float32)
    model.buffers.append(new(BufferT, data=np.frombuffer(full.tobytes(), np.uint8)))
    result.buffer = len(model.buffers) - 1
    return True
