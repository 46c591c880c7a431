"""The front of a search as a table: in the terminal, the note and the report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from golf_opt.storage.studies import CONFIRMED
from golf_opt.study.fresh import fresh_of
from golf_opt.study.front import fresh_words, front_rows, too_large
from golf_opt.study.note import front_words
from golf_opt.task.goals import Goal
from golf_opt.utils.stats import Spread
from golf_opt.visualization.snapshot import Fresh, StudySnapshot
from golf_opt.visualization.study_figures import learning_curves

GOALS = Goal("holdout accuracy"), Goal("parameters", "minimize", accuracy=False)
# accuracy, parameters, and of a further seed whose point it is
ROWS = [
    (0.90, 100, None), (0.95, 2000, None), (0.94, 3000, None), (0.951, 2000, 1), (0.98, 4000, None)
]  # fmt: skip


def trials() -> list[FrozenTrial]:
    made = []
    for number, (accuracy, size, point) in enumerate(ROWS):
        attrs: dict[str, Any] = {"num_params": size}
        attrs |= {} if point is None else {"point": point, "seed_index": 1}
        params = {"channels": size} if point is None else {}
        trial = create_trial(values=[accuracy, size], user_attrs=attrs)
        trial.number = number
        trial.params = params
        made.append(trial)
    return made


def study(**more: Any) -> StudySnapshot:
    return StudySnapshot("s", "digits", "holdout", GOALS, 2, trials(), **more)


def test_the_front_has_a_bar_of_the_noise_of_seeds() -> None:
    sd = np.std([0.95, 0.951], ddof=1)
    one, two = 100 * 12.706 * sd, 100 * 4.3027 * sd / np.sqrt(2)  # Student's t of 1 and of 2
    table = front_rows(study(), {1: 0.9512})
    assert table.head == ["trial", "parameters", "holdout accuracy", "95 %", "n", "test"]
    assert table.rows == [
        ["4", "4,000", "98.00 %", f"±{one:.2f}", "1", "-"],
        ["1", "2,000", "95.05 %", f"±{two:.2f}", "2", "95.12 %"],
        ["0", "100", "90.00 %", f"±{one:.2f}", "1", "-"],
    ]
    assert front_rows(study(), most=1).rows == [["4", "4,000", "98.00 %", f"±{one:.2f}", "1"]]
    assert fresh_words(study()) == ""


def test_fresh_seeds_are_told_in_place_of_what_the_search_saw() -> None:
    fresh = {
        4: Fresh(Spread((0.96, 0.97, 0.96, 0.97, 0.97)), Spread((0.95, 0.96)), 60),
        0: Fresh(Spread((0.89,)), Spread(()), 2),
    }
    shown = study(fresh=fresh)
    largest, _, smallest = front_rows(shown, {4: 0.5, 0: 0.88}).rows
    half = 100 * (fresh[4].ours.interval[1] - 0.966)
    assert largest[2:] == ["96.60 %", f"±{half:.2f}", "5 fresh, 60 epochs", "95.50 %"]
    assert smallest[2] == "89.00 %" and smallest[4:] == ["1 fresh", "88.00 %"]
    assert fresh_words(shown).endswith("; test: of the net that the search made")


def test_the_terminal_has_aligned_lines_that_fit_it() -> None:
    lines = front_words(study(), {4: 0.97, 1: 0.95, 0: 0.9})
    assert lines[0] == "front of holdout accuracy and size: 3 nets"
    assert lines[2].split()[:4] == ["4", "4,000", "98.00", "%"]
    assert len({len(line) for line in lines[1:]}) == 1 and len(lines[1]) < 80


def test_the_longest_trainings_that_are_sure_are_what_was_confirmed() -> None:
    def rows(*accuracies: float) -> dict[str, Any]:
        return {str(seed): {"accuracy": value} for seed, value in enumerate(accuracies)}

    kept = {
        CONFIRMED: {"1": rows(0.9, 0.8), "2": rows(*[0.9] * 5), "3": {"1": {"error": "lost"}}},
        f"{CONFIRMED}:60": {"1": rows(0.95), "2": rows(0.99), "4": rows(math.inf), "x": rows(0.9)},
        "golf_opt:confirmed:": {"5": rows(0.9)},
    }
    found = fresh_of(kept, 18)
    assert {number: (fresh.ours.n, fresh.epochs) for number, fresh in found.items()} == {
        1: (1, 60),
        2: (5, 18),
    }
    assert found[2].ours.mean == pytest.approx(0.9)


def test_paused_trials_are_not_drawn_as_running_ones() -> None:
    paused = create_trial(state=TrialState.WAITING, intermediate_values={1: 0.5, 2: 0.6})
    running = create_trial(state=TrialState.RUNNING, intermediate_values={1: 0.5})
    shown = StudySnapshot("s", "digits", "holdout", GOALS[:1], 4, [paused, running])
    figure = learning_curves(shown)
    assert figure is not None
    names = [line.name for line in figure.panels[0].series]
    assert names == ["paused or waiting (1)", "running (1)"]


def test_what_was_too_large_was_pruned_for_it() -> None:
    for state, missed, large in ((TrialState.PRUNED, 5.0, True), (TrialState.PRUNED, -5.0, False)):
        trial = create_trial(state=state, system_attrs={"constraints:parameters": missed})
        assert too_large(trial) == large
