"""A worker has one connection, and none of what a session keeps: PgBouncer may be in between."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from golf_opt.config.schema import StorageConfig
from golf_opt.storage import connect
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.failures import StorageUnreachable
from golf_opt.storage.url import PASSWORD_ENV, take_password
from golf_opt.storage.workers import coordination
from golf_opt.utils.processes import WORKER

if TYPE_CHECKING:
    from conftest import Ran
    from postgres import Server

pytest_plugins = ["pgbouncer"]
pytestmark = pytest.mark.postgres

Start = Callable[..., subprocess.Popen[str]]
TRIALS = 40
# Each worker stays in its first trial until the other has one, too.
OBJECTIVE = """
import os, pathlib, time

def together(job):
    here = pathlib.Path("workers")
    here.mkdir(exist_ok=True)
    (here / str(os.getpid())).touch()
    deadline = time.monotonic() + 120
    while len(list(here.iterdir())) < 2:
        assert time.monotonic() < deadline, "no other worker came"
        time.sleep(0.05)
    for epoch in range(job.epochs):
        yield job.params["x"] + epoch
"""


def connections(server: Server, database: str) -> int:
    with server.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        (count,) = connection.execute(query, (database,)).fetchone()
    return count


def test_a_worker_never_has_more_than_one_connection(
    postgres: Server, on_postgres: StorageConfig
) -> None:
    """While its thread writes and reads, and while others of its threads ask."""
    database, seen = on_postgres.url.rpartition("/")[2], []
    with opened_storage(on_postgres) as storage:
        study = optuna.create_study(study_name="s", storage=storage)
        coordination(storage).set_plan(study._study_id, 24)

        def work() -> None:
            for _ in range(8):
                trial = study.ask()
                for step in range(5):
                    trial.report(trial.suggest_float("x", 0, 1), step)
                study.tell(trial, 1.0)
                coordination(storage).flush()
                seen.append(connections(postgres, database))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 24 and max(seen) == 1
        assert connections(postgres, database) == 1
    assert connections(postgres, database) == 0


def test_two_workers_through_pgbouncer_make_exactly_the_total(
    golf: Callable[..., Ran], golf_process: Start, pgbouncer: Server, postgres: Server,
    tmp_path: Path,
) -> None:  # fmt: skip
    database = postgres.create_database()
    where = f"storage.url={pgbouncer.url(database)}"
    (tmp_path / "toy.py").write_text(OBJECTIVE)
    (tmp_path / "space.yaml").write_text("x: {type: float, low: 0.0, high: 1.0}\n")
    what = ("objective=toy:together", "engine.lanes=1", where)
    begin = ("study", *what, "space=space.yaml", "study.name=s", "epochs=3", f"trials={TRIALS}")
    workers = [golf_process(*begin), golf_process(*begin)]
    for worker in workers:
        out, err = worker.communicate(timeout=280)
        assert (worker.returncode, err) == (0, ""), out + err
        assert f"{TRIALS} of {TRIALS} trials finished" in out
    assert f"\t{TRIALS}\t{TRIALS}\t0\t0\t0\t0\t" in golf("ls", where).out
    url, password = take_password(pgbouncer.url(database))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PASSWORD_ENV, password)
        with opened_storage(StorageConfig(url, None)) as storage:
            trials = optuna.load_study(study_name="s", storage=storage).trials
    assert [trial.number for trial in trials] == list(range(TRIALS))
    for trial in trials:
        x = trial.params["x"]
        assert trial.state == TrialState.COMPLETE and trial.value == x + 2
        assert trial.intermediate_values == {1: x, 2: x + 1, 3: x + 2}
    assert len({trial.user_attrs[WORKER] for trial in trials}) == 2
    assert connections(postgres, database) <= 1


def test_a_statement_has_a_limit_also_behind_pgbouncer(
    pgbouncer: Server, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, password = take_password(pgbouncer.url(postgres.create_database()))
    monkeypatch.setenv(PASSWORD_ENV, password)
    with opened_storage(StorageConfig(url, None)) as storage:
        engine = coordination(storage).ledger.engine
        for _ in range(3):
            with engine.begin() as connection:
                limit = connection.exec_driver_sql("SHOW statement_timeout").scalar()
                assert limit == "1min"
    with pgbouncer.connect() as connection:  # and nobody else has it
        assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_a_connection_that_broke_while_it_rested_is_made_anew(
    postgres: Server, on_postgres: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was used a moment ago is not asked first, and is missed once."""
    database = on_postgres.url.rpartition("/")[2]
    end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
    with opened_storage(on_postgres) as storage:
        study_id = storage.create_new_study([StudyDirection.MAXIMIZE], "s")
        for silence_s, breaks in ((0.0, False), (1e6, True)):
            monkeypatch.setattr(connect, "SILENCE_S", silence_s)
            with postgres.connect() as connection:
                assert connection.execute(end, (database,)).fetchall() == [(True,)]
            if breaks:
                with pytest.raises(StorageUnreachable):
                    storage.get_study_user_attrs(study_id)
            assert storage.get_study_user_attrs(study_id) == {}


def test_what_fails_in_a_transaction_leaves_nothing(on_postgres: StorageConfig) -> None:
    """The driver commits by itself, but where a transaction was begun."""
    with opened_storage(on_postgres) as storage:
        engine = coordination(storage).ledger.engine
        with pytest.raises(ZeroDivisionError), engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE half (x integer)")
            raise ZeroDivisionError
        with engine.begin() as connection:
            there = connection.exec_driver_sql("SELECT to_regclass('half')").scalar()
    assert there is None
