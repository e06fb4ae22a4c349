"""How far a quantized model is from its float model, on some of the samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hub.spec import SQNR_CAP_DB, CalibrationError, HubError, Part, Session, StepError, quiet_parts_of, with_quiet_parts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub.spec.calibration import Feeds

    Array = npt.NDArray[np.generic]

JUDGED_SAMPLES = 16
"""Calibration samples on which results are run and compared inside the step, at most."""


class SizedFeeds(Protocol):
    """Feeds, of which the number is known before the first is read, such as `hub.spec.SampleFolder`."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Feeds]: ...


def decibels(signal: float, noise: float) -> float:
    """Signal to noise ratio in dB, between -300 and 300: 10 log10(signal / noise).

    Without noise it is 300, also without signal: zero for zero is right. Without signal any noise is wholly wrong:
    -300, and so is noise that is not finite.
    """
    if not noise:
        return SQNR_CAP_DB
    if not signal or not math.isfinite(noise):
        return -SQNR_CAP_DB
    return max(-SQNR_CAP_DB, min(SQNR_CAP_DB, 10 * math.log10(signal / noise)))


@dataclass(frozen=True, slots=True)
class Judge:
    """Samples, and what the float model gives for them. One without samples judges nothing, which is NaN.

    Attributes:
        where: What the samples are, for notes: `16 calibration samples`.
        samples: Feeds of the float model.
        expected: Its outputs for each, or for those with these places.
        parts: Output -> its quiet parts, which are judged by themselves too: see `hub.spec.quiet_parts_of`.
        signals: For each sample, the sum of squares of every output and quiet part.
    """

    where: str = ""
    samples: Sequence[Feeds] = ()
    expected: Sequence[Feeds] | Mapping[int, Feeds] = ()
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    signals: Sequence[Mapping[str, float]] = ()

    @classmethod
    def of(cls, session: Session, samples: SizedFeeds, kind: str = "calibration samples") -> Judge:
        """Runs the float model on samples that are spread evenly over those given.

        Args:
            session: The float model.
            samples: All of them; `JUDGED_SAMPLES` are judged on at most.
            kind: What they are.

        Raises:
            CalibrationError: There are none; the float model does not run on them, or gives nothing to compare with.
        """
        if not len(samples):
            raise CalibrationError(f"there are no {kind}", hint="Give some: --calibration DATA")
        step = math.ceil(len(samples) / JUDGED_SAMPLES)
        judged = [feeds for place, feeds in enumerate(samples) if place % step == 0]
        try:
            expected = [session.run(feeds) for feeds in judged]
        except HubError as error:
            raise CalibrationError(
                f"the float model does not run on the {kind}: {error.message}", hint=error.hint
            ) from error
        parts = quiet_parts_of(expected)
        signals = [
            {name: _power(array) for name, array in with_quiet_parts(outputs, parts).items()} for outputs in expected
        ]
        _check_signals(signals, kind)
        return cls(f"{len(judged)} {kind}", judged, expected, parts, signals)

    def sqnr_db(self, session: Session, limit: int | None = None) -> float:
        """SQNR in dB of a result's worst output or quiet part: 10 log10(sum x^2 / sum (x - y)^2) over the samples.

        Args:
            session: The result.
            limit: Samples to run, from the first; all without.

        Raises:
            StepError: As `sqnr_db_of`; and as the session.
        """
        return self.sqnr_db_of(session.run(feeds) for feeds in self.samples[:limit])

    def sqnr_db_of(self, results: Iterable[Feeds]) -> float:
        """The same for outputs that were computed elsewhere; they may be fewer than the samples.

        Raises:
            StepError: The outputs are not the float model's, by name or shape.
        """
        signal: dict[str, float] = {}
        noise: dict[str, float] = {}
        for place, outputs in enumerate(results):
            for name, power in self.noises(place, outputs).items():
                signal[name] = signal.get(name, 0.0) + self.signals[place][name]
                noise[name] = noise.get(name, 0.0) + power
        return min((decibels(signal[name], noise[name]) for name in signal), default=math.nan)

    def noises(self, place: int, outputs: Feeds) -> dict[str, float]:
        """Sum of squared differences of every output and quiet part for one sample; infinite where one is not finite.

        Raises:
            StepError: As `sqnr_db_of`.
        """
        import numpy as np

        wanted, found = _shapes(self.expected[place]), _shapes(outputs)
        if wanted != found:  # numpy would broadcast one against the other, and the figure would mean nothing
            raise StepError(f"the result gives {_words(found)}, the float model {_words(wanted)}")
        result = with_quiet_parts(outputs, self.parts)
        powers = {
            name: float(np.sum((array.astype(np.float64) - result[name].astype(np.float64)) ** 2))
            for name, array in with_quiet_parts(self.expected[place], self.parts).items()
        }
        return {name: power if math.isfinite(power) else math.inf for name, power in powers.items()}


def _power(array: Array) -> float:
    import numpy as np

    return float(np.sum(array.astype(np.float64) ** 2))


def _check_signals(signals: Sequence[Mapping[str, float]], kind: str) -> None:
    hint = "Give samples that the model is made for: --calibration DATA"
    for place, powers in enumerate(signals):
        bad = [name for name, power in powers.items() if not math.isfinite(power)]
        if bad:
            raise CalibrationError(
                f"the float model gives values that are not finite in {', '.join(bad)}: number {place} of the {kind}",
                hint=hint,
            )
    if not any(power for powers in signals for power in powers.values()):
        raise CalibrationError(
            f"the float model's outputs are zero or empty on all {kind}, so any result would look right", hint=hint
        )


def _shapes(outputs: Feeds) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in outputs.items()}


def _words(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name}[{'x'.join(map(str, shape))}]" for name, shape in sorted(shapes.items()))
