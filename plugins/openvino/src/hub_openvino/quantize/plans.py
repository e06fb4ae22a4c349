"""One plan per edge: which recipes are tried in which order, and which result is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.spec import (
    CalibrationError,
    ConvertJob,
    DType,
    HubError,
    Numerics,
    QuantRecipe,
    StepError,
    StepOutput,
    UnsupportedModel,
    processor,
)
from hub_openvino.quantize.recipes import (
    PER_CHANNEL_MARGIN_DB,
    RECURRENT,
    Static,
    Weights,
    recurrent_in_float,
    static_recipes,
)

if TYPE_CHECKING:
    from hub_openvino.numerics import Found
    from hub_openvino.quantize.measured import Prepared, Tried

GOAL_DB = 20.0
"""A mixed result is taken as soon as it reaches this on the calibration samples: hub's int8 gate asks for 13 dB on
held-out ones, and 7 dB is a margin for other data and other CPUs."""

GOOD_DB = 30.0
"""Where further recipes are not tried: the noise is a thousandth of the signal."""

HOPELESS_DB = 5.0
"""Where another recipe of the same kind is not tried: none of those measured gained more than 9 dB on a sound one."""

_TRIES = 3
_SPARING_DB = (GOAL_DB + 1, GOAL_DB + 4, GOAL_DB + 7, GOAL_DB + 10)
_NAMED = 12
Result = tuple["Tried", Static | Weights]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One edge's way of quantizing.

    Attributes:
        name: Short name; the edge is `openvino.<name>`.
        title: For the plan.
        numerics: What it gives.
        cost: Order of preference among edges with the same target.
        weights: Element type of the weights.
        needs_samples: Whether it reads calibration samples.
        results: Yields what was tried, with the recipe, for a note each; the best is taken.
        needs_operator: An operator without which it would give what an earlier plan gives.
    """

    name: str
    title: str
    numerics: Numerics
    cost: float
    weights: DType
    needs_samples: bool
    results: Callable[[Prepared, Notes], Iterator[Result]]
    needs_operator: str = ""


class Notes:
    """A line for every try."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tried(self, name: str, result: Tried, samples: int) -> None:
        """Say what a recipe came to."""
        measured = "" if math.isnan(result.sqnr_db) else f": {result.sqnr_db:.1f} dB on {samples} calibration samples"
        self.lines.append(f"recipe: {name}{measured}")

    def failed(self, name: str, error: HubError) -> None:
        """Say why a recipe gave nothing."""
        self.lines.append(f"recipe: {name}: {error.message}")


def _quantized(prepared: Prepared, recipe: Static) -> Tried:
    """A recipe's result, from an earlier edge of this run where there was one."""
    from hub_openvino.quantize.tool import quantize

    if recipe not in prepared.tried:
        model = quantize(prepared.model(), prepared.samples, recipe)
        prepared.tried[recipe] = prepared.judge(model, {"quantize": recipe.settings})
    return prepared.tried[recipe]


def _bases(
    prepared: Prepared, notes: Notes, variant: Callable[[Static], Static] = lambda recipe: recipe
) -> Iterator[tuple[Tried, Static]]:
    """Every static recipe that NNCF can apply."""
    for recipe in map(variant, static_recipes(processor())):
        try:
            result = _quantized(prepared, recipe)
        except StepError as error:
            notes.failed(recipe.name, error)
            continue
        notes.tried(recipe.name, result, len(prepared.judged))
        yield result, recipe


def every_layer(prepared: Prepared, notes: Notes) -> Iterator[Result]:
    """Static int8 in all layers, until one is good or three are hopeless."""
    best = -math.inf
    for tries, (result, recipe) in enumerate(_bases(prepared, notes), start=1):
        yield result, recipe
        best = max(best, result.sqnr_db)
        structural = result.found.numerics is not Numerics.INT8 and not recipe.transformer
        if best >= GOOD_DB or structural or (tries >= _TRIES and best < HOPELESS_DB):
            return


def most_layers(prepared: Prepared, notes: Notes) -> Iterator[Result]:
    """The recipes again; from the best result the quantizers that hurt most are taken out, step by step."""
    bases = list(_bases(prepared, notes, _for_mixed(prepared)))
    yield from bases
    if not bases:
        return
    base, recipe = max(bases, key=_merit)
    if base.sqnr_db >= GOAL_DB and base.found.numerics is Numerics.INT8_MIXED:
        return
    for result in _spared(prepared, base, notes):
        yield result, recipe
        if result.sqnr_db >= GOAL_DB:
            return


def _for_mixed(prepared: Prepared) -> Callable[[Static], Static]:
    kinds = {node.get_type_name() for node in prepared.model().get_ops()}
    return recurrent_in_float if kinds & set(RECURRENT) else lambda recipe: recipe


