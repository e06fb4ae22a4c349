"""NNCF's edges on real networks: what the file holds, what OpenVINO executes, how far it is from float."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hub.spec import (
    AlreadyQuantized,
    CalibrationError,
    ConvertJob,
    ConvertOptions,
    DType,
    HubError,
    ModelArtifact,
    Numerics,
    Processor,
    SampleFolder,
    StepError,
    StepOutput,
    UnsupportedModel,
    write_sample,
)
from hub_openvino.describe import describe, read_model
from hub_openvino.ir import read_ir
from hub_openvino.quantize import float_ir, recipes, searches, sparing, tool
from hub_openvino.quantize.edges import QUANTIZING
from hub_quanttrials import WEIGHTS, Trial, Trials
from plugins.openvino.tests import openvino_models as models
from tests.zoo import data, fetch

EDGES = {edge.id: edge for edge in QUANTIZING}
DYNAMIC_WIDTHS = (96, 192, 160)


class Source(NamedTuple):
    """A float IR, its calibration folder, and inputs that nothing was calibrated on."""

    path: Path
    samples: Path
    held_out: list[dict[str, Any]]


def source(name: str, folder: Path, *, count: int = 8) -> Source:
    import openvino

    path = models.saved(openvino.convert_model(str(fetch.path(name))), folder / f"{name}.xml")
    ranks = {spec.name: len(spec.shape) for spec in describe(path).signature.inputs}
    for place, feeds in enumerate(rows(data.feeds(name, "calibration", count), ranks)):
        write_sample(folder / name, place, feeds)
    return Source(path, folder / name, list(rows(data.feeds(name, "test", 12), ranks)))


def rows(feeds: dict[str, Any], ranks: dict[str, int]) -> Iterator[dict[str, Any]]:
    for place in range(len(next(iter(feeds.values())))):
        arrays = {name: array[place] for name, array in feeds.items() if name in ranks}
        yield {name: array if array.ndim == ranks[name] else array[None] for name, array in arrays.items()}


def convert(edge: str, path: Path, samples: Path | str, output: Path, **options: Any) -> StepOutput:
    artifact = ModelArtifact(
        path=str(path), state=models.OPENVINO, signature=describe(path).signature, sha256="", size_bytes=0
    )
    scratch = output.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    step = EDGES[edge]
    job = ConvertJob(
        target=step.gives.states(Numerics.FP32)[0],
        source=artifact,
        output=str(output),
        scratch=str(scratch),
        calibration=str(samples),
        options=ConvertOptions(**options),
    )
    return step.convert(job)


def sqnr_db(path: Path, result: Path, held_out: list[dict[str, Any]]) -> float:
    """Of the worst output, over all held-out inputs, in hub's own sessions."""
    before, after = models.session(path), models.session(result)
    pairs = [(before.run(feeds), after.run(feeds)) for feeds in held_out]
    return min(
        10
        * float(np.log10(sum((a[n] ** 2).sum() for a, _ in pairs) / sum(((a[n] - b[n]) ** 2).sum() for a, b in pairs)))
        for n in pairs[0][0]
    )


def stored_types(path: Path) -> Counter[str]:
    """Element types of what the file stores, as OpenVINO reads it."""
    nodes = (node for node in read_model(path).get_ops() if node.get_type_name() == "Constant")
    return Counter(node.get_element_type().get_type_name() for node in nodes)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The file-type classifier."""
    return source("magika_onnx", tmp_path_factory.mktemp("magika"))


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The voice-activity network: convolutions, LSTM, state."""
    return source("vad_fixed_onnx", tmp_path_factory.mktemp("vad"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Source, str], tuple[Path, StepOutput]]:
    """An edge's result on a source, once for all tests."""
    known: dict[tuple[Path, str], tuple[Path, StepOutput]] = {}

    def once(source: Source, edge: str) -> tuple[Path, StepOutput]:
        key = source.path, edge
        if key not in known:
            output = tmp_path_factory.mktemp(edge) / "result.xml"
            known[key] = output, convert(f"openvino.{edge}", source.path, source.samples, output)
        return known[key]

    return once


Made = Callable[[Source, str], tuple[Path, StepOutput]]


