"""The noise of each place, measured in a model in which each has a switch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hub_quanttrials import Judge, measured_noise

Feeds = dict[str, npt.NDArray[Any]]
STEPS = (0.01, 0.1, 0.001)


class Sum:
    """Adds three things, each rounded to its own step where its switch is on."""

    def run(self, feeds: Feeds) -> Feeds:
        return {"y": feeds["x"].sum(axis=0)}

    def switched(self, feeds: Feeds, on: npt.NDArray[np.bool_]) -> Feeds:
        given = zip(feeds["x"], STEPS, on, strict=True)
        return {"y": np.sum([np.rint(x / step) * step if flag else x for x, step, flag in given], axis=0)}

    def close(self) -> None:
        """Nothing is held."""


def test_each_place_alone_adds_the_noise_of_its_own_step() -> None:
    draw = np.random.default_rng(2)
    samples = [{"x": draw.standard_normal((len(STEPS), 5000))} for _ in range(16)]
    model, runs = Sum(), list[int]()

    def run(feeds: Feeds, on: npt.NDArray[np.bool_]) -> Feeds:
        runs.append(int(on.sum()))
        return model.switched(feeds, on)

    noise = measured_noise(Judge.of(model, samples), ("fine", "coarse", "finest"), run, (1, 2, 3))
    assert sorted(runs) == [0] * 3 + [1] * 9  # of 16 samples three are run
    assert noise.rest == pytest.approx(0, abs=1e-9)
    assert noise.costs.tolist() == [1, 2, 3]
    expected = np.square(STEPS) / 12 * 3 * 5000  # a step's rounding is uniform
    assert noise.alone[:, 0] == pytest.approx(expected, rel=0.05)
