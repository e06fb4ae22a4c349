"""What LiteRT really executes: parts that XNNPACK takes, operators that it leaves, and sessions that show their inside.

Claims are checked against the file's own graph, counted and walked here, and against what numpy computes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hub
from hub.spec import Execution, Explains, RunsAsync, ShowsIntermediates, StepError, UnknownName, UsageError, processor
from hub_tflite.runtime import LiteRtSession
from hub_tflitefile.schema import code_of, numbers, operator_name, parse, text, to_bytes
from plugins.tflite.tests import tflite_graphs as graphs
from tests.zoo import data, fetch

SAMPLES = Path(__file__).parents[3] / "samples" / "digits_torch"


def feeds_of(session: LiteRtSession) -> dict[str, np.ndarray[Any, Any]]:
    details = {d["index"]: d for d in session._interpreter.get_input_details()}
    chosen = {name: details[index] for name, index in session.inputs.items()}
    random = np.random.default_rng(0)
    return {name: random.random(d["shape"]).astype(d["dtype"]) for name, d in chosen.items()}


def explain(content: bytes, variant: str = "") -> Execution:
    session = LiteRtSession(content, variant, threads=2)
    return session.execution(feeds_of(session))


def main_graph(content: bytes) -> dict[str, int]:
    model = parse(content)
    return dict(Counter(operator_name(model, operator) for operator in model.subgraphs[0].operators))


def account(execution: Execution) -> dict[str, int]:
    covered = Counter(word for layer in execution.layers for word in layer.covers)
    return dict(covered + Counter(execution.eliminated))


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("execution") / "int8.tflite"
    calibration = str(SAMPLES / "calibration.npz")
    hub.convert(str(SAMPLES / "digits.pt2"), to="tflite", precision="int8", calibration=calibration, output=str(output))
    return output.read_bytes()


def test_the_account_closes(int8: bytes) -> None:
    files = [int8, to_bytes(graphs.classifier()), fetch.path("emotion_tflite").read_bytes(), to_bytes(graphs.loop())]
    for content in files:
        for variant in ("xnnpack", "reference"):
            execution = explain(content, variant)
            assert execution.operators == account(execution) == main_graph(content)
            assert not execution.timed_by
            assert all(layer.time_share is None for layer in execution.layers)


def test_int8_is_one_piece(int8: bytes) -> None:
    execution = explain(int8)
    (layer,) = execution.layers
    assert (layer.device, layer.precision) == ("XNNPACK", "int8")
    assert execution.device == "XNNPACK"
    assert execution.settings == {"kernels": "xnnpack", "threads": "2"}
    dots = [obstacle for obstacle in execution.remarks if "integer dot product" in obstacle.text]
    assert bool(dots) is (processor().has_integer_dot is False)


def test_float_has_nothing_against_it() -> None:
    execution = explain(to_bytes(graphs.classifier()))
    assert execution.remarks == ()
    assert set(execution.by_precision) == {"fp32"}


def test_a_hybrid_depthwise_convolution_splits_the_graph() -> None:
    execution = explain(fetch.path("emotion_tflite").read_bytes())
    assert [layer.device for layer in execution.layers] == ["XNNPACK", "builtin", "XNNPACK"]
    assert execution.layers[1].covers == ("DEPTHWISE_CONV_2D",)
    assert any("XNNPACK runs in 2 pieces" in obstacle.text for obstacle in execution.remarks)


def test_the_order_is_one_that_can_be_executed() -> None:
    content = fetch.path("emotion_tflite").read_bytes()
    session = LiteRtSession(content)
    execution = session.execution(feeds_of(session))
    model = parse(content)
    graph = model.subgraphs[0]
    outside = next(layer for layer in execution.layers if layer.device == "builtin")
    (operator,) = [o for o in graph.operators if text(graph.tensors[numbers(o.outputs)[0]].name) == outside.name]
    first = set(graph_before(graph, numbers(operator.inputs)))
    assert len(first) <= len(execution.layers[0].covers)  # all that it waits for is in the piece before it


def graph_before(graph: Any, tensors: list[int]) -> list[int]:
    makers = {t: place for place, o in enumerate(graph.operators) for t in numbers(o.outputs)}
    found: list[int] = []
    wanted = [makers[t] for t in tensors if t in makers]
    while wanted:
        place = wanted.pop()
        found.append(place)
        wanted += [makers[t] for t in numbers(graph.operators[place].inputs) if t in makers and makers[t] not in found]
    return found


def test_planted_an_operator_without_a_kernel_in_xnnpack() -> None:
    plain, planted = graphs.classifier("RELU"), graphs.classifier("RELU")
    code = next(c for c in planted.operatorCodes if c.builtinCode == code_of("BuiltinOperator", "RELU"))
    code.builtinCode = code.deprecatedBuiltinCode = code_of("BuiltinOperator", "LOG_SOFTMAX")
    assert set(explain(to_bytes(plain)).by_device) == {"XNNPACK"}
    execution = explain(to_bytes(planted))
    assert [(layer.device, layer.covers[0]) for layer in execution.layers] == [
        ("XNNPACK", "FULLY_CONNECTED"),
        ("builtin", "LOG_SOFTMAX"),
        ("XNNPACK", "FULLY_CONNECTED"),
    ]
    assert any("1 of 1 LOG_SOFTMAX" in obstacle.text for obstacle in execution.remarks)


def test_planted_an_operator_that_feeds_nothing() -> None:
    model = graphs.classifier()
    graph = model.subgraphs[0]
    made = parse(to_bytes(model)).subgraphs[0]
    dead = next(o for o in made.operators if operator_name(model, o) == "SOFTMAX")
    spare = parse(to_bytes(model)).subgraphs[0].tensors[numbers(dead.outputs)[0]]
    spare.name = b"spare"
    graph.tensors.append(spare)
    dead.outputs = [len(graph.tensors) - 1]
    graph.operators.append(dead)
    execution = explain(to_bytes(model))
    assert execution.operators["SOFTMAX"] == 2
    assert account(execution) == execution.operators
    assert explain(to_bytes(model), "reference").eliminated == {}  # these kernels run it, whatever for


def test_bodies_are_not_shown() -> None:
    execution = explain(to_bytes(graphs.loop()))
    assert execution.by_device["builtin"].layers == 1
    assert any("WHILE" in obstacle.text and "not shown" in obstacle.text for obstacle in execution.remarks)


def test_another_size_leaves_no_trace_of_the_first() -> None:
    session = LiteRtSession(to_bytes(graphs.classifier()), threads=1)
    images = graphs.digits()[0]
    first = session.execution({"image": images[:1]})
    for count in (3, 1, 5):
        assert session.execution({"image": images[:count]}) == first


def test_a_session_is_as_before_after_it_was_explained(int8: bytes) -> None:
    session = LiteRtSession(int8)
    feeds = feeds_of(session)
    before = session.run(feeds)
    session.execution(feeds)
    for name, array in session.run(feeds).items():
        np.testing.assert_array_equal(array, before[name])


def test_what_sessions_can_do_besides() -> None:
    session = LiteRtSession(to_bytes(graphs.classifier()))
    for protocol in (Explains, RunsAsync, ShowsIntermediates):
        assert isinstance(session, protocol)


def test_runs_that_are_queued(int8: bytes) -> None:
    session = LiteRtSession(int8, threads=2)
    (name,) = session.inputs
    images = np.load(SAMPLES / "test.npz")["image"][:24]
    futures = [session.run_async({name: image[None]}) for image in images]
    alone = [session.run({name: image[None]}) for image in images]
    for future, result in zip(futures, alone, strict=True):
        for output, array in future.result(30).items():
            np.testing.assert_array_equal(array, result[output])
    with pytest.raises(UsageError, match="takes"):
        session.run_async({"nothing": images}).result(30)
    session.close()


@pytest.mark.parametrize("variant", ["xnnpack", "reference"])
def test_intermediates(variant: str) -> None:
    content = to_bytes(graphs.classifier())
    image = graphs.digits()[0][:1]
    session = LiteRtSession(content, variant)
    shown = session.intermediate(["active", "hidden", "scores"]).run({"image": image})
    assert list(shown) == ["active", "hidden", "scores"]
    w1, b1, _, _ = graphs.weights()
    np.testing.assert_allclose(shown["hidden"], image @ w1 + b1, atol=1e-5)
    np.testing.assert_allclose(shown["active"], np.maximum(shown["hidden"], 0))
    np.testing.assert_allclose(shown["scores"], session.run({"image": image})["scores"], atol=1e-6)
    with pytest.raises(UnknownName, match="no tensor elsewhere"):
        session.intermediate(["hidden", "elsewhere"])


@pytest.mark.scheduled
def test_real_models(tmp_path: Path) -> None:
    samples = data.write("ocr_cls", tmp_path / "data")
    for precision, devices in (("fp32", {"XNNPACK"}), ("int8", {"XNNPACK"}), ("int16x8", {"builtin"})):
        output = tmp_path / f"{precision}.tflite"
        hub.convert(
            str(fetch.path("ocr_cls")),
            to="tflite",
            precision=precision,
            calibration=str(samples.calibration),
            test=str(samples.test),
            output=str(output),
        )
        execution = explain(output.read_bytes())
        assert account(execution) == execution.operators == main_graph(output.read_bytes())
        assert devices <= set(execution.by_device)
        left = [
            obstacle for obstacle in execution.remarks if "not taken by XNNPACK for int16 values: " in obstacle.text
        ]
        assert bool(left) is (precision == "int16x8")


def test_a_kernel_that_fails_is_an_error_of_the_step() -> None:
    session = LiteRtSession(to_bytes(graphs.classifier()))
    with pytest.raises(StepError):
        session.execution({"image": np.zeros((1, 3), np.float32)})
