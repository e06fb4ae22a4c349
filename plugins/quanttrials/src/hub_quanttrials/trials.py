"""Recipes are tried one after the other; each is a note, and the best is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hub.spec import HubError, Remark, Session, StepError, StepWatch, UnsupportedModel, UsageError
from hub_quanttrials.judge import Judge
from hub_quanttrials.noise import Noise

GOAL_DB = 20.0
"""Where a recipe is good enough: hub's int8 gate asks for 13 dB on held-out samples, and 7 dB is a margin for
other data and other processors."""

WEIGHTS_DB = GOAL_DB + 6
"""What int8 weights alone must leave so that they are no concern."""

BUDGET = 32
"""Recipes that one step tries at most; the longest search of hub's own plugins comes to 20. A number of recipes and not
of seconds, so that the same input gives the same result on a slow machine."""

GUIDED_TRIES = 6
"""Results of one guided search: the first is within a dB of what was foreseen, or noises do not add up."""

_AIM_DB = 0.5  # above the goal: noises add up to within a dB
_LEAST_RISE_DB = 1.0
_FURTHEST_DB = 40.0

KEPT = 8
"""Judged trials that are kept for the next step, with their models: the best ones."""

Recipe = TypeVar("Recipe", bound=Hashable)
Model = TypeVar("Model")


@dataclass(frozen=True)
class Trial(Generic[Recipe, Model]):
    """A recipe, what it gave, and its SQNR in dB on the judged samples: NaN where there are none."""

    recipe: Recipe
    model: Model
    sqnr_db: float

    @property
    def merit(self) -> float:
        """What trials are compared by: the SQNR; minus infinity where nothing was judged."""
        return -math.inf if math.isnan(self.sqnr_db) else self.sqnr_db


@dataclass(slots=True)
class Trials(Generic[Recipe, Model]):
    """What one step tries.

    Attributes:
        judge: Judges results.
        apply: Quantizes the float model by a recipe, whose `str` stands in the notes. A recipe that cannot be applied
            raises StepError or UnsupportedModel, which becomes a note.
        open: Opens what `apply` gave.
        budget: Recipes to try at most.
        known: Trials of earlier steps on the same float model and samples: see `Shelf`.
        watch: Is told how it goes. Where it asks to end, nothing more is tried that is not known.
        notes: A line for every recipe, with what it came to.
        failures: Why recipes gave nothing.
    """

    judge: Judge
    apply: Callable[[Recipe], Model]
    open: Callable[[Model], Session]
    budget: int = BUDGET
    known: dict[Recipe, Trial[Recipe, Model]] = field(default_factory=dict)
    watch: StepWatch = field(default_factory=StepWatch)
    notes: list[Remark] = field(default_factory=list)
    failures: list[HubError] = field(default_factory=list)
    _spent: int = 0
    _highest: float = -math.inf

    def best(self, recipes: Iterable[Recipe], goal_db: float = GOAL_DB) -> Trial[Recipe, Model]:
        """Returns the first trial that reaches the goal, else the best; the first that works where nothing is judged.

        Raises:
            StepError: No recipe gave a result that runs, or it is the error of the only one.
            UnsupportedModel: The same, where the model is the reason.
        """
        taken: Trial[Recipe, Model] | None = None
        for trial in self.results(recipes):
            if taken is None or trial.merit > taken.merit:
                taken = trial
            if not trial.sqnr_db < goal_db:
                break
        if taken is None:
            raise self.failure()
        return taken

    def results(self, recipes: Iterable[Recipe]) -> Iterator[Trial[Recipe, Model]]:
        """Yields the trial of every recipe that gives a result that runs, until the budget is spent."""
        for recipe in recipes:
            outcome = self._outcome(recipe)
            if outcome is None:
                return
            if isinstance(outcome, Trial):
                self.notes.append(Remark("note", "recipe-tried", f"recipe: {recipe}{self.words(outcome)}"))
                yield outcome
            else:
                self.notes.append(Remark("note", "recipe-failed", f"recipe: {recipe}: {_first_line(outcome)}"))

    def guided(
        self, noise: Noise, recipe: Callable[[tuple[str, ...]], Recipe], goal_db: float = GOAL_DB
    ) -> Iterator[Trial[Recipe, Model]]:
        """Yields results with ever more places given back to float, until one reaches the goal or nothing is left.

        Args:
            noise: What each place does.
            recipe: The recipe without some places, which are given worst first.
            goal_db: Where it stops. What a result falls short of it is added to what the next is chosen for.
        """
        text = f"rounding at {len(noise.alone)} places, one at a time; dB that the worst leave alone: {noise.words()}"
        self.notes.append(Remark("note", "rounding-measured", text))
        aim, tried = goal_db + _AIM_DB, {frozenset[str]()}
        while aim < goal_db + _FURTHEST_DB and len(tried) <= GUIDED_TRIES and not self.watch.is_ending:
            names = noise.to_remove(aim)
            if frozenset(names) in tried:
                aim += _LEAST_RISE_DB
                continue
            tried.add(frozenset(names))
            for trial in self.results([recipe(names)]):
                yield trial
                if not trial.sqnr_db < goal_db:
                    return
                aim += max(goal_db - trial.sqnr_db, _LEAST_RISE_DB)

    def together(
        self, words: str, recipes: Iterable[tuple[str, Recipe]], goal_db: float = math.inf
    ) -> list[Trial[Recipe, Model]]:
        """As `results`, until the goal is reached, for recipes that differ in one thing: one note for all of them.

        Args:
            words: What they have in common.
            recipes: Each with the name that it has beside the others.
            goal_db: Where the rest is not tried.
        """
        found: list[Trial[Recipe, Model]] = []
        lines: list[str] = []
        for name, recipe in recipes:
            outcome = self._outcome(recipe)
            if outcome is None:
                break
            if not isinstance(outcome, Trial):
                lines.append(f"{name}: {_first_line(outcome)}")
                continue
            lines.append(f"{name} {outcome.sqnr_db:.1f}")
            found.append(outcome)
            if outcome.sqnr_db >= goal_db:
                break
        text = f"tried {words} on {self.judge.where}, dB: {', '.join(lines)}"
        self.notes.append(Remark("note", "recipes-tried-together", text))
        return found

    def _outcome(self, recipe: Recipe) -> Trial[Recipe, Model] | HubError | None:
        """None when the budget is spent, or the step is to end."""
        if self._spent >= self.budget:
            text = f"{self.budget} recipes are all that one step tries: {recipe} was not tried"
            self.notes.append(Remark("note", "recipes-all-tried", text))
            return None
        if recipe not in self.known and self.watch.is_ending:
            return None
        self._spent += 1  # also for a known one, so that a step's result does not hang on the steps before
        best = f"; best so far {self._highest:.1f} dB" if math.isfinite(self._highest) else ""
        self.watch.tell(f"trial {self._spent}, {recipe}{best}")
        try:
            trial = self.attempt(recipe)
        except (StepError, UnsupportedModel, UsageError) as error:
            self.failures.append(error)
            return error
        self._highest = max(self._highest, trial.merit)
        self.watch.has_result = True
        self.watch.tell(f"trial {self._spent}, {recipe}{self.words(trial)}")
        return trial

    def attempt(self, recipe: Recipe) -> Trial[Recipe, Model]:
        """Applies and judges one recipe, without a note; from an earlier step where that tried it.

        Raises:
            StepError: It cannot be applied, or the result does not run.
            UnsupportedModel: The model has no place for it.
        """
        if recipe not in self.known:
            model = self.apply(recipe)
            trial = Trial(recipe, model, self.measure(model))
            self.known[recipe] = trial
            if len(self.known) > KEPT:
                del self.known[min(self.known, key=lambda item: self.known[item].merit)]
            return trial
        return self.known[recipe]

    def measure(self, model: Model, limit: int | None = None) -> float:
        """Opens and judges a result; see `Judge.sqnr_db`."""
        session = self.open(model)
        try:
            return self.judge.sqnr_db(session, limit)
        finally:
            session.close()

    def words(self, trial: Trial[Recipe, Model]) -> str:
        """What a trial came to, to follow its recipe in a note; empty where nothing was judged."""
        return "" if math.isnan(trial.sqnr_db) else f": {trial.sqnr_db:.1f} dB on {self.judge.where}"

    def failure(self) -> HubError:
        """The error of a step whose recipes all failed."""
        if not self.failures:
            return StepError("there is no recipe to try")
        last = self.failures[-1]
        if len({error.message for error in self.failures}) == 1:
            return last
        return type(last)(f"no recipe gives a result: {'; '.join(note.text for note in self.notes)}", hint=last.hint)


def _first_line(error: HubError) -> str:
    return error.message.splitlines()[0]
