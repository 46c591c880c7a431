"""What a worker needs of a storage beyond Optuna's API: what it does about other workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from golf_opt.storage.cache import TrialCache
from golf_opt.storage.failures import StorageUnreachable
from golf_opt.storage.ledger import Lease, Ledger
from golf_opt.storage.optuna_internals import id_of_trial, storage_of
from golf_opt.storage.reservations import time_of
from golf_opt.storage.synchronizer import BEAT_S, Synchronizer
from golf_opt.utils.processes import WORKER, is_alive
from golf_opt.utils.trials import PAUSED

LEASE_S = 60.0  # without a sign of life, a worker on another host counts as dead
MAX_DEATHS = 5  # of workers in a row, in one trial, before it fails
RUNNING = (TrialState.RUNNING,)
MANY = 16  # running trials of others; of more, only those of silent workers are looked at
SILENT_S = 1.5 * BEAT_S
LOOK_S = 0.5 * BEAT_S  # between two looks of a worker at those, at least
LOOKS_A_SECOND = 5  # by all workers of a study together


class ManyWorkers:
    """One of the workers that share a database, and how it gets on with the others.

    A worker of this host is dead when its process is gone; one of another host when it gave no
    sign of life for `lease_s`. After an outage everyone first gets half of that time. Where many
    run, all of them are looked at once, and from then on those that gave none for a while.
    """

    shared: Literal[True] = True

    def __init__(self, cache: TrialCache, sync: Synchronizer, ledger: Ledger) -> None:
        self._cache, self._sync, self.ledger = cache, sync, ledger
        self.is_alive, self.lease_s, self.max_deaths = is_alive, LEASE_S, MAX_DEATHS
        self._looked_at: dict[int, float] = {}  # when, by study
        self._unleased: dict[int, float] = {}  # running trials without a lease: when first seen
        self.reader = sync.reader
        self.flush, self.close = sync.flush, sync.close

    @property
    def reachable(self) -> bool:
        """Whether the database answered last time."""
        return self._sync.reachable_since is not None

    def set_plan(
        self, study_id: int, total: int | None, space: Mapping[str, BaseDistribution] | None = None
    ) -> None:
        """Let the study have at most `total` trials, whoever asks, and no other space."""
        with self._cache.lock:
            study = self._cache.study(study_id)
            study.total, study.space = total, space
            for trial in list(study.trials.values()):
                study.put(study.fitting(trial))

    def refresh(self, study_id: int) -> None:
        """Read what other workers did up to now; where nothing answers, keep what is known."""
        with contextlib.suppress(StorageUnreachable):
            self._sync.refresh(study_id, force=True)

    def lost_trials(self) -> set[int]:
        """Return ids of trials that others took over: this worker was silent for too long."""
        with self._cache.lock:
            return set(self._cache.lost)

    def leases(self, study_id: int, silent_s: float = 0.0) -> list[Lease]:
        """Return the running trials of a study that this worker does not hold.

        Args:
            study_id: of the study.
            silent_s: of workers that gave no sign of life for so long.
        """
        changing = self._cache.changing(study_id)
        return self._sync.reach(self.ledger.others, study_id, changing, silent_s)

    def now(self) -> float:
        """Return the time that all workers agree on, in seconds since 1970."""
        return self._sync.reach(time_of, self.ledger.engine)

    def epochs_spent(self, study_id: int) -> int:
        """Return the epochs that a study's trials took, or are reserved for those that run."""
        return self._sync.reach(self.ledger.epochs_spent, study_id, self._cache.changing(study_id))

    def reserve(self, study_id: int, trial_id: int, done: int, until: int, limit: int) -> int:
        """Reserve epochs for a trial of this worker's; see `reservations.granted`."""
        reserve, changing = self.ledger.reserve, self._cache.changing(study_id)
        return self._sync.reach(reserve, study_id, changing, trial_id, done, until, limit)

    def save_checkpoint(
        self, trial_id: int, study: str, number: int, data: Callable[[], bytes]
    ) -> None:
        """Keep a running trial's checkpoint; `data` is called once, when it is written."""
        self._sync.check()
        with self._cache.lock:
            self._cache.changes(trial_id).checkpoint = (study, number, cache(data))
        self._sync.start()

    def delete_checkpoint(self, study: str, number: int) -> None:
        """Delete a trial's checkpoint with the next write."""
        with self._cache.lock:
            self._cache.batch.stale_checkpoints.add((study, number))
        self._sync.start()

    def requeue_dead(self, study_id: int) -> list[tuple[int, TrialState]]:
        """Requeue a study's trials of dead workers; return their numbers and their new states."""
        now, since = time.monotonic(), self._sync.reachable_since
        running = len(self._cache.changing(study_id, elsewhere=True).ids)
        again = running > MANY and study_id in self._looked_at
        looking = self._cache.study(study_id).workers
        pause_s = max(LOOK_S, min(looking / LOOKS_A_SECOND, LEASE_S / 2))
        if again and now - self._looked_at[study_id] < pause_s:
            return []
        leases = self.leases(study_id, SILENT_S if again else 0.0)
        self._looked_at[study_id] = now
        patient = since is not None and now - since >= self.lease_s / 2
        self._unleased = {
            lease.trial_id: self._unleased.get(lease.trial_id, now)
            for lease in leases
            if lease.owner is None
        }
        requeued = []
        for lease in leases:
            gone = lease.owner is not None and not self.is_alive(lease.owner)
            if gone or (patient and self._silent_s(lease, now) > self.lease_s):
                silent_s = 0.0 if gone else self.lease_s
                state = self._sync.reach(self.ledger.requeue, lease, self.max_deaths, silent_s)
                if state is not None:
                    requeued.append((lease.number, state))
        if requeued:
            self._sync.refresh(study_id, force=True)
        return requeued

    def _silent_s(self, lease: Lease, now: float) -> float:
        if lease.owner is None:
            return now - self._unleased[lease.trial_id]
        return lease.age_s or 0.0


