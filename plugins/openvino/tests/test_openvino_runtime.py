"""OpenVINO as hub's runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from hub.spec import (
    DeviceMissing,
    RunsAsync,
    ShowsIntermediates,
    StepError,
    UnknownName,
    UnsupportedModel,
    UsageError,
)
from hub_openvino.session import OpenvinoRuntime
from plugins.openvino.tests import openvino_models as models
from plugins.openvino.tests.test_openvino_describe import counter
from tests.zoo import data, fetch


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OCR direction classifier, as hub's edge writes it."""
    from hub_openvino.border import signature_of
    from hub_openvino.convert.frontends import read_file

    output = tmp_path_factory.mktemp("ir") / "cls.xml"
    source = fetch.path("ocr_cls")
    models.convert("openvino.from-onnx", source, output, signature_of(read_file(source)))
    return output


def reference(feeds: Any, *names: str) -> list[Any]:
    """The same in ONNX Runtime, with inner tensors as outputs."""
    import onnx

    model = onnx.load(fetch.path("ocr_cls"))
    for name in names:
        model.graph.output.add().name = name
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run([*names] or None, feeds))


@pytest.mark.parametrize("size", [(1, 3, 48, 192), (3, 3, 96, 100)])
def test_it_computes_what_onnxruntime_computes_at_every_size(size: tuple[int, ...], classifier: Path) -> None:
    x = np.random.default_rng(1).uniform(-1, 1, size).astype(np.float32)
    (found,) = models.session(classifier).run({"x": x}).values()
    assert found == pytest.approx(reference({"x": x})[0], abs=1e-5)


def test_runs_under_way_together_give_what_runs_one_by_one_give(classifier: Path) -> None:
    session = models.session(classifier, threads=1)
    assert isinstance(session, RunsAsync)
    samples = [{"x": np.full((1, 3, 48, 192), level, np.float32)} for level in (-1.0, -0.5, 0.0, 0.5, 1.0, 0.25)]
    futures = [session.run_async(feeds) for feeds in samples]
    for feeds, future in zip(samples, futures, strict=True):
        (found,), (wanted,) = future.result(timeout=60).values(), session.run(feeds).values()
        assert np.array_equal(found, wanted)
    session.close()


def test_inner_tensors_are_shown_by_name(classifier: Path) -> None:
    session = models.session(classifier)
    assert isinstance(session, ShowsIntermediates)
    feeds = data.feeds("ocr_cls", "test", 1)
    names = ["batch_norm_0.tmp_2", "pool2d_0.tmp_0"]
    shown = session.intermediate(names).run(feeds)
    assert list(shown) == names
    for name, wanted in zip(names, reference(feeds, *names), strict=True):
        assert shown[name] == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(UnknownName, match="no tensor nonsense"):
        session.intermediate(["nonsense"])


def test_results_are_copies(classifier: Path) -> None:
    session = models.session(classifier)
    (first,) = session.run({"x": np.ones((1, 3, 48, 192), np.float32)}).values()
    kept = first.copy()
    session.run({"x": np.zeros((1, 3, 48, 192), np.float32)})
    assert np.array_equal(first, kept)


def test_state_is_reset_before_every_run(tmp_path: Path) -> None:
    session = models.session(counter(tmp_path))
    totals = [session.run({"x": np.array([3.0], np.float32)})["y"][0] for _ in range(3)]
    assert totals == [3.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("word", "dtype"),
    [
        ("f16", "float16"), ("bf16", "uint16"), ("f32", "float32"), ("f64", "float64"), ("i8", "int8"), ("u8", "uint8"),
        ("i16", "int16"), ("u16", "uint16"), ("i32", "int32"), ("u32", "uint32"), ("i64", "int64"), ("u64", "uint64"),
        ("boolean", "bool"),
    ],
)  # fmt: skip
def test_every_element_type_passes(word: str, dtype: str, tmp_path: Path) -> None:
    import openvino
    from openvino import opset13 as ops

    x = models.parameter("x", [2, 2], getattr(openvino.Type, word))
    y = models.named(ops.concat([x, x], 0), "y")
    file = models.saved(models.built([ops.result(y)], [x]), tmp_path / "m.xml")
    one = 0x3F80 if word == "bf16" else 1  # as bits: those of the number 1 are a denormal, which processors may flush
    given = np.array([[0, one], [one, 0]]).astype(dtype)
    found = models.session(file).run({"x": given})["y"]
    assert found.dtype == given.dtype
    assert np.array_equal(found, np.concatenate([given, given]))


