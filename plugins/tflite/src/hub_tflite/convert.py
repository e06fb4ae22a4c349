"""The edges: from a float32 TFLite file to each precision, in order of preference."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from hub.spec import (
    YES,
    Accepts,
    CalibrationError,
    ConvertJob,
    ConvertOptions,
    DType,
    Edge,
    Gives,
    HubError,
    IoBinding,
    Layer,
    ModelSummary,
    Numerics,
    QuantRecipe,
    StepError,
    StepOutput,
    Support,
    UnsupportedModel,
    Verdict,
)
from hub_tflite import recipes
from hub_tflite.calibrate import METHOD
from hub_tflite.float16_constants import halve_constants
from hub_tflite.numerics import precision_report
from hub_tflite.quantize import (
    TOOL,
    Prepared,
    Quantized,
    border_bindings,
    coarse_matrices,
    failure,
    holds_infinities,
    inner_rules,
    integer_border_rules,
    plain,
    prepare,
    quantize,
    spare,
)
from hub_tflite.recipes import Rule
from hub_tflite.rewrite import ALWAYS, STATIC, Rewrite, drop_unused
from hub_tflitefile.schema import parse, read, to_bytes

GOAL_DB = 20.0
"""A mixed recipe is taken as soon as it reaches this on the calibration samples: hub's int8 gate asks for 13 dB on
held-out ones, and 7 dB is a margin for other data and other kernels."""

_QUANTIZER = ("ai-edge-litert", "ai-edge-quantizer")
_NAMED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One recipe to try: its name for the notes, and its rules."""

    name: str
    rules: list[Rule]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One edge's way of quantizing.

    Attributes:
        name: Short name; the edge is `tflite.<name>`.
        title: For the plan.
        numerics: What it gives.
        cost: Order of preference among edges with the same target.
        weights: Element type of the weights.
        activations: Element type of the activations in quantized layers.
        rewrites: Applied to the graph first.
        attempts: Recipes in order; the first that is good enough is taken, else the best.
        refuse: Reason not to try at all, given what was seen; empty to go on.
    """

    name: str
    title: str
    numerics: Numerics
    cost: float
    weights: DType
    activations: DType
    rewrites: tuple[Rewrite, ...]
    attempts: Callable[[Prepared], Iterator[Attempt]]
    refuse: Callable[[Prepared], str] = lambda _: ""


def _one(name: str, rules: Callable[[], list[Rule]]) -> Callable[[Prepared], Iterator[Attempt]]:
    def attempts(_: Prepared) -> Iterator[Attempt]:
        yield Attempt(name=name, rules=rules())

    return attempts


def _sparing(
    scheme_rules: Callable[[], list[Rule]], thresholds: Sequence[float], *, products_only: bool
) -> Callable[[Prepared], Iterator[Attempt]]:
    """Tries to keep more and more of the operators that int8 hurts most out of int8."""

    def attempts(prepared: Prepared) -> Iterator[Attempt]:
        last = -1
        for threshold in thresholds:
            rules, spared, total = spare(prepared, threshold, products_only=products_only)
            if spared == last:
                continue
            last = spared
            name = f"{spared} of {total} layers spared (activations below {threshold:g} dB in int8)"
            yield Attempt(name=name, rules=[*scheme_rules(), *rules])

    return attempts


def _three_quarters(prepared: Prepared) -> Iterator[Attempt]:
    """Leaves in int8 the quarter of the matrices that int4 rounds worst (a sentence transformer: 9 -> 11 dB)."""
    kept = coarse_matrices(prepared, 0.25)
    name = f"{len(kept)} matrices that int4 rounds worst stay in int8"
    yield Attempt(name=name, rules=[*recipes.int4_fully_connected(), *kept])


def _no_infinities(prepared: Prepared) -> str:
    names = holds_infinities(prepared)
    return f"stand-ins for infinity in {', '.join(names[:3])} have no place in an integer range" if names else ""


PLANS: tuple[Plan, ...] = (
    Plan(
        name="int8",
        title="static int8, every layer",
        numerics=Numerics.INT8,
        cost=1.0,
        weights=DType.INT8,
        activations=DType.INT8,
        rewrites=STATIC,
        attempts=_one("every layer", lambda: recipes.everywhere(recipes.STATIC8)),
        refuse=_no_infinities,
    ),
    Plan(
        name="int8-mixed",
        title="static int8, layers that int8 breaks in float",
        numerics=Numerics.INT8_MIXED,
        cost=2.0,
        weights=DType.INT8,
        activations=DType.INT8,
        rewrites=STATIC,
        attempts=_sparing(lambda: recipes.everywhere(recipes.STATIC8), (0, 25, 30, 35), products_only=False),
    ),
    Plan(
        name="int8-mixed-products",
        title="static int8 in convolutions and matrix products, the rest in float",
        numerics=Numerics.INT8_MIXED,
        cost=3.0,
        weights=DType.INT8,
        activations=DType.INT8,
        rewrites=STATIC,
        attempts=_sparing(lambda: recipes.products(recipes.STATIC8), (0, 20, 25, 28, 30, 33, 36), products_only=True),
    ),
    Plan(
        name="int8-dynamic",
        title="dynamic-range int8",
        numerics=Numerics.INT8_DYNAMIC,
        cost=1.0,
        weights=DType.INT8,
        activations=DType.FLOAT32,
        rewrites=ALWAYS,
        attempts=_one("every layer with weights", recipes.dynamic),
    ),
    Plan(
        name="int8-dynamic-depthwise",
        title="dynamic-range int8, depthwise convolutions in float on int8 weights",
        numerics=Numerics.INT8_DYNAMIC,
        cost=2.0,
        weights=DType.INT8,
        activations=DType.FLOAT32,
        rewrites=ALWAYS,
        attempts=_one("depthwise convolutions computed in float", recipes.dynamic_but_depthwise),
    ),
    Plan(
        name="int8-weights",
        title="int8 weights",
        numerics=Numerics.INT8_WEIGHTS,
        cost=1.0,
        weights=DType.INT8,
        activations=DType.FLOAT32,
        rewrites=ALWAYS,
        attempts=_one("every layer with weights", recipes.int8_weights),
    ),
    Plan(
        name="int4-weights",
        title="int4 weights",
        numerics=Numerics.INT4_WEIGHTS,
        cost=1.0,
        weights=DType.INT4,
        activations=DType.FLOAT32,
        rewrites=ALWAYS,
        attempts=_one("convolutions and matrix products; int8 elsewhere", recipes.int4_weights),
    ),
    Plan(
        name="int4-weights-products",
        title="int4 weights in matrix products, int8 in convolutions",
        numerics=Numerics.INT4_WEIGHTS,
        cost=2.0,
        weights=DType.INT4,
        activations=DType.FLOAT32,
        rewrites=ALWAYS,
        attempts=_one("matrix products; int8 elsewhere", recipes.int4_fully_connected),
    ),
    Plan(
        name="int4-weights-spared",
        title="int4 weights in most matrix products, int8 in the rest and in convolutions",
        numerics=Numerics.INT4_WEIGHTS,
        cost=3.0,
        weights=DType.INT4,
        activations=DType.FLOAT32,
        rewrites=ALWAYS,
        attempts=_three_quarters,
    ),
    Plan(
        name="int16x8",
        title="int16 activations, int8 weights, every layer",
        numerics=Numerics.INT16X8,
        cost=1.0,
        weights=DType.INT8,
        activations=DType.INT16,
        rewrites=STATIC,
        attempts=_one("every layer", lambda: recipes.everywhere(recipes.STATIC16)),
        refuse=_no_infinities,
    ),
    Plan(
        name="int16x8-products",
        title="int16 activations and int8 weights in convolutions and matrix products, the rest in float",
        numerics=Numerics.INT16X8,
        cost=2.0,
        weights=DType.INT8,
        activations=DType.INT16,
        rewrites=STATIC,
        attempts=_one("convolutions and matrix products", lambda: recipes.products(recipes.STATIC16)),
    ),
)  # fmt: skip


def run_plan(plan: Plan, job: ConvertJob) -> StepOutput:
    """Quantizes `job.source.path` into `job.output`.

    Raises:
        CalibrationError: The plan needs samples and there are none, or they do not fit.
        UnsupportedModel: The result would not be what the edge claims.
        StepError: The quantizer fails on every recipe of the plan.
    """
    if plan.numerics.needs_calibration and not job.calibration:
        raise CalibrationError(f"{plan.title} needs calibration samples", hint="give some: --calibration DATA")
    scheme = _border_scheme(plan, job.options)
    prepared = prepare(job.source.path, plan.rewrites, job.calibration if plan.numerics.needs_calibration else "")
    reason = plan.refuse(prepared)
    if reason:
        raise UnsupportedModel(f"{plan.title}: {reason}", hint="--precision int8-mixed leaves such layers in float")
    result, notes = _best(plan, prepared)
    final = result
    if scheme:
        final = quantize(prepared, integer_border_rules(prepared, result.rules, scheme), judge=False)
    Path(job.output).write_bytes(final.content)
    bindings: tuple[IoBinding, ...] = border_bindings(final.content, prepared.model)
    return StepOutput(
        notes=(*prepared.notes, *notes, *_float_notes(plan, final.report.left_float)),
        bindings=bindings,
        recipe=_recipe(plan, prepared, final),
    )


def _border_scheme(plan: Plan, options: ConvertOptions) -> str:
    if not options.io_dtype:
        return ""
    if options.io_dtype != "int8" or plan.activations is not DType.INT8:
        raise UnsupportedModel(
            f"inputs and outputs in {options.io_dtype} do not go with {plan.numerics.value}",
            hint="--io-dtype int8 goes with --int8 and calibration data",
        )
    return recipes.STATIC8


def _best(plan: Plan, prepared: Prepared) -> tuple[Quantized, list[str]]:
    """Tries the plan's recipes; returns the first above the goal, else the best, with a note on each try."""
    best: Quantized | None = None
    notes: list[str] = []
    last: HubError | None = None
    for attempt in plan.attempts(prepared):
        try:
            result = _attempt(plan, prepared, attempt)
        except (StepError, UnsupportedModel) as error:
            last = error
            notes.append(f"recipe: {attempt.name}: {failure(error)}")
            continue
        notes.append(_attempt_note(attempt, prepared, result))
        if best is None or result.sqnr_db > best.sqnr_db:
            best = result
        if math.isnan(result.sqnr_db) or result.sqnr_db >= GOAL_DB:
            break
    if best is None:
        raise last or StepError(f"{plan.title}: nothing to try")
    return best, notes


