"""Nodes whose inputs are all known: computed at once, by the reference implementation that comes with ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from hub_onnxgraph import Refused

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
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    del alone.input[:]
    alone.input.extend("" if item is None else f"in_{place}" for place, item in enumerate(inputs))
    named = [f"out_{place}" if name else "" for place, name in enumerate(node.output)]
    del alone.output[:]
    alone.output.extend(named)
    feeds = {f"in_{place}": item for place, item in enumerate(inputs) if item is not None}
    asked = [name for name in named if name]
    try:
        results = ReferenceEvaluator(_model(alone, version, list(feeds), asked)).run(asked, feeds)
    except _FAILURES as error:
        raise Refused(f"its inputs are known, and ONNX's reference cannot compute it: {error}") from error
    found = dict(zip(asked, results, strict=True))
    return tuple(_array(found[name]) if name else None for name in named)


def _model(node: onnx.NodeProto, version: int, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    def values(names: list[str]) -> list[onnx.ValueInfoProto]:
        return [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in names]

    graph = onnx.helper.make_graph([node], "fold", values(inputs), values(outputs))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])


def _array(result: Any) -> Any:
    return np.asarray(result) if isinstance(result, np.ndarray | np.generic | int | float | bool) else result
