"""What importers of ONNX share: the standard's words on a node, and the table from operator to function.

It computes nothing and knows no framework.
"""

from hub_onnxgraph.errors import Refused, UnsupportedOperator, refuse_if
from hub_onnxgraph.lazy import LazyModule
from hub_onnxgraph.table import NodeContext, Operator, Table

__all__ = ["LazyModule", "NodeContext", "Operator", "Refused", "Table", "UnsupportedOperator", "refuse_if"]
