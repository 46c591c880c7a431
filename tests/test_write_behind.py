"""The storage that writes behind: Optuna's own expectations, and what ours adds to them."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sql
from optuna.storages import RDBStorage
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from golf_opt.storage import workers as workers_module
from golf_opt.storage.cache import READ_A_SECOND, REFRESH_FRACTION, REFRESH_S, pause_s
from golf_opt.storage.failures import StorageUnreachable, is_passing
from golf_opt.storage.synchronizer import TICK_S, WRITES_A_SECOND
from golf_opt.storage.tables import LEASES
from golf_opt.storage.workers import MANY, MAX_DEATHS, SILENT_S
from golf_opt.storage.write_behind import BudgetSpent, WriteBehindStorage
from golf_opt.utils.points import further_seed
from golf_opt.utils.processes import WORKER
from tests import postgres

pytest_plugins = ["postgres"]

Worker = Callable[..., optuna.Study]
COMPLETE = (TrialState.COMPLETE,)


@pytest.mark.slow
class TestOptunasOwnExpectations(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[WriteBehindStorage]:
        storage = WriteBehindStorage(RDBStorage(f"sqlite:///{tmp_path}/x.db"), "me")
        yield storage
        storage.workers.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/x.db"
    server = request.getfixturevalue("postgres")
    return server.url(server.create_database()).replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def worker(url: str) -> Iterator[Worker]:
    """Make workers' storages on one database; ticks and silence are short."""
    made: list[WriteBehindStorage] = []

    def make(
        owner: str,
        tick_s: float = 0.05,
        lease_s: float = 0.4,
        is_alive: Callable[[str], bool] = lambda _: True,
        max_deaths: int = MAX_DEATHS,
    ) -> optuna.Study:
        engine = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        storage = WriteBehindStorage(RDBStorage(url, engine_kwargs=engine), owner)
        storage._sync.tick_s, storage.workers.lease_s = tick_s, lease_s
        storage.workers.is_alive, storage.workers.max_deaths = is_alive, max_deaths
        made.append(storage)
        return optuna.create_study(
            study_name="s", storage=storage, direction="maximize", load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=1),
        )  # fmt: skip

    yield make
    for storage in made:
        storage.workers.close()


def stored(url: str) -> list[optuna.trial.FrozenTrial]:
    """The trials as any other program reads them."""
    backend = RDBStorage(url)
    try:
        return optuna.load_study(study_name="s", storage=backend).trials
    finally:
        backend.remove_session()
        backend.engine.dispose()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_trials_made_together_are_numbered_in_order_up_to_the_total(
    worker: Worker, url: str
) -> None:
    mine, other = worker("me"), worker("other")
    storage = mine._storage
    assert isinstance(storage, WriteBehindStorage)
    storage.workers.set_plan(mine._study_id, 6)
    mine.tell(mine.ask(), 0.5)
    other.ask()
    made = storage.create_new_trials(mine._study_id, 3)
    assert [storage.get_trial(trial_id).number for trial_id in made] == [2, 3, 4]
    assert len(storage.create_new_trials(mine._study_id, 3)) == 1, "one is left of six"
    with pytest.raises(BudgetSpent):
        storage.create_new_trials(mine._study_id, 3)
    storage.workers.flush()
    assert [trial.number for trial in stored(url)] == list(range(6))
    held = {lease.trial_id for lease in other._storage.workers.leases(mine._study_id)}  # type: ignore[attr-defined]
    assert held >= set(made), "whoever finds this worker dead puts them back"


def test_reports_are_written_by_themselves(worker: Worker, url: str) -> None:
    trial = worker("a", tick_s=0.2).ask()
    trial.suggest_float("lr", 0, 1)
    trial.report(0.5, 1)
    trial.set_user_attr("seed", 7)
    wait_until(lambda: stored(url)[0].intermediate_values == {1: 0.5})
    (seen,) = stored(url)
    assert (seen.params, seen.user_attrs) == (trial.params, {"seed": 7})
    assert seen.state == TrialState.RUNNING


