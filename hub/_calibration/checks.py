"""What calibration data must be: of the model's dtype, finite, varied, and in the range that the model expects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hub.spec import CalibrationError, DType, Remark, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    from hub._calibration.rows import Array

FEW_SAMPLES = 10
OUTSIDE_SHARE = 0.01
USED_SHARE = 1 / 50
BYTE_LOW, BYTE_HIGH = 100, 255  # whole numbers whose largest is between these look like pixels
_STORED = {DType.BFLOAT16: "float32", DType.INT4: "int8"}  # numpy has neither
_BOUNDS = {DType.INT4: (-8, 7)}
_FAMILY = {"f": "float", "i": "integer", "u": "integer", "b": "integer", "c": "complex"}


def cast(tensor: TensorSpec, array: Array, where: str) -> Array:
    """Give an array exactly the input's dtype, in native byte order and C order, where that loses no meaning.

    Floats may change width (float64 to float32 rounds), integers too when every value fits.

    Raises:
        CalibrationError: NaN or Inf, a value out of range, or another family of numbers.
    """
    import numpy as np

    if tensor.dtype in {DType.STRING, DType.UNKNOWN}:
        raise CalibrationError(f"{tensor} takes {tensor.dtype.value}: hub feeds numbers only", hint="freeze the input")
    target = np.dtype(_STORED.get(tensor.dtype, tensor.dtype.value))
    families = _FAMILY.get(array.dtype.kind, array.dtype.name), _FAMILY[target.kind]
    if families[0] != families[1]:
        raise _other_family(tensor, array, where, families)
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
    bad = ~np.isfinite(native)
    if bad.any():
        at = tuple(int(index) for index in np.argwhere(bad)[0])
        raise CalibrationError(
            f"{where}: {tensor.name} holds {int(bad.sum())} values that are NaN or Inf, the first at {list(at)}",
            hint="leave the sample out, or correct it",
        )
    if _out_of_range(tensor, native, target):
        raise CalibrationError(
            f"{where}: {tensor.name} is {native.min()} to {native.max()}, which {tensor.dtype.value} does not hold",
            hint="correct the values; hub does not clip them",
        )
    return native.astype(target, copy=False)


def _other_family(tensor: TensorSpec, array: Array, where: str, families: tuple[str, str]) -> CalibrationError:
    message = f"{where}: {tensor.name} is {array.dtype.name}, the model takes {tensor.dtype.value}"
    if families == ("integer", "float"):
        advice = "scale it as in training, such as array.astype('float32') / 255 (for images: minus mean, by std)"
        return CalibrationError(f"{message}: the scaling is missing", hint=advice)
    return CalibrationError(
        message, hint=f"write the array as the model takes it: array.astype('{tensor.dtype.value}')"
    )


def _out_of_range(tensor: TensorSpec, array: Array, target: np.dtype[Any]) -> bool:
    import numpy as np

    if not array.size or target.kind == "c":
        return False
    bounds = np.finfo(target) if target.kind == "f" else np.iinfo(target) if target.kind in "iu" else None
    low, high = _BOUNDS.get(tensor.dtype, (bounds.min, bounds.max) if bounds else (0, 1))
    return bool(array.min() < low or array.max() > high)


class Watch:
    """What was seen of one input over all samples."""

    def __init__(self, tensor: TensorSpec) -> None:
        self.tensor = tensor
        self.name = tensor.name
        self.is_float = tensor.dtype.is_float
        self.low: float = float("inf")
        self.high: float = float("-inf")
        self.elements = self.outside = self.samples = self.flat = 0
        self.whole = True
        self.first_flat = ""
        self.casts: dict[str, int] = {}

    def see(self, given: Array, where: str) -> Array:
        """Check one sample, remember its range, and return it with the input's dtype.

        Raises:
            CalibrationError: See `cast`; or an integer lies outside of the input's range.
        """
        array = cast(self.tensor, given, where)
        if given.dtype.newbyteorder("=") != array.dtype:
            self.casts[given.dtype.name] = self.casts.get(given.dtype.name, 0) + 1
        self.samples += 1
        if array.dtype.kind != "c":
            self._measure(array, where)
        return array

    def _measure(self, array: Array, where: str) -> None:
        import numpy as np

        low, high = array.min().item(), array.max().item()
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.elements += array.size
        self.whole = self.whole and (array.dtype.kind != "f" or bool(np.all(array == np.trunc(array))))
        if array.size > 1 and low == high:
            self.flat += 1
            self.first_flat = self.first_flat or where
        if self.tensor.value_range is None:
            return
        values: Any = array
        least, most = self.tensor.value_range
        outside = int(np.count_nonzero((values < least) | (values > most)))
        if outside and not self.is_float:
            raise CalibrationError(
                f"{where}: {self.name} holds {low} to {high}, the model takes {least:g} to {most:g}",
                hint="correct the values (another vocabulary?); the model would read past its tables",
            )
        self.outside += outside

    @property
    def has_no_range(self) -> bool:
        """Whether every float that was seen is the same."""
        return self.is_float and self.low == self.high

    def remarks(self) -> Iterator[Remark]:
        """Yield a warning for each thing that is odd about the input."""
        for dtype, count in self.casts.items():
            text = f"{self.name}: {dtype} was cast to the model's {self.tensor.dtype.value} ({count} samples)"
            yield Remark("note", "data-cast", text)
        if self.low == self.high:
            message = f"every value of {self.name} is {self.low:g}, in all {self.samples} samples"
            freeze = f"if the model always gets this value, freeze it: --constant {self.name}={self.low:g}"
            yield Remark("warning", "data-one-value", f"{message}; {freeze}")
        if self.is_float and self.elements:
            yield from self._odd_floats()

    def _odd_floats(self) -> Iterator[Remark]:
        if self.flat:
            flat = f"{self.flat} of {self.samples} samples of {self.name} are one constant each"
            yield Remark("warning", "data-flat-samples", f"{flat}, the first {self.first_flat}")
        least, most = self.tensor.value_range or (self.low, self.high)
        got = f"{self.name} is {self.low:g} to {self.high:g}, the model expects {least:g} to {most:g}"
        if self.outside > OUTSIDE_SHARE * self.elements:
            text = f"{got}: {self.outside / self.elements:.0%} of the values lie outside; is a scaling missing?"
            yield Remark("warning", "data-out-of-range", text)
        if self.high - self.low < USED_SHARE * (most - least):
            text = f"{got}: the data uses a small part of it; was it scaled twice?"
            yield Remark("warning", "data-in-small-range", text)
        takes_bytes = self.tensor.value_range is not None and most >= BYTE_LOW
        if self.whole and self.low >= 0 and BYTE_LOW <= self.high <= BYTE_HIGH and not takes_bytes:
            pixels = f"{self.name} holds whole numbers from {self.low:g} to {self.high:g}, as raw pixels do"
            yield Remark("warning", "data-raw-pixels", f"{pixels}: was the normalisation of the training forgotten?")


class Digests:
    """Hashes of the samples, in order: the fingerprint, and what occurs twice."""

    def __init__(self) -> None:
        self.every: list[bytes] = []

    def add(self, arrays: dict[str, Array]) -> None:
        """Hash one sample: names, dtypes, shapes, bytes."""
        digest = hashlib.sha256()
        for name, array in arrays.items():
            digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
            digest.update(array.tobytes())
        self.every.append(digest.digest())

    @property
    def fingerprint(self) -> str:
        """sha256 over the samples' hashes."""
        return hashlib.sha256(b"".join(self.every)).hexdigest()

    def remarks(self, *, calibrates: bool) -> Iterator[Remark]:
        """Yield warnings about number and duplicates.

        Raises:
            CalibrationError: All samples are the same one, and ranges are to be measured on them.
        """
        count, distinct = len(self.every), len(set(self.every))
        if count > 1 and distinct == 1 and calibrates:
            raise CalibrationError(f"all {count} samples are identical", hint="give different real samples")
        if distinct < count:
            text = f"{count - distinct} of {count} samples are duplicates of others"
            yield Remark("warning", "data-duplicates", text)
        if count < FEW_SAMPLES and calibrates:
            text = f"{count} samples are few: ranges measured on so little data may not hold; some 100 are usual"
            yield Remark("warning", "data-few-samples", text)
