"""What this plugin offers to hub. Imports no framework."""

from __future__ import annotations

from pathlib import Path

from hub.spec import Edge, Format, Identification, Runtime, hookimpl
from hub_tensorrt.describe import TensorrtFormat
from hub_tensorrt.edges import BUILDING
from hub_tensorrt.plan import identify
from hub_tensorrt.precision.edges import EDGES as PRECISION
from hub_tensorrt.runtime import TensorrtRuntime


@hookimpl
def hub_register_formats() -> list[Format]:
    """Offers the reader of plans."""
    return [TensorrtFormat()]


@hookimpl
def hub_register_edges() -> list[Edge]:
    """Offers the precision ONNX, and building."""
    return [*PRECISION, *BUILDING]


@hookimpl
def hub_register_runtimes() -> list[Runtime]:
    """Offers engines on an NVIDIA GPU."""
    return [TensorrtRuntime()]


@hookimpl
def hub_identify_format(path: Path, header: bytes) -> Identification | None:
    """Recognises a plan by its magic; see `identify`."""
    return identify(path, header)
