"""A file that keeps a variable, and what its graphs are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from hub_tflitefile.schema import new
from plugins.tflite.tests.tflite_graphs import Graph

SIZE = (1, 3)


def subgraph(made: Graph, inputs: list[int], outputs: list[int]) -> Any:
    return new("SubGraphT", tensors=made.tensors, inputs=inputs, outputs=outputs, operators=made.operators)


def with_variable(*, written: bool = False, start: float = 0.5) -> Any:
    """x + v, with v assigned once, to `start`; `written` assigns it again in the main graph."""
    made = Graph()
    x, handle = made.tensor("x", SIZE), made.tensor("v", (), "RESOURCE")
    value, y = made.tensor("value", SIZE), made.tensor("y", SIZE)
    made.add("CALL_ONCE", [], [], "CallOnceOptions", initSubgraphIndex=1)
    made.add("VAR_HANDLE", [], [handle], "VarHandleOptions", container=b"", sharedName=b"weights")
    made.add("READ_VARIABLE", [handle], [value], "ReadVariableOptions")
    made.add("ADD", [x, value], [y], "AddOptions")
    if written:
        made.add("ASSIGN_VARIABLE", [handle, y], [], "AssignVariableOptions")
    model = made.model([x], [y])
    model.subgraphs.append(first_value(made.inner(), np.full(SIZE, start, np.float32), b"weights"))
    return model


def with_small_state() -> Any:
    """y = x + v in int16, where v is the x of the run before: a hundred of x's steps are less than one of y's."""
    fine, coarse = (new("QuantizationParametersT", scale=[scale], zeroPoint=[0]) for scale in (2.0**-15, 2.0**-6))
    made = Graph()
    x, handle = made.tensor("x", SIZE, "INT16", quantization=fine), made.tensor("v", (), "RESOURCE")
    value = made.tensor("value", SIZE, "INT16", quantization=fine)
    y = made.tensor("y", SIZE, "INT16", quantization=coarse)
    made.add("CALL_ONCE", [], [], "CallOnceOptions", initSubgraphIndex=1)
    made.add("VAR_HANDLE", [], [handle], "VarHandleOptions", container=b"", sharedName=b"past")
    made.add("READ_VARIABLE", [handle], [value], "ReadVariableOptions")
    made.add("ADD", [x, value], [y], "AddOptions", potScaleInt16=False)
    made.add("ASSIGN_VARIABLE", [handle, x], [], "AssignVariableOptions")
    model = made.model([x], [y])
    model.subgraphs.append(first_value(made.inner(), np.zeros(SIZE, np.int16), b"past", "INT16"))
    return model


def first_value(made: Graph, start: np.ndarray[Any, Any], name: bytes, kind: str = "FLOAT32") -> Any:
    """A graph that gives a variable its first value."""
    handle, value = made.tensor("v", (), "RESOURCE"), made.constant("start", start, kind)
    made.add("VAR_HANDLE", [], [handle], "VarHandleOptions", container=b"", sharedName=name)
    made.add("ASSIGN_VARIABLE", [handle, value], [], "AssignVariableOptions")
    return subgraph(made, [], [])
