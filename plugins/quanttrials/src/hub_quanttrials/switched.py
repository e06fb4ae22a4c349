"""Measures what each place of a model in integers does, in a model in which each has a switch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hub.spec import StepWatch
from hub_quanttrials.judge import Judge
from hub_quanttrials.noise import Noise

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hub.spec.calibration import Feeds

    Switches = npt.NDArray[np.bool_]

_MOST_SAMPLES = 3
_MOST_RUNS = 400
"""Runs of the model at most: samples are left out, down to one, where there are many places."""


def measured_noise(
    judge: Judge,
    names: Sequence[str],
    run: Callable[[Feeds, Switches], Feeds],
    costs: Sequence[float] = (),
    watch: StepWatch | None = None,
) -> Noise:
    """Runs a model with one place switched on at a time.

    Args:
        judge: The samples.
        names: The places.
        run: Runs a sample; with [places] switches, true for integers.
        costs: As for `Noise.measure`.
        watch: The same.
    """
    import numpy as np

    count = len(names)
    switches = np.vstack([np.eye(count, dtype=bool), np.zeros((1, count), bool)])
    used = max(1, min(_MOST_SAMPLES, _MOST_RUNS // (count + 1)))
    chosen: Callable[[Feeds, int | None], Feeds] = lambda feeds, on: run(feeds, switches[-1 if on is None else on])  # noqa: E731
    return Noise.measure(names, judge, chosen, used, costs, watch=watch)
