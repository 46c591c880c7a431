"""The SQL behind `write_behind`: Optuna's rows in bulk, and two small tables of our own.

golf_leases       which worker runs a trial, and when it last said so
golf_checkpoints  where a trial stands, for nets small enough

Times are the database's own, so that the clocks of the workers do not matter. Every change of a
trial is made in one transaction with the check that this worker still holds it: what a worker
reports after it was declared dead finds no lease and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import (
    Column,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    and_,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

DIALECTS: Mapping[str, Any] = {"sqlite": sqlite, "postgresql": postgresql}
CLOCKS = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())",
}

OWN = MetaData()
LEASES = Table(
    "golf_leases",
    OWN,
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("owner", String(200), nullable=False, index=True),
    Column("beat", Float(53), nullable=False),  # seconds since 1970, by the database's clock
    Column("deaths", Integer, nullable=False),  # of workers, since the trial last made progress
)
CHECKPOINTS = Table(
    "golf_checkpoints",
    OWN,
    Column("study", String(32), primary_key=True),  # the study's own id
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

STUDIES: Any = models.StudyModel.__table__
TRIALS: Any = models.TrialModel.__table__
PARAMS: Any = models.TrialParamModel.__table__
OBJECTIVES: Any = models.TrialValueModel.__table__
REPORTS: Any = models.TrialIntermediateValueModel.__table__
USER_ATTRS: Any = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Any = models.TrialSystemAttributeModel.__table__
STUDY_USER_ATTRS: Any = models.StudyUserAttributeModel.__table__
STUDY_SYSTEM_ATTRS: Any = models.StudySystemAttributeModel.__table__

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
COUNTED = (*FINISHED, TrialState.RUNNING)


@dataclass
class Changes:
    """What is to be written of one trial. Later values replace earlier ones."""

    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    user_attrs: dict[str, str] = field(default_factory=dict)  # as JSON
    system_attrs: dict[str, str] = field(default_factory=dict)  # as JSON
    reports: dict[int, float] = field(default_factory=dict)
    checkpoint: tuple[str, int, Callable[[], bytes]] | None = None  # study, number, its bytes
    state: TrialState | None = None
    values: Sequence[float] | None = None
    completed: datetime | None = None  # with its time zone

    def under(self, later: Changes) -> Changes:
        """Return both, where `later` wins."""
        return Changes(
            self.params | later.params,
            self.user_attrs | later.user_attrs,
            self.system_attrs | later.system_attrs,
            self.reports | later.reports,
            later.checkpoint or self.checkpoint,
            later.state or self.state,
            later.values if later.state else self.values,
            later.completed or self.completed,
        )


@dataclass
class Batch:
    """What one transaction writes."""

    trials: dict[int, Changes] = field(default_factory=dict)
    study_attrs: dict[tuple[str, int, str], str] = field(default_factory=dict)  # kind, id, key
    stale_checkpoints: set[tuple[str, int]] = field(default_factory=set)  # study, number

    def __bool__(self) -> bool:
        return bool(self.trials or self.study_attrs or self.stale_checkpoints)

    def under(self, later: Batch) -> Batch:
        """Return both, where `later` wins."""
        trials = dict(self.trials)
        for trial_id, changes in later.trials.items():
            trials[trial_id] = trials.get(trial_id, Changes()).under(changes)
        stale = self.stale_checkpoints | later.stale_checkpoints
        return Batch(trials, self.study_attrs | later.study_attrs, stale)


@dataclass(frozen=True)
class Lease:
    """A running trial and the worker that has it; `owner` is None where no one ever had."""

    trial_id: int
    number: int
    owner: str | None
    age_s: float | None  # since the worker last said that it is there


class Ledger:
    """Reads and writes for one worker.

    Args:
        engine: of the database that Optuna's tables are in; SQLite or PostgreSQL.
        owner: names the worker in its leases.
    """

    def __init__(self, engine: Engine, owner: str) -> None:
        self.engine = engine
        self.owner = owner
        self._insert = DIALECTS[engine.dialect.name].insert
        self._now: Any = literal_column(CLOCKS[engine.dialect.name])
        self._has_tables = False

    def _begin(self) -> AbstractContextManager[Connection]:
        """Begin a transaction in a database that has our tables: made when first needed."""
        if not self._has_tables:
            try:
                OWN.create_all(self.engine)
            except DBAPIError as error:
                if not is_made_meanwhile(error):
                    raise
                OWN.create_all(self.engine)
            self._has_tables = True
        return self.engine.begin()

    # --- asking ---

    def create(self, study_id: int, total: int | None) -> tuple[int, int, datetime] | None:
        """Make a running trial of this worker's; return its id, number and start.

        None where the study has `total` trials already.
        """
        started = datetime.now(UTC)
        with self._begin() as connection:
            self._lock_study(connection, study_id)
            number = self._count(connection, study_id, tuple(TrialState))
            if total is not None and number >= total:
                return None
            row = {"study_id": study_id, "number": number, "state": TrialState.RUNNING}
            made = connection.execute(insert(TRIALS).values(**row, datetime_start=_stored(started)))
            (trial_id,) = made.inserted_primary_key or (0,)
            self._lease(connection, trial_id)
        return trial_id, number, _local(started)

    def take(self, study_id: int, trial_id: int, total: int | None) -> bool:
        """Make a waiting trial a running one of this worker's; False if another was faster."""
        with self._begin() as connection:
            self._lock_study(connection, study_id)
            if total is not None and self._count(connection, study_id, COUNTED) >= total:
                return False
            here = and_(TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.WAITING)
            running = {"state": TrialState.RUNNING, "datetime_start": _stored(datetime.now(UTC))}
            if connection.execute(update(TRIALS).where(here).values(running)).rowcount != 1:
                return False
            self._lease(connection, trial_id)
        return True

    def _lock_study(self, connection: Connection, study_id: int) -> None:
        """Let no other worker ask meanwhile: the first write of a transaction takes the lock."""
        same = {"study_name": STUDIES.c.study_name}
        found = connection.execute(
            update(STUDIES).where(STUDIES.c.study_id == study_id).values(same)
        )
        if found.rowcount != 1:
            raise KeyError(f"study {study_id} is not in the storage")

    def _count(self, connection: Connection, study_id: int, states: Sequence[TrialState]) -> int:
        mine = and_(TRIALS.c.study_id == study_id, TRIALS.c.state.in_(states))
        return int(connection.scalar(select(func.count()).where(mine)) or 0)

    def _lease(self, connection: Connection, trial_id: int) -> None:
        row = {"trial_id": trial_id, "owner": self.owner, "beat": self._now, "deaths": 0}
        taken = {"owner": self.owner, "beat": self._now}  # deaths stay
        statement = self._insert(LEASES).values(row)
        connection.execute(statement.on_conflict_do_update(index_elements=["trial_id"], set_=taken))

    # --- writing ---

    def write(self, batch: Batch, leased: Collection[int]) -> set[int]:
        """Write a batch and renew the leases; return the trials that others have by now.

        Args:
            batch: changes by trial; those of trials that this worker no longer holds are dropped.
            leased: the trials that this worker believes to hold.
        """
        with self._begin() as connection:
            lost = set(leased) - self._renew(connection) if leased else set()
            for (kind, study_id, key), text in batch.study_attrs.items():
                table = STUDY_USER_ATTRS if kind == "user" else STUDY_SYSTEM_ATTRS
                row = {"study_id": study_id, "key": key, "value_json": text}
                self._upsert(connection, table, ("study_id", "key"), [row])
            trials = {
                trial_id: changes
                for trial_id, changes in batch.trials.items()
                if trial_id not in lost
            }
            self._write_trials(connection, trials)
            for study, number in batch.stale_checkpoints:
                self._delete_checkpoints(connection, study, [number])
        return lost

    def _renew(self, connection: Connection) -> set[int]:
        mine = LEASES.c.owner == self.owner
        connection.execute(update(LEASES).where(mine).values(beat=self._now))
        return set(connection.scalars(select(LEASES.c.trial_id).where(mine)))

    def _write_trials(self, connection: Connection, trials: Mapping[int, Changes]) -> None:
        params, reports, objectives, checkpoints = [], [], [], []
        attrs: dict[str, list[dict[str, Any]]] = {"user": [], "system": []}
        for trial_id, changes in trials.items():
            params += _param_rows(trial_id, changes)
            reports += _report_rows(trial_id, changes)
            objectives += _objective_rows(trial_id, changes)
            attrs["user"] += _attr_rows(trial_id, changes.user_attrs)
            attrs["system"] += _attr_rows(trial_id, changes.system_attrs)
            if changes.checkpoint is not None:
                study, number, data = changes.checkpoint
                checkpoints.append({"study": study, "number": number, "data": data()})
        self._upsert(connection, PARAMS, ("trial_id", "param_name"), params)
        self._upsert(connection, REPORTS, ("trial_id", "step"), reports)
        self._upsert(connection, OBJECTIVES, ("trial_id", "objective"), objectives)
        self._upsert(connection, USER_ATTRS, ("trial_id", "key"), attrs["user"])
        self._upsert(connection, SYSTEM_ATTRS, ("trial_id", "key"), attrs["system"])
        self._upsert(connection, CHECKPOINTS, ("study", "number"), checkpoints)
        progressed = {row["trial_id"] for row in reports}
        if progressed:
            still = and_(LEASES.c.trial_id.in_(progressed), LEASES.c.deaths > 0)
            connection.execute(update(LEASES).where(still).values(deaths=0))
        for trial_id, changes in trials.items():
            if changes.state is not None:
                self._set_state(connection, trial_id, changes.state, changes.completed)

    def _set_state(
        self, connection: Connection, trial_id: int, state: TrialState, completed: datetime | None
    ) -> None:
        here = and_(TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.RUNNING)
        row: dict[str, Any] = {"state": state}
        if completed is not None:
            row["datetime_complete"] = _stored(completed)
        connection.execute(update(TRIALS).where(here).values(row))
        if state in FINISHED:
            connection.execute(delete(LEASES).where(LEASES.c.trial_id == trial_id))
        else:  # no one's, but its deaths are remembered
            mine = LEASES.c.trial_id == trial_id
            connection.execute(update(LEASES).where(mine).values(owner=""))

    def _upsert(
        self, connection: Connection, table: Any, key: Sequence[str], rows: list[dict[str, Any]]
    ) -> None:
        if not rows:
            return
        statement = self._insert(table)
        rest = {name: statement.excluded[name] for name in rows[0] if name not in key}
        connection.execute(statement.on_conflict_do_update(index_elements=key, set_=rest), rows)

    # --- other workers ---

    def others(self, study_id: int) -> list[Lease]:
        """Return the running trials of a study that this worker does not hold."""
        age = self._now - LEASES.c.beat
        joined = TRIALS.outerjoin(LEASES, TRIALS.c.trial_id == LEASES.c.trial_id)
        wanted = and_(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.RUNNING)
        columns = (TRIALS.c.trial_id, TRIALS.c.number, LEASES.c.owner, age)
        with self._begin() as connection:
            rows = connection.execute(select(*columns).select_from(joined).where(wanted)).all()
        return [
            Lease(trial_id, number, owner or None, None if age_s is None else float(age_s))
            for trial_id, number, owner, age_s in rows
            if owner != self.owner
        ]

    def requeue(self, lease: Lease, max_deaths: int, older_s: float = 0.0) -> TrialState | None:
        """Take a trial from a dead worker and put it back, or fail it after too many deaths.

        Returns:
            The trial's new state; None where the worker is alive after all, or another was faster.
        """
        here = LEASES.c.trial_id == lease.trial_id
        with self._begin() as connection:
            if lease.owner is None:  # of a program that keeps no leases
                deaths = 0
            else:
                same = and_(
                    here, LEASES.c.owner == lease.owner, self._now - LEASES.c.beat >= older_s
                )
                taken = {"owner": "", "deaths": LEASES.c.deaths + 1}
                if connection.execute(update(LEASES).where(same).values(taken)).rowcount != 1:
                    return None
                deaths = int(connection.scalar(select(LEASES.c.deaths).where(here)) or 0)
            state, completed = TrialState.WAITING, None
            if deaths > max_deaths:
                state, completed = TrialState.FAIL, datetime.now(UTC)
                reason = json.dumps(
                    f"{deaths} workers in a row died in it without finishing an epoch"
                )
                row = {"trial_id": lease.trial_id, "key": "fail_reason", "value_json": reason}
                self._upsert(connection, USER_ATTRS, ("trial_id", "key"), [row])
            self._set_state(connection, lease.trial_id, state, completed)
        return state

    def delete_leases(self, trial_ids: Collection[int]) -> None:
        """Forget trials that are deleted: their ids may be given out again."""
        with self._begin() as connection:
            connection.execute(delete(LEASES).where(LEASES.c.trial_id.in_(trial_ids)))

    # --- checkpoints ---

    def load_checkpoint(self, study: str, number: int) -> bytes | None:
        """Return a trial's checkpoint, or None."""
        here = and_(CHECKPOINTS.c.study == study, CHECKPOINTS.c.number == number)
        with self._begin() as connection:
            data: bytes | None = connection.scalar(select(CHECKPOINTS.c.data).where(here))
        return data

    def checkpoint_numbers(self, study: str) -> set[int]:
        """Return the numbers of the study's trials that have a checkpoint here."""
        query = select(CHECKPOINTS.c.number).where(CHECKPOINTS.c.study == study)
        with self._begin() as connection:
            return set(connection.scalars(query))

    def put_checkpoint(self, study: str, number: int, data: bytes) -> None:
        """Keep the checkpoint of a trial that no worker runs."""
        with self._begin() as connection:
            row = {"study": study, "number": number, "data": data}
            self._upsert(connection, CHECKPOINTS, ("study", "number"), [row])

    def delete_checkpoints(self, study: str, numbers: Iterable[int] | None = None) -> None:
        """Delete some of a study's checkpoints, or all."""
        with self._begin() as connection:
            self._delete_checkpoints(connection, study, numbers)

    def _delete_checkpoints(
        self, connection: Connection, study: str, numbers: Iterable[int] | None
    ) -> None:
        here = CHECKPOINTS.c.study == study
        if numbers is not None:
            here = and_(here, CHECKPOINTS.c.number.in_(list(numbers)))
        connection.execute(delete(CHECKPOINTS).where(here))


