"""Models that nobody here trained, through the installed command: every cell comes to exactly what is written here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.zoo.cells import CASES, Outcome, convert

IN_CI = {"fp32": "pass", "fp16": "pass", "int8-dynamic": "pass", "int8": "pass"}
ALL = IN_CI | {"int16x8": "pass", "int4-weights": "pass"}
MIXED = ALL | {"int8": "mixed"}
EXPECTED: dict[str, dict[str, str]] = {
    "emotion": ALL,
    "vad-onnx": MIXED,
    "vad-torchscript": MIXED,
    "ocr-det": MIXED | {"int4-weights": "parity"},  # 8.1 dB
    "ocr-rec": MIXED,  # 12.97 dB with every layer in int8
    "ocr-cls": ALL,
    "magika": MIXED,
    "efficientnet-lite0": ALL,
    "minilm": MIXED,
    # random weights behind 52 layers of rounding: each refusal is the gate at work, measured 1.7 to 29.7 dB; int8 in
    # every layer leaves 1.6 dB, and the search gives two thirds of the multiplications back to float for 20
    "mobilenet-v2": dict.fromkeys(ALL, "parity") | {"fp32": "pass", "int8-dynamic": "pass", "int8": "mixed"},
    "digits-lstm": ALL,
    "digits-gru": ALL,
}
"""`pass`, `mixed` (int8 with named layers in float), or the code of the refusal; a change in either direction fails."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder and one cache for all cells: float steps are shared, as they are for a user."""
    made = tmp_path_factory.mktemp("real")
    os.environ["HUB_CACHE_DIR"] = str(made / "cache")
    return made


def _cells() -> list[pytest.param]:
    slow = {"int16x8", "int4-weights"}
    return [
        pytest.param(
            name, precision, word, id=f"{name}-{precision}", marks=[pytest.mark.scheduled] * (precision in slow)
        )
        for name, row in EXPECTED.items()
        for precision, word in row.items()
    ]


@pytest.mark.real
@pytest.mark.parametrize(("name", "precision", "word"), _cells())
def test_cell(name: str, precision: str, word: str, folder: Path) -> None:
    outcome = convert(CASES[name], precision, folder)
    assert outcome.word == word, outcome.document.get("error", outcome.document.get("parity"))
    _check_published(outcome, folder / name / f"{name}.{precision}.tflite")


def _check_published(outcome: Outcome, artifact: Path) -> None:
    assert artifact.exists() == (outcome.status == 0)
    if outcome.status == 0:
        worst = min(outcome.document["parity"]["outputs"], key=lambda output: output["sqnr_db"])
        assert worst["samples"] >= 16
        assert outcome.document["parity"]["passed"]


@pytest.mark.real
def test_second_engine_takes_over_in_its_own_environment(folder: Path) -> None:
    others = ("pytorch.import-onnx", "keras.import-onnx")
    outcome = convert(CASES["ocr-cls"], "fp32", folder, *(word for edge in others for word in ("--avoid", edge)))
    assert outcome.word == "pass", outcome.document
    assert outcome.document["route"]["edges"] == ["onnx.prepare", "onnx.tflite-onnx2tf"]
    assert list((folder / "cache" / "toolchains").glob("onnx2tf-*/ready"))
