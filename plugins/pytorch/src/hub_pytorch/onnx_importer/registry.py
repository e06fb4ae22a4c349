"""The table from (domain, operator) to the function that translates it; see `hub_onnxgraph.table` for the contract."""

from __future__ import annotations

from hub_onnxgraph import NodeContext, Table
from hub_onnxgraph.base import BASE

__all__ = ["TABLE", "NodeContext", "op"]

TABLE = Table("hub_pytorch.onnx_importer.ops", BASE)
op = TABLE.op
