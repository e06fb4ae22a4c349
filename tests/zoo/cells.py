"""The models nobody here trained, how `hub convert` is asked for each, and what each precision comes to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.zoo import data, fetch, keras_zoo, vad

ROOT = Path(__file__).parents[2]
PRECISIONS = ("fp32", "fp16", "int8-dynamic", "int8", "int16x8", "int4-weights")


class Case(NamedTuple):
    """One model: what it is, where it comes from, its data, the flags that it needs, and samples to compare."""

    name: str
    what: str
    model: Callable[[Path], str]
    data: str
    flags: tuple[str, ...] = ()
    samples: int = 16


class Outcome(NamedTuple):
    """What a cell came to: the exit status, and the document that `--json` printed."""

    status: int
    document: dict[str, Any]

    @property
    def word(self) -> str:
        """`pass`, `mixed` (int8 with layers in float), or the error's code."""
        if self.status:
            return str(self.document["error"]["code"])
        return "mixed" if self.document["result"]["state"]["numerics"] == "int8-mixed" else "pass"


def _fetched(name: str) -> Callable[[Path], str]:
    return lambda _: str(fetch.path(name))


def _vad_core(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated; its files are in the field
        return str(vad.save_core(fetch.path("vad_jit"), folder / "vad_core.jit"))


def _mobilenet(folder: Path) -> str:
    return str(keras_zoo.save_mobilenet(folder / "mobilenet_v2.keras"))


def _sample(path: str) -> Callable[[Path], str]:
    return lambda _: str(ROOT / "samples" / path)


def _builder(reference: str) -> Callable[[Path], str]:
    return lambda _: reference


_RATE = ("--constant", "sr=16000")
_CORE = ("--shape", "x=1x576", "--shape", "state=2x1x128")
CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("emotion", "Keras 2 .h5, mini-Xception", _fetched("emotion_h5"), "emotion_h5", samples=64),
        Case("vad-onnx", "voice activity, ONNX, If + LSTM + state", _fetched("vad_onnx"), "vad_onnx", _RATE),
        Case("vad-torchscript", "its core, TorchScript", _vad_core, "vad_core_jit", _CORE),
        Case("ocr-det", "text detector, ONNX opset 12", _fetched("ocr_det"), "ocr_det"),
        Case("ocr-rec", "text recogniser, ONNX opset 12", _fetched("ocr_rec"), "ocr_rec"),
        Case("ocr-cls", "text direction, ONNX opset 11", _fetched("ocr_cls"), "ocr_cls", samples=64),
        Case("magika", "file type, ONNX, int32 bytes", _fetched("magika_onnx"), "magika_onnx", samples=64),
        Case(
            "efficientnet-lite0",
            "ImageNet, PyTorch builder + state dict",
            _builder("tests.zoo.efficientnet_lite0:build"),
            "efficientnet",
            ("--weights", "{efficientnet_pth}"),
        ),
        Case(
            "minilm",
            "sentence transformer, PyTorch builder + safetensors",
            _builder("tests.zoo.minilm:build"),
            "minilm",
            ("--weights", "{minilm_safetensors}"),
        ),
        Case("mobilenet-v2", "keras.applications", _mobilenet, "mobilenet_keras"),
        Case("digits-lstm", "Keras LSTM", _sample("digits_keras/digits_lstm.keras"), "digits_lstm"),
        Case("digits-gru", "Keras GRU", _sample("digits_keras/digits_gru.keras"), "digits_gru"),
    )
}


def convert(case: Case, precision: str, folder: Path, *more: str) -> Outcome:
    """Run the installed command on one cell, with `more` flags; models and data are written once per folder."""
    place = folder / case.name
    place.mkdir(parents=True, exist_ok=True)
    made = place / "data" / "calibration.npz"
    if not made.exists():
        data.write(case.data, made.parent, test=case.samples)
    samples = data.DataSet(made, made.with_name("test.npz"))
    output = place / f"{case.name}.{precision}.tflite"
    words = [
        "convert",
        case.model(place),
        "--to",
        "tflite",
        "--precision",
        precision,
        *fetched_flags(case),
        "-o",
        str(output),
    ]
    words += ["--calibration", str(samples.calibration), "--test", str(samples.test), "--json", "--force", *more]
    hub = Path(sys.executable).with_name("hub")
    done = subprocess.run(
        [str(hub), *words], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=1500, check=False
    )
    if not done.stdout.strip():
        raise AssertionError(f"hub {' '.join(words)} printed nothing:\n{done.stderr[-4000:]}")
    return Outcome(done.returncode, json.loads(done.stdout))


def fetched_flags(case: Case) -> tuple[str, ...]:
    """A case's flags with the files of the zoo in them."""
    return tuple(flag.format_map(_Fetched()) for flag in case.flags)


class _Fetched(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return str(fetch.path(name))
