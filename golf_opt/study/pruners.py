"""Optuna's percentile pruners, which do not look at every complete trial at every report.

A report is compared with what the complete trials had at its epoch. Optuna gathers and sorts these
values anew each time; with hundreds of lanes that is most of what a study costs. Here they are kept
sorted. What is decided is the same.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from golf_opt.storage.optuna_internals import compared_value, id_of_study, storage_of


class PercentilePruner(optuna.pruners.PercentilePruner):
    """Optuna's, on a storage that says which trials ended, one after another; else Optuna's own."""

    _ended: list[FrozenTrial] | None = None  # of the study that it was asked of last
    _learned = 0  # so many of these

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        ended: Callable[[int], list[FrozenTrial]] | None = getattr(storage_of(study), "ended", None)
        if ended is None:
            return super().prune(study, trial)
        self._learn(ended(id_of_study(study)))
        step = trial.last_step
        if self._complete < max(1, self._n_startup_trials) or step is None:
            return False
        value = compared_value(self, trial, study.direction)
        if value is None:
            return False
        if math.isnan(value):
            return True
        if self._reports[step] < self._n_min_trials or not self._values[step]:
            return False
        if study.direction == StudyDirection.MAXIMIZE:
            return value < percentile(self._values[step], 100 - self._percentile)
        return value > percentile(self._values[step], self._percentile)

    def _learn(self, ended: list[FrozenTrial]) -> None:
        """Take in the reports of trials that are complete by now."""
        if ended is not self._ended:
            self._ended, self._learned, self._complete = ended, 0, 0
            self._reports: Counter[int] = Counter()  # by step, NaN included
            self._values: defaultdict[int, list[float]] = defaultdict(list)  # in order, without
        new = ended[self._learned :]
        self._learned += len(new)
        for trial in new:
            if trial.state == TrialState.COMPLETE:
                self._complete += 1
                self._reports.update(trial.intermediate_values.keys())
                for step, value in trial.intermediate_values.items():
                    if not math.isnan(value):
                        bisect.insort(self._values[step], value)


class MedianPruner(PercentilePruner, optuna.pruners.MedianPruner):
    """Optuna's, likewise."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of numbers in order, as NumPy does by linear interpolation, to the bit.

    >>> percentile([1.0, 2.0, 4.0], 75)
    3.0
    """
    place = percent / 100 * (len(values) - 1)
    below = math.floor(place)
    low, high = values[below], values[min(below + 1, len(values) - 1)]
    part = place - below
    if part >= 0.5:
        return high - (high - low) * (1 - part)
    return low + (high - low) * part
