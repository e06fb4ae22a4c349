"""Computes at import time what hangs on constants alone: sizes, axes, indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hub_tflite.to_onnx.lazy import np

if TYPE_CHECKING:
    from hub_tflite.to_onnx.builder import Array, Attribute

_MOST = 256
"""Elements: index arithmetic is far below, and weights are far above."""
_KINDS = frozenset({
    "Add", "Cast", "Concat", "Div", "Equal", "Expand", "Gather", "Max", "Min", "Mod", "Mul", "Neg", "Range",
    "ReduceProd", "Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip


def folded(op: str, arrays: Sequence[Array | None], attributes: Mapping[str, Attribute], opset: int) -> Array | None:
    """Return the one result of an operator on constants of integers or truths; None to leave it to the runtime."""
    known = [array for array in arrays if array is not None]
    if op not in _KINDS or not known or len(known) < len(arrays):
        return None
    if any(array.size > _MOST or array.dtype.kind not in "iub" for array in known):
        return None
    from onnx import helper

    from hub_onnxgraph.reference import computed

    node = helper.make_node(op, [f"i{place}" for place in range(len(known))], ["o"])
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    (made,) = computed(node, opset, known)
    result = np.asarray(made)
    return None if result.size > _MOST else result