def _spared(prepared: Prepared, base: Tried, notes: Notes) -> Iterator[Tried]:
    from hub_openvino.quantize.sparing import measure_noise, steps, without

    noise = measure_noise(prepared, base.model)
    for goal, removed in steps(noise, _SPARING_DB):
        model = without(base.model, removed)
        result = prepared.judge(model, {**base.data, "removed_quantizers": list(removed)})
        name = f"{base.data['quantize']['name']}, {len(removed)} of {len(noise.names)} quantizers taken out"
        notes.tried(f"{name} (for {goal:g} dB)", result, len(prepared.judged))
        yield result


def controlled(prepared: Prepared, notes: Notes) -> Iterator[Result]:
    """NNCF's accuracy control on the SQNR of the outputs."""
    from hub_openvino.quantize.measured import run_compiled
    from hub_openvino.quantize.tool import CONTROL_SAMPLES, quantize_controlled

    recipe = _for_mixed(prepared)(static_recipes(processor())[2])
    few = prepared.judged[:CONTROL_SAMPLES]

    def metric(evaluated: Any) -> float:
        return min(prepared.compare(run_compiled(evaluated, few)), _EXACT_DB)

    model = quantize_controlled(
        prepared.model(), prepared.samples, recipe, metric, allowed_drop=_EXACT_DB - GOAL_DB - 1
    )
    result = prepared.judge(model, {"accuracy_control": {**recipe.settings, "goal_db": GOAL_DB + 1}})
    notes.tried(f"accuracy control, {recipe.name}", result, len(prepared.judged))
    yield result, recipe


_EXACT_DB = 100.0
"""What accuracy control is told of an exact match; float noise between two compilations is near 110 dB."""


def compressed(*recipes: Weights) -> Callable[[Prepared, Notes], Iterator[Result]]:
    """Weight compression: every recipe is tried, and measured where there are samples."""

    def results(prepared: Prepared, notes: Notes) -> Iterator[Result]:
        from hub_openvino.quantize.tool import compress

        for recipe in recipes:
            try:
                model = compress(prepared.model(), prepared.samples, recipe)
                result = prepared.judge(model, {"compress_weights": recipe.settings})
            except StepError as error:
                notes.failed(recipe.name, error)
                continue
            notes.tried(recipe.name, result, len(prepared.judged))
            yield result, recipe

    return results


INT8_WEIGHTS = Weights(name="8 bits, asymmetric", mode="int8_asym")
DEPTHWISE = "GroupConvolution"
INT8_BUT_DEPTHWISE = replace(INT8_WEIGHTS, name="8 bits but in depthwise convolutions", float_types=(DEPTHWISE,))
INT8_DYNAMIC = replace(INT8_WEIGHTS, name="8 bits, activations on the fly in groups of 32", dynamic_group=32)
INT4_GROUPS = Weights(name="4 bits, asymmetric, groups of 32", mode="int4_asym", group_size=32)
INT4_ALL = Weights(
    name="4 bits in embeddings and the last product too", mode="int4_asym", group_size=32, all_layers=True
)
INT4_FITTED = (
    Weights(name="4 bits, asymmetric, groups of 32, scales fitted", mode="int4_asym", group_size=32,
            scale_estimation=True),
    Weights(name="4 bits, asymmetric, groups of 32, scales fitted, AWQ", mode="int4_asym", group_size=32,
            scale_estimation=True, awq=True),
    INT4_GROUPS,
    INT4_ALL,
)  # fmt: skip

PLANS: tuple[Plan, ...] = (
    Plan(
        name="int8",
        title="NNCF, static int8, every layer",
        numerics=Numerics.INT8,
        cost=1.0,
        weights=DType.INT8,
        needs_samples=True,
        results=every_layer,
    ),
    Plan(
        name="int8-mixed",
        title="NNCF, static int8, activations that int8 breaks in float",
        numerics=Numerics.INT8_MIXED,
        cost=1.0,
        weights=DType.INT8,
        needs_samples=True,
        results=most_layers,
    ),
    Plan(
        name="int8-mixed-controlled",
        title="NNCF's accuracy control",
        numerics=Numerics.INT8_MIXED,
        cost=3.0,
        weights=DType.INT8,
        needs_samples=True,
        results=controlled,
    ),
    Plan(
        name="int8-weights",
        title="NNCF, int8 weights",
        numerics=Numerics.INT8_WEIGHTS,
        cost=1.0,
        weights=DType.INT8,
        needs_samples=False,
        results=compressed(INT8_WEIGHTS),
    ),
    Plan(
        name="int8-weights-but-depthwise",
        title="NNCF, int8 weights, depthwise convolutions in float",
        numerics=Numerics.INT8_WEIGHTS,
        cost=2.0,
        weights=DType.INT8,
        needs_samples=False,
        results=compressed(INT8_BUT_DEPTHWISE),
        needs_operator=DEPTHWISE,
    ),
    Plan(
        name="int8-dynamic",
        title="NNCF, int8 weights, activations quantized on the fly in products",
        numerics=Numerics.INT8_DYNAMIC,
        cost=1.0,
        weights=DType.INT8,
        needs_samples=False,
        results=compressed(INT8_DYNAMIC),
    ),
    Plan(
        name="int4-weights-fitted",
        title="NNCF, int4 weights fitted to calibration samples",
        numerics=Numerics.INT4_WEIGHTS,
        cost=1.0,
        weights=DType.INT4,
        needs_samples=True,
        results=compressed(*INT4_FITTED),
    ),
    Plan(
        name="int4-weights",
        title="NNCF, int4 weights",
        numerics=Numerics.INT4_WEIGHTS,
        cost=2.0,
        weights=DType.INT4,
        needs_samples=False,
        results=compressed(INT4_GROUPS, INT4_ALL),
    ),
)


