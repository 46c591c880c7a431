"""What a worker needs of a storage beyond Optuna's API, whatever storage it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from golf_opt.storage.ledger import Lease
from golf_opt.storage.optuna_internals import id_of_trial, storage_of
from golf_opt.storage.workers import ManyWorkers
from golf_opt.storage.write_behind import LEASE_S, WriteBehindStorage
from golf_opt.utils.processes import is_alive

RUNNING = (TrialState.RUNNING,)
WORKER = "worker"  # the user attribute with the name of the worker that ran a trial last


class SingleWorker:
    """The one worker on a storage of Optuna's own, which writes at once: as `ManyWorkers`."""

    shared: Literal[False] = False
    reachable = True

    def __init__(self, storage: BaseStorage) -> None:
        self.reader = storage

    def set_total(self, study_id: int, total: int) -> None:
        """Nobody else asks for trials."""

    def lost_trials(self) -> set[int]:
        return set()

    def leases(self, study_id: int) -> list[Lease]:
        """Return the running trials; nobody knows who runs them."""
        running = self.reader.get_all_trials(study_id, deepcopy=False, states=RUNNING)
        return [Lease(id_of_trial(trial), trial.number, None, None) for trial in running]

    def requeue_dead(self, study_id: int) -> list[tuple[int, TrialState]]:
        requeued = []
        for trial in self.reader.get_all_trials(study_id, deepcopy=False, states=RUNNING):
            worker = trial.user_attrs.get(WORKER)
            if worker is not None and not is_alive(worker):
                self.reader.set_trial_state_values(id_of_trial(trial), TrialState.WAITING)
                requeued.append((trial.number, TrialState.WAITING))
        return requeued

    def flush(self) -> None:
        pass

    def settle(self, stopped: Callable[[], bool]) -> None:
        pass

    def close(self) -> None:
        pass


def coordination(storage: BaseStorage) -> SingleWorker | ManyWorkers:
    """Return what a worker needs of a storage beyond Optuna's API."""
    return storage.workers if isinstance(storage, WriteBehindStorage) else SingleWorker(storage)


def is_held(lease: Lease) -> bool:
    """Return whether a worker is at the trial, as far as can be told from here."""
    return lease.owner is not None and is_alive(lease.owner) and (lease.age_s or 0.0) <= LEASE_S


def flush(study: optuna.Study) -> None:
    """Write what waits to be written."""
    coordination(storage_of(study)).flush()


def requeue(study: optuna.Study, trial_id: int) -> None:
    """Return a running trial to the queue, as it is; the next ask takes it up again."""
    storage_of(study).set_trial_state_values(trial_id, TrialState.WAITING)
