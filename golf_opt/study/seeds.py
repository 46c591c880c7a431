"""The seeds of a study's points: how many, which, and what a point is worth by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import optuna

from golf_opt.task import rng
from golf_opt.task.goals import Goal, show_goals
from golf_opt.utils.points import SEED_INDEX, Statistic
from golf_opt.utils.trials import of_kind

MOST_RACED = 10  # seeds of a point, of seeds=race


@dataclass(frozen=True)
class Seeds:
    """What `seeds` and `statistic` of a study come to."""

    asked: int | str  # 1, 5, race, race:5
    statistic: str
    study: int  # the study's own seed, from which the others derive

    @cached_property
    def worth(self) -> Statistic:
        """What a point is worth by its seeds."""
        return Statistic.parse(self.statistic)

    @property
    def race(self) -> bool:
        """Whether points get more than one seed only as long as they may win."""
        return not isinstance(self.asked, int)

    @property
    def most(self) -> int:
        """How many seeds a point gets at most."""
        if isinstance(self.asked, int):
            return self.asked
        return int(self.asked.partition(":")[2] or MOST_RACED)

    @property
    def identity(self) -> str:
        """What of it makes two studies different ones: more seeds can be had at any time."""
        return "each point its own" if self.asked == 1 else "the same for every point"

    def of(self, trial: optuna.Trial) -> int:
        """Return the seed of a trial's weights, data order and dropout.

        Where points may have several, seed k is the same for every point, so that points are
        compared seed by seed; otherwise each has its own.
        """
        index = of_kind(trial.user_attrs.get(SEED_INDEX), int) or 0
        if index == 0 and self.asked == 1:
            return rng.derive(self.study, "trial", trial.number)
        return rng.derive(self.study, "seed", index)

    def aim(self, goal: Goal) -> str:
        """Return what of a goal is optimised: `mean holdout accuracy of 5 seeds`."""
        if self.asked == 1:
            return goal.name
        seeds = f"up to {self.most} seeds" if self.race else f"{self.most} seeds"
        return self.worth.words(goal.name, seeds)

    def words(self, goals: Sequence[Goal]) -> str:
        """Return what is optimised, and which way where that does not go without saying."""
        first, *others = goals
        return show_goals([replace(first, name=self.aim(first)), *others])
