"""The prepared form keeps open dims and computes what the original computes, at sizes that it was not made with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import helper

from hub.spec import ShapeNeeded, UnsupportedModel, UsageError
from hub_onnxruntime import simplify
from hub_onnxruntime.compare import relative_error
from hub_onnxruntime.describe import is_prepared_form, summarize
from hub_onnxruntime.prepare import Preparation, prepare_dynamic
from hub_onnxruntime.session import OrtSession
from plugins.onnxruntime.tests import onnx_graphs as graphs
from tests.zoo import data, fetch


class Case(NamedTuple):
    name: str
    constants: dict[str, int | float | bool]
    sizes: tuple[dict[str, tuple[int, ...]], ...]
    note: str


VAD = tuple({"input": (batch, 576), "state": (2, batch, 128)} for batch in (1, 3))
CASES = [
    Case("vad_onnx", {"sr": 16000}, VAD, "folded 24 of 25 If nodes"),
    Case("vad_op15_onnx", {"sr": 16000}, VAD, "raised the opset from 15 to 17"),
    Case("vad_ifless_onnx", {"sr": 16000}, VAD, "folded 1 of 1 If nodes"),
    Case("vad_half_onnx", {}, VAD, "folded 11 of 12 If nodes"),
    Case("ocr_cls", {}, ({"x": (1, 3, 48, 192)}, {"x": (4, 3, 48, 96)}), "gave 3 open dims that had no name one each"),
    Case("ocr_rec", {}, ({"x": (1, 3, 48, 320)}, {"x": (2, 3, 48, 200)}), "gave 1 open dims that had no name one each"),
    Case("ocr_det", {}, ({"x": (1, 3, 96, 160)}, {"x": (2, 3, 64, 320)}), "raised the opset from 12 to 17"),
    Case("magika_onnx", {}, ({"bytes": (1, 2048)}, {"bytes": (5, 2048)}), "raised the opset from 15 to 17"),
]


def run(source: Path, folder: Path, shapes: Any = None, constants: Any = None) -> tuple[Preparation, Path]:
    scratch, target = folder / "scratch", folder / "prepared.onnx"
    scratch.mkdir(exist_ok=True)
    return prepare_dynamic(source, target, scratch, shapes or {}, constants or {}), target


def feeds_of(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Random inputs; for the OCR networks crops of photographs, because noise leaves the detector's map empty."""
    if "x" in shapes and len(shapes["x"]) == 4:
        rows, _, height, width = shapes["x"]
        return {"x": np.ascontiguousarray(data.feeds("ocr_det", "test", 4)["x"][:rows, :, :height, :width])}
    generator = np.random.default_rng(1)
    kinds = {spec.name: spec.dtype.value for spec in summarize(path).signature.inputs}
    return {
        name: generator.standard_normal(shape).astype(np.float32)
        if kinds[name] == "float32"
        else generator.integers(0, 200, shape).astype(kinds[name])
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_real_models_at_two_sizes(case: Case, tmp_path: Path) -> None:
    original = fetch.path(case.name)
    done, prepared = run(original, tmp_path, constants=case.constants)
    assert case.note in [note.text for note in done.notes]
    summary = summarize(prepared, "prepared")
    assert summary.state.form == "prepared"
    before = [spec for spec in summarize(original).signature.inputs if spec.name not in case.constants]
    assert list(summary.signature.inputs) == before
    sessions = [OrtSession(original), OrtSession(prepared)]
    frozen = {name: np.array(value) for name, value in case.constants.items()}
    for shapes in case.sizes:
        feeds = feeds_of(original, shapes)
        wanted, found = sessions[0].run(feeds | frozen), sessions[1].run(feeds)
        assert max(relative_error(wanted[name], found[name]) for name in wanted) < 1e-5


def test_what_decides_no_if_stays_and_what_is_known_goes(tmp_path: Path) -> None:
    source = graphs.saved(graphs.on_flag(), tmp_path / "m.onnx")
    done, prepared = run(source, tmp_path, constants={"flag": True})
    assert "folded 1 of 2 If nodes" in [note.text for note in done.notes]
    assert "1 If nodes stay" in [note.text for note in done.notes]  # on the batch, which is open
    session = OrtSession(prepared)
    for batch, wanted in ((2, 2.0), (5, 0.0)):
        assert np.all(session.run({"x": np.ones((batch, 4), np.float32)})["y"] == wanted)


def test_given_shapes_are_fixed_and_the_others_stay_open(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["b"], ["sum"], keepdims=0), helper.make_node("Add", ["a", "sum"], ["y"])]
    inputs = [graphs.value("a", ["n", "k"]), graphs.value("b", ["m", 4])]
    source = graphs.saved(graphs.model(nodes, inputs, [graphs.value("y", ["n", "k"])]), tmp_path / "m.onnx")
    done, prepared = run(source, tmp_path, {"a": (2, 3)})
    assert "fixed input 'a' to 2x3" in [note.text for note in done.notes]
    assert list(map(str, summarize(prepared).signature.inputs)) == ["a: float32[2x3]", "b: float32[mx4]"]
    with pytest.raises(UsageError, match="does not fit input 'b'"):
        run(source, tmp_path, {"b": (2, 5)})


