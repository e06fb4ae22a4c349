"""Constants, and what passes through."""

from __future__ import annotations

from typing import Any

from hub_keras.onnx_importer.lazy import np
from hub_keras.onnx_importer.registry import NodeContext, op
from hub_keras.onnx_importer.values import Value, scalar
from hub_onnxgraph import refuse_if


@op("Constant", 1, 9, 11, 12, 13, 19, 21, 23, 24, 25)
def constant(
    *,
    value: Any = None,
    value_float: float | None = None,
    value_floats: list[float] | None = None,
    value_int: int | None = None,
    value_ints: list[int] | None = None,
) -> Any:
    """A constant given in one of five forms."""
    floats = value_float if value_float is not None else value_floats
    integers = value_int if value_int is not None else value_ints
    if floats is not None:
        return np.asarray(floats, dtype=np.float32)
    return value if integers is None else np.asarray(integers, dtype=np.int64)


@op("Identity", 1, 13, 14, 16, 19, 21, 23, 24, 25)
def identity(x: Any) -> Any:
    """The value itself."""
    return x


@op("Dropout", 7, 10)
def dropout_attribute(node: NodeContext, x: Value, *, ratio: float = 0.5) -> Value:
    """Nothing is dropped outside training."""
    refuse_if(node.outputs > 1, "the mask is not implemented")
    return _dropout(x, ratio)


@op("Dropout", 12, 13, 22)
def dropout(
    node: NodeContext, x: Value, ratio: Any = None, training_mode: Any = None, *, seed: int | None = None
) -> Value:
    """Nothing is dropped outside training."""
    del seed
    refuse_if(node.outputs > 1, "the mask is not implemented")
    refuse_if(training_mode is not None and scalar(training_mode, "training_mode"), "training_mode")
    return _dropout(x, 0.5 if ratio is None else float(scalar(ratio, "ratio")))


def _dropout(x: Value, ratio: float) -> Value:
    """A layer, so that the model drops when it is trained."""
    if not 0 < ratio < 1:
        return x
    return x.like(x.graph.layer("Dropout", x.tensor, rate=ratio), nonnegative=x.nonnegative)
