"""The static form computes what the original computes, in ONNX Runtime, on real inputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import helper

from hub.spec import ShapeNeeded, UnknownName, UnsupportedModel, UsageError
from hub_onnxruntime import compare, simplify
from hub_onnxruntime.describe import is_static_form, signature_of, summarize
from hub_onnxruntime.prepare import Preparation, prepare
from plugins.onnxruntime.tests import onnx_graphs as graphs
from tests.zoo import data, fetch

Feeds = dict[str, Any]


class Case(NamedTuple):
    name: str
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, int | float | bool]
    note: str


VAD = {"input": (1, 576), "state": (2, 1, 128)}
CASES = [
    Case("vad_onnx", VAD, {"sr": 16000}, "folded 25 of 25 If nodes"),
    Case("vad_op15_onnx", VAD, {"sr": 16000}, "folded 12 of 12 If nodes"),
    Case("vad_ifless_onnx", VAD, {"sr": 16000}, "folded 1 of 1 If nodes"),
    Case("vad_half_onnx", VAD, {}, "folded 12 of 12 If nodes"),
    Case("vad_fixed_onnx", {}, {}, "raised the opset from 16 to 17"),
    Case("ocr_cls", {"x": (1, 3, 48, 192)}, {}, "raised the opset from 11 to 17"),
    Case("ocr_rec", {"x": (1, 3, 48, 320)}, {}, "raised the opset from 12 to 17"),
    Case("ocr_det", {"x": (1, 3, 320, 320)}, {}, "raised the opset from 12 to 17"),
    Case("magika_onnx", {"bytes": (1, 2048)}, {}, "raised the opset from 15 to 17"),
]


def sample(name: str) -> Feeds:
    arrays = data.feeds(name, "test", 1)
    return {key: rows if not name.startswith("vad") else np.asarray(rows[0]) for key, rows in arrays.items()}


def difference(original: Path, static: Path, feeds: Feeds, folder: Path) -> float:
    """Both files in a process of its own: ONNX Runtime has crashed on such models."""
    np.savez(folder / "sample.npz", **feeds)
    command = [sys.executable, compare.__file__, str(original), str(static), str(folder / "sample.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout.splitlines()[-1])["error"])


def run(source: Path, folder: Path, shapes: Any = None, constants: Any = None) -> tuple[Preparation, Path]:
    scratch, target = folder / "scratch", folder / "static.onnx"
    scratch.mkdir(exist_ok=True)
    return prepare(source, target, scratch, shapes or {}, constants or {}), target


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_real_models(case: Case, tmp_path: Path) -> None:
    original = fetch.path(case.name)
    content = original.read_bytes()
    done, static = run(original, tmp_path, case.shapes, case.constants)
    assert original.read_bytes() == content
    assert case.note in [note.text for note in done.notes]
    assert done.frozen == case.constants
    assert difference(original, static, sample(case.name), tmp_path) < 1e-5
    assert summarize(static, "static").state.form == "static"
    check_border(case, static)


def check_border(case: Case, static: Path) -> None:
    before, after = (signature_of(onnx.load(path).graph) for path in (fetch.path(case.name), static))
    wanted = [(spec.name, spec.dtype) for spec in before.inputs if spec.name not in case.constants]
    assert [(spec.name, spec.dtype) for spec in after.inputs] == wanted
    outputs = [(spec.name, spec.dtype) for spec in after.outputs]
    assert outputs == [(spec.name, spec.dtype) for spec in before.outputs]
    assert after.is_static
    assert all(spec.is_static for spec in after.outputs)


def light(name: str) -> Path:
    return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"


@pytest.mark.parametrize("name", ["shufflenet", "squeezenet", "inception_v1"])
def test_networks_of_opset_9_with_stored_inputs(name: str, tmp_path: Path) -> None:
    done, static = run(light(name), tmp_path)
    assert "raised the opset from 9 to 17" in [note.text for note in done.notes]
    assert any("stored tensors out of the list of inputs" in note.text for note in done.notes)
    feeds = {info.name: np.ones(info.fixed_shape, np.float32) for info in summarize(static).signature.inputs}
    assert difference(light(name), static, feeds, tmp_path) < 1e-4


def test_strings_are_refused(tmp_path: Path) -> None:
    kind = onnx.TensorProto.STRING
    node = helper.make_node("Identity", ["x"], ["y"])
    proto = graphs.model([node], [graphs.value("x", [2], kind)], [graphs.value("y", [2], kind)])
    with pytest.raises(UnsupportedModel, match=r"no tensors of numbers: x \(string\)"):
        run(graphs.saved(proto, tmp_path / "m.onnx"), tmp_path)


@pytest.mark.parametrize(("flag", "batch", "wanted"), [(True, 2, 2.0), (True, 5, 0.0), (False, 5, -1.0)])
def test_nested_ifs_on_a_flag_and_on_a_size(flag: bool, batch: int, wanted: float, tmp_path: Path) -> None:
    source = graphs.saved(graphs.on_flag(), tmp_path / "m.onnx")
    done, static = run(source, tmp_path, {"x": (batch, 4)}, {"flag": flag})
    assert "folded 2 of 2 If nodes" in [note.text for note in done.notes]
    from hub_onnxruntime.session import OrtSession

    y = OrtSession(static).run({"x": np.ones((batch, 4), np.float32)})["y"]
    assert np.array_equal(y, np.full((batch, 4), wanted, np.float32))


@pytest.mark.parametrize("given", [("a", "a"), ("a", "b"), ("w", "w"), ("w", "a")])
def test_a_branch_may_give_one_value_twice_or_a_stored_one(given: tuple[str, str], tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["b"])]
    stored = [onnx.numpy_helper.from_array(np.full((2, 4), 7, np.float32), "w")]
    values = [graphs.value(name, [2, 4]) for name in given]
    then = helper.make_graph(nodes, "then", [], values, stored)
    other = helper.make_graph(
        [helper.make_node("Abs", ["x"], [name]) for name in "cd"],
        "else",
        [],
        [graphs.value(name, [2, 4]) for name in "cd"],
    )
    choice = helper.make_node("If", ["flag"], ["y", "z"], then_branch=then, else_branch=other)
    outputs = [graphs.value("y", [2, 4]), graphs.value("z", [2, 4])]
    proto = graphs.model([choice], [graphs.value("x", [2, 4])], outputs, {"flag": np.ones((), bool)})
    done, static = run(graphs.saved(proto, tmp_path / "m.onnx"), tmp_path)
    assert "folded 1 of 1 If nodes" in [note.text for note in done.notes]
    from hub_onnxruntime.session import OrtSession

    found = OrtSession(static).run({"x": np.ones((2, 4), np.float32)})
    wanted = {"a": -1.0, "b": 1.0, "w": 7.0}
    assert [float(found[name][0, 0]) for name in "yz"] == [wanted[name] for name in given]


def test_outputs_that_nothing_reads_keep_their_names(tmp_path: Path) -> None:
    """onnx2tf converts no LSTM without its first output."""
    _, static = run(fetch.path("vad_onnx"), tmp_path, VAD, {"sr": 16000})
    lstm = next(node for node in onnx.load(static).graph.node if node.op_type == "LSTM")
    assert all(lstm.output)


def test_sparse_tensors_are_stored_in_full(tmp_path: Path) -> None:
    proto = graphs.dense()
    full = np.zeros((4, 3), np.float32)
    full[1, 2], full[3, 0] = 2.0, -3.0
    for name, places in (("flat", np.array([5, 9])), ("pairs", np.array([[1, 2], [3, 0]]))):
        del proto.graph.initializer[:], proto.graph.sparse_initializer[:]
        values, indices = np.array([2.0, -3.0], np.float32), places.astype(np.int64)
        parts = (onnx.numpy_helper.from_array(values, "w"), onnx.numpy_helper.from_array(indices, "indices"))
        proto.graph.sparse_initializer.append(helper.make_sparse_tensor(*parts, [4, 3]))
        done, static = run(graphs.saved(proto, tmp_path / f"{name}.onnx"), tmp_path)
        assert "stored 1 sparse tensors in full" in [note.text for note in done.notes]
        assert np.array_equal(onnx.numpy_helper.to_array(onnx.load(static).graph.initializer[0]), full)


def test_an_if_that_only_a_run_decides_stays(tmp_path: Path) -> None:
    source = graphs.saved(graphs.on_flag(), tmp_path / "m.onnx")
    done, static = run(source, tmp_path, {"x": (2, 4)})
    assert "1 If nodes stay" in [note.text for note in done.notes]
    assert is_static_form(onnx.load(static))


@pytest.mark.parametrize("border", [graphs.FLOAT, graphs.DOUBLE])
def test_float64_inside_becomes_float32(border: int, tmp_path: Path) -> None:
    source = graphs.saved(graphs.float64_inside(border), tmp_path / "m.onnx")
    done, static = run(source, tmp_path, {"x": (2, 4)})
    assert any(note.text.startswith("computed float64 inside") for note in done.notes)
    assert "clamped 1 float64 constants to float32's range" in [note.text for note in done.notes]
    graph = onnx.shape_inference.infer_shapes(onnx.load(static)).graph
    assert not [tensor.name for tensor in graph.initializer if tensor.data_type == graphs.DOUBLE]
    assert not [value.name for value in graph.value_info if value.type.tensor_type.elem_type == graphs.DOUBLE]
    assert [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)] == [border, border]
    x = np.linspace(-3, 3, 8).reshape(2, 4).astype(helper.tensor_dtype_to_np_dtype(border))
    assert difference(source, static, {"x": x}, tmp_path) < 1e-6


def test_external_data_comes_into_the_file(tmp_path: Path) -> None:
    source = graphs.external(tmp_path / "m.onnx", "weights.bin")
    done, static = run(source, tmp_path)
    assert done.notes[0].text == "took 1 tensors of external data into the file"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    alone = Path(static.replace(moved / "alone.onnx"))
    assert difference(source, alone, {"x": np.ones((1, 4), np.float32)}, tmp_path) == 0.0


def test_missing_shapes_are_asked_for_with_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ShapeNeeded, match="'x'") as caught:
        run(fetch.path("ocr_cls"), tmp_path)
    assert "--shape x=x_dim0x3xx_dim2xx_dim3" in caught.value.hint


def test_one_symbol_fixes_every_input_that_has_it(tmp_path: Path) -> None:
    proto = graphs.model(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [graphs.value("a", ["n", 4]), graphs.value("b", ["n", 4])],
        [graphs.value("y", ["n", 4])],
    )
    source = graphs.saved(proto, tmp_path / "m.onnx")
    _, static = run(source, tmp_path, {"a": (3, 4)})
    assert summarize(static).signature.inputs[1].fixed_shape == (3, 4)
    with pytest.raises(UsageError, match="dim 'n' is 3 in one input and 2"):
        run(source, tmp_path, {"a": (3, 4), "b": (2, 4)})


@pytest.mark.parametrize("shape", [(1, 4, 48, 192), (1, 3, 48), (1, 3, 0, 192)])
def test_a_shape_that_does_not_fit_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not fit input 'x'"):
        run(fetch.path("ocr_cls"), tmp_path, {"x": shape})


def test_a_wrong_name_is_answered_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as caught:
        run(fetch.path("vad_onnx"), tmp_path, VAD, {"srr": 16000})
    assert "--constant sr=" in caught.value.hint


def test_a_custom_operator_is_refused(tmp_path: Path) -> None:
    source = graphs.saved(graphs.custom_operator(), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModel, match=r"com\.example::Wobble"):
        run(source, tmp_path)


def negated(model: Any, _scratch: Path) -> Any:
    """A tool that breaks the graph: it turns the first bias around."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), "w"))
    return model


