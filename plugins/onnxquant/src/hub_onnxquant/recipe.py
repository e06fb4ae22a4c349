"""What a static quantization is asked for, as data: `hub_onnxruntime.quantize.static` applies it."""

from __future__ import annotations

from dataclasses import dataclass

from hub_onnxquant.placement import Extent
from hub_onnxquant.qdq import Scheme


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that is needed besides the model and what was observed.

    Attributes:
        extent: How much is quantized.
        method: Name of the way that ranges are drawn.
        scheme: Element types.
        kept: Products that stay in float.
    """

    extent: Extent
    method: str
    scheme: Scheme
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        spared = f", {len(self.kept)} layers in float" if self.kept else ""
        return f"{self.extent.words}, {self.method}{spared}"
