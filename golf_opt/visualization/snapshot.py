"""One study as figures and reports read it, and how much of what it found is the luck of seeds."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from golf_opt.utils.stats import Spread
from golf_opt.utils.trials import attribute, best_trials

SEED_SD = 0.0028  # of final test accuracy: c4-5-4, 18 epochs, the article's optimum, 24 seeds
NOISE_SDS = 2.0  # wide is the band in which a trial cannot be told from the best


@dataclass(frozen=True)
class StudySnapshot:
    """What a study is about, and its trials at one moment."""

    name: str
    data: str  # mnist, fashion, digits
    protocol: str
    objective: str  # test accuracy, holdout accuracy
    epochs: int
    trials: Sequence[FrozenTrial]

    @cached_property
    def complete(self) -> list[FrozenTrial]:
        """The complete trials whose value is an accuracy; others have no place in a figure."""
        return [
            trial
            for trial in self.trials
            if trial.state == TrialState.COMPLETE and is_accuracy(trial.value)
        ]

    @cached_property
    def best(self) -> FrozenTrial | None:
        return next(iter(best_trials(self.complete, 1)), None)

    @property
    def num_params(self) -> int | None:
        known = (attribute(trial, "num_params", int) for trial in self.trials)
        return next((count for count in known if count and count > 0), None)


def repeats(study: StudySnapshot) -> Spread | None:
    """Return what the seeds of a study gave that tunes nothing; None of any other study.

    There the best trial is luck alone; mean, sd, range and n are what was found.
    """
    complete = study.complete
    if len(complete) < 2 or any(trial.params for trial in study.trials):
        return None
    return Spread([value_of(trial) for trial in complete])


def seed_noise(study: StudySnapshot) -> tuple[float | None, str]:
    """Return the standard deviation of the objective among seeds, and where it is from.

    Trials that were given the same parameters tell it. Without them it is what was measured once
    on c4-5-4, where that is the same task; otherwise None.
    """
    repeats: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for trial in study.complete:
        repeats[tuple(trial.params.items())].append(value_of(trial))
    groups = [values for values in repeats.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in groups)
    if freedom >= 4:
        squares = sum(statistics.variance(values) * (len(values) - 1) for values in groups)
        count = sum(map(len, groups))
        sd = math.sqrt(squares / freedom)
        return sd, f"sd {100 * sd:.2f} points, measured on {count} trials with equal parameters"
    if study.data == "mnist":
        return SEED_SD, f"sd {100 * SEED_SD:.2f} points, 24 seeds of c4-5-4 on MNIST, 18 epochs"
    return None, "The noise of seeds is not known here; repeat a point with other seeds to see it."


def not_told_apart(study: StudySnapshot) -> int:
    """Return how many complete trials, the best among them, lie within the noise of the best."""
    sd, best = seed_noise(study)[0], study.best
    if sd is None or best is None:
        return 0
    return sum(value_of(trial) >= value_of(best) - NOISE_SDS * sd for trial in study.complete)


def is_accuracy(value: float | None) -> bool:
    """Return whether a stored value is one: in [0, 1], and so neither infinite nor NaN."""
    return value is not None and 0 <= value <= 1


def accuracies_of(trial: FrozenTrial) -> dict[int, float | None]:
    """Return a trial's accuracy after each epoch that it reported, None where it is none."""
    steps = sorted(trial.intermediate_values.items())
    return {epoch: value if is_accuracy(value) else None for epoch, value in steps}


def value_of(trial: FrozenTrial) -> float:
    """Return the objective of a complete trial, in [0, 1]."""
    return trial.value or 0.0
