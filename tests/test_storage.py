"""Every storage behaves the same: studies, fingerprints, and trials that go back to the queue."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.engine import make_url

from golf_opt.config import StorageConfig, UsageError
from golf_opt.storage import (
    PASSWORD_ENV,
    STUDY_ID,
    WORKER,
    is_alive,
    marks,
    num_finished,
    open_storage,
    open_study,
    put_back,
    put_back_orphans,
    show_url,
    storage_url,
    take_password,
    this_worker,
)

pytest_plugins = ["postgres"]

NASTY = "p@ss:w/rd%?#"
FINGERPRINT = {
    "arch": "c4-5-4",
    "space": {"lr": {"low": 1e-5, "high": 1e-2}},
    "objective": "test accuracy",
    "direction": "maximize",
}
RANGE = optuna.distributions.FloatDistribution(0.0, 1.0)
Open = Callable[[], BaseStorage]


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_ENV, raising=False)


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def config(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StorageConfig:
    """The configuration of an empty storage of each kind."""
    if request.param == "memory":
        return StorageConfig(None, None)
    if request.param == "sqlite":
        return StorageConfig(f"sqlite:///{tmp_path}/new/golf.db", None)
    server = request.getfixturevalue("postgres")
    url, password = take_password(server.url(server.create_database()))
    monkeypatch.setenv(PASSWORD_ENV, password)
    return StorageConfig(url, None)


@pytest.fixture
def open_(config: StorageConfig) -> Iterator[Open]:
    """Open the storage, each time anew where it outlives its object."""
    opened: list[BaseStorage] = []

    def open_again() -> BaseStorage:
        if config.url is None and opened:
            return opened[0]
        opened.append(open_storage(config))
        return opened[-1]

    yield open_again
    for storage in opened:
        dispose(storage)


def dispose(storage: BaseStorage) -> None:
    if backend := getattr(storage, "_backend", None):
        backend.scoped_session.remove()
        backend.engine.dispose()


@pytest.fixture
def study(open_: Open) -> optuna.Study:
    study, _ = open_study(open_(), "mine", FINGERPRINT)
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    return study


def test_a_study_is_created_then_opened_again(open_: Open) -> None:
    made, new = open_study(open_(), "mine", FINGERPRINT)
    again, newer = open_study(open_(), "mine", FINGERPRINT)
    assert (new, newer) == (True, False)
    assert again._study_id == made._study_id
    assert again.user_attrs == made.user_attrs
    assert len(marks(again)[STUDY_ID]) == 32
    assert again.direction == optuna.study.StudyDirection.MAXIMIZE
    assert again.metric_names == ["test accuracy"]


def test_two_names_are_two_studies(open_: Open) -> None:
    one, _ = open_study(open_(), "one", FINGERPRINT)
    two, new = open_study(open_(), "two", FINGERPRINT | {"arch": "c8-5-4"})
    assert new
    assert marks(one)[STUDY_ID] != marks(two)[STUDY_ID]


def test_another_fingerprint_is_refused_by_the_name_of_what_differs(open_: Open) -> None:
    made, _ = open_study(open_(), "mine", FINGERPRINT)
    other = FINGERPRINT | {"space": {"lr": {"low": 1e-5, "high": 3e-2}}}
    with pytest.raises(UsageError, match=r"space\.lr\.high was 0\.01 and is 0\.03") as refusal:
        open_study(open_(), "mine", other)
    assert "arch" not in str(refusal.value)
    again, _ = open_study(open_(), "mine", FINGERPRINT)
    assert again.user_attrs == made.user_attrs


def test_a_foreign_study_is_refused_and_left_as_it_is(open_: Open) -> None:
    foreign = optuna.create_study(study_name="mine", storage=open_(), direction="minimize")
    with pytest.raises(UsageError, match="'mine' is there already and was not made by golf-opt"):
        open_study(open_(), "mine", FINGERPRINT)
    again = optuna.load_study(study_name="mine", storage=open_())
    assert again._study_id == foreign._study_id
    assert again.user_attrs == {}
    assert again.direction == optuna.study.StudyDirection.MINIMIZE


def test_a_trial_put_back_is_asked_again_as_it_was(open_: Open, study: optuna.Study) -> None:
    first, second = study.ask({"lr": RANGE}), study.ask({"lr": RANGE})
    second.report(0.25, 1)
    second.report(0.5, 2)
    study.tell(first, 0.75)
    put_back(study, second._trial_id)
    assert study.trials[1].state == TrialState.WAITING

    resumed, _ = open_study(open_(), "mine", FINGERPRINT)
    again = resumed.ask({"lr": RANGE})
    assert (again.number, again.params) == (1, second.params)
    assert resumed.trials[1].state == TrialState.RUNNING
    assert resumed.trials[1].intermediate_values == {1: 0.25, 2: 0.5}
    assert resumed.ask().number == 2


def test_finished_trials_are_complete_pruned_and_failed_ones(study: optuna.Study) -> None:
    study.tell(study.ask(), 0.5)
    study.tell(study.ask(), state=TrialState.FAIL)
    study.ask().report(0.5, 1)
    study.tell(study.trials[2].number, state=TrialState.PRUNED)
    study.ask()
    study.enqueue_trial({"lr": 0.5})
    assert [trial.state.name for trial in study.trials] == [
        "COMPLETE", "FAIL", "PRUNED", "RUNNING", "WAITING",
    ]  # fmt: skip
    assert num_finished(study) == 3


WORKER_PROGRAM = """
import json, sys
from golf_opt.storage import this_worker
print(json.dumps(this_worker()), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """A process of this host that has ended, and one that goes on."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER_PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    dead, alive = (json.loads(process.stdout.readline()) for process in processes)
    processes[0].communicate()
    yield dead, alive
    processes[1].communicate()


def test_only_trials_of_dead_local_workers_go_back(
    study: optuna.Study, workers: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    dead, alive = workers
    for worker in (dead, alive, this_worker(), dead | {"host": "elsewhere"}, None):
        trial = study.ask()
        if worker is not None:
            trial.set_user_attr(WORKER, worker)
    study.tell(study.ask(), 0.5)
    assert put_back_orphans(study) == [0]
    assert [trial.state.name for trial in study.trials] == [
        "WAITING", "RUNNING", "RUNNING", "RUNNING", "RUNNING", "COMPLETE",
    ]  # fmt: skip
    assert put_back_orphans(study) == []


def test_a_worker_is_not_taken_for_another_that_got_its_number() -> None:
    me = this_worker()
    assert me["pid"] == os.getpid()
    assert is_alive(me)
    if me["born"] is not None:
        assert not is_alive(me | {"born": "1"})


def test_a_worker_of_another_user_is_alive() -> None:
    assert is_alive(this_worker() | {"pid": 1, "born": None})


def test_sqlite_is_in_wal_mode_with_relaxed_syncs(tmp_path: Path) -> None:
    storage = open_storage(StorageConfig(f"sqlite:///{tmp_path}/golf.db", None))
    with storage._backend.engine.connect() as connection:
        pragmas = ("journal_mode", "synchronous", "busy_timeout")
        values = [connection.execute(text(f"PRAGMA {name}")).scalar() for name in pragmas]
    dispose(storage)
    assert values == ["wal", 1, 60_000]


def test_a_database_of_another_optuna_gives_the_upgrade_command(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/golf.db"
    dispose(open_storage(StorageConfig(url, None)))
    connection = sqlite3.connect(tmp_path / "golf.db")
    connection.execute("UPDATE version_info SET library_version = '3.0.0'")
    connection.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    connection.commit()
    connection.close()
    with pytest.raises(UsageError) as refusal:
        open_storage(StorageConfig(url, None))
    assert f'optuna storage upgrade --storage "{url}"' in str(refusal.value)
    assert optuna.__version__ in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "url", "password"),
    [
        ("postgresql://u:geheim@h:5432/d", "postgresql://u@h:5432/d", "geheim"),
        (f"postgresql://u:{NASTY}@h/d", "postgresql://u@h/d", NASTY),
        (f"postgresql://u:{quote(NASTY, safe='')}@h/d", "postgresql://u@h/d", NASTY),
        ("postgresql+psycopg://u:a%20b@[::1]/d", "postgresql+psycopg://u@[::1]/d", "a b"),
        ("postgresql://u:@h/d", "postgresql://u@h/d", ""),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d", None),
        ("postgresql://h:5432/d", "postgresql://h:5432/d", None),
        ("sqlite:///studies/golf.db", "sqlite:///studies/golf.db", None),
        ("sqlite:////tmp/a:b.db", "sqlite:////tmp/a:b.db", None),
        ("nonsense", "nonsense", None),
    ],
)
def test_the_password_is_taken_out_of_a_url(given: str, url: str, password: str | None) -> None:
    assert take_password(given) == (url, password)


def test_the_password_comes_back_for_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_ENV, NASTY)
    url = storage_url(StorageConfig("postgresql://u@h/d", None))
    assert (url.password, url.host, url.database) == (NASTY, "h", "d")
    assert make_url(url.render_as_string(hide_password=False)).password == NASTY


@pytest.mark.parametrize("password", [NASTY, quote(NASTY, safe="")], ids=["raw", "encoded"])
def test_a_url_from_the_environment_may_hold_any_password(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLF_STORAGE_URL", f"postgresql://u:{password}@h:5432/d")
    url = storage_url(StorageConfig(None, "GOLF_STORAGE_URL"))
    assert (url.username, url.password, url.host, url.port) == ("u", NASTY, "h", 5432)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgres_is_spoken_to_through_psycopg(scheme: str) -> None:
    url = storage_url(StorageConfig(f"{scheme}://u@h/d", None))
    assert url.drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://u:{quote(NASTY, safe='')}@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d?password=geheim", "postgresql://u@h/d"),
        ("sqlite:///studies/golf.db", "sqlite:///studies/golf.db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert show_url(make_url(url)) == shown


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"it must look like sqlite:///studies/golf\.db"):
        storage_url(StorageConfig("nonsense", None))


def test_a_missing_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOLF_STORAGE_URL", raising=False)
    with pytest.raises(UsageError, match="GOLF_STORAGE_URL is not set"):
        open_storage(StorageConfig(None, "GOLF_STORAGE_URL"))