def test_what_does_not_fit_is_refused_with_what_does(classifier: Path) -> None:
    session = models.session(classifier)
    x = np.zeros((1, 3, 48, 192), np.float32)
    with pytest.raises(UsageError, match=r"takes \['x'\], given were \['y'\]"):
        session.run({"y": x})
    with pytest.raises(UsageError, match="input x is f32, given was float64"):
        session.run({"x": x.astype(np.float64)})
    with pytest.raises(StepError, match="incompatible") as raised:
        session.run({"x": x[:, :2]})
    assert "x: f32[?,3,?,?]" in raised.value.hint
    assert session.run({"x": x})


def test_a_device_that_is_not_there_is_told_with_those_that_are(classifier: Path) -> None:
    import openvino

    there = openvino.Core().available_devices
    assert "GPU.7" not in there
    for device in ("gpu.7", "auto:gpu.7,cpu", "hetero:gpu.7"):
        with pytest.raises(DeviceMissing, match=r"no device gpu\.7 here; it has .*cpu"):
            models.session(classifier, device=device)


def test_the_device_can_be_openvinos_own_choice(classifier: Path) -> None:
    x = np.zeros((1, 3, 48, 192), np.float32)
    (auto,) = models.session(classifier, device="auto").run({"x": x}).values()
    (cpu,) = models.session(classifier).run({"x": x}).values()
    assert auto == pytest.approx(cpu, abs=1e-5)


def test_float32_is_pinned_and_the_default_is_the_devices(classifier: Path) -> None:
    import openvino

    default = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    settings = {
        precision: models.session(classifier, precision=precision, threads=1).compiled
        for precision in ("", "f32", "auto")
    }
    hints = {p: compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() for p, compiled in settings.items()}
    assert hints == {"": "f32", "f32": "f32", "auto": default}
    assert str(settings[""].get_property("EXECUTION_MODE_HINT")) == "ExecutionMode.ACCURACY"
    assert {compiled.get_property("INFERENCE_NUM_THREADS") for compiled in settings.values()} == {1}


@pytest.mark.parametrize(("precision", "capability"), [("f16", "FP16"), ("bf16", "BF16")])
def test_a_half_precision_runs_where_the_cpu_has_it_and_is_refused_elsewhere(
    precision: str, capability: str, classifier: Path
) -> None:
    import openvino

    if capability in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        compiled = models.session(classifier, precision=precision).compiled
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == precision
        return
    with pytest.raises(UnsupportedModel, match=f"does not compute in {precision}; it has .*FP32"):
        models.session(classifier, precision=precision)


def test_a_precision_that_does_not_exist_is_refused(classifier: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no compute precision 'int3'"):
        models.session(classifier, precision="int3")


def test_dynamic_quantization_is_off_unless_the_file_asks_for_it(tmp_path: Path) -> None:
    from hub_openvino.convert.edges import DYNAMIC_GROUP, ask_dynamic

    model = models.dense()
    without = models.session(models.saved(model, tmp_path / "plain.xml"))
    ask_dynamic(model)
    with_it = models.session(models.saved(model, tmp_path / "asking.xml"))
    groups = [s.compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") for s in (without, with_it)]
    assert groups == [0, DYNAMIC_GROUP]
    words = [models.numerics(tmp_path / name).value for name in ("plain.xml", "asking.xml")]
    assert words == ["int8-weights", "int8-dynamic"]


def test_the_runtime_is_no_target_of_its_own() -> None:
    assert not OpenvinoRuntime().targets