def renamed(model: Any, _scratch: Path) -> Any:
    model.graph.node[0].output[0] = model.graph.output[0].name = "other"
    return model


def broken(_model: Any, _scratch: Path) -> Any:
    raise KeyError("no such tensor")


@pytest.mark.parametrize(
    ("tool", "reason"),
    [(negated, "differs by 2 relative"), (renamed, "changed inputs or outputs"), (broken, "it failed: KeyError")],
)
def test_a_tool_that_breaks_the_graph_is_rejected(
    tool: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(simplify.TOOLS, "onnxslim", tool)
    source = graphs.saved(graphs.dense(), tmp_path / "m.onnx")
    done, static = run(source, tmp_path)
    assert any(note.text.startswith("rejected onnxslim") and reason in note.text for note in done.notes)
    assert any(note.text.startswith("simplified with ONNX Runtime's basic optimization") for note in done.notes)
    assert difference(source, static, {"x": np.ones((1, 4), np.float32)}, tmp_path) == 0.0


def test_an_input_that_nothing_reads_stays_an_input(tmp_path: Path) -> None:
    proto = graphs.dense()
    proto.graph.input.insert(0, graphs.value("unused", [2]))
    done, static = run(graphs.saved(proto, tmp_path / "m.onnx"), tmp_path)
    assert [spec.name for spec in summarize(static).signature.inputs] == ["unused", "x"]
    assert any(note.text.startswith("simplified with onnxslim") for note in done.notes)


def test_an_original_that_needs_other_inputs_is_checked_for_validity_only(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["step"], value_ints=[2]),
        helper.make_node("Add", ["place", "step"], ["far"]),
        helper.make_node("Sub", ["far", "far_start"], ["index"]),
        helper.make_node("Gather", ["x", "index"], ["y"]),
    ]
    inputs = [graphs.value("x", [3]), graphs.value("place", [1], graphs.INT64)]
    proto = graphs.model(nodes, inputs, [graphs.value("y", [1])], {"far_start": np.array([9], np.int64)})
    source = graphs.saved(proto, tmp_path / "m.onnx")
    done, static = run(source, tmp_path)
    assert any("checked for validity only" in note.text and "Gather" in note.text for note in done.notes)
    feeds = {"x": np.arange(3, dtype=np.float32), "place": np.array([8], np.int64)}
    assert difference(source, static, feeds, tmp_path) == 0.0


@pytest.mark.parametrize("tool", list(simplify.TOOLS)[:3])
def test_each_tool_alone_is_right_on_a_real_model(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if tool == "onnxsim":
        pytest.importorskip("onnxsim", reason="an optional extra: the third tool")
    monkeypatch.setattr(simplify, "TOOLS", {tool: simplify.TOOLS[tool]})
    done, static = run(fetch.path("ocr_cls"), tmp_path, {"x": (1, 3, 48, 192)})
    assert any(note.text.startswith(f"simplified with {tool}") for note in done.notes)
    assert difference(fetch.path("ocr_cls"), static, sample("ocr_cls"), tmp_path) < 1e-5
    assert is_static_form(onnx.load(static))
