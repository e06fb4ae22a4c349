"""The gate: it passes what is right, and every planted fault fails it with the measured value."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub._parity import POLICIES, accuracy, binomial_tail, compare, describe_failures, gate_of
from hub.spec import (
    SQNR_CAP_DB,
    EffectError,
    ModelSummary,
    NothingCompared,
    Numerics,
    OutputParity,
    ParityPolicy,
    ParityReport,
    SampleFolder,
    Signature,
    State,
    write_sample,
)
from hub.spec.parts import is_classifier

Array = npt.NDArray[Any]
Outputs = dict[str, Array]
Change = Callable[[Outputs], Outputs]
FP32, INT8 = POLICIES[Numerics.FP32], POLICIES[Numerics.INT8]


def write(folder: Path, samples: list[Outputs]) -> Path:
    """Write outputs as a runtime does."""
    folder.mkdir(parents=True)
    for index, arrays in enumerate(samples):
        write_sample(folder, index, arrays)
    return folder


def outputs(samples: int = 6, seed: int = 0) -> list[Outputs]:
    """Two outputs of one shape, and one that is a classifier's."""
    generator = np.random.default_rng(seed)
    logits = generator.standard_normal((samples, 4, 10)) * 3
    powers = np.exp(logits)
    probabilities = powers / powers.sum(axis=-1, keepdims=True)
    return [
        {
            "left": generator.standard_normal((4, 10)).astype(np.float32),
            "right": generator.standard_normal((4, 10)).astype(np.float32),
            "classes": probabilities[index].astype(np.float32),
        }
        for index in range(samples)
    ]


def judge(tmp_path: Path, change: Change, policy: ParityPolicy = FP32) -> ParityReport:
    """Compare outputs with a changed copy of them."""
    source = outputs()
    changed = [change(dict(sample)) for sample in source]
    reference, result = write(tmp_path / "source", source), write(tmp_path / "result", changed)
    return compare(reference, {"toy": result}, policy, inputs="random", reference_runtime="toy")


def by_name(report: ParityReport) -> dict[str, OutputParity]:
    """The measurements."""
    return {item.output: item for item in report.outputs}


def test_the_same_outputs_are_exact(tmp_path: Path) -> None:
    report = judge(tmp_path, lambda sample: sample)
    assert report.passed
    for item in report.outputs:
        assert (item.samples, item.elements, item.max_abs, item.relative) == (6, 240, 0, 0)
        assert (item.cosine, item.sqnr_db) == (pytest.approx(1), SQNR_CAP_DB)
    assert (by_name(report)["classes"].top1, by_name(report)["left"].top1) == (1, 1)
    assert by_name(report)["classes"].top1_rows == by_name(report)["left"].top1_rows == 24


def test_float_rounding_is_no_fault(tmp_path: Path) -> None:
    assert judge(tmp_path, lambda sample: {name: array * np.float32(1 + 1e-6) for name, array in sample.items()}).passed


def only_left(change: Callable[[Array], Array]) -> Change:
    """Change one output and leave the others right."""
    return lambda sample: sample | {"left": change(sample["left"])}


def spoil(array: Array, value: float) -> Array:
    """One bad number."""
    spoiled = array.copy()
    spoiled[2, 3] = value
    return spoiled


