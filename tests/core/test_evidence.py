"""The output gate on planted faults: each kind is refused, sound noise passes, and what proves nothing says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from hub._judgement import on_random
from hub._parity import POLICIES, compare, no_evidence
from hub._receipt import integers_words
from hub.spec import EffectError, NoEvidence, Numerics, ParityReport, write_sample
from tests.core.output_faults import FAULTS, MODELS, caught, sound, sound_trials, trials, verdict

Array = npt.NDArray[Any]
R = np.random.default_rng


def failures(report: ParityReport) -> str:
    """All that does not hold."""
    return "; ".join(f"{item.output}: {failure}" for item in report.outputs for failure in item.failures)


def score(models: set[str]) -> tuple[list[str], int]:
    """What is missed, and of how many."""
    tried = [trial for trial in trials(range(1)) if trial[0] in models]
    return [f"{fault}: {model}, {db:.0f} dB" for model, fault, db, x, z in tried if not caught(x, z, fault)], len(tried)


def test_every_kind_of_fault_is_caught() -> None:
    missed, tried = score({"classifier", "pose"})
    assert tried >= 50
    assert missed == []


@pytest.mark.scheduled
def test_the_score_of_all_models_keeps_its_floor() -> None:
    missed, tried = score(set(MODELS))
    assert tried >= 300
    assert len(missed) <= 0.035 * tried, missed  # 303 of 313 are caught


@pytest.mark.scheduled
def test_sound_results_pass() -> None:
    refused = [(model, db) for model, db, x, y in sound_trials(500) if not verdict(x, y).passed]
    assert len(refused) <= 2, refused


def test_a_few_sound_results_pass() -> None:
    reports = [(model, db, verdict(x, y)) for model, db, x, y in sound_trials(24)]
    assert [(model, db, failures(report)) for model, db, report in reports if not report.passed] == []


def logits(offset: float = 0.0, seed: int = 0) -> Array:
    """A classifier's, [samples, 1, 10]."""
    return MODELS["classifier"][0](R(seed)) + offset


def test_a_constant_where_outputs_have_an_offset_fails() -> None:
    """20 dB and a cosine of 0.99 over the whole are the offset's."""
    x = logits(60)
    report = verdict(x, np.broadcast_to(x.mean(axis=0), x.shape))
    (item,) = report.outputs
    assert item.sqnr_db > 20
    assert item.cosine > 0.99
    assert item.centred_sqnr_db == pytest.approx(0, abs=0.1)
    assert "SQNR without the mean -0.0 dB < 3 dB" in failures(report)
    assert not report.unproved


@pytest.mark.parametrize(
    ("numerics", "kind", "wrong", "refused"),
    [
        (Numerics.FP32, np.int64, 0.1, True),
        (Numerics.FP32, np.int64, 0.005, False),
        (Numerics.INT8, np.bool_, 0.1, True),
        (Numerics.INT8, np.bool_, 0.01, False),
        (Numerics.INT8, np.int32, 0.1, False),
        (Numerics.INT8, np.uint8, 0.1, False),
    ],
)
def test_integers_that_may_be_ids_are_counted(
    tmp_path: Path, numerics: Numerics, kind: type, wrong: float, refused: bool
) -> None:
    """Neighbouring ids of 30000 to 30999: the distance between them says nothing, and hides in their size."""
    x = R(0).integers(30000, 31000, (40, 1, 50)) if kind in {np.int64, np.int32} else R(0).integers(0, 2, (40, 1, 50))
    other = x ^ 1
    y = np.where(R(1).uniform(size=x.shape) < wrong, other, x)
    for place, arrays in (("source", x), ("result", y)):
        for index, array in enumerate(arrays):
            write_sample(tmp_path / place, index, {"y": array.astype(kind)})
    results = {"rt": tmp_path / "result"}
    report = compare(tmp_path / "source", results, POLICIES[numerics], inputs="given", reference_runtime="x")
    assert ("are not the source's" in failures(report)) is refused
    (item,) = report.outputs
    assert item.unequal == (None if kind is np.uint8 else pytest.approx(float((x != y).mean())))
    assert bool(list(integers_words(report))) is (kind is not np.uint8)


