"""The check layer by layer: what refuses, what is told, and what is left out, on a format of a few lines."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hub import _corrections, _local
from hub._constants import judge_constant
from hub._corrections import FEWEST, CorrectionSamples
from hub._counterparts import LayerGraphs, LayerPair
from hub._gains import GainSums
from hub._grids import LaidGrid
from hub._layer_bounds import LocalBounds, layers_words
from hub._local import LayerCheck, describe_local
from hub._tasks import LocalTask, Subject
from hub._worker import _local as hold_layers
from hub.spec import (
    DescribeJob,
    DType,
    Format,
    InnerLayer,
    InnerTensor,
    Inside,
    LocalReport,
    ModelArtifact,
    ModelSummary,
    ModelUnreadable,
    Numerics,
    QuantParams,
    Read,
    Runtime,
    RuntimeOptions,
    SampleFolder,
    Signature,
    State,
    StepError,
    StoredConstant,
    write_sample,
)

STEP = 0.02
GRID = QuantParams(scale=(STEP,), zero_point=(0,))


class ChainSession:
    """Runs a chain: each layer is its operator, what it reads, and its result; `w` are constants."""

    def __init__(self, model: dict[str, Any], shown: Sequence[str]) -> None:
        self._model, self._shown = model, shown

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        values = {**{name: np.asarray(array) for name, array in self._model["constants"].items()}, **feeds}
        for operator, inputs, output in self._model["layers"]:
            if output not in self._needed():
                continue
            one, other = (values[name] for name in inputs)
            values[output] = one @ other if operator == "MatMul" else one + other if operator == "Add" else one - other
            if operator == "LayerNorm":
                values[output] = one / np.sqrt(np.square(one).mean(-1, keepdims=True) + self._model["epsilon"])
            if output in self._model["grids"]:
                low, high = (step * STEP for step in self._model["grids"][output])
                values[output] = np.clip(np.rint(values[output] / STEP) * STEP, low, high)
        return {name: values[name] for name in self._shown}

    def _needed(self) -> set[str]:
        needed = set(self._shown)
        for _, inputs, output in reversed(self._model["layers"]):
            needed |= set(inputs) if output in needed else set()
        return needed

    def intermediate(self, names: Sequence[str]) -> "ChainSession":
        return ChainSession(self._model, names)

    def close(self) -> None:
        """Nothing is held."""


class ChainRuntime(Runtime):
    name = "chain"
    format = "chain"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> Any:
        assert options == RuntimeOptions()
        model = json.loads(Path(artifact.path).read_text())
        if model.get("refuses") in [output for _, _, output in model["layers"]] and "cut" in artifact.path:
            raise StepError(f"{model['refuses']} has no kernel")
        return ChainSession(model, model["outputs"])


class PlainFormat(Format):
    name = "chain"

    def describe(self, job: DescribeJob) -> ModelSummary:
        raise ModelUnreadable(f"{job.path} is not described here")


class ChainFormat(PlainFormat):
    def inside(self, path: Path) -> Inside:
        model = json.loads(path.read_text())
        constants = {name: InnerTensor(name=name, dtype=DType.FLOAT32, constant=True) for name in model["constants"]}
        tensors = {
            name: InnerTensor(
                name=name,
                stands_for="" if model.get("numbered") else name,
                dtype=DType.FLOAT32,
                quant=GRID if name in model["grids"] else None,
                low=model["grids"].get(name, (0, 0))[0],
                high=model["grids"].get(name, (0, 0))[1],
            )
            for name in ["x", *(output for _, _, output in model["layers"])]
        }
        layers = tuple(
            InnerLayer(name=o, operator=k, inputs=tuple(i), outputs=(o,), epsilon=model.get("says"))
            for k, i, o in model["layers"]
        )
        return Inside(layers=layers, tensors=tensors | constants, inputs={"x": "x"})

    def constants(self, path: Path, names: Sequence[str]) -> Mapping[str, StoredConstant]:
        model = json.loads(path.read_text())
        steps = model.get("steps", {})
        return {n: StoredConstant(np.asarray(model["constants"][n]), np.asarray(steps.get(n, 0.0))) for n in names}

    def cut(
        self, path: Path, into: Path, results: Sequence[str], reads: Sequence[Read], constants: Mapping[Read, Any]
    ) -> Path:
        model = json.loads(path.read_text())
        model["outputs"] = list(results)
        for operator, inputs, output in model["layers"]:
            for slot, _ in enumerate(inputs):
                read = Read(output, slot)
                if read in constants:
                    model["constants"][read.fed] = constants[read].tolist()
                if read in constants or read in reads:
                    inputs[slot] = read.fed
            assert operator
        if model.get("refuses"):
            model["layers"] = [layer for layer in model["layers"] if layer[2] in results]
        (into / "cut.json").write_text(json.dumps(model))
        return into / "cut.json"


DRAW = np.random.default_rng(0)
W, B = np.round(DRAW.normal(size=(4, 4)), 3), np.round(DRAW.normal(size=4), 3)
LAYERS = [["MatMul", ["x", "w"], "m"], ["Add", ["m", "b"], "y"], ["Sub", ["y", "x"], "z"]]
FLOAT = {"layers": LAYERS, "constants": {"w": W.tolist(), "b": B.tolist()}, "grids": {}, "outputs": ["z"]}
SOUND = {
    **FLOAT,
    "constants": {"w": (np.rint(W / 0.01) * 0.01).tolist(), "b": B.tolist()},
    "steps": {"w": 0.01},
    "grids": {"m": (-400, 400), "y": (-400, 400), "z": (-400, 400)},
}


def _models(folder: Path, result: dict[str, Any], source: dict[str, Any]) -> Iterator[ModelArtifact]:
    """The float model and the result."""
    for name, model, numerics in (("float", source, Numerics.FP32), ("result", result, Numerics.INT8)):
        file = folder / f"{name}.json"
        file.write_text(json.dumps(model))
        state = State(format="chain", numerics=numerics)
        signature = Signature(inputs=(), outputs=())
        yield ModelArtifact(path=str(file), state=state, signature=signature, sha256=name, size_bytes=1)


def checked(
    folder: Path,
    result: dict[str, Any],
    source: dict[str, Any] = FLOAT,
    reader: Any = None,
    data: tuple[Sequence[Any], CorrectionSamples | None] = ((), None),
) -> LocalReport:
    check = LayerCheck(reader or ChainFormat(), ChainRuntime(), *_models(folder, result, source), RuntimeOptions())
    samples, calibration = data
    return check.report(samples or ({"x": DRAW.normal(size=(8, 4)).astype(np.float32)} for _ in range(4)), calibration)


def test_a_sound_result_passes(tmp_path: Path) -> None:
    report = checked(tmp_path, SOUND)
    assert (report.failed, report.layers, report.of, report.constants, report.samples) == (0, 3, 3, 2, 4)
    assert not report.left_out
    assert not report.remarks
    assert max(item.steps for item in report.worst if item.what == "result") == pytest.approx(0.29, abs=0.05)


def test_a_constant_that_is_no_rounding_refuses(tmp_path: Path) -> None:
    wrong = np.rint(W / 0.01) * 0.01
    wrong[0] = 0
    report = checked(tmp_path, SOUND | {"constants": SOUND["constants"] | {"w": wrong.tolist()}})
    assert report.failed == 1
    assert "25.0% of its values are up to" in describe_local(report)


def test_another_operator_refuses_and_a_wrong_wire_is_named(tmp_path: Path) -> None:
    other = checked(tmp_path, SOUND | {"layers": [*LAYERS[:2], ["Add", ["y", "x"], "z"]]})
    assert [item.layer for item in other.worst if item.failures] == ["z"]
    wired = checked(tmp_path, SOUND | {"layers": [*LAYERS[:2], ["Sub", ["m", "x"], "z"]]})
    assert "it reads m where the float model's layer reads y" in describe_local(wired)


def test_another_activation_in_ones_place_is_compared_with_it() -> None:
    """By the layer's name, and without one where both alone read the same."""
    plain = _turned_inside("m", "y")
    named = _with_operator(_turned_inside("m other", "y"), "LeakyRelu")
    assert [pair.layer.operator for pair in LayerGraphs(plain, named).pairs()] == ["LeakyRelu", "Relu"]
    layers = (msgspec.structs.replace(named.layers[0], name="HSigmoid_1"), named.layers[1])
    unnamed = msgspec.structs.replace(named, layers=layers)
    assert [pair.layer.operator for pair in LayerGraphs(plain, unnamed).pairs()] == ["LeakyRelu", "Relu"]
    twice = InnerLayer(name="more", operator="Mul", inputs=("x", "m other"), outputs=("z",))
    tensors = unnamed.tensors | {"z": InnerTensor(name="z", dtype=DType.FLOAT32)}
    several = msgspec.structs.replace(unnamed, layers=(*layers, twice), tensors=tensors)
    assert [pair.layer.operator for pair in LayerGraphs(plain, several).pairs()] == ["Relu"]


