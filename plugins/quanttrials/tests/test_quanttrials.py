"""The judge and the loop of trials, with faults planted in results, recipes, sessions and samples."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hub.spec import (
    CalibrationError,
    ConvertJob,
    HubError,
    ModelArtifact,
    Numerics,
    Signature,
    State,
    StepError,
    StepOutput,
    StepWatch,
    UnsupportedModel,
    write_sample,
)
from hub.spec.watch import StepProgress, ask_to_end, progress_of
from hub_quanttrials import JUDGED_SAMPLES, Judge, Noise, Shelf, Trial, Trials, check_claim, decibels, listed
from hub_quanttrials.trials import GUIDED_TRIES, KEPT
from hub_toy.files import ToyGraph, ToyLayer, ToyModel, ToyValue, read, write_binary
from hub_toy.runtime import ToySession

Array = npt.NDArray[np.generic]
Feeds = dict[str, Array]
Function = Callable[[Feeds], Feeds]


class Running:
    """A session that is a function."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.runs = 0
        self.closed = False

    def run(self, feeds: Feeds) -> Feeds:
        self.runs += 1
        return self.function(feeds)

    def close(self) -> None:
        self.closed = True


def detector(feeds: Feeds) -> Feeds:
    """Boxes in pixels and scores below one in one tensor, as YOLO gives them: [1, 4 + 8, 50]."""
    x = feeds["x"].astype(np.float32)
    return {"y": np.concatenate([300 * x[:, :4], 0.5 * x[:, 4:]], axis=1)}


def samples(count: int = 4, seed: int = 0) -> list[Feeds]:
    generator = np.random.default_rng(seed)
    return [{"x": generator.uniform(0.1, 1, (1, 12, 50)).astype(np.float32)} for _ in range(count)]


def with_noise(level: float) -> Function:
    def function(feeds: Feeds) -> Feeds:
        y = detector(feeds)["y"]
        noise = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
        return {"y": y * (1 + level * noise)}

    return function


def scores_of_zero(feeds: Feeds) -> Feeds:
    """Planted: the boxes are right, nothing is detected."""
    y = detector(feeds)["y"].copy()
    y[:, 4:] = 0
    return {"y": y}


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.of(Running(detector), samples())


def test_sqnr_is_the_formula(judge: Judge) -> None:
    result = with_noise(0.01)
    pairs = [(detector(feeds)["y"].astype(np.float64), result(feeds)["y"].astype(np.float64)) for feeds in samples()]
    both = [(a[:, part], b[:, part]) for part in (slice(0, None), slice(4, None)) for a, b in [stack(pairs)]]
    expected = min(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()) for a, b in both)
    assert judge.sqnr_db(Running(result)) == pytest.approx(expected)


