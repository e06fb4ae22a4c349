"""Keras and numpy on first use: the operator table can be read, and models be checked, without importing them."""

from __future__ import annotations

from typing import Any

from hub_onnxgraph import LazyModule

keras: Any = LazyModule("keras")
layers: Any = LazyModule("keras.layers")
ops: Any = LazyModule("keras.ops")
np: Any = LazyModule("numpy")
