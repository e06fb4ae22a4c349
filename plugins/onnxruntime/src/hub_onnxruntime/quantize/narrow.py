"""The plans without calibration samples: dynamic int8, weights alone, float16. Each keeps the best of a few.

Their results are compared with the float model on random inputs here, which tell one form from another; hub's gate
compares again on real ones where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hub.spec import DType, Numerics, QuantRecipe, StepError, UnsupportedModel
from hub_onnxruntime.files import external_files, load, load_structure
from hub_onnxruntime.large import LARGE_BYTES, lighten, size_on_disk
from hub_onnxruntime.operators import opset_of
from hub_onnxruntime.prepare import raise_opset
from hub_onnxruntime.quantize import half, weights
from hub_onnxruntime.quantize.cpu import this_cpu
from hub_onnxruntime.quantize.dynamic import Dynamic, quantize, weights_for
from hub_onnxruntime.quantize.judge import Judge
from hub_onnxruntime.quantize.source import Source, check_float, open_source, random_judge
from hub_onnxruntime.rewrites import rewritten
from hub_onnxruntime.session import OrtSession
from hub_onnxruntime.simplify import Rejected

BLOCKS_OPSET = 21
"""The first whose DequantizeLinear takes blocks, 4-bit and 16-bit integers."""

FP16_GOAL_DB = 46.0
"""hub's gate asks float16 for 40 dB on other inputs."""

MATRICES = ("MatMul", "Gather")  # the tool turns Gemm into MatMul first
CONVOLUTIONS = ("MatMul", "Gather", "Conv")
RECURRENT = ("MatMul", "Gather", "LSTM")


class Made(NamedTuple):
    """A quantized model, its recipe, and notes. A large one keeps its other weights in files of `folder`."""

    model: Any
    recipe: QuantRecipe
    notes: list[str]


def dynamic_int8(path: str, operators: tuple[str, ...], tool: str) -> Made:
    """Quantizes activations on the fly.

    Raises:
        UnsupportedModel: No operator of these types has stored weights.
        HubError: As `open_source`.
    """
    source = open_source(path)
    signedness, seen = this_cpu()
    settings = Dynamic(operators, weights_for(signedness))
    model = quantize(source.model, settings)
    kinds = {"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"}
    changed = [node.op_type for node in model.graph.node if node.op_type in kinds]
    if not changed:
        raise UnsupportedModel(
            f"nothing can be quantized on the fly: no {' or '.join(operators)} has stored weights",
            hint="Use --int8 with --calibration, or --precision int8-weights.",
        )
    db = _measured(source, model)
    recipe = QuantRecipe(
        name=f"dynamic int8 of {', '.join(operators)}",
        tool=tool,
        numerics=Numerics.INT8_DYNAMIC,
        weights=DType(settings.weights),
        activations=DType.UINT8,
        granularity="per-channel",
        kept_float=_left(source, operators),
        settings=settings.settings,
    )
    notes = [f"{settings.weights} weights: exact on {seen}", f"{len(changed)} layers, {_words(db)}"]
    return Made(model, recipe, [*source.notes, *notes])


