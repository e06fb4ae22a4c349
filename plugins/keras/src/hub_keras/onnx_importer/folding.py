"""Nodes whose inputs are all known: computed at once, by the reference implementation that comes with ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from hub_onnxgraph import Refused
from hub_onnxgraph.reference import computed

_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def foldable(node: onnx.NodeProto, inputs: Sequence[Any]) -> bool:
    """Whether a node can be computed now: standard operator, all inputs plain arrays, no subgraph, no chance."""
    arrays = [item for item in inputs if item is not None]
    known = bool(arrays) and all(isinstance(item, np.ndarray) and item.dtype != object for item in arrays)
    graphs = any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute)
    return known and not graphs and node.domain in {"", "ai.onnx"} and node.op_type not in _RANDOM


def fold(node: onnx.NodeProto, version: int, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Compute a node on arrays.

    Raises:
        Refused: The reference implementation does not take it.
    """
    try:
        results = computed(node, version, inputs)
    except _FAILURES as error:
        raise Refused(f"its inputs are known, and ONNX's reference cannot compute it: {error}") from error
    return tuple(map(_array, results))


def _array(result: Any) -> Any:
    return np.asarray(result) if isinstance(result, np.ndarray | np.generic | int | float | bool) else result
