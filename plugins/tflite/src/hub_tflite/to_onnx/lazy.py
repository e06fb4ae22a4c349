"""Modules that are imported at their first use, so that the operator table can be read without them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class _Lazy:
    """Stands for a module until one of its members is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, member: str) -> Any:
        return getattr(import_module(self._name), member)


np: Any = _Lazy("numpy")
ir: Any = _Lazy("onnx_ir")
