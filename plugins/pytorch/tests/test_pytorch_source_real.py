"""ONNX to PyTorch on models that nobody here trained: `.pt2` and source, dimensions open and fixed.

Each cell is passed, refused with a reason, or wrong; none may be wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from hub.spec import ConvertOptions, Signature, StepError, UnsupportedModel
from hub_onnxruntime.prepare import prepare, prepare_dynamic
from hub_pytorch.export import export_with_notes
from hub_pytorch.from_onnx import convert_from_onnx, convert_to_source
from hub_pytorch.load import build
from hub_pytorch.reference import ModelReference
from hub_pytorch.to_onnx import convert_to_onnx
from hub_torchprogram import exported_program, flatten_exported
from plugins.pytorch.tests.onnx_sources import Array, by_onnxruntime, judge, signature_of, worst, write_wanted

pytestmark = [
    pytest.mark.real,
    pytest.mark.scheduled,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch and its exporters use old parts
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the same
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch.export tells of its own guesses
]
PARITY = 1e-4
Shapes = dict[str, tuple[int, ...]]
RATE = {"sr": 16000}
ROUND = {"input": (1, 512), "state": (2, 1, 128)}
LONGER = {"input": (1, 576), "state": (2, 1, 128)}


class Real(NamedTuple):
    """A model, two sets of shapes to run it at (the first is the fixed one), and inputs to freeze."""

    shapes: tuple[Shapes, ...]
    constants: dict[str, int] = {}  # noqa: RUF012 - never changed


REAL = {
    "ocr_det": Real(({"x": (1, 3, 96, 160)}, {"x": (2, 3, 160, 64)})),
    "ocr_rec": Real(({"x": (1, 3, 48, 320)}, {"x": (2, 3, 48, 160)})),
    "ocr_cls": Real(({"x": (1, 3, 48, 192)}, {"x": (3, 3, 48, 96)})),
    "magika_onnx": Real(({"bytes": (1, 2048)}, {"bytes": (3, 2048)})),
    "vad_onnx": Real((ROUND, {"input": (3, 512), "state": (2, 3, 128)}), RATE),
    "vad_op15_onnx": Real((LONGER, {"input": (3, 576), "state": (2, 3, 128)}), RATE),
    "minilm": Real(
        tuple(dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (n, t)) for n, t in ((1, 16), (3, 9)))
    ),
    "efficientnet": Real(({"image": (1, 3, 224, 224)},)),
}
BUILDERS = {"minilm": ("minilm", "minilm_safetensors"), "efficientnet": ("efficientnet_lite0", "efficientnet_pth")}


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(mode=False)


def onnx_file(name: str, request: pytest.FixtureRequest, folder: Path) -> Path:
    """The model's ONNX file; of a PyTorch network, what hub's own edge makes of it."""
    if name not in BUILDERS:
        found: Path = request.getfixturevalue(name)
        return found
    module, weights = BUILDERS[name]
    reference = ModelReference(
        builder=f"tests.zoo.{module}:build",
        weights=str(request.getfixturevalue(weights)),
        shapes=REAL[name].shapes[0],
    )
    exported, _, _ = export_with_notes(*build(reference), reference)
    target = folder / f"{name}.onnx"
    convert_to_onnx(flatten_exported(exported), ConvertOptions(), target)
    return target


def feeds_at(signature: Signature, shapes: Shapes, seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for spec in signature.inputs:
        shape = shapes[spec.name]
        high = 2 if "mask" in spec.name or "type" in spec.name else 256
        drawn = random.standard_normal(shape) / 4 if spec.dtype.is_float else random.integers(0, high, shape)
        feeds[spec.name] = np.asarray(drawn, dtype=spec.dtype.value)
        if "mask" in spec.name:
            feeds[spec.name][:] = 1
    return feeds


def tried(run: Callable[[], float]) -> str:
    """`passed`, `wrong: ...` or `refused: ...`."""
    try:
        error = run()
    except (UnsupportedModel, StepError) as refusal:
        return f"refused: {refusal}"
    return "passed" if error <= PARITY else f"wrong: {error:.2g}"


def as_program(ready: Path, target: Path, feeds: list[dict[str, Array]]) -> float:
    convert_from_onnx(ready, signature_of(ready), target)
    program = exported_program(target)
    errors = []
    for given in feeds:
        with torch.no_grad():
            found = [tensor.numpy() for tensor in program.call(*map(torch.from_numpy, given.values()))]
        errors.append(worst(found, by_onnxruntime(ready, given)))
    return max(errors)


def as_source(ready: Path, target: Path, feeds: list[dict[str, Array]]) -> float:
    folder = target.with_suffix("")
    folder.mkdir()
    convert_to_source(ready, signature_of(ready), folder / "net.py")
    write_wanted(folder / "net.npz", ready, feeds)
    found: dict[str, Any] = judge(folder)["net"]
    if found["exported"] is None:
        raise UnsupportedModel("torch.export's own guard refuses a size of the source")
    return float(max(*found["errors"].values(), found["exported"]))  # training is judged on the small networks


def cells(name: str, request: pytest.FixtureRequest, folder: Path) -> dict[str, str]:
    source, real = onnx_file(name, request, folder), REAL[name]
    frozen, fixed = {**real.constants}, real.shapes[0]
    made = {}
    for form in ("open", "fixed"):
        scratch, ready = folder / f"{form}.scratch", folder / f"{form}.onnx"
        scratch.mkdir()
        if form == "open":
            prepare_dynamic(source, ready, scratch, {}, frozen)
        else:
            prepare(source, ready, scratch, fixed, frozen)
        shapes = real.shapes if form == "open" and not signature_of(ready).is_static else (fixed,)
        feeds = [feeds_at(signature_of(ready), item, seed) for seed, item in enumerate(shapes)]
        for kind, run in (("pt2", as_program), ("source", as_source)):
            target = folder / f"{form}-{kind}.pt2"
            made[f"{form} {kind}"] = tried(partial(run, ready, target, feeds))
    return made


@pytest.mark.parametrize("name", REAL)
def test_real_model_is_the_same_or_refused(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = cells(name, request, tmp_path)
    with capsys.disabled():
        counts = Counter(word.partition(":")[0] for word in found.values())
        lines = "".join(f"\n  {cell}: {word}" for cell, word in found.items())
        print(f"\n{name}: {dict(counts)}{lines}")  # noqa: T201 - the test's table
    assert [word for word in found.values() if word.startswith("wrong")] == []
    assert found["fixed pt2"] == found["fixed source"] == "passed"
