"""float16 and bfloat16 as TensorRT takes them: strongly typed graphs, float32 at inputs and outputs, casts between.

Nodes whose values float16 cannot hold stay in float32, with the casts that this needs (ADR 48 has nvidia-modelopt's
AutoCast beside it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hub.spec import DType, Numerics, QuantRecipe, Remark, SampleFolder, UnsupportedModel
from hub_onnxgraph.graphs import graphs, raise_opset
from hub_onnxgraph.numerics import multiplies
from hub_onnxquant import half
from hub_onnxquant.half import HalfType
from hub_onnxquant.placement import PRODUCTS
from hub_onnxquant.source import typed_copy
from hub_quanttrials import Trials, listed
from hub_tensorrt.precision.integers import Precise
from hub_tensorrt.precision.source import open_source, tool

if TYPE_CHECKING:
    from onnx import ModelProto

_GOALS_DB = {HalfType.FLOAT16: 46.0, HalfType.BFLOAT16: 31.0}
"""Well above what hub's gate asks for on other inputs."""

_NUMERICS = {HalfType.FLOAT16: Numerics.FP16, HalfType.BFLOAT16: Numerics.BF16}
_BFLOAT16_OPSET = 22
"""The first whose Conv takes bfloat16."""

_NO_BFLOAT16 = frozenset({"ConvTranspose"})
"""Operators for which tensorrt_rtx 1.7.1 finds no bfloat16 kernel."""

_NAMED = 12


@dataclass(frozen=True, slots=True)
class HalfChoice:
    """A half-wide type but for some nodes: their kind in words, and their names."""

    words: str
    kept: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.words} ({len(self.kept)} nodes)"


def half_floats(path: str, calibration: str, kind: HalfType) -> Precise:
    """Computes in a half-wide type, but for nodes that it cannot hold; and for sums, where the whole is too coarse.

    Args:
        path: The prepared float model.
        calibration: Folder of samples, on all of which ranges are looked at; empty for random inputs.
        kind: The type.

    Raises:
        HubError: As `open_source`; or no result runs.
        UnsupportedModel: Nothing that multiplies can be computed in that type.
    """
    source = open_source(path, calibration)
    seen = SampleFolder(calibration) if calibration else source.judge.samples
    where = f"{len(seen)} {'calibration samples' if calibration else 'random inputs'}"
    raised: list[Remark] = []
    if kind is HalfType.FLOAT16:
        large = half.overflowing(source.model, seen)
        limit = f"float16 ends at {half.LARGEST:.0f}"
        reasons = [
            Remark("note", "beyond-float16", f"{name} stays in float32: {value:.4g} on {where}, and {limit}")
            for name, value in large.items()
        ]
        kept, words = tuple(large), "values beyond float16 in float32"
    else:
        model, raised = raise_opset(source.model, _BFLOAT16_OPSET)
        source = replace(source, model=typed_copy(model))
        kept = tuple(node.name for node in source.model.graph.node if node.op_type in _NO_BFLOAT16)
        reasons = [
            Remark("note", "no-bfloat16", f"{name} stays in float32: TensorRT has no bfloat16 ConvTranspose")
            for name in kept
        ]
        words = "what has no bfloat16 in float32"
    top = {node.name for node in source.model.graph.node if multiplies(node)}
    anywhere = [node for graph in graphs(source.model.graph) for node in graph.node if multiplies(node)]
    if anywhere and not top - set(kept):
        why = listed([remark.text for remark in reasons]) or "what multiplies lies in bodies of Loop, Scan or If"
        other = Numerics.BF16 if kind is HalfType.FLOAT16 else Numerics.FP16
        raise UnsupportedModel(
            f"nothing in the model can be computed in {kind.word}: {why}",
            hint=f"--precision {other.value}, or none for float32" if top else "leave out --precision: float32",
        )

    def choices() -> Iterator[HalfChoice]:
        yield HalfChoice(words, kept)
        yield HalfChoice("sums and divisions in float32 too", tuple(sorted({*kept, *half.fragile(source.model)})))
        others = (node.name for node in source.model.graph.node if node.op_type not in PRODUCTS)
        yield HalfChoice("all but products in float32", tuple(sorted({*kept, *others})))

    def apply(choice: HalfChoice) -> ModelProto:
        return half.halve(source.model, choice.kept, kind)

    trials = Trials(source.judge, apply, source.session)
    best = trials.best(choices(), _GOALS_DB[kind])
    told = reasons[:_NAMED]
    if len(reasons) > _NAMED:
        told.append(Remark("note", reasons[0].code, f"and {len(reasons) - _NAMED} more nodes for the same reason"))
    text = "not compared: no sizes fit, or the float model gives nothing"
    unjudged = [] if source.judge.samples else [Remark("note", "recipes-unjudged", text)]
    recipe = QuantRecipe(
        name=f"{kind.word}, inputs and outputs float32",
        tool=tool(),
        numerics=_NUMERICS[kind],
        weights=DType(kind.word),
        activations=DType(kind.word),
        granularity="per-tensor",
        samples=source.samples,
        kept_float=best.recipe.kept,
        settings={"keep_io_types": True},
    )
    notes = [*source.notes, *raised, *told, *trials.notes, *unjudged]
    return Precise(best.model, recipe, notes)
