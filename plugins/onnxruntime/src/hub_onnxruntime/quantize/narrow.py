"""The edges without calibration samples: dynamic int8, weights alone, float16. Each keeps the best of a few recipes.

Their results are compared with the float model on random inputs here, which tell one form from another; hub's gate
compares again on real ones where there are any.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub.spec import DType, Numerics, QuantRecipe, Remark, UnsupportedModel
from hub_onnxgraph.graphs import raise_opset
from hub_onnxquant import half, weights
from hub_onnxruntime.files import external_files, load, load_structure
from hub_onnxruntime.large import LARGE_BYTES, lighten, size_on_disk
from hub_onnxruntime.quantize.cpu import this_cpu
from hub_onnxruntime.quantize.dynamic import Dynamic, left_in_float, quantize, store_narrow, weights_for
from hub_onnxruntime.quantize.source import check_float, open_source, random_judge, tool
from hub_onnxruntime.rewrites import rewritten
from hub_onnxruntime.session import OrtSession
from hub_quanttrials import Judge, Trials

if TYPE_CHECKING:
    from onnx import ModelProto

BLOCKS_OPSET = 21
"""The first whose DequantizeLinear takes blocks, 4-bit and 16-bit integers."""

FP16_GOAL_DB = 46.0
"""Well above what hub's gate asks for on other inputs."""

MATRICES = ("MatMul", "Gather")  # the tool turns Gemm into MatMul first
CONVOLUTIONS = ("MatMul", "Gather", "Conv")
RECURRENT = ("MatMul", "Gather", "LSTM")


class Made(NamedTuple):
    """A quantized model, its recipe, and notes. A large one keeps its other weights in files of `folder`."""

    model: ModelProto
    recipe: QuantRecipe
    notes: list[Remark]


def _unjudged(judge: Judge) -> list[Remark]:
    text = "not compared on random inputs: no sizes fit, or the float model gives nothing"
    return [] if judge.samples else [Remark("note", "recipes-unjudged", text)]


def recipe_taken(words: str) -> Remark:
    """Says which recipe was taken, and what it came to."""
    return Remark("note", "recipe-taken", f"took {words}")


