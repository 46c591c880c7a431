"""What a sampler sees of a study: points, not trainings."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from golf_opt.study.curves import extrapolated
from golf_opt.study.interest import floor_below
from golf_opt.utils.points import CONSTRAINT, MEAN, Statistic, as_trials
from golf_opt.utils.trials import PAUSED, attribute, of_kind, paused_at

FRONT = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE  # of accuracy and size
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, less their whole part, spread evenly
OPEN = TrialState.RUNNING, TrialState.WAITING
MOST_PAUSED = 200  # trials of which a sampler learns: asking takes the longer the more there are


@dataclass(frozen=True)
class View:
    """Trials as a sampler is to see them.

    Each point is one trial with the statistic of its seeds. A paused trial is complete, with what
    its curve comes to at the last epoch; of many paused ones only those that got furthest are seen,
    and of equals the newest. Everything else is as it is: without further seeds and pauses these
    are the very trials.
    """

    statistic: Statistic = MEAN
    epochs: int = 1  # of a whole training
    target: float | None = None  # accuracy that a search is to reach
    max_params: int | None = None  # that a net of a search may have
    front: bool = False  # whether accuracy and size are weighed: see `interest`

    def of(
        self,
        trials: Sequence[FrozenTrial],
        directions: Sequence[StudyDirection] = (StudyDirection.MAXIMIZE,),
        most_paused: int | None = MOST_PAUSED,
        several: bool = True,
    ) -> list[FrozenTrial]:
        """Return the trials of a study so.

        Args:
            trials: of the study.
            directions: of its values.
            most_paused: of paused trials only so many; None: all.
            several: whether a point may have several seeds.
        """
        signs = [-1 if direction == StudyDirection.MINIMIZE else 1 for direction in directions]
        kept = trials if most_paused is None else _without_oldest_paused(trials, most_paused)
        points = as_trials(kept, self.statistic, signs) if several else kept
        seen = [
            self._as_complete(t, signs) if t.state in OPEN and PAUSED in t.system_attrs else t
            for t in points
        ]
        if self.target is not None:
            seen = [self._capped(trial) for trial in seen]
        return _with_floor(seen) if self.front else seen

    def below_a_size(
        self, trials: Sequence[FrozenTrial], number: int, several: bool = True
    ) -> list[FrozenTrial]:
        """Return a search's trials by accuracy alone, with a limit to size that differs by trial.

        A model of several goals learns from what adds most to the front's volume, a few nets at
        its ends, and asks for these again and again. So each ask has one goal, and a limit that
        runs over the front's sizes: the epsilon-constraint method of Haimes, Lasdon and Wismer
        (1971).

        Args:
            trials: of the study.
            number: of the trial that is asked for.
            several: whether a point may have several seeds.
        """
        seen = self.of(trials, FRONT, several=several)
        rows = [(-trial.values[0], trial.values[1]) for trial in seen if _is_feasible(trial)]
        if not rows:
            return []
        low, high = min(size for _, size in rows), min(rows)[1]  # the front's ends
        limit = low * (high / low) ** (number * GOLDEN % 1)
        return [_of_accuracy(trial, limit) for trial in seen]

    def _capped(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a trial with no more accuracy than the target: beyond it only size counts."""
        if self.target is None or trial.state != TrialState.COMPLETE:
            return trial
        if trial.values[0] <= self.target:
            return trial
        made = copy.copy(trial)
        made.values = [self.target, *trial.values[1:]]
        return made

    def _as_complete(self, trial: FrozenTrial, signs: Sequence[int]) -> FrozenTrial:
        """Return a trial that was paused, and is open, as complete; without a value, as it is.

        So is one that was paused and is running again: it may be a parent of the next generation.
        """
        if not trial.intermediate_values:
            return trial
        size = attribute(trial, "num_params", int)
        rows = list((attribute(trial, "epoch_values", dict) or {}).values())[1:]  # of other goals
        others = [of_kind(row[-1], float) for row in rows if of_kind(row, list)]
        if size is not None:
            others.append(float(size))
        first = extrapolated(trial.intermediate_values, self.epochs, signs[0])
        values = [first, *(value for value in others if value is not None)][: len(signs)]
        if len(values) < len(signs):
            return trial
        made = copy.copy(trial)
        made.state, made.datetime_complete = TrialState.COMPLETE, trial.datetime_start
        made.values = values
        missed = {}
        if self.target is not None:
            missed["accuracy"] = self.target - first
        if self.max_params is not None and size is not None:
            missed["parameters"] = float(size - self.max_params)
        return _with_constraints(made, missed)


def _is_feasible(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and all(v <= 0 for v in trial.constraints.values())


def _of_accuracy(trial: FrozenTrial, limit: float) -> FrozenTrial:
    """Return a trial of accuracy and size as one of accuracy, constrained in size."""
    if trial.state != TrialState.COMPLETE:
        return trial
    made = copy.copy(trial)
    made.values = trial.values[:1]
    return _with_constraints(made, {"parameters": trial.values[1] - limit})


def _with_floor(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return trials so that those miss a constraint whose accuracy is of no interest."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    floor = floor_below(max((trial.values[0] for trial in complete), default=0.0))
    return [
        _with_constraints(copy.copy(trial), {"accuracy": floor - trial.values[0]})
        if trial.state == TrialState.COMPLETE
        else trial
        for trial in trials
    ]


def _with_constraints(trial: FrozenTrial, missed: dict[str, float]) -> FrozenTrial:
    limits = {f"{CONSTRAINT}:{name}": value for name, value in missed.items()}
    trial.system_attrs = trial.system_attrs | limits
    return trial


def _without_oldest_paused(trials: Sequence[FrozenTrial], most: int) -> Sequence[FrozenTrial]:
    waiting = [trial for trial in trials if trial.state is TrialState.WAITING]
    paused = [(at, trial.number) for trial in waiting if (at := paused_at(trial)) is not None]
    if len(paused) <= most:
        return trials
    left_out = {number for _, number in sorted(paused)[:-most]}
    return [trial for trial in trials if trial.number not in left_out]
