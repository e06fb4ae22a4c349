"""Static int8: ranges measured on calibration samples, integers from one operator to the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hub.spec import DType, Numerics, QuantRecipe, Remark
from hub_onnxquant.placement import Extent, Placement, place, products_of
from hub_onnxquant.qdq import Scheme, insert
from hub_onnxquant.ranges import METHODS, Range
from hub_onnxquant.recipe import Recipe
from hub_onnxquant.source import QuantizerSource
from hub_quanttrials import GOAL_DB, Trial, Trials

if TYPE_CHECKING:
    from onnx import ModelProto

ENOUGH_DB = 16.0
"""A recipe that computes everything in integers is taken as soon as it reaches this on the calibration samples: hub's
int8 gate asks for 13 dB on held-out ones. Less of the graph in integers is up to twice as slow."""

_SENSITIVITY_SAMPLES = 3
_MOST_KEPT = 0.5  # of the products in float: with more of them there, int8 is not what is deployed


StaticTrial = Trial[Recipe, "ModelProto"]
StaticTrials = Trials[Recipe, "ModelProto"]


def trials_of(source: QuantizerSource) -> StaticTrials:
    """What one step tries."""
    return Trials(source.judge, lambda recipe: apply(source, recipe), source.session, known=source.known)


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


def sensitivity(
    source: QuantizerSource, trials: StaticTrials, recipe: Recipe, widest: Extent = Extent.BETWEEN
) -> dict[str, float]:
    """Returns product -> SQNR in dB of the output with that product alone in integers."""
    products = [name for name in products_of(source.model) if name not in recipe.kept]
    found = {}
    for name in products:
        others = tuple(other for other in products if other != name)
        alone = Recipe(min(widest, Extent.OUTPUTS), recipe.method, recipe.scheme, (*recipe.kept, *others))
        found[name] = trials.measure(apply(source, alone), _SENSITIVITY_SAMPLES)
    return found


def _counts(total: int) -> Iterator[int]:
    count = 1
    while count <= min(total - 1, max(1, round(total * _MOST_KEPT))):
        yield count
        count = max(count + 1, math.ceil(count * 1.5))


def mixed(
    source: QuantizerSource, trials: StaticTrials, start: StaticTrial, widest: Extent = Extent.BETWEEN
) -> StaticTrial:
    """Leaves more and more of the layers that int8 hurts most in float, until the goal is reached.

    Returns:
        The first that reaches the goal, else the best; the start itself where it has a single layer.

    Raises:
        StepError: No result runs.
    """
    hurt = sensitivity(source, trials, start.recipe, widest)
    order = sorted(hurt, key=lambda name: hurt[name])
    if len(order) < 2:  # noqa: PLR2004 - with the only one in float nothing would be in integers
        return start
    worst = ", ".join(f"{name} {hurt[name]:.1f} dB" for name in order[:3])
    text = f"layers that int8 hurts most, each alone in int8: {worst}"
    trials.notes.append(Remark("note", "layers-hurt-most", text))
    recipes = (
        (str(count), replace(start.recipe, extent=widest, kept=(*start.recipe.kept, *order[:count])))
        for count in _counts(len(order))
    )
    results = trials.together("to leave so many layers in float", recipes, GOAL_DB)
    if not results:
        raise trials.failure()
    return max(results, key=lambda trial: trial.sqnr_db)


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
