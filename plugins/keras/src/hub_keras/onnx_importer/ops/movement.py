"""Blocks, triangles, padding, cumulated sums and other movements that `shape` does not hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hub_keras.onnx_importer.applied import cast, is_float, number, selected, size_of, wide_dtype
from hub_keras.onnx_importer.dims import Array
from hub_keras.onnx_importer.lazy import np, ops
from hub_keras.onnx_importer.ops.shape import slice_inputs
from hub_keras.onnx_importer.registry import op
from hub_keras.onnx_importer.values import Item, KerasValue, dtype_name, graph_of, ints, scalar, sizes, value_of
from hub_onnxgraph import refuse_if
from hub_onnxgraph.tensors import positive_axes

if TYPE_CHECKING:
    from keras import KerasTensor


@op("ConstantOfShape", 9, 20, 21, 23, 24, 25)
def constant_of_shape(shape: Item, *, value: Array | None = None) -> Array:
    """A constant, where its shape is known."""
    fill = np.zeros(1, "float32") if value is None else value
    sizes = [
        number(size, "a size of ConstantOfShape, which must be known at import time,") for size in ints(shape, "shape")
    ]
    return np.full(sizes, fill.reshape(()), fill.dtype)


@op("Range", 11, 27)
def arange(start: Item, limit: Item, delta: Item, *, stash_type: int = 1) -> Item:
    """Numbers whose count is known: reached only where it is not."""
    del stash_type
    first, last, step = (scalar(item, "the range's bounds") for item in (start, limit, delta))
    return np.arange(number(first, "start"), number(last, "limit"), number(step, "delta"))


@op("Size", 1, 13, 19, 21, 23, 24, 25)
def size(x: KerasValue) -> Item:
    """The number of elements."""
    return np.asarray(math.prod(size_of(x, i, "Size") for i in range(x.ndim)), "int64")


@op("Slice", 1)
def slice_attributes(x: KerasValue, *, starts: list[int], ends: list[int], axes: list[int] | None = None) -> Item:
    """Bounds as attributes."""
    return slice_inputs(x, np.asarray(starts), np.asarray(ends), None if axes is None else np.asarray(axes))


@op("Trilu", 14)
def trilu(x: KerasValue, k: Item | None = None, *, upper: int = 1) -> KerasValue:
    """The upper or lower triangle."""
    shape = [size_of(x, axis, "Trilu") for axis in (-2, -1)]
    if 0 in shape:
        return x
    mask = np.ones(shape, bool)
    diagonal = 0 if k is None else int(scalar(k, "k"))
    keep = np.triu(mask, diagonal) if upper else np.tril(mask, diagonal)
    rows, columns = x.axis(-2), x.axis(-1)
    keep = keep if rows < columns else keep.T
    full = [size if axis in {rows, columns} else 1 for axis, size in enumerate(x.tensor.shape)]
    return x.like(ops.where(keep.reshape(full), x.tensor, np.asarray(0, x.dtype)), nonnegative=x.nonnegative)


@op("EyeLike", 9, 22)
def eye_like(x: KerasValue, *, dtype: int | None = None, k: int = 0) -> Item:
    """Ones on a diagonal; known where the shape is."""
    rows, columns = size_of(x, 0, "EyeLike"), size_of(x, 1, "EyeLike")
    return np.eye(rows, columns, k).astype(x.dtype if dtype is None else dtype_name(dtype))


def _blocks(
    x: KerasValue, order: tuple[int, ...], shape: list[int], permutation: list[int], last: list[int]
) -> KerasTensor:
    """Reshape, permute, reshape; the first size may be open."""
    split = ops.reshape(x.stored(order), [-1, *shape])
    return ops.reshape(ops.transpose(split, permutation), [-1, *last])


@op("DepthToSpace", 1, 11, 13, 28)
def depth_to_space(x: KerasValue, *, blocksize: int, mode: str = "DCR") -> KerasValue:
    """Channels to blocks of pixels, depth first (DCR) or columns first (CRD); stored with channels last."""
    refuse_if(mode not in {"DCR", "CRD"}, f"mode {mode}")
    c, h, w = (size_of(x, axis, "DepthToSpace") for axis in (1, 2, 3))
    b, depth = blocksize, c // blocksize**2
    cells = [h, w, b, b, depth] if mode == "DCR" else [h, w, depth, b, b]
    moved = [0, 1, 3, 2, 4, 5] if mode == "DCR" else [0, 1, 4, 2, 5, 3]
    return x.made(_blocks(x, (0, 2, 3, 1), cells, moved, [h * b, w * b, depth]), (0, 2, 3, 1))


@op("SpaceToDepth", 1, 13, 28)
def space_to_depth(x: KerasValue, *, blocksize: int, mode: str = "DCR") -> KerasValue:
    """Blocks of pixels to channels, depth last (DCR) or first (CRD); stored with channels last."""
    refuse_if(mode not in {"DCR", "CRD"}, f"mode {mode}")
    c, h, w = (size_of(x, axis, "SpaceToDepth") for axis in (1, 2, 3))
    b = blocksize
    moved = [0, 1, 3, 2, 4, 5] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    cells = [h // b, b, w // b, b, c]
    return x.made(_blocks(x, (0, 2, 3, 1), cells, moved, [h // b, w // b, c * b * b]), (0, 2, 3, 1))


@op("CumSum", 11, 14)
def cumsum(x: KerasValue, axis: Item, *, exclusive: int = 0, reverse: int = 0) -> KerasValue:
    """Sum of the elements up to each one, itself left out when exclusive."""
    return _cumulated(x, "cumsum", int(scalar(axis, "axis")), bool(exclusive), bool(reverse))


@op("CumProd", 26)
def cumprod(x: KerasValue, axis: Item, *, exclusive: int = 0, reverse: int = 0) -> KerasValue:
    """Product of the elements up to each one, itself left out when exclusive."""
    return _cumulated(x, "cumprod", int(scalar(axis, "axis")), bool(exclusive), bool(reverse))


def _cumulated(x: KerasValue, name: str, axis: int, exclusive: bool, reverse: bool) -> KerasValue:
    where = x.axis(axis)
    source = cast(x.tensor, wide_dtype(x.dtype))
    source = ops.flip(source, axis=where) if reverse else source
    if exclusive:
        first, rest = (selected(x.like(source), where, piece) for piece in (slice(0, 1), slice(0, -1)))
        start = ops.zeros_like(first) if name == "cumsum" else ops.ones_like(first)
        source = ops.concatenate([start, rest], axis=where)
    total = getattr(ops, name)(source, axis=where)
    return x.like(cast(ops.flip(total, axis=where) if reverse else total, x.dtype))


@op("Pad", 2)
def pad_attributes(x: KerasValue, *, pads: list[int], mode: str = "constant", value: float = 0.0) -> KerasValue:
    """Pads as an attribute."""
    return pad_with(x, pads, mode, value)


@op("Pad", 11, 13, 18, 19, 21, 23, 24, 25)
def pad(
    x: Item, pads: Item, value: Item | None = None, axes: Item | None = None, *, mode: str = "constant"
) -> KerasValue:
    """Pads as an input, for all axes or for those named."""
    amounts = ints(pads, "pads")
    source = value_of(graph_of(x, value), x)
    chosen = positive_axes(list(range(x.ndim)) if axes is None else ints(axes, "axes"), x.ndim)
    full = [0] * (2 * x.ndim)
    for i, axis in enumerate(chosen):
        full[axis] = number(amounts[i], "a pad")
        full[axis + x.ndim] = number(amounts[i + len(chosen)], "a pad")
    return pad_with(source, full, mode, 0 if value is None else scalar(value, "constant_value"))


def pad_with(x: KerasValue, pads: list[int], mode: str, value: float) -> KerasValue:
    """Pad all axes; pads are ONNX's, all begins then all ends; negative ones crop."""
    refuse_if(mode not in {"constant", "reflect", "edge", "wrap"}, f"mode {mode}")
    pairs = [(pads[x.order[i]], pads[x.order[i] + x.ndim]) for i in range(x.ndim)]
    if mode == "constant":
        return _pad_constant(_cropped(x, pairs), [(max(a, 0), max(b, 0)) for a, b in pairs], value)
    tensor = x.tensor
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            size = sizes(x, [x.order[axis]], f"mode {mode}")[0]
            tensor = ops.take(tensor, _source(np.arange(-before, size + after), size, mode), axis=axis)
    return x.like(tensor, nonnegative=x.nonnegative)


