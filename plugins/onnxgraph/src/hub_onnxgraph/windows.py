"""Windows that slide over spatial axes: the attributes of their operators, and where the input is padded for them.

A size is an int. Where an importer keeps sizes open and has a symbol for them that computes like one, it passes its own
`largest` and `choice`, which take symbols too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hub_onnxgraph.errors import refuse_if
from hub_onnxgraph.table import Attributes


@dataclass(frozen=True, slots=True)
class Sliding:
    """A window's numbers, one for each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1

    @property
    def rank(self) -> int:
        """Spatial axes."""
        return len(self.kernel)

    @property
    def extents(self) -> list[int]:
        """The width of each window with its dilation."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowForm(Attributes):
    """What every operator with a window understands."""

    auto_pad: str = "NOTSET"
    dilations: list[int] | None = None
    kernel_shape: list[int] | None = None
    pads: list[int] | None = None
    strides: list[int] | None = None

    def sliding(self, kernel: Sequence[int], group: int = 1) -> Sliding:
        """The window's numbers, of a kernel of these sizes."""
        kernel, ones = tuple(kernel), [1] * len(kernel)
        given = self.kernel_shape
        refuse_if(given and tuple(given) != kernel, f"kernel_shape {given} with weights of {list(kernel)}")
        return Sliding(kernel, tuple(self.strides or ones), tuple(self.dilations or ones), group)

    def explicit_pads(
        self, window: Sliding, sizes: Callable[[], Sequence[int]], largest: Callable[[int, int], int] = max
    ) -> list[int]:
        """ONNX's pads: begins, then ends.

        Args:
            window: The window.
            sizes: Gives the input's spatial sizes, where they are needed.
            largest: The larger of two sizes.

        Raises:
            Refused: The words contradict each other.
        """
        none = [0] * (2 * window.rank)
        if self.auto_pad == "NOTSET":
            return self.pads or none
        refuse_if(self.pads and any(self.pads), f"pads together with auto_pad {self.auto_pad}")
        if self.auto_pad == "VALID":
            return none
        refuse_if(self.auto_pad not in {"SAME_UPPER", "SAME_LOWER"}, f"auto_pad {self.auto_pad}")
        alone = max(window.strides) == 1
        totals = [extent - 1 for extent in window.extents] if alone else same_totals(sizes(), window, largest)
        return split_totals(totals, upper=self.auto_pad == "SAME_UPPER")


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(WindowForm):
    """Attributes of Conv and its kin."""

    group: int = 1

    def of(self, kernel: Sequence[int]) -> Sliding:
        """The window's numbers, of a kernel of these sizes."""
        return self.sliding(kernel, self.group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transposed(Convolution):
    """Attributes of ConvTranspose."""

    output_padding: list[int] | None = None
    output_shape: list[int] | None = None

    def crop(self, window: Sliding, sizes: Callable[[], Sequence[int]]) -> tuple[list[int], list[int]]:
        """What is cut off the full result, begins then ends, and what is added to its ends.

        The odd one of a crop that reaches a wanted size is taken as the standard's formula says.
        """
        rank = window.rank
        extra = self.output_padding or [0] * rank
        wanted = self.output_shape[-rank:] if self.output_shape else None
        if wanted is None and not self.auto_pad.startswith("SAME"):
            return self.pads or [0] * (2 * rank), extra
        known = self.auto_pad in {"NOTSET", "SAME_UPPER", "SAME_LOWER"}
        refuse_if(not known, f"auto_pad {self.auto_pad} with output_shape")
        # SAME without a shape: the size times the stride, whatever the size is, so that of one element does
        have, wanted = (sizes(), wanted) if wanted else ([1] * rank, list(window.strides))
        parts = zip(have, window.strides, window.extents, extra, wanted, strict=True)
        totals = [stride * (size - 1) + extent + more - out for size, stride, extent, more, out in parts]
        return split_totals(totals, upper=self.auto_pad == "SAME_UPPER"), extra


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(WindowForm):
    """Attributes of pools."""

    kernel_shape: list[int] = field()
    ceil_mode: int = 0

    def of(self, rank: int) -> Sliding:
        """The window's numbers, over so many spatial axes."""
        refuse_if(len(self.kernel_shape) != rank, f"kernel_shape {self.kernel_shape} over {rank} spatial axes")
        return self.sliding(self.kernel_shape)


def same_totals(sizes: Sequence[int], window: Sliding, largest: Callable[[int, int], int] = max) -> list[int]:
    """The padding that makes the result as long as the input divided by the stride, rounded up."""
    parts = zip(sizes, window.extents, window.strides, strict=True)
    return [largest((-(-size // stride) - 1) * stride + extent - size, 0) for size, extent, stride in parts]


def split_totals(totals: Sequence[int], *, upper: bool) -> list[int]:
    """Begins and ends; the odd one goes to the end for SAME_UPPER, to the beginning for SAME_LOWER."""
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return small + large if upper else large + small


def pairs(pads: Sequence[int]) -> list[tuple[int, int]]:
    """Pads as (begin, end) of each axis."""
    rank = len(pads) // 2
    return list(zip(pads[:rank], pads[rank:], strict=True))


def _if(condition: bool, yes: int, no: int) -> int:
    return yes if condition else no


def whole_pads(
    sizes: Sequence[int],
    pads: Sequence[int],
    window: Sliding,
    *,
    ceil: int,
    choice: Callable[[bool, int, int], int] = _if,
) -> list[int]:
    """Pads whose ends are moved so that whole windows exactly cover the axis.

    The number of windows is ONNX's: with ceil_mode, a last partial window counts unless it starts in the end padding.

    Args:
        sizes: The input's spatial sizes.
        pads: ONNX's pads.
        window: The window.
        ceil: The attribute ceil_mode.
        choice: One of two sizes by a condition on sizes.
    """
    begins, ends = [], []
    parts = zip(sizes, window.extents, window.strides, pairs(pads), strict=True)
    for size, extent, stride, (begin, end) in parts:
        room = size + begin + end - extent
        refuse_if(isinstance(room, int) and room < 0, f"a window of {extent} over {size + begin + end} elements")
        steps = -(room // -stride) if ceil else room // stride
        if ceil:
            steps = choice(steps * stride >= size + begin, steps - 1, steps)
        begins.append(begin)
        ends.append(steps * stride + extent - size - begin)
    return begins + ends


_EXACT_IN_FLOAT32 = 2**24 // 2**16  # products of two 8-bit numbers that float32 adds up without rounding


def carrier(count: int | None) -> str:
    """A float that holds a sum of so many products of 8-bit numbers exactly; None stands for any number of them."""
    return "float32" if count is not None and count <= _EXACT_IN_FLOAT32 else "float64"
