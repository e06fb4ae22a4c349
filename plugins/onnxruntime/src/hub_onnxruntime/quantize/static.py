"""Static int8: ranges measured on calibration samples, integers from one operator to the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hub.spec import DType, Numerics, QuantRecipe, StepError
from hub_onnxruntime.quantize.judge import CAP_DB
from hub_onnxruntime.quantize.placement import Extent, Placement, place, products_of
from hub_onnxruntime.quantize.qdq import Scheme, insert
from hub_onnxruntime.quantize.ranges import METHODS, Range
from hub_onnxruntime.quantize.source import Source, typed
from hub_onnxruntime.session import OrtSession

ENOUGH_DB = 16.0
"""A recipe that computes everything in integers is taken as soon as it reaches this on the calibration samples: hub's
int8 gate asks for 13 dB on held-out ones. Less of the graph in integers is up to twice as slow."""

GOAL_DB = 20.0
"""What layers are left in float for."""

_SENSITIVITY_SAMPLES = 3
_MOST_KEPT = 0.5  # of the products in float: with more of them there, int8 is not what is deployed


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that `apply` needs besides the model and what was observed.

    Attributes:
        extent: How much is quantized.
        method: Name of the way that ranges are drawn.
        scheme: Element types.
        kept: Products that stay in float.
    """

    extent: Extent
    method: str
    scheme: Scheme
    kept: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For notes."""
        spared = f", {len(self.kept)} layers in float" if self.kept else ""
        return f"{self.extent.words}, {self.method}{spared}"


@dataclass(frozen=True, slots=True)
class Tried:
    """A recipe, what it gave, and its SQNR on the judged samples."""

    recipe: Recipe
    model: Any
    sqnr_db: float

    @property
    def words(self) -> str:
        """For notes."""
        return f"{self.recipe.words}: {self.sqnr_db:.1f} dB"


def ranges_of(source: Source, placement: Placement, method: str) -> dict[str, Range]:
    """Returns the range of each tensor of a placement that has one of its own."""
    names = sorted({placement.same.get(name, name) for name in placement.tensors})
    return {name: METHODS[method](source.observed[name]) for name in names}


def unseen(source: Source) -> tuple[str, ...]:
    """Returns the nodes whose tensors had no value in any sample (they were empty): they stay in float."""
    whole = place(source.model, Extent.BETWEEN)
    missing = {name for name in whole.tensors if whole.same.get(name, name) not in source.observed}
    return tuple(node.name for node in source.model.graph.node if {*node.input, *node.output} & missing)


def apply(source: Source, recipe: Recipe) -> Any:
    """Returns the quantized model."""
    placement = place(source.model, recipe.extent, recipe.kept)
    return insert(source.model, placement, ranges_of(source, placement, recipe.method), recipe.scheme)


def attempt(source: Source, recipe: Recipe, limit: int | None = None) -> Tried:
    """Applies a recipe and measures it.

    Raises:
        StepError: The result does not run.
    """
    model = apply(source, recipe)
    session = OrtSession(source.path, content=model.SerializeToString())
    return Tried(recipe, model, source.judge.sqnr_db(session, limit))


def best(source: Source, scheme: Scheme) -> tuple[Tried, list[str]]:
    """Tries every method of drawing ranges, and less and less of the graph until the result is good enough.

    Returns:
        The first that is, else the best; and a note for each extent.

    Raises:
        StepError: No result runs.
    """
    kept, notes, methods = unseen(source), [], list(METHODS)
    results: list[Tried] = []
    places: list[Placement] = []
    for extent in sorted(Extent, reverse=True):
        placement = place(source.model, extent, kept)
        if placement in places:
            continue
        places.append(placement)
        tried = [attempt(source, Recipe(extent, method, scheme, kept)) for method in methods]
        results += tried
        spread = ", ".join(f"{item.recipe.method} {item.sqnr_db:.1f}" for item in tried)
        notes.append(f"tried {extent.words} on {len(source.judge.samples)} calibration samples, dB: {spread}")
        if max(item.sqnr_db for item in tried) >= ENOUGH_DB:
            break
        tried.sort(key=lambda item: -item.sqnr_db)
        methods = [item.recipe.method for item in tried[:2]]
    return max(results, key=lambda item: item.sqnr_db), notes


def sensitivity(source: Source, recipe: Recipe) -> dict[str, float]:
    """Returns product -> SQNR in dB of the output with that product alone in integers."""
    products = [name for name in products_of(source.model) if name not in recipe.kept]
    found = {}
    for name in products:
        others = tuple(other for other in products if other != name)
        alone = Recipe(Extent.OUTPUTS, recipe.method, recipe.scheme, (*recipe.kept, *others))
        found[name] = attempt(source, alone, _SENSITIVITY_SAMPLES).sqnr_db
    return found


def _counts(total: int) -> Iterator[int]:
    count = 1
    while count <= max(1, round(total * _MOST_KEPT)):
        yield count
        count = max(count + 1, math.ceil(count * 1.5))


def mixed(source: Source, start: Tried) -> tuple[Tried, list[str]]:
    """Leaves more and more of the layers that int8 hurts most in float, until the goal is reached.

    Returns:
        The first that reaches the goal, else the best, and notes.

    Raises:
        StepError: No result runs.
    """
    hurt = sensitivity(source, start.recipe)
    order = sorted(hurt, key=lambda name: hurt[name])
    results: list[Tried] = []
    for count in _counts(len(order)):
        recipe = Recipe(Extent.BETWEEN, start.recipe.method, start.recipe.scheme, (*start.recipe.kept, *order[:count]))
        results.append(attempt(source, recipe))
        if results[-1].sqnr_db >= GOAL_DB:
            break
    if not results:
        raise StepError("there is no layer to leave in float", hint="Use --precision int8.")
    top = max(results, key=lambda item: item.sqnr_db)
    worst = ", ".join(f"{name} {min(hurt[name], CAP_DB):.1f} dB" for name in order[:3])
    return top, [f"layers that int8 hurts most, each alone in int8: {worst}", f"took {top.words}"]


def typed_copy(model: Any) -> Any:
    """Returns a copy with shapes and types inferred, for a reader."""
    return typed(type(model).FromString(model.SerializeToString()))


def record(source: Source, tried: Tried, numerics: Numerics, tool: str, others: Sequence[str] = ()) -> QuantRecipe:
    """Describes what was applied, for the receipt; `others` are layers that no recipe quantizes."""
    recipe = tried.recipe
    placement = place(source.model, recipe.extent, recipe.kept)
    return QuantRecipe(
        name=f"static {recipe.scheme.activations} activations, {recipe.scheme.weights} weights",
        tool=tool,
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
