"""torch on first use: the operator table can be read, and models be checked, without importing it."""

from __future__ import annotations

from typing import Any

from hub_onnxgraph import LazyModule

torch: Any = LazyModule("torch")
functional: Any = LazyModule("torch.nn.functional")