def stack(pairs: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


def test_a_zeroed_quiet_part_is_seen_and_a_judge_without_parts_is_blind_to_it(judge: Judge) -> None:
    blind = Judge(judge.where, judge.samples, judge.expected, {}, judge.signals)
    assert blind.sqnr_db(Running(scores_of_zero)) > 40
    assert judge.sqnr_db(Running(scores_of_zero)) == pytest.approx(0)
    assert judge.parts
    wrong, right = Running(scores_of_zero), Running(with_noise(0.05))
    trials = Trials(judge, {"wrong": wrong, "right": right}.__getitem__, lambda model: model)
    assert trials.best(["wrong", "right"], 40).recipe == "right"
    assert (
        Trials(blind, {"wrong": wrong, "right": right}.__getitem__, lambda model: model)
        .best(["wrong", "right"], 40)
        .recipe
        == "wrong"
    )


@pytest.mark.parametrize(
    ("signal", "noise", "found"),
    [
        (1, 0, 300),
        (0, 0, 300),
        (0, 1e-9, -300),
        (1, math.inf, -300),
        (1, math.nan, -300),
        (100, 1, 20),
        (1, 1e-200, 300),
    ],
)
def test_no_signal_and_no_noise_are_said_once(signal: float, noise: float, found: float) -> None:
    assert decibels(signal, noise) == pytest.approx(found)


def test_samples_are_spread_evenly_and_few() -> None:
    given = samples(100)
    session = Running(detector)
    judge = Judge.of(session, given)
    step = math.ceil(100 / JUDGED_SAMPLES)
    assert session.runs == len(judge.samples) == len(given[::step]) <= JUDGED_SAMPLES
    assert all(one is other for one, other in zip(judge.samples, given[::step], strict=True))
    result = Running(detector)
    assert judge.sqnr_db(result, limit=3) == 300
    assert result.runs == 3


def broken(_: Feeds) -> Feeds:
    raise StepError("planted: no kernel", hint="none")


@pytest.mark.parametrize(
    ("function", "count", "reason"),
    [
        (detector, 0, "there are no calibration samples"),
        (broken, 2, "does not run on the calibration samples: planted"),
        (lambda feeds: {"y": feeds["x"] * 0}, 2, "zero or empty"),
        (lambda feeds: {"y": feeds["x"][:0]}, 2, "zero or empty"),
        (lambda feeds: {"z": feeds["x"], "y": feeds["x"] / np.float32(0)}, 2, "not finite in y: number 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_float_model_with_nothing_to_compare_is_refused(function: Function, count: int, reason: str) -> None:
    with pytest.raises(CalibrationError, match=reason) as caught:
        Judge.of(Running(function), samples(count))
    assert caught.value.hint


@pytest.mark.parametrize(
    "function",
    [
        lambda feeds: {"y": detector(feeds)["y"][0, :1]},  # broadcasts against [1, 12, 50]
        lambda feeds: {"z": detector(feeds)["y"]},
        lambda feeds: detector(feeds) | {"more": feeds["x"]},
        lambda _: {},
    ],
)
def test_outputs_of_another_name_or_shape_are_no_figure(function: Function, judge: Judge) -> None:
    with pytest.raises(StepError, match=r"the float model y\[1x12x50\]"):
        judge.sqnr_db(Running(function))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_result_that_is_not_finite_is_the_worst(value: float, judge: Judge) -> None:
    assert judge.sqnr_db(Running(lambda feeds: {"y": detector(feeds)["y"] + np.float32(value)})) == -300


class Bench:
    """Recipes are words; what each gives is in a table. Counts what is applied."""

    def __init__(self, judge: Judge, **table: Function) -> None:
        self.judge, self.table = judge, table
        self.applied: list[str] = []
        self.sessions: list[Running] = []

    def trials(self, **options: Any) -> Trials[str, Function]:
        return Trials(self.judge, self.apply, self.open, **options)

    def apply(self, recipe: str) -> Function:
        self.applied.append(recipe)
        if recipe == "impossible":
            raise UnsupportedModel("the model has no layer for it\nat line 7", hint="another")
        return self.table[recipe]

    def open(self, model: Function) -> Running:
        self.sessions.append(Running(model))
        return self.sessions[-1]


def test_the_first_that_reaches_the_goal_is_taken_and_the_rest_not_tried(judge: Judge) -> None:
    bench = Bench(judge, bad=with_noise(1), good=with_noise(0.05), better=with_noise(0.001))
    trials = bench.trials()
    assert trials.best(["bad", "good", "better"]).recipe == "good"
    assert bench.applied == ["bad", "good"]
    assert [re.sub(r"-?\d+\.\d", "N", note.text) for note in trials.notes] == [
        "recipe: bad: N dB on 4 calibration samples",
        "recipe: good: N dB on 4 calibration samples",
    ]
    assert all(session.closed for session in bench.sessions)


def test_the_best_is_taken_where_none_reaches_the_goal(judge: Judge) -> None:
    bench = Bench(judge, a=with_noise(0.5), b=with_noise(0.2), c=with_noise(0.9))
    assert bench.trials().best("abc", goal_db=60).recipe == "b"


def test_a_recipe_that_fails_and_a_session_that_raises_are_notes(judge: Judge) -> None:
    bench = Bench(judge, raises=broken, good=with_noise(0.01))
    trials = bench.trials()
    assert trials.best(["impossible", "raises", "good"]).recipe == "good"
    assert [note.text for note in trials.notes[:2]] == [
        "recipe: impossible: the model has no layer for it",
        "recipe: raises: planted: no kernel",
    ]
    assert all(session.closed for session in bench.sessions)


def test_where_all_fail_the_reasons_are_told(judge: Judge) -> None:
    with pytest.raises(UnsupportedModel, match="no layer for it") as alone:
        Bench(judge).trials().best(["impossible"])
    assert alone.value.hint == "another"
    with pytest.raises(StepError, match=r"impossible: the model has no layer.*raises: planted: no kernel"):
        Bench(judge, raises=broken).trials().best(["impossible", "raises"])
    with pytest.raises(StepError, match="no recipe"):
        Bench(judge).trials().best([])


def test_a_defect_of_the_backend_is_not_swallowed(judge: Judge) -> None:
    def defect(_: Feeds) -> Feeds:
        raise ZeroDivisionError

    bench = Bench(judge, defect=defect, good=with_noise(0.01))
    with pytest.raises(ZeroDivisionError):
        bench.trials().best(["defect", "good"])
    assert bench.sessions[0].closed


def test_a_spent_budget_ends_the_search_and_is_told(judge: Judge) -> None:
    bench = Bench(judge, a=with_noise(0.9), b=with_noise(0.5), c=with_noise(0.01))
    trials = bench.trials(budget=2)
    assert trials.best("abc", goal_db=60).recipe == "b"
    assert bench.applied == ["a", "b"]
    assert trials.notes[-1].text == "2 recipes are all that one step tries: c was not tried"


def test_the_budget_does_not_hang_on_what_is_known(judge: Judge) -> None:
    """The same step gives the same result whether the step before ran in this process or not."""
    bench = Bench(judge, a=with_noise(0.9), b=with_noise(0.5), c=with_noise(0.01))
    first = bench.trials(budget=2)
    list(first.results("ab"))
    again = bench.trials(budget=2, known=first.known)
    assert again.best("abc", goal_db=60).recipe == "b"
    assert again.notes[:2] == first.notes
    assert bench.applied == ["a", "b"]


def test_the_worst_known_trials_are_let_go(judge: Judge) -> None:
    names = [chr(97 + place) for place in range(KEPT + 3)]
    bench = Bench(judge, **{name: with_noise(0.9 - 0.05 * place) for place, name in enumerate(names)})
    trials = bench.trials()
    list(trials.results(names))
    assert sorted(trials.known) == names[3:]


def test_without_samples_the_first_that_works_is_taken() -> None:
    bench = Bench(Judge(), a=with_noise(0.9), b=with_noise(0.01))
    trials = bench.trials()
    best = trials.best(["impossible", "a", "b"])
    assert best.recipe == "a"
    assert math.isnan(best.sqnr_db)
    assert trials.notes[-1].text == "recipe: a"


def test_a_trial_can_be_made_with_its_types() -> None:
    assert Trial[str, int]("a", 1, math.nan).merit == -math.inf  # a slotted class could not be, in Python 3.11


def test_a_generator_of_recipes_sees_what_came_before(judge: Judge) -> None:
    bench = Bench(judge, a=with_noise(0.9), b=with_noise(0.5), c=with_noise(0.01))
    trials = bench.trials()

    def recipes() -> Iterator[str]:
        yield "a"
        yield "c" if trials.known["a"].sqnr_db < 10 else "b"

    assert [trial.recipe for trial in trials.results(recipes())] == ["a", "c"]


def test_recipes_tried_together_are_one_note(judge: Judge) -> None:
    bench = Bench(judge, a=with_noise(0.9), c=broken)
    trials = bench.trials()
    found = trials.together("all", [("min-max", "a"), ("entropy", "c")])
    assert [trial.recipe for trial in found] == ["a"]
    assert re.fullmatch(
        r"tried all on 4 calibration samples, dB: min-max -?\d+\.\d, entropy: planted: no kernel", trials.notes[0].text
    )


def test_recipes_tried_together_end_at_the_goal(judge: Judge) -> None:
    bench = Bench(judge, a=with_noise(0.9), b=with_noise(0.01), c=with_noise(0.001))
    assert [trial.recipe for trial in bench.trials().together("all", zip("123", "abc", strict=True), 20)] == ["a", "b"]
    assert bench.applied == ["a", "b"]


def test_the_shelf_holds_until_a_file_changes(tmp_path: Path) -> None:
    model, side = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    model.write_bytes(b"one")
    side.write_bytes(b"weights")
    write_sample(tmp_path / "samples", 0, {"x": np.ones(3)})
    shelf: Shelf[object] = Shelf()

    def get(settings: str = "") -> object:
        return shelf.get(object, model, tmp_path / "samples", settings)

    first = get()
    assert get() is first
    assert get("other") is not first
    for file in (model, side):
        before = get()
        file.write_bytes(file.read_bytes()[::-1])
        assert get() is not before
    before = get()
    os.utime(tmp_path / "samples" / "00000000.npz", ns=(1, 1))
    assert get() is not before
    copy = tmp_path / "copy"  # as every step has one of its own
    copy.mkdir()
    for file in (model, side):
        (copy / file.name).write_bytes(file.read_bytes())
    before = get()
    assert shelf.get(object, copy / model.name, tmp_path / "samples", "") is before
    (tmp_path / "other.txt").write_text("not a side file")
    before = get()
    shelf.clear()
    assert get() is not before


def test_the_shelf_lets_go_before_it_makes(tmp_path: Path) -> None:
    """Planted: what is made next fails; the last thing is gone all the same, and nothing wrong is held."""
    model = tmp_path / "m.onnx"
    model.write_bytes(b"one")
    shelf: Shelf[str] = Shelf()
    shelf.get(lambda: "kept", model)

    def fail() -> str:
        raise StepError("planted")

    with pytest.raises(StepError):
        shelf.get(fail, model, settings="other")
    assert shelf.get(lambda: "made again", model) == "made again"


def test_a_result_in_another_precision_than_claimed_is_refused() -> None:
    check_claim("static int8", Numerics.INT8, Numerics.INT8)
    names = [f"LSTM {place}" for place in range(14)]
    with pytest.raises(
        UnsupportedModel, match=r"static int8 would give int8-mixed; in float stay LSTM 0, .*and 2 more"
    ) as caught:
        check_claim("static int8", Numerics.INT8, Numerics.INT8_MIXED, names)
    assert caught.value.hint == "ask for that: --precision int8-mixed"
    with pytest.raises(UnsupportedModel, match="no layer to quantize"):
        check_claim("static int8", Numerics.INT8, Numerics.FP32)
    assert listed(names[:2]) == "LSTM 0, LSTM 1"


def readme_step() -> Callable[[ConvertJob], StepOutput]:
    """The stranger's step as the README shows it."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(compile(code[1], "README.md", "exec"), names)  # noqa: S102 - our own text, which must work as it stands
    step: Callable[[ConvertJob], StepOutput] = names["int8_weights"]
    lines = code[1][code[1].index("def int8_weights") :].strip().splitlines()
    assert len(lines) < 25
    return step


@pytest.fixture
def toy(tmp_path: Path) -> ConvertJob:
    """An affine layer with one large weight in each column, so that clipping pays, and samples."""
    generator = np.random.default_rng(0)
    layer = ToyLayer(op="affine", name="first", inputs=("x",), output="y")
    arrays: dict[str, Array] = {
        "first.w": generator.normal(size=(64, 3)).astype(np.float32),
        "first.b": np.zeros(3, np.float32),
    }
    graph = ToyGraph(
        toy=1, inputs=(ToyValue(name="x", dtype="float32", shape=(1, 64)),),
        outputs=(ToyValue(name="y", dtype="float32", shape=(1, 3)),), layers=(layer,),
    )  # fmt: skip
    write_binary(tmp_path / "model.toybin", ToyModel(graph=graph, arrays=arrays))
    for place in range(20):
        write_sample(tmp_path / "samples", place, {"x": generator.normal(size=(1, 64)).astype(np.float32)})
    source = ModelArtifact(
        path=str(tmp_path / "model.toybin"), state=State(format="toybin"),
        signature=Signature(inputs=(), outputs=()), sha256="", size_bytes=0,
    )  # fmt: skip
    return ConvertJob(
        target=State(format="toybin", numerics=Numerics.INT8_DYNAMIC), source=source, scratch=str(tmp_path),
        output=str(tmp_path / "result.toybin"), calibration=str(tmp_path / "samples"),
    )  # fmt: skip


def test_a_strangers_backend_in_twenty_lines(toy: ConvertJob) -> None:
    output = readme_step()(toy)
    assert len(output.notes) == 3
    assert all(
        re.fullmatch(r"recipe: \d\.\d: \d+\.\d dB on 10 calibration samples", note.text) for note in output.notes
    )
    result = read(Path(toy.output))
    assert result.arrays["first.w"].dtype == np.int8
    before, after = ToySession(read(Path(toy.source.path))), ToySession(result)
    held_out = {"x": np.random.default_rng(9).normal(size=(1, 64)).astype(np.float32)}
    a, b = (session.run(held_out)["y"].astype(np.float64) for session in (before, after))
    assert 10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()) > 25
    assert output.recipe is not None
    json.dumps(output.recipe.settings)


def test_a_strangers_backend_without_samples_gets_hubs_own_error(toy: ConvertJob) -> None:
    for file in Path(toy.calibration).iterdir():
        file.unlink()
    with pytest.raises(HubError, match="no calibration samples") as caught:
        readme_step()(toy)
    assert caught.value.code == "calibration"


# The guided search


def noise_of(
    names: Sequence[str], signal: Array, rest: Array, alone: Array, costs: Sequence[float] = (), ties: Any = None
) -> Noise:
    return Noise(
        names=tuple(names),
        signal=signal,
        rest=rest,
        alone=alone,
        ties=np.eye(len(names), dtype=bool) if ties is None else np.array(ties, bool),
        costs=np.array(costs or [1.0] * len(names)),
    )


def planted(places: int = 12, seed: int = 3) -> tuple[Noise, Array]:
    """Noises of places over two parts: one place ruins the second part, one both, the others are small."""
    generator = np.random.default_rng(seed)
    signal = np.array([1e6, 1.0])
    alone = signal * generator.uniform(1e-5, 1e-4, (places, 2))
    alone[3, 1], alone[7] = 0.1, signal * 0.05
    rest = signal * 1e-5
    return noise_of([f"layer{place}" for place in range(places)], signal, rest, alone), alone


def test_the_places_that_ruin_a_part_are_removed_and_no_others() -> None:
    noise, alone = planted()
    assert noise.to_remove(20) == ("layer7", "layer3")  # first the one that ruins both
    assert noise.to_remove(10) == ("layer3",)
    assert noise.to_remove(5) == ()
    kept = [place for place in range(12) if place not in {3, 7}]
    assert (noise.signal / (noise.rest + alone[kept].sum(axis=0)) >= 100).all()


def test_cheap_places_go_before_a_dear_one_that_does_as_much() -> None:
    signal, rest, both = np.array([1.0]), np.array([0.0]), np.array([[0.02], [0.01], [0.01]])
    names = ("dear", "one", "two")
    assert noise_of(names, signal, rest, both).to_remove(16) == ("dear",)
    assert set(noise_of(names, signal, rest, both, (100, 1, 1)).to_remove(16)) == {"one", "two"}


def test_a_place_that_a_later_choice_makes_needless_stays() -> None:
    signal, rest = np.array([1.0]), np.array([0.0])
    found = noise_of(("small", "large"), signal, rest, np.array([[0.02], [0.2]]), (1, 20))
    assert found.to_remove(16) == ("large",)


def test_a_part_out_of_reach_is_brought_near_what_it_reaches_and_the_others_to_the_goal() -> None:
    signal, rest = np.array([1.0, 1.0]), np.array([0.1, 0.0])
    noise = np.array([[0.0, 0.02], [0.1, 0.0], [0.0001, 0.001]])
    assert set(noise_of(("a", "b", "c"), signal, rest, noise).to_remove(20)) == {"a", "b"}


def test_a_source_that_two_places_round_is_gone_with_both() -> None:
    signal, rest = np.array([1.0]), np.array([0.0])
    ties = [[True, True, False], [False, True, False], [False, False, True]]
    found = noise_of(("a", "b", "c"), signal, rest, np.array([[0.1], [1e-4], [0.001]]), (5, 5, 1), ties)
    assert set(found.to_remove(20)) == {"a", "b"}
    assert found.share(["a", "b"]) == pytest.approx(10 / 11)
    assert found.words(1) == "a, b 10.0"


def ramp(signal: float, errors: Array) -> Callable[[Feeds, int | None], Feeds]:
    """Outputs with what stays, and with one source's error on it."""

    def run(feeds: Feeds, source: int | None) -> Feeds:
        y = detector(feeds)["y"] + signal
        return {"y": y if source is None else y + errors[source]}

    return run


def test_a_source_is_measured_from_what_stays_without_it() -> None:
    """Beside what stays, -0.1, an error of 0.1 would measure as none, and one of -0.1 as three times too large."""
    judge = Judge.of(Running(detector), samples())
    found = Noise.measure(("a", "b"), judge, ramp(-0.1, np.array([0.1, -0.1])), 4)
    assert found.alone[0] == pytest.approx(found.alone[1], rel=1e-3)
    assert found.alone[0] == pytest.approx(found.rest, rel=1e-3)
    assert found.signal == pytest.approx(np.sum([list(signals.values()) for signals in judge.signals], axis=0))


def test_noise_without_end_is_removed_first() -> None:
    judge = Judge.of(Running(detector), samples())
    found = Noise.measure(("a", "b"), judge, ramp(0.0, np.array([0.1, math.nan])), 2)
    assert found.to_remove(0) == ("b",)
    assert found.to_remove(60) == ("b", "a")


def guided(noise: Noise, alone: Array, goal_db: float, more: float = 1.0) -> tuple[list[Any], Trials[Any, Any]]:
    """A search whose results have the noise that is left, times `more` than was measured."""

    def session(removed: tuple[str, ...]) -> Running:
        kept = [place for place, name in enumerate(noise.names) if name not in removed]
        left = (noise.rest + alone[kept].sum(axis=0)) / noise.signal
        wrong = math.sqrt(float(left.max()) * more)
        return Running(lambda feeds: {"y": detector(feeds)["y"] * (1 + wrong)})

    trials = Trials(Judge.of(Running(detector), samples()), session, lambda model: model)
    return list(trials.guided(noise, lambda names: names, goal_db)), trials


def test_a_guided_search_takes_one_trial_where_noises_add_up() -> None:
    noise, alone = planted()
    (trial,), trials = guided(noise, alone, 20)
    assert set(trial.recipe) == {"layer3", "layer7"}
    assert [note.code for note in trials.notes] == ["rounding-measured", "recipe-tried"]


def test_a_guided_search_goes_on_by_what_it_fell_short() -> None:
    noise, alone = planted()
    found, _ = guided(noise, alone, 28, more=5.0)
    assert len(found) > 1
    assert found[-1].sqnr_db >= 28
    assert all(trial.sqnr_db < 28 for trial in found[:-1])
    assert len(found[-1].recipe) > len(found[0].recipe)


def test_a_guided_search_ends_where_nothing_helps() -> None:
    noise, alone = planted()
    found, _ = guided(noise, alone, 50, more=1000.0)
    assert 1 <= len(found) <= GUIDED_TRIES
    assert all(trial.sqnr_db < 50 for trial in found)
    assert len({frozenset(trial.recipe) for trial in found}) == len(found)


def test_a_search_that_is_to_end_tries_until_it_has_something_and_tells_each_trial(tmp_path: Path) -> None:
    ask_to_end(tmp_path)
    told: list[StepProgress | None] = []

    def apply(level: float) -> Function:
        told.append(progress_of(tmp_path))
        if level > 1:
            raise StepError("it cannot be applied")
        return with_noise(level)

    trials = Trials(Judge.of(Running(detector), samples()), apply, Running, watch=StepWatch(str(tmp_path)))
    found = list(trials.results([2.0, 0.1, 0.01]))
    assert [trial.recipe for trial in found] == [0.1]
    assert told == [StepProgress(text="trial 1, 2.0"), StepProgress(text="trial 2, 0.1")]
    words = trials.words(found[0])
    assert progress_of(tmp_path) == StepProgress(text=f"trial 2, 0.1{words}", has_result=True)
    assert [trial.recipe for trial in trials.results([0.1, 0.001])] == [0.1]  # what is known costs nothing
    assert not list(trials.guided(planted()[0], len))


def test_noise_is_not_measured_to_its_end_where_the_step_is_to_end(tmp_path: Path) -> None:
    judge, watch = Judge.of(Running(detector), samples()), StepWatch(str(tmp_path))
    watch.has_result = True
    run = ramp(0.0, np.array([0.1, 0.1, 0.1]))

    def ending(feeds: Feeds, source: int | None) -> Feeds:
        if source == 1:
            ask_to_end(tmp_path)
        return run(feeds, source)

    found = Noise.measure(("a", "b", "c"), judge, ending, 2, watch=watch)
    assert (found.alone.sum(axis=1) > 0).tolist() == [True, True, False]
    assert progress_of(tmp_path) == StepProgress(
        text="measuring what rounding does at each of 3 places: 1 done", has_result=True
    )
