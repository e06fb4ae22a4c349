"""What this plugin offers to hub. Imports no framework."""

from __future__ import annotations

from hub.spec import Edge, hookimpl
from hub_tensorrt.precision.edges import EDGES as PRECISION


@hookimpl
def hub_register_edges() -> list[Edge]:
    """Offers the precision ONNX."""
    return [*PRECISION]