FAULTS: dict[str, Change] = {
    "one NaN": only_left(lambda a: spoil(a, math.nan)),
    "one infinity": only_left(lambda a: spoil(a, math.inf)),
    "all NaN": only_left(lambda a: a * np.float32(np.nan)),
    "all zero": only_left(np.zeros_like),
    "constant": only_left(np.ones_like),
    "off by one percent": only_left(lambda a: a * np.float32(1.01)),
    "off by a constant": only_left(lambda a: a + np.float32(0.01)),
    "rows permuted": only_left(lambda a: a[::-1]),
    "columns permuted": only_left(lambda a: np.roll(a, 1, axis=1)),
    "sign": only_left(lambda a: -a),
    "transposed data": only_left(lambda a: a.T.reshape(a.shape)),
    "one wrong number": only_left(lambda a: spoil(a, 0.5)),
    "swapped outputs": lambda s: s | {"left": s["right"], "right": s["left"]},
    "rounded to float16 twice": only_left(lambda a: (a.astype(np.float16) * np.float16(1.001)).astype(np.float32)),
    "clipped": only_left(lambda a: np.clip(a, -1, 1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_float_gate_catches(tmp_path: Path, fault: str) -> None:
    report = judge(tmp_path, FAULTS[fault])
    assert not report.passed
    assert "left on toy" in describe_failures(report)
    assert by_name(report)["classes"].failures == ()


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {
    "off by one percent", "off by a constant", "one wrong number", "rounded to float16 twice", "clipped",
}))  # fmt: skip
def test_the_int8_gate_catches(tmp_path: Path, fault: str) -> None:
    assert not judge(tmp_path, FAULTS[fault], INT8).passed


@pytest.mark.parametrize("numerics", list(Numerics))
def test_every_precision_has_a_gate_that_garbage_fails(tmp_path: Path, numerics: Numerics) -> None:
    policy = POLICIES[numerics]
    assert policy.source
    noise = np.random.default_rng(9)
    report = judge(tmp_path, only_left(lambda a: noise.standard_normal(a.shape).astype(np.float32)), policy)
    assert not report.passed


def test_the_fp16_gate_lets_float16_through(tmp_path: Path) -> None:
    half = judge(tmp_path, only_left(lambda a: a.astype(np.float16).astype(np.float32)), POLICIES[Numerics.FP16])
    assert half.passed, describe_failures(half)
    assert half.worst.sqnr_db == pytest.approx(76, abs=3)


@pytest.mark.parametrize(
    ("own", "held_by"),
    [
        (Numerics.INT8_DYNAMIC, Numerics.INT8_DYNAMIC),
        (Numerics.INT8_WEIGHTS, Numerics.FP32),
        (Numerics.FP32, Numerics.FP32),
    ],
)
def test_a_float_copy_is_held_by_the_rounding_of_its_source(own: Numerics, held_by: Numerics) -> None:
    source = ModelSummary(state=State(format="a", numerics=own), signature=Signature(inputs=(), outputs=()))
    found = gate_of(source, Numerics.FP32)
    assert (found.numerics, found.sqnr_min_db) == (Numerics.FP32, POLICIES[held_by].sqnr_min_db)
    assert found.relative_max == POLICIES[held_by].relative_max


def test_a_failure_says_the_value_and_the_bound(tmp_path: Path) -> None:
    report = judge(tmp_path, only_left(lambda a: a * np.float32(1.01)))
    assert describe_failures(report) == "left on toy: relative error 0.01 > 0.0001"


def test_nan_is_called_nan(tmp_path: Path) -> None:
    assert by_name(judge(tmp_path, FAULTS["one NaN"]))["left"].failures == ("the result holds NaN or infinity",)


def test_sqnr_and_cosine_agree_with_their_formulas(tmp_path: Path) -> None:
    noise = np.random.default_rng(3)
    source = outputs()
    changed = [
        s | {"left": s["left"] + 0.05 * noise.standard_normal(s["left"].shape).astype(np.float32)} for s in source
    ]
    reference, result = write(tmp_path / "a", source), write(tmp_path / "b", changed)
    report = compare(reference, {"toy": result}, INT8, inputs="random", reference_runtime="toy")
    a = np.concatenate([s["left"].ravel() for s in source]).astype(np.float64)
    b = np.concatenate([s["left"].ravel() for s in changed]).astype(np.float64)
    item = by_name(report)["left"]
    assert item.sqnr_db == pytest.approx(10 * math.log10((a**2).sum() / ((a - b) ** 2).sum()))
    assert item.cosine == pytest.approx((a @ b) / np.linalg.norm(a) / np.linalg.norm(b))
    assert item.relative == pytest.approx(np.abs(a - b).max() / np.abs(a).max())
    assert item.mean_abs == pytest.approx(np.abs(a - b).mean())
    rows = a.reshape(24, 10)
    means = max(
        (rows.mean(axis=0)[None], rows.reshape(6, 4, 10).mean(axis=(0, 2)).repeat(10)), key=lambda m: (m**2).mean()
    )
    centred = (rows - means.reshape(-1, 10).repeat(24 // means.reshape(-1, 10).shape[0], axis=0)).ravel()
    assert item.centred_sqnr_db == pytest.approx(10 * math.log10((centred**2).sum() / ((a - b) ** 2).sum()))
    moved = centred + b - a
    assert item.centred_cosine == pytest.approx(
        centred @ moved / np.linalg.norm(centred) / np.linalg.norm(moved), rel=1e-6
    )


def test_top1_counts_rows(tmp_path: Path) -> None:
    def flip(sample: Outputs) -> Outputs:
        classes = sample["classes"].copy()
        classes[:2] = np.roll(classes[:2], 1, axis=-1)
        return sample | {"classes": classes}

    item = by_name(judge(tmp_path, flip, POLICIES[Numerics.INT8_DYNAMIC]))["classes"]
    assert item.top1 is not None
    assert item.top1_rows >= 8
    assert any(f"of {item.top1_rows} clear rows" in failure for failure in item.failures)


def test_rows_in_which_nothing_occurs_are_no_classes(tmp_path: Path) -> None:
    """A detector's cells: 60 of 1536 hold something, and in the others rounding orders the scores."""
    generator = np.random.default_rng(3)
    scores = generator.uniform(0, 2e-4, (24, 64, 3))
    hits = [(place % 24, generator.integers(64), generator.integers(3)) for place in range(60)]
    for hit in hits:
        scores[hit] = generator.uniform(0.7, 1.0)
    sound = scores + generator.normal(0, 0.003, scores.shape)
    wrong = sound.copy()
    for sample, cell, _ in hits[:20]:
        wrong[sample, cell] = np.roll(wrong[sample, cell], 1)
    reference = write(tmp_path / "source", [{"scores": item.astype(np.float32)} for item in scores])
    found = []
    for name, values in (("sound", sound), ("wrong", wrong)):
        result = write(tmp_path / name, [{"scores": item.astype(np.float32)} for item in values])
        report = compare(reference, {"toy": result}, INT8, inputs="given", reference_runtime="toy")
        found.append(by_name(report)["scores"])
    assert (found[0].failures, found[0].top1) == ((), 1.0)
    assert 50 <= found[0].top1_rows <= 60
    assert any("clear rows" in failure for failure in found[1].failures)


@pytest.mark.parametrize(
    ("hits", "rows", "share", "tail"),
    [(18, 24, 0.95, 0.0012), (0, 2, 0.95, 0.0025), (3, 4, 0.95, 0.1855), (19, 20, 0.95, 1.0), (65, 100, 0.95, 2e-21)],
)
def test_the_binomial_tail_is_that_of_its_definition(hits: int, rows: int, share: float, tail: float) -> None:
    plain = sum(math.comb(rows, k) * share**k * (1 - share) ** (rows - k) for k in range(hits + 1))
    assert binomial_tail(hits, rows, share) == pytest.approx(plain if hits < rows * share else 1.0)
    assert binomial_tail(hits, rows, share) == pytest.approx(tail, rel=0.6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"left": s["left"], "right": s["right"]}, "classes"),
        (lambda s: s | {"extra": s["left"]}, "extra"),
        (lambda s: s | {"left": s["left"].T}, "left[10x4]"),
        (lambda s: s | {"left": s["left"][:2]}, "left[2x10]"),
    ],
    ids=["missing", "extra", "transposed", "fewer rows"],
)
def test_other_names_or_shapes_are_an_effect_error(tmp_path: Path, change: Change, words: str) -> None:
    with pytest.raises(EffectError) as caught:
        judge(tmp_path, change)
    assert words in caught.value.message
    assert caught.value.code == "step-effect"


