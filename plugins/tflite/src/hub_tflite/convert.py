"""The edges: from a float32 TFLite file to each precision, in order of preference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
    Layer,
    ModelSummary,
    Numerics,
    QuantRecipe,
    Remark,
    StepOutput,
    Support,
    UnsupportedModel,
    Verdict,
)
from hub_quanttrials import Trials, check_claim, listed
from hub_tflite import recipes
from hub_tflite.calibrate import METHOD
from hub_tflite.float16_constants import halve_constants
from hub_tflite.numerics import precision_report
from hub_tflite.quantize import (
    TOOL,
    FloatFile,
    Quantized,
    border_bindings,
    coarse_matrices,
    holds_infinities,
    inner_rules,
    integer_border_rules,
    open_float,
    quantize,
    spare,
)
from hub_tflite.recipes import QuantRule, RuleSet
from hub_tflite.rewrite import ALWAYS, STATIC, drop_unused
from hub_tflite.runtime import LiteRtSession
from hub_tflitefile.schema import parse, read, to_bytes

_QUANTIZER = ("ai-edge-litert", "ai-edge-quantizer")

Recipes = Callable[[FloatFile], Iterable[RuleSet]]


def _one(name: str, rules: Callable[[], list[QuantRule]]) -> Recipes:
    return lambda _: [RuleSet(name, tuple(rules()))]


def _whole(name: str, rules: list[QuantRule]) -> Recipes:
    """Integers wherever there are activations; refused where stand-ins for infinity were seen."""

    def recipes(source: FloatFile) -> Iterator[RuleSet]:
        names = holds_infinities(source)
        if names:
            reason = f"stand-ins for infinity in {', '.join(names[:3])} have no place in an integer range"
            raise UnsupportedModel(reason, hint="--precision int8-mixed leaves such layers in float")
        yield RuleSet(name, tuple(rules))

    return recipes


def _sparing(scheme_rules: list[QuantRule], thresholds: Sequence[float], *, products_only: bool) -> Recipes:
    """Tries to keep more and more of the operators that int8 hurts most out of int8."""

    def recipes(source: FloatFile) -> Iterator[RuleSet]:
        last = -1
        for threshold in thresholds:
            rules, spared, total = spare(source, threshold, products_only=products_only)
            if spared == last:
                continue
            last = spared
            name = f"{spared} of {total} layers spared (activations below {threshold:g} dB in int8)"
            yield RuleSet(name, (*scheme_rules, *rules))

    return recipes


def _three_quarters(source: FloatFile) -> list[RuleSet]:
    """Leaves in int8 the quarter of the matrices that int4 rounds worst (a sentence transformer: 9 -> 11 dB)."""
    kept = coarse_matrices(source, 0.25)
    name = f"{len(kept)} matrices that int4 rounds worst stay in int8"
    return [RuleSet(name, (*recipes.int4_fully_connected(), *kept))]


def run(job: ConvertJob, name: str, title: str, numerics: Numerics, tried: Recipes) -> StepOutput:
    """Quantizes `job.source.path` into `job.output`.

    Args:
        job: The step.
        name: For the recipe.
        title: For messages.
        numerics: What it gives.
        tried: Recipes in order; the first that is good enough is taken, else the best.

    Raises:
        CalibrationError: There are no samples where some are needed, or they do not fit.
        UnsupportedModel: The result would not be what the edge claims.
        StepError: The quantizer fails on every recipe.
    """
    static = numerics.needs_calibration
    if static and not job.calibration:
        raise CalibrationError(f"{title} needs calibration samples", hint="give some: --calibration DATA")
    scheme = _border_scheme(numerics, job.options)
    source = open_float(job.source.path, STATIC if static else ALWAYS, job.calibration if static else "")

    def apply(recipe: RuleSet) -> Quantized:
        made = quantize(source, recipe.rules)
        check_claim(title, numerics, made.report.numerics, _words(made.report.left_float))
        return made

    inner = tuple(inner_rules(source)) if static else ()
    trials = Trials(source.judge, apply, lambda made: LiteRtSession(made.content))
    best = trials.best(RuleSet(recipe.name, (*recipe.rules, *inner)) for recipe in tried(source))
    rules: Sequence[QuantRule] = best.recipe.rules
    final = best.model
    if scheme:  # a border in integers is not the float model's, so that it is not judged
        rules = integer_border_rules(source, rules, scheme)
        final = quantize(source, rules)
    Path(job.output).write_bytes(final.content)
    left = _words(final.report.left_float) if static else []
    said = f"{len(left)} layers have float activations: {listed(left)}"
    return StepOutput(
        notes=(
            *source.notes,
            *trials.notes,
            *([Remark("note", "layers-in-float", said)] if left else []),
        ),
        bindings=border_bindings(final.content, source.model),
        recipe=QuantRecipe(
            name=name,
            tool=f"{TOOL} {version(TOOL)}",
            numerics=numerics,
            weights=DType.INT4 if numerics is Numerics.INT4_WEIGHTS else DType.INT8,
            activations=_ACTIVATIONS.get(numerics, DType.FLOAT32),
            granularity="per-channel",
            symmetric_activations=numerics is Numerics.INT16X8,
            calibration_method=METHOD if static else "",
            samples=source.samples,
            kept_float=tuple(left),
            settings={"recipe": [rule.plain for rule in rules]},
        ),
    )


_ACTIVATIONS = {Numerics.INT8: DType.INT8, Numerics.INT8_MIXED: DType.INT8, Numerics.INT16X8: DType.INT16}
"""Element type of the activations in quantized layers, where it is not float."""


def _border_scheme(numerics: Numerics, options: ConvertOptions) -> str:
    if not options.io_dtype:
        return ""
    if options.io_dtype != "int8" or _ACTIVATIONS.get(numerics) is not DType.INT8:
        raise UnsupportedModel(
            f"inputs and outputs in {options.io_dtype} do not go with {numerics.value}",
            hint="--io-dtype int8 goes with --int8 and calibration data",
        )
    return recipes.STATIC8


def _words(layers: Sequence[Layer]) -> list[str]:
    weights = (f" ({layer.precision})" if layer.precision != "fp32" else "" for layer in layers)
    return [f"{layer.operator} {layer.name}{word}" for layer, word in zip(layers, weights, strict=True)]


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


def _edge(name: str, title: str, numerics: Numerics, tried: Recipes, cost: float = 1.0) -> Edge:
    """An edge of this module; `cost` orders those with the same target."""
    return Edge(
        id=f"tflite.{name}",
        accepts=_FLOAT,
        gives=Gives(format="tflite", numerics=numerics),
        convert=lambda job: run(job, name, title, numerics, tried),
        check=takes_runnable,
        honours=("io_dtype",) if _ACTIVATIONS.get(numerics) is DType.INT8 else (),
        lossy=True,
        needs_calibration=numerics.needs_calibration,
        keeps_dynamic=True,
        requires=_QUANTIZER,
        process="tflite",
        cost=cost,
        title=title,
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
    _edge(
        "int8",
        "static int8, every layer",
        Numerics.INT8,
        _whole("every layer", recipes.everywhere(recipes.STATIC8)),
    ),
    _edge(
        "int8-mixed",
        "static int8, layers that int8 breaks in float",
        Numerics.INT8_MIXED,
        _sparing(recipes.everywhere(recipes.STATIC8), (0, 25, 30, 35), products_only=False),
        cost=2.0,
    ),
    _edge(
        "int8-mixed-products",
        "static int8 in convolutions and matrix products, the rest in float",
        Numerics.INT8_MIXED,
        _sparing(recipes.products(recipes.STATIC8), (0, 20, 25, 28, 30, 33, 36), products_only=True),
        cost=3.0,
    ),
    _edge(
        "int8-dynamic",
        "dynamic-range int8",
        Numerics.INT8_DYNAMIC,
        _one("every layer with weights", recipes.dynamic),
    ),
    _edge(
        "int8-dynamic-depthwise",
        "dynamic-range int8, depthwise convolutions in float on int8 weights",
        Numerics.INT8_DYNAMIC,
        _one("depthwise convolutions computed in float", recipes.dynamic_but_depthwise),
        cost=2.0,
    ),
    _edge(
        "int8-weights",
        "int8 weights",
        Numerics.INT8_WEIGHTS,
        _one("every layer with weights", recipes.int8_weights),
    ),
    _edge(
        "int4-weights",
        "int4 weights",
        Numerics.INT4_WEIGHTS,
        _one("convolutions and matrix products; int8 elsewhere", recipes.int4_weights),
    ),
    _edge(
        "int4-weights-products",
        "int4 weights in matrix products, int8 in convolutions",
        Numerics.INT4_WEIGHTS,
        _one("matrix products; int8 elsewhere", recipes.int4_fully_connected),
        cost=2.0,
    ),
    _edge(
        "int4-weights-spared",
        "int4 weights in most matrix products, int8 in the rest and in convolutions",
        Numerics.INT4_WEIGHTS,
        _three_quarters,
        cost=3.0,
    ),
    _edge(
        "int16x8",
        "int16 activations, int8 weights, every layer",
        Numerics.INT16X8,
        _whole("every layer", recipes.everywhere(recipes.STATIC16)),
    ),
    _edge(
        "int16x8-products",
        "int16 activations and int8 weights in convolutions and matrix products, the rest in float",
        Numerics.INT16X8,
        _one("convolutions and matrix products", lambda: recipes.products(recipes.STATIC16)),
        cost=2.0,
    ),
)
"""float16 weights, and one edge for each way of quantizing."""