def _with_operator(inside: Inside, operator: str) -> Inside:
    """The first layer becomes another."""
    first = msgspec.structs.replace(inside.layers[0], operator=operator)
    return msgspec.structs.replace(inside, layers=(first, *inside.layers[1:]))


def test_operands_of_a_sum_may_change_places(tmp_path: Path) -> None:
    source = FLOAT | {"layers": [*LAYERS[:2], ["Add", ["y", "x"], "z"]]}
    assert not checked(tmp_path, SOUND | {"layers": [*LAYERS[:2], ["Add", ["x", "y"], "z"]]}, source).failed


def test_a_range_that_cuts_off_and_a_moved_bias_are_told(tmp_path: Path) -> None:
    cut = checked(tmp_path, SOUND | {"grids": SOUND["grids"] | {"m": (-40, 40)}})
    assert (cut.failed, [remark.code for remark in cut.remarks]) == (0, ["layer-range-cuts"])
    moved = checked(tmp_path, SOUND | {"constants": SOUND["constants"] | {"b": (B + 0.05).tolist()}})
    assert (moved.failed, [remark.code for remark in moved.remarks]) == (0, ["layer-bias-moved"])
    far = checked(tmp_path, SOUND | {"constants": SOUND["constants"] | {"b": (B + 5).tolist()}})
    assert far.failed == 1


