"""float16 as TensorRT takes it: a strongly typed graph, float32 at its inputs and outputs, casts at the borders.

Nodes whose values float16 cannot hold stay in float32, with the casts that this needs (ADR 47 has nvidia-modelopt's
AutoCast beside it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub.spec import DType, Numerics, QuantRecipe, SampleFolder
from hub_onnxquant import half
from hub_quanttrials import Trials
from hub_tensorrt.precision.integers import Precise
from hub_tensorrt.precision.source import open_source, tool

if TYPE_CHECKING:
    from onnx import ModelProto

GOAL_DB = 46.0
"""hub's gate asks float16 for 40 dB on other inputs."""

_NAMED = 12


@dataclass(frozen=True, slots=True)
class HalfChoice:
    """float16 but for some nodes: their kind in words, and their names."""

    words: str
    kept: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.words} ({len(self.kept)} nodes)"


def float16(path: str, calibration: str = "") -> Precise:
    """Computes in float16, but for nodes whose values do not fit; and for sums, where the whole is too coarse.

    Args:
        path: The prepared float model.
        calibration: Folder of samples, on all of which ranges are looked at; empty for random inputs.

    Raises:
        HubError: As `open_source`; or no result runs.
    """
    source = open_source(path, calibration)
    seen = SampleFolder(calibration) if calibration else source.judge.samples
    large = half.overflowing(source.model, seen)

    def choices() -> Iterator[HalfChoice]:
        yield HalfChoice("values beyond float16 in float32", tuple(large))
        yield HalfChoice("sums and divisions in float32 too", tuple(sorted({*large, *half.fragile(source.model)})))

    def apply(choice: HalfChoice) -> ModelProto:
        return half.halve(source.model, choice.kept)

    trials = Trials(source.judge, apply, source.session)
    best = trials.best(choices(), GOAL_DB)
    where = f"{len(seen)} {'calibration samples' if calibration else 'random inputs'}"
    beyond = [
        f"{name} stays in float32: {value:.4g} on {where}, and float16 ends at {half.LARGEST:.0f}"
        for name, value in list(large.items())[:_NAMED]
    ]
    more = [f"and {len(large) - _NAMED} more nodes for the same reason"] if len(large) > _NAMED else []
    recipe = QuantRecipe(
        name="float16, inputs and outputs float32",
        tool=tool(),
        numerics=Numerics.FP16,
        weights=DType.FLOAT16,
        activations=DType.FLOAT16,
        granularity="per-tensor",
        samples=source.samples,
        kept_float=best.recipe.kept,
        settings={"keep_io_types": True, "beyond": large},
    )
    unjudged = [] if source.judge.samples else ["not compared: no sizes fit, or the float model gives nothing"]
    return Precise(best.model, recipe, [*source.notes, *beyond, *more, *trials.notes, *unjudged])
