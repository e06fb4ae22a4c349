"""Computes at import time what hangs on constants alone: sizes, axes, indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MOST = 256
"""Elements: index arithmetic is far below, and weights are far above."""
_KINDS = frozenset({
    "Add", "Cast", "Concat", "Div", "Equal", "Expand", "Gather", "Max", "Min", "Mod", "Mul", "Neg", "Range",
    "ReduceProd", "Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip


def folded(op: str, arrays: Sequence[Any], attributes: dict[str, Any], opset: int) -> Any:
    """Return the one result of an operator on constants of integers or truths; None to leave it to the runtime."""
    if op not in _KINDS or not arrays or any(array is None for array in arrays):
        return None
    if any(array.size > _MOST or array.dtype.kind not in "iub" for array in arrays):
        return None
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = [f"i{place}" for place in range(len(arrays))]
    node = helper.make_node(op, names, ["o"], **attributes)
    types = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, arrays, strict=True)
    ]
    graph = helper.make_graph([node], "folding", types, [helper.make_empty_tensor_value_info("o")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    (result,) = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
    return None if result.size > _MOST else result
