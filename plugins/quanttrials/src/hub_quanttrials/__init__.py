"""Quantization trials: recipes are applied, judged on samples against the float model, and the best is kept.

A backend supplies its recipes and two functions: one applies a recipe, one opens what came of it. This library imports
no framework and knows no backend. It chooses among results; whether the chosen one is right is said by hub's own gate,
on other samples and with code of its own.
"""

from hub_quanttrials.claim import check_claim, listed
from hub_quanttrials.judge import JUDGED_SAMPLES, Judge, decibels
from hub_quanttrials.noise import WEIGHTS, Noise
from hub_quanttrials.shelf import Shelf
from hub_quanttrials.switched import measured_noise
from hub_quanttrials.trials import BUDGET, GOAL_DB, WEIGHTS_DB, Trial, Trials

__all__ = [
    "BUDGET",
    "GOAL_DB",
    "JUDGED_SAMPLES",
    "WEIGHTS",
    "WEIGHTS_DB",
    "Judge",
    "Noise",
    "Shelf",
    "Trial",
    "Trials",
    "check_claim",
    "decibels",
    "listed",
    "measured_noise",
]
