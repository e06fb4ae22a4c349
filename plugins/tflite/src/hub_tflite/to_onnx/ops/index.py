"""Reading and writing by index, and tensors made of indices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph.errors import refuse_if
from hub_tflite.to_onnx.lazy import ir, np
from hub_tflite.to_onnx.registry import op

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode


@op("GATHER", 7)
def gather(node: TfliteNode, x: Value, indices: Value, *, axis: int = 0, batch_dims: int = 0) -> Value:
    """Slices of an axis; with batch axes, each row picks from its own."""
    if batch_dims == 0:
        return node.emit("Gather", x, indices, axis=axis)
    rank, picks = node.rank(x), node.rank(indices)
    batch, along = batch_dims if batch_dims > 0 else batch_dims + picks, axis % rank
    # GatherND reads the axis behind the batch: the gathered one is moved there, the result's are moved back.
    between = range(batch, along)
    front = node.transpose(x, [*range(batch), along, *between, *range(along + 1, rank)]) if between else x
    result = node.emit(
        "GatherND", front, node.emit("Unsqueeze", node.int64(indices), node.constant([-1])), batch_dims=batch
    )
    if not between:
        return result
    new = picks - batch
    passed = range(batch + new, batch + new + len(between))
    behind = range(batch + new + len(between), rank - 1 + new)
    return node.transpose(result, [*range(batch), *passed, *range(batch, batch + new), *behind])


@op("EMBEDDING_LOOKUP", 5)
def embedding_lookup(node: TfliteNode, ids: Value, rows: Value) -> Value:
    """Rows of a table."""
    return node.emit("Gather", rows, ids, axis=0)


@op("GATHER_ND", 5)
def gather_nd(node: TfliteNode, x: Value, indices: Value) -> Value:
    """Slices at places of the first axes."""
    return node.emit("GatherND", x, node.int64(indices))


@op("SCATTER_ND")
def scatter_nd(node: TfliteNode, indices: Value, updates: Value, shape: Value) -> Value:
    """Zeros with updates added at places: those of one place are summed."""
    empty = node.emit("Expand", node.like(updates, 0), node.int64(shape))
    return node.emit("ScatterND", empty, node.int64(indices), updates, reduction="add")


@op("SPARSE_TO_DENSE", 3)
def sparse_to_dense(
    node: TfliteNode, indices: Value, shape: Value, values: Value, default: Value, *, validate_indices: bool = False
) -> Value:
    """A default with values at places; places are a row each, or one axis' indices."""
    del validate_indices  # a check at run time that changes no result
    rank = node.rank(indices)
    empty = node.emit("Expand", default, node.int64(shape))
    places = node.int64(indices)
    if rank < 2:  # noqa: PLR2004 - a matrix has a row for each place
        places = node.reshape(places, (-1, 1))
    if node.rank(values) == 0:
        values = node.emit(
            "Expand", values, node.emit("Slice", node.emit("Shape", places), node.constant([0]), node.constant([1]))
        )
    return node.emit("ScatterND", empty, places, values)


@op("TILE", 3)
def tile(node: TfliteNode, x: Value, repeats: Value) -> Value:
    """Copies side by side."""
    return node.emit("Tile", x, node.int64(repeats))


@op("BROADCAST_TO", 3, oldest=2)
def broadcast_to(node: TfliteNode, x: Value, shape: Value) -> Value:
    """Copies along axes of size 1."""
    return node.emit("Expand", x, node.int64(shape))


@op("BROADCAST_ARGS")
def broadcast_args(node: TfliteNode, first: Value, second: Value) -> Value:
    """The shape that two shapes broadcast to."""
    ranks = [*node.sizes(first), *node.sizes(second)]
    sizes = []
    for own, value in zip(ranks, (first, second), strict=True):
        ones = node.constant([1] * (max(ranks) - own))
        sizes.append(node.emit("Concat", ones, node.int64(value), axis=0))
    one = node.constant([1])
    wide = node.emit("Where", node.emit("Equal", sizes[0], one), sizes[1], sizes[0])
    return node.cast(wide, node.result_type())


@op("FILL", 4)
def fill(node: TfliteNode, shape: Value, value: Value) -> Value:
    """One value everywhere."""
    return node.emit("Expand", value, node.int64(shape))


@op("RANGE", 2)
def range_(node: TfliteNode, start: Value, limit: Value, delta: Value) -> Value:
    """Numbers from a start up to a limit."""
    return node.emit("Range", start, limit, delta)


