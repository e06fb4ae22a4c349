"""A float model with its calibration samples, and how far a quantized form of it is from it on some of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hub.spec import (
    SQNR_CAP_DB,
    AlreadyQuantized,
    CalibrationError,
    Numerics,
    Part,
    RuntimeOptions,
    SampleFolder,
    StepError,
    UnsupportedModel,
    parts_of,
    with_parts,
)
from hub_openvino.border import DTYPES, input_names
from hub_openvino.describe import read_model
from hub_openvino.devices import settings_of
from hub_openvino.ir import read_ir
from hub_openvino.numerics import Found, find_numerics
from hub_openvino.session import FAILURES, reason_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]
    Sample = dict[str, Array] | list[Array]

JUDGED_SAMPLES = 16
"""Calibration samples on which a result is run and compared with the float model inside the step."""


class Tried(NamedTuple):
    """A quantized model.

    Attributes:
        model: OpenVINO's model.
        found: What the IR's reader says that it computes in.
        sqnr_db: On the judged samples, of the worst output; NaN where there are none.
        data: Settings that give it again.
    """

    model: Any
    found: Found
    sqnr_db: float
    data: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A float model made ready.

    Attributes:
        path: The `.xml` file.
        scratch: Where results are written to be read by the IR's reader.
        samples: Every calibration sample as NNCF takes it: arrays by input, in the model's order.
        judged: The samples that results are judged on.
        expected: The float model's outputs for them, in order.
        parts: Output -> its part that is measured by itself too.
        tried: What earlier edges of the same run made of it: recipe -> result.
    """

    path: Path
    scratch: Path
    samples: list[list[Array]] = field(default_factory=list)
    judged: list[list[Array]] = field(default_factory=list)
    expected: list[list[Array]] = field(default_factory=list)
    parts: dict[int, Part] = field(default_factory=dict)
    tried: dict[Any, Tried] = field(default_factory=dict)

    def model(self) -> Any:
        """A fresh copy of the float model."""
        return read_model(self.path)

    def judge(self, model: Any, data: dict[str, Any]) -> Tried:
        """Read a result with the IR's reader, and measure it.

        Raises:
            StepError: It does not run.
        """
        return Tried(model, self.read(model), self.measure(model), data)

    def read(self, model: Any) -> Found:
        """What the IR's reader says of a model, whose layers are numbered first: its words name them."""
        from hub_openvino.convert.finish import number_names, save

        number_names(model)
        target = self.scratch / "tried.xml"
        save(model, target)
        return find_numerics(read_ir(target))

    def measure(self, model: Any) -> float:
        """SQNR in dB of the worst output or part over the judged samples: 10 log10(sum x^2 / sum (x - y)^2)."""
        if not self.judged:
            return math.nan
        return self.compare(run(model, self.judged))

    def compare(self, outputs: Iterator[list[Array]]) -> float:
        """The same for outputs that were computed elsewhere; they may be fewer than the judged samples."""
        signal, noise = None, None
        for expected, found in zip(map(self.parted, self.expected), map(self.parted, outputs), strict=False):
            powers, errors = power(expected), error_power(expected, found)
            signal = powers if signal is None else signal + powers
            noise = errors if noise is None else noise + errors
        if signal is None or noise is None:
            return math.nan
        return min(ratio_db(float(a), float(b)) for a, b in zip(signal, noise, strict=True))

    def parted(self, outputs: Sequence[Array]) -> list[Array]:
        """Outputs, and behind them the parts that are measured by themselves too."""
        return list(with_parts(dict(enumerate(outputs)), self.parts).values())


def power(arrays: Sequence[Array]) -> npt.NDArray[np.float64]:
    """Sum of squares of each array."""
    import numpy as np

    return np.array([np.sum(np.square(array, dtype=np.float64)) for array in arrays])


def error_power(expected: Sequence[Array], found: Sequence[Array]) -> npt.NDArray[np.float64]:
    """Sum of squared differences of each pair; infinite where one is not finite."""
    import numpy as np

    pairs = zip(expected, found, strict=True)
    errors = np.array([np.sum((a.astype(np.float64) - b.astype(np.float64)) ** 2) for a, b in pairs])
    return np.where(np.isfinite(errors), errors, np.inf)


def ratio_db(signal: float, noise: float) -> float:
    """Signal to noise in dB, within what hub's reports hold."""
    if not noise:
        return SQNR_CAP_DB
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -SQNR_CAP_DB