def _attempt_note(attempt: Attempt, prepared: Prepared, result: Quantized) -> str:
    if math.isnan(result.sqnr_db):
        return f"recipe: {attempt.name}"
    return f"recipe: {attempt.name}: {result.sqnr_db:.1f} dB on {len(prepared.judged)} calibration samples"


def _attempt(plan: Plan, prepared: Prepared, attempt: Attempt) -> Quantized:
    static = plan.activations is not DType.FLOAT32
    result = quantize(prepared, [*attempt.rules, *(inner_rules(prepared) if static else [])])
    found = result.report.numerics
    if found is plan.numerics:
        return result
    left = _names(result.report.left_float)
    why = f"; in float stay {left}" if left else ""
    raise UnsupportedModel(
        f"{plan.title} would give {found.value}{why}", hint="--precision int8-mixed accepts layers in float"
    )


def _names(layers: Sequence[Layer]) -> str:
    names = [_layer_words(layer) for layer in layers]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _layer_words(layer: Layer) -> str:
    weights = f" ({layer.precision})" if layer.precision != "fp32" else ""
    return f"{layer.operator} {layer.name}{weights}"


def _float_notes(plan: Plan, left: Sequence[Layer]) -> list[str]:
    static = plan.activations is not DType.FLOAT32
    return [f"{len(left)} layers have float activations: {_names(left)}"] if static and left else []


