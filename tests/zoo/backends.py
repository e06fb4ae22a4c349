"""Real models and samples for ONNX Runtime and OpenVINO: what is asked of `hub convert`, and on which data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.zoo import data
from tests.zoo.cells import CASES, ROOT, Case, Outcome, fetched_flags

_OURS = ("digits-torch", "digits-keras", "digits-lstm", "digits-gru")
_LABELLED = {
    "digits-torch": ("digits_torch", ""),
    "digits-keras": ("digits_keras", ""),
    "digits-lstm": ("digits_keras", "_rows"),
    "digits-gru": ("digits_keras", "_rows"),
}
CLASSIFIERS = frozenset({*_OURS, "emotion", "ocr-cls", "ocr-rec", "magika", "efficientnet-lite0"})
"""Models of which the largest output along the last axis is the answer (ocr-rec: one letter at each place)."""


class Backend(NamedTuple):
    """A target of `hub convert`: the suffix of its files, and the precisions to ask for."""

    suffix: str
    precisions: tuple[str, ...]


BACKENDS = {
    "onnxruntime": Backend(".onnx", ("fp32", "fp16", "int8-dynamic", "int8", "int4-weights")),
    "openvino": Backend(".xml", ("fp32", "fp16", "int8-weights", "int8", "int4-weights")),
}


def _sample(name: str, what: str, path: str) -> Case:
    return Case(name, what, lambda _: str(ROOT / "samples" / path), name.replace("-", "_"))


MODELS: dict[str, Case] = {
    "digits-torch": _sample("digits-torch", "PyTorch CNN", "digits_torch/digits.pt2"),
    "digits-keras": _sample("digits-keras", "Keras CNN", "digits_keras/digits.keras"),
    **{name: case for name, case in CASES.items() if name != "mobilenet-v2"},  # random weights: int8 means nothing
}


def place_of(case: Case, folder: Path) -> Path:
    """The folder of one model's files."""
    place = folder / case.name
    place.mkdir(parents=True, exist_ok=True)
    return place


def samples_of(case: Case, folder: Path) -> data.DataSet:
    """Calibration and test data, written once; the samples' own test data has an array `label`."""
    if case.name in _LABELLED:
        where, suffix = _LABELLED[case.name]
        return data.DataSet(*(ROOT / "samples" / where / f"{part}{suffix}.npz" for part in ("calibration", "test")))
    made = place_of(case, folder) / "data"
    if not (made / "test.npz").exists():
        data.write(case.data, made, test=case.samples)
    return data.DataSet(made / "calibration.npz", made / "test.npz")


def convert(case: Case, target: str, precision: str, output: Path, *more: str) -> Outcome:
    """Run the installed command; `output` lies in the model's own folder."""
    samples = samples_of(case, output.parents[1])
    words = ["convert", case.model(output.parent), "--to", target, "--precision", precision, *fetched_flags(case)]
    words += ["--calibration", str(samples.calibration), "--test", str(samples.test), "-o", str(output)]
    hub = str(Path(sys.executable).with_name("hub"))
    done = subprocess.run(
        [hub, *words, "--json", "--force", *more],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    if not done.stdout.strip():
        raise AssertionError(f"hub {' '.join(words)} printed nothing:\n{done.stderr[-4000:]}")
    return Outcome(done.returncode, json.loads(done.stdout))
