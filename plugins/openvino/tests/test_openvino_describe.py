"""The reader of OpenVINO IR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub.spec import DescribeJob, ExternalDataError, Identification, ModelUnreadable, Numerics
from hub_openvino.describe import describe
from hub_openvino.identify import identify
from hub_openvino.plugin import OpenvinoFormat
from plugins.openvino.tests import openvino_models as models

LAUGHS = b"""<?xml version="1.0"?>
<!DOCTYPE net [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<net name="&c;" version="11"><layers/></net>"""


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return models.saved(models.network(), tmp_path / "plain.xml")


def test_an_ir_is_known_by_its_first_tag(plain: Path) -> None:
    moved = plain.rename(plain.with_suffix(".model"))
    found = identify(moved, moved.read_bytes())
    assert found == Identification(format="openvino", detail="plain.model: OpenVINO IR 11")


@pytest.mark.parametrize(
    "header", [b"", b"\x08\x07onnx", b"<svg xmlns='http://www.w3.org/2000/svg' version='1.1'>", b"<net>", b"<net"]
)
def test_other_bytes_are_not_ours(header: bytes, tmp_path: Path) -> None:
    assert identify(tmp_path / "x.xml", header) is None


def test_a_legacy_ir_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match=r"IR version 7, from before 2020\.4; 10 and newer"):
        identify(tmp_path / "old.xml", b'<?xml version="1.0"?><net batch="1" name="old" version="7">')


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    file = tmp_path / "laughs.xml"
    file.write_bytes(LAUGHS)
    for read in (lambda: identify(file, LAUGHS), lambda: describe(file)):
        with pytest.raises(ModelUnreadable, match="document type"):
            read()


@pytest.mark.parametrize("size", [200, 2000, -20])
def test_a_truncated_xml_is_unreadable(size: int, plain: Path) -> None:
    plain.write_bytes(plain.read_bytes()[:size])
    with pytest.raises(ModelUnreadable, match="truncated or damaged"):
        describe(plain)


def test_weights_that_are_missing_or_short_are_told_by_reader_and_runtime(plain: Path) -> None:
    weights = plain.with_suffix(".bin")
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    for read in (describe, models.session):
        with pytest.raises(ExternalDataError, match=f"truncated: {len(content) - 4} bytes; {len(content)} bytes"):
            read(plain)
    weights.unlink()
    with pytest.raises(ExternalDataError, match=r"plain\.bin, the weights of plain\.xml, is missing"):
        describe(plain)


def test_what_is_said_of_a_plain_model(plain: Path) -> None:
    summary = OpenvinoFormat().describe(DescribeJob(path=str(plain)))
    assert [str(spec) for spec in summary.signature.inputs] == ["x: float32[1x3x16x16]"]
    assert [str(spec) for spec in summary.signature.outputs] == ["y: float32[1x8x16x16]"]
    assert summary.operators == {"Convolution": 1, "ReLU": 1}
    assert summary.parameters == models.WEIGHTS.size
    assert [Path(file).name for file in summary.files] == ["plain.xml", "plain.bin"]
    assert summary.size_bytes == sum(Path(file).stat().st_size for file in summary.files)
    assert summary.state.numerics is Numerics.FP32
    assert [(layer.operator, layer.precision) for layer in summary.layers] == [
        ("Convolution", "fp32"),
        ("ReLU", "fp32"),
    ]


def _int8(levels: int = 256) -> Callable[[Any], Any]:
    return lambda value: models.fake_quantize(value, -3.0, 3.0, levels)


def _qdq(value: Any) -> Any:
    """What OpenVINO's ONNX frontend makes of QuantizeLinear and DequantizeLinear."""
    from openvino import opset13 as ops

    bounds = [np.float32(number) for number in (-3.0, 3.0, 0.0, 255.0)]
    stored = ops.convert(ops.fake_quantize(value, *bounds, 256), "u8")
    centred = ops.subtract(ops.convert(stored, "f32"), ops.constant(np.float32(128)))
    return ops.multiply(centred, ops.constant(np.float32(6 / 255)))


CASES: dict[str, tuple[Callable[[], Any], Numerics]] = {
    "float": (models.network, Numerics.FP32),
    "int8": (lambda: models.network(_int8(), models.quantized_weights(models.WEIGHTS)), Numerics.INT8),
    "int8 through QDQ": (lambda: models.network(_qdq, models.quantized_weights(models.WEIGHTS)), Numerics.INT8),
    "int8 with FakeQuantize of stored floats": (
        lambda: models.network(_int8(), models.fake_quantize(models.WEIGHTS, -4, 4, 255)),
        Numerics.INT8,
    ),
    "one layer in float": (
        lambda: models.network(_int8(), models.quantized_weights(models.WEIGHTS), second_float=True),
        Numerics.INT8_MIXED,
    ),
    "int16 activations": (
        lambda: models.network(_int8(65536), models.quantized_weights(models.WEIGHTS)),
        Numerics.INT16X8,
    ),
    "int8 weights": (lambda: models.network(None, models.quantized_weights(models.WEIGHTS)), Numerics.INT8_WEIGHTS),
    "int4 weights": (
        lambda: models.network(None, models.quantized_weights(models.WEIGHTS, "i4")),
        Numerics.INT4_WEIGHTS,
    ),
    "quantized activations alone": (lambda: models.network(_int8()), Numerics.FP32),
}


@pytest.mark.parametrize("case", CASES)
def test_numerics_are_read_off_the_operands(case: str, tmp_path: Path) -> None:
    make, wanted = CASES[case]
    assert models.numerics(models.saved(make(), tmp_path / "m.xml")) is wanted


def test_openvinos_default_of_half_weights_is_seen(tmp_path: Path) -> None:
    assert models.numerics(models.saved(models.network(), tmp_path / "m.xml", half=True)) is Numerics.FP16


def test_integers_that_are_fed_are_no_quantization(tmp_path: Path) -> None:
    from openvino import opset13 as ops

    x = models.parameter("x", [1, 3, 16, 16], np.uint8)
    y = models.convolution(ops.convert(x, "f32"), models.quantized_weights(models.WEIGHTS))
    file = models.saved(models.built([ops.result(models.named(y, "y"))], [x]), tmp_path / "m.xml")
    assert models.numerics(file) is Numerics.INT8_WEIGHTS


def test_layers_left_in_float_are_named(tmp_path: Path) -> None:
    make, _ = CASES["one layer in float"]
    summary = describe(models.saved(make(), tmp_path / "m.xml"))
    finding = next(item for item in summary.findings if item.code == "left-in-float")
    floats = [layer.name for layer in summary.layers if (layer.operator, layer.precision) == ("Convolution", "fp32")]
    assert len(floats) == 1
    assert floats[0] in finding.text


def test_state_that_stays_between_runs_is_told(tmp_path: Path) -> None:
    finding = next(item for item in describe(counter(tmp_path)).findings if item.code == "hidden-state")
    assert "1 variables hold state between runs: total" in finding.text


def counter(folder: Path) -> Path:
    """A model that adds up what it is fed."""
    import openvino
    from openvino import opset13 as ops

    x = models.parameter("x", [1])
    start = ops.constant(np.zeros(1, np.float32))
    before = ops.read_value(start, "total", np.float32, [1])
    total = ops.add(before, x)
    keep = ops.assign(total, "total")
    model = openvino.Model([ops.result(models.named(total, "y"))], [keep], [x], "counter")
    return models.saved(model, folder / "counter.xml")


def test_open_dimensions_have_bounds_and_names(tmp_path: Path) -> None:
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter(openvino.PartialShape([openvino.Dimension(1, 8), 4, -1]), np.float32, name="x")
    file = models.saved(models.built([ops.result(ops.relu(x))], [x]), tmp_path / "m.xml")
    first, second, third = describe(file).signature.inputs[0].shape
    assert (first.low, first.high, second.size, third.high) == (1, 8, 4, None)
    assert len({first.symbol, third.symbol}) == 2


def test_tensors_of_several_names_or_none_get_one_each(tmp_path: Path) -> None:
    from openvino import opset13 as ops

    x, other = models.parameter("x", [2]), ops.parameter([2], np.float32, name="unnamed")
    one = models.named(ops.relu(x), "b", "a")
    results = [ops.result(one), ops.result(one), ops.result(ops.exp(other), name="free")]
    file = models.saved(models.built(results, [x, other]), tmp_path / "m.xml")
    signature = describe(file).signature
    assert [spec.name for spec in signature.inputs] == ["x", "unnamed"]
    assert [spec.name for spec in signature.outputs] == ["a", "b", "free"]
    x_in = np.array([-1.0, 2.0], np.float32)
    given = models.session(file).run({"x": x_in, "unnamed": x_in})
    assert np.array_equal(given["a"], given["b"])
    assert given["free"] == pytest.approx(np.exp(x_in))