def _recipe(plan: Plan, prepared: Prepared, result: Quantized) -> QuantRecipe:
    static = plan.activations is not DType.FLOAT32
    return QuantRecipe(
        name=plan.name,
        tool=f"{TOOL} {version(TOOL)}",
        numerics=plan.numerics,
        weights=plan.weights,
        activations=plan.activations,
        granularity="per-channel",
        symmetric_activations=plan.activations is DType.INT16,
        calibration_method=METHOD if static else "",
        samples=prepared.samples,
        kept_float=tuple(map(_layer_words, result.report.left_float)) if static else (),
        settings={"recipe": plain(result.rules)},
    )


def run_half(job: ConvertJob) -> StepOutput:
    """Stores the constants of `job.source.path` in float16.

    Raises:
        ModelUnreadable: The file is corrupt.
        UnsupportedModel: It has no float32 constant.
    """
    model = read(job.source.path)
    notes = halve_constants(model)
    drop_unused(model)
    content = to_bytes(model)
    if precision_report(parse(content)).numerics is not Numerics.FP16:
        raise UnsupportedModel("the model has no float32 weights to store in float16", hint="keep it as it is")
    Path(job.output).write_bytes(content)
    return StepOutput(notes=tuple(notes), recipe=_HALF_RECIPE)


_HALF_RECIPE = QuantRecipe(
    name="fp16", tool="hub-tflite", numerics=Numerics.FP16, weights=DType.FLOAT16, activations=DType.FLOAT32,
    granularity="per-tensor",
)  # fmt: skip
_FLOAT = (Accepts(format="tflite"),)


def takes_runnable(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Says no to custom operators: the quantizer runs the model."""
    if summary.custom_operators and not options.allow_custom_ops:
        return Verdict(
            support=Support.NEVER, reason=f"the runtime has no kernel for {', '.join(summary.custom_operators)}"
        )
    return YES


def _edge(plan: Plan) -> Edge:
    return Edge(
        id=f"tflite.{plan.name}",
        accepts=_FLOAT,
        gives=Gives(format="tflite", numerics=plan.numerics),
        convert=functools.partial(run_plan, plan),
        check=takes_runnable,
        honours=("io_dtype",) if plan.activations is DType.INT8 else (),
        lossy=True,
        needs_calibration=plan.numerics.needs_calibration,
        keeps_dynamic=True,
        requires=_QUANTIZER,
        process="tflite",
        cost=plan.cost,
        title=plan.title,
    )


QUANTIZING = (
    Edge(
        id="tflite.fp16",
        accepts=_FLOAT,
        gives=Gives(format="tflite", numerics=Numerics.FP16),
        convert=run_half,
        check=takes_runnable,
        lossy=True,
        keeps_dynamic=True,
        requires=("ai-edge-litert",),
        process="tflite",
        title="float16 weights",
    ),
    *map(_edge, PLANS),
)
"""float16 weights, and one edge per plan."""