def test_a_comparison_of_nothing_is_an_error(tmp_path: Path) -> None:
    full, empty = write(tmp_path / "full", outputs()), write(tmp_path / "empty", [])
    for reference, results in ((empty, {"toy": empty}), (full, {"toy": empty}), (full, {})):
        with pytest.raises(NothingCompared) as caught:
            compare(reference, results, FP32, inputs="random", reference_runtime="toy")
        assert caught.value.code == "nothing-compared"
        assert caught.value.hint


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([{"y": np.zeros((1, 0), np.float32)}], "no elements"),
        ([{"y": np.zeros((2, 3), np.float32)}] * 3, "zero on every sample"),
        ([{"y": np.array([[1, np.nan]], np.float32)}], "itself gives NaN"),
        ([{}], "no output"),
    ],
    ids=["empty", "zero", "nan", "no outputs"],
)
def test_a_source_that_says_nothing_proves_nothing(tmp_path: Path, source: list[Outputs], words: str) -> None:
    reference, result = write(tmp_path / "a", source), write(tmp_path / "b", source)
    with pytest.raises(NothingCompared, match=words):
        compare(reference, {"toy": result}, FP32, inputs="random", reference_runtime="toy")


def test_one_kernel_set_that_is_wrong_fails_them_all(tmp_path: Path) -> None:
    source = outputs()
    wrong = [FAULTS["sign"](sample) for sample in source]
    reference = write(tmp_path / "a", source)
    folders = {"fast": write(tmp_path / "b", source), "reference": write(tmp_path / "c", wrong)}
    report = compare(reference, folders, FP32, inputs="random", reference_runtime="toy")
    assert not report.passed
    assert {item.runtime for item in report.outputs if item.failures} == {"reference"}


