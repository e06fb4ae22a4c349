"""Reshape without moving elements: which axes become which, and in what order they may stay stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hub_keras.onnx_importer.lazy import ops
from hub_keras.onnx_importer.values import KerasValue


@dataclass(frozen=True, slots=True)
class Block:
    """ONNX axes that become others among themselves."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def blocks_of(old: Sequence[int], new: Sequence[int]) -> list[Block]:
    """Part a reshape into the smallest blocks of neighbouring axes of the same number of elements."""
    found, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        first, second = i, j
        left, right = 1, 1
        while i == first or j == second or left != right:
            if (left <= right or j == len(new)) and i < len(old):
                left, i = left * old[i], i + 1
            elif j < len(new):
                right, j = right * new[j], j + 1
            else:
                break
        found.append(Block(tuple(range(first, i)), tuple(range(second, j))))
    return found


def reshape_static(value: KerasValue, shape: Sequence[int]) -> KerasValue:
    """Reshape; blocks keep the order they are stored in where their own axes are neighbours in it."""
    old = [int(size or 0) for size in value.shape]
    if 0 in old or 0 in shape or math.prod(old) != math.prod(shape):
        return value.made(ops.reshape(value.plain(), shape))
    blocks = blocks_of(old, shape)
    ordered = _ordered(value, blocks, old)
    if ordered is None:
        return value.made(ops.reshape(value.plain(), shape), nonnegative=value.nonnegative)
    tensor = value.stored([axis for block in ordered for axis in block.inputs])
    order = [axis for block in ordered for axis in block.outputs]
    return value.made(ops.reshape(tensor, [shape[axis] for axis in order]), order, nonnegative=value.nonnegative)


def _ordered(value: KerasValue, blocks: list[Block], old: list[int]) -> list[Block] | None:
    """The blocks in the order they are stored in; None when a block lies apart, or has no old axes."""
    moving = [block for block in blocks if block.inputs]
    if len(moving) != len(blocks):
        return None
    spots = {axis: place for place, axis in enumerate(axis for axis in value.order if old[axis] != 1)}
    keys = []
    for block in moving:
        places = [spots[axis] for axis in block.inputs if axis in spots]
        if places and max(places) - min(places) + 1 != len(places):
            return None
        keys.append(min(places) if places else -1)
    return [block for _, block in sorted(zip(keys, moving, strict=True), key=lambda pair: pair[0])]
