"""Reading trials in bulk gives what Optuna's own way gives, whole or in part."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from golf_opt.storage.bulk import BulkStorage


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[BulkStorage, RDBStorage, int]]:
    """One database read in two ways, with a study of trials in every state."""
    url = f"sqlite:///{tmp_path}/trials.db"
    ours, theirs = BulkStorage(url), RDBStorage(url)
    study = optuna.create_study(storage=theirs, direction="maximize", study_name="one")
    for number in range(5):
        trial = study.ask()
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        trial.suggest_int("batch_size", 4, 32)
        trial.suggest_categorical("schedule", ["step", None, 3])
        trial.set_user_attr("nested", {"a": [1, None, "ü"]})
        trial.report(0.5, 1)
        trial.report(math.nan if number == 1 else math.inf, 2)
        if number < 4:
            state = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE)
            value = 0.5 if state[number] == TrialState.COMPLETE else None
            study.tell(trial, value, state=state[number])
    study.enqueue_trial({"lr": 1e-3})
    optuna.create_study(storage=theirs, study_name="other").ask()
    pair = optuna.create_study(storage=theirs, directions=["minimize", "maximize"])
    pair.tell(pair.ask(), [1.0, math.inf])
    yield ours, theirs, study._study_id
    for storage in (ours, theirs):
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_every_trial_is_read_as_optuna_reads_it(
    both: tuple[BulkStorage, RDBStorage, int], monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    ours, theirs, study_id = both
    for number in (study_id, study_id + 1, study_id + 2):
        found = ours.get_all_trials(number)
        expected = theirs.get_all_trials(number)
        assert [repr(trial) for trial in found] == [repr(trial) for trial in expected]
    assert len(ours.get_all_trials(study_id)) == 6
    monkeypatch.undo()
    time.tzset()


def test_what_is_new_is_read_alone(both: tuple[BulkStorage, RDBStorage, int]) -> None:
    ours, theirs, study_id = both
    ids = [trial._trial_id for trial in theirs.get_all_trials(study_id)]
    part = ours._get_trials(study_id, None, {ids[0], ids[4]}, ids[3])
    assert [trial._trial_id for trial in part] == [ids[0], ids[4], ids[5]]
    assert ours._get_trials(study_id, None, set(), ids[-1]) == []
    many = ours._get_trials(study_id, None, set(range(-1000, ids[1])), ids[3])
    assert [trial._trial_id for trial in many] == [ids[0], ids[4], ids[5]]


def test_a_study_that_is_not_there_is_an_error(both: tuple[BulkStorage, RDBStorage, int]) -> None:
    with pytest.raises(KeyError, match="there is no study 99"):
        both[0]._get_trials(99, None, set(), -1)
