"""Shapes, slices, gathers and other movements of elements."""

from __future__ import annotations

import math
from typing import Any

from hub_keras.onnx_importer.dims import Array, OpenSize, Size, is_open, sizes_array
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.registry import NodeContext, op
from hub_keras.onnx_importer.reshaping import reshape_static
from hub_keras.onnx_importer.values import Item, KerasValue, graph_of, ints, is_constant, plain, sizes
from hub_onnxgraph import refuse_if
from hub_onnxgraph.tensors import positive_axes, positive_axis, sliced

_MATRIX = 2


@op("Shape", 1, 13, 15, 19, 21, 23, 24, 25)
def shape_of(x: KerasValue, *, start: int = 0, end: int | None = None) -> Array:
    """The shape, or a part of it; an open size stands by its name."""
    return sizes_array(x.sizes[start:end])


@op("Reshape", 5, 13, 14, 19, 21, 23, 24, 25)
def reshape(x: Item, shape: Item, *, allowzero: int = 0) -> Item:
    """A new shape; 0 copies the input's size unless allowzero is 1, -1 takes the rest."""
    wanted = ints(shape, "shape")
    if not allowzero:
        wanted = [
            _copied(x, i) if not isinstance(size, OpenSize) and size == 0 else size for i, size in enumerate(wanted)
        ]
    if is_constant(x):
        return np.reshape(x, wanted)
    if None not in x.shape and not is_open(wanted):
        total = math.prod(int(size or 0) for size in x.shape)
        others = math.prod(size for size in wanted if size != -1)
        return reshape_static(x, [total // max(others, 1) if size == -1 else size for size in wanted])
    return _reshape_open(x, wanted)


def _copied(x: Item, axis: int) -> Size:
    return x.sizes[axis] if isinstance(x, KerasValue) else int(x.shape[axis])


def _reshape_open(x: KerasValue, wanted: list[Any]) -> KerasValue:
    """One open size, or the first one that stays and another: what Keras can say."""
    others = math.prod(size for size in wanted if isinstance(size, OpenSize) or size != -1)
    if others != 0:
        wanted = [
            math.prod(x.sizes) // others if not isinstance(size, OpenSize) and size == -1 else size for size in wanted
        ]
    unknown = [i for i, size in enumerate(wanted) if isinstance(size, OpenSize) or size == -1]
    target = [-1 if i in unknown else size for i, size in enumerate(wanted)]
    if len(unknown) <= 1:
        tensor = ops.reshape(x.plain(), target)
    else:
        stays = isinstance(wanted[0], OpenSize) and wanted[0] == x.sizes[0]
        reason = f"shape {wanted} has several open sizes; {x.graph.advice.get('', 'fix them with --shape')}"
        refuse_if(len(unknown) > 2 or not stays, reason)  # noqa: PLR2004 - as above
        tensor = x.graph.layer("Reshape", x.plain(), target_shape=target[1:])
    for i in unknown:
        if isinstance(wanted[i], OpenSize):
            x.graph.declare(tensor, i, wanted[i])
    return x.made(tensor, nonnegative=x.nonnegative)


@op("Flatten", 1, 9, 11, 13, 21, 23, 24, 25)
def flatten(x: KerasValue, *, axis: int = 1) -> KerasValue:
    """Two axes: everything before the axis, and the rest."""
    axis = axis + x.ndim if axis < 0 else axis
    if None not in x.shape:
        known_shape = [int(size or 0) for size in x.shape]
        return reshape_static(x, [math.prod(known_shape[:axis]), math.prod(known_shape[axis:])])
    if axis == 1:
        tensor = x.tensor if all(size == 1 for size in x.shape[2:]) and x.order[0] == 0 else x.plain()
        return x.made(x.graph.layer("Flatten", tensor))
    parts = [x.shape[:axis], x.shape[axis:]]
    advice = x.graph.advice.get("", "")
    refuse_if(all(None in part for part in parts), f"shape {x.sizes} has open sizes on both sides; {advice}")
    return x.made(ops.reshape(x.plain(), [-1 if None in part else math.prod(map(int, part)) for part in parts]))  # type: ignore[arg-type]


@op("Transpose", 1, 13, 21, 23, 24, 25)
def transpose(x: KerasValue, *, perm: list[int] | None = None) -> KerasValue:
    """A permutation of axes: the tensor stays as it is, its axes get other names."""
    chosen = perm or list(reversed(range(x.ndim)))
    return x.made(x.tensor, [chosen.index(axis) for axis in x.order], nonnegative=x.nonnegative)


def _squeeze(x: Item, axes: list[int] | None) -> Item:
    chosen = [i for i, size in enumerate(x.shape) if size == 1] if axes is None else positive_axes(axes, x.ndim)
    refuse_if([i for i in chosen if x.shape[i] != 1], f"axes {chosen} of shape {x.shape} are not all of size 1")
    if is_constant(x):
        return np.squeeze(x, tuple(chosen))
    kept = [axis for axis in x.order if axis not in chosen]
    rank = {axis: place for place, axis in enumerate(sorted(kept))}
    tensor = ops.squeeze(x.tensor, axis=tuple(x.axes(chosen))) if chosen else x.tensor
    return x.made(tensor, [rank[axis] for axis in kept], nonnegative=x.nonnegative)


def _unsqueeze(x: Item, axes: list[int]) -> Item:
    chosen = positive_axes(axes, x.ndim + len(axes))
    if is_constant(x):
        return np.expand_dims(x, tuple(chosen))
    others = [axis for axis in range(x.ndim + len(axes)) if axis not in chosen]
    order = [*sorted(chosen), *(others[axis] for axis in x.order)]
    tensor = x.tensor
    if x.is_plain:
        return x.made(ops.expand_dims(tensor, axis=tuple(sorted(chosen))), nonnegative=x.nonnegative)
    return x.made(ops.expand_dims(tensor, axis=tuple(range(len(chosen)))), order, nonnegative=x.nonnegative)


@op("Squeeze", 1, 11)
def squeeze_attribute(x: KerasValue, *, axes: list[int] | None = None) -> Item:
    """Axes as an attribute."""
    return _squeeze(x, axes)


@op("Squeeze", 13, 21, 23, 24, 25)
def squeeze(x: Item, axes: Item | None = None) -> Item:
    """Axes as an input."""
    return _squeeze(x, None if axes is None else ints(axes, "axes"))


@op("Unsqueeze", 1, 11)
def unsqueeze_attribute(x: Item, *, axes: list[int]) -> Item:
    """Axes as an attribute."""
    return _unsqueeze(x, axes)


@op("Unsqueeze", 13, 21, 23, 24, 25)
def unsqueeze(x: Item, axes: Item) -> Item:
    """Axes as an input."""
    return _unsqueeze(x, ints(axes, "axes"))


@op("Concat", 4, 11, 13)
def concat(*xs: Item, axis: int) -> Item:
    """Joining along an axis."""
    known = [x for x in xs if is_constant(x)]
    if len(known) == len(xs):
        return np.concatenate(known, axis)
    where = positive_axis(axis, xs[0].ndim)
    order = (
        next(value.order for value in xs if isinstance(value, KerasValue) and not value.is_plain)
        if any(isinstance(value, KerasValue) and not value.is_plain for value in xs)
        else tuple(range(xs[0].ndim))
    )
    graph = graph_of(*xs)
    parts = [
        item.stored(order) if isinstance(item, KerasValue) else graph.symbolic(np.transpose(item, order)) for item in xs
    ]
    nonnegative = all(isinstance(item, KerasValue) and item.nonnegative for item in xs)
    made = graph.layer("Concatenate", parts, axis=order.index(where)) if len(parts) > 1 else parts[0]
    return KerasValue(graph, made, order, nonnegative)


def parted(x: KerasValue, axis: int, parts: list[int]) -> tuple[KerasValue, ...]:
    """Pieces of these sizes along an axis."""
    axis = positive_axis(axis, x.ndim)
    refuse_if(sum(parts) != x.shape[axis], f"split {parts} of an axis of size {x.shape[axis]}")
    starts = [sum(parts[:i]) for i in range(len(parts))]
    return tuple(_cut(x, axis, slice(start, start + size)) for start, size in zip(starts, parts, strict=True))


def _cut(x: KerasValue, axis: int, piece: slice) -> KerasValue:
    key = [slice(None)] * x.ndim
    key[x.axis(axis)] = piece
    made = x.like(x.tensor[tuple(key)], nonnegative=x.nonnegative)
    for i, size in enumerate(x.sizes):
        if i != axis:
            x.graph.declare(made.tensor, made.axis(i), size)
    return made


def _equal(x: KerasValue, axis: int, parts: int) -> list[int]:
    size = sizes(x, [positive_axis(axis, x.ndim)], "Split")[0]
    refuse_if(size % parts, f"an axis of size {size} has no {parts} equal parts")
    return [size // parts] * parts


@op("Split", 2, 11)
def split_attribute(
    node: NodeContext, x: KerasValue, *, axis: int = 0, split: list[int] | None = None
) -> tuple[KerasValue, ...]:
    """Sizes as an attribute, equal parts by default."""
    return parted(x, axis, split or _equal(x, axis, node.outputs))


@op("Split", 13)
def split_input(
    node: NodeContext, x: KerasValue, split: Item | None = None, *, axis: int = 0
) -> tuple[KerasValue, ...]:
    """Sizes as an input, equal parts by default."""
    return parted(x, axis, _equal(x, axis, node.outputs) if split is None else ints(split, "split"))


@op("Split", 18)
def split(
    node: NodeContext, x: KerasValue, split: Item | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[KerasValue, ...]:
    """Sizes as an input, or a number of parts of which the last may be smaller."""
    if split is not None:
        return parted(x, axis, ints(split, "split"))
    total = sizes(x, [positive_axis(axis, x.ndim)], "Split")[0]
    parts = num_outputs or node.outputs
    each = -(-total // parts)
    return parted(x, axis, [max(0, min(each, total - i * each)) for i in range(parts)])


@op("Slice", 10, 11, 13)
def slice_inputs(x: Item, starts: Item, ends: Item, axes: Item | None = None, steps: Item | None = None) -> Item:
    """Bounds as inputs."""
    first, last = ints(starts, "starts"), ints(ends, "ends")
    chosen = list(range(len(first))) if axes is None else ints(axes, "axes")
    strides = [1] * len(first) if steps is None else ints(steps, "steps")
    for axis, start, end, step in zip(positive_axes(chosen, x.ndim), first, last, strides, strict=True):
        x = _slice(x, axis, start, end, step)
    return x


_LONG = 1 << 30  # ends at or above this mean the end of the axis


def _slice(x: Item, axis: int, start: int, end: Any, step: int) -> Item:
    size = _copied(x, axis)
    if isinstance(size, OpenSize):
        refuse_if(step < 0, f"a slice backwards of the open size {size}; {size.advice}")
        if start == 0 and step == 1 and (end == size or end >= _LONG):
            return x
        piece = slice(start, None if end >= _LONG else end, step)
    else:
        chosen = sliced(size, start, end, step)
        if chosen == range(size):
            return x
        if chosen.step < 0:
            forward = chosen[::-1]
            part = _slice(x, axis, forward.start, forward.stop, forward.step)
            return (
                part.like(ops.flip(part.tensor, axis=part.axis(axis)))
                if isinstance(part, KerasValue)
                else np.flip(part, axis)
            )
        piece = slice(chosen.start, chosen[-1] + 1 if chosen else chosen.start, chosen.step)
    if is_constant(x):
        return x[tuple([slice(None)] * axis + [piece])]
    return _cut(x, axis, piece)


@op("Gather", 1, 11, 13)
def gather(x: Item, indices: Item, *, axis: int = 0) -> Item:
    """Slices along an axis by index; negative indices count from the end. A table of rows is an Embedding."""
    where = positive_axis(axis, x.ndim)
    if is_constant(x) and is_constant(indices):
        return np.take(x, indices.astype(np.int64), axis=where)
    if (
        is_constant(x)
        and isinstance(indices, KerasValue)
        and where == 0
        and x.ndim == _MATRIX
        and "float" in x.dtype.name
    ):
        size = np.asarray(len(x), indices.dtype)
        zero = np.zeros((), indices.dtype)
        ids = ops.where(ops.less(indices.plain(), zero), ops.add(indices.plain(), size), indices.plain())
        rows, width = x.shape
        layer = indices.graph.layer("Embedding", ids, arrays=[x], after=x, input_dim=rows, output_dim=width)
        return indices.made(layer)
    if isinstance(x, KerasValue) and is_constant(indices) and indices.ndim == 0:
        index = int(indices)
        return _squeeze(_cut(x, where, slice(index, index + 1 or None)), [where])
    return _take(x, indices, where)


def _take(x: Item, indices: Item, axis: int) -> KerasValue:
    graph = graph_of(x, indices)
    size = x.shape[axis]
    if isinstance(x, KerasValue) and size is None and not (is_constant(indices) and (indices >= 0).all()):
        size = sizes(x, [axis], "Gather by indices that are computed or count from the end")[0]
    if is_constant(indices):
        index = np.where(indices < 0, indices + (size or 0), indices)
    else:
        raw = indices.plain()
        index = ops.where(
            ops.less(raw, np.zeros((), indices.dtype)), ops.add(raw, np.asarray(size, indices.dtype)), raw
        )
    made = ops.take(plain(graph, x), index, axis=axis)
    return KerasValue(graph, made, tuple(range(len(made.shape))))


@op("Expand", 8, 13)
def expand(x: Item, shape: Item) -> Item:
    """Broadcast with a shape, both ways."""
    wanted = ints(shape, "shape")
    if is_constant(x):
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, wanted))
    known = [size for size in x.shape if size is not None]
    if len(known) < x.ndim or is_open(wanted):
        return x.made(x.graph.expanded(x.plain(), wanted), nonnegative=x.nonnegative)
    target = np.broadcast_shapes(tuple(known), wanted)
    return x if tuple(x.shape) == target else x.made(ops.broadcast_to(x.plain(), target), nonnegative=x.nonnegative)


@op("Tile", 6, 13)
def tile(x: KerasValue, repeats: Item) -> KerasValue:
    """Repetition along every axis."""
    counts = ints(repeats, "repeats")
    return x.like(ops.tile(x.tensor, [counts[axis] for axis in x.order]), nonnegative=x.nonnegative)
