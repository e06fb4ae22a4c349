"""A float model made ready to be quantized, with what was seen of it on calibration samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hub.spec import Remark, SampleFolder, Session, StepError
from hub_onnxquant.placement import candidates
from hub_onnxquant.ranges import ObservedRanges, observe
from hub_onnxquant.recipe import Recipe
from hub_onnxquant.runtime_options import runtime_failures, session_options
from hub_quanttrials import Judge, Trial

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(slots=True)
class QuantizerSource:
    """A float model made ready.

    Attributes:
        model: Optimized with standard operators only, shapes and types inferred, nodes named.
        notes: What was done.
        calibration: Folder of calibration samples; empty for none.
        samples: Number of calibration samples.
        judge: Samples to judge a result on.
        session: Opens a result.
        tool: What applies a recipe, with versions.
        observed: Activation -> what was seen; empty until `watch`.
        known: What earlier edges of the same process made of it.
    """

    model: ModelProto
    notes: list[Remark]
    calibration: str
    samples: int
    judge: Judge
    session: Callable[[ModelProto], Session]
    tool: str
    observed: dict[str, ObservedRanges] = field(default_factory=dict)
    known: dict[Recipe, Trial[Recipe, ModelProto]] = field(default_factory=dict)

    def watch(self) -> None:
        """Runs all calibration samples, once for every edge in the same process; raises as `observe`."""
        if not self.observed:
            samples = SampleFolder(self.calibration)
            self.observed = observe(self.model.SerializeToString(), candidates(self.model), samples)


def optimized(path: Path, scratch: Path) -> ModelProto:
    """ONNX Runtime's basic optimization: constants folded, BatchNormalization and scalings inside convolutions.

    Raises:
        StepError: It fails.
    """
    import onnx
    import onnxruntime as ort

    options = session_options("basic", 0)
    options.optimized_model_filepath = str(scratch / "optimized.onnx")
    try:
        ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
        )
    except runtime_failures() as error:
        raise StepError(f"ONNX Runtime {ort.__version__} refuses {path.name}: {error}") from error
    return onnx.load(scratch / "optimized.onnx")


def typed(model: ModelProto) -> ModelProto:
    """Returns the model with shapes and types inferred anew."""
    import onnx

    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


def typed_copy(model: ModelProto) -> ModelProto:
    """Returns a copy with shapes and types inferred, for a reader."""
    return typed(type(model).FromString(model.SerializeToString()))
