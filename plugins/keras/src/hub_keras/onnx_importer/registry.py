"""The table from (domain, operator) to the function that translates it; see `hub_onnxgraph.table` for the contract.

What reaches such a function: a tensor that depends on the model's inputs is a `values.KerasValue`; one that is known is
a numpy array (of objects where it holds open sizes, see `dims`). A node whose inputs are all known never gets there: it
is computed at once (`folding`).
"""

from __future__ import annotations

from hub_onnxgraph import NodeContext, Table
from hub_onnxgraph.base import BASE

__all__ = ["TABLE", "NodeContext", "op"]

TABLE = Table("hub_keras.onnx_importer.ops", BASE)
op = TABLE.op