@pytest.mark.parametrize(("largest", "told"), [((4, 4, 4, 4), True), ((5, 0, 0, 0), False)])
def test_a_range_that_ends_before_what_every_sample_holds_is_told(
    tmp_path: Path, largest: tuple[int, ...], told: bool
) -> None:
    """Both cut off less than half a percent of the power; the second in one sample of four."""
    chain: dict[str, Any] = {"layers": [["Add", ["x", "b"], "y"]], "constants": {"b": [0.0]}, "outputs": ["y"]}
    samples = [{"x": DRAW.uniform(-1.9, 1.9, size=(8, 100)).astype(np.float32)} for _ in largest]
    for sample, most in zip(samples, largest, strict=True):
        sample["x"][0, 0] = most
    report = checked(tmp_path, chain | {"grids": {"y": (-100, 100)}}, chain | {"grids": {}}, data=(samples, None))
    assert (report.failed, [remark.code for remark in report.remarks]) == (0, ["layer-range-cuts"] if told else [])
    assert not told or "and ends at 50% of a sample's largest" in report.remarks[0].text


def test_a_bias_on_a_fine_grid_is_not_cut_off(tmp_path: Path) -> None:
    source = FLOAT | {"constants": FLOAT["constants"] | {"b": [1, -2, 8, -4]}}
    less = SOUND | {"constants": SOUND["constants"] | {"b": [1, -2, 5, -4]}, "steps": {"w": 0.01, "b": 1e-5}}
    said = describe_local(checked(tmp_path, less, source))
    assert "25.0% of its values are up to" in said
    assert "cuts off" not in said


def test_a_scale_that_lost_its_sign_is_a_fault(tmp_path: Path) -> None:
    turned = SOUND["constants"] | {"w": (-np.array(SOUND["constants"]["w"])).tolist()}
    report = checked(tmp_path, SOUND | {"constants": turned, "steps": {"w": -0.01}})
    assert any(item.what == "constant" and item.failures for item in report.worst)


def test_a_bias_that_corrects_the_mean_is_right(tmp_path: Path) -> None:
    """The weights lose a little of each channel, and the bias gives it back."""
    source = FLOAT | {"constants": {"w": (W + 0.004).tolist(), "b": B.tolist()}}
    low = np.floor((W + 0.004) / 0.01 + 0.5) * 0.01
    means = (W + 0.004 - low).sum(axis=0)  # of inputs around one
    result = SOUND | {"constants": {"w": low.tolist(), "b": (B + means).tolist()}}
    models = checked(tmp_path, result, source)
    assert models.failed == 0


