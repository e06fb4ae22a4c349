"""The toy plugin: its readers, its arithmetic, and whole conversions through hub."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hub
from hub.spec import DescribeJob, ModelUnreadable, Numerics, Receipt, RuntimeOptions
from hub_toy import hub_identify_format
from hub_toy.files import MAGIC, read, write_binary
from hub_toy.formats import ToyBinFormat, ToyFormat
from hub_toy.runtime import ToyRuntime, ToySession, quantize, scale_of, values_of


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A classifier of six features, its weights from a seed."""
    monkeypatch.setenv("HUB_CACHE_DIR", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    layers = [
        {"op": "affine", "name": "first", "inputs": ["x"], "output": "h", "w": generator.normal(size=(6, 16)).tolist()},
        {"op": "relu", "name": "bend", "inputs": ["h"], "output": "r"},
        {
            "op": "affine",
            "name": "second",
            "inputs": ["r"],
            "output": "z",
            "w": generator.normal(size=(16, 3)).tolist(),
        },
        {"op": "softmax", "name": "last", "inputs": ["z"], "output": "y"},
    ]
    layers[0]["b"], layers[2]["b"] = [0.1] * 16, [0.0] * 3
    content = {
        "toy": 1,
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 6]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}],
        "layers": layers,
    }
    path = tmp_path / "model.toy"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def data() -> Any:
    """Sixty samples."""
    return np.random.default_rng(1).standard_normal((60, 6)).astype(np.float32)


def convert(model: Path, precision: str, data: Any) -> tuple[Receipt, Path]:
    """Convert next to the model."""
    output = model.with_name(f"{precision}.toybin")
    return hub.convert(model, "toybin", precision=precision, calibration=data, output=output), output


@pytest.mark.parametrize(
    ("precision", "stored", "least"),
    [("fp32", "<f4", 300), ("fp16", "<f2", 60), ("int8-dynamic", "|i1", 30), ("int8", "|i1", 30)],
)
def test_a_precision_is_what_is_stored(model: Path, data: Any, precision: str, stored: str, least: float) -> None:
    receipt, output = convert(model, precision, data)
    content = output.read_bytes()
    assert f"'descr': '{stored}'".encode() in content[content.index(b"first.w") :]
    assert receipt.parity.worst.sqnr_db >= least
    assert ToyBinFormat().describe(DescribeJob(path=str(output))).state.numerics == Numerics(precision)


def test_the_runtime_agrees_with_plain_numpy(model: Path, data: Any) -> None:
    weights = read(model).arrays
    hidden = np.maximum(data @ weights["first.w"] + weights["first.b"], 0)
    powers = np.exp(hidden @ weights["second.w"] + weights["second.b"])
    outputs = ToySession(read(model)).run({"x": data})
    np.testing.assert_allclose(outputs["y"], powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)


def test_int8_computes_in_integers(model: Path, data: Any) -> None:
    _, output = convert(model, "int8", data)
    quantized = read(output)
    x, scale = data[:1], quantized.arrays["first.x_scale"]
    assert scale == pytest.approx(
        np.abs(np.delete(data, slice(4, None, 5), axis=0)).max() / 127
    )  # each fifth is held out
    total = quantize(x, scale).astype(np.int64) @ quantized.arrays["first.w"].astype(np.int64)
    expected = np.maximum(total * scale * quantized.arrays["first.w_scale"] + quantized.arrays["first.b"], 0)
    np.testing.assert_allclose(values_of(quantized, {"x": x})["r"], expected, rtol=1e-5)


def test_quantization_rounds_to_the_grid_and_keeps_zero() -> None:
    values = np.array([-2.0, -0.01, 0.0, 1.0, 2.0], np.float32)
    scale = scale_of(values)
    assert scale == pytest.approx(2 / 127)
    assert quantize(values, scale).tolist() == [-127, -1, 0, 64, 127]
    assert scale_of(np.zeros(3, np.float32)) == 1


def test_bytes_tell_the_format() -> None:
    assert hub_identify_format(Path("x"), b' {"toy": 1, "inputs"') is not None
    assert hub_identify_format(Path("x.toy"), b'{"toy": 2') is None
    assert hub_identify_format(Path("x.toy"), b"") is None
    found = hub_identify_format(Path("x.toy"), MAGIC)
    assert found is not None
    assert found.format == "toybin"


def test_binary_and_text_hold_the_same_model(model: Path, tmp_path: Path) -> None:
    text = read(model)
    write_binary(tmp_path / "m.toybin", text)
    binary = read(tmp_path / "m.toybin")
    assert set(binary.arrays) == set(text.arrays)
    for name, array in text.arrays.items():
        np.testing.assert_array_equal(binary.arrays[name], array)
    described = ToyFormat().describe(DescribeJob(path=str(model)))
    assert described.signature == ToyBinFormat().describe(DescribeJob(path=str(tmp_path / "m.toybin"))).signature


