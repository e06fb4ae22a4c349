"""What convolutions, pools and resizing share: channels first, and TFLite's paddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hub_onnxgraph.errors import refuse_if

if TYPE_CHECKING:
    from onnx_ir import Value

    from hub_tflite.to_onnx.builder import Attribute
    from hub_tflite.to_onnx.node import TfliteNode

SAME, VALID = 0, 1
"""`Padding` of the schema."""


def to_channels_first(rank: int) -> list[int]:
    """The permutation that moves the last axis behind the first."""
    return [0, rank - 1, *range(1, rank - 1)]


def to_channels_last(rank: int) -> list[int]:
    """The permutation that moves the second axis to the end."""
    return [0, *range(2, rank), 1]


def channels_first(node: TfliteNode, value: Value) -> Value:
    """Write the transpose to N, C, spatial axes."""
    return node.transpose(value, to_channels_first(node.rank(value)))


def channels_last(node: TfliteNode, value: Value, rank: int) -> Value:
    """Write the transpose to N, spatial axes, C."""
    return node.transpose(value, to_channels_last(rank))


class Window(NamedTuple):
    """A window that slides over the spatial axes, by axis."""

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    padding: int

    def pads(self, sizes: Sequence[int | None]) -> dict[str, Attribute]:
        """Return ONNX's attributes for TFLite's padding of axes of these sizes (`ComputePaddingWithOffset`).

        SAME pads so that the result has ceil(size / stride) places, the odd element at the end. Where that hangs on a
        size that is open, ONNX's SAME_UPPER, which is the same, computes it at run time.
        """
        refuse_if(self.padding not in {SAME, VALID}, f"padding {self.padding} is not implemented")
        if self.padding == VALID:
            return {}
        if any(size is None and stride > 1 for size, stride in zip(sizes, self.strides, strict=True)):
            return {"auto_pad": "SAME_UPPER"}
        totals = [self._total(axis, size) for axis, size in enumerate(sizes)]
        begins = [total // 2 for total in totals]
        return {"pads": [*begins, *(total - begin for total, begin in zip(totals, begins, strict=True))]}

    def _total(self, axis: int, size: int | None) -> int:
        extent, stride = self.extent(axis), self.strides[axis]
        return extent - 1 if size is None else max((-(-size // stride) - 1) * stride + extent - size, 0)

    def extent(self, axis: int) -> int:
        """The places from the first to the last tap."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1
