"""The SQL behind `write_behind`: who runs a trial, how many there may be, and rows in bulk.

Times are the database's own, so that the clocks of the workers do not matter. Every change of a
trial is made in one transaction with the check that this worker still holds it: what a worker
reports after it was declared dead finds no lease and changes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sql
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import and_, bindparam, delete, insert, or_, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from golf_opt.storage import tables
from golf_opt.storage.changing import Changing
from golf_opt.storage.failures import is_made_meanwhile
from golf_opt.storage.reservations import granted, spent
from golf_opt.storage.tables import (
    CHECKPOINTS,
    LEASES,
    RESERVATIONS,
    STUDIES,
    TRIALS,
    Batch,
    Row,
)
from golf_opt.storage.tally import IS_POINT, Tally, count, has
from golf_opt.utils.points import POINT, SEED_INDEX

MOST_BYTES = 16 * 1024 * 1024  # of a checkpoint, well above the largest that is written
MOST_DEATHS = 1000  # that are counted: the highest number that a database has is followed by none
ONE_DEATH_MORE = sql.case((LEASES.c.deaths < MOST_DEATHS, LEASES.c.deaths + 1), else_=MOST_DEATHS)
WAITS = TRIALS.c.state == TrialState.WAITING
ANY = Changing()
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


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
        self._insert = tables.DIALECTS[engine.dialect.name].insert
        self._now: Any = sql.literal_column(tables.CLOCKS[engine.dialect.name])
        self._has_tables = False
        self._tallies: dict[int, Tally] = {}  # by study

    def _begin(self) -> AbstractContextManager[Connection]:
        """Begin a transaction in a database that has our tables: made when first needed."""
        if not self._has_tables:
            _make_tables(self.engine)
            self._has_tables = True
        return self.engine.begin()

    # --- asking ---

    def create(
        self, study_id: int, total: int | None, like: FrozenTrial | None = None, most: int = 1
    ) -> list[tuple[int, int, datetime]]:
        """Make running trials of this worker's; return the id, number and start of each.

        Args:
            study_id: of the study.
            total: points that it may have: further seeds of one do not count.
            like: whose attributes they begin with, such as a further seed of a point.
            most: how many; where `total` or that seed of that point is there, fewer or none.
        """
        started = datetime.now(UTC)
        with self._begin() as connection:
            self._lock_study(connection, study_id)
            there = self._counted(connection, study_id)
            if like is not None and SEED_INDEX in like.user_attrs:
                same = (has(key, like.user_attrs[key]) for key in (POINT, SEED_INDEX))
                if count(connection, and_(TRIALS.c.study_id == study_id, *same)):
                    return []
            elif total is not None:
                most = min(most, total - there.points)
            if most <= 0:
                return []
            # as many as there are, unless somebody else gave a higher one
            first = max(there.trials, there.number + 1)
            head: Row = {"study_id": study_id, "state": TrialState.RUNNING}
            head["datetime_start"] = _stored(started)
            rows: list[Row] = [{"number": number} | head for number in range(first, first + most)]
            made = insert(TRIALS).returning(TRIALS.c.trial_id, sort_by_parameter_order=True)
            trial_ids = connection.scalars(made, rows).all()
            for table, rows in _attributes(like, trial_ids):
                self._upsert(connection, table, rows)
            self._lease(connection, trial_ids)
        return [(id_, first + place, local_time(started)) for place, id_ in enumerate(trial_ids)]

    def take(self, study_id: int, trial_id: int, total: int | None, changing: Changing) -> bool:
        """Make a waiting trial a running one of this worker's; False if another was faster."""
        with self._begin() as connection:
            self._lock_study(connection, study_id)
            begun = self._counted(connection, study_id).points
            for part in changing.parts(study_id):
                begun -= count(connection, and_(part, WAITS, IS_POINT))
            point = count(connection, and_(TRIALS.c.trial_id == trial_id, IS_POINT))
            if total is not None and point and begun >= total:
                return False
            here = and_(TRIALS.c.trial_id == trial_id, WAITS)
            running = {"state": TrialState.RUNNING, "datetime_start": _stored(datetime.now(UTC))}
            if connection.execute(update(TRIALS).where(here).values(running)).rowcount != 1:
                return False
            self._lease(connection, [trial_id])
        return True

    def epochs_spent(self, study_id: int, changing: Changing = ANY) -> int:
        """Return the epochs that a study's trials reported, or reserved and still run for."""
        with self._begin() as connection:
            return spent(connection, study_id, changing)

    def reserve(self, study_id: int, changing: Changing, trial_id: int, *epochs: int) -> int:
        """Reserve epochs of a budget for a running trial; see `reservations.granted`."""
        with self._begin() as connection:
            self._lock_study(connection, study_id)
            epoch = granted(connection, study_id, changing, trial_id, *epochs)
            self._upsert(connection, RESERVATIONS, [{"trial_id": trial_id, "until": epoch}])
        return epoch

    def _lock_study(self, connection: Connection, study_id: int) -> None:
        """Let no other worker ask meanwhile: the first write of a transaction takes the lock."""
        same = {"study_name": STUDIES.c.study_name}
        this = update(STUDIES).where(STUDIES.c.study_id == study_id)
        found = connection.execute(this.values(same))
        if found.rowcount != 1:
            raise KeyError(f"study {study_id} is not in the storage")

    def _counted(self, connection: Connection, study_id: int) -> Tally:
        """Return a study's trials, counted in a transaction that holds its lock."""
        found = self._tallies.get(study_id, Tally()).on_to_now(connection, study_id)
        self._tallies[study_id] = found
        return found

    def _lease(self, connection: Connection, trial_ids: Sequence[int]) -> None:
        taken = {"owner": self.owner, "beat": self._now}  # deaths stay
        rows: list[Row] = [{"trial_id": trial_id, "deaths": 0} | taken for trial_id in trial_ids]
        statement = self._insert(LEASES).values(rows)
        connection.execute(statement.on_conflict_do_update(index_elements=["trial_id"], set_=taken))

    # --- looking on ---

    def num_finished(self) -> dict[int, int]:
        """Return how many trials of each study have ended, in one statement."""
        ended = select(TRIALS.c.study_id, sql.func.count()).where(TRIALS.c.state.in_(FINISHED))
        with self.engine.connect() as connection:
            rows = connection.execute(ended.group_by(TRIALS.c.study_id))
            return {study_id: count for study_id, count in rows}

    # --- writing ---

    def write(self, batch: Batch, leased: Collection[int]) -> set[int]:
        """Write a batch and renew the leases; return the trials that others have by now.

        Args:
            batch: changes by trial; those of trials that this worker no longer holds are dropped.
            leased: the trials that this worker believes to hold.
        """
        batch.pack()  # before others have to wait for this transaction
        with self._begin() as connection:
            lost = set(leased) - self._renew(connection, batch) if leased else set()
            kept = {id_: changes for id_, changes in batch.trials.items() if id_ not in lost}
            rows = replace(batch, trials=kept).rows()
            for table in tables.UNIQUE:  # in the same order for every worker
                self._upsert(connection, table, rows.get(table, []))
            for state in TrialState:
                of_it = {id_: c.completed for id_, c in kept.items() if c.state == state}
                if of_it:
                    _set_state(connection, state, of_it)
            if batch.stale_checkpoints:
                key = sql.tuple_(CHECKPOINTS.c.study, CHECKPOINTS.c.number)
                stale = key.in_(list(batch.stale_checkpoints))
                connection.execute(delete(CHECKPOINTS).where(stale))
        return lost

    def _renew(self, connection: Connection, batch: Batch) -> set[int]:
        """Renew this worker's leases; return their trials. An epoch makes up for earlier deaths."""
        progressed = [id_ for id_, changes in batch.trials.items() if changes.has_reports]
        deaths = sql.case((LEASES.c.trial_id.in_(progressed), 0), else_=LEASES.c.deaths)
        renewed = update(LEASES).where(LEASES.c.owner == self.owner)
        renewed = renewed.values(beat=self._now, deaths=deaths)
        return set(connection.scalars(renewed.returning(LEASES.c.trial_id)))

    def _upsert(self, connection: Connection, table: sql.Table, rows: Sequence[Row]) -> None:
        if not rows:
            return
        statement, key = self._insert(table), tables.UNIQUE[table]
        rest = {name: statement.excluded[name] for name in rows[0] if name not in key}
        connection.execute(statement.on_conflict_do_update(index_elements=key, set_=rest), rows)

    # --- other workers ---

    def others(self, study_id: int, changing: Changing = ANY, silent_s: float = 0.0) -> list[Lease]:
        """Return the running trials of a study that this worker does not hold.

        Args:
            study_id: of the study.
            changing: which may be running.
            silent_s: for so long their workers gave no sign of life.
        """
        age = self._now - LEASES.c.beat
        joined = TRIALS.outerjoin(LEASES, TRIALS.c.trial_id == LEASES.c.trial_id)
        query = select(TRIALS.c.trial_id, TRIALS.c.number, LEASES.c.owner, age).select_from(joined)
        running = query.where(TRIALS.c.state == TrialState.RUNNING)
        if silent_s:
            running = running.where(or_(LEASES.c.owner.is_(None), age >= silent_s))
        with self._begin() as connection:
            parts = [connection.execute(running.where(p)).all() for p in changing.parts(study_id)]
        rows = [row for part in parts for row in part]
        return [_lease_of(*row) for row in rows if row.owner != self.owner]

    def requeue(self, lease: Lease, max_deaths: int, older_s: float = 0.0) -> TrialState | None:
        """Take a trial from a dead worker: it waits again, or fails after too many deaths.

        Returns:
            The trial's new state; None where the worker is alive after all, or another was faster.
        """
        here = LEASES.c.trial_id == lease.trial_id
        with self._begin() as connection:
            if lease.owner is None:  # of a program that keeps no leases
                deaths = 0
            else:
                silence = sql.func.abs(self._now - LEASES.c.beat)
                same = and_(here, LEASES.c.owner == lease.owner, silence >= older_s)
                taken = {"owner": "", "deaths": ONE_DEATH_MORE}
                if connection.execute(update(LEASES).where(same).values(taken)).rowcount != 1:
                    return None
                deaths = connection.scalar(select(LEASES.c.deaths).where(here)) or 0
            state, completed = TrialState.WAITING, None
            if deaths > max_deaths:
                state, completed = TrialState.FAIL, datetime.now(UTC)
                self._upsert(connection, tables.USER_ATTRS, [_fail_reason(lease.trial_id, deaths)])
            _set_state(connection, state, {lease.trial_id: completed})
        return state

    def delete_leases(self, study_id: int, trial_ids: Collection[int]) -> None:
        """Forget a study's trials, which are deleted: their ids may be given out again."""
        self._tallies.pop(study_id, None)
        with self._begin() as connection:
            for table in (LEASES, RESERVATIONS):
                connection.execute(delete(table).where(table.c.trial_id.in_(trial_ids)))

    # --- checkpoints ---

    def load_checkpoint(self, study: str, number: int) -> bytes | None:
        """Return a trial's checkpoint, or None; of what is too large for one, nothing is read."""
        size = sql.func.length(CHECKPOINTS.c.data)
        data = select(sql.case((size <= MOST_BYTES, CHECKPOINTS.c.data)))
        with self._begin() as connection:
            row = connection.execute(data.where(_checkpoint(study, number))).first()
        return None if row is None else row[0] or b""

    def checkpoint_numbers(self, study: str) -> set[int]:
        """Return the numbers of the study's trials that have a checkpoint here."""
        query = select(CHECKPOINTS.c.number).where(CHECKPOINTS.c.study == study)
        with self._begin() as connection:
            return {number for number in connection.scalars(query) if isinstance(number, int)}

    def put_checkpoint(self, study: str, number: int, data: bytes) -> None:
        """Keep the checkpoint of a trial that no worker runs."""
        with self._begin() as connection:
            row = {"study": study, "number": number, "data": data}
            self._upsert(connection, CHECKPOINTS, [row])

    def delete_checkpoints(self, study: str) -> None:
        """Delete the checkpoints of a study."""
        with self._begin() as connection:
            connection.execute(delete(CHECKPOINTS).where(CHECKPOINTS.c.study == study))