def test_static_int8_of_a_network_that_nncfs_defaults_break(files: Source, made: Made) -> None:
    result, output = made(files, "int8")
    assert output.recipe is not None
    assert sqnr_db(files.path, result, files.held_out) > 20
    assert describe(result).state.numerics is output.recipe.numerics is Numerics.INT8
    assert any("NNCF's defaults" in note.text and "dB on 8" in note.text for note in output.notes)


@pytest.mark.scheduled
@pytest.mark.parametrize(
    ("name", "edge"), [("magika_onnx", "int8"), ("vad_fixed_onnx", "int8-mixed"), ("ocr_cls", "int8")]
)
def test_not_worse_than_nncfs_defaults(name: str, edge: str, tmp_path: Path) -> None:
    import nncf

    real = source(name, tmp_path, count=32)
    convert(f"openvino.{edge}", real.path, real.samples, tmp_path / "ours.xml")
    samples = [list(feeds.values()) for feeds in SampleFolder(real.samples)]
    plain = models.saved(nncf.quantize(read_model(real.path), nncf.Dataset(samples)), tmp_path / "theirs.xml")
    ours, theirs = (sqnr_db(real.path, path, real.held_out) for path in (tmp_path / "ours.xml", plain))
    assert ours > 13
    assert ours > theirs - 1


def test_what_is_quantized_in_the_file_and_in_the_executed_graph(files: Source, made: Made) -> None:
    result, _ = made(files, "int8")
    nodes = [node for node in read_ir(result).graph.computing if node.type == "FakeQuantize"]
    assert nodes
    assert {node.data["levels"] for node in nodes} <= {"255", "256"}
    assert stored_types(result)["i8"] == 3
    assert products(result, files.held_out[0]) == {"int8"}
    assert products(files.path, files.held_out[0]) == {"fp32"}


def products(path: Path, feeds: dict[str, Any]) -> set[str]:
    """Precisions in which OpenVINO executes the layers that multiply."""
    layers = models.session(path).execution(feeds).layers
    return {layer.precision for layer in layers if layer.operator in {"Convolution", "FullyConnected"}}


def test_names_order_types_and_shapes_stay(voice: Source, made: Made) -> None:
    before = describe(voice.path).signature
    for edge in ("int8-mixed", "int8-weights"):
        result, output = made(voice, edge)
        assert describe(result).signature == before
        assert not output.bindings


def test_an_lstm_stays_in_float_and_is_named(voice: Source, made: Made) -> None:
    """NNCF quantizes it by default, and OpenVINO then computes noise."""
    result, output = made(voice, "int8-mixed")
    assert output.recipe is not None
    assert sqnr_db(voice.path, result, voice.held_out) > 13
    assert describe(result).state.numerics is Numerics.INT8_MIXED
    words = {layer.name: (layer.operator, layer.precision) for layer in describe(result).layers}
    kept = [words[name] for name in output.recipe.kept_float]
    assert ("LSTMSequence", "fp32") in kept
    assert any("multiply in float" in note.text for note in output.notes)


@pytest.mark.scheduled
def test_a_higher_goal_takes_more_out(voice: Source, made: Made) -> None:
    (_, goal), (result, higher) = made(voice, "int8-mixed"), made(voice, "int8-mixed-higher")
    assert goal.recipe
    assert higher.recipe
    assert "removed_quantizers" not in goal.recipe.settings
    assert higher.recipe.settings["removed_quantizers"]
    assert sqnr_db(voice.path, result, voice.held_out) > 25


def test_int8_weights(voice: Source, made: Made) -> None:
    result, output = made(voice, "int8-weights")
    assert output.recipe is not None
    assert describe(result).state.numerics is Numerics.INT8_WEIGHTS
    assert stored_types(result)["u8"]
    assert "FakeQuantize" not in describe(result).operators
    assert describe(result).size_bytes < 0.65 * describe(voice.path).size_bytes  # NNCF leaves the LSTM's in float
    assert sqnr_db(voice.path, result, voice.held_out) > 35