def test_integer_outputs_are_compared_exactly(tmp_path: Path) -> None:
    source = [{"ids": np.arange(12, dtype=np.int64).reshape(1, 12) + 2**40}]
    wrong = [{"ids": source[0]["ids"][:, ::-1]}]
    reference = write(tmp_path / "a", source)
    same = compare(reference, {"toy": reference}, FP32, inputs="random", reference_runtime="toy")
    assert same.passed
    flipped = compare(
        reference,
        {"toy": write(tmp_path / "b", wrong)},
        POLICIES[Numerics.INT8],
        inputs="random",
        reference_runtime="toy",
    )
    assert flipped.worst.max_abs == 11


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.2, 0.8], [0.5, 0.5]], True),
        ([[0.2, 0.7]], False),
        ([[1.2, -0.2]], False),
        ([[1.0]], False),
    ],
)
def test_what_counts_as_a_classifier(rows: list[list[float]], expected: bool) -> None:
    array = np.array(rows, np.float32)
    assert is_classifier(array) is expected


def test_accuracy_counts_labels(tmp_path: Path) -> None:
    source = [{"y": np.eye(3, dtype=np.float32)[[index % 3]]} for index in range(6)]
    result = [{"y": np.eye(3, dtype=np.float32)[[0]]} for _ in range(6)]
    found = accuracy([0, 1, 2, 0, 1, 1], write(tmp_path / "a", source), write(tmp_path / "b", result))
    assert (found.samples, found.source, found.result) == (6, pytest.approx(5 / 6), pytest.approx(2 / 6))
    assert (found.lost, found.failure) == (3, "")


