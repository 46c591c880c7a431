"""Thirty-two processes on one PostgreSQL make exactly the trials that the study is to have."""

from __future__ import annotations

import multiprocessing
from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState

from golf_opt.config.schema import StorageConfig
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.workers import coordination, flush
from golf_opt.storage.write_behind import BudgetSpent

pytest_plugins = ["postgres"]

PROCESSES, TOTAL, REPORTS = 32, 200, 3
STUDY = "fleet"


def work(config: StorageConfig) -> None:
    """Be one of the processes: make trials until the study has its total."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with opened_storage(config) as storage:
        study = optuna.load_study(
            study_name=STUDY, storage=storage, sampler=optuna.samplers.RandomSampler()
        )
        coordination(storage).set_plan(study._study_id, TOTAL)
        while True:
            try:
                trial = study.ask()
            except BudgetSpent:
                break
            value = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
            for step in range(1, REPORTS + 1):
                trial.report(value / step, step)
            study.tell(trial, value)
        flush(study)


@pytest.mark.postgres
def test_many_processes_make_exactly_the_total(on_postgres: StorageConfig) -> None:
    with opened_storage(on_postgres) as storage:
        optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
    # spawning imports everything once, in the server that the processes are forked from
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["golf_opt.storage.connect"])
    processes = [context.Process(target=work, args=(on_postgres,)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    with opened_storage(on_postgres) as storage:
        trials = optuna.load_study(study_name=STUDY, storage=storage).trials
    assert Counter(trial.state for trial in trials) == {TrialState.COMPLETE: TOTAL}
    assert [trial.number for trial in trials] == list(range(TOTAL))
    for trial in trials:
        assert trial.value == trial.params["lr"]
        assert trial.intermediate_values == {s: trial.value / s for s in range(1, REPORTS + 1)}
