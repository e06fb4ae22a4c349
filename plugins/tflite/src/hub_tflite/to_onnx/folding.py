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
    from onnx.reference import ReferenceEvaluator

    names = [f"i{place}" for place in range(len(known))]
    node = helper.make_node(op, names, ["o"])
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    types = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, known, strict=True)
    ]
    graph = helper.make_graph([node], "folding", types, [helper.make_empty_tensor_value_info("o")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    (made,) = ReferenceEvaluator(model).run(None, dict(zip(names, known, strict=True)))
    result = np.asarray(made)
    return None if result.size > _MOST else result
