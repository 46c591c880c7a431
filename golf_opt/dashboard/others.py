"""The best of every study, as the figure that compares them all has it: a second old at most."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import TrialState

from golf_opt.storage.optuna_internals import FrozenStudy, id_of_study
from golf_opt.storage.studies import STUDY_ID
from golf_opt.storage.workers import coordination
from golf_opt.study.description import readable
from golf_opt.visualization.size_and_accuracy import KnownNet, kept_records
from golf_opt.visualization.snapshot import StudySnapshot

EVERY_S = 1.0


class BestOfAll:
    """Every study of ours with its best trial alone, and the records that are kept.

    Which studies have a trial more is asked in one statement, and only those are read again.

    Args:
        storage: what the pages read.
        keeper: the same as `storage.open_storage` returned it.
        records: the folder of them.
    """

    def __init__(self, storage: BaseStorage, keeper: BaseStorage, records: Path) -> None:
        self._storage, self._workers, self._folder = storage, coordination(keeper), records
        self._lock = threading.Lock()
        self._read_at = -math.inf
        self._best: dict[int, tuple[Any, StudySnapshot | None]] = {}  # by study: what it is of
        self._records: list[KnownNet] = []
        self.version = 0  # another one whenever something has changed

    def but(self, study_id: int) -> tuple[Sequence[StudySnapshot], Sequence[KnownNet]]:
        """Return the studies but one, and the records."""
        with self._lock:
            best = [snapshot for number, (_, snapshot) in self._best.items() if number != study_id]
            return [snapshot for snapshot in best if snapshot is not None], self._records

    def refresh(self) -> int:
        """Read what has changed, if the last time is a while ago; return the version."""
        with self._lock:
            if time.monotonic() - self._read_at > EVERY_S:
                before = self._best, self._records
                counts = self._num_finished()
                studies = self._storage.get_all_studies()
                self._best = {id_of_study(s): self._look(s, counts) for s in studies}
                self._records = kept_records(self._folder)
                self.version += (self._best, self._records) != before
                self._read_at = time.monotonic()
            return self.version

    def _num_finished(self) -> dict[int, int] | None:
        return self._workers.ledger.num_finished() if self._workers.shared else None

    def _look(
        self, study: FrozenStudy, counts: dict[int, int] | None
    ) -> tuple[Any, StudySnapshot | None]:
        """Return a study's best, read again if it is another study or has a trial more."""
        study_id = id_of_study(study)
        own_id, name = study.system_attrs.get(STUDY_ID), study.study_name
        count = None if counts is None else counts.get(study_id, 0)
        kept = self._best.get(study_id)
        if kept is not None and count is not None and kept[0] == (own_id, name, count):
            return kept
        return (own_id, name, count), self._snapshot(study)

    def _snapshot(self, study: FrozenStudy) -> StudySnapshot | None:
        """Return a study with its best trial; None where it has none, or cannot be read."""
        try:
            plan = readable(study.study_name, study.system_attrs)
            if plan is None:
                return None
            complete = self._storage.get_all_trials(
                id_of_study(study), deepcopy=False, states=(TrialState.COMPLETE,)
            )
            best = plan.snapshot(study.study_name, complete).best
            return plan.snapshot(study.study_name, [best]) if best else None
        except Exception:  # one bad study does not cost the others
            return None
