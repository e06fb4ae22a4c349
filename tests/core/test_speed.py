"""Did it help: times in turns, a slow result is said and can be refused, and how the runtime executes the result."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from hub import _timing
from hub._speed import check_speed, measure_speed, slow_words
from hub._timing import LEAST_ROUNDS, MOST_ROUNDS, MOST_WARM_UPS, time_in_turns
from hub.spec import ExecutedLayer, Execution, Remark, Speed, State, Timing, TooSlow

Hub = Callable[..., Any]
Faults = Callable[..., None]
STATE = State(format="toy")


class Clock:
    """A clock that only models move, and the order of their turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.turns: list[str] = []
        monkeypatch.setattr(_timing.time, "perf_counter", lambda: self.now)

    def model(self, name: str, seconds: float) -> Callable[[Any], None]:
        def run(_: Any) -> None:
            self.now += seconds
            self.turns.append(name)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_models_take_turns_and_every_second_round_goes_backwards(clock: Clock) -> None:
    feeds = [{"x": np.zeros(1)}]
    rounds = time_in_turns([(clock.model("a", 0.035), feeds), (clock.model("b", 0.04), feeds)])
    assert len(rounds) == MOST_ROUNDS
    assert rounds == pytest.approx(np.array([[0.035, 0.04]] * MOST_ROUNDS))
    assert "".join(clock.turns[4:12]) == "abbaabba"  # two warm-up runs each come first


def test_a_fast_model_runs_often_in_its_turn_and_a_slow_one_gets_its_rounds(clock: Clock) -> None:
    feeds = [{"x": np.zeros(1)}]
    rounds = time_in_turns([(clock.model("fast", 0.001), feeds), (clock.model("slow", 5.0), feeds)])
    assert len(rounds) == LEAST_ROUNDS
    assert clock.turns.count("fast") == MOST_WARM_UPS + 50 * LEAST_ROUNDS
    assert rounds == pytest.approx(np.array([[0.001, 5.0]] * LEAST_ROUNDS))


def speed(ratio: float) -> Speed:
    return Speed(
        timings=(), baseline="float", speedup=ratio, slowest=ratio / 2, fastest=ratio * 2, rounds=9, processor="a CPU"
    )


def test_a_slower_result_is_said_with_the_runtimes_reasons() -> None:
    layer = ExecutedLayer(name="n", operator="Conv", precision="fp32", device="cpu")
    execution = Execution(
        runtime="r",
        version="1",
        device="cpu",
        layers=(layer,),
        remarks=(Remark("obstacle", "c", "12 QDQ pairs are not fused"),),
    )
    (remark,) = slow_words(speed(0.5), execution, "int8")
    assert remark.text == (
        "int8 is slower here: 0.50x as fast as its float form (0.25 to 1.00, 9 rounds) on a CPU: "
        "12 QDQ pairs are not fused"
    )
    near = msgspec.structs.replace(speed(0.97), slowest=0.9, fastest=1.1)
    assert "int8 is no faster here: 0.97x" in slow_words(near, None, "int8")[0].text
    assert not slow_words(msgspec.structs.replace(near, speedup=1.0), execution, "int8")


def test_rounds_that_contradict_each_other_tell_nothing() -> None:
    (remark,) = slow_words(msgspec.structs.replace(speed(1.1), opposed=3), None, "int8")
    assert remark.code == "speed-untold"
    assert "could not be told apart from its float form (0.55 to 2.20, 9 rounds) on a CPU" in remark.text
    assert str(speed(0.0004)).startswith("0.0004x as fast")


def test_rounds_that_lie_far_apart_are_no_measurement() -> None:
    """`7.39x (1.01 to 43.09)` was said of a model that is as fast as its float form."""
    wild = msgspec.structs.replace(speed(7.39), slowest=1.01, fastest=43.09, middle_half=(2.0, 12.0))
    (remark,) = slow_words(wild, None, "int8")
    assert "int8 could not be measured against its float form (1.01 to 43.09, 9 rounds)" in remark.text
    assert "too busy" in remark.hint
    check_speed(wild, 1.01)  # every round says so
    with pytest.raises(TooSlow, match="could not be measured"):
        check_speed(wild, 1.2)
    assert not slow_words(msgspec.structs.replace(wild, middle_half=(7.0, 8.0)), None, "int8")


