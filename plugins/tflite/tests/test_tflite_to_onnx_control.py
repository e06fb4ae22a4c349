"""Loops, branches, calls and variables of TFLite files as ONNX, in LiteRT against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub_onnxgraph.errors import UnsupportedOperator
from hub_onnxruntime.session import OrtSession
from hub_tflite.runtime import LiteRtSession
from hub_tflite.to_onnx.edge import convert
from hub_tflitefile.schema import new, to_bytes
from plugins.tflite.tests.tflite_graphs import INPUT, OUTPUT, Graph, digits, loop, save
from plugins.tflite.tests.tflite_handmade import single
from plugins.tflite.tests.tflite_variables import SIZE, subgraph, with_variable

TOLERANCE = 1e-5


def compare(model: Any, folder: Path, feeds: dict[str, Any]) -> set[str]:
    """Check that both runtimes agree and return the ONNX operators."""
    import onnx

    path, output = folder / "control.tflite", folder / "control.onnx"
    path.write_bytes(to_bytes(model))
    convert(path, output)
    onnx.checker.check_model(onnx.load(output), full_check=True)
    wanted, found = LiteRtSession(path.read_bytes()).run(feeds), OrtSession(output).run(feeds)
    assert list(wanted) == list(found)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=TOLERANCE * np.abs(array).max())
    return {node.op_type for node in onnx.load(output).graph.node}


def test_while_is_a_loop(tmp_path: Path) -> None:
    assert "Loop" in compare(loop(), tmp_path, {INPUT: digits()[0][:1]})


def counting() -> Any:
    """x doubled while it is below a limit that is an input: the number of steps hangs on the values."""
    made = Graph()
    x, limit = made.tensor("x", ()), made.tensor("limit", ())
    y, same = made.tensor("y", ()), made.tensor("same", ())
    made.add("WHILE", [x, limit], [y, same], "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=2)
    model = made.model([x, limit], [y])
    condition, body = made.inner(), made.inner()
    now, most, more = condition.tensor("now", ()), condition.tensor("most", ()), condition.tensor("more", (), "BOOL")
    condition.add("LESS", [now, most], [more], "LessOptions")
    before, kept, after = body.tensor("before", ()), body.tensor("kept", ()), body.tensor("after", ())
    body.add("ADD", [before, before], [after], "AddOptions")
    model.subgraphs += [subgraph(condition, [now, most], [more]), subgraph(body, [before, kept], [after, kept])]
    return model


@pytest.mark.parametrize("limit", [0.5, 1.5, 100.0])
def test_a_loop_runs_as_often_as_its_values_say(limit: float, tmp_path: Path) -> None:
    """Also not at all."""
    compare(counting(), tmp_path, {"x": np.array(1, np.float32), "limit": np.array(limit, np.float32)})


def branching() -> Any:
    """-x or x + x, by an input."""
    made = Graph()
    truth, x, y = made.tensor("truth", (1,), "BOOL"), made.tensor("x", SIZE), made.tensor("y", SIZE)
    made.add("IF", [truth, x], [y], "IfOptions", thenSubgraphIndex=1, elseSubgraphIndex=2)
    model = made.model([truth, x], [y])
    yes, no = made.inner(), made.inner()
    a, b = yes.tensor("a", SIZE), yes.tensor("b", SIZE)
    yes.add("NEG", [a], [b], "NegOptions")
    c, d = no.tensor("c", SIZE), no.tensor("d", SIZE)
    no.add("ADD", [c, c], [d], "AddOptions")
    model.subgraphs += [subgraph(yes, [a], [b]), subgraph(no, [c], [d])]
    return model


@pytest.mark.parametrize("truth", [True, False])
def test_if(truth: bool, tmp_path: Path) -> None:
    feeds = {"truth": np.array([truth]), "x": np.arange(3, dtype=np.float32).reshape(SIZE)}
    assert "If" in compare(branching(), tmp_path, feeds)


def test_a_branch_may_hand_its_input_on(tmp_path: Path) -> None:
    model = branching()
    model.subgraphs[2].outputs = list(model.subgraphs[2].inputs)
    compare(model, tmp_path, {"truth": np.array([False]), "x": np.ones(SIZE, np.float32)})


def test_a_variable_that_is_written_once_is_a_constant(tmp_path: Path) -> None:
    assert compare(with_variable(), tmp_path, {"x": np.ones(SIZE, np.float32)}) == {"Add"}


def test_a_variable_that_is_written_at_run_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperator, match="state between runs"):
        compare(with_variable(written=True), tmp_path, {"x": np.ones(SIZE, np.float32)})


def test_an_absent_input_behind_the_last_one_is_none(tmp_path: Path) -> None:
    import onnx

    made = single("EXP", [np.ones((2, 4), np.float32), -1], [((2, 4), "FLOAT32")])
    convert(save(made.model, tmp_path / "m.tflite"), tmp_path / "m.onnx")
    assert {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node} == {"Exp"}


def test_the_first_signature_is_converted_and_the_others_are_named(tmp_path: Path) -> None:
    model = loop()
    other = new("SignatureDefT", signatureKey=b"encode", subgraphIndex=0, inputs=[], outputs=[])
    model.signatureDefs.append(other)
    path = tmp_path / "two.tflite"
    path.write_bytes(to_bytes(model))
    notes = convert(path, tmp_path / "two.onnx").notes
    assert any("encode" in note.text and "left out" in note.text for note in notes)
    assert list(OrtSession(tmp_path / "two.onnx").run({INPUT: digits()[0][:1]})) == [OUTPUT]
