"""Which recipes are tried in which order, and which result is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hub.spec import (
    CalibrationError,
    ConvertJob,
    DType,
    Numerics,
    QuantRecipe,
    Remark,
    StepOutput,
    StepWatch,
    processor,
)
from hub_openvino.quantize.recipes import (
    PER_CHANNEL_MARGIN_DB,
    RECURRENT,
    Recipe,
    Spared,
    Static,
    WeightRecipe,
    recurrent_in_float,
    static_recipes,
)
from hub_quanttrials import GOAL_DB, WEIGHTS, Trials, check_claim, listed

if TYPE_CHECKING:
    from hub_openvino.quantize.float_ir import FloatIr, IrTrial, QuantizedIr

GOOD_DB = 30.0
"""Where further recipes are not tried: the noise is a thousandth of the signal."""

HOPELESS_DB = 5.0
"""Where another recipe of the same kind is not tried: none of those measured gained more than 9 dB on a sound one."""

_TRIES = 4
"""Recipes before that is said, the one with ranges from extremes among them: it made 23.9 dB of a detector with scores
up to 0.05 beside boxes, where those before it, which clip, came to 1.4 dB at most."""

_HIGHER_DB = 8.0
"""By how much the goal is raised where what reached it was refused: other samples are harder than the judged ones."""

IrTrials = Trials[Recipe, "QuantizedIr"]
Search = Callable[["FloatIr", IrTrials], "Iterator[IrTrial]"]


def apply(source: FloatIr, recipe: Recipe) -> QuantizedIr:
    """Quantizes by a recipe, and reads the result with the IR's reader.

    Raises:
        StepError: NNCF fails.
    """
    from hub_openvino.quantize import sparing, tool

    if isinstance(recipe, Spared):
        base = source.known[recipe.base].model if recipe.base in source.known else apply(source, recipe.base)
        operands = sparing.float_operands(source.model(), base.model) if recipe.float_weights else {}
        spared = {layer: operands[layer] for layer in recipe.float_weights}
        return source.read(sparing.without(base.model, recipe.removed, spared))
    if isinstance(recipe, WeightRecipe):
        return source.read(tool.compress(source.model(), source.arrays(), recipe))
    return source.read(tool.quantize(source.model(), source.arrays(), recipe))


def every_layer(source: FloatIr, trials: IrTrials) -> Iterator[IrTrial]:
    """Static int8 in all layers, until one is good or four are hopeless."""
    best = -math.inf
    for tries, trial in enumerate(trials.results(static_recipes(processor(), source.kinds)), start=1):
        yield trial
        best = max(best, trial.merit)
        transformer = isinstance(trial.recipe, Static) and trial.recipe.transformer
        structural = trial.model.found.numerics is not Numerics.INT8 and not transformer
        if best >= GOOD_DB or structural or (tries >= _TRIES and best < HOPELESS_DB):
            return


def most_layers(source: FloatIr, trials: IrTrials, goal_db: float = GOAL_DB) -> Iterator[IrTrial]:
    """The recipes again; from the best result the quantizers and weights that hurt most are taken out, step by step."""
    bases = list(trials.results(map(_for_mixed(source), static_recipes(processor(), source.kinds))))
    yield from bases
    if not bases:
        return
    base = max(bases, key=merit)
    if base.sqnr_db >= goal_db and base.model.found.numerics is Numerics.INT8_MIXED:
        return
    if not isinstance(base.recipe, Static):
        return
    from hub_openvino.quantize.sparing import measure_noise

    whole = base.recipe
    noise = source.noises.get(whole) or measure_noise(source, base.model.model, trials.watch)
    if not trials.watch.is_ending:  # else it is not whole
        source.noises[whole] = noise
    total = sum(not name.endswith(WEIGHTS) for name in noise.names)

    def spared(names: tuple[str, ...]) -> Spared:
        exact = tuple(name.removesuffix(WEIGHTS) for name in names if name.endswith(WEIGHTS))
        removed = tuple(name for name in names if not name.endswith(WEIGHTS))
        return Spared(base=whole, removed=removed, total=total, float_weights=exact)

    yield from trials.guided(noise, spared, goal_db)


def _for_mixed(source: FloatIr) -> Callable[[Static], Static]:
    return recurrent_in_float if source.kinds & set(RECURRENT) else lambda recipe: recipe


def most_layers_higher(source: FloatIr, trials: IrTrials) -> Iterator[IrTrial]:
    """The same to a higher goal."""
    return most_layers(source, trials, GOAL_DB + _HIGHER_DB)


def compressed(*recipes: WeightRecipe) -> Search:
    """Weight compression: every recipe is tried, and measured where there are samples."""
    return lambda _, trials: trials.results(recipes)


def merit(trial: IrTrial) -> float:
    """SQNR, less the margin by which ranges per channel must win."""
    base = trial.recipe.base if isinstance(trial.recipe, Spared) else trial.recipe
    return trial.merit - (PER_CHANNEL_MARGIN_DB if isinstance(base, Static) and not base.per_tensor else 0.0)


def best_of(results: list[IrTrial], what: str, claimed: Numerics, notes: list[Remark]) -> IrTrial:
    """The result with the highest SQNR among those that are what the edge claims.

    Raises:
        UnsupportedModel: None is.
    """
    fitting = [trial for trial in results if trial.model.found.numerics is claimed]
    taken = max(fitting or results[:1], key=merit)
    found = taken.model.found
    check_claim(what, claimed, found.numerics, found.left_float, "; ".join(note.text for note in notes))
    return taken


def run(job: ConvertJob, what: str, claimed: Numerics, search: Search, *, needs_samples: bool) -> StepOutput:
    """Quantizes `job.source.path` into `job.output`.

    Args:
        job: The step.
        what: Its title, for messages.
        claimed: What it gives.
        search: What it tries.
        needs_samples: Whether recipes read calibration samples.

    Raises:
        AlreadyQuantized: The model is quantized.
        CalibrationError: There are no samples where some are needed, or they do not fit.
        UnsupportedModel: The result would not be what the edge claims.
        StepError: NNCF fails on every recipe.
    """
    from hub_openvino.convert.source_signature import save
    from hub_openvino.quantize.float_ir import open_float
    from hub_openvino.quantize.sparing import bias_corrections

    if needs_samples and not job.calibration:
        raise CalibrationError(f"{what} needs calibration samples", hint="give some: --calibration DATA")
    source = open_float(job.source.path, job.scratch, job.calibration if needs_samples else "")
    trials: IrTrials = Trials(
        source.judge,
        lambda recipe: apply(source, recipe),
        lambda made: source.session(made.model),
        known=source.known,
        watch=StepWatch(job.watch),
    )
    results = list(search(source, trials))
    if not results:
        raise trials.failure()
    best = best_of(results, what, claimed, trials.notes)
    save(best.model.model, Path(job.output))
    left = best.model.found.left_float if not isinstance(best.recipe, WeightRecipe) else ()
    text = f"{len(left)} layers multiply in float: {listed(left)}"
    said = [Remark("note", "layers-in-float", text)] if left else []
    recipe = _record(best.recipe, claimed, len(source.samples), left)
    if not isinstance(best.recipe, WeightRecipe) and (moved := bias_corrections(source.model(), best.model.model)):
        worst = max(moved, key=lambda name: moved[name])
        text = (
            f"biases of {len(moved)} layers were moved to undo int8's mean error, by {moved[worst]:g} at most: {worst}"
        )
        said.append(Remark("note", "biases-corrected", text))
        recipe = msgspec.structs.replace(recipe, settings=recipe.settings | {"bias_corrections": moved})
    return StepOutput(notes=(*trials.notes, *said, *_dynamic_notes(best.recipe)), recipe=recipe)


def _dynamic_notes(recipe: Recipe) -> list[Remark]:
    """On a CPU without VNNI the outputs are those of float activations, bit for bit (OpenVINO 2026.4)."""
    if not isinstance(recipe, WeightRecipe) or not recipe.dynamic_group or processor().has_integer_dot is not False:
        return []
    text = "this CPU has no VNNI: here OpenVINO multiplies with float activations; elsewhere it rounds them too"
    return [Remark("note", "activations-in-float-here", text)]


def _record(recipe: Recipe, numerics: Numerics, samples: int, left: tuple[str, ...]) -> QuantRecipe:
    from hub_openvino.quantize.tool import tool_version

    base = recipe.base if isinstance(recipe, Spared) else recipe
    static = base if isinstance(base, Static) else None
    grouped = isinstance(base, WeightRecipe) and base.group_size > 0
    return QuantRecipe(
        name=base.name,
        tool=tool_version(),
        numerics=numerics,
        weights=DType.INT4 if numerics is Numerics.INT4_WEIGHTS else DType.INT8,
        activations=DType.INT8 if static else DType.FLOAT32,
        granularity="block-wise" if grouped else "per-channel",
        symmetric_activations=static is not None and static.preset == "performance",
        calibration_method=("min-max" if static.min_max else "mean of min-max") if static else "",
        samples=samples,
        kept_float=left,
        settings=recipe.settings,
    )