def dynamic_int8(path: str, operators: tuple[str, ...]) -> Made:
    """Quantizes activations on the fly.

    Raises:
        UnsupportedModel: No operator of these types has stored weights.
        HubError: As `open_source`.
    """
    source = open_source(path)
    signedness, seen = this_cpu()
    settings = Dynamic(operators, weights_for(signedness))
    said: list[Remark] = []

    def apply(_: Dynamic) -> ModelProto:
        model = quantize(source.model, settings)
        if not _on_the_fly(model):
            raise UnsupportedModel(
                f"nothing can be quantized on the fly: no {' or '.join(operators)} has stored weights",
                hint="Use --int8 with --calibration, or --precision int8-weights.",
            )
        said[:] = store_narrow(model) + left_in_float(model, source.model)
        return model

    trials = Trials(source.judge, apply, source.session)
    best = trials.best([settings])
    done = {*operators, "Gemm"} if "MatMul" in operators else set(operators)
    kinds = {"Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "MatMul", "Gemm"} - done
    recipe = QuantRecipe(
        name=f"dynamic int8 of {', '.join(operators)}",
        tool=tool(),
        numerics=Numerics.INT8_DYNAMIC,
        weights=DType(settings.weights),
        activations=DType.UINT8,
        granularity="per-channel",
        kept_float=tuple(sorted(kinds & {node.op_type for node in source.model.graph.node})),
        settings=settings.settings,
    )
    layers = f"{_on_the_fly(best.model)} layers quantize activations on the fly"
    exact = Remark("note", "weights-signedness", f"{settings.weights} weights: exact on {seen}")
    quantized = Remark("note", "layers-on-the-fly", layers)
    notes = [*source.notes, exact, *trials.notes, quantized, *said, *_unjudged(source.judge)]
    return Made(best.model, recipe, notes)


def _on_the_fly(model: ModelProto) -> int:
    return sum(node.op_type in {"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"} for node in model.graph.node)


class Stored(NamedTuple):
    """A model with narrow weights, and the element type of each tensor that was narrowed."""

    model: ModelProto
    kinds: dict[str, str]


def narrow_weights(path: str, scratch: str, forms: Sequence[weights.Form]) -> Made:
    """Stores weights narrow, in the form that is best on random inputs; of a large model in the first form.

    Raises:
        UnsupportedModel: There is no weight to store narrow, or the opset cannot be raised.
        HubError: The model cannot be read or run, or is quantized already.
    """
    source = Path(path)
    structure = load_structure(source)
    check_float(structure)
    large = size_on_disk(source, external_files(structure, source.parent)) >= LARGE_BYTES
    written, notes = (source, []) if large else rewritten(source, Path(scratch), 0)
    model = structure if large else load(written)
    model, raised = raise_opset(model, BLOCKS_OPSET) if any(form.block for form in forms) else (model, [])
    notes += raised
    if large:
        kinds = weights.quantize(model, source.parent, forms[0])
        lighten(model, source.parent, Path(scratch))
        text = f"the model is large: {forms[0]}, not compared with other forms"
        notes.append(Remark("note", "recipe-untried-large", text))
        return Made(model, _record(kinds, forms[0]), notes)

    def apply(form: weights.Form) -> Stored:
        copy = type(model).FromString(model.SerializeToString())
        kinds = weights.quantize(copy, source.parent, form)
        if not kinds:
            raise UnsupportedModel(
                "no weight can be stored in integers: no matrix, convolution or table of 1,024 elements is stored",
                hint="Use --precision fp16.",
            )
        return Stored(copy, kinds)

    judge = random_judge(source, model)
    trials = Trials(judge, apply, lambda made: OrtSession(source, content=made.model.SerializeToString()))
    best = trials.best(forms, math.inf)
    took = recipe_taken(f"{best.recipe}, {len(best.model.kinds)} tensors")
    return Made(
        best.model.model, _record(best.model.kinds, best.recipe), [*notes, *trials.notes, *_unjudged(judge), took]
    )


def _record(kinds: dict[str, str], form: weights.Form) -> QuantRecipe:
    four = form.bits == 4  # noqa: PLR2004 - bits
    return QuantRecipe(
        name=str(form),
        tool=tool(),
        numerics=Numerics.INT4_WEIGHTS if four else Numerics.INT8_WEIGHTS,
        weights=DType.INT4 if four else DType.INT8,
        activations=DType.FLOAT32,
        granularity="block-wise" if form.block else "per-channel",
        settings={
            "bits": form.bits,
            "block": form.block,
            "symmetric": form.symmetric,
            "convolutions": form.convolutions,
            "tensors": kinds,
        },
    )


@dataclass(frozen=True, slots=True)
class HalfRecipe:
    """float16 but for some nodes: their kind in words, and their names."""

    words: str
    kept: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.words} ({len(self.kept)} nodes)"


def float16(path: str) -> Made:
    """Computes in float16, but for nodes whose values do not fit; and for sums, where the whole is too coarse.

    Raises:
        HubError: As `open_source`; or no result runs.
    """
    source = open_source(path)
    large = half.overflowing(source.model, source.judge.samples)

    def recipes() -> Iterator[HalfRecipe]:
        yield HalfRecipe("values beyond float16 in float32", tuple(large))
        yield HalfRecipe("sums and divisions in float32 too", tuple(sorted({*large, *half.fragile(source.model)})))

    def apply(recipe: HalfRecipe) -> ModelProto:
        return half.halve(source.model, recipe.kept)

    trials = Trials(source.judge, apply, source.session)
    best = trials.best(recipes(), FP16_GOAL_DB)
    kept = best.recipe.kept
    recipe = QuantRecipe(
        name="float16, inputs and outputs float32",
        tool=tool(),
        numerics=Numerics.FP16,
        weights=DType.FLOAT16,
        activations=DType.FLOAT16,
        granularity="per-tensor",
        kept_float=kept,
        settings={"keep_io_types": True, "node_block_list": list(kept)},
    )
    return Made(best.model, recipe, [*source.notes, *trials.notes, *_unjudged(source.judge)])
