"""Matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph.errors import refuse_if
from hub_tflite.to_onnx.registry import op

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode

_MATRIX = 2


@op("FULLY_CONNECTED", 14)
def fully_connected(
    node: TfliteNode,
    x: Value,
    w: Value,
    bias: Value | None = None,
    *,
    weights_format: int = 0,
    keep_num_dims: bool = False,
) -> Value:
    """Product of rows with weights (units, inputs); inputs of another rank are rows, unless all axes are kept."""
    refuse_if(weights_format, "weights in a shuffled order")
    rank, width = node.rank(x), node.shape(w)[1]
    if rank != _MATRIX and not keep_num_dims:
        refuse_if(width is None, "weights of open size")
        x, rank = node.reshape(x, (-1, width or 0)), _MATRIX
    if rank == _MATRIX:
        return node.emit("Gemm", x, w, bias, transB=1)
    product = node.emit("MatMul", x, node.transpose(w, (1, 0)))
    return product if bias is None else node.emit("Add", product, bias)


@op("BATCH_MATMUL", 4)
def batch_matmul(node: TfliteNode, x: Value, y: Value, *, adj_x: bool = False, adj_y: bool = False) -> Value:
    """Products of stacked matrices, each factor transposed on demand."""
    return node.emit("MatMul", _adjoint(node, x) if adj_x else x, _adjoint(node, y) if adj_y else y)


def _adjoint(node: TfliteNode, value: Value) -> Value:
    rank = node.rank(value)
    return node.transpose(value, [*range(rank - 2), rank - 1, rank - 2])
