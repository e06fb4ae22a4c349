"""Convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph import refuse_if
from hub_onnxgraph.windows import Convolution, Sliding, Transposed, WindowForm
from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.ops.shape import pad_with
from hub_pytorch.onnx_importer.registry import op
from hub_pytorch.onnx_importer.sizes import is_int, largest, plain

if TYPE_CHECKING:
    from torch import Tensor

_MAX_SPATIAL = 3


def spatial_rank(x: Tensor) -> int:
    """The number of spatial axes of an NC... tensor; torch has functions for 1 to 3."""
    rank: int = x.ndim - 2
    refuse_if(not 1 <= rank <= _MAX_SPATIAL, f"{rank} spatial axes, torch has 1 to {_MAX_SPATIAL}")
    return rank


def explicit_pads(form: WindowForm, window: Sliding, x: Tensor) -> list[int]:
    """ONNX's pads (begins, then ends)."""
    return form.explicit_pads(window, lambda: x.shape[2:], largest)


@op("Conv", 1, 11, 22)
def conv(x: Tensor, w: Tensor, b: Tensor | None = None, *, form: Convolution) -> Tensor:
    """Cross-correlation of NC... with MC.../group; uneven and negative pads become a Pad of their own."""
    rank = spatial_rank(x)
    window = form.of(w.shape[2:])
    around = explicit_pads(form, window, x)
    begins, ends = around[:rank], around[rank:]
    if not all(map(is_int, around)) or begins != ends or min(around) < 0:
        x = pad_with(x, [0, 0, *begins, 0, 0, *ends], "constant", 0)
        begins = [0] * rank
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    return function(x, w, b, window.strides, begins, window.dilations, window.group)


@op("ConvTranspose", 1, 11, 22)
def conv_transpose(x: Tensor, w: Tensor, b: Tensor | None = None, *, form: Transposed) -> Tensor:
    """Transposed convolution; pads crop the full result, output_padding extends its end."""
    rank = spatial_rank(x)
    window = form.of(w.shape[2:])
    crop, extra = form.crop(window, lambda: x.shape[2:])
    pads = [plain(amount) for amount in crop]
    begins, ends = pads[:rank], pads[rank:]
    function = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    if all(map(is_int, pads)) and begins == ends and min(begins) >= 0 and not any(extra):
        return function(x, w, b, window.strides, begins, 0, window.group, window.dilations)
    full = function(x, w, None, window.strides, 0, 0, window.group, window.dilations)
    cut = [0, 0, *[-p for p in begins], 0, 0, *[e - p for e, p in zip(extra, ends, strict=True)]]
    result = pad_with(full, cut, "constant", 0)
    return result if b is None else torch.add(result, torch.reshape(b, [1, -1, *[1] * rank]))
