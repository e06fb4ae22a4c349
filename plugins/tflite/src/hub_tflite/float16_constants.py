"""Stores float32 constants as float16 with a DEQUANTIZE behind each: the form that every TFLite runtime takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub.spec import Remark
from hub_tflite.rewrite import add_constant, new_operator
from hub_tflitefile.schema import constant, numbers, text, type_name

if TYPE_CHECKING:
    from hub_tflitefile.tables import ModelT

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
