"""Convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph import refuse_if
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


def same_pads(auto_pad: str, totals: list[int]) -> list[int]:
    """Share out total paddings; the odd one goes to the end for SAME_UPPER, to the beginning for SAME_LOWER."""
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return small + large if auto_pad == "SAME_UPPER" else large + small


def explicit_pads(
    auto_pad: str, pads: list[int] | None, sizes: tuple[int, ...], windows: list[int], strides: list[int]
) -> list[int]:
    """ONNX's pads (begins, then ends) for windows of a given extent (dilation included) over an axis."""
    rank = len(windows)
    if auto_pad == "NOTSET":
        return pads or [0] * (2 * rank)
    refuse_if(pads and any(pads), f"pads together with auto_pad {auto_pad}")
    if auto_pad == "VALID":
        return [0] * (2 * rank)
    refuse_if(auto_pad not in {"SAME_UPPER", "SAME_LOWER"}, f"auto_pad {auto_pad}")
    counts = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    totals = [
        largest((count - 1) * stride + window - size, 0)
        for count, stride, window, size in zip(counts, strides, windows, sizes, strict=True)
    ]
    return same_pads(auto_pad, totals)


def extents(kernel: list[int], dilations: list[int]) -> list[int]:
    """The width of each window with its dilation."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]


@op("Conv", 1, 11, 22)
def conv(  # noqa: PLR0913 - the operator's own parameters
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Cross-correlation of NC... with MC.../group; uneven and negative pads become a Pad of their own."""
    rank = spatial_rank(x)
    kernel = list(w.shape[2:])
    refuse_if(kernel_shape and kernel_shape != kernel, f"kernel_shape {kernel_shape} with weights of {kernel}")
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    around = explicit_pads(auto_pad, pads, x.shape[2:], extents(kernel, dilations), strides)
    begins, ends = around[:rank], around[rank:]
    if not all(map(is_int, around)) or begins != ends or min(around) < 0:
        x = pad_with(x, [0, 0, *begins, 0, 0, *ends], "constant", 0)
        begins = [0] * rank
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    return function(x, w, b, strides, begins, dilations, group)


@op("ConvTranspose", 1, 11, 22)
def conv_transpose(  # noqa: PLR0913 - the operator's own parameters
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Transposed convolution; pads crop the full result, output_padding extends its end."""
    rank = spatial_rank(x)
    kernel = list(w.shape[2:])
    refuse_if(kernel_shape and kernel_shape != kernel, f"kernel_shape {kernel_shape} with weights of {kernel}")
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    extra = output_padding or [0] * rank
    full = [s * (n - 1) + e for s, n, e in zip(strides, x.shape[2:], extents(kernel, dilations), strict=True)]
    wanted = output_shape[-rank:] if output_shape else None
    if wanted is None and auto_pad.startswith("SAME"):
        wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if wanted is not None:
        totals = [plain(f + e - o) for f, e, o in zip(full, extra, wanted, strict=True)]
        pads = _crop(auto_pad, totals)
    pads = pads or [0] * (2 * rank)
    return _transposed(x, w, b, (strides, dilations, group), (pads, extra))


def _crop(auto_pad: str, totals: list[int]) -> list[int]:
    """The crop that reaches a wanted output size; the odd one is taken as the standard's formula says."""
    refuse_if(auto_pad not in {"NOTSET", "SAME_UPPER", "SAME_LOWER"}, f"auto_pad {auto_pad} with output_shape")
    return same_pads("SAME_UPPER" if auto_pad == "SAME_UPPER" else "SAME_LOWER", totals)


def _transposed(
    x: Tensor, w: Tensor, b: Tensor | None, form: tuple[list[int], list[int], int], around: tuple[list[int], list[int]]
) -> Tensor:
    (strides, dilations, group), (pads, extra) = form, around
    rank = len(strides)
    begins, ends = pads[:rank], pads[rank:]
    function = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    if all(map(is_int, pads)) and begins == ends and min(begins) >= 0 and not any(extra):
        return function(x, w, b, strides, begins, 0, group, dilations)
    full = function(x, w, None, strides, 0, 0, group, dilations)
    crop = [0, 0, *[-p for p in begins], 0, 0, *[e - p for e, p in zip(extra, ends, strict=True)]]
    result = pad_with(full, crop, "constant", 0)
    return result if b is None else torch.add(result, torch.reshape(b, [1, -1, *[1] * rank]))
