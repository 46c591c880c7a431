"""The thread that keeps a worker's cache and the database in step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Table
from sqlalchemy.exc import SQLAlchemyError

from golf_opt.storage.cache import TrialCache
from golf_opt.storage.failures import StorageUnreachable, is_passing
from golf_opt.storage.ledger import Ledger

TICK_S = 0.5  # between two writes, at least
WRITES_A_SECOND = 25  # by all workers of a study together, in one database
BEAT_S = 10.0  # between two signs of life, where nothing is written
SLOWEST_S = 0.8 * BEAT_S  # that what is to be written is gathered, however many write
PATIENCE_S = 5.0  # longest wait between two attempts to reach the database
CLOSING_S = 1.5  # for the last write, where the database does not answer
P = ParamSpec("P")
T = TypeVar("T")


class Synchronizer:
    """Writes what is new in a cache, and reads what other workers did.

    Its thread does both from the first trial on. Whoever cannot wait calls `flush` or `refresh`.
    """

    def __init__(self, cache: TrialCache, ledger: Ledger, backend: RDBStorage) -> None:
        self.reader = optuna.storages.get_storage(backend)  # reads only what is new
        self.tick_s = TICK_S
        self.reachable_since: float | None = time.monotonic()
        self._cache, self._ledger, self._backend = cache, ledger, backend
        self._writing = threading.Lock()  # one write at a time, in order
        self._written = time.monotonic()
        self._failure: Exception | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def reach(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a call of the database returns.

        Raises:
            StorageUnreachable: the database does not answer. That it answers no is another error.
        """
        try:
            answer = call(*args, **kwargs)
        except (SQLAlchemyError, StorageInternalError) as error:
            if not is_passing(error, self._backend.engine.dialect.name):
                raise
            self.reachable_since = None
            raise StorageUnreachable(str(getattr(error, "orig", None) or error)) from error
        if self.reachable_since is None:
            self.reachable_since = time.monotonic()
        return answer

    # --- writing ---

    def flush(self, stopped: Callable[[], bool] = lambda: True) -> None:
        """Write everything; where the database does not answer, try again until `stopped`.

        Raises:
            StorageUnreachable: it did not answer; nothing is lost.
            SQLAlchemyError: it answers that it cannot.
        """
        while True:
            try:
                return self._write()
            except StorageUnreachable:
                if stopped():
                    raise
                time.sleep(self.tick_s)

    def _write(self) -> None:
        with self._writing:
            batch, leased = self._cache.take_batch()
            if not batch and not leased:
                return
            try:
                lost = self.reach(self._ledger.write, batch, leased)
            except Exception:
                self._cache.return_batch(batch)
                raise
            self._written = time.monotonic()
            self._cache.lose(lost)

    def unwritten_attrs(self, table: Table, study_id: int) -> dict[str, Any]:
        """Return those attributes of a study that the database does not have yet."""
        with self._writing:  # none of them is on its way
            return self._cache.study_attrs(table, study_id)

    # --- reading ---

    def refresh(self, study_id: int, force: bool = False) -> None:
        """Read other workers' trials, if it is time."""
        study = self._cache.study(study_id)
        begun = time.monotonic()
        if force or begun - study.read_at >= study.pause_s:
            asked, read = self._cache.changing(study_id, elsewhere=True), self._backend._get_trials
            trials = self.reach(read, study_id, None, set(asked.ids), asked.last_id)
            self._cache.merge(study_id, trials, begun)

    # --- the thread ---

    @property
    def running(self) -> bool:
        return self._thread is not None

    def check(self) -> None:
        """Raise what ended the thread, if anything did: nothing is written any more."""
        if self._failure is not None:
            raise self._failure

    def start(self) -> None:
        """Start the thread where it does not run yet."""
        with self._cache.lock:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._work, name="storage", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        wait_s = self.tick_s
        while not self._closing.wait(wait_s):
            try:
                with self._cache.lock:
                    due = bool(self._cache.batch)
                silent = time.monotonic() - self._written > BEAT_S
                if due or (self._cache.held and silent):
                    self.flush()
                for study_id in list(self._cache.studies):
                    self.refresh(study_id)
                wait_s = self._pace_s()
            except StorageUnreachable:
                wait_s = min(2 * wait_s, PATIENCE_S)
            except Exception as error:  # raised in the loop's thread, by what it calls next
                self._failure = error
                break
        self._backend.remove_session()

    def _pace_s(self) -> float:
        """Return how long to gather what is to be written: the longer, the more workers write."""
        with self._cache.lock:
            workers = max((study.workers for study in self._cache.studies.values()), default=0)
        return max(self.tick_s, min(workers / WRITES_A_SECOND, SLOWEST_S))

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
            if self._cache.batch:
                end = time.monotonic() + CLOSING_S
                self.flush(lambda: time.monotonic() > end)
        finally:
            self._backend.remove_session()
            self._backend.engine.dispose()
