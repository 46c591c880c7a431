"""One study as figures and reports read it, and how much of what it found is the luck of seeds."""

from __future__ import annotations

import heapq
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from golf_opt.task.goals import Goal
from golf_opt.utils.points import (
    MEAN,
    SEEDS,
    Noise,
    Shown,
    Statistic,
    half_interval,
    points_of,
    seed_noise_of,
    seeds_of,
    shown,
)
from golf_opt.utils.stats import ENOUGH, Spread
from golf_opt.utils.trials import attribute

SEED_SD = 0.0028  # of final test accuracy: c4-5-4, 18 epochs, the article's optimum, 24 seeds
NOISE_SDS = 2.0  # wide is the band in which a trial cannot be told from the best


@dataclass(frozen=True)
class Fresh:
    """What a point gave on seeds that had no part in choosing it."""

    ours: Spread  # accuracies on the images that the study measures by
    test: Spread  # of the same nets on the test set, where it was read
    epochs: int  # of each training


@dataclass(frozen=True)
class StudySnapshot:
    """What a study is about, and its trials at one moment."""

    name: str
    data: str  # mnist, fashion, digits; empty where an objective asks for none
    protocol: str
    goals: tuple[Goal, ...]  # test accuracy, or an objective's own
    epochs: int
    trials: Sequence[FrozenTrial]
    worth: Statistic = MEAN  # of a point with several seeds
    fresh: Mapping[int, Fresh] = field(default_factory=dict)  # by trial: what was confirmed

    @cached_property
    def complete(self) -> list[FrozenTrial]:
        """The complete trials whose values can be; others have no place in a figure."""
        return [trial for trial in self.trials if self._admits(trial)]

    def _admits(self, trial: FrozenTrial) -> bool:
        return (
            trial.state == TrialState.COMPLETE
            and len(trial.values) == len(self.goals)
            and all(goal.admits(v) for goal, v in zip(self.goals, trial.values, strict=True))
        )

    @cached_property
    def points(self) -> list[Shown]:
        """The points whose first trial is complete, each as one trial with what it ranks by."""
        signs = [goal.sign for goal in self.goals]
        rows = shown(self.trials, self.worth, signs)
        return [row for row in rows if math.isfinite(row.rank) and self._admits(row.trial)]

    @property
    def goal(self) -> Goal:
        """What is optimised; where it is several things, the first."""
        return self.goals[0]

    def ranked(self, count: int) -> list[FrozenTrial]:
        """Return up to `count` points, the best first; of several goals, the front."""
        if len(self.goals) > 1:
            return self.front[:count]
        rows = heapq.nsmallest(count, self.points, key=lambda row: (-row.rank, row.trial.number))
        return [row.trial for row in rows]

    @cached_property
    def best(self) -> FrozenTrial | None:
        """The best point; None without one, and where goals are several."""
        return next(iter(self.ranked(1)), None) if len(self.goals) == 1 else None

    @property
    def best_or_front(self) -> list[FrozenTrial]:
        """The points that no other one beats in every goal; of one goal, the best."""
        return self.front if len(self.goals) > 1 else self.ranked(1)

    @cached_property
    def front(self) -> list[FrozenTrial]:
        """The points that no other one beats in every goal, by their first value.

        In the first a point stands where it ranks: that of a single seed is not on the front by
        luck alone.
        """
        signs = [goal.sign for goal in self.goals]
        exact = [
            [sign * v for sign, v in zip(signs[1:], row.trial.values[1:], strict=True)]
            for row in self.points
        ]
        ranks = [[row.rank, *rest] for row, rest in zip(self.points, exact, strict=True)]
        rows = np.array(ranks).reshape(-1, len(signs))
        front = [
            point.trial
            for point, row in zip(self.points, rows, strict=True)
            if not ((rows >= row).all(axis=1) & (rows > row).any(axis=1)).any()
        ]
        return sorted(front, key=lambda trial: (-signs[0] * trial.values[0], trial.number))

    @cached_property
    def sized(self) -> list[tuple[int, Shown]]:
        """The points of nets whose sizes are known, with these: the smallest and best first."""
        known = [(attribute(row.trial, "num_params", int) or 0, row) for row in self.points]
        return sorted((r for r in known if r[0] > 0), key=lambda r: (r[0], -r[1].rank))

    @cached_property
    def net_front(self) -> list[tuple[int, FrozenTrial]]:
        """Of nets of several sizes those that rank above all smaller ones, the smallest first."""
        front: list[tuple[int, FrozenTrial]] = []
        if not self.goal.accuracy or len({size for size, _ in self.sized}) < 2:
            return front
        best = -math.inf
        for size, row in self.sized:
            if row.rank > best:
                best = row.rank
                front.append((size, row.trial))
        return front

    @cached_property
    def noise(self) -> Noise | None:
        """The noise of seeds in the first goal, by the points that have several."""
        return seed_noise_of(points_of(self.complete), self.goal.sign)

    def half_interval(self, trial: FrozenTrial) -> float | None:
        """Return half the 95 % interval of a point's mean; None where it is not known, or no mean.

        It is steadied by the noise that all seeds of the study show.
        """
        values = attribute(trial, SEEDS, list) or trial.values[:1]
        return half_interval(values, self.noise) if self.worth.kind == "mean" else None

    def half_of(self, fresh: Fresh) -> float | None:
        """Return half the 95 % interval of what fresh seeds gave, steadied where they are few."""
        if fresh.ours.n >= ENOUGH:
            low, high = fresh.ours.interval
            return (high - low) / 2
        return half_interval(fresh.ours.values, self.noise)

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
    if not (len(study.goals) == 1 and study.goal.accuracy):
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
        shown = f"{100 * sd:.2f} points" if study.goal.accuracy else f"{sd:.3g}"
        return sd, f"sd {shown}, measured on {count} trials with equal parameters"
    if study.data == "mnist" and study.goal.accuracy:
        return SEED_SD, f"sd {100 * SEED_SD:.2f} points, 24 seeds of c4-5-4 on MNIST, 18 epochs"
    return None, "The noise of seeds is not known here; repeat a point with other seeds to see it."


def not_told_apart(study: StudySnapshot) -> int:
    """Return how many points, the best among them, lie within the noise of the best."""
    sd, best = seed_noise(study)[0], study.best
    if sd is None or best is None:
        return 0
    sign = study.goal.sign

    def alike(trial: FrozenTrial) -> bool:
        spread = sd * math.sqrt((1 / seeds_of(best) + 1 / seeds_of(trial)) / 2)
        return sign * value_of(trial) >= sign * value_of(best) - NOISE_SDS * spread

    return sum(alike(row.trial) for row in study.points)


def values_by_epoch(trial: FrozenTrial, goal: Goal) -> dict[int, float | None]:
    """Return what a trial reported after each epoch, None where that cannot be."""
    steps = sorted(trial.intermediate_values.items())
    return {epoch: value if goal.admits(value) else None for epoch, value in steps}


def value_of(trial: FrozenTrial) -> float:
    """Return the first value of a complete trial; of a net, an accuracy in [0, 1]."""
    return trial.values[0] if trial.values else 0.0
