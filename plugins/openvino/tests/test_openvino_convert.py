"""Conversion to OpenVINO IR through its own frontends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model

from hub._effects import check_files, check_signature, check_state
from hub._steps import Step
from hub.spec import (
    ConvertOptions,
    Dim,
    DType,
    EffectError,
    Identification,
    Numerics,
    Signature,
    State,
    TensorSpec,
    UnsupportedModel,
)
from hub_openvino.convert.edges import CONVERTING
from hub_openvino.describe import describe
from hub_openvino.quantize.edges import QUANTIZING
from plugins.openvino.tests import openvino_models as models
from tests.zoo import data, fetch

ROOT = Path(__file__).parents[3]


def spec(name: str, *shape: int | str, dtype: DType = DType.FLOAT32, layout: str = "") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=tuple(map(Dim.of, shape)), layout=layout)


def onnx_file(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], stored: Any = ()) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(stored))
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def hub(*words: str | Path, cache: Path) -> Any:
    """Run the installed command; what `--json` printed."""
    command = [str(Path(sys.executable).with_name("hub")), *map(str, words), "--json"]
    environment = {**os.environ, "HUB_CACHE_DIR": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_real_model_comes_with_its_weights_and_goes_on_from_there(tmp_path: Path) -> None:
    calibrated = data.write("ocr_cls", tmp_path / "data", calibration=2, test=4)
    output, half = tmp_path / "out" / "cls.xml", tmp_path / "out" / "half.xml"
    words = ("--test", calibrated.test)
    receipt = hub("convert", fetch.path("ocr_cls"), "--to", "openvino", *words, "-o", output, cache=tmp_path / "cache")
    assert receipt["route"]["edges"] == ["openvino.from-onnx"]
    assert receipt["parity"]["passed"]
    assert {item["runtime"].split(" at ")[0] for item in receipt["parity"]["outputs"]} == {"openvino"}
    assert min(item["sqnr_db"] for item in receipt["parity"]["outputs"]) > 90
    again = hub(
        "convert", output, "--to", "openvino", "--precision", "fp16", *words, "-o", half, cache=tmp_path / "cache"
    )
    assert again["route"]["edges"] == ["openvino.fp16"]
    assert describe(half).state.numerics is Numerics.FP16
    assert half.with_suffix(".bin").stat().st_size < 0.6 * output.with_suffix(".bin").stat().st_size
    left = {file.name for file in output.parent.iterdir()}
    assert left == {f"{name}{end}" for name in ("cls", "half") for end in (".xml", ".bin", ".xml.hub.json")}


@pytest.mark.scheduled
@pytest.mark.parametrize(
    ("model", "edge"),
    [
        ("samples/digits_torch/digits.pt2", "openvino.from-pytorch"),
        ("samples/digits_keras/digits.keras", "openvino.from-keras"),
    ],
)
def test_the_samples_come_straight_from_their_framework(model: str, edge: str, tmp_path: Path) -> None:
    test = (ROOT / model).with_name("test.npz")
    output = tmp_path / "digits.xml"
    receipt = hub("convert", model, "--to", "openvino", "--test", test, "-o", output, cache=tmp_path / "cache")
    assert receipt["route"]["edges"] == [edge]
    assert receipt["accuracy"]["source"] == receipt["accuracy"]["result"]
    assert any(" at " in item["runtime"] for item in receipt["parity"]["outputs"]), "not proved at a second size"
    before, after = ([item[side] for item in receipt["contract"]] for side in ("source", "result"))
    assert [item["name"] for item in before] == [item["name"] for item in after]


def test_a_torch_program_keeps_its_open_batch(tmp_path: Path) -> None:
    import warnings

    import torch

    source, output = ROOT / "samples/digits_torch/digits.pt2", tmp_path / "digits.xml"
    wanted = Signature(inputs=(spec("image", "n", 1, 8, 8),), outputs=(spec("output", "n", 10),))
    models.convert("openvino.from-pytorch", source, output, wanted)
    assert describe(output).signature.inputs == wanted.inputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, when it reads its own file
        module = torch.export.load(source).module()
    for batch in (1, 5):
        image = np.random.default_rng(batch).random((batch, 1, 8, 8), np.float32)
        found = models.session(output).run({"image": image})["output"]
        assert found == pytest.approx(module(torch.from_numpy(image)).detach().numpy(), abs=1e-4)


@pytest.fixture
def border(tmp_path: Path) -> tuple[Path, Signature]:
    """Outputs that are an input, one tensor twice, and in an order of their own; an input that nothing uses."""
    nodes = [
        helper.make_node("Relu", ["b"], ["inner"]),
        helper.make_node("Identity", ["inner"], ["first"]),
        helper.make_node("Identity", ["inner"], ["second"]),
        helper.make_node("Identity", ["a"], ["passed"]),
        helper.make_node("Cast", ["a"], ["whole"], to=TensorProto.INT64),
    ]
    names = ("whole", "second", "passed", "first")
    outputs = [value(name, ["n", 2], TensorProto.INT64 if name == "whole" else TensorProto.FLOAT) for name in names]
    inputs = [value("unused", [3]), value("b", ["n", 2]), value("a", ["n", 2])]
    file = onnx_file(tmp_path / "border.onnx", nodes, inputs, outputs)
    wanted = Signature(
        inputs=(spec("unused", 3), spec("b", "n", 2), spec("a", "n", 2)),
        outputs=tuple(spec(n, "n", 2, dtype=DType.INT64 if n == "whole" else DType.FLOAT32) for n in names),
    )
    return file, wanted


def test_names_order_types_and_open_dimensions_stay(border: tuple[Path, Signature], tmp_path: Path) -> None:
    source, wanted = border
    output = tmp_path / "border.xml"
    done = models.convert("openvino.from-onnx", source, output, wanted)
    found = describe(output).signature
    check_signature(_edge("openvino.from-onnx"), wanted, found, done.bindings, ConvertOptions())
    assert found.inputs == wanted.inputs
    a, b = np.array([[1.5, -2.0]], np.float32), np.array([[-1.0, 4.0]], np.float32)
    given = models.session(output).run({"a": a, "b": b, "unused": np.zeros(3, np.float32)})
    assert list(given) == ["whole", "second", "passed", "first"]
    assert np.array_equal(given["passed"], a)
    assert np.array_equal(given["first"], np.maximum(b, 0))
    assert np.array_equal(given["second"], given["first"])
    assert given["whole"].tolist() == [[1, -2]]


def _edge(edge_id: str) -> Any:
    return next(edge for edge in CONVERTING if edge.id == edge_id)


def test_shapes_are_fixed_and_inputs_frozen_on_request(border: tuple[Path, Signature], tmp_path: Path) -> None:
    source, wanted = border
    output = tmp_path / "border.xml"
    done = models.convert(
        "openvino.from-onnx", source, output, wanted, shapes={"b": (4, 2), "a": (4, 2)}, constants={"unused": 1.0}
    )
    found = describe(output).signature
    assert [str(item) for item in found.inputs] == ["b: float32[4x2]", "a: float32[4x2]"]
    assert [(item.source, item.target, item.constant) for item in done.bindings] == [("unused", "", 1.0)]


def test_a_frozen_input_takes_part(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    file = onnx_file(tmp_path / "m.onnx", nodes, [value("x", [2]), value("factor", [])], [value("y", [2])])
    wanted = Signature(inputs=(spec("x", 2), spec("factor")), outputs=(spec("y", 2),))
    models.convert("openvino.from-onnx", file, tmp_path / "m.xml", wanted, constants={"factor": 3.0})
    assert models.session(tmp_path / "m.xml").run({"x": np.array([1, 2], np.float32)})["y"].tolist() == [3.0, 6.0]


def test_the_same_conversion_gives_the_same_bytes(tmp_path: Path) -> None:
    from hub_openvino.border import signature_of
    from hub_openvino.convert.frontends import read_file

    source = fetch.path("ocr_cls")
    signature = signature_of(read_file(source))
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        models.convert("openvino.from-onnx", source, folder / "m.xml", signature)
        written.append([(folder / name).read_bytes() for name in ("m.xml", "m.bin")])
    assert written[0] == written[1]


def test_an_operator_that_openvino_lacks_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Unhatch", ["x"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    file = onnx_file(tmp_path / "m.onnx", nodes, [value("x", [2])], [value("z", [2])])
    wanted = Signature(inputs=(spec("x", 2),), outputs=(spec("z", 2),))
    with pytest.raises(UnsupportedModel, match="has no form of Unhatch"):
        models.convert("openvino.from-onnx", file, tmp_path / "m.xml", wanted)


def test_half_weights_that_nobody_asked_for_are_caught(tmp_path: Path) -> None:
    """What `openvino.save_model` does when it is not told otherwise."""
    import openvino

    openvino.save_model(models.network(), str(tmp_path / "m.xml"))
    step = Step(edge=_edge("openvino.from-onnx"), source=State(format="onnx"), target=models.OPENVINO, cost=1)
    with pytest.raises(EffectError, match="was to write fp32; the file holds fp16"):
        check_state(step, Identification(format="openvino"), describe(tmp_path / "m.xml"))


def test_weights_named_after_another_file_are_caught(tmp_path: Path) -> None:
    file = models.saved(models.network(), tmp_path / "m.xml")
    (tmp_path / "other.bin").write_bytes(file.with_suffix(".bin").read_bytes())
    with pytest.raises(EffectError, match=r"wrote other\.bin besides m\.xml"):
        check_files(_edge("openvino.from-onnx"), file, describe(file))


def test_qdq_keeps_its_integers(tmp_path: Path) -> None:
    weights = np.round(models.WEIGHTS * 30).astype(np.int8)
    stored = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(np.full(8, 1 / 30, np.float32), "ws"),
        numpy_helper.from_array(np.zeros(8, np.int8), "wz"),
        numpy_helper.from_array(np.float32(0.05), "s"),
        numpy_helper.from_array(np.uint8(128), "z"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"], pads=[1, 1, 1, 1]),
    ]
    file = onnx_file(tmp_path / "q.onnx", nodes, [value("x", [1, 3, 16, 16])], [value("y", [1, 8, 16, 16])], stored)
    wanted = Signature(inputs=(spec("x", 1, 3, 16, 16),), outputs=(spec("y", 1, 8, 16, 16),))
    models.convert("openvino.from-onnx", file, tmp_path / "q.xml", wanted, Numerics.INT8)
    assert models.numerics(tmp_path / "q.xml") is Numerics.INT8
    assert (tmp_path / "q.bin").stat().st_size < weights.size * 2


def test_values_beyond_float16_are_told(tmp_path: Path) -> None:
    from openvino import opset13 as ops

    x = models.parameter("x", [2])
    y = models.named(ops.add(x, ops.constant(np.array([1e6, 1.0], np.float32))), "y")
    file = models.saved(models.built([ops.result(y)], [x]), tmp_path / "m.xml")
    done = models.convert("openvino.fp16", file, tmp_path / "half.xml", describe(file).signature)
    assert any("beyond float16's 65504" in note.text for note in done.notes)


def test_the_border_changes_by_frozen_inputs_and_kept_state_only() -> None:
    assert {option for edge in (*CONVERTING, *QUANTIZING) for option in edge.honours} == {"constants", "states"}


def test_nothing_reports_home(tmp_path: Path) -> None:
    """`import openvino` alone sends an event through a package of its own, where that can be imported."""
    file = models.saved(models.network(), tmp_path / "m.xml")
    code = f"""
import sys
from hub.spec import DescribeJob
from hub_openvino.plugin import OpenvinoFormat
OpenvinoFormat().describe(DescribeJob(path={str(file)!r}))
bad = [n for n, module in sys.modules.items() if n.startswith("openvino_telemetry") and module]
print("openvino" in sys.modules, bad)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "True []"
