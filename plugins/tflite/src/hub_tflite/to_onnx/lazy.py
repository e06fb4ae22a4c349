"""Modules that are imported at their first use, so that the operator table can be read without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph.lazy import LazyModule

__all__ = ["ir", "np"]

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
else:
    np = LazyModule("numpy")
    ir = LazyModule("onnx_ir")
