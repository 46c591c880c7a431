"""A storage that writes behind: Optuna's whole API, without a transaction for every call.

What a worker says of its own trials goes into a view in memory at once, and into the database by a
thread of its own, in one transaction twice a second. Samplers and pruners read the view. Trials of
other workers are read on a timer. Only asking for a trial waits for the database, because trials
are numbered there and the total of a study is kept there.

A database that cannot be reached loses nothing: what was to be written waits, and is written when
it answers again.
"""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from golf_opt.storage.ledger import Batch, Changes, Lease, Ledger

TICK_S = 0.5  # between two writes
BEAT_S = 10.0  # between two signs of life, where nothing is written
LEASE_S = 60.0  # without one, a worker on another host counts as dead
REFRESH_S = 1.0  # between two reads of other workers' trials, at least
REFRESH_SHARE = 0.02  # of the time that reading them may take
PATIENCE_S = 5.0  # longest wait between two attempts to reach the database
CLOSING_S = 1.5  # for the last write, where the database does not answer
MAX_DEATHS = 5  # of workers in a row, in one trial, before it fails


def anyone_may_live(_owner: str) -> bool:
    """Know of no worker that it is dead; only its silence tells."""
    return True


class BudgetSpent(Exception):
    """The study has all the trials that it is to have."""


class StorageUnreachable(Exception):
    """The database does not answer now; what was said to it is kept."""


@dataclass
class _View:
    """What this worker knows of one study."""

    trials: dict[int, FrozenTrial] = field(default_factory=dict)  # by number, in order
    finished: dict[tuple[TrialState, ...], list[FrozenTrial]] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    directions: list[StudyDirection] | None = None
    total: int | None = None
    read: float = -1e9  # when other workers' trials were last read
    pause_s: float = REFRESH_S  # until they are read again

    def put(self, trial: FrozenTrial) -> None:
        """Take a trial in, in place of what was known of it."""
        before = self.trials.get(trial.number)
        if trial.state.is_finished() or (before is not None and before.state.is_finished()):
            self.finished.clear()
        self.trials[trial.number] = trial

    def in_states(self, states: Container[TrialState]) -> list[FrozenTrial]:
        """Return the trials in some states; pruners ask for the finished ones at every report."""
        key = tuple(state for state in TrialState if state in states)
        if not all(state.is_finished() for state in key):
            return [trial for trial in self.trials.values() if trial.state in key]
        if key not in self.finished:
            self.finished[key] = [trial for trial in self.trials.values() if trial.state in key]
        return list(self.finished[key])


