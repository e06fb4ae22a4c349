"""Judge: every Keras layer as a TFLite file of TensorFlow's converter, in LiteRT against ONNX Runtime.

A file is right when the result agrees with one of the kernel sets of LiteRT. Float files must agree to float rounding,
quantized ones to the gate of hub for a step that keeps the scales of its source,
or to two steps of the grid where the output of a layer is nearly constant.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hub.spec import StepError
from hub_onnxgraph.errors import UnsupportedOperator
from hub_onnxruntime.session import OrtSession
from hub_tflite.runtime import VARIANTS, LiteRtSession
from hub_tflite.to_onnx.edge import convert
from hub_tflite.to_onnx.registry import TABLE
from hub_tflitefile.interface import interface_of, quant_params
from hub_tflitefile.schema import read
from plugins.keras.tests.keras_layer_zoo import NAMES

ROOT = Path(__file__).parents[3]
RELATIVE = 1e-4
"""hub's float gate."""
CARRIED_DB = 25.0
"""hub's gate for a step that keeps a quantized source's scales."""
STEPS = 2
CI = (
    "Conv1D", "Conv2D-same-strided", "Conv2DTranspose", "SeparableConv2D", "DepthwiseConv2D", "MaxPooling2D",
    "AveragePooling2D", "BatchNormalization", "LayerNormalization", "GroupNormalization", "LSTM", "GRU",
    "SimpleRNN", "MultiHeadAttention", "Attention", "Dense", "Embedding", "UpSampling2D", "Concatenate",
    "Activation-gelu", "Activation-softmax",
)  # fmt: skip
# They may only rise; measured 2026-11.
FLOOR, FLOOR_EVERY = 59, 621


class Verdict(NamedTuple):
    """What a file came to: `passed`, `refused`, `wrong` or `not run` (by LiteRT itself), with the reason."""

    word: str
    reason: str


def write_files(folder: Path, names: Sequence[str]) -> None:
    """Have the converter write the files; it is started again behind a layer that kills it."""
    left = list(names)
    while left:
        command = [sys.executable, "-m", "plugins.tflite.tests.tflite_layer_files", str(folder), *left]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
        begun = {path.stem for path in folder.glob("*.npz")}
        rest = [name for name in left if name not in begun]
        assert len(rest) < len(left), done.stderr[-2000:]
        left = rest


def judge(path: Path, feeds: Sequence[dict[str, Any]]) -> Verdict:
    """Convert one file and compare both runtimes."""
    output = path.with_suffix(".onnx")
    try:
        step = convert(path, output)
    except UnsupportedOperator as refusal:
        return Verdict("refused", str(refusal))
    renamed = {binding.target: binding.source for binding in step.bindings}
    reasons = [_compared(path, (OrtSession(output), renamed), variant, feeds) for variant in VARIANTS]
    if all(reason.startswith("LiteRT") for reason in reasons):
        return Verdict("not run", reasons[0])
    return Verdict("wrong", "; ".join(reasons)) if all(reasons) else Verdict("passed", "")


def _compared(
    path: Path, result: tuple[OrtSession, dict[str, str]], variant: str, feeds: Sequence[dict[str, Any]]
) -> str:
    """Say where ONNX Runtime and one kernel set of LiteRT differ; the two sets differ too, on int8 RSQRT by 7 dB."""
    try:
        tflite = LiteRtSession(path.read_bytes(), variant)
    except StepError as error:
        return str(error)
    onnx, renamed = result
    model = read(path)
    graph, inputs, outputs = interface_of(model)
    names = sorted(name for name, _ in inputs)
    grids = {name: quant_params(graph.tensors[index]) for name, index in outputs}
    quantized = not path.name.endswith(".float.tflite")
    for feed in feeds:
        given = dict(zip(names, (feed[name] for name in sorted(feed)), strict=True))
        try:
            wanted = tflite.run(given)
        except StepError as error:
            return str(error)
        found = {renamed.get(name, name): array for name, array in onnx.run(given).items()}
        if list(wanted) != list(found):
            return f"outputs {list(found)}, not {list(wanted)}"
        for name, array in wanted.items():
            reason = _unlike(array, found[name], grids[name], quantized=quantized)
            if reason:
                return f"{name}: {reason}"
    return ""


def _unlike(wanted: Any, found: Any, grid: Any, *, quantized: bool) -> str:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return f"{found.dtype}{found.shape}, not {wanted.dtype}{wanted.shape}"
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    worst = float(np.abs(a - b).max(initial=0))
    off = worst / (float(np.abs(a).max(initial=0)) + 1e-6)
    if off <= RELATIVE or (quantized and (_sqnr_db(a, b) >= CARRIED_DB or (grid and worst <= STEPS))):
        return ""
    return f"off by {off:.2g}, {_sqnr_db(a, b):.1f} dB"


def _sqnr_db(a: Any, b: Any) -> float:
    error = float(((a - b) ** 2).sum())
    return 10 * float(np.log10(float((a**2).sum()) / error)) if error and a.any() else 300.0 * (not error)


def _feeds(folder: Path, name: str) -> list[dict[str, Any]]:
    with np.load(folder / f"{name}.npz") as kept:
        arrays = dict(kept)
    seeds = sorted({key.partition("@")[2] for key in arrays})
    return [{key.partition("@")[0]: value for key, value in arrays.items() if key.endswith(f"@{s}")} for s in seeds]


def _files(folder: Path, names: Sequence[str]) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    for name in names:
        feeds = _feeds(folder, name)
        for kind in ("float", "dynamic", "int8"):
            path = folder / f"{name}.{kind}.tflite"
            if path.is_file():
                yield path, feeds


def _check(folder: Path, names: Sequence[str], floor: int) -> None:
    verdicts = {path.name: judge(path, feeds) for path, feeds in _files(folder, names)}
    counts = Counter(verdict.word for verdict in verdicts.values())
    print(f"\n{len(names)} Keras layers, {len(verdicts)} TFLite files: {dict(counts)}")  # noqa: T201 - a record
    refused = Counter(
        verdict.reason.partition(" that makes")[0] for verdict in verdicts.values() if verdict[0] == "refused"
    )
    print("refused:", dict(refused))  # noqa: T201 - a record
    assert [f"{name}: {verdict.reason}" for name, verdict in verdicts.items() if verdict.word == "wrong"] == []
    assert counts["passed"] >= floor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("layers")
    write_files(made, CI)
    return made


def test_layers(folder: Path) -> None:
    _check(folder, CI, FLOOR)


@pytest.mark.scheduled
def test_every_layer(tmp_path: Path) -> None:
    write_files(tmp_path, NAMES)
    _check(tmp_path, NAMES, FLOOR_EVERY)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_the_judge_sees_a_planted_fault(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    row = TABLE.rows["", "FULLY_CONNECTED"][1]

    def doubled(node: Any, *inputs: Any, **options: Any) -> Any:
        made = row.handler(node, *inputs, **options)
        return node.emit("Add", made, made)

    faulty = dict.fromkeys(TABLE.rows["", "FULLY_CONNECTED"], dataclasses.replace(row, handler=doubled))
    monkeypatch.setitem(TABLE.rows, ("", "FULLY_CONNECTED"), faulty)
    assert judge(folder / f"Dense.{kind}.tflite", _feeds(folder, "Dense")).word == "wrong"