def test_unknown_dims_get_a_name_each_that_no_other_dim_has(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    inputs = [graphs.value("a", ["?", "a_dim0", "?"]), graphs.value("b", [None, 1, 1])]
    source = graphs.saved(graphs.model(nodes, inputs, [graphs.value("y", ["?", "?", "?"])]), tmp_path / "m.onnx")
    done, prepared = run(source, tmp_path)
    assert "gave 3 open dims that had no name one each" in [note.text for note in done.notes]
    first, second = (tuple(map(str, spec.shape)) for spec in summarize(prepared).signature.inputs)
    assert first == ("a_dim0_", "a_dim0", "a_dim2")
    assert second == ("b_dim0", "1", "1")
    feeds = {"a": np.ones((2, 3, 5), np.float32), "b": np.ones((1, 1, 1), np.float32)}
    assert OrtSession(prepared).run(feeds)["y"].shape == (2, 3, 5)


def test_an_unknown_rank_is_asked_for(tmp_path: Path) -> None:
    proto = graphs.dense()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ShapeNeeded, match="unknown rank: x") as caught:
        run(graphs.saved(proto, tmp_path / "m.onnx"), tmp_path)
    assert "--shape x=" in caught.value.hint


def baked(model: Any, _scratch: Path) -> Any:
    """A tool that fixes a reshape to the first size it sees."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "rows")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([2, 8], np.int64), "rows"))
    return model


def no_bias(model: Any, _scratch: Path) -> Any:
    """A tool that breaks the graph only where the batch is larger than two."""
    model.graph.node[0].op_type = "Identity"
    return model


def reshaped() -> Any:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Reshape", ["r", "rows"], ["y"])]
    stored = {"rows": np.array([0, -1], np.int64)}
    return graphs.model(nodes, [graphs.value("x", ["n", 2, 4])], [graphs.value("y", ["n", 8])], stored)


@pytest.mark.parametrize(("tool", "reason"), [(baked, "rejected onnxslim"), (no_bias, "differs by")])
def test_a_tool_that_is_right_at_one_size_only_is_rejected(
    tool: Callable[..., Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(simplify.TOOLS, "onnxslim", tool)
    done, prepared = run(graphs.saved(reshaped(), tmp_path / "m.onnx"), tmp_path)
    assert any(note.text.startswith("rejected onnxslim") and reason in note.text for note in done.notes)
    assert OrtSession(prepared).run({"x": np.ones((7, 2, 4), np.float32)})["y"].shape == (7, 8)


def test_float64_external_data_and_functions_go(tmp_path: Path) -> None:
    source = graphs.saved(graphs.float64_inside(graphs.DOUBLE), tmp_path / "m.onnx")
    done, prepared = run(source, tmp_path)
    assert any(note.text.startswith("computed float64 inside") for note in done.notes)
    assert is_prepared_form(onnx.shape_inference.infer_shapes(onnx.load(prepared)))
    external = graphs.external(tmp_path / "e.onnx", "weights.bin")
    done, _ = run(external, tmp_path)
    assert "took 1 tensors of external data into the file" in [note.text for note in done.notes]


def test_the_prepared_form_is_checked_not_believed(tmp_path: Path) -> None:
    old = graphs.dense(["n", 4])
    old.opset_import[0].version = 12
    doubled = graphs.float64_inside(graphs.FLOAT)
    for proto in (old, graphs.custom_operator(), doubled):
        path = graphs.saved(proto, tmp_path / "m.onnx")
        assert summarize(path, "prepared").state.form == ""
    assert summarize(graphs.saved(graphs.dense(["n", 4]), path), "prepared").state.form == "prepared"


def test_an_opset_that_cannot_be_raised_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_model: Any, _target: int) -> Any:
        raise onnx.version_converter.ConvertError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fails)
    proto = graphs.dense(["n", 4])
    proto.opset_import[0].version = 12
    with pytest.raises(UnsupportedModel, match="opset 12 could not be raised to 17"):
        run(graphs.saved(proto, tmp_path / "m.onnx"), tmp_path)
