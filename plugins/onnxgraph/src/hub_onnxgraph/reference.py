"""A node alone, computed on arrays by the reference implementation that comes with ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator


def computed(node: onnx.NodeProto, version: int, inputs: Sequence[NDArray[Any] | None]) -> tuple[object, ...]:
    """Compute a node of ONNX's own domain; raises whatever the reference implementation meets.

    Args:
        node: The node; the names of its inputs do not matter.
        version: The opset.
        inputs: An array for each input, None for one that is left out.

    Returns:
        What each output is; None for one without a name.
    """
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    # An empty name says that an input or output is left out, and two inputs may be one tensor.
    alone.input[:] = ["" if item is None else f"in_{place}" for place, item in enumerate(inputs)]
    alone.output[:] = [f"out_{place}" if name else "" for place, name in enumerate(node.output)]
    feeds = {name: item for name, item in zip(alone.input, inputs, strict=True) if item is not None}
    asked = [name for name in alone.output if name]
    given, made = ([helper.make_value_info(name, onnx.TypeProto()) for name in names] for names in (feeds, asked))
    graph = helper.make_graph([alone], "alone", given, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    found = dict(zip(asked, ReferenceEvaluator(model).run(asked, feeds), strict=True))
    return tuple(found.get(name) for name in alone.output)