def test_other_workers_trials_are_read_on_a_timer(worker: Worker) -> None:
    one, other = worker("a"), worker("b")
    other.ask()  # its timer runs
    trial = one.ask()
    one.tell(trial, 0.5)
    wait_until(lambda: [t.value for t in other.get_trials(deepcopy=False)] == [None, 0.5])


def test_a_worker_reads_only_what_may_have_changed(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = worker("a", tick_s=1e6), worker("b", tick_s=1e6)
    read, found = other._storage._backend._get_trials, []

    def recorded(*given: Any) -> list[optuna.trial.FrozenTrial]:
        trials = read(*given)
        found.append([trial.number for trial in trials])
        return trials

    monkeypatch.setattr(other._storage._backend, "_get_trials", recorded)

    def look() -> list[int]:
        one._storage.workers.flush()
        other._storage.workers.refresh(other._study_id)
        spent = other._storage.workers.epochs_spent(other._study_id)
        assert spent == other._storage.workers.ledger.epochs_spent(other._study_id)
        return found[-1]

    trials = [one.ask() for _ in range(6)]
    for trial in trials:
        trial.report(0.5, 1)
        trial.report(0.5, 2)
    mine = other.ask()
    for number in (4, 0, 2, 3):
        one.tell(trials[number], number / 10)
    assert look() == [0, 1, 2, 3, 4, 5, 6]
    assert look() == [1, 5], "what is finished, or its own, is read again"
    one.tell(trials[1], 0.1)
    trials.append(one.ask())
    assert look() == [1, 5, 7]
    assert [trial.number for trial in other.get_trials(states=COMPLETE)] == [0, 1, 2, 3, 4]
    other.tell(mine, 0.6)
    one.tell(trials[5], 0.5)
    assert look() == [5, 7] and look() == [7]
    known = other._storage._cache.changing(other._study_id)
    assert (known.epochs, known.ids) == (12, {trials[6]._trial_id})
    assert [trial.number for trial in other.get_trials(states=COMPLETE)] == [*range(7)]
    assert [trial.value for trial in other.trials] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, None]


def test_the_more_workers_run_elsewhere_the_less_often_each_reads_and_writes(
    worker: Worker,
) -> None:
    one, other = worker("a", tick_s=1e6), worker("b", tick_s=1e6)
    seen = other._storage._cache.study(other._study_id)
    trials = [one.ask() for _ in range(120)]
    for number, trial in enumerate(trials):
        trial.set_user_attr(WORKER, f"worker {number % 60}")
    one._storage.workers.flush()
    other._storage.workers.refresh(other._study_id)
    assert seen.pause_s >= 60 * 120 / READ_A_SECOND > 2 * REFRESH_S
    other._storage._sync.tick_s = TICK_S
    assert other._storage._sync._pace_s() == 60 / WRITES_A_SECOND > TICK_S, "and write as seldom"
    for trial in trials:
        one.tell(trial, 0.5)
    one._storage.workers.flush()
    other._storage.workers.refresh(other._study_id)
    assert seen.unfinished == set()
    assert other._storage._sync._pace_s() == TICK_S
    assert pause_s(0.0, 528, 1) == REFRESH_S, "one worker with many lanes"
    assert pause_s(0.1, 0, 0) == pytest.approx(0.1 / REFRESH_FRACTION)