def compiled(model: Any) -> Any:
    """The model compiled for the CPU in pinned float32: integer layers run in the CPU's own integer kernels.

    Raises:
        StepError: OpenVINO cannot compile it.
    """
    import openvino

    core = openvino.Core()
    try:
        return core.compile_model(model, "CPU", settings_of(core, "CPU", RuntimeOptions()))
    except FAILURES as error:
        raise StepError(f"OpenVINO cannot compile the quantized model: {reason_of(error)}") from error


def run(model: Any, samples: Sequence[Sequence[Array]]) -> Iterator[list[Array]]:
    """Yield the outputs for each sample.

    Raises:
        StepError: OpenVINO cannot compile the model, or fails on a sample.
    """
    yield from run_compiled(compiled(model), samples)


def run_compiled(model: Any, samples: Sequence[Sequence[Array]]) -> Iterator[list[Array]]:
    """As `run`, for a model that is compiled already."""
    request = model.create_infer_request()
    for sample in samples:
        try:
            request.reset_state()
            request.infer(list(sample))
        except FAILURES as error:
            raise StepError(f"OpenVINO fails on a calibration sample: {reason_of(error)}") from error
        yield [tensor.data.copy() for tensor in request.output_tensors]


def prepare(path: str, scratch: str, calibration: str) -> Prepared:
    """Reads a float model; with calibration, runs it on the judged samples.

    The last one is kept, so that the next edge in the same worker finds what was tried already.

    Raises:
        AlreadyQuantized: The file holds quantized layers.
        CalibrationError: A sample does not fit the model.
        StepError: The float model does not run.
    """
    files = (Path(path), *(SampleFolder(calibration).files if calibration else ()))
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    prepared = _prepare(path, calibration, stamps)
    prepared.scratch = Path(scratch)
    return prepared


@lru_cache(maxsize=1)
def _prepare(path: str, calibration: str, _stamps: tuple[tuple[str, int, int], ...]) -> Prepared:
    found = find_numerics(read_ir(Path(path))).numerics
    if found.is_quantized or found is Numerics.FP8:
        raise AlreadyQuantized(f"{Path(path).name} is {found.value} already", hint="start from the float32 model")
    prepared = Prepared(path=Path(path), scratch=Path(path).parent)
    if calibration:
        _calibrate(prepared, SampleFolder(calibration))
    return prepared


def forget() -> None:
    """Drop what is kept of the last model."""
    _prepare.cache_clear()


def _calibrate(prepared: Prepared, folder: SampleFolder) -> None:
    model = prepared.model()
    prepared.samples = [_fitting(model, feeds) for feeds in folder]
    if not prepared.samples:
        raise CalibrationError("there is no calibration sample", hint="give some: --calibration DATA")
    step = max(1, math.ceil(len(prepared.samples) / JUDGED_SAMPLES))
    prepared.judged = prepared.samples[::step]
    prepared.expected = list(run(model, prepared.judged))
    prepared.parts = parts_of(dict(enumerate(outputs)) for outputs in prepared.expected)
    for place, outputs in enumerate(prepared.expected):
        if not all(math.isfinite(value) for value in power(outputs)):
            raise UnsupportedModel(f"the float model gives values that are not finite for calibration sample {place}")


def _fitting(model: Any, feeds: dict[str, Array]) -> list[Array]:
    """The sample's arrays in the model's order.

    Raises:
        CalibrationError: One is missing, of another type, of another shape, or not finite.
    """
    import openvino

    arrays = []
    for name, port in zip(input_names(model), model.inputs, strict=True):
        array = feeds.get(name)
        wanted = f"{name}: {port.element_type.get_type_name()}{port.partial_shape}"
        if array is None:
            raise CalibrationError(
                f"calibration holds no input {name}; it has {', '.join(sorted(feeds))}",
                hint=f"the model takes {wanted}",
            )
        same_type = DTYPES.get(port.element_type.get_type_name()) == array.dtype.name.replace("bool_", "bool")
        if not same_type or not port.partial_shape.compatible(openvino.PartialShape(list(array.shape))):
            shape = "x".join(map(str, array.shape))
            raise CalibrationError(
                f"a calibration sample holds {name}: {array.dtype}[{shape}]; the model takes {wanted}"
            )
        _check_finite(name, array)
        arrays.append(array)
    return arrays


def _check_finite(name: str, array: Array) -> None:
    import numpy as np

    if np.issubdtype(array.dtype, np.floating) and not bool(np.isfinite(array).all()):
        raise CalibrationError(f"a calibration sample holds values of {name} that are not finite")
