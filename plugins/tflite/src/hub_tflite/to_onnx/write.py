"""Finishes a translated model and writes the file."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_tflite.to_onnx.layout import arrange
from hub_tflite.to_onnx.lazy import ir

if TYPE_CHECKING:
    from onnx_ir import Model, Value

EXTERNAL_ABOVE_BYTES = 1_800_000_000
"""A protobuf ends at 2 GiB; the graph needs some of that."""


def tidy(model: Model) -> None:
    """Remove transposes, and drop nodes and constants that nothing uses; inner shapes are left to readers."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

    RemoveUnusedNodesPass()(model)  # what nobody uses must not choose the order of what is used
    ShapeInferencePass()(model)
    arrange(model, _store(model))
    RemoveUnusedNodesPass()(model)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = value.type = None


def _store(model: Model) -> Any:
    """Return what stores an array as a constant of the main graph."""
    numbers = count()

    def store(array: Any) -> Value:
        name = f"layout_{next(numbers)}"
        made: Value = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype))
        )
        made.const_value = ir.Tensor(array, name=name)
        model.graph.register_initializer(made)
        return made

    return store


def save(model: Model, path: Path) -> None:
    """Write the file; large weights go to `<path>.data` beside it, straight from the arrays."""
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    ir.save(model, path, external_data=f"{path.name}.data" if weights > EXTERNAL_ABOVE_BYTES else None)