def test_where_many_run_all_are_looked_at_once_and_then_the_silent_ones(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = worker("a", tick_s=1e6)
    other = worker("b", tick_s=1e6, is_alive=lambda _: False)
    workers, ledger = other._storage.workers, one._storage._ledger
    one.ask()
    assert workers.requeue_dead(other._study_id) == [(0, TrialState.WAITING)]
    trials = [one.ask() for _ in range(MANY + 1)]
    other._storage.workers.refresh(other._study_id)
    monkeypatch.setattr(workers_module, "LOOK_S", 0)
    monkeypatch.setattr(workers_module, "LOOKS_A_SECOND", 1e6)
    assert workers.requeue_dead(other._study_id) == []
    with ledger._begin() as connection:
        aged = sql.update(LEASES).where(LEASES.c.trial_id == trials[3]._trial_id)
        connection.execute(aged.values(beat=LEASES.c.beat - SILENT_S))
    monkeypatch.setattr(workers_module, "LOOKS_A_SECOND", 1e-6)  # by all, and it just did
    assert workers.requeue_dead(other._study_id) == []
    monkeypatch.setattr(workers_module, "LOOKS_A_SECOND", 1e6)
    assert workers.requeue_dead(other._study_id) == [(trials[3].number, TrialState.WAITING)]
    newcomer = worker("c", tick_s=1e6, is_alive=lambda _: False)
    newcomer._storage.workers.refresh(newcomer._study_id)
    requeued = newcomer._storage.workers.requeue_dead(newcomer._study_id)
    assert len(requeued) == MANY, "of one that is started anew"


def test_a_total_counts_the_trials_of_everybody(worker: Worker) -> None:
    """Of both workers, those that wait, and none of the further seeds of a point."""
    one, other = worker("a"), worker("b")
    for study in (one, other):
        study._storage.workers.set_plan(study._study_id, 5)
    first = one.ask()
    other.enqueue_trial({"lr": 0.5})
    assert other.ask().number == 1
    assert one._storage.create_new_trial(one._study_id, further_seed(first, 1)) > 0
    with pytest.raises(BudgetSpent):  # that seed is there already
        other._storage.create_new_trial(one._study_id, further_seed(first, 1))
    assert [study.ask().number for study in (other, one, other)] == [3, 4, 5]
    for study in (one, other):
        with pytest.raises(BudgetSpent):
            study.ask()


def test_a_silent_worker_loses_its_trial_and_what_it_says_is_dropped(
    worker: Worker, url: str
) -> None:
    """The first worker hangs: it writes nothing for longer than its lease."""
    slow, quick = worker("a", tick_s=1e6), worker("b")
    trial = slow.ask()
    trial.report(0.1, 1)
    slow._storage.workers.flush()
    quick._storage._sync.reachable_since -= 60  # it has seen the database for long enough
    time.sleep(0.6)
    assert quick._storage.workers.requeue_dead(quick._study_id) == [(0, TrialState.WAITING)]
    again = quick.ask()
    assert again.number == 0
    again.report(0.2, 2)

    trial.report(0.9, 2)  # too late
    slow.tell(trial, 0.9)
    slow._storage.workers.flush()
    assert slow._storage.workers.lost_trials() == {trial._trial_id}
    quick.tell(again, 0.3)
    quick._storage.workers.flush()
    (kept,) = stored(url)
    assert (kept.value, kept.intermediate_values) == (0.3, {1: 0.1, 2: 0.2})


def test_a_living_worker_keeps_its_trial(worker: Worker) -> None:
    busy, other = worker("a"), worker("b", lease_s=2.0)  # long for a thread to stand still
    trial = busy.ask()
    other._storage._sync.reachable_since -= 60
    for step in range(15):  # for longer than its lease
        trial.report(0.5, step)
        time.sleep(0.2)
        assert other._storage.workers.requeue_dead(other._study_id) == []


def test_only_the_databases_clock_counts(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose clock is ten minutes ahead takes nobody for dead."""
    worker("a").ask()
    other = worker("b", lease_s=60.0)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 600)
    other._storage._sync.reachable_since -= 600
    assert other._storage.workers.requeue_dead(other._study_id) == []


def test_after_an_outage_nobody_is_taken_for_dead_at_once(worker: Worker) -> None:
    worker("a", tick_s=1e6).ask()
    other = worker("b", lease_s=2.0)
    time.sleep(0.1)
    other._storage.workers.lease_s = 0.05  # silent for longer than that, but seen for less
    other._storage._sync.reachable_since = time.monotonic() + 60
    assert other._storage.workers.requeue_dead(other._study_id) == []


def test_a_trial_that_kills_its_workers_fails(worker: Worker, url: str) -> None:
    for death in range(3):
        assert worker(f"w{death}", tick_s=1e6).ask().number == 0
        survivor = worker("s", is_alive=lambda owner: owner == "s", max_deaths=2)
        ((_, state),) = survivor._storage.workers.requeue_dead(survivor._study_id)
        assert state == (TrialState.FAIL if death == 2 else TrialState.WAITING)
    (trial,) = stored(url)
    assert trial.state == TrialState.FAIL
    assert "3 workers in a row died in it" in trial.user_attrs["fail_reason"]


def test_progress_forgives_deaths(worker: Worker) -> None:
    for death in range(5):
        study = worker(f"w{death}", tick_s=1e6)
        study.ask().report(0.5, death)
        study._storage.workers.flush()
        survivor = worker("s", is_alive=lambda owner: owner == "s", max_deaths=1)
        ((_, state),) = survivor._storage.workers.requeue_dead(survivor._study_id)
        assert state == TrialState.WAITING


def test_two_workers_never_make_too_many_trials(worker: Worker, url: str) -> None:
    studies = [worker("a"), worker("b")]
    for study in studies:
        study._storage.workers.set_plan(study._study_id, 5)
    made = 0
    with contextlib.suppress(BudgetSpent):
        while True:
            studies[made % 2].ask()
            made += 1
    assert made == 5
    with pytest.raises(BudgetSpent):
        studies[made % 2 - 1].ask()
    assert [trial.number for trial in stored(url)] == list(range(5))


def test_a_checkpoint_is_written_with_what_the_trial_reports(worker: Worker) -> None:
    study = worker("a", tick_s=1e6)
    trial = study.ask()
    trial.report(0.5, 1)
    study._storage.workers.save_checkpoint(trial._trial_id, "id", 0, lambda: b"old")
    study._storage.workers.save_checkpoint(trial._trial_id, "id", 0, lambda: b"new")
    assert study._storage.workers.ledger.load_checkpoint("id", 0) is None
    study._storage.workers.flush()
    assert study._storage.workers.ledger.load_checkpoint("id", 0) == b"new"


@pytest.mark.postgres
def test_an_outage_loses_nothing() -> None:
    """Reports and results made while the server is down are there when it is back."""
    if not postgres.found():
        pytest.skip("PostgreSQL's server binaries (initdb, postgres) are not installed")
    with postgres.started() as server:
        url = server.url(server.create_database()).replace("postgresql:", "postgresql+psycopg:")
        backend = RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        storage = WriteBehindStorage(backend, "me")
        storage._sync.tick_s = 0.05
        study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
        trials = [study.ask(), study.ask()]
        server.stop(signal.SIGKILL)
        for trial in trials:
            trial.report(0.5, 1)
        study.tell(trials[0], 0.75)
        wait_until(lambda: not storage.workers.reachable)
        with pytest.raises(StorageUnreachable):
            study.ask()
        assert [trial.value for trial in study.get_trials(deepcopy=False)] == [0.75, None]
        server.start()
        wait_until(lambda: storage.workers.reachable)
        storage.workers.flush()
        assert study.ask().number == 2
        written = stored(url)
        storage.workers.close()
    assert [trial.intermediate_values for trial in written] == [{1: 0.5}, {1: 0.5}, {}]
    assert [trial.state.name for trial in written] == ["COMPLETE", "RUNNING", "RUNNING"]


def test_a_full_disk_is_no_outage(tmp_path: Path) -> None:
    """It is told to the caller instead of being waited for."""
    full = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    locked = OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))
    assert not is_passing(full, "sqlite")
    assert is_passing(locked, "sqlite")
