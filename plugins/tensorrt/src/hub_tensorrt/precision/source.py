"""Reads a float model and makes it ready for TensorRT's precisions, with what was seen of it on samples."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import CalibrationError, Remark, SampleFolder, StepError, UnsupportedModel
from hub_onnxgraph.graphs import name_nodes
from hub_onnxquant.random_inputs import random_feeds, sizes_to_try
from hub_onnxquant.session import GraphSession
from hub_onnxquant.source import QuantizerSource, optimized, typed
from hub_quanttrials import Judge, Shelf

if TYPE_CHECKING:
    from onnx import ModelProto

LARGEST_BYTES = 2**30
"""Models are run inside the step, some of them twice; above this they would not fit beside one another."""

_RANDOM_SAMPLES = 4
_SHELF: Shelf[QuantizerSource] = Shelf()


def tool() -> str:
    """What applies a recipe."""
    return f"hub-tensorrt on onnx {version('onnx')}, observed in onnxruntime {version('onnxruntime')}"


def open_source(path: str, calibration: str = "") -> QuantizerSource:
    """Reads a prepared float model and its samples; the last result is kept for the next edge in the same process.

    Args:
        path: The `.onnx` file.
        calibration: Folder of samples; empty for random ones, which judge and say little of ranges.

    Raises:
        HubError: The model is too large or does not run, or the samples do not fit.
    """
    return _SHELF.get(lambda: _open(Path(path), calibration), path, calibration)


def _open(path: Path, calibration: str) -> QuantizerSource:
    import onnx

    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}*"))
    if size >= LARGEST_BYTES:
        message = f"{path.name} takes {size / 2**30:.1f} GiB, and it is run inside this step"
        raise UnsupportedModel(message, hint="Build it as it is: --precision fp32.")
    before = onnx.load(path)
    with tempfile.TemporaryDirectory() as scratch:
        model, notes = _ready(path, before, Path(scratch))
    name_nodes(model)
    samples = SampleFolder(calibration) if calibration else None
    judge = _random_judge(before) if samples is None else Judge.of(GraphSession(before), samples)
    return QuantizerSource(typed(model), notes, calibration, len(samples or ()), judge, GraphSession, tool())


def _ready(path: Path, before: ModelProto, scratch: Path) -> tuple[ModelProto, list[Remark]]:
    """ONNX Runtime's basic optimization, as far as it stays within the standard: TensorRT has no other operators."""
    after = optimized(path, scratch)
    foreign = sorted({node.domain for node in after.graph.node} - {"", "ai.onnx"})
    if foreign:
        text = f"kept the graph as it is: ONNX Runtime's optimization would use {', '.join(foreign)}"
        return before, [Remark("note", "graph-kept", text)]
    standard = [entry for entry in after.opset_import if entry.domain in {"", "ai.onnx"}]
    del after.opset_import[:]
    after.opset_import.extend(standard)
    removed = len(before.graph.node) - len(after.graph.node)
    text = f"optimized for TensorRT: {removed} operators folded"
    return after, [Remark("note", "optimized-for-quantization", text)] if removed > 0 else []


def _random_judge(model: ModelProto) -> Judge:
    """A judge on random inputs of the first sizes that the model runs on; without any where it runs on none."""
    session = GraphSession(model)
    for sizes in sizes_to_try(model):
        try:
            feeds = [random_feeds(model, seed, sizes) for seed in range(_RANDOM_SAMPLES)]
            return Judge.of(session, feeds, "random inputs")
        except (StepError, CalibrationError):
            continue
    return Judge()