def test_one_other_word_of_a_hundred_is_told_and_not_refused(tmp_path: Path) -> None:
    """An arg-max inside the model, of two classes that were near: one id is all that its sample has."""
    x = R(0).integers(0, 12, (100, 1))
    y = np.where(np.arange(100)[:, None] == 53, (x + 7) % 12, x)
    for place, arrays in (("source", x), ("result", y)):
        for index, array in enumerate(arrays):
            write_sample(tmp_path / place, index, {"word": array.astype(np.int64)})
    results = {"rt": tmp_path / "result"}
    report = compare(tmp_path / "source", results, POLICIES[Numerics.INT8], inputs="given", reference_runtime="x")
    assert failures(report) == ""
    assert report.outputs[0].unequal == pytest.approx(0.01)
    assert list(integers_words(report))


@pytest.mark.parametrize("numerics", [Numerics.INT8, Numerics.FP16])
@pytest.mark.parametrize("model", ["detector", "detector, places first", "pose", "masks"])
def test_a_quiet_part_of_zeros_fails_wherever_it_is(model: str, numerics: Numerics) -> None:
    make, things = MODELS[model]
    x = make(R(1))
    y = x.copy()
    quiet = min(((slice(None), *thing) for thing in things), key=lambda thing: float((x[thing] ** 2).mean()))
    y[quiet] = 0
    report = verdict(x, y, numerics)
    assert report.outputs[0].sqnr_db > 40
    assert any("[" in item.output for item in report.outputs if item.failures), failures(report)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 2, 3, 6)], ids=str)
def test_parts_are_found_at_any_rank(shape: tuple[int, ...]) -> None:
    """Six scales, each ten times and more the next; the fourth is zero."""
    scales = np.array([3e3, 2e2, 10.0, 0.5, 0.03, 1e-3])
    x = R(2).normal(0, 1, (40, *shape)) * scales
    y = x.copy()
    y[..., 3] = 0
    report = verdict(x, y)
    assert f"y[{':, ' * (len(shape) - 1)}3:4]" in {item.output for item in report.outputs if item.failures}
    assert verdict(x, x * R(3).normal(1, 0.05, x.shape)).passed


def test_a_part_that_lies_scattered_is_one_part() -> None:
    """Key points: x, y in pixels, and how visible each is."""
    x = R(4).uniform(0, 300, (20, 1, 9, 30))
    x[:, :, 2::3] = R(5).beta(0.5, 0.5, x[:, :, 2::3].shape)
    y = x.copy()
    y[:, :, 2::3] = 0
    report = verdict(x, y)
    assert [item.output for item in report.outputs] == ["y", "y[:, 2:3,5:6,8:9]"]
    assert not report.passed


STILL: dict[str, Array] = {
    "strides that never change": np.tile(np.array([8.0, 9.0]).reshape(1, 1, 2, 1), (20, 1, 1, 30)),
    "what fired once": np.repeat((np.arange(600) == 7).reshape(20, 1, 1, 30) * 1.0, 2, axis=2),
    "rounding errors": R(7).normal(0, 1e-5, (20, 1, 2, 30)),
}


@pytest.mark.parametrize("what", STILL)
def test_what_the_source_keeps_still_is_no_part(what: str) -> None:
    x = np.concatenate([R(6).uniform(20, 600, (20, 1, 4, 30)), STILL[what]], 2)
    assert [item.output for item in verdict(x, x).outputs] == ["y"]


