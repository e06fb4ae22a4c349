"""Every road between the four formats, through the installed command, on models that nobody here trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.zoo import data, fetch
from tests.zoo.cells import CASES, ROOT, Outcome, fetched_flags

SUFFIXES = {"pytorch": ".pt2", "keras": ".keras", "onnx": ".onnx", "tflite": ".tflite"}
SAMPLES = 16


class Start(NamedTuple):
    """A model to start from: its format, and the zoo's model, or the zoo's model as TFLite (made on the way)."""

    name: str
    format: str
    case: str = ""
    file: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """The other three formats."""
        return tuple(name for name in SUFFIXES if name != self.format)


STARTS: dict[str, Start] = {
    start.name: start
    for start in (
        Start("digits.pt2", "pytorch"),
        Start("efficientnet-lite0", "pytorch", "efficientnet-lite0"),
        Start("minilm", "pytorch", "minilm"),
        Start("vad-torchscript", "pytorch", "vad-torchscript"),
        Start("digits.keras", "keras"),
        Start("digits-lstm", "keras", "digits-lstm"),
        Start("digits-gru", "keras", "digits-gru"),
        Start("emotion", "keras", "emotion"),
        Start("mobilenet-v2", "keras", "mobilenet-v2"),
        Start("magika", "onnx", "magika"),
        Start("vad-onnx", "onnx", "vad-onnx"),
        Start("ocr-cls", "onnx", "ocr-cls"),
        Start("ocr-det", "onnx", "ocr-det"),
        Start("ocr-rec", "onnx", "ocr-rec"),
        Start("emotion-int8", "tflite", file="emotion_tflite"),
        Start("digits.tflite", "tflite", "digits.pt2"),
        Start("emotion.tflite", "tflite", "emotion"),
        Start("efficientnet.tflite", "tflite", "efficientnet-lite0"),
        Start("vad.tflite", "tflite", "vad-onnx"),
        Start("ocr-rec.tflite", "tflite", "ocr-rec"),
        Start("minilm.tflite", "tflite", "minilm"),
    )
}


class Given(NamedTuple):
    """What the command is given: the model, its flags, its samples."""

    model: str
    flags: tuple[str, ...]
    test: Path | None


def convert(start: Start, target: str, folder: Path, *more: str) -> Outcome:
    """Take one road: `hub convert` from a model to a format; the result lies in `folder`."""
    place = folder / start.name
    place.mkdir(parents=True, exist_ok=True)
    given = _given(start, folder, place)
    words = [given.model, "--to", target, *given.flags, *(["--test", str(given.test)] if given.test else [])]
    return _hub([*words, "-o", str(result_path(start, target, folder)), *more])


def result_path(start: Start, target: str, folder: Path) -> Path:
    """Where a road's result lies."""
    return folder / start.name / f"to_{target}{SUFFIXES[target]}"


def _given(start: Start, folder: Path, place: Path) -> Given:
    if start.file:
        return Given(str(fetch.path(start.file)), (), None)
    if start.format == "tflite":
        return _as_tflite(start, folder)
    if start.name in _SAMPLES:
        model, test = _SAMPLES[start.name]
        return Given(str(ROOT / model), (), ROOT / test)
    case = CASES[start.case]
    made = place / "data" / "test.npz"
    if not made.exists():
        data.write(case.data, made.parent, test=SAMPLES)
    return Given(case.model(place), fetched_flags(case), made)


_SAMPLES = {
    "digits.pt2": ("samples/digits_torch/digits.pt2", "samples/digits_torch/test.npz"),
    "digits.keras": ("samples/digits_keras/digits.keras", "samples/digits_keras/test.npz"),
}


def _as_tflite(start: Start, folder: Path) -> Given:
    """The TFLite file that hub makes of a model, with the model's samples in the file's terms."""
    made = result_path(STARTS[start.case], "tflite", folder)
    if not made.exists():
        outcome = convert(STARTS[start.case], "tflite", folder)
        if outcome.status:
            raise AssertionError(f"{start.case} did not become TFLite: {outcome.document['error']}")
    receipt = json.loads(made.with_name(f"{made.name}.hub.json").read_text())
    source = _given(STARTS[start.case], folder, folder / start.case).test
    test = folder / start.name / "test.npz"
    if source is not None and not test.exists():
        np.savez(test, allow_pickle=False, **_in_terms_of(receipt["contract"], dict(np.load(source))))
    return Given(str(made), (), test)


def _in_terms_of(contract: list[dict[str, Any]], arrays: dict[str, Any]) -> dict[str, Any]:
    """Samples under the result's names, in its types; inputs that are frozen are left out, labels are kept."""
    inputs = [item for item in contract if item["direction"] == "input"]
    there = {item["source"]["name"]: item.get("result") for item in inputs}
    moved = {
        there[name]["name"]: array.astype(there[name]["dtype"]) for name, array in arrays.items() if there.get(name)
    }
    return moved | {name: array for name, array in arrays.items() if name not in there}


def _hub(words: list[str]) -> Outcome:
    hub = Path(sys.executable).with_name("hub")
    command = [str(hub), "convert", *words, "--json", "--force"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=1500, check=False)
    if not done.stdout.strip():
        raise AssertionError(f"{' '.join(command)} printed nothing:\n{done.stderr[-4000:]}")
    return Outcome(done.returncode, json.loads(done.stdout))
