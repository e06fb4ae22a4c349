"""Dropout, which passes its input through."""

from __future__ import annotations

from hub_keras.onnx_importer.registry import NodeContext, op
from hub_keras.onnx_importer.values import Item, KerasValue, scalar
from hub_onnxgraph import refuse_if


@op("Dropout", 7, 10)
def dropout_attribute(node: NodeContext, x: KerasValue, *, ratio: float = 0.5) -> KerasValue:
    """Nothing is dropped outside training."""
    refuse_if(node.outputs > 1, "the mask is not implemented")
    return _dropout(x, ratio)


@op("Dropout", 12, 13, 22)
def dropout(
    node: NodeContext,
    x: KerasValue,
    ratio: Item | None = None,
    training_mode: Item | None = None,
    *,
    seed: int | None = None,
) -> KerasValue:
    """Nothing is dropped outside training."""
    del seed
    refuse_if(node.outputs > 1, "the mask is not implemented")
    refuse_if(training_mode is not None and scalar(training_mode, "training_mode"), "training_mode")
    return _dropout(x, 0.5 if ratio is None else float(scalar(ratio, "ratio")))


def _dropout(x: KerasValue, ratio: float) -> KerasValue:
    """A layer, so that the model drops when it is trained."""
    if not 0 < ratio < 1:
        return x
    return x.like(x.graph.layer("Dropout", x.tensor, rate=ratio), nonnegative=x.nonnegative)