def test_classes_that_do_not_occur_are_no_part_of_the_scores() -> None:
    scores = R(8).beta(0.2, 2, (20, 1, 12, 30))
    scores[:, :, 5:] *= 1e-3
    x = np.concatenate([R(9).uniform(20, 600, (20, 1, 4, 30)), scores], 2)
    assert [item.output for item in verdict(x, x).outputs] == ["y", "y[:, 4:9]"]


def test_zeros_for_the_brightest_fail_and_quiet_samples_do_not() -> None:
    x = R(10).normal(0, 1, (60, 1, 12)) * R(11).uniform(1, 2, (60, 1, 1))
    x[:5] *= 1e-3  # quiet
    y = sound(x, MODELS["embedding"][1], 30, R(12))
    assert verdict(x, y).passed
    brightest = int(np.argmax((x**2).sum(axis=(1, 2))))
    y[brightest] = 0
    report = verdict(x, y)
    assert report.outputs[0].sqnr_db > 12
    assert f"sample {brightest}: SQNR -0.1 dB" in failures(report)


def test_one_score_in_doubt_is_no_fault_and_one_of_zero_is() -> None:
    """As a voice detector's int8 was measured: 20 dB over the whole, one score of 16 off by 0.32."""
    x = np.where(np.arange(40) % 8 < 7, 0.99, 0.02).reshape(40, 1, 1) + R(22).normal(0, 3e-3, (40, 1, 1))
    x[10] = 0.72
    y = x + R(23).normal(0, 0.02, x.shape)
    y[10] = 0.4
    assert verdict(x, y).passed
    y[11] = 0
    assert "sample 11: SQNR" in failures(verdict(x, y))


def test_a_row_of_a_batch_is_a_sample_too() -> None:
    x = R(13).normal(0, 1, (4, 32, 12))
    y = sound(x, MODELS["embedding"][1], 30, R(14))
    y[2, 17] = 0
    assert "sample 2 row 17" in failures(verdict(x, y))


def test_a_component_of_its_own_noise_fails() -> None:
    """One channel of 64 zero is 18 dB over the whole."""
    x = R(15).normal(0, 1, (20, 1, 64, 16))
    y = sound(x, MODELS["embedding"][1], 30, R(16))
    y[:, :, 20] = 0
    report = verdict(x, y)
    assert report.outputs[0].sqnr_db > 17
    assert "[:, 20]: SQNR -0.1 dB" in failures(report)


def test_a_class_that_seldom_occurs_is_no_component() -> None:
    """As a text recogniser's: sharp probabilities of many classes, one of which is never first."""
    scores = R(24).normal(0, 1, (30, 10, 40))
    np.put_along_axis(scores, R(25).integers(0, 39, (30, 10, 1)), 12.0, -1)
    x = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    y = x.copy()
    y[:, :, 39] *= 30
    assert not any("[:, " in failure for item in verdict(x, y).outputs for failure in item.failures)


@pytest.mark.parametrize("axes", [(1, 10), (1, 7, 5, 5)], ids=str)
def test_logits_whose_classes_turn_over_fail_and_near_ties_do_not(axes: tuple[int, ...]) -> None:
    """At 14 dB and more over the whole: the noise turns the classes over, more than noise does where one leads."""
    r = R(17)
    x = r.normal(0, 1, (100, *axes)) + 8
    first = np.expand_dims(x.argmax(axis=2), 2)
    axis = 2
    led = x.copy()
    np.put_along_axis(led, first, np.take_along_axis(x, first, axis) + 1.5, axis)
    turned = led.copy()
    some = r.random(first.shape) < 0.35
    other = (first + 1) % x.shape[axis]
    top, rest = np.take_along_axis(led, first, axis), np.take_along_axis(led, other, axis)
    np.put_along_axis(turned, first, np.where(some, rest, top), axis)
    np.put_along_axis(turned, other, np.where(some, top, rest), axis)
    report = verdict(led, turned)
    assert report.outputs[0].sqnr_db > 13
    assert "top-1 agreement" in failures(report)
    ties = led - np.where(np.arange(10 if len(axes) == 2 else 7) > 1, 6, 0).reshape(
        [-1 if a == axis else 1 for a in range(x.ndim)]
    )
    ties = np.where(ties > 8, 8 + 0.02 * (ties - 8), ties)
    assert "top-1" not in failures(verdict(ties, ties + R(19).normal(0, 0.3, x.shape)))