@op("RANK")
def rank_of(node: TfliteNode, x: Value) -> Value:
    """The number of axes."""
    return node.constant(node.rank(x), node.result_type())


@op("ONE_HOT")
def one_hot(node: TfliteNode, indices: Value, depth: Value, on: Value, off: Value, *, axis: int = -1) -> Value:
    """`on` at each index, else `off`, also for an index outside: ONNX's OneHot takes -1 for the last."""
    rank = node.rank(indices)
    place = axis % (rank + 1)
    count = node.reshape(node.int64(depth), ())
    numbers = node.emit("Range", node.constant(0), count, node.constant(1))
    behind = rank - place
    if behind:
        numbers = node.emit("Unsqueeze", numbers, node.constant(list(range(1, behind + 1))))
    here = node.emit("Equal", node.emit("Unsqueeze", node.int64(indices), node.constant([place])), numbers)
    return node.emit("Where", here, on, off)


def _diagonal(node: TfliteNode, rows: int, columns: int) -> Value:
    return node.constant(np.eye(rows, columns, dtype=np.bool_))


@op("MATRIX_DIAG")
def matrix_diag(node: TfliteNode, x: Value) -> Value:
    """Matrices with the last axis as their diagonals."""
    (size,) = node.sizes(x, [-1])
    here = _diagonal(node, size, size)
    return node.emit("Where", here, node.emit("Unsqueeze", x, node.constant([-1])), node.like(x, 0))


@op("MATRIX_SET_DIAG")
def matrix_set_diag(node: TfliteNode, x: Value, diagonal: Value) -> Value:
    """Matrices with other diagonals."""
    rows, columns = node.sizes(x, [-2, -1])
    missing = columns - min(rows, columns)
    rank = node.rank(diagonal)
    if missing:
        diagonal = node.emit("Pad", diagonal, node.constant([0] * (2 * rank - 1) + [missing]))
    row = node.emit("Unsqueeze", diagonal, node.constant([-2]))
    return node.emit("Where", _diagonal(node, rows, columns), row, x)


def _selected(node: TfliteNode, operands: tuple[Value, ...], score: Value, count: Value) -> tuple[Value, Value]:
    """Write ONNX's suppression for one class: the kept boxes, filled up with zeros to `count`, and their number."""
    boxes, scores, overlap = operands
    found = node.emit(
        "NonMaxSuppression", node.emit("Unsqueeze", boxes, node.constant([0])),
        node.emit("Unsqueeze", scores, node.constant([0, 1])), node.reshape(count, (1,)),
        node.reshape(overlap, (1,)), node.reshape(score, (1,)),
    )  # fmt: skip
    kept = node.emit("Gather", found, node.constant(2), axis=1)
    number = node.emit("Shape", kept)
    after = node.emit("Sub", node.reshape(count, (1,)), number)
    padded = node.emit("Pad", kept, node.emit("Concat", node.constant([0]), after, axis=0))
    return padded, node.reshape(number, ())


@op("NON_MAX_SUPPRESSION_V4")
def non_max_suppression_v4(
    node: TfliteNode, boxes: Value, scores: Value, count: Value, overlap: Value, score: Value
) -> tuple[Value, ...]:
    """The best boxes that do not overlap."""
    kept, number = _selected(node, (boxes, scores, overlap), score, node.int64(count))
    return node.cast(kept, ir.DataType.INT32), node.cast(number, ir.DataType.INT32)


@op("NON_MAX_SUPPRESSION_V5")
def non_max_suppression_v5(  # noqa: PLR0913, PLR0917 - the operator's own operands
    node: TfliteNode, boxes: Value, scores: Value, count: Value, overlap: Value, score: Value, sigma: Value
) -> tuple[Value, ...]:
    """As V4, with the scores of the boxes that are kept; scores that shrink with overlap are not in ONNX."""
    known = node.known(sigma)
    refuse_if(known is None or float(known.reshape(-1)[0]) != 0.0, "soft suppression (sigma other than 0)")
    kept, number = _selected(node, (boxes, scores, overlap), score, node.int64(count))
    valid = node.emit("Less", node.emit("Range", node.constant(0), node.int64(count), node.constant(1)), number)
    best = node.emit("Where", valid, node.emit("Gather", scores, kept), node.like(scores, 0))
    return node.cast(kept, ir.DataType.INT32), best, node.cast(number, ir.DataType.INT32)
