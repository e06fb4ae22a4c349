"""Time several models in one process, in turns, so that all see the same weather. Runs in a worker."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hub.spec import STEADY_SPREAD

if TYPE_CHECKING:
    from hub.spec.calibration import Feeds

BUDGET_SECONDS = 1.2
"""For all rounds together; a model whose single run takes longer than its share still gets `LEAST_ROUNDS`."""

LEAST_ROUNDS = 3
MOST_ROUNDS = 15

MOST_TRIES = 3
"""So often the rounds are made where they do not agree with each other, as other work comes and goes."""

TURN_SECONDS = 0.05
"""A turn repeats a fast model for about this long, so that the clock, the first cold call, and other work on the
machine weigh little: of several runs one is undisturbed."""

MOST_WARM_UPS = 10

Call = Callable[["Feeds"], object]


def time_in_turns(calls: "Sequence[tuple[Call, Sequence[Feeds]]]") -> list[list[float]]:
    """Time models against each other.

    Args:
        calls: For each model its `run` and the samples to run it on, the same number for each.

    Returns:
        For each round, in seconds, the shortest time of one run of each model in its turn: what else the machine does
        only ever adds to it. Every second round goes backwards, so that a drift of the clock frequency favours nobody.
    """
    lengths = [_warm_up(run, samples) for run, samples in calls]
    repeats = [max(1, round(TURN_SECONDS / length)) for length in lengths]
    one_round = sum(length * count for length, count in zip(lengths, repeats, strict=True))
    count = min(MOST_ROUNDS, max(LEAST_ROUNDS, int(BUDGET_SECONDS / one_round)))
    rounds: list[list[float]] = []
    for _ in range(MOST_TRIES):
        rounds += [_round(calls, repeats, backwards=number % 2 == 1) for number in range(count)]
        if _steady(rounds):
            break
    return rounds


def _steady(rounds: Sequence[Sequence[float]]) -> bool:
    """Whether the ratios between the models, round by round, lie together."""
    for index in range(len(rounds[0]) - 1):
        low, _, high = statistics.quantiles([row[index] / row[-1] for row in rounds], n=4, method="inclusive")
        if high > STEADY_SPREAD * low:
            return False
    return True


def _warm_up(run: Call, samples: "Sequence[Feeds]") -> float:
    """Run at least twice, as the first run plans memory, and a turn long; returns the shortest time."""
    taken: list[float] = []
    while len(taken) < 2 or (sum(taken) < TURN_SECONDS and len(taken) < MOST_WARM_UPS):  # noqa: PLR2004 as above
        taken.append(_seconds(run, samples[0]))
    return max(1e-7, min(taken))


def _round(calls: "Sequence[tuple[Call, Sequence[Feeds]]]", repeats: Sequence[int], *, backwards: bool) -> list[float]:
    order = range(len(calls))
    shortest = {index: _shortest(*calls[index], repeats[index]) for index in (reversed(order) if backwards else order)}
    return [shortest[index] for index in order]


def _shortest(run: Call, samples: "Sequence[Feeds]", count: int) -> float:
    return min(_seconds(run, samples[number % len(samples)]) for number in range(count))


def _seconds(run: Call, feeds: "Feeds") -> float:
    start = time.perf_counter()
    run(feeds)
    return time.perf_counter() - start