class SingleWorker:
    """The one worker on a storage of Optuna's own, which writes at once: as `ManyWorkers`."""

    shared: Literal[False] = False
    reachable = True

    def __init__(self, storage: BaseStorage) -> None:
        self.reader = storage
        self._until: dict[int, int] = {}  # by trial: the epoch that it may reach

    def set_plan(
        self, study_id: int, total: int | None, space: Mapping[str, BaseDistribution] | None = None
    ) -> None:
        """Nobody else asks for trials."""

    def refresh(self, study_id: int) -> None:
        pass

    def lost_trials(self) -> set[int]:
        return set()

    def leases(self, study_id: int) -> list[Lease]:
        """Return the running trials; nobody knows who runs them."""
        running = self.reader.get_all_trials(study_id, deepcopy=False, states=RUNNING)
        return [Lease(id_of_trial(trial), trial.number, None, None) for trial in running]

    def now(self) -> float:
        return time.time()

    def epochs_spent(self, study_id: int, but: int | None = None) -> int:
        trials = self.reader.get_all_trials(study_id, deepcopy=False)
        return sum(self._epochs(trial) for trial in trials if id_of_trial(trial) != but)

    def _epochs(self, trial: FrozenTrial) -> int:
        running = trial.state == TrialState.RUNNING
        reserved = self._until.get(id_of_trial(trial), 0) if running else 0
        return max(reserved, *trial.intermediate_values, 0, 0)

    def reserve(self, study_id: int, trial_id: int, done: int, until: int, limit: int) -> int:
        left = limit - self.epochs_spent(study_id, but=trial_id) - done
        self._until[trial_id] = min(until, done + max(0, left))
        return self._until[trial_id]

    def requeue_dead(self, study_id: int) -> list[tuple[int, TrialState]]:
        requeued = []
        for trial in self.reader.get_all_trials(study_id, deepcopy=False, states=RUNNING):
            worker = trial.user_attrs.get(WORKER)
            if worker is not None and not is_alive(worker):
                self.reader.set_trial_state_values(id_of_trial(trial), TrialState.WAITING)
                requeued.append((trial.number, TrialState.WAITING))
        return requeued

    def flush(self, stopped: Callable[[], bool] = lambda: True) -> None:
        pass

    def close(self) -> None:
        pass


def coordination(storage: BaseStorage) -> SingleWorker | ManyWorkers:
    """Return what a worker needs of a storage; one that several workers share has it itself."""
    workers: SingleWorker | ManyWorkers = getattr(storage, "workers", SingleWorker(storage))
    return workers


def is_held(lease: Lease) -> bool:
    """Return whether a worker is at the trial, as far as can be told from here."""
    silent = (lease.age_s or 0.0) > LEASE_S
    return lease.owner is not None and is_alive(lease.owner) and not silent


def flush(study: optuna.Study) -> None:
    """Write what waits to be written."""
    coordination(storage_of(study)).flush()


def requeue(study: optuna.Study, trial_id: int) -> None:
    """Return a running trial to the queue, as it is; the next ask takes it up again."""
    storage_of(study).set_trial_state_values(trial_id, TrialState.WAITING)


def pause(study: optuna.Study, trial_id: int, epoch: int) -> None:
    """Let a running trial wait until it is promoted, at the end of an epoch."""
    storage_of(study).set_trial_system_attr(trial_id, PAUSED, epoch)
    requeue(study, trial_id)
