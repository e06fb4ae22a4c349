"""What OpenVINO executes, in the words of the file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub.spec import Execution, Explains, processor
from hub_openvino.execution import _narrowed
from hub_openvino.ir import read_ir
from plugins.openvino.tests import openvino_models as models
from plugins.openvino.tests.test_openvino_describe import CASES

X = {"x": np.random.default_rng(2).uniform(-3, 3, (1, 3, 16, 16)).astype(np.float32)}


def executed(case: str, folder: Path, **options: Any) -> Execution:
    session = models.session(models.saved(CASES[case][0](), folder / "m.xml"), **options)
    assert isinstance(session, Explains)
    before = session.run(X)["y"]
    found = session.execution(X)
    assert np.array_equal(before, session.run(X)["y"])
    return found


@pytest.mark.parametrize("case", ["float", "int8", "int8 through QDQ", "one layer in float", "int8 weights"])
def test_every_operator_of_the_file_is_run_by_somebody_or_gone(case: str, tmp_path: Path) -> None:
    found = executed(case, tmp_path)
    covered = Counter(word for layer in found.layers for word in layer.covers)
    assert found.operators == Counter(found.eliminated) + covered
    there = Counter(node.type for node in read_ir(tmp_path / "m.xml").graph.computing)
    assert found.operators == there


def test_a_fusion_is_one_layer(tmp_path: Path) -> None:
    found = executed("float", tmp_path)
    assert found.fusions == {"Convolution + ReLU -> Convolution": 1}
    convolution = next(layer for layer in found.layers if "Convolution" in layer.covers)
    assert (convolution.precision, convolution.device) == ("fp32", "CPU")
    assert convolution.kernel.endswith("f32")


def test_shares_of_time_add_up(tmp_path: Path) -> None:
    found = executed("one layer in float", tmp_path)
    assert sum(layer.time_share or 0.0 for layer in found.layers) == pytest.approx(1.0)
    assert found.timed_by.startswith("profile of ")


def test_integers_are_said_to_run_only_where_they_run(tmp_path: Path) -> None:
    """On every x86 CPU that OpenVINO knows, such a convolution is done in int8; its neighbour in float is told."""
    found = executed("one layer in float", tmp_path)
    words = {layer.name: layer.precision for layer in found.layers if "Convolution" in layer.covers}
    assert sorted(words.values()) == ["fp32", "int8"]
    floats = next(name for name, word in words.items() if word == "fp32")
    assert any(
        "1 of 2 layers that multiply run in float" in line.text and floats in line.text for line in found.remarks
    )
    lacking = processor().has_integer_dot is False
    assert any("several instructions each" in line.text for line in found.remarks) == lacking


def test_weights_that_are_expanded_at_load_are_told(tmp_path: Path) -> None:
    found = executed("int8 weights", tmp_path)
    convolution = next(layer for layer in found.layers if "Convolution" in layer.covers)
    assert convolution.precision == "fp32"
    assert "the compressed weights of 1 of 1 layers are expanded to float when it loads" in [
        line.text for line in found.remarks
    ]
    assert found.eliminated == {"Convert": 1, "Multiply": 1}


def test_compressed_matrices_stay_compressed(tmp_path: Path) -> None:
    session = models.session(models.saved(models.dense(), tmp_path / "m.xml"))
    found = session.execution({"x": np.ones((2, 64), np.float32)})
    product = next(layer for layer in found.layers if "MatMul" in layer.covers)
    assert product.precision == "int8-weights"


def test_settings_are_the_runtimes_own(tmp_path: Path) -> None:
    pinned = executed("float", tmp_path, threads=1).settings
    assert pinned["INFERENCE_PRECISION_HINT"] == "f32"
    assert pinned["EXECUTION_MODE_HINT"] == "ACCURACY"
    assert pinned["INFERENCE_NUM_THREADS"] == "1"
    assert pinned["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == "0"
    assert pinned["FULL_DEVICE_NAME"]
    assert executed("float", tmp_path, precision="auto").settings["EXECUTION_MODE_HINT"] == "PERFORMANCE"


@pytest.mark.parametrize(("used", "told"), [("f32", False), ("bf16", True), ("f16", True), ("dynamic", False)])
def test_floats_in_fewer_bits_are_a_deviation(used: str, told: bool) -> None:
    """The setting that a CPU with bf16 reports; on one without it, no session comes to it."""
    words = _narrowed({"INFERENCE_PRECISION_HINT": used})
    assert bool(words) == told
    assert all(used in word.text and "INFERENCE_PRECISION_HINT=f32" in f"{word.text} {word.hint}" for word in words)
