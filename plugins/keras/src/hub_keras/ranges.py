"""Sensible value ranges of inputs, where the first layer gives them away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub_keras.frameworks import KerasLayer

Range = tuple[float, float]


def input_ranges(layers: Sequence[KerasLayer]) -> dict[str, Range]:
    """Input layer's name -> smallest and largest sensible value, for inputs that a telling layer reads directly."""
    found: dict[str, Range] = {}
    for layer in layers:
        value_range = _RULES.get(type(layer).__name__, _silent)(layer)
        if value_range:
            found.update(dict.fromkeys(_inputs_read(layer), value_range))
    return found


def _silent(_: KerasLayer) -> Range | None:
    return None


def _embedding(layer: KerasLayer) -> Range:
    """Tokens index the rows of the table."""
    return (0.0, float(layer.input_dim - 1))


def _rescaling(layer: KerasLayer) -> Range | None:
    """Rescaling by about 1/255 or 1/127.5 means that pixels come as 0..255."""
    low, high = 1 / 256, 1 / 127
    scale = layer.scale if isinstance(layer.scale, int | float) else 0.0
    return (0.0, 255.0) if low <= scale <= high else None


_RULES: dict[str, Callable[[KerasLayer], Range | None]] = {"Embedding": _embedding, "Rescaling": _rescaling}


def _inputs_read(layer: KerasLayer) -> Iterator[str]:
    for node in getattr(layer, "_inbound_nodes", ()):
        for tensor in node.input_tensors:
            operation = tensor._keras_history.operation  # noqa: SLF001 Keras has no public way from tensor to layer
            if type(operation).__name__ == "InputLayer":
                yield tensor.name