def _pad_constant(x: KerasValue, pairs: list[tuple[int, int]], value: float) -> KerasValue:
    if not any(map(any, pairs)):
        return x
    kind = "int32" if x.dtype == "bool" else x.dtype
    fill = float(value) if is_float(kind) else int(value)
    tensor = cast(x.tensor, kind)
    only_channels = any(pairs[-1]) and not any(map(any, pairs[:-1])) and tensor.shape[-1] != 0
    padded = _beside(tensor, pairs[-1], fill) if only_channels else ops.pad(tensor, pairs, constant_values=fill)
    return x.like(cast(padded, x.dtype), nonnegative=x.nonnegative and value >= 0)


def _beside(tensor: KerasTensor, counts: tuple[int, int], fill: float) -> KerasTensor:
    """Channels of one value before and after the others.

    Narrow blocks are widened so before a residual sum. TensorFlow 2.21 with oneDNN computes a convolution, its bias and
    the sum in one kernel, and that crashes where what is added comes out of `pad`.
    """
    before, after = (
        [ops.full_like(ops.repeat(tensor[..., :1], count, axis=-1), fill)] if count else [] for count in counts
    )
    return ops.concatenate([*before, tensor, *after], axis=-1)


def _cropped(x: KerasValue, pairs: list[tuple[int, int]]) -> KerasValue:
    """What is left where pads are negative."""
    if all(before >= 0 and after >= 0 for before, after in pairs):
        return x
    pieces = [slice(max(-before, 0) or None, min(after, 0) or None) for before, after in pairs]
    return x.like(x.tensor[tuple(pieces)], nonnegative=x.nonnegative)


