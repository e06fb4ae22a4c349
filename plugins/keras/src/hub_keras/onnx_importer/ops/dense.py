"""Matrix products: a Dense layer where one factor is a weight."""

from __future__ import annotations

from hub_keras.onnx_importer.applied import added
from hub_keras.onnx_importer.dims import Array
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, graph_of, is_constant, plain
from hub_onnxgraph import refuse_if

_MATRIX = 2


@op("MatMul", 1, 9, 13)
def matmul(a: Item, b: Item) -> KerasValue:
    """Product with numpy's broadcasting."""
    if isinstance(a, KerasValue) and is_constant(b) and b.ndim == _MATRIX and a.ndim >= _MATRIX and "float" in a.dtype:
        return dense(a, b, None, b)
    graph = graph_of(a, b)
    made = ops.matmul(plain(graph, a), plain(graph, b))
    return KerasValue(graph, made, tuple(range(len(made.shape))))


def dense(a: KerasValue, kernel: Array, bias: Array | None, after: Array) -> KerasValue:
    """A Dense layer over the last axis; the axes before it may be stored in any order."""
    last = a.ndim - 1
    order = a.order if a.order[-1] == last else (*(axis for axis in a.order if axis != last), last)
    if not a.is_plain and order != a.order:
        order = tuple(range(a.ndim))
    tensor = a.graph.layer(
        "Dense",
        a.stored(order),
        arrays=[kernel] if bias is None else [kernel, bias],
        after=after,
        units=kernel.shape[1],
        use_bias=bias is not None,
    )
    return a.made(tensor, order)


@op("Gemm", 7, 9, 11, 13)
def gemm(  # noqa: PLR0913 - the operator's own parameters
    a: Item,
    b: Item,
    c: Item | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> KerasValue:
    """The sum alpha A B + beta C, the factors transposed on demand."""
    if isinstance(a, KerasValue) and is_constant(b) and (c is None or is_constant(c)) and "float" in a.dtype:
        kernel = (b.T if transB else b) * np.asarray(alpha, b.dtype)
        source = a.made(a.tensor, a.order[::-1]) if transA else a
        if c is None or (c.size in {1, kernel.shape[1]} and c.size == c.shape[-1:][0] if c.ndim else True):
            bias = (
                None if c is None else np.broadcast_to(np.reshape(c * np.asarray(beta, c.dtype), -1), kernel.shape[1:])
            )
            return dense(
                KerasValue(source.graph, source.tensor, tuple(1 - axis for axis in a.order) if transA else a.order),
                kernel,
                bias,
                b,
            )
    return _general(a, b, c, (alpha, beta, transA, transB))


def _general(a: Item, b: Item, c: Item | None, form: tuple[float, float, int, int]) -> KerasValue:
    alpha, beta, flip_a, flip_b = form
    graph = graph_of(a, b, c)
    left, right = plain(graph, a), plain(graph, b)
    refuse_if(not left.shape or not right.shape, "a factor that is no matrix")
    product = ops.matmul(ops.transpose(left) if flip_a else left, ops.transpose(right) if flip_b else right)
    kind = str(product.dtype)
    product = product if alpha == 1.0 else ops.multiply(product, np.asarray(alpha, kind))
    if c is not None:
        term = plain(graph, c)
        product = added(product, term if beta == 1.0 else ops.multiply(term, np.asarray(beta, kind)))
    return KerasValue(graph, product, (0, 1))