@pytest.mark.parametrize("size", [9, 14, 60, 400, 900])
def test_a_truncated_binary_is_unreadable(model: Path, tmp_path: Path, size: int) -> None:
    write_binary(tmp_path / "m.toybin", read(model))
    (tmp_path / "m.toybin").write_bytes((tmp_path / "m.toybin").read_bytes()[:size])
    with pytest.raises(ModelUnreadable, match="damaged"):
        read(tmp_path / "m.toybin")


def test_an_unknown_operator_is_named(model: Path) -> None:
    model.write_text(model.read_text().replace("softmax", "frobnicate"))
    with pytest.raises(ModelUnreadable, match="frobnicate"):
        read(model)


def test_a_model_without_weights_is_not_quantized(model: Path, data: Any) -> None:
    content = json.loads(model.read_text())
    content["layers"] = [{"op": "relu", "name": "r", "inputs": ["x"], "output": "y"}]
    content["outputs"][0]["shape"] = ["batch", 6]
    model.write_text(json.dumps(content))
    assert convert(model, "fp32", data)[0].parity.passed
    with pytest.raises(hub.HubError, match="no affine layer") as caught:
        convert(model, "int8", data)
    assert caught.value.exit_status in {3, 5}


def twins(model: Path, left: str = "left", kind: str = "float32") -> Path:
    """left + right, through a layer of their own each."""
    inputs = [{"name": name, "dtype": kind, "shape": ["batch", 2]} for name in ("left", "right")]
    weights = {"left": [[1, 2], [3, 4]], "right": [[5, 6], [7, 8]]}
    names = {"a": left, "b": ({"left", "right"} - {left}).pop()}
    affine = [
        {"op": "affine", "name": name, "inputs": [source], "output": f"{name}h", "w": w, "b": [0, 1]}
        for (name, source), w in zip(names.items(), weights.values(), strict=True)
    ]
    layers = [*affine, {"op": "add", "name": "both", "inputs": ["ah", "bh"], "output": "y"}]
    outputs = [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}]
    path = model.with_name(f"{left}-{kind}.toy")
    path.write_text(json.dumps({"toy": 1, "inputs": inputs, "outputs": outputs, "layers": layers}))
    return path


def test_an_input_is_frozen_on_request_and_stays_so_in_half(model: Path) -> None:
    options, output = hub.ConvertOptions(constants={"right": 0.5}), model.with_name("frozen.toybin")
    receipt = hub.convert(twins(model), "toybin", options=options, output=output)
    assert [spec.name for spec in receipt.result.signature.inputs] == ["left"]
    (binding,) = receipt.steps[0].bindings
    assert (binding.source, binding.target, binding.constant) == ("right", "", 0.5)
    given = {"left": np.array([[1, 2]], np.float32)}
    frozen = given | {"right": np.full((1, 2), 0.5, np.float32)}
    expected = ToySession(read(twins(model))).run(frozen)["y"]
    np.testing.assert_array_equal(ToySession(read(output)).run(given)["y"], expected)
    half = hub.convert(twins(model), "toybin", precision="fp16", options=options, output=model.with_name("h.toybin"))
    assert half.parity is not None
    assert half.parity.passed


def test_freezing_every_input_is_refused_with_what_to_do(model: Path) -> None:
    options = hub.ConvertOptions(constants={"left": 1, "right": 2})
    with pytest.raises(hub.HubError, match="left, right would all be frozen") as caught:
        hub.convert(twins(model), "toybin", options=options, output=model.with_name("none.toybin"))
    assert caught.value.hint == "leave out one --constant"


def test_equal_shaped_inputs_that_are_swapped_are_found(model: Path) -> None:
    output = str(model.with_name("right.toybin"))
    hub.convert(twins(model), "toybin", output=output)
    assert hub.verify(str(twins(model)), output).passed
    assert not hub.verify(str(twins(model, left="right")), output).passed


def test_integers_go_in(model: Path) -> None:
    receipt = hub.convert(twins(model, kind="int64"), "toybin", output=model.with_name("whole.toybin"))
    assert receipt.parity is not None
    assert receipt.parity.passed
    assert {spec.dtype.value for spec in receipt.result.signature.inputs} == {"int64"}


def test_a_missing_input_is_named(model: Path) -> None:
    class Artifact:
        path = str(model)

    session = ToyRuntime().open(Artifact, RuntimeOptions())  # type: ignore[arg-type]
    with pytest.raises(hub.HubError, match="no input x"):
        session.run({"z": np.zeros(1)})
    session.close()
