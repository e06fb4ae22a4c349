"""Reads a float model and makes it ready to be quantized, with what was seen of it on calibration samples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import AlreadyQuantized, CalibrationError, Remark, SampleFolder, StepError, UnsupportedModel
from hub_onnxgraph.graphs import name_nodes, opset_of
from hub_onnxgraph.numerics import numerics_of
from hub_onnxquant.random_inputs import random_feeds, sizes_to_try
from hub_onnxquant.source import QuantizerSource, optimized, typed
from hub_onnxruntime.files import external_files, load, load_structure
from hub_onnxruntime.large import LARGE_BYTES, size_on_disk
from hub_onnxruntime.operators import custom_operators
from hub_onnxruntime.rewrites import rewritten
from hub_onnxruntime.session import OrtSession
from hub_quanttrials import Judge, Shelf

if TYPE_CHECKING:
    from onnx import ModelProto

_RANDOM_SAMPLES = 4
_LEAST_OPSET = 13  # the first with a DequantizeLinear per channel


def tool() -> str:
    """What applies a recipe."""
    return f"hub-onnxruntime on onnxruntime {version('onnxruntime')}"


def _ready(path: Path, scratch: Path) -> tuple[ModelProto, list[Remark]]:
    before = load(path)
    path, notes = rewritten(path, scratch, 0)
    after = optimized(path, scratch)
    foreign = custom_operators(after)
    if foreign:
        text = f"kept the graph as it is: ONNX Runtime's optimization would bring in {', '.join(foreign)}"
        return before, [Remark("note", "graph-kept", text)]
    removed = len(before.graph.node) - len(after.graph.node)
    text = f"optimized for quantization: {removed} operators folded"
    return after, [*notes, Remark("note", "optimized-for-quantization", text)] if removed > 0 else notes


def check_float(model: ModelProto) -> None:
    """Refuses a model that is quantized already, or too old.

    Raises:
        AlreadyQuantized: Its operators compute in integers, or its weights are stored in them.
        UnsupportedModel: Its opset is below 13.
    """
    found = numerics_of(model)
    if found.is_quantized:
        raise AlreadyQuantized(
            f"the model is {found.value} already", hint="Start from the float model it was made from."
        )
    if opset_of(model) < _LEAST_OPSET:
        message = f"opset {opset_of(model)} has no quantization per channel; {_LEAST_OPSET} has"
        raise UnsupportedModel(message, hint="Let hub prepare the model: it raises the opset.")


def open_source(path: str, calibration: str = "") -> QuantizerSource:
    """Reads a model and its samples. The last result is kept for the next edge in the same process.

    Args:
        path: The `.onnx` file.
        calibration: Folder of samples; empty for random ones, which judge weights and say nothing of ranges.

    Raises:
        HubError: The model cannot be read or run, is quantized already, or the samples do not fit.
    """
    source = _SHELF.get(lambda: _open(path, calibration), path, calibration)
    source.session = _opener(path)  # the step before had another copy, which is gone
    return source


_SHELF: Shelf[QuantizerSource] = Shelf()


def _open(path: str, calibration: str) -> QuantizerSource:
    structure = load_structure(Path(path))
    check_float(structure)
    if size_on_disk(Path(path), external_files(structure, Path(path).parent)) >= LARGE_BYTES:
        raise UnsupportedModel(
            f"{Path(path).name} has a gigabyte of weights or more: it is not run inside this step",
            hint="Quantize the weights alone: --precision int8-weights or int4-weights.",
        )
    with tempfile.TemporaryDirectory() as scratch:
        model, notes = _ready(Path(path), Path(scratch))
    name_nodes(model)
    samples = SampleFolder(calibration) if calibration else None
    judge = random_judge(Path(path), structure) if samples is None else Judge.of(OrtSession(path), samples)
    return QuantizerSource(typed(model), notes, calibration, len(samples or ()), judge, _opener(path), tool())


def _opener(path: str) -> Callable[[ModelProto], OrtSession]:
    """Opens results, with the external data beside the source."""
    return lambda result: OrtSession(path, content=result.SerializeToString())


def random_judge(path: Path, model: ModelProto) -> Judge:
    """Returns a judge on random inputs of the first sizes that the model runs on; without any where it runs on none."""
    for sizes in sizes_to_try(model):
        try:
            feeds = [random_feeds(model, seed, sizes) for seed in range(_RANDOM_SAMPLES)]
            return Judge.of(OrtSession(path), feeds, "random inputs")
        except (StepError, CalibrationError):
            continue  # open dimensions that must agree in a way that the file does not say, or nothing but zeros
    return Judge()
