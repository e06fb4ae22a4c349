"""Measures a result against the float model on calibration samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import Part, parts_of, with_parts
from hub_onnxruntime.session import OrtSession

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub.spec.calibration import Feeds

    Array = npt.NDArray[np.generic]

CAP_DB = 300.0


@dataclass(frozen=True, slots=True)
class Judge:
    """Samples, what the float model gives for them, and the parts of outputs that are measured by themselves too."""

    samples: Sequence[Feeds]
    expected: Sequence[Feeds]
    parts: Mapping[str, Part] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, samples: Sequence[Feeds]) -> Judge:
        """Runs the float model.

        Raises:
            StepError: It does not run on the samples.
        """
        session = OrtSession(path)
        expected = [session.run(feeds) for feeds in samples]
        return cls(samples, expected, parts_of(expected))

    def sqnr_db(self, session: OrtSession, limit: int | None = None) -> float:
        """Returns the SQNR in dB of the worst output or part: 10 log10(sum x^2 / sum (x - y)^2).

        Args:
            session: The result.
            limit: Samples to run, from the first; all without.

        Raises:
            StepError: The result does not run.
        """
        signal: dict[str, float] = {}
        noise: dict[str, float] = {}
        for feeds, expected in zip(self.samples[:limit], self.expected[:limit], strict=True):
            whole = with_parts(expected, self.parts)
            for name, array in with_parts(session.run(feeds), self.parts).items():
                power, error = _powers(whole[name], array)
                signal[name] = signal.get(name, 0.0) + power
                noise[name] = noise.get(name, 0.0) + error
        return min(ratio_db(signal[name], noise[name]) for name in signal)


def _powers(expected: Array, found: Array) -> tuple[float, float]:
    import numpy as np

    a, b = expected.astype(np.float64), found.astype(np.float64)
    error = float(np.sum((a - b) ** 2))
    return float(np.sum(a**2)), error if math.isfinite(error) else math.inf


def ratio_db(signal: float, noise: float) -> float:
    """Returns the ratio in dB; the cap where there is no noise, minus infinity where there is no signal."""
    if not noise:
        return CAP_DB
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf
