"""Torch's own operators for quantization, which a process must register before it loads a program with them."""

from __future__ import annotations

import importlib

LIBRARY = "quantized_decomposed"
"""Name of torch's operators for quantization in exported programs."""
REGISTERING = "torch.ao.quantization.fx._decomposed"
"""The module that registers them."""


def register_operators() -> None:
    """Have torch know its operators for quantization: programs that hold them load only then."""
    importlib.import_module(REGISTERING)
