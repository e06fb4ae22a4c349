"""Random inputs that fit a model, for float gates when no data is given."""

import itertools
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import DType, Remark, Signature, TensorSpec, UnsupportedModel, write_sample

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub.spec.calibration import Feeds

    Array = npt.NDArray[np.generic]

IMAGE_CHANNELS = (1, 3, 4)


def draw_samples(
    signature: Signature, shapes: dict[str, tuple[int, ...]], folder: Path, *, count: int, seed: int
) -> tuple[Remark, ...]:
    """Write `count` random samples; returns what must be told about them.

    Floats of an image-like input (rank 4 with 1, 3 or 4 channels) are uniform in [0, 1), other floats normal; a
    reader's value range takes precedence. Integers lie in the reader's value range, else in {0, 1}, which every
    embedding and every mask can take.
    """
    for index in range(count):
        feeds = {spec.name: _draw(spec, shapes[spec.name], seed * 1000 + index) for spec in signature.inputs}
        write_sample(folder, index, feeds)
    unknown = [s.name for s in signature.inputs if not s.dtype.is_float and s.dtype != DType.BOOL and not s.value_range]
    if not unknown:
        return ()
    text = f"the range of integer input {', '.join(unknown)} is unknown: drew 0 and 1"
    return (Remark("warning", "integer-range-unknown", text, "give real inputs: --test DATA"),)


def repeat_samples(samples: "Iterable[Feeds]", shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Write samples of other shapes made of real ones: the next sample behind each along axis 0, repeats elsewhere.

    Args:
        samples: The real ones, all of one shape per input.
        shapes: Shape wanted, per input.
        folder: Where the new ones go, at most two: they cost as much as the others together.
    """
    first, *more = itertools.islice(samples, 3)
    for index, (here, there) in enumerate(itertools.pairwise((first, *(more or [first])))):
        write_sample(folder, index, {name: _repeated(here[name], there[name], shapes[name]) for name in shapes})


def _repeated(here: "Array", there: "Array", shape: tuple[int, ...]) -> "Array":
    import numpy as np

    if not shape:
        return here
    both = np.concatenate([here, there]) if shape[0] > here.shape[0] else here
    times = [-(-wanted // size) for wanted, size in zip(shape, both.shape, strict=True)]
    return np.tile(both, times)[tuple(slice(size) for size in shape)]


def one_step_up(array: "Array") -> "Array":
    """The next larger number that the element type holds, for floats; integers stay."""
    import numpy as np

    return np.nextafter(array, array.dtype.type(np.inf)) if np.issubdtype(array.dtype, np.floating) else array


def _draw(spec: TensorSpec, shape: tuple[int, ...], seed: int) -> "Array":
    import numpy as np

    generator = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    if spec.dtype in {DType.STRING, DType.UNKNOWN, DType.COMPLEX64, DType.BFLOAT16, DType.FLOAT8E4M3FN, DType.INT4}:
        raise UnsupportedModel(f"hub cannot draw inputs of dtype {spec.dtype} for {spec.name}", hint="--test DATA")
    if spec.dtype.is_float:
        return _draw_float(spec, shape, generator).astype(spec.dtype.value)
    low, high = spec.value_range or (0, 1)
    return generator.integers(int(low), int(high), size=shape, endpoint=True).astype(spec.dtype.value)


def _draw_float(spec: TensorSpec, shape: tuple[int, ...], generator: "np.random.Generator") -> "Array":
    if spec.value_range:
        return generator.uniform(*spec.value_range, size=shape)
    if len(shape) == 4 and {shape[1], shape[3]} & set(IMAGE_CHANNELS):  # noqa: PLR2004 NCHW or NHWC
        return generator.uniform(size=shape)
    return generator.standard_normal(size=shape)
