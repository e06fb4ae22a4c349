"""Windows that slide over spatial axes: how many, and where the input has to be padded for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hub_keras.onnx_importer import values
from hub_keras.onnx_importer.values import KerasValue
from hub_onnxgraph import refuse_if
from hub_onnxgraph.windows import Sliding, WindowForm, pairs, same_totals, split_totals

_MAX_SPATIAL = 3  # Keras' layers and torch's functions end at volumes


def spatial_rank(x: KerasValue) -> int:
    """The number of spatial axes of an NC... tensor; Keras has layers for 1 to 3."""
    rank = x.ndim - 2
    refuse_if(not 1 <= rank <= _MAX_SPATIAL, f"{rank} spatial axes, Keras has 1 to {_MAX_SPATIAL}")
    return rank


def known_sizes(x: KerasValue, what: str) -> list[int]:
    """The spatial sizes.

    Raises:
        Refused: One is open.
    """
    return values.sizes(x, range(2, x.ndim), what)


def explicit_pads(form: WindowForm, window: Sliding, x: KerasValue) -> list[int]:
    """ONNX's pads (begins, then ends).

    Raises:
        Refused: A size is needed and open, or the words contradict each other.
    """
    return form.explicit_pads(window, lambda: known_sizes(x, f"auto_pad {form.auto_pad}"))


def is_same(x: KerasValue, pads: Sequence[int], window: Sliding) -> bool:
    """Whether Keras' `same` padding is these pads."""
    if max(window.strides) == 1:
        return list(pads) == split_totals([extent - 1 for extent in window.extents], upper=True)
    sizes = [size for size in x.shape[2:] if size is not None]
    known = len(sizes) == window.rank
    return known and list(pads) == split_totals(same_totals(sizes, window), upper=True)


def pad_spatial(x: KerasValue, pads: Sequence[int]) -> KerasValue:
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
