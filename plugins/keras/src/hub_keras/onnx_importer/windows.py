"""Windows that slide over spatial axes: how many, and where the input has to be padded for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hub_keras.onnx_importer import values
from hub_keras.onnx_importer.values import Value
from hub_onnxgraph import refuse_if

_MAX_SPATIAL = 3
Sizes = Sequence[int | None]


def spatial_rank(x: Value) -> int:
    """The number of spatial axes of an NC... tensor; Keras has layers for 1 to 3."""
    rank = x.ndim - 2
    refuse_if(not 1 <= rank <= _MAX_SPATIAL, f"{rank} spatial axes, Keras has 1 to {_MAX_SPATIAL}")
    return rank


def extents(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """The width of each window with its dilation."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]


def known_sizes(x: Value, what: str) -> list[int]:
    """The spatial sizes.

    Raises:
        Refused: One is open.
    """
    return values.sizes(x, range(2, x.ndim), what)


def same_totals(sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int]) -> list[int]:
    """The padding that makes the result as long as the input divided by the stride, rounded up."""
    parts = zip(sizes, windows, strides, strict=True)
    return [max((-(-size // stride) - 1) * stride + window - size, 0) for size, window, stride in parts]


def split_totals(totals: Sequence[int], *, upper: bool) -> list[int]:
    """Begins and ends; the odd one goes to the end for SAME_UPPER, to the beginning for SAME_LOWER."""
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return small + large if upper else large + small


def explicit_pads(
    auto_pad: str, pads: list[int] | None, x: Value, windows: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """ONNX's pads (begins, then ends).

    Raises:
        Refused: A size is needed and open, or the words contradict each other.
    """
    rank = len(windows)
    if auto_pad == "NOTSET":
        return pads or [0] * (2 * rank)
    refuse_if(pads and any(pads), f"pads together with auto_pad {auto_pad}")
    if auto_pad == "VALID":
        return [0] * (2 * rank)
    refuse_if(auto_pad not in {"SAME_UPPER", "SAME_LOWER"}, f"auto_pad {auto_pad}")
    if all(stride == 1 for stride in strides):
        totals = [window - 1 for window in windows]
    else:
        totals = same_totals(known_sizes(x, f"auto_pad {auto_pad}"), windows, strides)
    return split_totals(totals, upper=auto_pad == "SAME_UPPER")


def is_same(x: Value, pads: Sequence[int], windows: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether Keras' `same` padding is these pads."""
    if all(stride == 1 for stride in strides):
        return list(pads) == split_totals([window - 1 for window in windows], upper=True)
    sizes = x.shape[2:]
    if None in sizes:
        return False
    totals = same_totals([int(size) for size in sizes if size is not None], windows, strides)
    return list(pads) == split_totals(totals, upper=True)


def pairs(pads: Sequence[int]) -> list[tuple[int, int]]:
    """Pads as (begin, end) of each axis."""
    rank = len(pads) // 2
    return list(zip(pads[:rank], pads[rank:], strict=True))


def pad_spatial(x: Value, pads: Sequence[int]) -> Value:
    """Zeros around the spatial axes of a tensor; negative pads cut off."""
    rank = len(pads) // 2
    tensor = x.stored((0, *range(2, x.ndim), 1))
    for kind, amounts in (
        (f"Cropping{rank}D", [(max(-a, 0), max(-b, 0)) for a, b in pairs(pads)]),
        (f"ZeroPadding{rank}D", [(max(a, 0), max(b, 0)) for a, b in pairs(pads)]),
    ):
        if any(map(any, amounts)):
            argument: dict[str, Any] = {
                "cropping" if kind.startswith("C") else "padding": amounts[0] if rank == 1 else amounts
            }
            tensor = x.graph.layer(kind, tensor, **argument)
    return x.made(tensor, (0, *range(2, x.ndim), 1), nonnegative=x.nonnegative)


def ceil_pads(
    sizes: Sequence[int], pads: Sequence[int], windows: Sequence[int], strides: Sequence[int], ceil: int
) -> list[int]:
    """Pads whose ends are moved so that whole windows exactly cover the axis.

    The number of windows is ONNX's: with ceil_mode, a last partial window counts unless it starts in the end padding.
    """
    begins, ends = [], []
    for size, window, stride, (begin, end) in zip(sizes, windows, strides, pairs(pads), strict=True):
        room = size + begin + end - window
        refuse_if(room < 0, f"a window of {window} over {size + begin + end} elements")
        steps = math.ceil(room / stride) if ceil else room // stride
        if ceil and steps * stride >= size + begin:
            steps -= 1
        begins.append(begin)
        ends.append(steps * stride + window - size - begin)
    return begins + ends


def numbers(value: list[int] | None, rank: int) -> list[int]:
    """Strides or dilations, ones by default."""
    return value or [1] * rank
