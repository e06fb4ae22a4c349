"""Quantization recipes as data: rules of (layers, operator, scheme), in ai-edge-quantizer's JSON form.

A later rule wins where it applies; a scheme that an operator has no kernel for is passed over by the quantizer, so a
rule for every operator leaves the unknown ones in float.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

EVERY_LAYER = ".*"
EVERY_OPERATOR = "*"
PRODUCTS = {
    "CONV_2D": "CONV_2D",
    "DEPTHWISE_CONV_2D": "DEPTHWISE_CONV_2D",
    "TRANSPOSE_CONV": "CONV_2D_TRANSPOSE",
    "FULLY_CONNECTED": "FULLY_CONNECTED",
    "BATCH_MATMUL": "BATCH_MATMUL",
}
"""Multiplying operators that can be quantized: TFLite's name -> the quantizer's."""

OPERATOR_WORDS = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}
"""Operators whose name in the quantizer differs from TFLite's."""

Rule = dict[str, Any]


def _tensor(bits: int, granularity: str, *, symmetric: bool) -> dict[str, Any]:
    return {"num_bits": bits, "symmetric": symmetric, "granularity": granularity, "dtype": "INT"}


def _weights(bits: int, granularity: str = "CHANNELWISE") -> dict[str, Any]:
    return {"weight_tensor_config": _tensor(bits, granularity, symmetric=True)}


def _static(activation_bits: int) -> dict[str, Any]:
    # int16 kernels take symmetric activations only, int8 ones both; weights are symmetric (LiteRT's specification)
    activations = _tensor(activation_bits, "TENSORWISE", symmetric=activation_bits != 8)  # noqa: PLR2004
    return {"activation_tensor_config": activations, **_weights(8), **_INTEGER}


_INTEGER = {"compute_precision": "INTEGER", "explicit_dequantize": False}
_FLOAT = {"compute_precision": "FLOAT", "explicit_dequantize": True}

STATIC8 = "static int8"
STATIC16 = "static int16x8"
DYNAMIC8 = "dynamic int8"
WEIGHTS8 = "int8 weights"
WEIGHTS4 = "int4 weights"
KEEP = "float"

_SCHEMES: dict[str, dict[str, Any]] = {
    STATIC8: _static(8),
    STATIC16: _static(16),
    DYNAMIC8: {**_weights(8), **_INTEGER},
    WEIGHTS8: {**_weights(8), **_FLOAT},
    WEIGHTS4: {**_weights(4), **_FLOAT},
}


def rule(scheme: str, operator: str = EVERY_OPERATOR, layers: str = EVERY_LAYER, algorithm: str = "") -> Rule:
    """Makes one rule; `algorithm` is the quantizer's name for how weight scales are chosen (default: extremes)."""
    head = {"regex": layers, "operation": operator}
    if scheme == KEEP:
        return head | {"algorithm_key": "no_quantize"}
    config = _SCHEMES[scheme] | {"skip_checks": False, "min_weight_elements": 0}
    return head | {"algorithm_key": algorithm or "min_max_uniform_quantize", "op_config": config}


def only(outputs: Iterable[str]) -> str:
    """Returns the pattern that matches exactly the layer with these output names."""
    return f"^{re.escape(';'.join(outputs) + ';')}$"


FLOAT_BORDER = (rule(KEEP, "INPUT"), rule(KEEP, "OUTPUT"))
"""Inputs and outputs keep their float type; conversions are put behind and before them."""

TABLES8 = rule(DYNAMIC8, "EMBEDDING_LOOKUP")
"""Embedding tables are stored in int8; the rows come out in float."""


def everywhere(scheme: str) -> list[Rule]:
    """Every operator that has the scheme; tables in int8."""
    return [rule(scheme), *FLOAT_BORDER, TABLES8]


def products(scheme: str) -> list[Rule]:
    """Multiplying operators only; everything between them in float; tables in int8."""
    return [*(rule(scheme, word) for word in PRODUCTS.values()), TABLES8]


def integer_border(rules: Iterable[Rule], scheme: str, inputs: Iterable[str], outputs: Iterable[str]) -> list[Rule]:
    """The same rules with integer inputs and outputs of the main graph, given by their tensors' names."""
    return [*rules, rule(scheme, "INPUT", only(inputs)), rule(scheme, "OUTPUT", only(outputs))]


def dynamic() -> list[Rule]:
    """int8 weights, activations quantized on the fly."""
    return [rule(DYNAMIC8)]


def dynamic_but_depthwise() -> list[Rule]:
    """As `dynamic`, with DEPTHWISE_CONV_2D computed in float on int8 weights.

    Its hybrid kernel has one activation scale for channels of very different ranges: an OCR network goes from 12.2 to
    17.9 dB with this rule.
    """
    return [rule(DYNAMIC8), rule(WEIGHTS8, "DEPTHWISE_CONV_2D")]


def int8_weights() -> list[Rule]:
    """int8 weights, dequantized before use."""
    return [rule(WEIGHTS8)]


def int4_weights() -> list[Rule]:
    """int4 weights in CONV_2D and FULLY_CONNECTED, int8 weights elsewhere.

    Scales by OCTAV (the clipping that minimises squared error, Sakr et al. 2022): a sentence transformer goes from 7.3
    to 9.1 dB. Block-wise int4 is better still under XNNPACK and wrong under the reference kernels (cosine -0.24), so it
    is not used.
    """
    return [rule(WEIGHTS8), *(rule(WEIGHTS4, word, algorithm="OCTAV") for word in ("CONV_2D", "FULLY_CONNECTED"))]


def int4_fully_connected() -> list[Rule]:
    """int4 weights in FULLY_CONNECTED only, int8 weights elsewhere: convolutions of small networks do not bear int4."""
    return [rule(WEIGHTS8), rule(WEIGHTS4, "FULLY_CONNECTED", algorithm="OCTAV")]
