"""What a study says of trials whose attributes and values are not what we would have stored."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Ran
from fuzzing import fuzz
from hypothesis import given
from hypothesis.strategies import (
    booleans,
    dictionaries,
    floats,
    integers,
    lists,
    none,
    recursive,
    sampled_from,
    text,
)
from optuna.trial import FrozenTrial, TrialState

from golf_opt.study.note import log, result_words
from golf_opt.study.progress import sparkline
from golf_opt.task.goals import Goal

Golf = Callable[..., Ran]
Begun = Callable[..., None]
QUICK = (
    "study", "data=digits", "engine=torch", "epochs=1", "space.batch_size=32", "sampler=random",
    "study.name=s", "storage.url=sqlite:///golf.db",
)  # fmt: skip
NAMES = (
    "epoch_losses", "train_accuracy", "fail_reason", "time_s", "seed", "engine", "device",
    "num_params", "protocol", "worker", "checkpoint_damaged",
)  # fmt: skip
WRONG: list[Any] = [
    None, "text", "", True, -1, 10**30, 1.5, [], {}, ["a"], [None], [[0.1]], {"1": 0.2}, 10**400,
    [10**400], float("nan"), float("inf"), [float("nan")], "\x1b[2J", "line\nbreak", "x" * 100_000,
]  # fmt: skip


def trial(attributes: dict[str, Any], values: dict[int, float], value: float | None) -> FrozenTrial:
    now = datetime(2026, 1, 1)
    return FrozenTrial(
        number=0, state=TrialState.COMPLETE, value=value, datetime_start=now,
        datetime_complete=now, params={}, distributions={}, user_attrs=attributes, system_attrs={},
        intermediate_values=values, trial_id=0,
    )  # fmt: skip


GOALS = [Goal("test accuracy")]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong)[:20])
def test_a_log_shows_a_trial_whatever_its_attributes_are(wrong: Any) -> None:
    one = trial(dict.fromkeys(NAMES, wrong), {1: 0.5, 2: float("nan")}, 0.5)
    assert "\n    1   50.00 %" in log(one, GOALS)
    assert result_words(one).startswith("50.00 % (trial 0, n = 1 seed")


NUMBERS = floats() | integers()
ANYTHING = recursive(
    none() | booleans() | NUMBERS | text(), lambda inner: lists(inner) | dictionaries(text(), inner)
)


@fuzz(examples=100)
@given(
    dictionaries(sampled_from(NAMES), ANYTHING), dictionaries(integers(), floats()), floats()
)  # fmt: skip
def test_words_of_any_trial(
    attributes: dict[str, Any], values: dict[int, float], value: float
) -> None:
    one = trial(attributes, values, value)
    assert log(one, GOALS) and result_words(one)
    sparkline([value, *values.values()])


@pytest.fixture
def study(begun: Begun, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A study with a good trial, and its database."""
    begun(*QUICK, "trials=1")
    with contextlib.closing(sqlite3.connect(tmp_path / "golf.db")) as database:
        yield database


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("golf_opt:note_sections", ["no", "mapping"]),
        ("golf_opt:note_sections", {"title": 1}),
        ("golf_opt:test_readings", "none"),
        ("golf_opt:test_readings", [1]),
        ("golf_opt:test_readings", [{"trial": 0, "test_accuracy": "high"}]),
        ("golf_opt:test_readings", [{}]),
    ],
)
def test_a_study_goes_on_beside_attributes_of_other_types(
    golf: Golf, begun: Begun, key: str, value: Any
) -> None:
    command = (*QUICK, "protocol=holdout")
    begun(*command, "trials=1")
    there = optuna.load_study(study_name="s", storage="sqlite:///golf.db")
    there._storage.set_study_system_attr(there._study_id, key, value)
    ran = golf(*command, "trials=2")
    assert ran.status == 0 and len(ran.err.splitlines()) == 1
    assert f"golf-opt: study 's': attribute {key!r} is left out: " in ran.err
    assert "2 of 2 trials finished" in ran.out and "read once" in ran.out


@pytest.mark.parametrize("wrong", [[0.5], "text", None, {"a": 1}], ids=repr)
def test_a_study_goes_on_beside_trials_of_other_attributes(
    golf: Golf, study: sqlite3.Connection, wrong: Any
) -> None:
    study.execute("UPDATE trial_user_attributes SET value_json = ?", (json.dumps(wrong),))
    study.commit()
    ran = golf(*QUICK, "trials=2")
    assert (ran.status, ran.err) == (0, "")
    assert "2 of 2 trials finished" in ran.out


@pytest.mark.parametrize("kind", ["INF_POS", "INF_NEG"])
def test_a_study_goes_on_beside_infinite_values(
    golf: Golf, study: sqlite3.Connection, kind: str
) -> None:
    study.execute("UPDATE trial_values SET value = NULL, value_type = ?", (kind,))
    study.execute(
        "UPDATE trial_intermediate_values SET intermediate_value = NULL, "
        "intermediate_value_type = 'NAN'"
    )
    study.commit()
    ran = golf(*QUICK, "trials=3")
    assert (ran.status, ran.err) == (0, "")
    assert "3 of 3 trials finished" in ran.out
