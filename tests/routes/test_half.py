"""Models in half precision, to every format and to int8, through the installed command."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import hub
from hub._parity import POLICIES
from hub.spec import Numerics, Receipt
from plugins.onnxruntime.tests.onnx_graphs import half_network
from plugins.tflite.tests import tflite_graphs as graphs
from tests.zoo import data, fetch

SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "onnxruntime": ".onnx", "openvino": ".xml", "keras": ".keras"}
SUFFIXES |= {"pytorch": ".pt2"}
INT8 = {Numerics.INT8, Numerics.INT8_MIXED}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder and one cache for all."""
    made = tmp_path_factory.mktemp("half")
    os.environ["HUB_CACHE_DIR"] = str(made / "cache")
    return made


def worst_db(receipt: Receipt) -> float:
    assert receipt.parity is not None
    return min(output.sqnr_db for output in receipt.parity.outputs)


@pytest.fixture(scope="session")
def digits(folder: Path) -> Path:
    """A classifier of digits in TFLite, its weights in float16; its samples beside it."""
    images = graphs.digits()[0]
    np.savez(folder / "calibration.npz", **{graphs.INPUT: images[:64]})
    np.savez(folder / "test.npz", **{graphs.INPUT: images[1400:1432]})
    whole = graphs.save(graphs.classifier(), folder / "whole.tflite")
    made = folder / "digits.tflite"
    hub.convert(whole, "tflite", precision="fp16", test=folder / "test.npz", output=made, fast=True)
    return made


def test_float16_weights_to_a_format_that_has_none(digits: Path, folder: Path) -> None:
    receipt = hub.convert(digits, "keras", test=folder / "test.npz", output=folder / "digits.keras", fast=True)
    assert receipt.result.state.numerics is Numerics.FP32
    assert {"constants-widened", "half-weights-widened"} & {note.code for step in receipt.steps for note in step.notes}
    assert worst_db(receipt) > 100


def test_float16_weights_to_int8(digits: Path, folder: Path) -> None:
    receipt = hub.convert(
        digits,
        "tflite",
        precision="int8",
        calibration=folder / "calibration.npz",
        test=folder / "test.npz",
        output=folder / "digits.int8.tflite",
    )
    assert receipt.route.edges == ("tflite.widen", "tflite.int8")
    assert worst_db(receipt) > 20


def test_a_model_partly_in_float16(folder: Path) -> None:
    """What the source rounds between layers its float32 form does not: half's gate, for this model alone."""
    source, samples = folder / "partly.onnx", folder / "rows.npz"
    onnx.save(half_network("first"), source)
    np.savez(samples, x=np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32))
    receipt = hub.convert(source, "pytorch", precision="fp32", test=samples, output=folder / "partly.pt2", fast=True)
    assert receipt.result.state.numerics is Numerics.FP32
    assert receipt.parity is not None
    assert "rounds to fp16 at each layer" in receipt.parity.policy.source
    assert receipt.parity.policy.sqnr_min_db == POLICIES[Numerics.FP16].sqnr_min_db
    assert worst_db(receipt) > 55  # ONNX Runtime may take the casts out, and then rounds no more than float32


CELLS = [
    *((name, target, "fp32", 100) for name in ("blazeface_tflite", "blazeface_far_tflite") for target in SUFFIXES),
    ("blazeface_tflite", "keras", None, 100),
    *(("blazeface_tflite", target, "int8", 16) for target in SUFFIXES if target != "keras"),  # Keras has no integers
]


@pytest.mark.real
@pytest.mark.scheduled
@pytest.mark.parametrize(("name", "target", "precision", "least_db"), CELLS)
def test_blazeface(name: str, target: str, precision: str | None, least_db: float, folder: Path) -> None:
    place = folder / name
    if not place.exists():
        data.write(name, place, calibration=48, test=64)
    receipt = hub.convert(
        fetch.path(name),
        target,
        precision=precision,
        calibration=place / "calibration.npz",
        test=place / "test.npz",
        output=place / f"{target}.{precision}{SUFFIXES[target]}",
    )
    assert receipt.result.state.numerics in (INT8 if precision == "int8" else {Numerics.FP32})
    assert worst_db(receipt) > least_db
