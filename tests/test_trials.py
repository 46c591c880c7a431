"""The choice of the best trial."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from golf_opt.utils.trials import best_trial, best_trials, spread


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


def test_a_spread_is_that_of_the_finite_values() -> None:
    assert spread([]) is None and spread([math.nan, math.inf]) is None
    assert spread([0.5, math.nan, 0.7, -math.inf, 0.9]) == pytest.approx((3, 0.7, 0.2, 0.5, 0.9))
    one = spread([0.5])
    assert one is not None and one[:2] == (1, 0.5) and math.isnan(one.sd)


def test_a_value_that_is_no_number_is_never_the_best() -> None:
    made = optuna.create_study(direction="maximize")
    for value in (math.nan, 0.5, math.inf):
        made.add_trial(optuna.create_trial(value=0.0))
        made.trials[-1]  # as a database may hold it
        made._storage._studies[0].trials[-1].values = [value]  # type: ignore[attr-defined]
    assert numbers(best_trials(made.get_trials(deepcopy=False), 9)) == [2, 1, 0]