def _around_one(count: int) -> list[dict[str, Any]]:
    return [{"x": DRAW.normal(1, size=(8, 4)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("at_hand", [True, False])
def test_a_bias_that_is_not_what_a_correction_makes_of_it_is_told(tmp_path: Path, at_hand: bool) -> None:
    """Whether the quantizer's own samples are at hand, or others; a tenth of a bias, or two that changed places."""
    had, coarse = _around_one(64), np.rint(W / 0.3) * 0.3
    x = np.concatenate([sample["x"] for sample in had])
    corrected = B + (x @ W).mean(axis=0) - x.mean(axis=0) @ coarse
    data = (_around_one(8), CorrectionSamples(lambda: had, len(had)) if at_hand else None)

    def told(bias: Any) -> list[str]:
        result = SOUND | {"constants": {"w": coarse.tolist(), "b": bias.tolist()}, "steps": {"w": 0.3}}
        report = checked(tmp_path, result, data=data)
        assert not [item for item in report.worst if item.failures and item.tensor != "b"]
        return [item.tensor for item in report.worst if item.failures or (item.cautions and item.what == "constant")]

    assert not told(corrected)
    assert not told(B)
    assert told(corrected[::-1]) == ["b"]
    more = np.eye(4)[3]  # in one channel
    assert told(corrected + (0.001 if at_hand else 1.0) * more) == ["b"]
    assert at_hand or not told(corrected + 0.001 * more)


@pytest.mark.parametrize("count", [1, FEWEST - 1, FEWEST])
def test_a_bias_that_is_moved_the_wrong_way_is_seen_on_few_samples(tmp_path: Path, count: int) -> None:
    """By six times what the correction is: on one sample the spread, taken for as large as the mean, explained it."""
    coarse = np.rint(W / 0.3) * 0.3
    wrong = B - 6 * (W - coarse).sum(axis=0)  # of inputs around one
    result = SOUND | {"constants": {"w": coarse.tolist(), "b": wrong.tolist()}, "steps": {"w": 0.3}}
    report = checked(tmp_path, result, data=(_around_one(count), None))
    assert "b" in [item.tensor for item in report.worst if item.failures or item.cautions]


@pytest.mark.parametrize("left", [True, False])
def test_a_moved_bias_is_judged_where_each_sample_has_another_size(tmp_path: Path, left: bool) -> None:
    """By its correction; with the weights on the left, whose products have other channels in each sample, by means."""
    layers = [["MatMul", ["w", "x"] if left else ["x", "w"], "m"], ["Add", ["m", "b"], "y"]]
    source = FLOAT | {"layers": layers, "outputs": ["y"]}
    bias = B[:, None] if left else B
    source |= {"constants": {"w": W.tolist(), "b": bias.tolist()}}
    result = SOUND | {"layers": layers, "outputs": ["y"]}
    result |= {"constants": {"w": SOUND["constants"]["w"], "b": (bias + 9).tolist()}}
    shapes = [(4, 3 + place) if left else (3 + place, 4) for place in range(FEWEST)]
    data = [{"x": DRAW.normal(size=shape).astype(np.float32)} for shape in shapes]
    report = checked(tmp_path, result, source, data=(data, None))
    (said,) = [item for item in report.worst if item.tensor == "b"]
    assert "off by another bias than the float model's" in said.failures[0]


def test_a_worker_reads_the_samples_that_the_quantizer_had(tmp_path: Path) -> None:
    """What is off by less than other samples tell is seen where its own are there."""
    had, judged = tmp_path / "had", tmp_path / "judged"
    for folder, count in ((had, 64), (judged, 8)):
        for index, sample in enumerate(_around_one(count)):
            write_sample(folder, index, sample)
    x, coarse = np.concatenate([sample["x"] for sample in SampleFolder(had)]), np.rint(W / 0.3) * 0.3
    corrected = B + (x @ W).mean(axis=0) - x.mean(axis=0) @ coarse
    result = SOUND | {"constants": {"w": coarse.tolist(), "b": (corrected + 0.001).tolist()}, "steps": {"w": 0.3}}
    float_model, artifact = _models(tmp_path, result, FLOAT)
    where = f"{__name__}:{ChainRuntime.__name__}"
    task = LocalTask(
        reader=f"{__name__}:{ChainFormat.__name__}",
        subject=Subject(runtime="chain", plugin=where, artifact=artifact, options=RuntimeOptions()),
        float_model=float_model,
        samples=str(judged),
    )
    for given, told in (("", False), (str(had), True)):
        report = hold_layers(msgspec.structs.replace(task, calibration=given))
        assert ("layer-bias-moved" in [remark.code for remark in report.remarks]) == told


def test_a_bias_behind_a_product_that_does_not_run_apart_is_judged_by_means(tmp_path: Path) -> None:
    moved = {"constants": SOUND["constants"] | {"b": (B + 0.05).tolist()}}
    report = checked(tmp_path, SOUND | moved, FLOAT | {"refuses": "m"})
    assert [remark.code for remark in report.remarks] == ["layer-bias-moved", "correction-unknown"]
    assert "its means are" in report.remarks[0].text
    assert report.remarks[1].text.startswith("biases judged by their layers' means alone: 1,")
    assert report.remarks[1].text.endswith("m has no kernel")


@pytest.mark.parametrize("mistake", [RuntimeError, ValueError, KeyError])
def test_a_mistake_in_the_correction_itself_is_loud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: type[Exception]
) -> None:
    def wrong(*_: object) -> None:
        raise mistake("planted")

    monkeypatch.setattr(_corrections, "_by_channel", wrong)
    moved = {"constants": SOUND["constants"] | {"b": (B + 0.05).tolist()}}
    with pytest.raises(mistake, match="planted"):
        checked(tmp_path, SOUND | moved)


NORM = {"layers": [["LayerNorm", ["x", "x"], "y"]], "constants": {}, "grids": {"y": (-127, 127)}, "outputs": ["y"]}


def test_a_norm_that_divides_by_more_is_told(tmp_path: Path) -> None:
    """Its values move by a tenth of a step, which is no rounding where all of them are smaller."""
    source: dict[str, Any] = NORM | {"grids": {}, "epsilon": 0.0}
    many = [{"x": DRAW.normal(size=(64, 16)).astype(np.float32)} for _ in range(8)]
    sound = checked(tmp_path, NORM | {"epsilon": 0.0}, source, data=(many, None))
    assert (sound.failed, sound.layers, sound.remarks) == (0, 1, ())
    off = checked(tmp_path, NORM | {"epsilon": 0.004}, source, data=(many, None))
    assert (off.failed, [remark.code for remark in off.remarks]) == (0, ["layer-norm-off"])
    assert "% smaller, of which rounding explains" in off.remarks[0].text
    assert ("--avoid EDGE" in off.remarks[0].hint, "epsilon" in off.remarks[0].hint) == (True, False)


def test_another_epsilon_is_told_however_little_it_does(tmp_path: Path) -> None:
    source: dict[str, Any] = NORM | {"grids": {}, "epsilon": 0.0, "says": 1e-5}
    assert not checked(tmp_path, NORM | {"epsilon": 0.0, "says": 1.00001e-5}, source).remarks
    (told,) = checked(tmp_path, NORM | {"epsilon": 0.0, "says": 1e-3}, source).remarks
    assert (told.code, "its epsilon is 0.001, the float model's 1e-05" in told.text) == ("layer-epsilon-off", True)
    assert "--avoid EDGE" in told.hint


def test_a_gain_is_no_rounding_of_values_that_are_met_often() -> None:
    """Values in a few places are rounded alike each time: that says nothing of a gain, however many there are."""
    grid = LaidGrid(np.array(1.0), np.array(-127.0), np.array(127.0))
    free, often = DRAW.normal(0, 40, 20_000), np.repeat(DRAW.normal(0, 40, 60), 400)
    for values, gain, found in ((free, 1.0, False), (often, 1.0, False), (free, 0.998, True), (free * 2, 1.0, False)):
        sums = GainSums()
        for part in np.split(values, 4):
            sums.add(part, np.clip(np.rint(part * gain), -127, 127), grid)
        measured = sums.gain()
        assert measured
        assert (abs(measured.off) > 5 * measured.deviation) == found
        assert measured.off == pytest.approx(gain - 1, abs=5 * measured.deviation)
    few = GainSums()
    few.add(np.arange(8.0), np.arange(8.0), grid)
    assert few.gain() is None


def test_what_cannot_be_compared_is_counted_with_its_reason(tmp_path: Path) -> None:
    added = SOUND | {"layers": [*LAYERS, ["Add", ["z", "x"], "extra"]], "outputs": ["extra"]}
    report = checked(tmp_path, added)
    assert (report.failed, report.layers, report.of) == (0, 3, 4)
    assert report.left_out == {"no layer of the float model gives what it gives": 1}
    assert "1 left out, so that nothing is known of them" in layers_words(report)
    alone = checked(tmp_path, SOUND, FLOAT | {"refuses": "y"})
    assert alone.left_out == {"the float model's layer does not run alone": 1}


def test_constants_that_were_folded_are_held_against_the_float_ones_together(tmp_path: Path) -> None:
    """The result's one layer does the work of two with a constant each."""
    layers = [["MatMul", ["x", "w"], "m"], ["MatMul", ["m", "v"], "y"]]
    source: dict[str, Any] = {
        "layers": layers,
        "constants": {"w": W.tolist(), "v": W.T.tolist()},
        "grids": {},
        "outputs": ["y"],
    }
    folded: dict[str, Any] = {"layers": [["MatMul", ["x", "u"], "y"]], "constants": {"u": (W @ W.T).tolist()}}
    report = checked(tmp_path, source | folded, source)
    assert (report.failed, report.layers, report.joint) == (0, 1, 1)
    wrong = folded | {"constants": {"u": (W @ W.T * [1, 1, 1, 2]).tolist()}}
    assert checked(tmp_path, source | wrong, source).failed == 1


def test_why_nothing_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not show layers" in checked(tmp_path, SOUND, reader=PlainFormat()).lack
    named = {"layers": [["Mul", ["x", "v"], "q"]], "constants": {"v": [1.0]}, "grids": {}, "outputs": ["q"]}
    assert "no layer of the result" in checked(tmp_path, named).lack
    monkeypatch.setattr(_local, "MOST_BYTES", 0)
    assert "more than 0 MiB" in checked(tmp_path, SOUND).lack


def test_layers_without_a_counterpart_are_compared_with_the_one_behind_them(tmp_path: Path) -> None:
    """The float model's one layer is two of the result's."""
    source = {
        "layers": [["MatMul", ["x", "w"], "y"]],
        "constants": {"w": (W @ W).tolist()},
        "grids": {},
        "outputs": ["y"],
    }
    split = [["MatMul", ["x", "v"], "m"], ["MatMul", ["m", "v"], "y"]]
    result: dict[str, Any] = {"layers": split, "constants": {"v": W.tolist()}, "grids": {}, "outputs": ["y"]}
    report = checked(tmp_path, result, source)
    assert (report.failed, report.layers, report.of, report.joint) == (0, 2, 2, 2)
    assert checked(tmp_path, result | {"constants": {"v": (W * 1.1).tolist()}}, source).failed == 1


def test_layers_without_names_are_told_apart_by_their_constants(tmp_path: Path) -> None:
    two = [["MatMul", ["x", "w"], "m"], ["MatMul", ["x", "v"], "n"], ["Sub", ["m", "n"], "y"]]
    constants = {"w": W.tolist(), "v": (W * 0.5).tolist()}
    source: dict[str, Any] = {"layers": two, "constants": constants, "grids": {}, "outputs": ["y"]}
    turned = [["MatMul", ["x", "v"], "a"], ["MatMul", ["x", "w"], "b"], ["Sub", ["b", "a"], "c"]]
    report = checked(tmp_path, source | {"layers": turned, "outputs": ["c"], "numbered": True}, source)
    assert (report.failed, report.layers, report.of) == (0, 3, 3)


def test_a_layer_whose_axes_moved_is_known_by_its_own_name() -> None:
    """The tensors are called otherwise and turned; the layers keep their names."""
    graphs = LayerGraphs(_turned_inside("m", "y"), _turned_inside("m turned", "y turned"))
    one = DRAW.normal(size=(2, 3, 4))
    turned = one.transpose(0, 2, 1)
    graphs.lay_out({"m": one, "y": one + 1}, {"m turned": turned, "y turned": turned + 1})
    assert [pair.layer.outputs for pair in graphs.pairs()] == [("m turned",), ("y turned",)]
    assert np.array_equal(graphs.laid_out("m turned", turned), one)
    other = LayerGraphs(_turned_inside("m", "y"), _turned_inside("m turned", "y turned"))
    other.lay_out({"m": one, "y": one}, {"m turned": -turned, "y turned": one[:1]})
    assert not other.orders  # another tensor


def _turned_inside(middle: str, last: str) -> Inside:
    tensors = {name: InnerTensor(name=name, stands_for=name, dtype=DType.FLOAT32) for name in ("x", middle, last)}
    layers = (
        InnerLayer(name="first", operator="Relu", inputs=("x",), outputs=(middle,)),
        InnerLayer(name="second", operator="Relu", inputs=(middle,), outputs=(last,)),
    )
    return Inside(layers=layers, tensors=tensors, inputs={"x": "x"})


def test_a_sum_that_was_fused_into_the_layer_behind_it_is_known_by_its_second_result() -> None:
    float_inside, fused = _turned_inside("m", "y"), _turned_inside("y", "m")
    one = fused.layers[0]
    result = Inside(
        layers=(InnerLayer(name="both", operator="Fused", inputs=one.inputs, outputs=("y", "m")),),
        tensors=fused.tensors,
        inputs=fused.inputs,
    )
    graphs = LayerGraphs(float_inside, result)
    assert {name: layer.outputs[0] for name, layer in graphs.matched.items()} == {"y": "y", "m": "m"}
    assert [(len(pair.part), len(pair.inner)) for pair in graphs.pairs()] == [(1, 0), (1, 0)]


def test_constants_are_held_also_where_axes_are_turned_and_layers_compared_jointly() -> None:
    """An integer product beside the float one: its weights are turned, and its scale is a constant of its own."""
    product = InnerLayer(name="y", operator="Gemm", inputs=("x", "w"), outputs=("y",))
    integer = InnerLayer(name="p", operator="MatMulInteger", inputs=("q", "w turned"), outputs=("p",))
    scaled = InnerLayer(name="s", operator="Mul", inputs=("p", "scale"), outputs=("y",))
    order = Read("y", 1)
    pair = LayerPair((product,), scaled, ((order, "w"),), ("w turned", "scale"), False, (integer,), rounded=True)  # noqa: FBT003
    weights = np.rint(DRAW.normal(size=(4, 6)) / 0.01) * 0.01 + 0.002
    rounded = np.rint(weights.T / 0.01) * 0.01
    scale = StoredConstant(np.array(0.01), np.zeros(()))
    stored = (
        {"w": StoredConstant(weights, np.zeros(()))},
        {
            "w turned": StoredConstant(rounded, np.array(0.01)),
            "scale": scale,
        },
    )
    held = pair.with_constants(stored)
    assert (held.joint, held.held, [item.name for item in held.shared]) == (True, True, ["w turned"])
    assert judge_constant(held, held.shared[0], stored, LocalBounds()).excess < 1
    rounded[2] = 0
    assert judge_constant(held, pair.with_constants(stored).shared[0], stored, LocalBounds()).failures
    folded = stored[0], stored[1] | {"w turned": StoredConstant(rounded * 3, np.array(0.03))}
    assert not pair.with_constants(folded).shared  # something else is in it


def test_minus_infinity_is_itself() -> None:
    layer = InnerLayer(name="y", operator="Max", inputs=("x", "c"), outputs=("y",))
    pair = LayerPair((layer,), layer, ((Read("y", 1), "c"),), ("c",), False)  # noqa: FBT003
    lowest = {"c": StoredConstant(np.full((1,), -np.inf), np.zeros(()))}
    shared = pair.with_constants((lowest, lowest)).shared
    assert not judge_constant(pair, shared[0], (lowest, lowest), LocalBounds()).failures


def test_the_time_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_local, "SECONDS", -1.0)
    report = checked(tmp_path, SOUND)
    assert (report.layers, report.constants) == (0, 2)
