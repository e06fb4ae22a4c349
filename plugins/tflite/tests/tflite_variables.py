"""A file that keeps a variable, and what its graphs are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from hub_tflitefile.schema import new
from plugins.tflite.tests.tflite_graphs import Graph

SIZE = (1, 3)


def subgraph(made: Graph, inputs: list[int], outputs: list[int]) -> Any:
    return new("SubGraphT", tensors=made.tensors, inputs=inputs, outputs=outputs, operators=made.operators)


def with_variable(*, written: bool = False) -> Any:
    """x + v, with v assigned once; `written` assigns it again in the main graph."""
    made, first = Graph(), None
    x, handle = made.tensor("x", SIZE), made.tensor("v", (), "RESOURCE")
    value, y = made.tensor("value", SIZE), made.tensor("y", SIZE)
    made.add("CALL_ONCE", [], [], "CallOnceOptions", initSubgraphIndex=1)
    made.add("VAR_HANDLE", [], [handle], "VarHandleOptions", container=b"", sharedName=b"weights")
    made.add("READ_VARIABLE", [handle], [value], "ReadVariableOptions")
    made.add("ADD", [x, value], [y], "AddOptions")
    if written:
        made.add("ASSIGN_VARIABLE", [handle, y], [], "AssignVariableOptions")
    model = made.model([x], [y])
    first = made.inner()
    again, start = first.tensor("v", (), "RESOURCE"), first.constant("start", np.full(SIZE, 0.5, np.float32))
    first.add("VAR_HANDLE", [], [again], "VarHandleOptions", container=b"", sharedName=b"weights")
    first.add("ASSIGN_VARIABLE", [again, start], [], "AssignVariableOptions")
    model.subgraphs.append(subgraph(first, [], []))
    return model
