"""What the planner sees of the precision ONNX."""

from __future__ import annotations

from hub.spec import Edge

EDGES: tuple[Edge, ...] = ()
"""Float ONNX to the precision ONNX that an engine is built of: format `onnx`, form `tensorrt`."""
