from __future__ import annotations

import functools
import importlib.resources

import pytest

from hub.spec import (
    ConvertOptions,
    Dim,
    DType,
    ModelSummary,
    Remark,
    Signature,
    State,
    Support,
    TensorSpec,
    parse_expectations,
)
from hub_keras.edges import BY_ID, EDGES
from hub_keras.from_onnx import IMPORTER


def _summary(
    *, operators: tuple[str, ...] = ("Dense",), dtype: DType = DType.FLOAT32, blocking: bool = False
) -> ModelSummary:
    spec = TensorSpec(name="x", dtype=dtype, shape=(Dim.of("batch"), Dim.of(4)), layout="NHWC")
    findings = (Remark("blocker", "string-input", "x: string input"),) if blocking else ()
    return ModelSummary(
        state=State(format="keras"),
        signature=Signature(inputs=(spec,), outputs=(spec,)),
        operators=dict.fromkeys(operators, 1),
        findings=findings,
    )


@pytest.mark.parametrize("edge_id", BY_ID)
def test_blocking_finding_stops_every_edge(edge_id: str) -> None:
    verdict = BY_ID[edge_id].check(_summary(blocking=True), ConvertOptions())
    assert verdict.support is Support.NEVER
    assert verdict.reason == "x: string input"


def test_plain_model_is_taken() -> None:
    assert BY_ID["keras.tflite-frozen"].check(_summary(), ConvertOptions())


@pytest.mark.parametrize(("operators", "taken"), [(("Dense",), False), (("LSTM", "LSTMCell"), True)])
def test_unrolling_needs_something_to_unroll(operators: tuple[str, ...], *, taken: bool) -> None:
    verdict = BY_ID["keras.tflite-unrolled"].check(_summary(operators=operators), ConvertOptions())
    assert bool(verdict) is taken


@pytest.mark.parametrize(
    ("layouts", "wanted", "taken"),
    [
        (("NHWC",), "nchw", True),
        (("NHWC",), "nhwc", True),
        (("",), "nchw", False),
        (("NHWC", "NCHW"), "nchw", False),
        ((), "nchw", True),
    ],
)
def test_layout_change_needs_a_known_layout(layouts: tuple[str, ...], wanted: str, *, taken: bool) -> None:
    shape = (Dim.of("batch"), Dim.of(4), Dim.of(4), Dim.of(3))
    inputs = tuple(TensorSpec(name=f"x{word}", dtype=DType.FLOAT32, shape=shape, layout=word) for word in layouts)
    summary = ModelSummary(state=State(format="keras"), signature=Signature(inputs=inputs, outputs=()))
    verdict = BY_ID["keras.tflite-frozen"].check(summary, ConvertOptions(io_layout=wanted))
    assert bool(verdict) is taken


@pytest.mark.parametrize(("dim", "taken"), [("batch", True), (1, False)])
def test_fixed_shapes_are_no_second_try_of_fixed_shapes(dim: str | int, *, taken: bool) -> None:
    spec = TensorSpec(name="x", dtype=DType.FLOAT32, shape=(Dim.of(dim), Dim.of(4)))
    summary = ModelSummary(state=State(format="keras"), signature=Signature(inputs=(spec,), outputs=(spec,)))
    for edge_id in ("keras.pytorch-static", "keras.onnx-torch-static"):
        verdict = BY_ID[edge_id].check(summary, ConvertOptions(shapes={"x": (1, 4)}))
        assert bool(verdict) is taken


def test_integer_interface_needs_static_int8() -> None:
    assert [edge.id for edge in EDGES if "io_dtype" in edge.honours] == ["keras.tflite-tf-int8"]


def test_complex_inputs_are_not_supported() -> None:
    verdict = BY_ID["keras.tflite-frozen"].check(_summary(dtype=DType.COMPLEX64), ConvertOptions())
    assert "complex64" in verdict.reason


def test_expectations_name_edges_that_exist() -> None:
    text = (importlib.resources.files("hub_keras") / "expectations.toml").read_text()
    expectations = parse_expectations(text)
    assert expectations
    assert {item.edge for item in expectations} <= {*BY_ID, IMPORTER.id}


def test_torch_backend_is_asked_for_in_the_environment_and_in_a_process_of_its_own() -> None:
    for edge in EDGES:
        backend = edge.environment.get("KERAS_BACKEND", "tensorflow")
        assert isinstance(edge.convert, functools.partial)
        assert edge.convert.args[0] == backend
        assert edge.process == f"keras-{backend}"
