"""The side-by-side benchmark's own arithmetic and judgement, on figures that are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import backends
from docs import backends as page
from docs.backends import Cell, Measured, Pair
from tests.zoo.backends import BACKENDS, MODELS

GOOD = Cell(sqnr_db=30.0, cosine=0.999, speedup=1.5, smaller=3.9)
FLOAT = Cell(sqnr_db=130.0, cosine=1.0, speedup=1.0, smaller=1.0)

WEIGHTS = Cell(sqnr_db=50.0, cosine=1.0, speedup=1.0, smaller=3.0)


def pair(hub: Cell, tool: Cell, precision: str = "int8") -> Pair:
    return Pair("emotion", "onnxruntime", precision, hub, tool, {"fp32": FLOAT, "int8-weights": WEIGHTS})


def test_noise_of_known_power() -> None:
    random = np.random.default_rng(0)
    signal, noise = random.standard_normal(200_000), random.standard_normal(200_000)
    assert backends.sqnr(signal, signal + noise / 10) == pytest.approx(20, abs=0.1)
    assert backends.cosine(signal, signal + noise) == pytest.approx(0.5**0.5, abs=0.01)
    assert backends.sqnr(signal, signal) == 300


def test_the_worst_output_counts_and_answers_are_compared() -> None:
    source = [[np.float32([[0.1, 0.9]]), np.float32([1.0])], [np.float32([[0.8, 0.2]]), np.float32([2.0])]]
    result = [[np.float32([[0.6, 0.4]]), np.float32([1.0])], [np.float32([[0.8, 0.2]]), np.float32([2.0])]]
    cell = backends.compare("emotion", source, result, np.array([1, 1]))
    assert cell.sqnr_db == pytest.approx(10 * np.log10(1.5 / 0.5), abs=1e-3)
    assert (cell.agreement, cell.accuracy) == (0.5, 0.0)


@pytest.mark.parametrize("wrong", [[[np.float32([np.nan])]], [[np.zeros(2, np.float32)]], [[np.zeros(1), np.zeros(1)]]])
def test_results_that_cannot_be_compared_are_errors(wrong: backends.Outputs) -> None:
    assert backends.compare("minilm", [[np.float32([1.0])]], wrong, None).error


def test_turns_are_timed_round_by_round() -> None:
    small, large = np.ones((50, 50)), np.ones((500, 500))
    times = backends.timed({"small": lambda: small @ small, "large": lambda: large @ large})
    assert len(times["small"]) == len(times["large"]) >= backends.LEAST_ROUNDS
    assert backends.against(times["large"], times["small"]) > 1


def test_who_is_behind() -> None:
    assert pair(GOOD, GOOD).worse == ()
    assert pair(Cell(sqnr_db=29.0, speedup=1.5), GOOD).worse == ("accuracy",)
    assert pair(Cell(sqnr_db=31.0, speedup=1.2), GOOD).worse == ("speed",)
    assert pair(Cell(error="parity: no"), GOOD).worse == ("hub has none",)
    for tool in (
        Cell(sqnr_db=-1.0, speedup=9.0),
        Cell(error="ValueError"),
        FLOAT,
        WEIGHTS,
    ):  # noise, nothing, other precisions
        assert pair(Cell(sqnr_db=20.0, speedup=1.0), tool).worse == ()


def test_slower_without_a_word() -> None:
    slow = Cell(sqnr_db=30.0, speedup=0.7)
    assert pair(slow, GOOD).unsaid
    assert not pair(Cell(sqnr_db=30.0, speedup=0.7, said_slower=True), GOOD).unsaid
    results = {
        "emotion": {"onnxruntime": Measured(cells={"int8": {"hub": slow, "tool": GOOD}}, float_ms=1, source_ms=1)}
    }
    text = page.render(results)
    assert "* emotion, onnxruntime int8: 0.70x" in text
    assert "| int8 | **30.0** / 30.0 |" in text


def test_the_page_shows_what_was_measured() -> None:
    results = page.load()
    assert results
    assert set(results) <= set(MODELS)
    assert all(measured and set(measured) <= set(BACKENDS) for measured in results.values())
    assert page.PAGE.read_text() == page.render(results)