def is_made_meanwhile(error: DBAPIError) -> bool:
    """Return whether what was to be created exists: another worker made it at the same moment."""
    if isinstance(error, IntegrityError):  # the same row, of a catalogue or of Optuna's versions
        return True
    duplicates = ("42P07", "42710")  # a table, a type
    return getattr(error.orig, "sqlstate", "") in duplicates or "already exists" in str(error.orig)


def _stored(time: datetime) -> datetime:
    """Return a time as Optuna's tables keep it: UTC, without saying so."""
    return time.astimezone(UTC).replace(tzinfo=None)


def _local(time: datetime) -> datetime:
    """Return a time as Optuna's trials show it: local, without saying so."""
    return time.astimezone().replace(tzinfo=None)


def _param_rows(trial_id: int, changes: Changes) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": value,
            "distribution_json": distribution_to_json(distribution),
        }
        for name, (value, distribution) in changes.params.items()
    ]


def _report_rows(trial_id: int, changes: Changes) -> list[dict[str, Any]]:
    rows = []
    for step, report in changes.reports.items():
        value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(report)
        row = {"intermediate_value": value, "intermediate_value_type": kind}
        rows.append({"trial_id": trial_id, "step": step} | row)
    return rows


def _objective_rows(trial_id: int, changes: Changes) -> list[dict[str, Any]]:
    rows = []
    for objective, number in enumerate(changes.values or ()):
        value, kind = models.TrialValueModel.value_to_stored_repr(number)
        row = {"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind}
        rows.append(row)
    return rows


def _attr_rows(trial_id: int, attrs: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"trial_id": trial_id, "key": key, "value_json": text} for key, text in attrs.items()]