def test_depthwise_weights_can_stay_in_float_where_there_are_some(voice: Source, tmp_path: Path) -> None:
    text = source("ocr_cls", tmp_path, count=1)
    edge = EDGES["openvino.int8-weights-but-depthwise"]
    convert(edge.id, text.path, "", tmp_path / "result.xml")
    summary = describe(tmp_path / "result.xml")
    assert summary.state.numerics is Numerics.INT8_WEIGHTS
    words = {layer.operator: layer.precision for layer in summary.layers if "Convolution" in layer.operator}
    assert words == {"Convolution": "int8-weights", "GroupConvolution": "fp32"}
    assert not edge.check(describe(voice.path), ConvertOptions())
    assert edge.check(describe(text.path), ConvertOptions())


def test_the_file_says_whether_activations_are_quantized_on_the_fly(files: Source, made: Made) -> None:
    """OpenVINO does so by default: the comparison of int8 weights would not be of what is deployed."""
    for edge, group, numerics in (
        ("int8-weights", 0, Numerics.INT8_WEIGHTS),
        ("int8-dynamic", 32, Numerics.INT8_DYNAMIC),
    ):
        result, _ = made(files, edge)
        assert describe(result).state.numerics is numerics
        for precision in ("", "auto"):
            compiled = models.session(result, precision=precision).compiled
            assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == group


@pytest.mark.parametrize("edge", ["int4-weights", pytest.param("int4-weights-fitted", marks=pytest.mark.scheduled)])
def test_int4_weights(edge: str, files: Source, made: Made) -> None:
    result, output = made(files, edge)
    assert output.recipe is not None
    assert output.recipe.weights is DType.INT4
    assert describe(result).state.numerics is Numerics.INT4_WEIGHTS
    assert stored_types(result)["u4"] + stored_types(result)["i4"]
    assert sqnr_db(files.path, result, files.held_out) > 20


def test_the_same_input_gives_the_same_bytes(voice: Source, made: Made, tmp_path: Path) -> None:
    first, output = made(voice, "int8-mixed")
    float_ir.forget()
    again = convert("openvino.int8-mixed", voice.path, voice.samples, tmp_path / "result.xml")
    assert again == output
    assert (tmp_path / "result.xml").read_bytes() == first.read_bytes()
    assert (tmp_path / "result.bin").read_bytes() == first.with_suffix(".bin").read_bytes()


def test_a_recipe_can_be_applied_again(voice: Source, made: Made, tmp_path: Path) -> None:
    result, output = made(voice, "int8-mixed")
    assert output.recipe is not None
    settings = output.recipe.settings
    samples = [[feeds["input"], feeds["state"]] for feeds in SampleFolder(voice.samples)]
    model = tool.quantize(read_model(voice.path), samples, recipes.Static(**settings["quantize"]))
    again = models.saved(sparing.without(model, settings.get("removed_quantizers", [])), tmp_path / "again.xml")
    outputs = models.session(result).run(voice.held_out[0])
    for name, array in models.session(again).run(voice.held_out[0]).items():
        np.testing.assert_array_equal(array, outputs[name])


def test_samples_of_several_sizes(tmp_path: Path) -> None:
    text = source("ocr_cls", tmp_path, count=3)
    for place, (feeds, width) in enumerate(zip(SampleFolder(text.samples), DYNAMIC_WIDTHS, strict=True)):
        write_sample(text.samples, place, {"x": np.ascontiguousarray(feeds["x"][..., :width])})
    made = convert("openvino.int8", text.path, text.samples, tmp_path / "result.xml")
    assert made.recipe is not None
    assert made.recipe.samples == len(DYNAMIC_WIDTHS)
    assert describe(tmp_path / "result.xml").signature == describe(text.path).signature
    assert not describe(text.path).signature.is_static


def trials_of(source: Source, folder: Path) -> tuple[float_ir.FloatIr, searches.IrTrials]:
    opened = float_ir.open_float(str(source.path), str(folder), str(source.samples))
    return opened, Trials(
        opened.judge, lambda recipe: searches.apply(opened, recipe), lambda made: opened.session(made.model)
    )


def test_a_destroyed_scale_is_seen_and_not_taken(voice: Source, tmp_path: Path) -> None:
    opened, trials = trials_of(voice, tmp_path)
    recipe = recipes.recurrent_in_float(recipes.static_recipes(Processor(name="", features=frozenset()))[2])
    sound = trials.attempt(recipe)
    made = opened.read(destroyed(sound.model.model))
    broken = Trial[recipes.Recipe, float_ir.QuantizedIr](recipe, made, trials.measure(made))
    assert broken.sqnr_db < sound.sqnr_db - 10
    for order in ([broken, sound], [sound, broken]):
        assert searches.best_of(order, "planted", Numerics.INT8_MIXED, []) is sound


