"""The choice of the best trial."""

from __future__ import annotations

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from golf_opt.utils.trials import best_trial, best_trials


def study(*directions: str) -> optuna.Study:
    """Trials of 0.5, 0.75, 0.25 and 0.75, and one that failed."""
    made = optuna.create_study(directions=directions)
    for value in (0.5, 0.75, 0.25, 0.75):
        made.tell(made.ask(), [value] * len(directions))
    made.tell(made.ask(), state=TrialState.FAIL)
    return made


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


@pytest.mark.parametrize(
    ("direction", "order"), [("maximize", [1, 3, 0, 2]), ("minimize", [2, 0, 1, 3])]
)
def test_the_best_come_first_and_of_equal_ones_the_earliest(
    direction: str, order: list[int]
) -> None:
    made = study(direction)
    which = StudyDirection[direction.upper()]
    assert numbers(best_trials(made.trials, 9, which)) == order
    assert numbers(best_trials(made.trials, 2, which)) == order[:2]
    best = best_trial(made)
    assert best is not None and best.number == order[0] == made.best_trial.number


def test_there_is_no_best_of_none_and_of_two_objectives() -> None:
    assert best_trial(optuna.create_study()) is None
    assert best_trial(study("maximize", "minimize")) is None
