"""What the workers on one database do about each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from optuna.trial import TrialState

from golf_opt.storage.cache import TrialCache
from golf_opt.storage.ledger import Lease, Ledger
from golf_opt.storage.synchronizer import Synchronizer


class ManyWorkers:
    """One of the workers that share a database, and how it gets on with the others.

    A worker of this host is dead when its process is gone; one of another host when it gave no
    sign of life for `lease_s`. After an outage everyone first gets half of that time.

    Args:
        is_alive: tells whether the worker of a name may be alive; those of other hosts may.
        lease_s: seconds without a sign of life after which a worker's trials are requeued.
        max_deaths: workers that may die in a trial, one after the other, before it fails.
    """

    shared: Literal[True] = True

    def __init__(
        self,
        cache: TrialCache,
        sync: Synchronizer,
        ledger: Ledger,
        is_alive: Callable[[str], bool],
        lease_s: float,
        max_deaths: int,
    ) -> None:
        self._cache, self._sync, self.ledger = cache, sync, ledger
        self._is_alive, self._lease_s, self._max_deaths = is_alive, lease_s, max_deaths
        self._unleased: dict[int, float] = {}  # running trials without a lease: when first seen
        self.reader = sync.reader
        self.flush, self.settle, self.close = sync.flush, sync.settle, sync.close

    @property
    def reachable(self) -> bool:
        """Whether the database answered last time."""
        return self._sync.reachable_since is not None

    def set_total(self, study_id: int, total: int) -> None:
        """Let the study have at most `total` trials, whoever asks."""
        self._cache.study(study_id).total = total

    def lost_trials(self) -> set[int]:
        """Return the ids of trials that other workers took over since the last call."""
        return self._cache.newly_lost()

    def leases(self, study_id: int) -> list[Lease]:
        """Return the running trials of a study that this worker does not hold."""
        return self._sync.reach(self.ledger.others, study_id)

    def save_checkpoint(
        self, trial_id: int, study: str, number: int, data: Callable[[], bytes]
    ) -> None:
        """Keep a running trial's checkpoint; `data` is called once, when it is written."""
        self._sync.check()
        with self._cache.lock:
            self._cache.changes(trial_id).checkpoint = (study, number, data)
        self._sync.start()

    def delete_checkpoint(self, study: str, number: int) -> None:
        """Delete a trial's checkpoint with the next write."""
        with self._cache.lock:
            self._cache.batch.stale_checkpoints.add((study, number))
        self._sync.start()

    def requeue_dead(self, study_id: int) -> list[tuple[int, TrialState]]:
        """Requeue a study's trials of dead workers; return their numbers and their new states."""
        leases = self.leases(study_id)
        now, since = time.monotonic(), self._sync.reachable_since
        patient = since is not None and now - since >= self._lease_s / 2
        self._unleased = {
            lease.trial_id: self._unleased.get(lease.trial_id, now)
            for lease in leases
            if lease.owner is None
        }
        requeued = []
        for lease in leases:
            gone = lease.owner is not None and not self._is_alive(lease.owner)
            if gone or (patient and self._silent_s(lease, now) > self._lease_s):
                silent_s = 0.0 if gone else self._lease_s
                state = self._sync.reach(self.ledger.requeue, lease, self._max_deaths, silent_s)
                if state is not None:
                    requeued.append((lease.number, state))
        if requeued:
            self._sync.refresh(study_id, force=True)
        return requeued

    def _silent_s(self, lease: Lease, now: float) -> float:
        if lease.owner is None:
            return now - self._unleased[lease.trial_id]
        return lease.age_s or 0.0
