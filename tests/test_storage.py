"""Every storage behaves the same: studies, fingerprints, and trials that go back to the queue."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy import text, update
from sqlalchemy.engine import make_url

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import StorageConfig
from golf_opt.storage.connect import file_system, open_storage
from golf_opt.storage.studies import STUDY_ID, marks, num_finished
from golf_opt.storage.tables import LEASES
from golf_opt.storage.url import (
    PASSWORD_ENV,
    PASSWORD_FILE_ENV,
    show_url,
    storage_url,
    take_password,
)
from golf_opt.storage.workers import coordination, flush, requeue
from golf_opt.storage.write_behind import BudgetSpent
from golf_opt.study.description import StudyDescription
from golf_opt.study.opening import open_study
from golf_opt.task.grammar import parse_grammar
from golf_opt.utils.processes import WORKER, is_alive, worker_id

if TYPE_CHECKING:
    from postgres import Server

pytest_plugins = ["postgres"]

NASTY = "p@ss:w/rd%?#"
RANGE = optuna.distributions.FloatDistribution(0.0, 1.0)
Open = Callable[[], BaseStorage]


def space_up_to(lr: float) -> dict[str, Any]:
    return {"lr": {"type": "float", "low": 1e-5, "high": lr}, "batch_size": 14}


def described(arch: str = "c4-5-4") -> StudyDescription:
    return StudyDescription(
        version="0.2.0", arch=parse_grammar(arch), space=space_up_to(1e-2),
        sampler={}, pruner={}, data="digits", digest="0", num_train=10, protocol="test", epochs=1,
        trials=1, seed=0, command="",
    )  # fmt: skip


DESCRIBED = described()


@pytest.fixture(
    params=["memory", "journal", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> StorageConfig:
    """The configuration of an empty storage of each kind."""
    if request.param == "memory":
        return StorageConfig(None, None)
    if request.param == "journal":
        return StorageConfig(f"journal:{tmp_path}/new/journal.log", None)
    if request.param == "sqlite":
        return StorageConfig(f"sqlite:///{tmp_path}/new/golf.db", None)
    return request.getfixturevalue("on_postgres")


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
        coordination(storage).close()


@pytest.fixture
def study(open_: Open) -> optuna.Study:
    study, _ = open_study(open_(), "mine", DESCRIBED)
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    return study


def test_a_study_is_created_then_opened_again(open_: Open) -> None:
    made, new = open_study(open_(), "mine", DESCRIBED)
    again, newer = open_study(open_(), "mine", DESCRIBED)
    assert (new, newer) == (True, False)
    assert again._study_id == made._study_id
    assert again.user_attrs == made.user_attrs
    assert len(marks(again)[STUDY_ID]) == 32
    assert again.direction == optuna.study.StudyDirection.MAXIMIZE
    assert again.metric_names == ["test accuracy"]


def test_two_names_are_two_studies(open_: Open) -> None:
    one, _ = open_study(open_(), "one", DESCRIBED)
    two, new = open_study(open_(), "two", described("c8-5-4"))
    assert new
    assert marks(one)[STUDY_ID] != marks(two)[STUDY_ID]


def test_another_fingerprint_is_refused_by_the_name_of_what_differs(open_: Open) -> None:
    made, _ = open_study(open_(), "mine", DESCRIBED)
    other = DESCRIBED.model_copy(update={"space": space_up_to(3e-2)})
    with pytest.raises(
        UsageError, match=r"space\.lr: 1e-05\.\.0\.01 before, 1e-05\.\.0\.03 now"
    ) as refusal:
        open_study(open_(), "mine", other)
    assert "arch" not in str(refusal.value)
    again, _ = open_study(open_(), "mine", DESCRIBED)
    assert again.user_attrs == made.user_attrs


def test_a_foreign_study_is_refused_and_left_as_it_is(open_: Open) -> None:
    foreign = optuna.create_study(study_name="mine", storage=open_(), direction="minimize")
    with pytest.raises(UsageError, match="'mine' is there already and was not made by golf-opt"):
        open_study(open_(), "mine", DESCRIBED)
    again = optuna.load_study(study_name="mine", storage=open_())
    assert again._study_id == foreign._study_id
    assert again.user_attrs == {}
    assert again.direction == optuna.study.StudyDirection.MINIMIZE


def test_a_requeued_trial_is_asked_again_as_it_was(open_: Open, study: optuna.Study) -> None:
    first, second = study.ask({"lr": RANGE}), study.ask({"lr": RANGE})
    second.report(0.25, 1)
    second.report(0.5, 2)
    study.tell(first, 0.75)
    requeue(study, second._trial_id)
    assert study.trials[1].state == TrialState.WAITING

    resumed, _ = open_study(open_(), "mine", DESCRIBED)
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
import sys
from golf_opt.utils.processes import worker_id
print(worker_id(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[str, str]]:
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
    dead, alive = (process.stdout.readline().strip() for process in processes)
    processes[0].communicate()
    yield dead, alive
    processes[1].communicate()


def elsewhere(worker: str) -> str:
    return f"elsewhere:{worker.partition(':')[2]}"


def hand_over(study: optuna.Study, trial: optuna.Trial, worker: str) -> None:
    """Let the storage believe that another worker runs a trial."""
    trial.set_user_attr(WORKER, worker)
    flush(study)
    workers = coordination(study._storage)
    if workers.shared:
        with workers.ledger.engine.begin() as connection:
            connection.execute(
                update(LEASES).where(LEASES.c.trial_id == trial._trial_id).values(owner=worker)
            )


def test_only_trials_of_dead_local_workers_go_back(
    study: optuna.Study, workers: tuple[str, str]
) -> None:
    dead, alive = workers
    for worker in (dead, alive, worker_id(), elsewhere(dead)):
        hand_over(study, study.ask(), worker)
    study.ask()
    study.tell(study.ask(), 0.5)
    workers = coordination(study._storage)
    assert workers.requeue_dead(study._study_id) == [(0, TrialState.WAITING)]
    assert [trial.state.name for trial in study.trials] == [
        "WAITING", "RUNNING", "RUNNING", "RUNNING", "RUNNING", "COMPLETE",
    ]  # fmt: skip
    assert workers.requeue_dead(study._study_id) == []


def test_no_more_trials_than_the_total(open_: Open, study: optuna.Study) -> None:
    """Enqueued ones count, a requeued trial does not count twice."""
    workers = coordination(study._storage)
    if not workers.shared:
        return  # its one worker counts for itself
    workers.set_plan(study._study_id, 3)
    study.enqueue_trial({"lr": 0.5})
    first = study.ask()
    assert study.ask().number == 1
    requeue(study, first._trial_id)
    assert study.ask().number == 0
    assert study.ask().number == 2
    with pytest.raises(BudgetSpent):
        study.ask()
    assert len(study.trials) == 3


def test_a_worker_is_not_taken_for_another_that_got_its_number() -> None:
    host, pid, born, tag = worker_id().rsplit(":", 3)
    assert int(pid) == os.getpid()
    assert is_alive(worker_id())
    if born:
        assert not is_alive(f"{host}:{pid}:1:{tag}")


def test_a_worker_of_another_user_is_alive() -> None:
    host, _, _, tag = worker_id().rsplit(":", 3)
    assert is_alive(f"{host}:1::{tag}")


def test_a_network_file_system_is_told_by_its_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path}/far nfs4 rw 0 0\n")
    assert file_system(tmp_path / "far" / "golf.db", mounts) == "nfs4"
    assert file_system(tmp_path / "near.db", mounts) == "ext4"
    assert file_system(tmp_path / "near.db", tmp_path / "missing") == ""


def test_sqlite_on_a_network_file_system_does_without_wal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("golf_opt.storage.connect.file_system", lambda _: "nfs4")
    storage = open_storage(StorageConfig(f"sqlite:///{tmp_path}/golf.db", None))
    with coordination(storage).ledger.engine.connect() as connection:
        values = [
            connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous")
        ]
    coordination(storage).close()
    assert values == ["truncate", 2] or values == ["delete", 2]


def test_sqlite_is_in_wal_mode_with_relaxed_syncs(tmp_path: Path) -> None:
    storage = open_storage(StorageConfig(f"sqlite:///{tmp_path}/golf.db", None))
    with coordination(storage).ledger.engine.connect() as connection:
        pragmas = ("journal_mode", "synchronous", "busy_timeout")
        values = [connection.execute(text(f"PRAGMA {name}")).scalar() for name in pragmas]
    coordination(storage).close()
    assert values == ["wal", 1, 60_000]


def test_a_database_of_another_optuna_gives_the_upgrade_command(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/golf.db"
    coordination(open_storage(StorageConfig(url, None))).close()
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


def test_a_missing_environment_variable_is_named() -> None:
    with pytest.raises(UsageError, match="GOLF_STORAGE_URL is not set"):
        open_storage(StorageConfig(None, "GOLF_STORAGE_URL"))


def in_file(folder: Path, text: str | bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / "secret"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    monkeypatch.setenv(PASSWORD_FILE_ENV, str(path))
    return path


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("password", [NASTY, " läng er\t", "%40", "a\\'\""])
def test_the_password_may_be_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str, end: str
) -> None:
    in_file(tmp_path, password + end, monkeypatch)
    url = storage_url(StorageConfig("postgresql://u@h/d", None))
    assert url.password == password
    assert make_url(url.render_as_string(hide_password=False)).password == password


def test_a_password_closer_at_hand_comes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file(tmp_path, "far", monkeypatch)
    assert storage_url(StorageConfig("postgresql://u:near@h/d", None)).password == "near"
    monkeypatch.setenv(PASSWORD_ENV, "nearer")
    assert storage_url(StorageConfig("postgresql://u@h/d", None)).password == "nearer"
    assert storage_url(StorageConfig("sqlite:///golf.db", None)).password is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "must name a file with a password"), ("\n", "with a password"), (b"\xff", "not UTF-8")],
)
def test_a_password_file_without_a_password_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes, reason: str
) -> None:
    path = in_file(tmp_path, text, monkeypatch)
    with pytest.raises(UsageError, match=reason) as refusal:
        storage_url(StorageConfig("postgresql://u@h/d", None))
    assert f"GOLF_STORAGE_PASSWORD_FILE names {path}," in str(refusal.value)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_password_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(PASSWORD_FILE_ENV, str(tmp_path / name))
    with pytest.raises(UsageError, match=r"cannot be read: (No such file|Is a directory)"):
        storage_url(StorageConfig("postgresql://u@h/d", None))


@pytest.mark.postgres
def test_postgres_lets_in_the_password_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: Server
) -> None:
    url, password = take_password(postgres.url(postgres.create_database()))
    in_file(tmp_path, f"{password}\n", monkeypatch)
    storage = open_storage(StorageConfig(url, None))
    assert optuna.get_all_study_names(storage) == []
    coordination(storage).close()
    in_file(tmp_path, f"{password}x", monkeypatch)
    with pytest.raises(UsageError, match="password authentication failed") as refusal:
        open_storage(StorageConfig(url, None))
    assert str(password) not in str(refusal.value)
