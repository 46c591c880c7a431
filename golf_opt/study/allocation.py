"""What a free lane does next, and how far a trial trains before somebody looks again.

A study has a few rules, asked in order: the first that has something to do decides. Each of them
sees the trials as they are and keeps nothing of its own, so that any worker, and the next run of
the study, comes to the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from golf_opt.utils.points import is_further_seed
from golf_opt.utils.trials import PAUSED, paused_at

Trials = Sequence[FrozenTrial]


@dataclass(frozen=True)
class GoOn:
    """Take up a trial that waits, or that is paused, where it is."""

    number: int


@dataclass(frozen=True)
class Repeat:
    """Train a further seed of a point."""

    point: int  # the number of its first trial
    index: int  # of the seed


@dataclass(frozen=True)
class New:
    """Ask the sampler for a new point."""


Choice = GoOn | Repeat | New


class Rule:
    """One part of an allocation: what it would do, and where it would look at a trial."""

    def choose(self, trials: Trials) -> Choice | None:
        """Return what a free lane does, or None where this rule has nothing for it."""
        return None

    def until(self, trial: FrozenTrial, epochs: int) -> int:
        """Return the epoch at whose end to look again, above those that the trial has reported.

        Args:
            trial: that runs, or is about to.
            epochs: of a whole training.
        """
        return epochs


class Queued(Rule):
    """What waits goes on first: trials of runs that were stopped, points that were enqueued.

    Args:
        total: points of the study, beyond which none begins; None is no limit.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total

    def choose(self, trials: Trials) -> Choice | None:
        is_full = self._total is not None and num_begun(trials) >= self._total
        return next(
            (
                GoOn(trial.number)
                for trial in trials
                if waits(trial) and (is_further_seed(trial) or not is_full)
            ),
            None,
        )


class NewPoints(Rule):
    """New points up to the study's total; None is no limit."""

    def __init__(self, total: int | None) -> None:
        self._total = total

    def choose(self, trials: Trials) -> Choice | None:
        return New() if self._total is None or num_begun(trials) < self._total else None


class Allocation(Rule):
    """Rules in order."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules

    def choose(self, trials: Trials) -> Choice | None:
        choices = (rule.choose(trials) for rule in self._rules)
        return next((choice for choice in choices if choice is not None), None)

    def until(self, trial: FrozenTrial, epochs: int) -> int:
        return min(rule.until(trial, epochs) for rule in self._rules)

    def goes_on(self, number: int, trials: Trials) -> bool:
        """Return whether a trial that rests would be the next to be taken, were it paused."""
        asked = [_as_paused(trial) if trial.number == number else trial for trial in trials]
        return self.choose(asked) == GoOn(number)


def waits(trial: FrozenTrial) -> bool:
    """Return whether a trial is to go on as soon as a lane is free."""
    return trial.state == TrialState.WAITING and paused_at(trial) is None


def num_begun(trials: Trials) -> int:
    """Return how many points count against the total: those that are, or were, in a lane."""
    return sum(not waits(trial) and not is_further_seed(trial) for trial in trials)


def last_epoch(trial: FrozenTrial) -> int:
    """Return the last epoch that a trial reported; 0 where it has none."""
    return max(trial.intermediate_values, default=0)


def _as_paused(trial: FrozenTrial) -> FrozenTrial:
    paused = copy.copy(trial)
    paused.state = TrialState.WAITING
    paused.system_attrs = trial.system_attrs | {PAUSED: last_epoch(trial)}
    return paused
