"""Keras and numpy on first use: the operator table can be read, and models be checked, without importing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph import LazyModule

if TYPE_CHECKING:
    import keras
    import numpy as np
    from keras import layers, ops
else:
    keras = LazyModule("keras")
    layers = LazyModule("keras.layers")
    ops = LazyModule("keras.ops")
    np = LazyModule("numpy")

__all__ = ["keras", "layers", "np", "ops"]
