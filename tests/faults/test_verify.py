"""`hub verify` holds the layers of a quantized file against a float model, whoever made the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

import hub
from hub.spec import ParityReport, Receipt
from tests.faults.inject import mutants
from tests.faults.score import sites_of

TORCH = Path(__file__).parents[2] / "samples/digits_torch"
SOURCE = str(TORCH / "digits.pt2")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 file with its receipt."""
    output = tmp_path_factory.mktemp("verify") / "digits.tflite"
    calibration = TORCH / "calibration.npz"
    hub.convert(SOURCE, "tflite", precision="int8", output=output, calibration=calibration, test=TORCH / "test.npz")
    return output


def _verified(path: Path, data: str = "") -> ParityReport:
    return hub.verify(SOURCE, str(path), data=data)


def test_layers_are_held_against_the_step_of_the_conversion(converted: Path) -> None:
    report = _verified(converted, str(TORCH / "test.npz"))
    assert report.passed
    assert report.local
    assert "the step of its conversion" in report.local.against
    assert report.local.layers == report.local.of > 0
    assert not hub.verify(SOURCE, str(converted), data=str(TORCH / "test.npz"), fast=True).local


@pytest.mark.scheduled  # the last test holds against the same model
def test_a_file_without_a_receipt_is_held_against_what_hub_makes_of_the_source(converted: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(converted, tmp_path))
    report = _verified(file, str(TORCH / "test.npz"))
    assert report.passed
    assert report.local
    assert report.local.against == "what hub makes of the source in tflite"
    assert report.local.layers == report.local.of > 0


def test_a_fault_is_refused_on_random_inputs_too(converted: Path, tmp_path: Path) -> None:
    found = {item.kind: item for item in mutants(sites_of("tflite", converted), tmp_path, 1)}
    report = _verified(found["channel zeroed"].path)
    assert report.local
    assert (report.passed, report.unproved, report.local.failed > 0) == (False, "", True)


def test_a_step_that_is_another_model_is_not_believed(converted: Path, tmp_path: Path) -> None:
    beside = converted.with_name(f"{converted.name}.hub.json")
    receipt = msgspec.json.decode(beside.read_bytes(), type=Receipt)
    named = Path(receipt.steps[-2].artifact.path)
    faulty = next(item for item in mutants(sites_of("tflite", named), tmp_path, 1) if item.kind == "bias zeroed")
    file = Path(shutil.copy(converted, faulty.path.parent))
    text = beside.read_text().replace(str(named), str(faulty.path))
    file.with_name(beside.name).write_text(text)
    report = _verified(file, str(TORCH / "test.npz"))
    assert report.local
    assert report.local.against == "what hub makes of the source in tflite"


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs:UserWarning")  # TensorFlow's converter, always
def test_a_file_of_tensorflows_own_converter_with_int8_ends_is_judged(tmp_path: Path) -> None:
    """Its ends have other names, and integers in the place of real numbers."""
    import keras
    import tensorflow as tf

    folder, file = TORCH.with_name("digits_keras"), tmp_path / "theirs.tflite"
    images = np.load(folder / "calibration.npz")
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.models.load_model(folder / "digits.keras"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None].astype(np.float32)] for row in images[images.files[0]][:50])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    file.write_bytes(converter.convert())
    report = hub.verify(str(folder / "digits.keras"), str(file), data=str(folder / "test.npz"), fast=True)
    assert report.passed
    told = next(remark for remark in report.remarks if remark.code == "paired-without-receipt")
    assert "int8 in steps of" in told.text
