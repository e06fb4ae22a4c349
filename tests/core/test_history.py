"""Routes that went wrong on a model come last the next time, and are never ruled out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

Hub = Callable[..., Any]
Faults = Callable[..., None]


def convert(hub: Hub, toy: Path, output: Path, *more: str) -> Any:
    return hub("convert", toy, "--to", "toybin", "-o", output, "--json", *more)


def planned(hub: Hub, toy: Path, *more: str) -> Any:
    return hub("plan", toy, "--to", "toybin", "--json", *more).json


def test_what_went_wrong_comes_last_and_the_plan_says_why(hub: Hub, faults: Faults, toy: Path, tmp_path: Path) -> None:
    faults("slightly-wrong")
    assert planned(hub, toy)["routes"] == [["faulty.slightly-wrong"], ["toy.bin"]]
    first = convert(hub, toy, tmp_path / "first.toybin").json
    assert [attempt["edge"] for attempt in first["failed_attempts"]] == ["faulty.slightly-wrong"]
    second = planned(hub, toy)
    assert second["routes"] == [["toy.bin"], ["faulty.slightly-wrong"]]
    assert "relative error" in second["history"]["faulty.slightly-wrong"]["text"]
    assert "went wrong on this model before" in hub("plan", toy, "--to", "toybin").out
    assert "failed_attempts" not in convert(hub, toy, tmp_path / "second.toybin").json


def test_another_model_and_a_run_without_cache_know_nothing_of_it(
    hub: Hub, faults: Faults, toy: Path, twin: Path, tmp_path: Path
) -> None:
    faults("slightly-wrong")
    assert convert(hub, toy, tmp_path / "first.toybin").status == 0
    assert planned(hub, twin)["routes"][0] == ["faulty.slightly-wrong"]
    assert convert(hub, toy, tmp_path / "again.toybin", "--no-cache").json["failed_attempts"]


def test_a_gate_of_the_users_own_is_no_history(hub: Hub, faults: Faults, toy: Path, tmp_path: Path) -> None:
    faults("slightly-wrong")
    assert convert(hub, toy, tmp_path / "first.toybin", "--max-relative", "1e-5").status == 0
    assert planned(hub, toy)["routes"][0] == ["faulty.slightly-wrong"]


def test_what_went_wrong_by_a_gate_of_the_users_own_is_known_to_that_gate(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("slightly-wrong")
    own = ("--max-relative", "1e-5")
    assert convert(hub, toy, tmp_path / "first.toybin", *own).json["failed_attempts"]
    assert "failed_attempts" not in convert(hub, toy, tmp_path / "second.toybin", *own).json


def test_what_went_wrong_by_the_usual_gate_says_nothing_of_another(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("slightly-wrong")
    assert convert(hub, toy, tmp_path / "first.toybin").status == 0
    assert planned(hub, toy)["routes"][0] == ["toy.bin"]
    loose = convert(hub, toy, tmp_path / "loose.toybin", "--max-relative", "0.9").json
    assert loose["steps"][0]["edge"] == "faulty.slightly-wrong"


def test_a_failed_edge_is_still_tried_where_nothing_else_leads_there(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("raise", alone=True)
    for _ in range(2):
        ran = convert(hub, toy, tmp_path / "first.toybin")
        assert [attempt["edge"] for attempt in ran.error["attempts"]] == ["faulty.raise"]


def test_a_damaged_history_is_none(hub: Hub, faults: Faults, toy: Path, tmp_path: Path, cache: Path) -> None:
    faults("slightly-wrong")
    assert convert(hub, toy, tmp_path / "first.toybin").status == 0
    (file,) = (cache / "history").iterdir()
    file.write_text("{")
    assert planned(hub, toy)["routes"][0] == ["faulty.slightly-wrong"]