def run_plan(plan: Plan, job: ConvertJob) -> StepOutput:
    """Quantizes `job.source.path` into `job.output`.

    Raises:
        AlreadyQuantized: The model is quantized.
        CalibrationError: The plan needs samples and there are none, or they do not fit.
        UnsupportedModel: The result would not be what the edge claims.
        StepError: NNCF fails on every recipe of the plan.
    """
    from hub_openvino.convert.finish import save
    from hub_openvino.quantize.measured import prepare

    if plan.needs_samples and not job.calibration:
        raise CalibrationError(f"{plan.title} needs calibration samples", hint="give some: --calibration DATA")
    prepared = prepare(job.source.path, job.scratch, job.calibration if plan.needs_samples else "")
    notes = Notes()
    best, recipe = best_result(plan, prepared, notes)
    save(best.model, Path(job.output))
    kept = best.found.left_float if plan.weights is DType.INT8 and plan.needs_samples else ()
    return StepOutput(
        notes=(*notes.lines, *_float_notes(kept), *_dynamic_notes(recipe)), recipe=_recipe(plan, prepared, best, recipe)
    )


def best_result(plan: Plan, prepared: Prepared, notes: Notes) -> Result:
    """The result with the highest SQNR among those that are what the edge claims.

    Raises:
        UnsupportedModel: None is.
        StepError: No recipe gave anything.
    """
    results = list(plan.results(prepared, notes))
    fitting = [item for item in results if item[0].found.numerics is plan.numerics]
    if fitting:
        return max(fitting, key=_merit)
    if not results:
        raise StepError(f"{plan.title} gave nothing: {'; '.join(notes.lines)}", hint="see the step's log")
    raise _not_claimed(plan, results[0][0].found, notes)


def _merit(item: Result) -> float:
    """SQNR, less the margin by which ranges per channel must win: they were fitted to the judged samples."""
    result, recipe = item
    margin = PER_CHANNEL_MARGIN_DB if isinstance(recipe, Static) and not recipe.per_tensor else 0.0
    return -math.inf if math.isnan(result.sqnr_db) else result.sqnr_db - margin


def _not_claimed(plan: Plan, found: Found, notes: Notes) -> UnsupportedModel:
    if found.numerics is Numerics.FP32:
        message = f"{plan.title}: the model has no layer to quantize"
        return UnsupportedModel(message, hint="`hub inspect` lists its operators; --precision fp16 stores any model")
    left = f"; in float stay {_names(found.left_float)}" if found.left_float else ""
    tried = "; ".join(notes.lines)
    message = f"{plan.title} would give {found.numerics.value}{left} ({tried})"
    return UnsupportedModel(message, hint=f"ask for that: --precision {found.numerics.value}")


def _names(layers: tuple[str, ...]) -> str:
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    return ", ".join(layers[:_NAMED]) + more


def _float_notes(kept: tuple[str, ...]) -> list[str]:
    return [f"{len(kept)} layers multiply in float: {_names(kept)}"] if kept else []


def _dynamic_notes(recipe: Static | Weights) -> list[str]:
    """On a CPU without VNNI the outputs are those of float activations, bit for bit (OpenVINO 2026.4)."""
    if not isinstance(recipe, Weights) or not recipe.dynamic_group or processor().has_integer_dot is not False:
        return []
    return ["this CPU has no VNNI: here OpenVINO multiplies with float activations; elsewhere it rounds them too"]


def _recipe(plan: Plan, prepared: Prepared, result: Tried, recipe: Static | Weights) -> QuantRecipe:
    from hub_openvino.quantize.tool import tool_version

    static = isinstance(recipe, Static)
    grouped = isinstance(recipe, Weights) and recipe.group_size > 0
    method = ("min-max" if recipe.min_max else "mean of min-max") if isinstance(recipe, Static) else ""
    return QuantRecipe(
        name=recipe.name,
        tool=tool_version(),
        numerics=plan.numerics,
        weights=plan.weights,
        activations=DType.INT8 if static else DType.FLOAT32,
        granularity="block-wise" if grouped else "per-channel",
        symmetric_activations=isinstance(recipe, Static) and recipe.preset == "performance",
        calibration_method=method,
        samples=len(prepared.samples),
        kept_float=result.found.left_float if static else (),
        settings=result.data,
    )