def test_rounds_are_made_again_while_they_do_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = iter([1.0, 9.0, 1.0, 9.0, *[2.0] * 60])
    monkeypatch.setattr("hub._timing._round", lambda *_, **__: [next(ratios), 1.0])
    monkeypatch.setattr("hub._timing._warm_up", lambda *_: 0.3)
    rounds = time_in_turns([(lambda _: None, []), (lambda _: None, [])])
    assert len(rounds) == 3 * LEAST_ROUNDS
    assert len(time_in_turns([(lambda _: None, []), (lambda _: None, [])])) == LEAST_ROUNDS


def test_a_few_odd_rounds_hide_no_slow_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work on the machine makes one round in ten an odd one; the median does not move by that."""
    ratios = [0.9] * 7 + [1.9, 0.5]
    rounds = [[ratio, 1.0] for ratio in ratios]
    monkeypatch.setattr("hub._speed._subjects", lambda *_: {"source": None, "result": None})
    monkeypatch.setattr("hub._speed._timing", lambda *_: Timing(model="source", state=STATE, runtime="r", seconds=1))
    runner = SimpleNamespace(time=lambda *_, again: (rounds, again))
    measured = measure_speed(runner, None, None, SimpleNamespace(inputs=("", "")), again=False)  # type: ignore[arg-type]
    assert (measured.speedup, measured.opposed, measured.rounds) == (0.9, 1, 9)
    assert slow_words(measured, None, "int8")[0].code == "not-faster"


def test_the_required_speed_is_a_gate() -> None:
    check_speed(speed(1.5), 1.5)
    check_speed(speed(0.1), 0)
    with pytest.raises(TooSlow, match=r"0\.50x as fast as its float form .* 1\.2x is required, on a CPU"):
        check_speed(speed(0.5), 1.2)


def test_an_execution_adds_up() -> None:
    def node(operator: str, precision: str, device: str, share: float, *covers: str) -> ExecutedLayer:
        return ExecutedLayer(
            name=operator, operator=operator, precision=precision, device=device, time_share=share, covers=covers
        )

    layers = (
        node("FusedConv", "int8", "cpu", 0.5, "Conv", "Relu"),
        node("FusedConv", "int8", "cpu", 0.25, "Conv", "Relu"),
        node("Softmax", "fp32", "host", 0.25, "Softmax"),
    )
    report = Execution(runtime="r", version="1", device="cpu", layers=layers, timed_by="10 runs").report
    assert report.fusions == {"Conv + Relu -> FusedConv": 2}
    assert report.executed == {"FusedConv": 2, "Softmax": 1}
    assert {name: (part.layers, part.time_share) for name, part in report.precisions.items()} == {
        "int8": (2, 0.75),
        "fp32": (1, 0.25),
    }
    assert {name: part.layers for name, part in report.devices.items()} == {"cpu": 2, "host": 1}


def convert(hub: Hub, toy: Path, samples: Path, output: Path, *more: str) -> Any:
    return hub("convert", toy, "--to", "numpy", "--int8", "--calibration", samples, "-o", output, "--json", *more)


def test_result_is_timed_against_its_float_form_and_explained(
    hub: Hub, toy: Path, samples: Path, tmp_path: Path
) -> None:
    receipt = convert(hub, toy, samples, tmp_path / "out.toybin").json
    assert [timing["model"] for timing in receipt["speed"]["timings"]] == ["source", "float", "result"]
    assert receipt["speed"]["baseline"] == "float"
    assert receipt["speed"]["slowest"] <= receipt["speed"]["speedup"] <= receipt["speed"]["fastest"]
    assert receipt["execution"]["precisions"]["int8"]["layers"] == 2
    assert receipt["execution"]["devices"] == {"cpu": {"layers": 4, "time_share": pytest.approx(1.0)}}
    assert receipt["operators"] == receipt["steps"][-1]["operators"] == {"affine": 2, "relu": 1, "softmax": 1}


def test_a_runtime_that_left_to_itself_computes_something_else_is_told_of_with_the_figures(
    hub: Hub, faults: Faults, toy: Path, samples: Path, tmp_path: Path
) -> None:
    sound = convert(hub, toy, samples, tmp_path / "sound.toybin").json
    assert sound["deployed"]["passed"]
    assert not any(remark["code"] == "deployed-outside-gate" for remark in sound.get("remarks", []))
    faults()
    receipt = convert(hub, toy, samples, tmp_path / "out.toybin", "--runtime", "abacus").json
    assert receipt["parity"]["passed"]
    assert not receipt["deployed"]["passed"]
    (warning,) = [item["text"] for item in receipt["remarks"] if item["code"] == "deployed-outside-gate"]
    assert warning.startswith("abacus by itself computes it otherwise on ")
    assert "outside the gate (y on abacus: SQNR " in warning
    assert warning.endswith("outputs end at 0.4: set clip=0")


def test_a_slow_result_is_announced(hub: Hub, faults: Faults, toy: Path, samples: Path, tmp_path: Path) -> None:
    faults("sluggish")
    receipt = convert(hub, toy, samples, tmp_path / "out.toybin").json
    assert receipt["route"]["edges"] == ["toy.bin", "faulty.sluggish"]
    assert receipt["speed"]["speedup"] < 1
    assert any("int8 is slower here" in remark["text"] for remark in receipt["remarks"])


def test_an_edge_that_refuses_what_a_route_has_got_to_is_told_of_only_where_much_is_said(
    hub: Hub, faults: Faults, toy: Path, samples: Path, tmp_path: Path
) -> None:
    faults("picky")
    ran = convert(hub, toy, samples, tmp_path / "out.toybin")
    attempts = [attempt for attempt in ran.json["failed_attempts"] if attempt["edge"] == "faulty.picky"]
    assert [attempt["refused"] for attempt in attempts] == [True]
    assert "no LSTM" not in ran.err
    assert "no LSTM" in convert(hub, toy, samples, tmp_path / "again.toybin", "--verbose").err


def test_another_form_is_tried_where_one_is_too_slow(
    hub: Hub, faults: Faults, toy: Path, samples: Path, tmp_path: Path
) -> None:
    """A thousand idle layers make the first form some fifty times slower; the sound one comes near the float form."""
    faults("sluggish")
    receipt = convert(hub, toy, samples, tmp_path / "out.toybin", "--require-speedup", "0.15").json
    assert receipt["route"]["edges"] == ["toy.bin", "toy.int8"]
    (attempt,) = receipt["failed_attempts"]
    assert (attempt["edge"], attempt["code"]) == ("faulty.sluggish", "too-slow")
    assert receipt["speed"]["speedup"] >= 0.15


def test_a_speed_that_no_form_has_is_an_error_and_nothing_is_written(
    hub: Hub, toy: Path, samples: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.toybin"
    ran = convert(hub, toy, samples, output, "--require-speedup", "1000")
    assert (ran.status, ran.error["code"]) == (6, "too-slow")
    assert "1000x is required" in ran.error["message"]
    assert [attempt["edge"] for attempt in ran.error["attempts"]] == ["toy.int8", "toy.int8-dynamic"]
    assert not output.exists()


def test_times_are_kept_and_measured_anew_on_request(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> None:
    outcomes = [
        convert(hub, toy, samples, tmp_path / f"{number}.toybin", *more).json["speed"].get("cached", False)
        for number, more in enumerate(((), (), ("--no-cache",), ("--require-speedup", "0.001")))
    ]
    assert outcomes == [False, True, False, False]


def test_quantizing_twice_is_refused(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.toybin"
    assert convert(hub, toy, samples, output).status == 0
    ran = hub("convert", output, "--to", "toybin", "--precision", "int8-dynamic", "-o", tmp_path / "b.toybin", "--json")
    assert (ran.status, ran.error["code"]) == (2, "already-quantized")
    assert "int8 already" in ran.error["message"]
    assert "the float model" in ran.error["hint"]


def test_inspect_lists_what_is_executed(hub: Hub, toy: Path) -> None:
    ran = hub("inspect", toy, "--layers", "--json")
    layers = ran.json["execution"]["layers"]
    assert [layer["operator"] for layer in layers] == ["affine", "relu", "affine", "softmax"]
    assert sum(layer["time_share"] for layer in layers) == pytest.approx(1)
    words = hub("inspect", toy, "--layers").out
    assert "does the work of" in words
    assert "4 file → 4 executed" in words
    assert "execution" not in hub("inspect", toy, "--json").json


def test_a_device_that_is_not_there_is_refused(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> None:
    for words in (("inspect", toy, "--layers"), ("run", toy, "--data", samples, "-o", tmp_path / "o.npz")):
        ran = hub(*words, "--device", "abacus", "--json")
        assert (ran.status, ran.error["code"]) == (4, "device-missing")
        assert "abacus" in ran.error["message"]


def test_a_model_that_cannot_be_executed_is_described_all_the_same(hub: Hub, tmp_path: Path) -> None:
    from tests.conftest import classifier

    broken = classifier()
    broken["layers"][0]["inputs"] = ["nowhere"]
    path = tmp_path / "broken.toy"
    path.write_text(json.dumps(broken))
    ran = hub("inspect", path, "--layers", "--json")
    assert ran.status == 0
    assert ran.json["execution"] is None
    assert "nowhere" in ran.json["not_executed"]
