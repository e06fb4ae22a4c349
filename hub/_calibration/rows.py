"""The row rule: how an array of data becomes samples of the shape that the model takes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from hub.spec import CalibrationError, Dim, Signature, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

Shape = tuple[int, ...]


class Chunk(NamedTuple):
    """Arrays that were read together.

    Attributes:
        origin: File or function they came from, for messages.
        arrays: By input name; only those the model takes.
        one_sample: Whether the arrays may be one whole sample (a file of a folder, a dict from a function).
        labels: The array of labels, where there is one.
    """

    origin: str
    arrays: dict[str, Array]
    one_sample: bool = False
    labels: Array | None = None


@dataclass(frozen=True)
class Cut:
    """How one array is cut.

    Attributes:
        kind: `each`: one sample per entry of axis 0. `rows`: `batch` rows of axis 0 per sample. `whole`: one sample.
        count: Number of samples.
        shape: Shape of one sample.
        batch: Rows in a sample; 1 unless `kind` is `rows`.
        dropped: Rows left over.
    """

    kind: Literal["each", "rows", "whole"]
    count: int
    shape: Shape
    batch: int = 1
    dropped: int = 0

    def sample(self, array: Array, index: int) -> Array:
        """Cut out one sample."""
        if self.kind == "whole":
            return array
        rows: Any = index if self.kind == "each" else slice(index * self.batch, (index + 1) * self.batch)
        taken: Array = array[rows]
        return taken


def shape_text(shape: Iterable[object]) -> str:
    """Write a shape as the command line takes it: `1x3x224x224`."""
    return "x".join(map(str, shape)) or "scalar"


def wanted_inputs(
    signature: Signature, shapes: Mapping[str, Shape], constants: Container[str]
) -> tuple[TensorSpec, ...]:
    """The inputs that the data must hold, with the fixed shapes put in.

    Raises:
        CalibrationError: The model takes nothing that data could feed.
    """
    wanted = tuple(
        msgspec.structs.replace(tensor, shape=tuple(map(Dim.of, shapes[tensor.name])))
        if tensor.name in shapes
        else tensor
        for tensor in signature.inputs
        if tensor.name not in constants
    )
    if not wanted:
        raise CalibrationError("the model takes no input, so no data fits it", hint="leave out the data")
    return wanted


def cuts_of(chunk: Chunk, wanted: Iterable[TensorSpec]) -> dict[str, Cut]:
    """Tell how each array of a chunk is cut, so that all give the same number of samples.

    An array with one more dimension than the input holds one sample per entry. An array with the same number of
    dimensions holds rows, grouped to the input's batch size (a symbolic one counts as 1). Where these disagree between
    inputs and the arrays come from a file of their own, they are one sample as they stand.

    Raises:
        CalibrationError: A shape does not fit, counts differ, or one symbol has two sizes in a sample.
    """
    wanted = tuple(wanted)
    cuts = {tensor.name: _cut(tensor, chunk) for tensor in wanted}
    if len({cut.count for cut in cuts.values()}) > 1:
        cuts = _whole(chunk, wanted, cuts)
    _check_symbols(chunk.origin, wanted, cuts)
    return cuts


def _cut(tensor: TensorSpec, chunk: Chunk) -> Cut:
    array = chunk.arrays[tensor.name]
    if array.ndim == len(tensor.shape) + 1 and _fits(array.shape[1:], tensor.shape):
        return Cut("each", array.shape[0], array.shape[1:])
    if array.ndim == len(tensor.shape) and array.ndim and _fits(array.shape[1:], tensor.shape[1:]):
        batch = tensor.shape[0].size or 1
        count, dropped = divmod(array.shape[0], batch)
        return Cut("rows", count, (batch, *array.shape[1:]), batch, dropped)
    if chunk.one_sample and _fits(array.shape, tensor.shape):
        return Cut("whole", 1, array.shape)
    message = f"{chunk.origin}: {tensor.name} has shape {shape_text(array.shape)}, the model takes"
    raise CalibrationError(f"{message} {shape_text(tensor.shape)}", hint=_advice(tensor, array.shape))


def _fits(shape: Shape, dims: tuple[Dim, ...]) -> bool:
    return len(shape) == len(dims) and all(map(_takes, dims, shape))


def _takes(dim: Dim, size: int) -> bool:
    if dim.size is not None:
        return size == dim.size
    return dim.low <= size and (dim.high is None or size <= dim.high)


def _advice(tensor: TensorSpec, shape: Shape) -> str:
    per_row = shape_text(("N", *tensor.shape[1:])) if tensor.shape else "N"
    plain = f"give {tensor.name} as rows, {per_row}"
    if len(shape) == len(tensor.shape) - 1 and _fits(shape, tensor.shape[1:]):
        return f"add the batch dimension: array[None] (or {plain[5:]})"
    for axes, words in (((0, 3, 1, 2), "channels last"), ((0, 2, 3, 1), "channels first")):
        moved = tuple(shape[axis] for axis in axes) if len(shape) == len(axes) else ()
        if moved and _fits(moved[1:], tensor.shape[1:]):
            return f"the data is {words}, the model is not: array.transpose{axes}"
    return plain


def _whole(chunk: Chunk, wanted: tuple[TensorSpec, ...], cuts: dict[str, Cut]) -> dict[str, Cut]:
    if chunk.one_sample and all(_fits(chunk.arrays[tensor.name].shape, tensor.shape) for tensor in wanted):
        return {name: Cut("whole", 1, array.shape) for name, array in chunk.arrays.items()}
    counts = ", ".join(
        f"{name} {cut.count} (shape {shape_text(chunk.arrays[name].shape)})" for name, cut in cuts.items()
    )
    raise CalibrationError(
        f"{chunk.origin}: the inputs have different numbers of samples: {counts}",
        hint="give every input the same number of samples, each as N x the input's own shape",
    )


def _check_symbols(origin: str, wanted: tuple[TensorSpec, ...], cuts: dict[str, Cut]) -> None:
    seen: dict[str, tuple[str, int]] = {}
    for tensor in wanted:
        for dim, size in zip(tensor.shape, cuts[tensor.name].shape, strict=True):
            if dim.symbol is None:
                continue
            name, before = seen.setdefault(dim.symbol, (tensor.name, size))
            if before != size:
                raise CalibrationError(
                    f"{origin}: {dim.symbol} is {before} in {name} and {size} in {tensor.name} of the same sample",
                    hint=f"give both inputs the same size of {dim.symbol}",
                )
