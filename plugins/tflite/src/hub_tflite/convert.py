"""The edges: from a float32 TFLite file to each precision, in order of preference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    StepWatch,
    Support,
    UnsupportedModel,
    Verdict,
)
from hub_quanttrials import GOAL_DB, WEIGHTS, Noise, Trials, check_claim, listed
from hub_tflite import recipes
from hub_tflite.calibrate import METHOD
from hub_tflite.float16_constants import halve_constants, widen_constants
from hub_tflite.numerics import precision_report
from hub_tflite.quantize import (
    TOOL,
    FloatFile,
    Quantized,
    TfliteTrial,
    border_bindings,
    coarse_matrices,
    holds_infinities,
    in_float,
    inner_rules,
    integer_border_rules,
    joined_outputs,
    open_float,
    quantize,
    shared_weights,
    unfit_rules,
)
from hub_tflite.recipes import QuantRule, RuleSet
from hub_tflite.rewrite import ALWAYS, STATIC, drop_unused
from hub_tflite.rounding import measure_noise
from hub_tflite.runtime import LiteRtSession
from hub_tflitefile.schema import parse, read, to_bytes

_QUANTIZER = ("ai-edge-litert", "ai-edge-quantizer")

Search = Callable[[FloatFile, Trials[RuleSet, Quantized]], Iterator[TfliteTrial]]
"""What an edge tries."""

_HIGHER_DB = 6.0
"""By how much layers in float must better int8 that was good here and yet was not what was wanted."""


def _one(name: str, rules: Callable[[], list[QuantRule]]) -> Search:
    return lambda source, trials: trials.results([RuleSet(name, (*rules(), *_inner(source)))])


def _inner(source: FloatFile) -> list[QuantRule]:
    return inner_rules(source) if source.samples else []


def _whole(scheme: str) -> Search:
    """Integers wherever there are activations; refused where stand-ins for infinity were seen."""

    def search(source: FloatFile, trials: Trials[RuleSet, Quantized]) -> Iterator[TfliteTrial]:
        names = holds_infinities(source)
        if names:
            reason = f"stand-ins for infinity in {', '.join(names[:3])} have no place in an integer range"
            raise UnsupportedModel(reason, hint="--precision int8-mixed leaves such layers in float")
        yield from _one("every layer", lambda: [*recipes.everywhere(scheme), *joined_outputs(source)])(source, trials)

    return search


def _guided(name: str, rules: Callable[[], list[QuantRule]]) -> Search:
    """Gives back to float the layers whose rounding hurts the outputs most for the time that float takes."""

    def search(source: FloatFile, trials: Trials[RuleSet, Quantized]) -> Iterator[TfliteTrial]:
        start = (*rules(), *_inner(source), *joined_outputs(source), *unfit_rules(source))
        for base in trials.results([RuleSet(name, start)]):
            yield base
            mixed = base.model.report.numerics is Numerics.INT8_MIXED
            if mixed and base.sqnr_db >= GOAL_DB:
                return
            shared = shared_weights(source)
            noise = measure_noise(source.content, base.model.content, source.judge, shared, trials.watch)

            def without(names: tuple[str, ...], noise: Noise = noise) -> RuleSet:
                spared = sum(not name.endswith(WEIGHTS) for name in names)
                total = sum(not name.endswith(WEIGHTS) for name in noise.names)
                exact = f", {len(names) - spared} of them with float weights" if spared < len(names) else ""
                words = f"{spared} of {total} layers in float{exact}, {100 * noise.share(names):.2g} % of the work"
                return RuleSet(words, (*start, *in_float(source, names)))

            yield from trials.guided(noise, without, GOAL_DB if mixed else max(GOAL_DB, base.sqnr_db + _HIGHER_DB))

    return search


def _three_quarters(source: FloatFile, trials: Trials[RuleSet, Quantized]) -> Iterator[TfliteTrial]:
    """Leaves in int8 the quarter of the matrices that int4 rounds worst (a sentence transformer: 9 -> 11 dB)."""
    kept = coarse_matrices(source, 0.25)
    name = f"{len(kept)} matrices that int4 rounds worst stay in int8"
    return trials.results([RuleSet(name, (*recipes.int4_fully_connected(), *kept))])


def run(job: ConvertJob, name: str, title: str, numerics: Numerics, search: Search) -> StepOutput:
    """Quantizes `job.source.path` into `job.output`.

    Args:
        job: The step.
        name: For the recipe.
        title: For messages.
        numerics: What it gives.
        search: What it tries; the best of those that are what it gives is taken.

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

    trials = Trials(
        source.judge,
        lambda recipe: quantize(source, recipe.rules),
        lambda made: LiteRtSession(made.content),
        known=source.known,
        watch=StepWatch(job.watch),
    )
    results = list(search(source, trials))
    if not results:
        raise trials.failure()
    best = max(
        [trial for trial in results if trial.model.report.numerics is numerics] or results,
        key=lambda trial: trial.merit,
    )
    report = best.model.report
    check_claim(title, numerics, report.numerics, _words(report.left_float))
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


def run_widen(job: ConvertJob) -> StepOutput:
    """Stores the float16 constants of `job.source.path` in float32.

    Raises:
        ModelUnreadable: The file is corrupt.
        UnsupportedModel: An operator takes float16 by itself.
    """
    model = read(job.source.path)
    notes = widen_constants(model)
    drop_unused(model)
    content = to_bytes(model)
    report = precision_report(parse(content))
    if report.numerics is not Numerics.FP32:
        left = [f"{layer.operator} {layer.name}" for layer in report.layers if layer.precision == "fp16-weights"]
        raise UnsupportedModel(f"float16 reaches {listed(left)} otherwise than through a DEQUANTIZE")
    Path(job.output).write_bytes(content)
    return StepOutput(notes=tuple(notes))


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


def _edge(name: str, title: str, numerics: Numerics, search: Search, cost: float = 1.0) -> Edge:
    """An edge of this module; `cost` orders those with the same target."""
    return Edge(
        id=f"tflite.{name}",
        accepts=_FLOAT,
        gives=Gives(format="tflite", numerics=numerics),
        convert=lambda job: run(job, name, title, numerics, search),
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


WIDEN = Edge(
    id="tflite.widen",
    accepts=(Accepts(format="tflite", numerics=(Numerics.FP16,)),),
    gives=Gives(format="tflite"),
    convert=run_widen,
    adopts=True,
    keeps_dynamic=True,
    requires=("ai-edge-litert",),
    process="tflite",
    cost=0.1,
    title="float16 weights in float32",
)
"""In front of every other edge for a file with float16 weights."""

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
        _whole(recipes.STATIC8),
    ),
    _edge(
        "int8-mixed",
        "static int8, layers that int8 breaks in float",
        Numerics.INT8_MIXED,
        _guided("every layer", lambda: recipes.everywhere(recipes.STATIC8)),
        cost=2.0,
    ),
    _edge(
        "int8-mixed-products",
        "static int8 in convolutions and matrix products, the rest in float",
        Numerics.INT8_MIXED,
        _guided("convolutions and matrix products", lambda: recipes.products(recipes.STATIC8)),
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
        _whole(recipes.STATIC16),
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
