"""A storage that writes behind: Optuna's whole API, without a transaction for every call.

What a worker says of its own trials goes into a cache in memory at once, and into the database by a
thread of its own, in one transaction twice a second. Samplers and pruners read the cache. Trials of
other workers are read on a timer. Only asking for a trial waits for the database, because trials
are numbered there and the total of a study is kept there.

A database that cannot be reached loses nothing: what was to be written waits, and is written when
it answers again.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Container, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Table

from golf_opt.storage import tables
from golf_opt.storage.cache import NEVER, TrialCache
from golf_opt.storage.ledger import Ledger, local_time
from golf_opt.storage.optuna_internals import FrozenStudy, id_of_study, models
from golf_opt.storage.synchronizer import Synchronizer
from golf_opt.storage.tables import Changes
from golf_opt.storage.workers import ManyWorkers
from golf_opt.utils.points import begins_a_seed


class BudgetSpent(Exception):
    """The study has all the trials that it is to have."""


class WriteBehindStorage(BaseStorage):
    """A worker's storage in front of an `RDBStorage` on SQLite or PostgreSQL.

    Args:
        backend: Optuna's own; everything rare goes through it.
        owner: names this worker in the database; another run of it has another name.
    """

    def __init__(self, backend: RDBStorage, owner: str) -> None:
        self._backend = backend
        self._directions: dict[int, list[StudyDirection]] = {}  # by study
        self._ledger = Ledger(backend.engine, owner)
        self._cache = TrialCache()
        self._sync = Synchronizer(self._cache, self._ledger, backend)
        self._reach = self._sync.reach
        self.workers = ManyWorkers(self._cache, self._sync, self._ledger)

    def __reduce__(self) -> tuple[Any, ...]:
        self._sync.flush()
        return WriteBehindStorage, (self._backend, self._ledger.owner)

    def remove_session(self) -> None:
        self._backend.remove_session()

    # --- trials ---

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._sync.check()
        study = self._cache.study(study_id)
        if template_trial is not None and not begins_a_seed(template_trial):
            trial_id = self._reach(self._backend.create_new_trial, study_id, template_trial)
            study.read_at = NEVER  # before the next look, not once for every trial
            return trial_id
        return self._create(study_id, 1, template_trial)[0]

    def create_new_trials(self, study_id: int, count: int) -> list[int]:
        """Make running trials in one transaction; return their ids, fewer at the study's total.

        Raises:
            BudgetSpent: none is left.
        """
        self._sync.check()
        return self._create(study_id, count, None)

    def _create(self, study_id: int, count: int, like: FrozenTrial | None) -> list[int]:
        total = self._cache.study(study_id).total
        made = self._reach(self._ledger.create, study_id, total, like, count)
        if not made:
            raise BudgetSpent(f"the study has its {total} trials, or this seed already")
        for row in made:
            self._cache.hold(study_id, _begun(*row, like))
        self._sync.start()
        return [trial_id for trial_id, *_ in made]

    def _take(self, trial_id: int) -> bool:
        """Make a waiting trial a running one of this worker's."""
        study_id = self._cache.study_of(trial_id)
        self._sync.flush()  # what this process said of it while it waited
        total = self._cache.study(study_id).total
        changing = self._cache.changing(study_id)
        if not self._reach(self._ledger.take, study_id, trial_id, total, changing):
            return False
        self._cache.hold(study_id, self._reach(self._backend.get_trial, trial_id))
        self._sync.start()
        return True

    @contextlib.contextmanager
    def _changing(self, trial_id: int) -> Iterator[tuple[FrozenTrial, Changes]]:
        """Hold the lock over a trial that may still change, and over what is to be written of it.

        Raises:
            KeyError: there is no such trial.
            UpdateFinishedTrialError: it is finished.
        """
        self._sync.check()
        self._known(trial_id)  # is in the cache from here on: nothing is read under the lock
        with self._cache.lock:
            trial = self._known(trial_id)
            self.check_trial_is_updatable(trial_id, trial.state)
            self._sync.start()
            yield trial, self._cache.changes(trial_id)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if state == TrialState.RUNNING:
            trial = self._known(trial_id)
            self.check_trial_is_updatable(trial_id, trial.state)
            return trial.state == TrialState.WAITING and self._take(trial_id)
        with self._changing(trial_id) as (_, changes):
            if trial_id in self._cache.lost:
                return False
            changes.state = state
            changed: dict[str, Any] = {"state": state}
            if values is not None:
                changed["values"] = list(values)
            for objective, number in enumerate(values or ()):
                value, kind = models.TrialValueModel.value_to_stored_repr(number)
                changes.put(tables.OBJECTIVES, objective=objective, value=value, value_type=kind)
            if state.is_finished():
                changes.completed = datetime.now(UTC)
                changed["datetime_complete"] = local_time(changes.completed)
            self._cache.replace(trial_id, **changed)
            held = trial_id in self._cache.held
            self._cache.held.discard(trial_id)
            changes.held |= held
        if not held or state == TrialState.WAITING:  # others may be waiting for it
            self._sync.flush()
        return True

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        with self._changing(trial_id) as (trial, changes):
            study = self._cache.study(self._cache.study_of(trial_id))
            if (known := study.distribution(param_name)) is not None:
                optuna.distributions.check_distribution_compatibility(known, distribution)
            study.distributions.setdefault(param_name, distribution)
            changes.put(
                tables.PARAMS,
                param_name=param_name,
                param_value=param_value_internal,
                distribution_json=distribution_to_json(distribution),
            )
            value = distribution.to_external_repr(param_value_internal)
            self._cache.replace(
                trial_id,
                params=trial.params | {param_name: value},
                distributions=trial.distributions | {param_name: distribution},
            )

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        to_stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
        with self._changing(trial_id) as (trial, changes):
            value, kind = to_stored(intermediate_value)
            changes.put(
                tables.REPORTS, step=step, intermediate_value=value, intermediate_value_type=kind
            )
            values = trial.intermediate_values | {step: intermediate_value}
            self._cache.replace(trial_id, intermediate_values=values)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        text = json.dumps(value)
        with self._changing(trial_id) as (trial, changes):
            changes.put(tables.USER_ATTRS, key=key, value_json=text)
            self._cache.replace(trial_id, user_attrs=trial.user_attrs | {key: value})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        text = json.dumps(value)
        with self._changing(trial_id) as (trial, changes):
            changes.put(tables.SYSTEM_ATTRS, key=key, value_json=text)
            self._cache.replace(trial_id, system_attrs=trial.system_attrs | {key: value})

    def _known(self, trial_id: int) -> FrozenTrial:
        """Return a trial as the cache has it; one that is not there is read."""
        trial = self._cache.find(trial_id)
        if trial is None:
            trial = self._reach(self._backend.get_trial, trial_id)
            for study in self._backend.get_all_studies():  # rare: by a trial's bare id
                self._sync.refresh(id_of_study(study), force=True)
                if self._cache.find(trial_id) is not None:
                    break
        return trial

    def get_trial(self, trial_id: int) -> FrozenTrial:
        trial = self._known(trial_id)
        if not trial.state.is_finished() and not self._cache.knows_better(trial_id):
            trial = self._reach(self._backend.get_trial, trial_id)
            self._cache.place(self._cache.study_of(trial_id), trial)
        return copy.copy(trial)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        study = self._cache.study(study_id)
        if study.read_at == NEVER or not self._sync.running:  # else its thread reads
            self._sync.refresh(study_id)
        with self._cache.lock:
            trials = study.known() if states is None else study.in_states(states)
        return copy.deepcopy(trials) if deepcopy else trials

    def ended(self, study_id: int) -> list[FrozenTrial]:
        """Return the trials that are finished, in the order in which they became known as such.

        It is always the same list, and only grows, unless one of them runs again.
        """
        return self._cache.study(study_id).ended

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        find = self._backend.get_trial_id_from_study_id_trial_number
        return self._reach(find, study_id, trial_number)

    # --- studies ---

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        return self._reach(self._backend.create_new_study, directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self._sync.flush()
        self._sync.refresh(study_id, force=True)
        self._reach(self._ledger.delete_leases, study_id, self._cache.trial_ids(study_id))
        self._reach(self._sync.reader.delete_study, study_id)
        self._cache.forget_study(study_id)
        self._directions.pop(study_id, None)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attr(tables.STUDY_USER_ATTRS, study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attr(tables.STUDY_SYSTEM_ATTRS, study_id, key, value)

    def _set_study_attr(self, table: Table, study_id: int, key: str, value: Any) -> None:
        row = {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
        self.get_study_directions(study_id)  # KeyError where there is no such study
        with self._cache.lock:
            self._cache.batch.study_attrs[table, study_id, key] = row
        self._sync.start()

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        unwritten = self._sync.unwritten_attrs(tables.STUDY_USER_ATTRS, study_id)
        return self._reach(self._backend.get_study_user_attrs, study_id) | unwritten

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        unwritten = self._sync.unwritten_attrs(tables.STUDY_SYSTEM_ATTRS, study_id)
        return self._reach(self._backend.get_study_system_attrs, study_id) | unwritten

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._reach(self._backend.get_study_id_from_name, study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._reach(self._sync.reader.get_study_name_from_id, study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        if study_id not in self._directions:
            found = self._reach(self._backend.get_study_directions, study_id)
            self._directions[study_id] = found
        return self._directions[study_id]

    def get_all_studies(self) -> list[FrozenStudy]:
        self._sync.flush()
        return self._reach(self._backend.get_all_studies)


def _begun(trial_id: int, number: int, started: datetime, like: FrozenTrial | None) -> FrozenTrial:
    """Return a running trial that has nothing yet but the attributes of another one."""
    return FrozenTrial(
        number=number, trial_id=trial_id, state=TrialState.RUNNING, value=None,
        datetime_start=started, datetime_complete=None, params={}, distributions={},
        user_attrs=dict(like.user_attrs) if like else {},
        system_attrs=dict(like.system_attrs) if like else {},
        intermediate_values={},
    )  # fmt: skip