def _source(positions: Array, size: int, mode: str) -> Array:
    """The indices that padded positions repeat."""
    if mode == "edge":
        return np.clip(positions, 0, size - 1)
    period = size if mode == "wrap" else max(2 * (size - 1), 1)
    folded: Array = positions % period
    return folded if mode == "wrap" else np.minimum(folded, period - folded)


@op("CenterCropPad", 18)
def center_crop_pad(x: KerasValue, shape: Item, *, axes: list[int] | None = None) -> KerasValue:
    """Crop or pad each axis around its centre; the odd element goes to the end when padding, stays off it in a crop."""
    chosen = positive_axes(list(range(x.ndim)) if axes is None else axes, x.ndim)
    pads = [0] * (2 * x.ndim)
    for axis, wanted in zip(chosen, ints(shape, "shape"), strict=True):
        rest = number(wanted, "a size") - size_of(x, axis, "CenterCropPad")
        before = rest // 2 if rest > 0 else -(-rest // 2)
        pads[axis], pads[axis + x.ndim] = before, rest - before
    return pad_with(x, pads, "constant", 0)


@op("BitCast", 26)
def bit_cast(x: KerasValue, *, to: int) -> KerasValue:
    """The same bits read as another type of the same width."""
    dtype = dtype_name(to)
    refuse_if("bool" in {dtype, x.dtype}, "bits of booleans")
    refuse_if(np.dtype(dtype).itemsize != np.dtype(x.dtype).itemsize, f"{x.dtype} and {dtype} differ in width")
    return x.like(ops.view(x.tensor, dtype=dtype))


@op("Col2Im", 18)
def col2im(
    x: KerasValue,
    image_shape: Item,
    block_shape: Item,
    *,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> KerasValue:
    """Sum of overlapping blocks of a picture: every element is added at its place."""
    image, block = ints(image_shape, "image_shape"), ints(block_shape, "block_shape")
    rank = len(image)
    around, step, gap = pads or [0] * (2 * rank), strides or [1] * rank, dilations or [1] * rank
    batch, count = size_of(x, 0, "Col2Im"), size_of(x, 1, "Col2Im") // math.prod(block)
    padded = [image[i] + around[i] + around[i + rank] for i in range(rank)]
    places = np.zeros((1, 1), "int64")
    for i in range(rank):
        starts = np.arange((padded[i] - gap[i] * (block[i] - 1) - 1) // step[i] + 1) * step[i]
        here = np.arange(block[i])[:, None] * gap[i] + starts
        places = places[:, None, :, None] * padded[i] + here[None, :, None, :]
        places = places.reshape(places.shape[0] * places.shape[1], -1)
    columns = ops.reshape(ops.transpose(ops.reshape(x.plain(), [batch * count, -1]), [1, 0]), [-1, batch * count])
    zeros = np.zeros((math.prod(padded), batch * count), x.dtype)
    total = ops.scatter_update(x.graph.symbolic(zeros), places.reshape(-1, 1), columns, reduction="add")
    picture = ops.reshape(ops.transpose(total, [1, 0]), [batch, count, *padded])
    cut = [slice(around[i], around[i] + image[i]) for i in range(rank)]
    return x.made(picture[(slice(None), slice(None), *cut)])