@pytest.mark.parametrize(("wrong", "fails"), [(0, False), (5, False), (30, True)])
def test_an_accuracy_that_chance_does_not_lose_is_a_failure(tmp_path: Path, wrong: int, fails: bool) -> None:
    source = [{"y": np.eye(3, dtype=np.float32)[[index % 3]]} for index in range(100)]
    result = [{"y": np.roll(sample["y"], index < wrong)} for index, sample in enumerate(source)]
    folders = write(tmp_path / "a", source), write(tmp_path / "b", result)
    found = accuracy([index % 3 for index in range(100)], *folders, INT8)
    assert found.lost == wrong
    assert bool(found.failure) is fails
    assert not fails or "accuracy 100.0% to 70.0%: of 100 labelled rows" in found.failure


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scale=st.floats(1e-6, 1e6), error=st.floats(2e-4, 1.0), where=st.integers(0, 239))
def test_any_error_above_the_bound_fails_at_any_scale(
    tmp_path_factory: pytest.TempPathFactory, scale: float, error: float, where: int
) -> None:
    folder = tmp_path_factory.mktemp("parity")
    source = [{"y": sample["left"].astype(np.float64) * scale} for sample in outputs()]
    largest = max(float(np.abs(sample["y"]).max()) for sample in source)
    changed = [{"y": sample["y"].copy()} for sample in source]
    changed[where // 40]["y"].flat[where % 40] += error * largest
    reference, result = write(folder / "a", source), write(folder / "b", changed)
    report = compare(reference, {"toy": result}, FP32, inputs="random", reference_runtime="toy")
    assert not report.passed
    assert report.worst.relative == pytest.approx(error, rel=1e-6)
    assert len(SampleFolder(result)) == 6


def detections(samples: int = 8, seed: int = 1) -> list[Outputs]:
    """A detector's output [1, 4 + 80, 100]: boxes in pixels, and scores below one, all in one tensor."""
    generator = np.random.default_rng(seed)
    boxes = generator.uniform(20, 320, (samples, 1, 4, 100))
    scores = generator.beta(0.1, 4, (samples, 1, 80, 100))
    return [{"found": np.concatenate(pair, axis=1).astype(np.float32)} for pair in zip(boxes, scores, strict=True)]


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("policy", [INT8, FP32], ids=["int8", "fp32"])
def test_a_detector_that_detects_nothing_is_found_out(tmp_path: Path, policy: ParityPolicy, axis: int) -> None:
    """All scores at zero: over the whole output that is 55 dB and a cosine of 1."""
    source = [{"found": np.swapaxes(sample["found"], 1, axis)} for sample in detections()]
    blind = [{"found": sample["found"].copy()} for sample in source]
    for sample in blind:
        np.swapaxes(sample["found"], 1, axis)[:, 4:] = 0
    folders = write(tmp_path / "source", source), {"rt": write(tmp_path / "blind", blind)}
    report = compare(*folders, policy, inputs="given", reference_runtime="x")
    whole, scores = report.outputs
    assert whole.sqnr_db > 50
    assert not report.passed
    assert scores.output == ("found[:, 4:84]" if axis == 1 else "found[:, :, 4:84]")
    assert scores.sqnr_db == pytest.approx(0)
    assert "found[:, " in describe_failures(report)


def test_scores_before_the_boxes_are_found_too(tmp_path: Path) -> None:
    source = [{"found": np.concatenate([s["found"][:, 4:], s["found"][:, :4]], axis=1)} for s in detections()]
    folder = write(tmp_path / "source", source)
    report = compare(folder, {"rt": folder}, INT8, inputs="given", reference_runtime="x")
    assert [item.output for item in report.outputs] == ["found", "found[:, 0:80]"]


def test_a_detector_with_int8_noise_on_each_part_passes(tmp_path: Path) -> None:
    generator, source = np.random.default_rng(2), detections()
    noise = [generator.normal(1, 0.05, sample["found"].shape).astype(np.float32) for sample in source]
    noisy = [{"found": sample["found"] * factor} for sample, factor in zip(source, noise, strict=True)]
    folders = write(tmp_path / "source", source), {"rt": write(tmp_path / "noisy", noisy)}
    report = compare(*folders, INT8, inputs="given", reference_runtime="x")
    assert [item.output for item in report.outputs] == ["found", "found[:, 4:84]"]
    assert report.passed


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).standard_normal((1, 64, 50)),  # one thing
        np.random.default_rng(0).standard_normal((1, 64, 50)) * np.geomspace(1, 1e3, 64)[None, :, None],  # no gap
        np.random.default_rng(0).standard_normal((1, 64, 50)) * np.array([1.0, 5.0])[np.arange(64) % 2][None, :, None],
        np.concatenate([np.ones((1, 4, 50)), np.full((1, 60, 50), 1e-9)], axis=1),  # rounding errors beside it
        np.concatenate([np.ones((1, 4, 50)), np.zeros((1, 60, 50))], axis=1),
        np.random.default_rng(0).standard_normal((4, 64)),
    ],
)
def test_other_outputs_are_judged_as_a_whole(array: Array, tmp_path: Path) -> None:
    folder = write(tmp_path / "source", [{"y": array.astype(np.float32)}] * 2)
    report = compare(folder, {"rt": folder}, INT8, inputs="given", reference_runtime="x")
    assert [item.output for item in report.outputs] == ["y"]


@pytest.mark.parametrize(
    ("of_source", "wrong", "said"),
    [
        (lambda x: np.maximum(x, 0), lambda y: np.where(y == 0, -0.2, y), "gives never below zero"),
        (lambda x: 1 / (1 + np.exp(-8 * x)), lambda y: y * 1.04, "gives 0 to 1"),
        (lambda x: np.tanh(4 * x), lambda y: y * 1.04, "gives -1 to 1"),
        (lambda x: np.exp(9 * x) / np.exp(9 * x).sum(-1, keepdims=True), lambda y: y * 0.8, "sum to one within 0.2"),
    ],
    ids=["rectified", "sigmoid", "tanh", "softmax"],
)
def test_what_the_last_operator_never_gives_is_refused(
    of_source: Callable[[Array], Array], wrong: Callable[[Array], Array], said: str, tmp_path: Path
) -> None:
    given = [
        {"y": of_source(np.random.default_rng(seed).standard_normal((8, 10))).astype("float32")} for seed in range(4)
    ]
    reference = write(tmp_path / "reference", given)
    step = np.float32(1 / 256)
    sound = write(tmp_path / "sound", [{"y": np.rint(item["y"] / step) * step} for item in given])
    broken = write(tmp_path / "broken", [{"y": wrong(item["y"]).astype("float32")} for item in given])
    right = compare(reference, {"b": sound}, INT8, inputs="given", reference_runtime="a")
    assert right.passed
    found = compare(reference, {"b": broken}, INT8, inputs="given", reference_runtime="a")
    assert said in describe_failures(found)
