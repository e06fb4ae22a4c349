"""Real engines, built by TensorRT-RTX on a machine without a GPU."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

pytest.importorskip("tensorrt_rtx", reason="the ahead-of-time builder is not installed: pip install hub-tensorrt[rtx]")

from hub.spec import (
    ConvertOptions,
    Dim,
    DimRange,
    DType,
    ExternalDataError,
    ModelSummary,
    ModelUnreadable,
    Numerics,
    Signature,
    State,
    StepError,
    TensorSpec,
    UnsupportedModel,
)
from hub_tensorrt.build import _check_precision
from hub_tensorrt.edges import BUILDING
from hub_tensorrt.libraries import RTX
from hub_tensorrt.plan import identify
from hub_tensorrt.report import LAYERS_SUFFIX, PRECISION_SUFFIX, EngineLayer, beside, read_report, sha256_of
from plugins.tensorrt.tests.tensorrt_models import built, convolution, described, quantized, refused, weights_only

Hub = Callable[..., Any]


def convert(hub: Hub, model: Path, *words: str | Path) -> Any:
    return hub("convert", model, "--to", "tensorrt", "-o", model.with_name("out.engine"), "--json", "--force", *words)


def test_a_plan_is_published_with_its_precision_onnx_and_its_layers(hub: Hub, tmp_path: Path) -> None:
    model = convolution(tmp_path / "m.onnx")
    ran = convert(hub, model)
    assert ran.status == 0, ran.err
    published = ["out.engine", "out.engine.hub.json", "out.layers.json", "out.precision.onnx"]
    assert sorted(path.name for path in tmp_path.glob("out.*")) == published
    assert ran.json["level"] == "aot-built"
    assert "parity" not in ran.json
    assert ran.json["not_run"]["parity"]["passed"]
    found = hub("inspect", tmp_path / "out.engine", "--json").json["summary"]
    assert found["versions"]["tensorrt_rtx"] == RTX.version
    assert [spec["name"] for spec in found["signature"]["inputs"]] == ["x"]
    ran = hub("verify", model, tmp_path / "out.engine", "--json")
    assert ran.error["code"] == "device-missing"
    assert ".precision.onnx" in ran.error["hint"]


def test_open_dimensions_become_a_profile(hub: Hub, tmp_path: Path) -> None:
    model = convolution(tmp_path / "m.onnx", "batch")
    ran = convert(hub, model, "--shape", "x=1..4..16x3x8x8", "--build-for", "8.6")
    assert ran.status == 0, ran.err
    report = read_report(tmp_path / "out.engine")
    profile = report.profiles["x"]
    assert (profile.smallest, profile.best, profile.largest) == ((1, 3, 8, 8), (4, 3, 8, 8), (16, 3, 8, 8))
    assert report.built_for == ("sm86",)
    (change,) = ran.json["contract"][0]["changes"]
    assert change.startswith("optimization profile 1x3x8x8 / 4x3x8x8 / 16x3x8x8")
    sizes = {row["runtime"] for row in ran.json["not_run"]["parity"]["outputs"]}
    assert {"onnxruntime optimized at x=16x3x8x8", "onnxruntime optimized at x=1x3x8x8"} <= sizes


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--build-for", "sm90"], "no-route", "does not build for sm90"),
        (["--shape", "z=1..8x3x8x8"], "unknown-name", "no input 'z'"),
        (["--shape", "x=1..8x3x8x9"], "usage", "does not fit"),
        (["--shape", "x=8..1x3x8x8"], "usage", "x=8..1x3x8x8"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_anything_runs(
    hub: Hub, tmp_path: Path, words: list[str], code: str, told: str
) -> None:
    ran = convert(hub, convolution(tmp_path / "m.onnx", "batch"), *words)
    assert ran.error["code"] == code
    assert told in ran.error["message"]
    assert not list(tmp_path.glob("out.*"))


def test_what_the_builder_reports_is_read(tmp_path: Path) -> None:
    plan, output = built(convolution(tmp_path / "m.onnx"))
    report = read_report(plan)
    assert report.built_for == ("sm80", "sm86", "sm89", "sm120")
    assert report.settings["TF32"] == "off"
    assert report.weights_bytes > 4 * (8 * 27 + 8 + 5120)
    assert report.multiplied_in == {"fp32": 2}
    assert report.raw.startswith("Layers:")
    said = "operators that multiply, as the builder reports its layers: 2 in fp32"
    assert said in [note.text for note in output.notes]
    assert "Conv + Relu" in {layer.operator for layer in described(plan).layers}
    assert {path.name for path in plan.parent.iterdir()} == {"out.engine", "out.layers.json", "out.precision.onnx"}
    assert (plan.parent / "out.precision.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_float32_has_no_kernel_on_turing_and_that_is_the_cause(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="has no float32 matrix products") as caught:
        built(convolution(tmp_path / "m.onnx"), build_for=("sm75",))
    assert "cudaError" not in str(caught.value)
    assert "--fp16" in caught.value.hint


def test_a_missing_range_is_refused_with_the_flag(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="x has open dimensions") as caught:
        built(convolution(tmp_path / "m.onnx", "batch"))
    assert "--shape x=1..8x3x8x8" in caught.value.hint
    size = DimRange(low=1, best=2, high=4)
    with pytest.raises(UnsupportedModel):
        built(convolution(tmp_path / "m.onnx", "batch"), ranges={"another": (size,)})


def test_every_truncation_is_found_and_every_missing_file_named(tmp_path: Path) -> None:
    plan, _ = built(convolution(tmp_path / "m.onnx"))
    whole = plan.read_bytes()
    for length in (28, 29, 1000, len(whole) // 2, len(whole) - 1, len(whole) + 1):
        plan.write_bytes((whole + b"\0")[:length])
        with pytest.raises(ModelUnreadable, match="truncated or damaged"):
            described(plan)
    for length in (4, 27):
        with pytest.raises(ModelUnreadable, match="ends inside the head"):
            identify(plan, whole[:length])
    plan.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ExternalDataError, match="belongs to another plan"):
        described(plan)
    plan.write_bytes(whole)
    assert described(plan).state.numerics is Numerics.FP32
    for name in ("out.precision.onnx", "out.layers.json"):
        (plan.parent / name).rename(tmp_path / "away")
        with pytest.raises(ExternalDataError, match=name):
            described(plan)
        (tmp_path / "away").rename(plan.parent / name)
    layers = plan.parent / "out.layers.json"
    layers.write_bytes(layers.read_bytes()[:-10])
    with pytest.raises(ModelUnreadable, match="is damaged"):
        described(plan)


def test_a_report_is_held_against_the_precision_onnx(hub: Hub, tmp_path: Path) -> None:
    """Whoever edits the report, or brings another model, is told: the ONNX says what the plan was built of."""
    plan, _ = built(convolution(tmp_path / "m.onnx"))
    report, layers, precision = read_report(plan), beside(plan, LAYERS_SUFFIX), beside(plan, PRECISION_SUFFIX)
    spec = report.signature.inputs[0]
    signature = msgspec.structs.replace(report.signature, inputs=(msgspec.structs.replace(spec, name="z"),))
    for changed, told in (
        (msgspec.structs.replace(report, numerics=Numerics.INT8), "out.layers.json says int8, x, y, and"),
        (msgspec.structs.replace(report, signature=signature), "out.layers.json says fp32, z, y, and"),
    ):
        layers.write_bytes(msgspec.json.encode(changed))
        with pytest.raises(ExternalDataError, match=told):
            described(plan)
        assert hub("inspect", plan, "--json").error["code"] == "external-data"
        assert hub("verify", tmp_path / "m.onnx", plan, "--json").error["code"] == "external-data"
    model = onnx.load(precision)
    onnx.save(model, precision, save_as_external_data=True, location="weights.data", size_threshold=0)
    outside = msgspec.structs.replace(report, precision_sha256=sha256_of(precision))
    layers.write_bytes(msgspec.json.encode(outside))
    assert described(plan).state.numerics is Numerics.FP32
    (plan.parent / "weights.data").unlink()
    with pytest.raises(ExternalDataError, match=r"weights\.data, with weights of out\.precision\.onnx"):
        described(plan)
    precision.write_bytes(b"no model")
    layers.write_bytes(msgspec.json.encode(msgspec.structs.replace(report, precision_sha256=sha256_of(precision))))
    with pytest.raises(ModelUnreadable, match=r"out\.precision\.onnx is damaged"):
        described(plan)


@pytest.mark.parametrize("edge", ["tensorrt.build-rtx", "tensorrt.build"])
def test_float64_at_the_border_is_refused_before_anything_is_built(edge: str) -> None:
    check = next(item for item in BUILDING if item.id == edge).check
    for dtype, taken in ((DType.FLOAT32, True), (DType.FLOAT64, False)):
        spec = TensorSpec(name="x", dtype=dtype, shape=(Dim.of(2),))
        summary = ModelSummary(state=State(format="onnx"), signature=Signature(inputs=(spec,), outputs=()))
        verdict = check(summary, ConvertOptions())
        assert bool(verdict) is taken
    assert "TensorRT has no float64, and the model takes or gives x: float64[2]" in verdict.reason


@pytest.mark.parametrize("suffix", [".layers.json", ".precision.onnx"])
def test_a_folder_in_the_place_of_a_side_file_is_told(tmp_path: Path, suffix: str) -> None:
    plan, _ = built(convolution(tmp_path / "m.onnx"))
    place = plan.with_name(f"{plan.stem}{suffix}")
    place.unlink()
    place.mkdir()
    with pytest.raises(ExternalDataError, match="is not beside it"):
        described(plan)


def test_a_plan_alone_is_not_deserialized(tmp_path: Path) -> None:
    plan, _ = built(convolution(tmp_path / "m.onnx"))
    foreign = tmp_path / "foreign.plan"
    shutil.copy(plan, foreign)
    with pytest.raises(ExternalDataError, match="stands alone"):
        described(foreign)


def test_a_precision_that_is_in_no_layer_is_refused(tmp_path: Path) -> None:
    plan, _ = built(convolution(tmp_path / "m.onnx"))
    report = read_report(plan)
    assert report.signature.inputs[0].dtype is DType.FLOAT32
    with pytest.raises(StepError, match="the engine multiplies nowhere in it: 2 in fp32"):
        _check_precision(msgspec.structs.replace(report, numerics=Numerics.INT8))
    (note,) = _check_precision(msgspec.structs.replace(report, numerics=Numerics.INT8, layers=()))
    assert "could not be read" in note.text
    others = tuple(EngineLayer(name="a", kind="kgen", precision="fp32") for _ in range(2))
    assert not _check_precision(msgspec.structs.replace(report, numerics=Numerics.INT8, layers=others))
    one, two = (
        EngineLayer(name=name, kind="conv", precision=word, nodes=(name,), covers=("Conv",))
        for name, word in (("first", "int8"), ("second", "fp32"))
    )
    mixed = msgspec.structs.replace(report, numerics=Numerics.INT8, layers=(one, two))
    (told,) = _check_precision(mixed)
    assert (told.code, "second in fp32" in told.text, "first" in told.text) == ("engine-left-float", True, False)
    assert not _check_precision(msgspec.structs.replace(mixed, numerics=Numerics.INT8_MIXED))


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        ("asymmetric", "quantized asymmetrically"),
        ("int16", "stored in a type that TensorRT has not"),
        ("int32-bias", "a bias is stored in int32"),
        ("operator", "an operator that TensorRT has not (Det"),
        ("custom", "an operator that TensorRT has not"),
        ("string", "an element type that TensorRT has not"),
    ],
)
def test_what_the_library_refuses_has_one_cause_and_a_cure(tmp_path: Path, make: str, cause: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        built(refused(tmp_path / "m.onnx", make))
    assert cause in caught.value.message
    assert caught.value.hint
    assert "cudaError" not in caught.value.message
    assert not list((tmp_path / "built").iterdir())


def test_a_file_that_somebody_else_quantized_is_held_to_the_rules(hub: Hub, tmp_path: Path) -> None:
    """What TensorRT itself reads without a word: uint8 as int8, with other values."""
    ran = convert(hub, quantized(tmp_path / "uint8.onnx", "uint8"))
    assert ran.error["code"] == "unsupported-model"
    assert "TensorRT has no quantized uint8" in ran.error["message"]
    assert "--int8" in ran.error["hint"]
    assert not list(tmp_path.glob("out.*"))
    ran = convert(hub, quantized(tmp_path / "int8.onnx", "int8"))
    assert ran.status == 0, ran.err
    assert ran.json["route"]["edges"] == ["tensorrt.adopt", "tensorrt.build-rtx"]
    assert read_report(tmp_path / "out.engine").multiplied_in == {"int8": 1}
    ran = convert(hub, quantized(tmp_path / "open.onnx", "int8", ("batch", 3, 8, 8)))
    assert ran.status == 0, ran.err
    assert read_report(tmp_path / "out.engine").signature.inputs[0].fixed_shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        ("asymmetric", "unsupported-model", "zero points from 3 to 3; TensorRT takes 0 only"),
        ("uint4", "unsupported-model", "TensorRT has no quantized uint4"),
        ("int16", "no-route", "nothing installed writes it in int16x8"),
        ("int32-bias", "unsupported-model", "the bias is int32"),
        ("operator", "unsupported-model", "an operator that TensorRT has not (Det"),
        ("custom", "unsupported-model", "com.example::Frobnicate"),
    ],
)
def test_a_model_that_tensorrt_does_not_take_is_refused_with_the_cause_and_nothing_is_published(
    hub: Hub, tmp_path: Path, fault: str, code: str, told: str
) -> None:
    ran = convert(hub, refused(tmp_path / "m.onnx", fault))
    assert (ran.status != 0, ran.error["code"]) == (True, code), ran.err
    assert told in ran.error["message"]
    assert ran.error["hint"]
    assert not list(tmp_path.glob("out.*"))


def test_an_open_size_that_nobody_gave_is_asked_for_and_nothing_is_published(hub: Hub, tmp_path: Path) -> None:
    ran = convert(hub, quantized(tmp_path / "m.onnx", "int8", (1, 3, "height", "width")))
    assert ran.error["code"] == "shape-needed"
    assert "--shape x=" in ran.error["hint"]
    assert not list(tmp_path.glob("out.*"))


def test_a_damaged_plan_is_refused_wherever_it_is_given_and_nothing_is_published(hub: Hub, tmp_path: Path) -> None:
    plan, _ = built(convolution(tmp_path / "m.onnx"))
    plan.write_bytes(plan.read_bytes()[:-100])
    target = tmp_path / "out.onnx"
    for words in (
        ["inspect", plan],
        ["verify", tmp_path / "m.onnx", plan],
        ["convert", plan, "--to", "onnx", "-o", target],
    ):
        ran = hub(*words, "--json")
        assert ran.error["code"] == "model-unreadable"
        assert "truncated or damaged" in ran.error["message"]
    assert not target.exists()


def test_weights_alone_in_int8_are_found_where_the_builder_widens_them(tmp_path: Path) -> None:
    """Of int8 weights behind a DequantizeLinear TensorRT-RTX fuses those of products, and not those of convolutions."""
    plan, output = built(weights_only(tmp_path / "m.onnx"), Numerics.INT8_WEIGHTS)
    report = read_report(plan)
    assert report.multiplied_in == {"fp32": 1}
    assert report.weights_bytes < 2 * 8 * 27 + 2048
    (told,) = [note.text for note in output.notes if note.code == "weights-widened"]
    assert "stored narrow and made float in every run before they multiply: 1 in fp32" in told
