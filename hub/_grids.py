"""The numbers that stored integers stand for, and the error of one tensor against another, summed over samples."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from hub._layer_bounds import FAR_STEPS
from hub.spec import InnerTensor

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]
    Reals = npt.NDArray[np.float64]


def grid_along(tensor: InnerTensor, rank: int) -> "tuple[Reals, Reals]":
    """Scale and zero point of a grid, in the shape that broadcasts along its axis."""
    quant = tensor.quant
    if quant is None:
        raise ValueError(f"{tensor.name} lies on no grid")
    shape = [1] * rank
    if quant.axis is not None:
        shape[quant.axis] = -1
    size = shape if quant.axis is not None else ()
    return np.reshape(quant.scale, size), np.reshape(quant.zero_point, size)


def real_numbers(array: "Array", tensor: InnerTensor) -> "Reals":
    """The numbers that a tensor's stored ones stand for; a tensor of floats holds them as they are."""
    if tensor.quant is None or array.dtype.kind == "f":
        return array.astype("float64")
    scale, zero_point = grid_along(tensor, array.ndim)
    return (array.astype("float64") - zero_point) * scale


class LaidGrid(NamedTuple):
    """A grid in real numbers, laid out as what is compared on it, or for all of it."""

    scale: "Reals"
    low: "Reals"
    high: "Reals"

    @classmethod
    def of(
        cls, tensor: InnerTensor, shape: tuple[int, ...], laid_out: "Callable[[Reals], Reals] | None" = None
    ) -> "LaidGrid | None":
        """The grid of a tensor of a shape; none where it has none.

        Args:
            tensor: The tensor.
            shape: Its sizes.
            laid_out: What lays it out as the tensor that it is compared with.
        """
        if tensor.quant is None:
            return None
        scale, zero_point = grid_along(tensor, len(shape))
        if scale.size > 1 and laid_out:
            scale, zero_point = (laid_out(np.broadcast_to(item, shape)) for item in (scale, zero_point))
        return cls(scale, (tensor.low - zero_point) * scale, (tensor.high - zero_point) * scale)


class ErrorSums(msgspec.Struct, kw_only=True):
    """Running sums over samples of the error of one tensor against another; powers in float64.

    Attributes:
        count: Values.
        signal: Power of what is wanted.
        noise: Power of the difference.
        kept_noise: Likewise in steps of the grid, from what its range leaves of what is wanted.
        cut_noise: Power of what the range cuts off.
        far: Values that are more than `FAR_STEPS` off.
        cut: Values that lie more than a step outside.
        ends: Values that lie at an end of the range.
        samples: Samples.
        reaches: Sum of how many times the range each sample's own extremes are, where one range is for all channels.
    """

    count: int = 0
    signal: float = 0.0
    noise: float = 0.0
    kept_noise: float = 0.0
    cut_noise: float = 0.0
    far: int = 0
    cut: int = 0
    ends: int = 0
    samples: int = 0
    reaches: float = 0.0

    @property
    def reach(self) -> float:
        """How many times the range the extremes of a sample are, in the mean over samples."""
        return self.reaches / self.samples if self.samples else 0.0

    def add(self, wanted: "Reals", found: "Reals", grid: LaidGrid | None) -> None:
        """Add a sample; numbers that are not finite on either side in the same way are equal."""
        alike = ~np.isfinite(wanted) & ((wanted == found) | (np.isnan(wanted) & np.isnan(found)))
        if alike.any():
            wanted, found = np.where(alike, 0, wanted), np.where(alike, 0, found)
        self.count += wanted.size
        self.signal += float(np.square(wanted).sum())
        self.noise += float(np.square(wanted - found).sum())
        if grid is None:
            return
        kept = np.clip(wanted, grid.low, grid.high)
        steps = np.abs(kept - found) / grid.scale
        self.kept_noise += float(np.square(steps).sum())
        self.cut_noise += float(np.square(wanted - kept).sum())
        self.far += int(np.count_nonzero(steps > FAR_STEPS))
        self.cut += int(np.count_nonzero(np.abs(wanted - kept) > grid.scale))
        low, high = (found <= grid.low + grid.scale / 4), (found >= grid.high - grid.scale / 4)
        ends = (low & (grid.low != 0)) | (high & (grid.high != 0))  # a rectifier's zero is no end that cuts
        self.ends += int(np.count_nonzero(ends))
        if grid.scale.size == 1 and wanted.size:
            extremes = (float(wanted.max()), float(grid.high.max())), (float(wanted.min()), float(grid.low.min()))
            self.samples += 1
            self.reaches += max((extreme / end for extreme, end in extremes if extreme * end > 0), default=0.0)