def test_few_rows_are_no_verdict() -> None:
    x = logits()[:2]
    item = verdict(x, np.flip(x, axis=-1)).outputs[0]
    assert item.top1 is not None
    assert not any("top-1" in failure for failure in item.failures)


def gate(tmp_path: Path, x: Array, y: Array, inputs: Any = "given", numerics: Numerics = Numerics.INT8) -> ParityReport:
    """The report on arrays in their own types."""
    for name, arrays in (("a", x), ("b", y)):
        for index, array in enumerate(arrays):
            write_sample(tmp_path / name, index, {"y": array})
    return compare(tmp_path / "a", {"rt": tmp_path / "b"}, POLICIES[numerics], inputs=inputs, reference_runtime="x")


@pytest.mark.parametrize("kinds", [("float32", "float64"), ("int64", "int32"), ("float32", "float16")])
def test_another_element_type_is_refused(tmp_path: Path, kinds: tuple[str, str]) -> None:
    x = (logits() * 10).astype(kinds[0])
    with pytest.raises(EffectError, match=f"y: {kinds[1]}; the source gives y: {kinds[0]}"):
        gate(tmp_path, x, x.astype(kinds[1]))


NOTHING: dict[str, Callable[[], Array]] = {
    "a detector where nothing occurs": lambda: np.abs(R(20).normal(0, 3e-4, (20, 1, 40))),
    "an output that hardly moves": lambda: R(21).normal(0, 1e-2, (20, 1, 8)) - 8,
}


@pytest.mark.parametrize("what", NOTHING)
@pytest.mark.parametrize("answer", ["constant", "nearly"])
def test_samples_in_which_nothing_occurs_are_no_evidence(tmp_path: Path, what: str, answer: str) -> None:
    x = NOTHING[what]().astype(np.float32)
    step = max(float(np.abs(x).max()) / 60, 1 / 256)
    y = np.round(x / step) * np.float32(step) if answer == "nearly" else np.broadcast_to(np.round(x.mean()), x.shape)
    report = gate(tmp_path, x, y.astype(np.float32))
    assert not report.passed
    assert report.unproved.startswith("y ")
    assert not any(item.failures for item in report.outputs)
    error = no_evidence(report)
    assert isinstance(error, NoEvidence)
    assert (error.code, error.exit_status) == ("no-evidence", 8)
    assert "--test DATA" in error.hint


def test_a_detector_that_sees_what_is_not_there_fails_all_the_same(tmp_path: Path) -> None:
    x = NOTHING["a detector where nothing occurs"]().astype(np.float32)
    report = gate(tmp_path, x, np.full_like(x, 0.9))
    assert not report.unproved
    assert failures(report)


def test_every_fault_of_the_score_is_planted_somewhere() -> None:
    assert len(FAULTS) >= 25


def still(path: Path, label: int | None = None) -> Path:
    """Samples for the toy classifier that are nearly one."""
    x = np.ones((20, 6)) * 0.3 + R(30).normal(0, 1e-3, (20, 6))
    labels = {} if label is None else {"label": np.full(20, label)}
    np.savez(path, x=x.astype(np.float32), **labels)
    return path


