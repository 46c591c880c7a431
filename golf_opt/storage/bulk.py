"""Reads studies and trials of a database: a select a table instead of Optuna's object a row.

A study of 5,000 trials with 18 epochs each is 250,000 of those objects: five seconds before it can
go on, or the dashboard can show it. And one row that is not what Optuna wrote breaks them all: here
rows are read as they are, and pass `gate`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import sqlalchemy as sql
from optuna.distributions import json_to_distribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import StrictStr
from sqlalchemy import ColumnElement, Connection, Table, select

from golf_opt.config.check import check
from golf_opt.config.types import MOST
from golf_opt.storage import gate, tables
from golf_opt.storage.changing import Changing
from golf_opt.storage.optuna_internals import FrozenStudy, id_of_trial, models
from golf_opt.utils.trials import best_trials

Rows = Mapping[int, list[tuple[Any, ...]]]  # by the id that they belong to

_distribution = lru_cache(maxsize=1024)(json_to_distribution)


class BulkStorage(RDBStorage):
    """Optuna's storage in a database, with a faster and less trusting way to read it.

    One that cannot be opened leaves no connection open. The arguments are Optuna's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            if engine := getattr(self, "engine", None):
                engine.dispose()
            raise

    # --- trials ---

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Return the study's trials with an id above the limit, or among those included, by id.

        Raises:
            KeyError: there is no such study.
        """
        changing = Changing(included_trial_ids, trial_id_greater_than)
        trials: list[tuple[int, FrozenTrial]] = []
        with self.engine.connect() as connection:
            head = self._head(connection, study_id)
            for part in changing.parts(study_id):
                trials += _trials(connection, part, *head)
        trials.sort(key=lambda row: row[0])
        return [trial for _, trial in trials if states is None or trial.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        wanted = tables.TRIALS.c.trial_id == trial_id
        with self.engine.connect() as connection:
            study_id = connection.scalar(select(tables.TRIALS.c.study_id).where(wanted))
            if study_id is None:
                raise KeyError(f"there is no trial {trial_id}")
            for _, trial in _trials(connection, wanted, *self._head(connection, study_id)):
                return trial
        raise KeyError(f"trial {trial_id} cannot be read")

    def get_trial_user_attrs(self, trial_id: int) -> dict[str, Any]:
        return self.get_trial(trial_id).user_attrs

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return self.get_trial(trial_id).system_attrs

    def _get_best_trial_id(self, study_id: int, direction: StudyDirection) -> int:
        """Return the id of the best trial; by the database, unless that one cannot be read.

        Raises:
            ValueError: no trial is complete.
        """
        try:
            trial_id: int = super()._get_best_trial_id(study_id, direction)
            if self.get_trial(trial_id).state == TrialState.COMPLETE:
                return trial_id
        except LookupError:
            pass
        for trial in best_trials(self._get_trials(study_id, None, set(), -1), 1, direction):
            return id_of_trial(trial)
        raise ValueError("no trial is complete")

    # --- studies ---

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return the studies, by id; one without directions or name is told and left out."""
        with self.engine.connect() as connection:
            heads = connection.execute(
                select(tables.STUDIES.c.study_id, _raw(tables.STUDIES.c.study_name)).order_by(
                    tables.STUDIES.c.study_id
                )
            ).all()
            directions = _rows(connection, tables.STUDY_DIRECTIONS, "objective", "direction")
            user = _rows(connection, tables.STUDY_USER_ATTRS, "key", "value_json")
            system = _rows(connection, tables.STUDY_SYSTEM_ATTRS, "key", "value_json")
        studies = []
        for study_id, name in heads:
            owner = f"study {name!r}"
            try:
                check(StrictStr, name, "its name")
                found = _directions(directions[study_id])
            except gate.UNREADABLE as error:
                gate.tell(owner, [f"it is left out: {gate.reason(error)}"])
                continue
            studies.append(
                FrozenStudy(
                    study_name=name,
                    direction=None,
                    directions=found,
                    user_attrs=_attributes(owner, user[study_id]),
                    system_attrs=_attributes(owner, system[study_id]),
                    study_id=study_id,
                )
            )
        return studies

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        with self.engine.connect() as connection:
            self._head(connection, study_id)
            rows = _rows(
                connection, tables.STUDY_DIRECTIONS, "objective", "direction", study_id=study_id
            )
        return _directions(rows[study_id])

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._attributes(tables.STUDY_USER_ATTRS, study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._attributes(tables.STUDY_SYSTEM_ATTRS, study_id)

    def _attributes(self, table: Table, study_id: int) -> dict[str, Any]:
        with self.engine.connect() as connection:
            name, _ = self._head(connection, study_id)
            rows = _rows(connection, table, "key", "value_json", study_id=study_id)
        return _attributes(f"study {name!r}", rows[study_id])

    def _head(self, connection: Connection, study_id: int) -> tuple[str, int]:
        """Return a study's name, and how many objectives it has.

        Raises:
            KeyError: there is no such study.
        """
        goals = select(sql.func.count()).where(tables.STUDY_DIRECTIONS.c.study_id == study_id)
        query = select(_raw(tables.STUDIES.c.study_name), goals.scalar_subquery())
        found = connection.execute(query.where(tables.STUDIES.c.study_id == study_id)).first()
        if found is None:
            raise KeyError(f"there is no study {study_id}")
        return str(found[0]), found[1]

    def delete_study(self, study_id: int) -> None:
        """Delete a study and all that belongs to it, whether it can be read or not."""
        trials = select(tables.TRIALS.c.trial_id).where(tables.TRIALS.c.study_id == study_id)
        with self.engine.begin() as connection:
            self._head(connection, study_id)
            for table in reversed(models.BaseModel.metadata.sorted_tables):
                if "study_id" in table.c:
                    mine = table.c.study_id == study_id
                elif "trial_id" in table.c:
                    mine = table.c.trial_id.in_(trials)
                else:
                    continue
                connection.execute(sql.delete(table).where(mine))


def _attributes(owner: str, rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    complaints: list[str] = []
    attributes = gate.decoded(rows, complaints)
    gate.tell(owner, complaints)
    return attributes


def _directions(rows: list[tuple[Any, ...]]) -> list[StudyDirection]:
    """Return the directions of a study's objectives; raise a ValueError where one is missing."""
    directions = [StudyDirection[name] for _, name in sorted(rows)]
    if not directions or StudyDirection.NOT_SET in directions:
        raise ValueError("it has no direction")
    return directions


@dataclass(frozen=True)
class _TrialRows:
    """The rows that belong to some trials, by trial."""

    params: Rows
    values: Rows
    steps: Rows
    user: Rows
    system: Rows


def _trials(
    connection: Connection, wanted: ColumnElement[bool], study: str, num_objectives: int
) -> Iterator[tuple[int, FrozenTrial]]:
    """Read the trials first: whatever belongs to one that is finished was written before that."""
    columns = ("trial_id", "number", "state", "datetime_start", "datetime_complete")
    query = select(*(_raw(tables.TRIALS.c[column]) for column in columns))
    heads = connection.execute(query.where(wanted).order_by(tables.TRIALS.c.trial_id)).all()
    if not heads:
        return
    read = partial(_rows, connection, wanted=wanted)
    rows = _TrialRows(
        read(tables.PARAMS, "param_name", "param_value", "distribution_json"),
        read(tables.OBJECTIVES, "objective", "value", "value_type"),
        read(tables.REPORTS, "step", "intermediate_value", "intermediate_value_type"),
        read(tables.USER_ATTRS, "key", "value_json"),
        read(tables.SYSTEM_ATTRS, "key", "value_json"),
    )
    complaints: list[str] = []
    numbers = _numbers(connection, [(trial_id, number) for trial_id, number, *_ in heads])
    for trial_id, stored, state, start, complete in heads:
        number = numbers[trial_id]
        try:
            if number != stored:
                raise ValueError(f"its number is {stored!r}")
            trial = _trial(trial_id, number, state, _moment(start), _moment(complete), rows)
            trial = gate.admit(trial, num_objectives, complaints)
        except gate.UNREADABLE as error:
            complaints.append(gate.counts_as_failed(number, error))
            trial = gate.failed(number, trial_id, gate.reason(error))
        yield trial_id, trial
    gate.tell(f"study {study!r}", complaints)


def _numbers(connection: Connection, stored: list[tuple[int, Any]]) -> dict[int, int]:
    """Return the number of each trial by its id; where none or another's is stored, a free one."""
    numbers: dict[int, int] = {}
    taken: set[int] = set()
    for trial_id, number in stored:
        if isinstance(number, int) and 0 <= number <= MOST and number not in taken:
            numbers[trial_id] = number
            taken.add(number)
    if len(numbers) < len(stored):
        mine = tables.TRIALS.c.trial_id == stored[0][0]
        study = select(tables.TRIALS.c.study_id).where(mine).scalar_subquery()
        query = select(tables.TRIALS.c.number).where(tables.TRIALS.c.study_id == study)
        taken |= set(connection.scalars(query))
    for trial_id, _ in stored:
        if trial_id not in numbers:
            numbers[trial_id] = next(n for n in itertools.count() if n not in taken)
            taken.add(numbers[trial_id])
    return numbers


def _trial(
    trial_id: int,
    number: int,
    state: str,
    start: datetime | None,
    complete: datetime | None,
    rows: _TrialRows,
) -> FrozenTrial:
    """Return what the rows of a trial say; raise one of `gate.UNREADABLE` where they make none."""
    to_value = models.TrialValueModel.stored_repr_to_value
    to_step = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    value_kind = models.TrialValueModel.TrialValueType
    step_kind = models.TrialIntermediateValueModel.TrialIntermediateValueType
    params = rows.params[trial_id]
    distributions = {name: _distribution(text) for name, _, text in params}
    values = sorted(rows.values[trial_id])
    return FrozenTrial(
        number=number,
        trial_id=trial_id,
        state=TrialState[state],
        value=None,
        values=[to_value(value, value_kind[kind]) for _, value, kind in values] or None,
        datetime_start=start,
        datetime_complete=complete,
        params={name: distributions[name].to_external_repr(value) for name, value, _ in params},
        distributions=distributions,
        intermediate_values={
            step: to_step(value, step_kind[kind]) for step, value, kind in rows.steps[trial_id]
        },
        user_attrs={key: gate.read_json(text) for key, text in rows.user[trial_id]},
        system_attrs={key: gate.read_json(text) for key, text in rows.system[trial_id]},
    )


def _moment(stored: Any) -> datetime | None:
    """Return a time as Optuna's trials show it, local; stored it is in UTC."""
    if stored is None:
        return None
    moment = stored if isinstance(stored, datetime) else datetime.fromisoformat(stored)
    return moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _raw(column: Any) -> Any:
    """Return a column whose values SQLAlchemy leaves as they are: it raises for one that is odd."""
    return column if isinstance(column.type, sql.Integer) else sql.type_coerce(column, sql.String)


def _rows(
    connection: Connection,
    table: Table,
    *columns: str,
    wanted: ColumnElement[bool] | None = None,
    study_id: int | None = None,
) -> Rows:
    """Return the rows of each study or trial, in the table's own order."""
    owner = table.c.trial_id if "trial_id" in table.c else table.c.study_id
    query = select(owner, *(_raw(table.c[column]) for column in columns))
    if wanted is not None:
        query = query.join(tables.TRIALS, tables.TRIALS.c.trial_id == owner).where(wanted)
    if study_id is not None:
        query = query.where(owner == study_id)
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for belongs, *rest in connection.execute(query.order_by(*table.primary_key)).all():
        found[belongs].append(tuple(rest))
    return found