def test_a_spared_recipe_can_be_applied_when_its_base_was_let_go(voice: Source, tmp_path: Path) -> None:
    opened, trials = trials_of(voice, tmp_path)
    base = recipes.recurrent_in_float(recipes.static_recipes(Processor(name="", features=frozenset()))[2])
    names = [node.friendly_name for node in sparing.quantizers(trials.attempt(base).model.model)]
    spared = recipes.Spared(base=base, removed=(names[0],), total=len(names))
    opened.known.clear()
    left = [node.friendly_name for node in sparing.quantizers(searches.apply(opened, spared).model)]
    assert left == names[1:]


def destroyed(model: Any) -> Any:
    """The model with the first quantizer's output range a thousandth of what it was."""
    from openvino import opset13 as ops

    model = model.clone()
    node = sparing.quantizers(model)[0]
    for place in (3, 4):
        bound = node.input_value(place).get_node().data
        node.input(place).replace_source_output(ops.constant(np.asarray(bound / 1000, np.float32)).output(0))
    return model


def test_noises_of_single_quantizers_add_up(voice: Source, tmp_path: Path) -> None:
    opened, _ = trials_of(voice, tmp_path)
    recipe = recipes.recurrent_in_float(recipes.static_recipes(Processor(name="", features=frozenset({"avx2"})))[1])
    model = tool.quantize(opened.model(), opened.arrays(), recipe)
    noise = sparing.measure_noise(opened, model)
    assert len(noise.names) == noise.alone.shape[0] == len(sparing.quantizers(model))
    before = opened.judge.sqnr_db(opened.session(model))
    removed = noise.to_remove(before + 3)
    assert 0 < len(removed) < len(noise.names)
    after = sparing.without(model, removed)
    assert len(sparing.quantizers(after)) == len(noise.names) - len(removed)
    assert opened.judge.sqnr_db(opened.session(after)) > before + 1


def test_weights_go_back_to_float_where_they_alone_leave_too_little(
    voice: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparing, "WEIGHTS_DB", 200.0)
    opened, _ = trials_of(voice, tmp_path)
    static = recipes.static_recipes(Processor(name="", features=frozenset({"avx2"})))[1]
    base = recipes.recurrent_in_float(static)
    made = searches.apply(opened, base)
    noise = sparing.measure_noise(opened, made.model)
    operands = sparing.float_operands(opened.model(), made.model)
    weights = [name for name in noise.names if name.endswith(WEIGHTS)]
    assert [name.removesuffix(WEIGHTS) for name in weights] == [*operands]
    assert operands
    assert noise.rest_db > 90  # without quantizers and integer weights it is the float model
    names = tuple(node.friendly_name for node in sparing.quantizers(made.model))
    spared = recipes.Spared(base=base, removed=names, total=len(names), float_weights=(*operands,))
    opened.known[base] = Trial(base, made, 0.0)
    bare = searches.apply(opened, spared)
    assert opened.judge.sqnr_db(opened.session(bare.model)) > 90
    assert bare.found.numerics is Numerics.FP32
    (moved,) = sparing.bias_corrections(opened.model(), made.model).values()  # NNCF moves the bias of one layer here
    assert 0.01 < moved < 0.1
    assert not sparing.bias_corrections(opened.model(), bare.model)
    chosen = noise.to_remove(noise.rest_db - 30)
    assert any(name.endswith(WEIGHTS) for name in chosen)


def test_the_next_step_goes_on_from_what_was_made_of_a_copy_that_is_gone(tmp_path: Path) -> None:
    """Every step has a copy of its own: without that each opened the model and tried every recipe anew."""
    samples = feed(tmp_path / "samples", x=np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32))
    made = models.saved(models.network(), tmp_path / "one" / "net.xml")
    copy = Path(shutil.copytree(made.parent, tmp_path / "other")) / made.name
    first = float_ir.open_float(str(made), str(tmp_path), str(samples))
    shutil.rmtree(made.parent)
    second = float_ir.open_float(str(copy), str(tmp_path), str(samples))
    assert second is first
    assert second.judge.sqnr_db(second.session(second.model())) > 100


