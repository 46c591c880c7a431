"""The choice of the best trial."""

from __future__ import annotations

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from golf_opt.utils.points import best_trial
from golf_opt.utils.trials import attribute, best_trials, epoch_losses


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


@pytest.mark.parametrize(
    ("kind", "stored", "found"),
    [
        (int, 7, 7),
        (int, 7.0, None),
        (int, True, None),
        (int, "7", None),
        (int, 10**400, None),
        (float, 0.5, 0.5),
        (float, 1, 1.0),
        (float, True, None),
        (float, float("nan"), None),
        (float, float("inf"), None),
        (float, 10**400, None),
        (float, [0.5], None),
        (str, "cpu", "cpu"),
        (str, 5, None),
        (dict, {"a": 1}, {"a": 1}),
        (dict, [1], None),
        (list, [1], [1]),
        (list, "ab", None),
    ],
)
def test_an_attribute_is_of_its_kind_or_not_there(
    kind: type, stored: object, found: object
) -> None:
    trial = optuna.trial.create_trial(value=1.0, user_attrs={"x": stored})
    assert attribute(trial, "x", kind) == found
    assert type(attribute(trial, "x", kind)) is type(found)
    assert attribute(trial, "y", kind) is None


def test_losses_are_numbers() -> None:
    trial = optuna.trial.create_trial(value=1.0, user_attrs={"epoch_losses": [0.5, "x", None, 1]})
    assert [str(loss) for loss in epoch_losses(trial)] == ["0.5", "nan", "nan", "1.0"]


def test_a_value_that_is_no_number_is_never_the_best() -> None:
    made = []
    for number, value in enumerate((float("nan"), 0.5, float("inf"), float("-inf"))):
        trial = optuna.trial.create_trial(value=0.0)
        trial.number, trial.value = number, value  # as a database may hold it
        made.append(trial)
    assert numbers(best_trials(made, 9)) == [1]


def test_there_is_no_best_of_none_and_of_two_objectives() -> None:
    assert best_trial(optuna.create_study()) is None
    assert best_trial(study("maximize", "minimize")) is None