def _left(source: Source, operators: Sequence[str]) -> tuple[str, ...]:
    done = {*operators, "Gemm"} if "MatMul" in operators else set(operators)
    kinds = {"Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "MatMul", "Gemm"} - done
    return tuple(sorted(kinds & {node.op_type for node in source.model.graph.node}))


def _measured(source: Source, model: Any) -> float:
    session = OrtSession(source.path, content=model.SerializeToString())
    return source.judge.sqnr_db(session) if source.judge.samples else float("nan")


def _words(decibels: float) -> str:
    known = decibels == decibels  # noqa: PLR0124 - not a number
    return f"{decibels:.1f} dB on random inputs" if known else "not run on random inputs: no sizes fit"


def narrow_weights(path: str, scratch: str, forms: Sequence[weights.Form], numerics: Numerics, tool: str) -> Made:
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
    model, raised = raised_opset(model) if any(form.block for form in forms) else (model, [])
    notes += raised
    if large:
        stored = weights.quantize(model, source.parent, forms[0])
        lighten(model, source.parent, Path(scratch))
        notes.append(f"the model is large: {forms[0].words}, not compared with other forms")
        return Made(model, _record(stored, forms[0], numerics, tool), notes)
    best, stored, form, more = _best_form(model, source, forms)
    return Made(best, _record(stored, form, numerics, tool), [*notes, *more])


def raised_opset(model: Any) -> tuple[Any, list[str]]:
    """Returns the model with the opset that blocks and 16-bit integers need, and a note where that is a change.

    Raises:
        UnsupportedModel: ONNX's version converter does not manage it.
    """
    if opset_of(model) >= BLOCKS_OPSET:
        return model, []
    try:
        return raise_opset(model, BLOCKS_OPSET)
    except Rejected as error:
        raise UnsupportedModel(str(error), hint="Export the model again with opset 21.") from error


def _best_form(
    model: Any, path: Path, forms: Sequence[weights.Form]
) -> tuple[Any, dict[str, str], weights.Form, list[str]]:
    judge = random_judge(path, model)
    results = []
    for form in forms:
        copy = type(model).FromString(model.SerializeToString())
        stored = weights.quantize(copy, path.parent, form)
        if not stored:
            raise UnsupportedModel(
                "no weight can be stored in integers: no matrix, convolution or table of 1,024 elements is stored",
                hint="Use --precision fp16.",
            )
        results.append((_of_weights(judge, path, copy), copy, stored, form))
    _, copy, stored, form = max(results, key=lambda item: item[0])
    tried = "; ".join(f"{item[3].words}: {item[0]:.1f} dB" for item in results)
    notes = [f"tried on random inputs: {tried}"] if judge.samples else ["not run on random inputs: no sizes fit"]
    return copy, stored, form, [*notes, f"took {form.words}, {len(stored)} tensors"]


def _of_weights(judge: Judge, path: Path, model: Any) -> float:
    if not judge.samples:
        return 0.0
    return judge.sqnr_db(OrtSession(path, content=model.SerializeToString()))


def _record(stored: dict[str, str], form: weights.Form, numerics: Numerics, tool: str) -> QuantRecipe:
    return QuantRecipe(
        name=form.words,
        tool=tool,
        numerics=numerics,
        weights=DType.INT4 if numerics == Numerics.INT4_WEIGHTS else DType.INT8,
        activations=DType.FLOAT32,
        granularity="block-wise" if form.block else "per-channel",
        settings={
            "bits": form.bits,
            "block": form.block,
            "symmetric": form.symmetric,
            "convolutions": form.convolutions,
            "tensors": stored,
        },
    )


def float16(path: str, tool: str) -> Made:
    """Computes in float16, but for nodes whose values do not fit; and for sums, where the whole is too coarse.

    Raises:
        HubError: As `open_source`; or no result runs.
    """
    source = open_source(path)
    large = half.overflowing(source.model, source.judge.samples)
    ways: list[tuple[str, Callable[[], list[str]]]] = [
        ("values beyond float16 in float32", lambda: large),
        ("sums and divisions in float32 too", lambda: sorted({*large, *half.fragile(source.model)})),
    ]
    notes, best = list(source.notes), (float("-inf"), source.model, large)
    for words, chosen in ways:
        kept = chosen()
        model = half.halve(source.model, kept)
        try:
            db = _measured(source, model)
        except StepError as error:
            notes.append(f"{words}: {error.message.splitlines()[0]}")
            continue
        notes.append(f"{words} ({len(kept)} nodes): {_words(db)}")
        if not db <= best[0]:
            best = (db, model, kept)
        if not db < FP16_GOAL_DB:
            break
    if best[0] == float("-inf"):
        raise StepError(f"no float16 form runs: {'; '.join(notes)}")
    return Made(best[1], _half_recipe(best[2], tool), notes)


def _half_recipe(kept: Sequence[str], tool: str) -> QuantRecipe:
    return QuantRecipe(
        name="float16, inputs and outputs float32",
        tool=tool,
        numerics=Numerics.FP16,
        weights=DType.FLOAT16,
        activations=DType.FLOAT16,
        granularity="per-tensor",
        kept_float=tuple(kept),
        settings={"keep_io_types": True, "node_block_list": list(kept)},
    )
