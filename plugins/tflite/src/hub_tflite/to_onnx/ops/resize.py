"""Resizing of pictures, and blocks moved between space, depth and batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_onnxgraph.errors import refuse_if
from hub_tflite.to_onnx.lazy import np
from hub_tflite.to_onnx.registry import op
from hub_tflite.to_onnx.windows import channels_first, channels_last

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.node import TfliteNode


def _resized(node: TfliteNode, x: Value, size: Value, **attributes: str) -> Value:
    """Resize the two spatial axes."""
    first = channels_first(node, x)
    # All four sizes: ONNX Runtime's own transpose optimizer (1.32) takes two sizes with `axes` for sizes of all axes.
    sizes = node.emit("Concat", _first_two(node, first), node.int64(size), axis=0)
    result = node.emit("Resize", first, None, None, sizes, **attributes)
    return channels_last(node, result, 4)


def _first_two(node: TfliteNode, value: Value) -> Value:
    """The sizes of batch and channels."""
    sizes = node.shape(value)[:2]
    if None not in sizes:
        return node.constant(node.sizes(value, range(2)))
    return node.emit("Shape", value, end=2)


def _coordinates(*, align_corners: bool, half_pixel_centers: bool) -> str:
    refuse_if(align_corners and half_pixel_centers, "aligned corners together with half-pixel centers")
    return "align_corners" if align_corners else "half_pixel" if half_pixel_centers else "asymmetric"


@op("RESIZE_BILINEAR", 4)
def resize_bilinear(
    node: TfliteNode, x: Value, size: Value, *, align_corners: bool = False, half_pixel_centers: bool = False
) -> Value:
    """Linear between neighbours."""
    mode = _coordinates(align_corners=align_corners, half_pixel_centers=half_pixel_centers)
    return _resized(node, x, size, mode="linear", coordinate_transformation_mode=mode)


@op("RESIZE_NEAREST_NEIGHBOR", 4)
def resize_nearest_neighbor(
    node: TfliteNode, x: Value, size: Value, *, align_corners: bool = False, half_pixel_centers: bool = False
) -> Value:
    """The nearest element: rounded half up with either option, down without."""
    mode = _coordinates(align_corners=align_corners, half_pixel_centers=half_pixel_centers)
    nearest = "floor" if mode == "asymmetric" else "round_prefer_ceil"
    return _resized(node, x, size, mode="nearest", coordinate_transformation_mode=mode, nearest_mode=nearest)


@op("SPACE_TO_DEPTH", 2)
def space_to_depth(node: TfliteNode, x: Value, *, block_size: int) -> Value:
    """Blocks of space become channels: row, column, channel, as in ONNX."""
    return channels_last(node, node.emit("SpaceToDepth", channels_first(node, x), blocksize=block_size), 4)


@op("DEPTH_TO_SPACE", 2)
def depth_to_space(node: TfliteNode, x: Value, *, block_size: int) -> Value:
    """Channels become blocks of space: row, column, channel, as in ONNX's mode DCR."""
    return channels_last(node, node.emit("DepthToSpace", channels_first(node, x), blocksize=block_size, mode="DCR"), 4)


def _spaces(node: TfliteNode, x: Value, blocks: list[int]) -> tuple[list[int], list[int]]:
    """Return the sizes of the axes that blocks go over, and of those behind them."""
    sizes = node.sizes(x, range(1, node.rank(x)))
    return sizes[: len(blocks)], sizes[len(blocks) :]


@op("SPACE_TO_BATCH_ND", 4)
def space_to_batch_nd(node: TfliteNode, x: Value, block: Value, paddings: Value) -> Value:
    """Pad, then move the places within blocks in front of the batch."""
    blocks, around = node.integers(block, "the block"), node.integers(paddings, "the padding")
    count = len(blocks)
    space, rest = _spaces(node, x, blocks)
    begins, ends = around[::2], around[1::2]
    if any(around):
        more = [0] * len(rest)
        x = node.emit("Pad", x, node.constant([0, *begins, *more, 0, *ends, *more]))
    counts = [(s + b + e) // k for s, b, e, k in zip(space, begins, ends, blocks, strict=True)]
    split = node.reshape(x, [-1, *(n for pair in zip(counts, blocks, strict=True) for n in pair), *rest])
    outer, inner = range(1, 2 * count, 2), range(2, 2 * count + 1, 2)
    moved = node.transpose(split, [*inner, 0, *outer, *range(2 * count + 1, 2 * count + 1 + len(rest))])
    return node.reshape(moved, [-1, *counts, *rest])


@op("BATCH_TO_SPACE_ND", 4)
def batch_to_space_nd(node: TfliteNode, x: Value, block: Value, crops: Value) -> Value:
    """Move places within blocks back from in front of the batch, then crop."""
    blocks, around = node.integers(block, "the block"), node.integers(crops, "the crop")
    count = len(blocks)
    space, rest = _spaces(node, x, blocks)
    split = node.reshape(x, [*blocks, -1, *space, *rest])
    pairs = [axis for place in range(count) for axis in (count + 1 + place, place)]
    moved = node.transpose(split, [count, *pairs, *range(2 * count + 1, 2 * count + 1 + len(rest))])
    whole = [s * k for s, k in zip(space, blocks, strict=True)]
    result = node.reshape(moved, [-1, *whole, *rest])
    if not any(around):
        return result
    starts, ends = around[::2], [w - e for w, e in zip(whole, around[1::2], strict=True)]
    return node.emit(
        "Slice", result, node.constant(starts), node.constant(ends), node.constant(np.arange(1, count + 1))
    )
