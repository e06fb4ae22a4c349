"""Channels of one range: the float model's numbers bit for bit, and an int8 model that is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from hub.spec import ConvertJob, Edge, ModelArtifact, Numerics, State, UnsupportedModel, write_sample
from hub_onnxquant.equalize import pairs_of
from hub_onnxruntime.describe import signature_of, summarize
from hub_onnxruntime.quantize.convert import EQUALIZED_FORM, EQUALIZING, QUANTIZING
from hub_onnxruntime.session import OrtSession
from plugins.onnxruntime.tests.onnx_graphs import model, value

EDGES = {edge.id: edge for edge in (*EQUALIZING, *QUANTIZING)}
SPREAD = 2.0 ** np.linspace(-3, 3, 16)
"""What trained depthwise convolutions do to channels: some come out far larger than others."""


def network(between: str = "Relu") -> Any:
    """1x1, depthwise 3x3, 1x1 convolutions; two share a bias of zeros, and each undoes the ranges of the one before."""
    random = np.random.default_rng(0)
    spread = SPREAD.astype(np.float32).reshape(-1, 1, 1, 1)
    stored = {
        "first": random.standard_normal((16, 3, 1, 1)).astype(np.float32) * spread,
        "deep": random.standard_normal((16, 1, 3, 3)).astype(np.float32),
        "last": random.standard_normal((4, 16, 1, 1)).astype(np.float32) / spread.reshape(1, -1, 1, 1),
        "zeros": np.zeros(16, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "first", "zeros"], ["a"], name="first"),
        helper.make_node(between, ["a"], ["b"], name="middle"),
        helper.make_node("Conv", ["b", "deep", "zeros"], ["c"], name="deep", group=16, pads=[1] * 4),
        helper.make_node("Conv", ["c", "last"], ["y"], name="last"),
    ]
    return model(nodes, [value("x", [1, 3, 12, 12])], [value("y", [1, 4, 12, 12])], stored)


def samples(count: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(count)]


def convert(edge: Edge, source: Path, folder: Path, form: str = "static") -> Path:
    scratch, calibration = folder / f"{edge.id}.scratch", folder / "calibration"
    scratch.mkdir()
    for index, feeds in enumerate(samples(16, 1)):
        write_sample(calibration, index, feeds)
    state = State(format="onnx", form=form)
    signature = signature_of(onnx.load(source).graph)
    artifact = ModelArtifact(path=str(source), state=state, signature=signature, sha256="", size_bytes=1)
    result = folder / f"{edge.id}.onnx"
    target = edge.gives.states(Numerics.FP32)[0]
    edge.convert(
        ConvertJob(
            target=target, source=artifact, output=str(result), scratch=str(scratch), calibration=str(calibration)
        )
    )
    return result


def worst_db(one: Path, other: Path) -> float:
    before, after = OrtSession(one), OrtSession(other)
    pairs = [(before.run(feeds)["y"], after.run(feeds)["y"]) for feeds in samples(8, 2)]
    signal = sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
    return 10 * np.log10(signal / sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs))


def test_bit_for_bit_and_an_int8_model_that_is_right(tmp_path: Path) -> None:
    source = tmp_path / "float.onnx"
    onnx.save(network(), source)
    plain = convert(EDGES["onnx.int8"], source, tmp_path)
    equal = convert(EDGES["onnx.equalize"], source, tmp_path)
    for feeds in samples(8, 2):
        assert OrtSession(equal).run(feeds)["y"].tobytes() == OrtSession(source).run(feeds)["y"].tobytes()
    result = convert(EDGES["onnx.int8-equalized"], equal, tmp_path, EQUALIZED_FORM)
    assert summarize(result).state.numerics is Numerics.INT8
    assert worst_db(source, result) > worst_db(source, plain) + 6


def test_only_what_lets_factors_through(tmp_path: Path) -> None:
    assert [(pair.first.name, pair.second.name) for pair in pairs_of(network())] == [
        ("first", "deep"),
        ("deep", "last"),
    ]
    assert [pair.first.name for pair in pairs_of(network("Sigmoid"))] == ["deep"]
    read_twice = network()
    read_twice.graph.output.append(value("c", [1, 16, 12, 12]))
    assert [pair.first.name for pair in pairs_of(read_twice)] == ["first"]
    neither = network("Sigmoid")
    neither.graph.output.append(value("c", [1, 16, 12, 12]))
    source = tmp_path / "neither.onnx"
    onnx.save(neither, source)
    with pytest.raises(UnsupportedModel, match="nothing to equalize"):
        convert(EDGES["onnx.equalize"], source, tmp_path)
