"""What a free lane does next, and how far a trial trains before somebody looks again.

A study has a few rules, asked in order: the first that has something to do decides. Each of them
sees the trials as they are and keeps nothing of its own, so that any worker, and the next run of
the study, comes to the same.
"""

from __future__ import annotations

import bisect
import copy
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from golf_opt.utils.points import is_further_seed
from golf_opt.utils.trials import PAUSED, KnownTrials, paused_at

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
        waiting = [trial for trial in _open(trials) if waits(trial)]
        if waiting and _is_full(trials, self._total):
            waiting = [trial for trial in waiting if is_further_seed(trial)]
        first = min(waiting, key=lambda trial: trial.number, default=None)
        return None if first is None else GoOn(first.number)


class NewPoints(Rule):
    """New points up to the study's total; None is no limit."""

    def __init__(self, total: int | None) -> None:
        self._total = total

    def choose(self, trials: Trials) -> Choice | None:
        return None if _is_full(trials, self._total) else New()


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
        return self.choose(_with_paused(trials, number)) == GoOn(number)


def waits(trial: FrozenTrial) -> bool:
    """Return whether a trial is to go on as soon as a lane is free."""
    return trial.state == TrialState.WAITING and paused_at(trial) is None


def num_begun(trials: Trials) -> int:
    """Return how many points count against the total: those that are, or were, in a lane."""
    begun = sum(not waits(trial) and not is_further_seed(trial) for trial in _open(trials))
    if isinstance(trials, KnownTrials):
        return begun + trials.points_ended
    ended = (trial for trial in trials if trial.state.is_finished())
    return begun + sum(not is_further_seed(trial) for trial in ended)


def _is_full(trials: Trials, total: int | None) -> bool:
    return total is not None and len(trials) >= total and num_begun(trials) >= total


def _open(trials: Trials) -> Sequence[FrozenTrial]:
    """Return the trials that are not finished."""
    if isinstance(trials, KnownTrials):
        return trials.open
    return [trial for trial in trials if not trial.state.is_finished()]


def last_epoch(trial: FrozenTrial) -> int:
    """Return the last epoch that a trial reported; 0 where it has none."""
    return max(trial.intermediate_values, default=0)


def _with_paused(trials: Trials, number: int) -> Trials:
    """Return trials of which the one with this number is paused."""
    place = bisect.bisect_left(trials, number, key=lambda trial: trial.number)
    paused = copy.copy(trials[place])
    paused.state = TrialState.WAITING
    paused.system_attrs = paused.system_attrs | {PAUSED: last_epoch(paused)}
    changed = [*trials[:place], paused, *trials[place + 1 :]]
    if not isinstance(trials, KnownTrials):
        return changed
    still_open = [paused if trial.number == number else trial for trial in trials.open]
    return KnownTrials(changed, still_open, trials.points_ended)