def _make_tables(engine: Engine) -> None:
    """Make our tables; others may be making them too, one by one, at the same moment."""
    for left in reversed(range(1 + len(tables.OWN.tables))):
        try:
            tables.OWN.create_all(engine)
            break
        except DBAPIError as error:
            if not left or not is_made_meanwhile(error):
                raise


def _attributes(
    like: FrozenTrial | None, trial_ids: Sequence[int]
) -> list[tuple[sql.Table, list[Row]]]:
    """Return rows of a trial's attributes for others, by the table that they stand in."""
    if like is None:
        return []
    return [
        (
            table,
            [
                {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                for trial_id in trial_ids
                for key, value in given.items()
            ],
        )
        for table, given in (
            (tables.USER_ATTRS, like.user_attrs),
            (tables.SYSTEM_ATTRS, like.system_attrs),
        )
    ]


def _set_state(
    connection: Connection, state: TrialState, ended: Mapping[int, datetime | None]
) -> None:
    """Give running trials their state, and the time when each ended, if it did."""
    here = and_(TRIALS.c.trial_id == bindparam("id"), TRIALS.c.state == TrialState.RUNNING)
    time: Any = sql.func.coalesce(bindparam("at"), TRIALS.c.datetime_complete)
    changed = update(TRIALS).where(here).values(state=state, datetime_complete=time)
    rows = [{"id": id_, "at": at and _stored(at)} for id_, at in ended.items()]
    connection.execute(changed, rows)
    connection.execute(delete(RESERVATIONS).where(RESERVATIONS.c.trial_id.in_(ended)))
    leases = LEASES.c.trial_id.in_(ended)
    if state in FINISHED:
        connection.execute(delete(LEASES).where(leases))
    else:  # no one's, but its deaths are remembered
        connection.execute(update(LEASES).where(leases).values(owner=""))


def _fail_reason(trial_id: int, deaths: int) -> Row:
    reason = json.dumps(f"{deaths} workers in a row died in it without finishing an epoch")
    return {"trial_id": trial_id, "key": "fail_reason", "value_json": reason}


def _lease_of(trial_id: int, number: Any, owner: Any, age_s: Any) -> Lease:
    """Return a lease; a beat of the future, or of no time at all, is as good as none."""
    silence = None if age_s is None else abs(float(age_s))
    if silence is not None and not math.isfinite(silence):
        silence = math.inf
    return Lease(trial_id, number if isinstance(number, int) else -1, owner or None, silence)


def _checkpoint(study: str, number: int) -> sql.ColumnElement[bool]:
    return and_(CHECKPOINTS.c.study == study, CHECKPOINTS.c.number == number)


def _stored(time: datetime) -> datetime:
    """Return a time as Optuna's tables keep it: UTC, without saying so."""
    return time.astimezone(UTC).replace(tzinfo=None)


def local_time(time: datetime) -> datetime:
    """Return a time as Optuna's trials show it: local, without saying so."""
    return time.astimezone().replace(tzinfo=None)
