"""Layers that Keras computes otherwise on its torch backend, or that torch.export cannot follow there.

What can be put right is put right before the export and said; what cannot is refused. Each entry was found by comparing
every public layer on both backends (`tests/test_keras_judge.py`); Keras 3.15.1, torch 2.13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hub.spec import Remark, UnsupportedModel

if TYPE_CHECKING:
    import torch

    from hub_keras.frameworks import KerasLayer, KerasModel


def repair(model: KerasModel) -> tuple[Remark, ...]:
    """Put a loaded model right, in place.

    Returns:
        What was done.

    Raises:
        UnsupportedModel: A layer computes something else on this backend, and that cannot be put right.
    """
    layers = list(model._flatten_layers(include_self=False))  # noqa: SLF001 the public list stops at nested models
    masked = any(type(layer).__name__ == "Masking" or getattr(layer, "mask_zero", False) for layer in layers)
    done: dict[Remark, list[str]] = {}
    for layer in layers:
        for remark in _repaired(layer, masked=masked):
            done.setdefault(remark, []).append(layer.name)
    return tuple(
        Remark(remark.kind, remark.code, f"{remark.text}: {', '.join(names)}") for remark, names in done.items()
    )


def _repaired(layer: KerasLayer, *, masked: bool) -> Iterator[Remark]:
    for kinds, option, values, reason in _OTHERWISE:
        if type(layer).__name__ in kinds and (not option or getattr(layer, option) in values):
            chosen = f" with {option}={getattr(layer, option)}" if option else ""
            message = f"{layer.name} ({type(layer).__name__}{chosen}): on Keras' torch backend it {reason}"
            raise UnsupportedModel(message, hint="the engines on TensorFlow take it")
    kind = type(layer).__name__
    if kind in _PADDED and layer.padding == "same":
        layer.call = _PADDED[kind](layer)
        text = "averaged without the padding, for which Keras' torch backend repeats the border"
        yield Remark("note", "padding-left-out", text)
    if getattr(layer, "activity_regularizer", None) is not None:
        layer.activity_regularizer = None
        yield Remark("note", "regularizer-left-out", "left out the activity regularizer, a loss of training")
    if kind in _LOOPED and not layer.unroll and _walks_the_batch(layer, masked=masked):
        layer.unroll = True
        yield Remark("note", "steps-unrolled", "steps written one by one")


_LOOPED = frozenset({"SimpleRNN", "GRU", "LSTM", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"})


def _walks_the_batch(layer: KerasLayer, *, masked: bool) -> bool:
    """Whether Keras' general loop runs the layer, which takes the batch for a list of steps and so fixes its size.

    Source: `rnn`, `lstm` and `gru` in keras/src/backend/torch/rnn.py of Keras 3.15. Written step by step, that code
    cannot turn a mask around.
    """
    general = masked or type(layer).__name__ not in {"LSTM", "GRU"} or not getattr(layer, "reset_after", True)
    return general and not (masked and layer.go_backwards)


# (classes, option, its values, what is wrong)
_OTHERWISE: tuple[tuple[frozenset[str], str, frozenset[str], str], ...] = (
    (
        frozenset({"UpSampling2D", "Resizing"}),
        "interpolation",
        frozenset({"bicubic"}),
        "interpolates with another cubic (a = -0.75 instead of -0.5)",
    ),
    (
        frozenset({"ContrastLimitedAdaptiveHistogramEqualization"}),
        "",
        frozenset(),
        "equalizes with other rounding",
    ),
)


def _average_pooling(layer: KerasLayer) -> Callable[[torch.Tensor], torch.Tensor]:
    """Average over the elements under the window: zeros around, divided by the average of ones with zeros around."""

    def call(inputs: torch.Tensor) -> torch.Tensor:
        from keras import ops

        def pooled(tensor: torch.Tensor) -> torch.Tensor:
            # As TensorFlow pads for `same`: the odd one comes after.
            first = 1 if layer.data_format == "channels_last" else 2
            pads: list[tuple[int, int]] = [(0, 0)] * len(inputs.shape)
            for axis, (window, stride) in enumerate(zip(layer.pool_size, layer.strides, strict=True), start=first):
                size = inputs.shape[axis]
                total = max((-(-size // stride) - 1) * stride + window - size, 0)
                pads[axis] = (total // 2, total - total // 2)
            padded = ops.pad(tensor, pads)
            mean: torch.Tensor = ops.average_pool(padded, layer.pool_size, layer.strides, "valid", layer.data_format)
            return mean

        return pooled(inputs) / pooled(ops.ones_like(inputs))

    return call


_PADDED: dict[str, Callable[[KerasLayer], Callable[[torch.Tensor], torch.Tensor]]] = {
    f"AveragePooling{rank}D": _average_pooling for rank in (1, 2, 3)
}
