"""Shapes, slices, gathers and other movements of elements; constants; sequences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hub_onnxgraph import refuse_if
from hub_onnxgraph.tensors import positive_axes, positive_axis, sliced
from hub_pytorch.onnx_importer.lazy import functional, torch
from hub_pytorch.onnx_importer.registry import NodeContext, op
from hub_pytorch.onnx_importer.sizes import certain, is_int, largest, plain, smallest
from hub_pytorch.onnx_importer.values import ints, is_constant, known, scalar, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor


@op("ConstantOfShape", 9, 20, 21, 23, 24, 25)
def constant_of_shape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    """A tensor filled with one value, float zero by default."""
    fill = torch.zeros(1) if value is None else value
    return torch.full(ints(shape, "shape"), fill.item(), dtype=fill.dtype)


@op("Shape", 1, 13, 15, 19, 21, 23, 24, 25)
def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """The shape, or a part of it."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@op("Size", 1, 13, 19, 21, 23, 24, 25)
def size(x: Tensor) -> Tensor:
    """The number of elements."""
    return torch.tensor(math.prod(x.shape), dtype=torch.int64)


@op("Reshape", 5, 13, 14, 19, 21, 23, 24, 25)
def reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    """A new shape; 0 copies the input's size unless allowzero is 1, -1 takes the rest."""
    wanted = ints(shape, "shape")
    if not allowzero:
        wanted = [x.shape[i] if is_int(size) and size == 0 else size for i, size in enumerate(wanted)]
    if any(is_int(size) and size == -1 for size in wanted):
        place = next(i for i, size in enumerate(wanted) if is_int(size) and size == -1)
        others = math.prod(wanted[:place] + wanted[place + 1 :])
        wanted[place] = plain(math.prod(x.shape) // (max(others, 1) if is_int(others) else others))
    return torch.reshape(x, wanted)


@op("Flatten", 1, 9, 11, 13, 21, 23, 24, 25)
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Two axes: everything before the axis, and the rest."""
    axis = axis + x.ndim if axis < 0 else axis
    return torch.reshape(x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


@op("Transpose", 1, 13, 21, 23, 24, 25)
def transpose(x: Tensor, *, perm: list[int] | None = None) -> Tensor:
    """A permutation of axes, all reversed by default."""
    return torch.permute(x, list(reversed(range(x.ndim))) if perm is None else perm)


def _squeeze(x: Tensor, axes: list[int] | None) -> Tensor:
    refuse_if(axes is None and not all(map(is_int, x.shape)), f"all axes of size 1 of the dynamic shape {x.shape}")
    chosen = [i for i, size in enumerate(x.shape) if size == 1] if axes is None else positive_axes(axes, x.ndim)
    refuse_if(
        [i for i in chosen if is_int(x.shape[i]) and x.shape[i] != 1],
        f"axes {chosen} of shape {x.shape} are not all of size 1",
    )
    return torch.reshape(x, [size for i, size in enumerate(x.shape) if i not in chosen])


def _unsqueeze(x: Tensor, axes: list[int]) -> Tensor:
    rank = x.ndim + len(axes)
    sizes = iter(x.shape)
    chosen = positive_axes(axes, rank)
    return torch.reshape(x, [1 if i in chosen else next(sizes) for i in range(rank)])


@op("Squeeze", 1, 11)
def squeeze_attribute(x: Tensor, *, axes: list[int] | None = None) -> Tensor:
    """Axes as an attribute."""
    return _squeeze(x, axes)


@op("Squeeze", 13, 21, 23, 24, 25)
def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Axes as an input."""
    return _squeeze(x, None if axes is None else ints(axes, "axes"))


@op("Unsqueeze", 1, 11)
def unsqueeze_attribute(x: Tensor, *, axes: list[int]) -> Tensor:
    """Axes as an attribute."""
    return _unsqueeze(x, axes)


@op("Unsqueeze", 13, 21, 23, 24, 25)
def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    """Axes as an input."""
    return _unsqueeze(x, ints(axes, "axes"))


@op("Concat", 4, 11, 13)
def concat(*xs: Tensor, axis: int) -> Tensor:
    """Joining along an axis."""
    return xs[0] if len(xs) == 1 else torch.cat(list(xs), axis)


def _split(x: Tensor, axis: int, sizes: list[int]) -> tuple[Tensor, ...]:
    axis = positive_axis(axis, x.ndim)
    refuse_if(sum(sizes) != x.shape[axis], f"split {sizes} of an axis of size {x.shape[axis]}")
    starts = [plain(sum(sizes[:i])) for i in range(len(sizes))]
    return tuple(torch.narrow(x, axis, start, size) for start, size in zip(starts, sizes, strict=True))


def _even(total: int, parts: int) -> list[int]:
    """Sizes of `parts` pieces, all equal but for the last, which may be smaller."""
    each = -(-total // parts)
    return [largest(0, smallest(each, total - i * each)) for i in range(parts)]


@op("Split", 2, 11)
def split_attribute(
    node: NodeContext, x: Tensor, *, axis: int = 0, split: list[int] | None = None
) -> tuple[Tensor, ...]:
    """Sizes as an attribute, equal parts by default."""
    return _split(x, axis, split or _equal(x, axis, node.outputs))


def _equal(x: Tensor, axis: int, parts: int) -> list[int]:
    refuse_if(x.shape[axis] % parts, f"an axis of size {x.shape[axis]} has no {parts} equal parts")
    return [x.shape[axis] // parts] * parts


@op("Split", 13)
def split_input(node: NodeContext, x: Tensor, split: Tensor | None = None, *, axis: int = 0) -> tuple[Tensor, ...]:
    """Sizes as an input, equal parts by default."""
    return _split(x, axis, _equal(x, axis, node.outputs) if split is None else ints(split, "split"))


@op("Split", 18)
def split(
    node: NodeContext, x: Tensor, split: Tensor | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Tensor, ...]:
    """Sizes as an input, or a number of parts of which the last may be smaller."""
    if split is not None:
        return _split(x, axis, ints(split, "split"))
    return _split(x, axis, _even(x.shape[axis], num_outputs or node.outputs))


@op("Slice", 1)
def slice_attributes(x: Tensor, *, starts: list[int], ends: list[int], axes: list[int] | None = None) -> Tensor:
    """Bounds as attributes."""
    return _slice(x, starts, ends, axes, None)


@op("Slice", 10, 11, 13)
def slice_inputs(
    x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    """Bounds as inputs."""
    return _slice(
        x,
        ints(starts, "starts"),
        ints(ends, "ends"),
        None if axes is None else ints(axes, "axes"),
        None if steps is None else ints(steps, "steps"),
    )


def _slice(x: Tensor, starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None) -> Tensor:
    chosen = positive_axes(axes if axes is not None else list(range(len(starts))), x.ndim)
    for axis, start, end, step in zip(chosen, starts, ends, steps or [1] * len(starts), strict=True):
        if all(map(is_int, (start, end, x.shape[axis]))):
            x = _slice_axis(x, axis, sliced(x.shape[axis], start, end, step))
        else:
            x = _slice_dynamic(x, axis, start, end, step)
    return x


def _slice_axis(x: Tensor, axis: int, chosen: range) -> Tensor:
    if chosen == range(x.shape[axis]):
        return x
    if chosen.step < 0:
        return torch.flip(_slice_axis(x, axis, chosen[::-1]), [axis])
    stop = chosen[-1] + 1 if chosen else chosen.start
    index = [slice(None)] * axis + [slice(chosen.start, stop, chosen.step)]
    return x[tuple(index)]


def _slice_dynamic(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    """Bounds or a size that are dynamic: first the range is narrowed, then its order and step are taken."""
    size = x.shape[axis]
    end = size if step > 0 and is_int(end) and end >= _FAR else end
    first, last = (_bound(start, size), _bound(end, size)) if step > 0 else _mirrored(start, end, size)
    first = smallest(first, size)
    count = largest(smallest(last, size) - first, 0)
    taken = x if is_int(first) and first == 0 and count is size else torch.narrow(x, axis, first, count)
    taken = torch.flip(taken, [axis]) if step < 0 else taken
    return taken if abs(step) == 1 else taken[tuple([slice(None)] * axis + [slice(None, None, abs(step))])]


def _bound(bound: int, size: int) -> int:
    """A bound counted from the front, not below 0."""
    negative = certain(bound < 0)
    refuse_if(negative is None, f"a slice to {bound}, which may be negative, of an axis of size {size}")
    return largest(bound + size, 0) if negative else bound


def _mirrored(start: int, end: int, size: int) -> tuple[int, int]:
    """The range that a negative step covers, as bounds of a positive one."""
    below = is_int(end) and end < -_FAR
    return (0 if below else _bound(end, size) + 1), _bound(start, size) + 1


_FAR = 2**31 - 2  # an end beyond this, either way, stands for "all of them"


@op("Gather", 1, 11, 13)
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Slices along an axis by index; negative indices count from the end."""
    axis = positive_axis(axis, x.ndim)
    if is_constant(indices) and indices.ndim == 0:
        return torch.select(x, axis, scalar(indices, "index"))
    flat = torch.reshape(_from_front(indices, x.shape[axis]), [-1])
    picked = torch.index_select(x, axis, flat)
    shape = [*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]]
    return picked if indices.ndim == 1 else torch.reshape(picked, shape)


def _from_front(indices: Tensor, size: int) -> Tensor:
    return torch.where(torch.lt(indices, 0), torch.add(indices, size), indices)


@op("GatherElements", 11, 13)
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """One element along the axis for each index."""
    axis = positive_axis(axis, x.ndim)
    return torch.gather(x, axis, _from_front(indices, x.shape[axis]).to(torch.int64))


@op("GatherND", 11, 12, 13)
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Slices picked by index tuples, below batch_dims common axes."""
    depth = indices.shape[-1]
    batch = [
        torch.arange(x.shape[i]).reshape([-1 if j == i else 1 for j in range(indices.ndim - 1)])
        for i in range(batch_dims)
    ]
    picked = [torch.select(indices, -1, i).to(torch.int64) for i in range(depth)]
    return x[tuple(batch + picked)]


def _register_scatter(name: str, *versions: int) -> None:
    @op(name, *versions)
    def scatter(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0) -> Tensor:
        return scatter_elements(x, indices, updates, axis=axis)


_REDUCE_MODES = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _reduce_mode(reduction: str) -> str:
    refuse_if(reduction not in _REDUCE_MODES, f"reduction {reduction}")
    return _REDUCE_MODES[reduction]


@op("ScatterElements", 16, 18)
def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """A copy of x with elements along the axis replaced or combined."""
    axis = positive_axis(axis, x.ndim)
    index = _from_front(indices, x.shape[axis]).to(torch.int64)
    if reduction == "none":
        return torch.scatter(x, axis, index, updates)
    return torch.scatter_reduce(x, axis, index, updates, _reduce_mode(reduction))


_register_scatter("ScatterElements", 11, 13)
_register_scatter("Scatter", 9, 11)


@op("ScatterND", 11, 13, 16, 18)
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """A copy of x with slices at index tuples replaced or combined."""
    depth = indices.shape[-1]
    inner = x.shape[depth:]
    strides = [math.prod(x.shape[i + 1 : depth]) for i in range(depth)]
    columns = [_from_front(torch.select(indices, -1, i), x.shape[i]) * strides[i] for i in range(depth)]
    flat = torch.reshape(sum(columns[1:], columns[0]), [-1]).to(torch.int64)
    rows = torch.reshape(x, [math.prod(x.shape[:depth]), -1] if inner else [-1, 1])
    news = torch.reshape(updates, [-1, rows.shape[1]])
    index = torch.reshape(flat, [-1, 1]).expand(-1, rows.shape[1])
    if reduction == "none":
        return torch.reshape(torch.scatter(rows, 0, index, news), x.shape)
    return torch.reshape(torch.scatter_reduce(rows, 0, index, news, _reduce_mode(reduction)), x.shape)


@op("Expand", 8, 13)
def expand(x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast with a shape, both ways."""
    have, wanted = list(x.shape), ints(shape, "shape")
    rank = max(len(have), len(wanted))
    have, wanted = ([1] * (rank - len(sizes)) + sizes for sizes in (have, wanted))
    target = [_broadcast(a, b) for a, b in zip(have, wanted, strict=True)]
    unchanged = x.ndim == rank and all(certain(a == b) for a, b in zip(have, target, strict=True))
    return x if unchanged else torch.broadcast_to(x, target)


def _broadcast(a: int, b: int) -> int:
    """The size that two sizes broadcast to; of two dynamic ones the larger, as one is 1 or both are the same."""
    if is_int(a) and is_int(b):
        refuse_if(1 not in {a, b} and a != b, f"sizes {a} and {b} do not broadcast")
        return b if a == 1 else a
    if is_int(a) or is_int(b):
        fixed, dynamic = (a, b) if is_int(a) else (b, a)
        return dynamic if fixed == 1 else fixed
    return largest(a, b)


@op("Tile", 6, 13)
def tile(x: Tensor, repeats: Tensor) -> Tensor:
    """Repetition along every axis."""
    return torch.tile(x, ints(repeats, "repeats"))


@op("Range", 11, 27)
def arange(start: Tensor, limit: Tensor, delta: Tensor, *, stash_type: int = 1) -> Tensor:
    """Numbers from start, below limit; half floats are counted in a wider type either way."""
    del stash_type
    first, last, step = (scalar(x, name) for x, name in ((start, "start"), (limit, "limit"), (delta, "delta")))
    if all(map(is_int, (first, last, step))):
        count = max(math.ceil((last - first) / step), 0)
    else:
        refuse_if(not is_int(step) or isinstance(step, float), f"a range of dynamic length with step {step}")
        count = largest(-((last - first) // -step), 0)
    numbers = torch.arange(count, dtype=start.dtype)
    numbers = numbers if is_int(step) and step == 1 else numbers * step
    return numbers if is_int(first) and first == 0 else (numbers + first).to(start.dtype)


@op("Trilu", 14)
def trilu(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    """The upper or lower triangle."""
    diagonal = 0 if k is None else scalar(k, "k")
    mask = torch.ones(x.shape[-2:], dtype=torch.bool)
    keep = torch.triu(mask, diagonal) if upper else torch.tril(mask, diagonal)
    return torch.where(keep, x, torch.zeros((), dtype=x.dtype))


@op("EyeLike", 9, 22)
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """Ones on a diagonal."""
    rows, columns = x.shape
    cells = torch.arange(columns) - torch.arange(rows).reshape(-1, 1)
    return torch.eq(cells, k).to(x.dtype if dtype is None else torch_dtype(dtype))


@op("OneHot", 9, 11, 28)
def one_hot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    """values[1] at each index along a new axis, values[0] elsewhere."""
    size = int(scalar(depth, "depth"))
    axis = positive_axis(axis, indices.ndim + 1)
    steps = torch.arange(size, dtype=indices.dtype).reshape([-1 if i == axis else 1 for i in range(indices.ndim + 1)])
    hot = torch.eq(torch.unsqueeze(_from_front(indices, size), axis), steps)
    return torch.where(hot, torch.select(values, 0, 1), torch.select(values, 0, 0))


@op("DepthToSpace", 1, 11, 13, 28)
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels to blocks of pixels, depth first (DCR) or columns first (CRD)."""
    n, c, h, w = x.shape
    b, depth = blocksize, c // blocksize**2
    refuse_if(mode not in {"DCR", "CRD"}, f"mode {mode}")
    if mode == "CRD":
        return functional.pixel_shuffle(x, b)
    blocks = torch.permute(torch.reshape(x, [n, b, b, depth, h, w]), [0, 3, 4, 1, 5, 2])
    return torch.reshape(blocks, [n, depth, h * b, w * b])


@op("SpaceToDepth", 1, 13, 28)
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Blocks of pixels to channels, depth last (DCR) or first (CRD)."""
    refuse_if(mode not in {"DCR", "CRD"}, f"mode {mode}")
    if mode == "CRD":
        return functional.pixel_unshuffle(x, blocksize)
    n, c, h, w = x.shape
    b = blocksize
    blocks = torch.permute(torch.reshape(x, [n, c, h // b, b, w // b, b]), [0, 3, 5, 1, 2, 4])
    return torch.reshape(blocks, [n, c * b * b, h // b, w // b])


@op("Pad", 2)
def pad_attributes(x: Tensor, *, pads: list[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """Pads as an attribute."""
    return pad_with(x, pads, mode, value)


@op("Pad", 11, 13, 18, 19, 21, 23, 24, 25)
def pad(
    x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None, *, mode: str = "constant"
) -> Tensor:
    """Pads as an input, for all axes or for those named."""
    amounts = ints(pads, "pads")
    chosen = positive_axes(list(range(x.ndim)) if axes is None else ints(axes, "axes"), x.ndim)
    full = [0] * (2 * x.ndim)
    for i, axis in enumerate(chosen):
        full[axis], full[axis + x.ndim] = amounts[i], amounts[i + len(chosen)]
    return pad_with(x, full, mode, 0 if value is None else scalar(value, "constant_value"))


def pad_with(x: Tensor, pads: list[int], mode: str, value: float) -> Tensor:
    """Pad all axes; pads are ONNX's, all begins then all ends; negative ones crop."""
    rank = x.ndim
    if mode != "constant":
        return _pad_by_index(x, pads, mode)
    pairs = [(pads[i], pads[i + rank]) for i in range(rank)]
    while pairs and all(is_int(amount) and amount == 0 for amount in pairs[0]):
        pairs.pop(0)
    flat = [amount for pair in reversed(pairs) for amount in pair]
    return functional.pad(x, flat, value=value) if flat else x


def _pad_by_index(x: Tensor, pads: list[int], mode: str) -> Tensor:
    """Reflect, edge and wrap: each padded axis is one selection."""
    for axis, size in enumerate(x.shape):
        before, after = pads[axis], pads[axis + x.ndim]
        if not (is_int(before) and is_int(after) and before == after == 0):
            positions = torch.arange(size + before + after) - before
            x = torch.index_select(x, axis, _source(positions, size, mode))
    return x


def _source(positions: Tensor, size: int, mode: str) -> Tensor:
    """The indices that padded positions repeat."""
    if mode == "edge":
        return torch.clamp(positions, 0, size - 1)
    if mode == "wrap":
        return torch.remainder(positions, size)
    refuse_if(mode != "reflect", f"mode {mode}")
    period = largest(2 * (size - 1), 1)
    folded = torch.remainder(positions, period)
    return torch.minimum(folded, torch.sub(period, folded))


@op("CenterCropPad", 18)
def center_crop_pad(x: Tensor, shape: Tensor, *, axes: list[int] | None = None) -> Tensor:
    """Crop or pad each axis around its centre; the odd element goes to the end when padding, stays off it in a crop."""
    chosen = positive_axes(list(range(x.ndim)) if axes is None else axes, x.ndim)
    for axis, wanted in zip(chosen, ints(shape, "shape"), strict=True):
        have = x.shape[axis]
        kept = smallest(wanted, have)
        x = x if kept is have else torch.narrow(x, axis, (have - kept) // 2, kept)
        pads = [0] * (2 * x.ndim)
        pads[axis] = (wanted - kept) // 2
        pads[axis + x.ndim] = wanted - kept - pads[axis]
        x = pad_with(x, pads, "constant", 0)
    return x


@op("ReverseSequence", 10, 28)
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Reverse the first steps of each sequence."""
    shape = [-1 if axis == time_axis else 1 for axis in range(x.ndim)]
    steps = torch.reshape(torch.arange(x.shape[time_axis]), shape)
    ends = torch.reshape(lengths, [-1 if axis == batch_axis else 1 for axis in range(x.ndim)])
    index = torch.where(torch.lt(steps, ends), torch.sub(ends - 1, steps), steps)
    return torch.gather(x, time_axis, torch.broadcast_to(index, list(x.shape)))


@op("NonZero", 9, 13)
def non_zero(x: Tensor) -> Tensor:
    """Indices of the non-zero elements, of a constant only: the result's shape depends on the values."""
    known(x, "the input of NonZero")
    return torch.nonzero(x).T.contiguous()


@op("Compress", 9, 11, 28)
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """The slices that a constant condition keeps."""
    kept = [i for i, keep in enumerate(known(condition, "condition")) if keep]
    source = torch.reshape(x, [-1]) if axis is None else x
    return torch.index_select(source, 0 if axis is None else axis, torch.tensor(kept, dtype=torch.int64))


@op("ConcatFromSequence", 11)
def concat_from_sequence(items: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    """Join a sequence's elements along an axis, or along a new one."""
    return torch.stack(items, axis) if new_axis else torch.cat(items, axis)


@op("SplitToSequence", 11, 24)
def split_to_sequence(x: Tensor, split: Tensor | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Any]:
    """Pieces along an axis as a sequence."""
    total = x.shape[axis]
    refuse_if(not is_int(total), "a sequence of dynamic length")
    if split is None:
        pieces = _split(x, axis, [1] * total)
        return list(pieces) if keepdims else [torch.squeeze(piece, axis) for piece in pieces]
    sizes = ints(split, "split")
    return list(_split(x, axis, _even(total, -(-total // sizes[0])) if split.ndim == 0 else sizes))


@op("Col2Im", 18)
def col2im(
    x: Tensor,
    image_shape: Tensor,
    block_shape: Tensor,
    *,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Sum of overlapping blocks of a picture; torch has two spatial axes and even pads."""
    size, block = ints(image_shape, "image_shape"), ints(block_shape, "block_shape")
    rank = len(size)
    around, gaps, steps = pads or [0] * (2 * rank), tuple(dilations or [1] * rank), tuple(strides or [1] * rank)
    refuse_if(rank != 2, f"{rank} spatial axes, torch has 2")  # noqa: PLR2004 - as the message says
    refuse_if(around[:rank] != around[rank:], f"uneven pads {around}")
    return functional.fold(x, tuple(size), tuple(block), gaps, tuple(around[:rank]), steps)


@op("BitCast", 26)
def bit_cast(x: Tensor, *, to: int) -> Tensor:
    """The same bits read as another type of the same width."""
    dtype = torch_dtype(to)
    refuse_if(torch.bool in {dtype, x.dtype}, "bits of booleans")
    refuse_if(dtype.itemsize != x.dtype.itemsize, f"{x.dtype} and {dtype} differ in width")
    return x.view(dtype)


@op("TensorScatter", 24)
def tensor_scatter(
    past: Tensor, update: Tensor, indices: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """A cache with an update written from given positions on, one for each element of the batch."""
    along = positive_axis(axis, past.ndim)
    refuse_if(mode not in {"linear", "circular"} or not along, f"mode {mode}, axis {axis}")
    size, count = past.shape[along], update.shape[along]
    starts = torch.zeros(past.shape[0], dtype=torch.int64) if indices is None else indices
    starts = torch.reshape(starts, [-1 if i == 0 else 1 for i in range(past.ndim)])
    steps = torch.reshape(torch.arange(count), [-1 if i == along else 1 for i in range(past.ndim)])
    places = torch.add(starts, steps)
    places = places if mode == "linear" else torch.remainder(places, size)  # beyond the end, scatter raises
    return torch.scatter(past, along, torch.broadcast_to(places, list(update.shape)), update)
