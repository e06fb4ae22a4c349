"""A detector as YOLOv8 is built, to int8: scores between 0 and 1 beside boxes in pixels, in one output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import hub
from hub.spec import Numerics, Receipt
from tests.zoo import detector


class Bed(NamedTuple):
    """A trained detector with its data: the size of its images, its width, and steps of training."""

    size: int
    width: int
    steps: int


SMALL, WHOLE = Bed(96, 4, 25), Bed(256, 8, 150)
SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml", "tflite": ".tflite"}
IN_CI = ("onnxruntime", "small")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder and one cache for all."""
    made = tmp_path_factory.mktemp("detector")
    os.environ["HUB_CACHE_DIR"] = str(made / "cache")
    return made


def convert(folder: Path, bed: Bed, target: str) -> Receipt:
    """To int8, held against the source on other scenes than those of the calibration."""
    place = folder / str(bed.size)
    if not (place / "test.npz").exists():
        place.mkdir(exist_ok=True)
        detector.export(place, *bed)
    return hub.convert(
        place / "detector.onnx",
        target,
        precision="int8",
        calibration=place / "calibration.npz",
        test=place / "test.npz",
        output=place / f"int8{SUFFIXES[target]}",
        force=True,
    )


@pytest.mark.parametrize(
    ("target", "bed"),
    [
        pytest.param(target, bed, id=f"{target}-{name}", marks=[pytest.mark.scheduled] * ((target, name) != IN_CI))
        for target in SUFFIXES
        for name, bed in {"small": SMALL, "whole": WHOLE}.items()
    ],
)
def test_scores_beside_boxes_are_judged_by_themselves_and_pass(target: str, bed: Bed, folder: Path) -> None:
    receipt = convert(folder, bed, target)
    assert receipt.result.state.numerics in {Numerics.INT8, Numerics.INT8_MIXED}
    assert receipt.parity
    assert any(item.output.startswith("found[:, 4:") for item in receipt.parity.outputs)
    local = next(step.local for step in reversed(receipt.steps) if step.local)
    assert local.failed == 0
    assert local.layers > 0.8 * local.of
    # a sound result of the first way is not taken for a faulty one: its layers are read through fused concatenations
    assert not [attempt for attempt in receipt.failed_attempts if "is not the float model's" in attempt.message]


def outputs_of(file: Path, images: detector.Floats) -> detector.Floats:
    """What the vendor's runtime gives for images, without hub and as it comes."""
    if file.suffix == ".onnx":
        import onnxruntime as ort

        session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    if file.suffix == ".xml":
        import openvino

        compiled = openvino.Core().compile_model(file, "CPU")
        return np.concatenate([compiled([image[None]])[0] for image in images])
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    results = []
    for image in images:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        results.append(interpreter.get_tensor(found["index"]).copy())
    return np.concatenate(results)


@pytest.mark.scheduled
@pytest.mark.parametrize("target", SUFFIXES)
def test_it_finds_what_the_float_model_finds(target: str, folder: Path) -> None:
    """On scenes that hub has not seen, in the bare runtime: what detects nothing has F1 0, whatever its decibels."""
    receipt = convert(folder, WHOLE, target)
    images, boxes, kinds = detector.scenes(24, WHOLE.size, 1003)
    before = outputs_of(folder / str(WHOLE.size) / "detector.onnx", images)
    after = outputs_of(Path(receipt.result.path), images)
    float_f1, int8_f1 = (detector.f1(outputs, boxes, kinds) for outputs in (before, after))
    assert float_f1 > 0.85
    assert int8_f1 > float_f1 - 0.03
    silent = after.copy()
    silent[:, 4:] = 0
    assert detector.f1(silent, boxes, kinds) == 0