class WriteBehindStorage(BaseStorage):
    """A worker's storage in front of an `RDBStorage` on SQLite or PostgreSQL.

    Args:
        backend: Optuna's own; everything rare goes through it.
        owner: names this worker in the database; another run of it has another name.
        is_alive: tells whether the worker of a name may be alive; those of other hosts may.
        tick_s: seconds between two writes.
        lease_s: seconds without a sign of life after which a worker's trials are put back.
        max_deaths: workers that may die in a trial, one after the other, before it fails.
    """

    def __init__(
        self,
        backend: RDBStorage,
        owner: str,
        is_alive: Callable[[str], bool] = anyone_may_live,
        *,
        tick_s: float = TICK_S,
        lease_s: float = LEASE_S,
        max_deaths: int = MAX_DEATHS,
    ) -> None:
        self._backend = backend
        self._reader = optuna.storages.get_storage(backend)
        self._ledger = Ledger(backend.engine, owner)
        self._owner, self._is_alive = owner, is_alive
        self._tick_s, self._lease_s, self._max_deaths = tick_s, lease_s, max_deaths
        self._views: dict[int, _View] = {}
        self._where: dict[int, tuple[int, int]] = {}  # trial id -> study id, number
        self._held: set[int] = set()  # running trials of this worker
        self._told: set[int] = set()  # no longer running, which is not written yet
        self._lost: set[int] = set()  # held once; another worker has them now
        self._news: set[int] = set()  # of these, what `lost_trials` did not tell yet
        self._batch = Batch()
        self._lock = threading.RLock()  # of all the above
        self._writing = threading.Lock()  # one write at a time, in order
        self._written = time.monotonic()
        self._reachable_since: float | None = time.monotonic()
        self._unleased: dict[int, float] = {}  # running trials without a lease: when first seen
        self._failure: Exception | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    # --- beyond Optuna's API ---

    def set_total(self, study_id: int, total: int) -> None:
        """Let the study have at most `total` trials, whoever asks."""
        self._view(study_id).total = total

    def lost_trials(self) -> set[int]:
        """Return the ids of trials that other workers took over since the last call."""
        with self._lock:
            news, self._news = self._news, set()
        return news

    @property
    def reachable(self) -> bool:
        """Whether the database answered last time."""
        return self._reachable_since is not None

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def save_checkpoint(
        self, trial_id: int, study: str, number: int, data: Callable[[], bytes]
    ) -> None:
        """Keep a trial's checkpoint; `data` is called once, when it is written."""
        self._change(trial_id).checkpoint = (study, number, data)

    def delete_checkpoint(self, study: str, number: int) -> None:
        """Delete a trial's checkpoint with the next write."""
        with self._lock:
            self._batch.stale_checkpoints.add((study, number))
        self._start()

    def settle(self, stopped: Callable[[], bool]) -> None:
        """Write everything, however long the database takes to answer, unless `stopped`."""
        while not stopped():
            try:
                self.flush()
                return
            except StorageUnreachable:
                time.sleep(self._tick_s)

    def flush(self) -> None:
        """Write everything now.

        Raises:
            StorageUnreachable: the database does not answer; nothing is lost.
            SQLAlchemyError: it answers that it cannot.
        """
        with self._writing:
            with self._lock:
                batch, self._batch = self._batch, Batch()
                told, self._told = self._told, set()
                leased = self._held | told
            if not batch and not leased:
                return
            try:
                with self._reaching():
                    lost = self._ledger.write(batch, leased)
            except Exception:
                with self._lock:
                    self._batch = batch.under(self._batch)
                    self._told |= told
                raise
            self._written = time.monotonic()
            self._lose(lost)

    def _lose(self, lost: set[int]) -> None:
        """Forget what this worker thought of trials that it no longer holds."""
        with self._lock:
            self._news |= lost & self._held
            self._lost |= lost
            self._held -= lost
            self._told -= lost
            for trial_id in lost:
                self._batch.trials.pop(trial_id, None)
                study_id, _ = self._where[trial_id]
                self._views[study_id].read = -1e9  # and ask the database

    def requeue_dead(self, study_id: int) -> list[tuple[Lease, TrialState]]:
        """Put back the running trials of dead workers; return them and their new states.

        A worker of this host is dead when its process is gone; one of another host when it gave no
        sign of life for `lease_s`. After an outage everyone first gets half of that time.
        """
        with self._reaching():
            others = self._ledger.others(study_id)
        now = time.monotonic()
        since = self._reachable_since
        patient = since is not None and now - since >= self._lease_s / 2
        self._unleased = {
            lease.trial_id: self._unleased.get(lease.trial_id, now)
            for lease in others
            if lease.owner is None
        }
        requeued = []
        for lease in others:
            gone = lease.owner is not None and not self._is_alive(lease.owner)
            silent_s = lease.age_s or 0.0
            if lease.owner is None:
                silent_s = now - self._unleased[lease.trial_id]
            if gone or (patient and silent_s > self._lease_s):
                with self._reaching():
                    older_s = 0.0 if gone or lease.owner is None else self._lease_s
                    state = self._ledger.requeue(lease, self._max_deaths, older_s)
                if state is not None:
                    requeued.append((lease, state))
        if requeued:
            self._refresh(study_id, force=True)
        return requeued

    def close(self) -> None:
        """Write what is left, and give the connections back.

        Raises:
            StorageUnreachable: the database did not answer for a while; the rest is lost, which
                the checkpoints before it make good.
        """
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        try:
            self._flush_patiently(CLOSING_S)
        finally:
            self._backend.remove_session()
            self._backend.engine.dispose()

    # --- the thread ---

    def _work(self) -> None:
        wait_s = self._tick_s
        while not self._closing.wait(wait_s):
            try:
                with self._lock:
                    due = bool(self._batch)
                if due or (self._held and time.monotonic() - self._written > BEAT_S):
                    self.flush()
                for study_id in list(self._views):
                    self._refresh(study_id)
                wait_s = self._tick_s
            except StorageUnreachable:
                wait_s = min(2 * wait_s, PATIENCE_S)
            except Exception as error:  # raised in the loop's thread, by what it calls next
                self._failure = error
                break
        self._backend.remove_session()

    def _start(self) -> None:
        if self._thread is None and not self._closing.is_set():
            self._thread = threading.Thread(target=self._work, name="storage", daemon=True)
            self._thread.start()

    def _flush_patiently(self, limit_s: float) -> None:
        end, wait_s = time.monotonic() + limit_s, self._tick_s
        while self._batch or self._told:
            try:
                self.flush()
            except StorageUnreachable:
                if time.monotonic() > end:
                    raise
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, PATIENCE_S)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Tell a database that does not answer from one that answers no."""
        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as error:
            if not is_passing(error, self._backend.engine.dialect.name):
                raise
            self._reachable_since = None
            raise StorageUnreachable(str(getattr(error, "orig", None) or error)) from error
        if self._reachable_since is None:
            self._reachable_since = time.monotonic()

    # --- the view ---

    def _view(self, study_id: int) -> _View:
        with self._lock:
            return self._views.setdefault(study_id, _View())

    def _refresh(self, study_id: int, force: bool = False) -> None:
        """Read other workers' trials, if it is time."""
        view = self._view(study_id)
        started = time.monotonic()
        if not force and started - view.read < view.pause_s:
            return
        with self._reaching():
            trials = self._reader.get_all_trials(study_id, deepcopy=False)
        with self._lock:
            for trial in trials:
                if view.trials.get(trial.number) is not trial:
                    self._place(study_id, trial)
            if list(view.trials) != sorted(view.trials):
                view.trials = dict(sorted(view.trials.items()))
                view.finished.clear()
            view.read = time.monotonic()
            view.pause_s = max(REFRESH_S, (view.read - started) / REFRESH_SHARE)

    def _place(self, study_id: int, trial: FrozenTrial) -> None:
        """Take a trial from the database into the view, unless this worker knows better."""
        trial_id = trial._trial_id
        view = self._view(study_id)
        self._where[trial_id] = (study_id, trial.number)
        if trial_id in self._held or trial_id in self._batch.trials:
            return
        before = view.trials.get(trial.number)
        older = before is not None and before.state.is_finished() and not trial.state.is_finished()
        if older and trial_id not in self._lost:
            return  # read before what this worker told was written
        view.put(trial)

    def _known(self, trial_id: int) -> FrozenTrial:
        """Return a trial as the view has it; one that is not there is read."""
        with self._lock:
            place = self._where.get(trial_id)
            if place is not None:
                return self._views[place[0]].trials[place[1]]
        trial = self._read(trial_id)
        for study in self._backend.get_all_studies():  # rare: by a trial's bare id
            self._refresh(study._study_id, force=True)
            if trial_id in self._where:
                break
        return trial

    def _read(self, trial_id: int) -> FrozenTrial:
        with self._reaching():
            return self._backend.get_trial(trial_id)

    def _change(self, trial_id: int) -> Changes:
        """Return what is to be written of a trial that may still change."""
        if self._failure is not None:
            raise self._failure
        trial = self._known(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        if trial_id in self._lost:
            return Changes()  # another worker's by now: what this one says goes nowhere
        self._start()
        with self._lock:
            return self._batch.trials.setdefault(trial_id, Changes())

    def _replace(self, trial_id: int, **changed: Any) -> None:
        """Put a changed copy into the view, so that no reader sees a trial change."""
        study_id, number = self._where[trial_id]
        trial = copy.copy(self._views[study_id].trials[number])
        for name, value in changed.items():
            setattr(trial, name, value)
        self._views[study_id].put(trial)

    # --- trials ---

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if self._failure is not None:
            raise self._failure
        if template_trial is not None:
            with self._reaching():
                trial_id = self._backend.create_new_trial(study_id, template_trial)
            self._view(study_id).read = -1e9  # before the next look, not once for every trial
            return trial_id
        view = self._view(study_id)
        with self._reaching():
            made = self._ledger.create(study_id, view.total)
        if made is None:
            raise BudgetSpent(f"the study has its {view.total} trials")
        trial_id, number, started = made
        trial = FrozenTrial(
            number=number, trial_id=trial_id, state=TrialState.RUNNING, value=None,
            datetime_start=started, datetime_complete=None, params={}, distributions={},
            user_attrs={}, system_attrs={}, intermediate_values={},
        )  # fmt: skip
        with self._lock:
            self._where[trial_id] = (study_id, number)
            view.put(trial)
            self._held.add(trial_id)
        self._start()
        return trial_id

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        trial = self._known(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        if state == TrialState.RUNNING:
            return trial.state == TrialState.WAITING and self._take(trial_id)
        if trial_id in self._lost:
            return False
        with self._lock:
            changes = self._change(trial_id)
            changes.state, changes.values = state, values
            changed: dict[str, Any] = {"state": state}
            if values is not None:
                changed["values"] = list(values)
            if state.is_finished():
                changes.completed = datetime.now(UTC)
                changed["datetime_complete"] = changes.completed.astimezone().replace(tzinfo=None)
            self._replace(trial_id, **changed)
            held = trial_id in self._held
            if held:
                self._held.remove(trial_id)
                self._told.add(trial_id)
        if not held or state == TrialState.WAITING:  # others may be waiting for it
            self.flush()
        return True

    def _take(self, trial_id: int) -> bool:
        """Make a waiting trial a running one of this worker's."""
        study_id, _ = self._where[trial_id]
        self.flush()  # what this process said of it while it waited
        with self._reaching():
            if not self._ledger.take(study_id, trial_id, self._view(study_id).total):
                return False
        trial = self._read(trial_id)
        with self._lock:
            self._views[study_id].put(trial)
            self._held.add(trial_id)
            self._lost.discard(trial_id)
        self._start()
        return True

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        with self._lock:
            changes = self._change(trial_id)
            trial = self._known(trial_id)
            known = self._views[self._where[trial_id][0]].distributions
            if param_name not in known:
                known |= self._distributions(trial_id)
            if param_name in known:
                check_distribution_compatibility(known[param_name], distribution)
            known.setdefault(param_name, distribution)
            changes.params[param_name] = (param_value_internal, distribution)
            value = distribution.to_external_repr(param_value_internal)
            self._replace(
                trial_id,
                params=trial.params | {param_name: value},
                distributions=trial.distributions | {param_name: distribution},
            )

    def _distributions(self, trial_id: int) -> dict[str, BaseDistribution]:
        """Return each parameter's distribution in the study so far."""
        found: dict[str, BaseDistribution] = {}
        for trial in self._views[self._where[trial_id][0]].trials.values():
            found = trial.distributions | found
        return found

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        with self._lock:
            self._change(trial_id).reports[step] = intermediate_value
            values = self._known(trial_id).intermediate_values | {step: intermediate_value}
            self._replace(trial_id, intermediate_values=values)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        text = json.dumps(value)
        with self._lock:
            self._change(trial_id).user_attrs[key] = text
            self._replace(trial_id, user_attrs=self._known(trial_id).user_attrs | {key: value})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        text = json.dumps(value)
        with self._lock:
            self._change(trial_id).system_attrs[key] = text
            self._replace(trial_id, system_attrs=self._known(trial_id).system_attrs | {key: value})

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            trial = self._known(trial_id)
            mine = trial_id in self._held or trial_id in self._batch.trials
        if not mine and not trial.state.is_finished():
            trial = self._read(trial_id)
            with self._lock:
                self._place(self._where[trial_id][0], trial)
        return copy.copy(trial)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        view = self._view(study_id)
        if view.read < 0:
            self._refresh(study_id, force=True)
        elif self._thread is None:  # no one reads on a timer
            self._refresh(study_id)
        with self._lock:
            trials = list(view.trials.values()) if states is None else view.in_states(states)
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        trial = self._view(study_id).trials.get(trial_number)
        if trial is not None:
            return trial._trial_id
        return self._backend.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    # --- studies ---

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        with self._reaching():
            return self._backend.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self.flush()
        self._refresh(study_id, force=True)
        with self._lock:
            gone = {trial._trial_id for trial in self._view(study_id).trials.values()}
        with self._reaching():
            self._ledger.delete_leases(gone)
            self._reader.delete_study(study_id)
        with self._lock:
            self._views.pop(study_id)
            self._held -= gone
            for trial_id in gone:
                self._where.pop(trial_id, None)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attr("user", study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attr("system", study_id, key, value)

    def _set_study_attr(self, kind: str, study_id: int, key: str, value: Any) -> None:
        text = json.dumps(value)
        self.get_study_directions(study_id)  # KeyError where there is no such study
        with self._lock:
            self._batch.study_attrs[kind, study_id, key] = text
        self._start()

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._with_own("user", study_id, self._backend.get_study_user_attrs)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._with_own("system", study_id, self._backend.get_study_system_attrs)

    def _with_own(
        self, kind: str, study_id: int, read: Callable[[int], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return what the database has, and over it what is not written yet."""
        with self._writing, self._lock:  # not in between the two
            own = {
                key: json.loads(text)
                for (of, study, key), text in self._batch.study_attrs.items()
                if (of, study) == (kind, study_id)
            }
        with self._reaching():
            return read(study_id) | own

    def get_study_id_from_name(self, study_name: str) -> int:
        with self._reaching():
            return self._backend.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        with self._reaching():
            return self._reader.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        view = self._view(study_id)
        if view.directions is None:
            try:
                with self._reaching():
                    view.directions = self._backend.get_study_directions(study_id)
            except KeyError:
                self._views.pop(study_id, None)
                raise
        return view.directions

    def get_all_studies(self) -> list[FrozenStudy]:
        self.flush()
        with self._reaching():
            return self._backend.get_all_studies()

    def remove_session(self) -> None:
        self._backend.remove_session()

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        return {
            "backend": self._backend, "owner": self._owner, "is_alive": self._is_alive,
            "tick_s": self._tick_s, "lease_s": self._lease_s, "max_deaths": self._max_deaths,
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def is_passing(error: Exception, dialect: str) -> bool:
    """Return whether an error of the database may be over after a while.

    A server that restarts is; a full disk, a missing right or a broken statement is not.
    """
    cause = error
    while not isinstance(cause, SQLAlchemyError) and cause.__cause__ is not None:
        cause = cause.__cause__  # type: ignore[assignment]
    if isinstance(cause, PoolTimeout):
        return True
    if not isinstance(cause, DBAPIError):
        return False
    if dialect == "sqlite":
        return "locked" in str(cause.orig) or "busy" in str(cause.orig)
    if cause.connection_invalidated:
        return True
    state = getattr(cause.orig, "sqlstate", None)
    if state is None:  # no word from the server: it is not there
        return isinstance(cause, (OperationalError, InterfaceError))
    # connection, transaction rollback (deadlock), shutdown, too many connections, lock timeout
    return state[:2] in ("08", "40", "57") or state in ("53300", "55P03")
