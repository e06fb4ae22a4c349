"""Quantization of float32 IRs with NNCF."""

from hub_openvino.quantize.edges import OpenvinoQuantizer

__all__ = ["OpenvinoQuantizer"]