def test_layers_keep_the_names_that_the_float_model_has(tmp_path: Path) -> None:
    """By which they are found in it."""
    path = models.saved(models.network(), tmp_path / "net.xml")
    opened = float_ir.FloatIr(path=path, inputs=["x"], outputs=["y"], scratch=tmp_path)
    before = {node.friendly_name for node in opened.model().get_ops() if "Conv" in node.get_type_name()}
    assert before
    opened.read(model := opened.model())
    assert {node.friendly_name for node in model.get_ops() if "Conv" in node.get_type_name()} == before


@pytest.mark.parametrize(("feature", "words"), [("avx2", {"enable", "first_layer_only"}), ("avx512_vnni", {"disable"})])
def test_weights_take_half_of_their_range_where_kernels_saturate(feature: str, words: set[str]) -> None:
    own = recipes.static_recipes(Processor(name="", features=frozenset({"avx2", feature})))
    assert own[0] == recipes.Static(name="NNCF's defaults")
    assert {recipe.overflow_fix for recipe in own[1:]} == words


# Bad input


def relu(folder: Path) -> Path:
    from openvino import opset13 as ops

    x = models.parameter("x", [1, 8])
    return models.saved(models.built([ops.result(models.named(ops.relu(x), "y"))], [x]), folder / "relu.xml")


def feed(folder: Path, **arrays: Any) -> Path:
    write_sample(folder, 0, arrays)
    return folder


X = np.ones((1, 3, 16, 16), np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": X}, "holds no input x"),
        ({"x": X[:, :2]}, "1x2x16x16"),
        ({"x": X.astype(np.float64)}, "float64"),
        ({"x": X * np.nan}, "not finite"),
    ],
)
def test_samples_that_do_not_fit(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = models.saved(models.network(), tmp_path / "net.xml")
    with pytest.raises(CalibrationError, match=words):
        convert("openvino.int8", path, feed(tmp_path / "samples", **arrays), tmp_path / "result.xml")


@pytest.mark.parametrize("edge", sorted(name for name, edge in EDGES.items() if edge.needs_calibration))
def test_no_samples(edge: str, tmp_path: Path) -> None:
    path = models.saved(models.network(), tmp_path / "net.xml")
    with pytest.raises(CalibrationError) as refused:
        convert(edge, path, "", tmp_path / "result.xml")
    assert "--calibration" in refused.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationError, match="no calibration sample"):
        convert(edge, path, tmp_path / "empty", tmp_path / "result.xml")


@pytest.mark.parametrize("edge", sorted(EDGES))
@pytest.mark.parametrize(
    ("model", "error"),
    [
        (lambda folder: models.saved(models.dense(), folder / "dense.xml"), AlreadyQuantized),
        (relu, UnsupportedModel),
    ],
)
def test_quantized_already_or_nothing_to_quantize(
    edge: str, model: Callable[[Path], Path], error: type[HubError], tmp_path: Path
) -> None:
    path = model(tmp_path)
    shape = describe(path).signature.inputs[0].fixed_shape
    samples = feed(tmp_path / "samples", x=np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    with pytest.raises(error) as refused:
        convert(edge, path, samples, tmp_path / "result.xml")
    assert refused.value.hint
    assert not (tmp_path / "result.xml").exists()


def test_what_nncf_refuses_is_told_with_its_reason(tmp_path: Path) -> None:
    model = read_model(models.saved(models.network(), tmp_path / "net.xml"))
    with pytest.raises(StepError, match=r"nncf .* fails on recipe 'odd'"):
        tool.compress(
            model, [], recipes.WeightRecipe(name="odd", mode="int4_sym", group_size=32, scale_estimation=True)
        )


def test_nothing_reports_home() -> None:
    code = (
        "import socket, sys; from hub_openvino.quantize import tool\n"
        "def refuse(*_): raise SystemExit('network')\n"
        "socket.socket.connect = refuse; nncf = tool.nncf_module()\n"
        "from nncf.telemetry import wrapper\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "assert not isinstance(wrapper.telemetry, wrapper.NNCFTelemetry)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
