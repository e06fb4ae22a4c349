"""Quantization recipes as data: rules of (layers, operator, scheme), in ai-edge-quantizer's JSON form.

A later rule wins where it applies; a scheme that an operator has no kernel for is passed over by the quantizer, so a
rule for every operator leaves the unknown ones in float.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NotRequired, TypedDict

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


class TensorConfig(TypedDict):
    """How the quantizer stores one kind of tensor."""

    num_bits: int
    symmetric: bool
    granularity: str
    dtype: str


class OperatorConfig(TypedDict):
    """How the quantizer treats an operator."""

    activation_tensor_config: NotRequired[TensorConfig]
    weight_tensor_config: TensorConfig
    compute_precision: str
    explicit_dequantize: bool
    skip_checks: NotRequired[bool]
    min_weight_elements: NotRequired[int]


def _tensor(bits: int, granularity: str, *, symmetric: bool) -> TensorConfig:
    return {"num_bits": bits, "symmetric": symmetric, "granularity": granularity, "dtype": "INT"}


def _static(activation_bits: int) -> OperatorConfig:
    # int16 kernels take symmetric activations only, int8 ones both; weights are symmetric (LiteRT's specification)
    activations = _tensor(activation_bits, "TENSORWISE", symmetric=activation_bits != 8)  # noqa: PLR2004
    return {"activation_tensor_config": activations, **_stored(8, "INTEGER")}


def _stored(bits: int, computed: str) -> OperatorConfig:
    return {
        "weight_tensor_config": _tensor(bits, "CHANNELWISE", symmetric=True),
        "compute_precision": computed,
        "explicit_dequantize": computed == "FLOAT",
    }


STATIC8 = "static int8"
STATIC16 = "static int16x8"
DYNAMIC8 = "dynamic int8"
WEIGHTS8 = "int8 weights"
WEIGHTS4 = "int4 weights"
KEEP = "float"

_SCHEMES: dict[str, OperatorConfig] = {
    STATIC8: _static(8),
    STATIC16: _static(16),
    DYNAMIC8: _stored(8, "INTEGER"),
    WEIGHTS8: _stored(8, "FLOAT"),
    WEIGHTS4: _stored(4, "FLOAT"),
}


@dataclass(frozen=True, slots=True)
class QuantRule:
    """One rule.

    Attributes:
        scheme: One of the schemes above.
        operator: The quantizer's word.
        layers: Pattern over layers.
        algorithm: The quantizer's name for how weight scales are chosen; empty for extremes.
    """

    scheme: str
    operator: str = EVERY_OPERATOR
    layers: str = EVERY_LAYER
    algorithm: str = ""

    @property
    def plain(self) -> dict[str, object]:
        """As the quantizer takes it, and as it stands in the receipt."""
        head: dict[str, object] = {"regex": self.layers, "operation": self.operator}
        if self.scheme == KEEP:
            return head | {"algorithm_key": "no_quantize"}
        config = _SCHEMES[self.scheme] | {"skip_checks": False, "min_weight_elements": 0}
        return head | {"algorithm_key": self.algorithm or "min_max_uniform_quantize", "op_config": config}


@dataclass(frozen=True, slots=True)
class RuleSet:
    """A recipe: its name for the notes, and its rules."""

    name: str
    rules: tuple[QuantRule, ...]

    def __str__(self) -> str:
        return self.name


def only(outputs: Iterable[str]) -> str:
    """Returns the pattern that matches exactly the layer with these output names."""
    return f"^{re.escape(';'.join(outputs) + ';')}$"


FLOAT_BORDER = (QuantRule(KEEP, "INPUT"), QuantRule(KEEP, "OUTPUT"))
"""Inputs and outputs keep their float type; conversions are put behind and before them."""

TABLES8 = QuantRule(DYNAMIC8, "EMBEDDING_LOOKUP")
"""Embedding tables are stored in int8; the rows come out in float."""


def everywhere(scheme: str) -> list[QuantRule]:
    """Every operator that has the scheme; tables in int8."""
    return [QuantRule(scheme), *FLOAT_BORDER, TABLES8]


def products(scheme: str) -> list[QuantRule]:
    """Multiplying operators only; everything between them in float; tables in int8."""
    return [*(QuantRule(scheme, word) for word in PRODUCTS.values()), TABLES8]


def integer_border(
    rules: Iterable[QuantRule], scheme: str, inputs: Iterable[str], outputs: Iterable[str]
) -> list[QuantRule]:
    """The same rules with integer inputs and outputs of the main graph, given by their tensors' names."""
    return [*rules, QuantRule(scheme, "INPUT", only(inputs)), QuantRule(scheme, "OUTPUT", only(outputs))]


def dynamic() -> list[QuantRule]:
    """int8 weights, activations quantized on the fly."""
    return [QuantRule(DYNAMIC8)]


def dynamic_but_depthwise() -> list[QuantRule]:
    """As `dynamic`, with DEPTHWISE_CONV_2D computed in float on int8 weights.

    Its hybrid kernel has one activation scale for channels of very different ranges: an OCR network goes from 12.2 to
    17.9 dB with this rule.
    """
    return [QuantRule(DYNAMIC8), QuantRule(WEIGHTS8, "DEPTHWISE_CONV_2D")]


def int8_weights() -> list[QuantRule]:
    """int8 weights, dequantized before use."""
    return [QuantRule(WEIGHTS8)]


def int4_weights() -> list[QuantRule]:
    """int4 weights in CONV_2D and FULLY_CONNECTED, int8 weights elsewhere.

    Scales by OCTAV (the clipping that minimises squared error, Sakr et al. 2022): a sentence transformer goes from 7.3
    to 9.1 dB. Block-wise int4 is better still under XNNPACK and wrong under the reference kernels (cosine -0.24), so it
    is not used.
    """
    return [
        QuantRule(WEIGHTS8),
        *(QuantRule(WEIGHTS4, word, algorithm="OCTAV") for word in ("CONV_2D", "FULLY_CONNECTED")),
    ]


def int4_fully_connected() -> list[QuantRule]:
    """int4 weights in FULLY_CONNECTED only, int8 weights elsewhere: convolutions of small networks do not bear int4."""
    return [QuantRule(WEIGHTS8), QuantRule(WEIGHTS4, "FULLY_CONNECTED", algorithm="OCTAV")]
