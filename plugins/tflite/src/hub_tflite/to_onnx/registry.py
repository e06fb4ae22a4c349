"""The table from a builtin operator to the function that writes it in ONNX; see `hub_onnxgraph.table` for the contract.

What is TFLite's own:

* the first parameter, `node`, is the operator's `node.TfliteNode`: where ONNX nodes are written;
* an absent input is -1 in the file;
* attributes are the fields of its options, by the schema's own names (`stride_w`). A field that is not named must have
  the schema's default. Two kinds are the importer's: a fused activation that the function does not name is written
  behind its first output, and those of `IGNORED`, which change no float result.

Newest versions are those of LiteRT 2.3's `register.cc`. A version adds element types or options to an operator and
changes no earlier meaning, so a function holds for every version from its oldest to its newest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hub_onnxgraph import Table

AnyHandler = TypeVar("AnyHandler", bound=Callable[..., object])
FUSED = "fused_activation_function"
IGNORED = frozenset({"pot_scale_int16", "quantized_bias_type", "asymmetric_quantize_inputs"})
"""Options about the rounding of quantized kernels."""

TABLE = Table("hub_tflite.to_onnx.ops")


def op(name: str, newest: int = 1, *, oldest: int = 1) -> Callable[[AnyHandler], AnyHandler]:
    """Register the decorated function for a builtin operator, up to the newest version it understands."""
    return TABLE.op(name, *range(oldest, newest + 1))
