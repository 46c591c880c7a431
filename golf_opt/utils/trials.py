"""Which trial is the best, and how many are in which state: for everything that shows studies."""

from __future__ import annotations

import heapq
import math
import statistics
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


def best_trials(
    trials: Iterable[FrozenTrial],
    count: int,
    direction: StudyDirection = StudyDirection.MAXIMIZE,  # of every study of ours
) -> list[FrozenTrial]:
    """Return up to `count` complete trials, the best first, equal ones by number, NaN last."""
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)

    def place(trial: FrozenTrial) -> tuple[bool, float, int]:
        value = trial.value or 0.0
        return math.isnan(value), sign * value, trial.number

    return heapq.nsmallest(count, complete, key=place)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the best complete trial; None without one, and where objectives are several."""
    if len(study.directions) > 1:
        return None
    trials = study.get_trials(deepcopy=False)
    return next(iter(best_trials(trials, 1, study.direction)), None)


def counts(study: optuna.Study) -> dict[str, int]:
    """Return how many trials are in each state, by its lower-case name."""
    tally = Counter(trial.state for trial in study.get_trials(deepcopy=False))
    return {state.name.lower(): tally[state] for state in TrialState}


class Spread(NamedTuple):
    """What several runs of the same thing came to."""

    n: int
    mean: float
    sd: float  # of the sample; NaN of one value
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread | None:
    """Return how the finite values lie; None without one."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    sd = statistics.stdev(finite) if len(finite) > 1 else math.nan
    return Spread(len(finite), statistics.fmean(finite), sd, min(finite), max(finite))
