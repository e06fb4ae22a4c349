"""Static int8: ranges measured on calibration samples, integers from one operator to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hub.spec import DType, Numerics, QuantRecipe, Remark, StepWatch
from hub_onnxquant.placement import Extent, Placement, place
from hub_onnxquant.qdq import Scheme, insert
from hub_onnxquant.ranges import METHODS, Range
from hub_onnxquant.recipe import Recipe
from hub_onnxquant.source import QuantizerSource
from hub_onnxquant.switches import measure_noise
from hub_quanttrials import Trial, Trials, decibels

if TYPE_CHECKING:
    from onnx import ModelProto

ENOUGH_DB = 16.0
"""A recipe that computes everything in integers is taken as soon as it reaches this on the calibration samples: hub's
int8 gate asks for 13 dB on held-out ones. Less of the graph in integers is up to twice as slow."""

StaticTrial = Trial[Recipe, "ModelProto"]
StaticTrials = Trials[Recipe, "ModelProto"]


def trials_of(source: QuantizerSource, watch: str = "") -> StaticTrials:
    """What one step tries; `watch` as in its job."""
    return Trials(
        source.judge,
        lambda recipe: apply(source, recipe),
        source.session,
        known=source.known,
        watch=StepWatch(watch),
    )


def ranges_of(source: QuantizerSource, placement: Placement, method: str) -> dict[str, Range]:
    """Returns the range of each tensor of a placement that has one of its own."""
    names = sorted({placement.same.get(name, name) for name in placement.tensors})
    return {name: METHODS[method](source.observed[name]) for name in names}


def unseen(source: QuantizerSource) -> tuple[str, ...]:
    """Returns the nodes whose tensors had no value in any sample (they were empty): they stay in float."""
    whole = place(source.model, Extent.BETWEEN)
    missing = {name for name in whole.tensors if whole.same.get(name, name) not in source.observed}
    return tuple(node.name for node in source.model.graph.node if {*node.input, *node.output} & missing)


def apply(source: QuantizerSource, recipe: Recipe) -> ModelProto:
    """Returns the quantized model."""
    placement = place(source.model, recipe.extent, recipe.kept)
    return insert(source.model, placement, ranges_of(source, placement, recipe.method), recipe.scheme)


def best(
    source: QuantizerSource,
    trials: StaticTrials,
    scheme: Scheme,
    widest: Extent = Extent.BETWEEN,
    kept: Sequence[str] = (),
) -> StaticTrial:
    """Tries every method of drawing ranges, and less and less of the graph until the result is good enough.

    Args:
        source: The float model.
        trials: What the step tries.
        scheme: Element types.
        widest: How much is quantized at most.
        kept: Nodes that stay in float in every recipe.

    Returns:
        The first that is, else the best.

    Raises:
        StepError: No result runs.
    """
    kept, methods = tuple(dict.fromkeys((*unseen(source), *kept))), list(METHODS)
    results: list[StaticTrial] = []
    places: list[Placement] = []
    for extent in sorted((extent for extent in Extent if extent <= widest), reverse=True):
        placement = place(source.model, extent, kept)
        if placement in places:
            continue
        places.append(placement)
        tried = trials.together(extent.words, [(name, Recipe(extent, name, scheme, kept)) for name in methods])
        results += tried
        if any(trial.sqnr_db >= ENOUGH_DB for trial in tried):
            break
        tried.sort(key=lambda trial: -trial.sqnr_db)
        methods = [trial.recipe.method for trial in tried[:2]] or methods
    if not results:
        raise trials.failure()
    return max(results, key=lambda trial: trial.sqnr_db)


def mixed(
    source: QuantizerSource, trials: StaticTrials, start: StaticTrial, widest: Extent = Extent.BETWEEN
) -> StaticTrial:
    """Gives the layers that int8 hurts most back to float, as few as bring the outputs to the goal.

    Returns:
        The first that reaches the goal, else the best; the start itself where no layer can go, as of a single one.

    Raises:
        StepError: ONNX Runtime refuses the model with switches.
    """
    recipe = replace(start.recipe, extent=widest)
    placement = place(source.model, recipe.extent, recipe.kept)
    if len(placement.products) < 2:  # noqa: PLR2004 - with the only one in float nothing would be in integers
        return start
    ranges = ranges_of(source, placement, recipe.method)
    noise = measure_noise(source, placement, ranges, recipe.scheme, trials.watch)
    hurt = [min(map(decibels, noise.signal, powers)) for powers in noise.alone]
    order = sorted(range(len(hurt)), key=lambda index: hurt[index])
    worst = ", ".join(f"{noise.names[index]} {hurt[index]:.1f} dB" for index in order[:3])
    text = f"layers that int8 hurts most, each alone in int8: {worst}"
    trials.notes.append(Remark("note", "layers-hurt-most", text))
    results = [
        trial
        for trial in trials.guided(noise, lambda names: replace(recipe, kept=(*recipe.kept, *names)))
        if {*placement.products} & {*trial.recipe.kept} and {*placement.products} - {*trial.recipe.kept}
    ]
    return max(results, key=lambda trial: trial.merit, default=start)


def record(source: QuantizerSource, recipe: Recipe, numerics: Numerics, others: Sequence[str] = ()) -> QuantRecipe:
    """Describes what was applied, for the receipt; `others` are layers that no recipe quantizes."""
    placement = place(source.model, recipe.extent, recipe.kept)
    return QuantRecipe(
        name=f"static {recipe.scheme.activations} activations, {recipe.scheme.weights} weights",
        tool=source.tool,
        numerics=numerics,
        weights=DType(recipe.scheme.weights),
        activations=DType(recipe.scheme.activations),
        granularity="per-channel",
        symmetric_activations=recipe.scheme.symmetric,
        calibration_method=recipe.method,
        samples=source.samples,
        kept_float=(*recipe.kept, *others),
        settings={
            "extent": recipe.extent.words,
            "products": list(placement.products),
            "joined": list(placement.joined),
            "ranges": {name: list(found) for name, found in ranges_of(source, placement, recipe.method).items()},
        },
    )
