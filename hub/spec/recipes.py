"""Quantization recipes: data, named, saved in the receipt."""

from typing import Any, Literal

import msgspec

from hub.spec.numerics import Numerics
from hub.spec.tensors import DType


class QuantRecipe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a model was quantized.

    Attributes:
        name: Short name of the recipe.
        tool: Library and version that applied it.
        numerics: What it gives.
        weights: Element type of the weights.
        activations: Element type of the activations in quantized layers.
        granularity: One scale per tensor, per output channel, or per block.
        symmetric_activations: Whether activations have zero point 0.
        calibration_method: How ranges were chosen (`min-max`, `percentile 99.99`); empty when nothing was calibrated.
        samples: Calibration samples read.
        kept_float: Layers or operator types that stay in float, and are not an accident.
        settings: The tool's own settings, whole, so that the recipe can be applied again.
    """

    name: str
    tool: str
    numerics: Numerics
    weights: DType
    activations: DType
    granularity: Literal["per-tensor", "per-channel", "block-wise"]
    symmetric_activations: bool = False
    calibration_method: str = ""
    samples: int = 0
    kept_float: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
