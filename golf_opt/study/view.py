"""What a sampler sees of a study: points, not trainings."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from golf_opt.utils.points import Statistic, as_trials
from golf_opt.utils.trials import paused_at

SIGNS = {StudyDirection.MAXIMIZE: 1, StudyDirection.MINIMIZE: -1}


def seen(
    trials: Sequence[FrozenTrial],
    statistic: Statistic,
    epochs: int,
    directions: Sequence[StudyDirection] = (StudyDirection.MAXIMIZE,),
) -> list[FrozenTrial]:
    """Return the trials as a sampler is to see them.

    Each point is one trial with the statistic of its seeds. A paused trial is complete, with what
    its curve comes to at the last epoch. Everything else is as it is: without further seeds and
    pauses these are the very trials.
    """
    signs = [SIGNS.get(direction, 1) for direction in directions]
    points = as_trials(trials, statistic, signs)
    return [_as_complete(trial, epochs, len(signs)) for trial in points]


def _as_complete(trial: FrozenTrial, epochs: int, num_values: int) -> FrozenTrial:
    """Return a paused trial as a complete one; any other as it is."""
    if num_values > 1 or paused_at(trial) is None or not trial.intermediate_values:
        return trial
    made = copy.copy(trial)
    made.state, made.datetime_complete = TrialState.COMPLETE, trial.datetime_start
    made.values = [trial.intermediate_values[max(trial.intermediate_values)]]
    return made
