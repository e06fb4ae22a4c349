"""Finishes a translated model and writes the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hub_tflite.to_onnx.lazy import ir

if TYPE_CHECKING:
    from onnx_ir import Model

EXTERNAL_ABOVE_BYTES = 1_800_000_000
"""A protobuf ends at 2 GiB; the graph needs some of that."""


def tidy(model: Model) -> None:
    """Drop nodes and constants that nothing uses."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)


def save(model: Model, path: Path) -> None:
    """Write the file; large weights go to `<path>.data` beside it, straight from the arrays."""
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    ir.save(model, path, external_data=f"{path.name}.data" if weights > EXTERNAL_ABOVE_BYTES else None)
