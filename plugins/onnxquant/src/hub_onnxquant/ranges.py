"""What values activations take on calibration samples, and the ranges drawn from that.

ONNX Runtime's histogram calibrators keep every tensor of every sample in memory (1 to 2 GB on the OCR networks). Here
one sample's tensors are held at a time, a group of them if they are large; what is kept is a histogram per tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hub.spec import CalibrationError, StepError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub.spec import Feeds

    Array = npt.NDArray[np.generic]
    Counts = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]

Range = tuple[float, float]
BINS = 2048
GROUP_BYTES = 2**28
"""Tensors fetched in one run, at most."""

_READ = 2**15  # elements of one tensor of one sample that enter its histogram, evenly spread; extremes read them all
_LEVELS = 256


@dataclass(slots=True)
class ObservedRanges:
    """One activation.

    Attributes:
        low: Smallest value seen.
        high: Largest value seen.
        counts: Histogram of `BINS` equal bins over [low, high].
    """

    low: float
    high: float
    counts: Counts = field(repr=False)

    @property
    def centers(self) -> Floats:
        """The middle of each bin."""
        import numpy as np

        edges = np.linspace(self.low, self.high, BINS + 1)
        return (edges[1:] + edges[:-1]) / 2


class Tap:
    """Runs a float model and fetches tensors inside it.

    Args:
        content: The model, small enough for one protocol buffer.
        names: Float tensors to fetch.

    Raises:
        StepError: ONNX Runtime refuses the model.
    """

    def __init__(self, content: bytes, names: Sequence[str]) -> None:
        import onnx
        import onnxruntime as ort

        from hub_onnxquant.runtime_options import runtime_failures, session_options

        model = onnx.ModelProto.FromString(content)
        known = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
        self.names = list(names)
        self._failures = runtime_failures()
        self._groups: list[list[str]] = []
        try:
            self._session = ort.InferenceSession(
                model.SerializeToString(), session_options("plain", 0), providers=["CPUExecutionProvider"]
            )
        except self._failures as error:
            raise StepError(f"ONNX Runtime refuses the float model: {error}") from error

    def arrays(self, feeds: Feeds) -> Iterator[tuple[str, Array]]:
        """Yields (name, values) of one sample, one group of tensors in memory at a time.

        Raises:
            CalibrationError: The sample does not fit the model.
        """
        if not self._groups:
            self._groups = list(self._grouped(feeds))
        for group in self._groups:
            yield from zip(group, self._run(group, feeds), strict=True)

    def _run(self, names: list[str], feeds: Feeds) -> list[Array]:
        try:
            return list(self._session.run(names, dict(feeds)))
        except self._failures as error:
            shapes = ", ".join(
                f"{name} {array.dtype}[{'x'.join(map(str, array.shape))}]" for name, array in feeds.items()
            )
            message = f"a calibration sample does not run in the float model: {shapes}: {error}"
            raise CalibrationError(
                message, hint="Run `hub inspect` on the model: it names the inputs it takes."
            ) from error

    def _grouped(self, feeds: Feeds) -> Iterator[list[str]]:
        group: list[str] = []
        size = 0
        for start in range(0, len(self.names), 16):
            part = self.names[start : start + 16]
            for name, array in zip(part, self._run(part, feeds), strict=True):
                if group and size + array.nbytes > GROUP_BYTES:
                    yield group
                    group, size = [], 0
                group.append(name)
                size += array.nbytes
        if group:
            yield group


def observe(content: bytes, names: Sequence[str], samples: Iterable[Feeds]) -> dict[str, ObservedRanges]:
    """Runs the samples twice: for the extremes, then for histograms between them.

    Args:
        content: The float model.
        names: Activations to watch; one that is empty in every sample is left out.
        samples: Re-iterable; each may have its own sizes where the model's dimensions are open.

    Raises:
        CalibrationError: There is none, or one does not fit, or a value is not finite.
    """
    import numpy as np

    tap = Tap(content, names)
    found: dict[str, ObservedRanges] = {}
    for name, array in _everything(tap, samples):
        if array.size:
            low, high = float(array.min()), float(array.max())
            if not np.isfinite([low, high]).all():
                message = f"activation {name!r} is {low} to {high} on a calibration sample: it has no range"
                raise CalibrationError(message, hint="Look for samples that the model was not made for.")
            item = found.setdefault(name, ObservedRanges(low, high, np.zeros(BINS, np.int64)))
            item.low, item.high = min(item.low, low), max(item.high, high)
    if not found:
        raise CalibrationError("there are no calibration samples", hint="Give some: --calibration DATA")
    for name, array in _everything(tap, samples):
        if name in found:
            item = found[name]
            flat = array.ravel()
            # A tensor that is constant gets a range of some width.
            item.counts += np.histogram(
                flat[:: max(1, -(-flat.size // _READ))],
                BINS,
                (item.low, item.high) if item.high > item.low else (item.low - 0.5, item.high + 0.5),
            )[0]
    return found


def _everything(tap: Tap, samples: Iterable[Feeds]) -> Iterator[tuple[str, Array]]:
    for feeds in samples:
        yield from tap.arrays(feeds)


def extremes(item: ObservedRanges) -> Range:
    """Everything that was seen."""
    return item.low, item.high


def percentile(share: float) -> Callable[[ObservedRanges], Range]:
    """Makes the method that cuts off (100 - share) percent of the values at each end."""

    def method(item: ObservedRanges) -> Range:
        import numpy as np

        below = np.cumsum(item.counts) / max(1, item.counts.sum())
        edges = np.linspace(item.low, item.high, BINS + 1)
        first = int(np.searchsorted(below, 1 - share / 100, side="right"))
        last = int(np.searchsorted(below, share / 100, side="left"))
        return float(edges[min(first, BINS - 1)]), float(edges[min(last, BINS - 1) + 1])

    return method


def _shrunk(item: ObservedRanges) -> Iterator[Range]:
    """Ranges to choose from: from all down to a twelfth, towards 0."""
    for step in range(24):
        factor = 1 - step / 26
        yield min(item.low, 0.0) * factor, max(item.high, 0.0) * factor


def least_error(item: ObservedRanges) -> Range:
    """The range with the least squared error of rounding and clipping to 256 levels."""
    import numpy as np

    centers, counts = item.centers.astype(np.float64), item.counts

    def error(found: Range) -> float:
        scale = max(found[1] - found[0], 1e-12) / (_LEVELS - 1)
        rounded = np.clip(np.rint((centers - found[0]) / scale), 0, _LEVELS - 1) * scale + found[0]
        return float(((rounded - centers) ** 2 * counts).sum())

    return min(_shrunk(item), key=error)


def entropy(item: ObservedRanges) -> Range:
    """The range whose 256 levels keep most of the distribution: least Kullback-Leibler divergence.

    As in TensorRT's calibration (Migacz, "8-bit inference with TensorRT", GTC 2017), for a range around any zero point.
    """
    import numpy as np

    centers, counts = item.centers, item.counts.astype(np.float64)

    def divergence(found: Range) -> float:
        inside = (centers >= found[0]) & (centers <= found[1])
        clipped = counts[inside].copy()
        if clipped.size < _LEVELS:
            return np.inf
        clipped[0] += counts[centers < found[0]].sum()
        clipped[-1] += counts[centers > found[1]].sum()
        starts = np.linspace(0, clipped.size, _LEVELS, endpoint=False).astype(int)
        filled = (counts[inside] > 0).astype(np.float64)
        totals, spans = np.add.reduceat(counts[inside], starts), np.add.reduceat(filled, starts)
        mean = np.repeat(totals / np.maximum(spans, 1), np.diff(np.append(starts, clipped.size))) * filled
        reference, model = clipped / clipped.sum(), np.maximum(mean / max(mean.sum(), 1), 1e-10)
        some = reference > 0
        return float((reference[some] * np.log(reference[some] / model[some])).sum())

    best = min(_shrunk(item), key=divergence)
    return best if np.isfinite(divergence(best)) else extremes(item)


METHODS: dict[str, Callable[[ObservedRanges], Range]] = {
    "min-max": extremes,
    "percentile 99.999": percentile(99.999),
    "percentile 99.99": percentile(99.99),
    "entropy": entropy,
    "least squared error": least_error,
}
"""Ways of drawing ranges, by the name in the receipt."""