def test_convert_and_verify_end_with_no_evidence_and_write_nothing(
    hub: Callable[..., Any], toy: Path, samples: Path, tmp_path: Path
) -> None:
    data, output = still(tmp_path / "still.npz"), tmp_path / "out.toybin"
    words = ("--to", "toybin", "--int8", "--calibration", samples, "-o", output)
    ran = hub("convert", toy, *words, "--test", data, "--json")
    assert (ran.status, ran.error["code"]) == (8, "no-evidence")
    assert "y moves by" in ran.error["message"]
    assert "--test DATA" in ran.error["hint"]
    assert not output.exists()
    assert hub("convert", toy, *words, "--json").status == 0
    verified = hub("verify", toy, output, "--data", data)
    assert verified.status == 8
    assert "no evidence: moves by" in " ".join(verified.out.split())
    assert "--data DATA" in verified.err
    told = hub("verify", toy, output, "--data", data, "--json")
    assert (told.status, told.json["passed"]) == (8, False)
    assert told.json["unproved"].startswith("y moves by")


def test_the_evidence_is_in_the_first_line_and_with_v_all_of_it(
    hub: Callable[..., Any], toy: Path, samples: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.toybin"
    ran = hub("convert", toy, "--to", "toybin", "--int8", "--calibration", samples, "-o", output)
    assert ran.status == 0, ran.err
    assert " dB" in ran.out.splitlines()[0]
    assert "\nevidence" not in ran.out
    told = hub("verify", toy, output, "--data", samples).out
    assert len([line for line in told.splitlines() if line.startswith("evidence")]) == 1
    assert "gate of int8" not in told
    assert "gate of int8" in hub("verify", toy, output, "--data", samples, "-v").out


def test_labels_count_in_verify_too(hub: Callable[..., Any], toy: Path, samples: Path, tmp_path: Path) -> None:
    """Labels as the source has them; the fault is a float model whose classes are others."""
    other = json.loads(toy.read_text())
    last = other["layers"][2]
    last["w"] = [[row[1], row[0], row[2]] for row in last["w"]]
    last["b"] = [last["b"][1], last["b"][0], last["b"][2]]
    wrong = tmp_path / "wrong.toy"
    wrong.write_text(json.dumps(other))
    outputs, labelled = tmp_path / "outputs.npz", tmp_path / "labelled.npz"
    assert hub("run", toy, "--data", samples, "-o", outputs).status == 0
    label = np.load(outputs)["y"].reshape(40, 3).argmax(axis=1)
    np.savez(labelled, x=np.load(samples)["x"], label=label)
    right = hub("verify", toy, toy, "--data", labelled, "--precision", "int8", "--json")
    assert right.status == 0, right.err
    assert right.json["accuracy"] == {"samples": 40, "source": 1.0, "result": 1.0}
    found = hub("verify", toy, wrong, "--data", labelled, "--precision", "int8", "--json")
    assert found.status == 6
    assert "labelled rows that the source has right" in found.json["accuracy"]["failure"]


def test_another_element_type_is_refused_by_verify(
    hub: Callable[..., Any], toy: Path, samples: Path, tmp_path: Path
) -> None:
    wide = tmp_path / "wide.toy"
    wide.write_text(toy.read_text().replace('"name": "y", "dtype": "float32"', '"name": "y", "dtype": "float64"'))
    ran = hub("verify", toy, wide, "--data", samples, "--json")
    assert (ran.status, ran.error["code"]) == (5, "step-effect"), ran.out
    assert "float64" in ran.error["message"]


def test_int8_on_random_inputs_that_breaks_a_bound_is_no_evidence() -> None:
    x = logits().astype(np.float32)
    item = verdict(x, np.flip(x, axis=-1)).outputs[0]
    report = ParityReport(
        policy=POLICIES[Numerics.INT8], inputs="random", reference_runtime="x", outputs=(item,), passed=False
    )
    judged = on_random(report, None)
    assert judged.unproved.startswith("on random inputs, which may lie outside")
    held = on_random(msgspec.structs.replace(report, policy=POLICIES[Numerics.INT8_DYNAMIC]), None)
    assert not held.unproved
    nan = msgspec.structs.replace(item, failures=("the result holds NaN or infinity",))
    assert not on_random(msgspec.structs.replace(report, outputs=(nan,)), None).unproved
