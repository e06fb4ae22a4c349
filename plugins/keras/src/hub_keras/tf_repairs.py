"""Layers that Keras writes in a way that tf2onnx gets wrong: put right in the loaded model, before it is traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hub.spec import Remark

if TYPE_CHECKING:
    from hub_keras.frameworks import KerasLayer, KerasModel


def repair(model: KerasModel) -> tuple[Remark, ...]:
    """Put a loaded Keras model right, in place; a SavedModel has no layers and stays as it is.

    Returns:
        What was done, in words.
    """
    flatten = getattr(model, "_flatten_layers", None)
    layers = flatten(include_self=False) if flatten else ()
    found = [layer for layer in layers if type(layer).__name__ == "TimeDistributed"]
    for layer in found:
        layer.call = _merged(layer, layer.call)
    text = f"steps as a batch: {', '.join(layer.name for layer in found)}"
    return (Remark("note", "steps-as-batch", text),) if found else ()


def _merged(layer: KerasLayer, original: Callable[..., object]) -> Callable[..., object]:
    """Call the inner layer once, on all steps of all samples as one batch.

    Keras maps it over the steps with TensorFlow's `pfor`, which tf2onnx writes wrongly when their number is open. The
    inner layer treats each sample alone, so that both are the same; not so where a mask goes step by step.
    """

    def call(inputs: object, training: object = None, mask: object = None) -> object:
        from keras import ops

        if mask is not None:
            return original(inputs, training=training, mask=mask)
        samples, steps, *rest = ops.shape(inputs)
        # A layer that behaves otherwise in training takes the word.
        made = (
            layer.layer(ops.reshape(inputs, (-1, *rest)), training=False)
            if getattr(layer.layer, "_call_has_training_arg", False)
            else layer.layer(ops.reshape(inputs, (-1, *rest)))
        )
        return ops.reshape(made, (samples, steps, *ops.shape(made)[1:]))

    return call
