"""Which trial is the best, and how many are in which state: for everything that shows studies."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


def best_trials(
    trials: Iterable[FrozenTrial],
    count: int,
    direction: StudyDirection = StudyDirection.MAXIMIZE,  # of every study of ours
) -> list[FrozenTrial]:
    """Return up to `count` complete trials, the best first, equal ones by number."""
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    return heapq.nsmallest(count, complete, key=lambda t: (sign * (t.value or 0.0), t.number))


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
