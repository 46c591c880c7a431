"""The tables of a database, and what waits to be written to them.

Most tables are Optuna's. Three small ones are our own:

golf_leases       which worker runs a trial, and when it last said so
golf_reservations  which epochs of a budget running trials may still take
golf_checkpoints  where a trial stands, for nets small enough
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Column, Float, Integer, LargeBinary, MetaData, String, Table
from sqlalchemy.dialects import postgresql, sqlite

from golf_opt.storage.optuna_internals import models

Row = dict[str, Any]

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
RESERVATIONS = Table(
    "golf_reservations",
    OWN,
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("until", Integer, nullable=False),  # the epoch that the running trial may reach
)

STUDIES: Any = models.StudyModel.__table__
TRIALS: Any = models.TrialModel.__table__
PARAMS: Any = models.TrialParamModel.__table__
OBJECTIVES: Any = models.TrialValueModel.__table__
REPORTS: Any = models.TrialIntermediateValueModel.__table__
USER_ATTRS: Any = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Any = models.TrialSystemAttributeModel.__table__
STUDY_DIRECTIONS: Any = models.StudyDirectionModel.__table__
STUDY_USER_ATTRS: Any = models.StudyUserAttributeModel.__table__
STUDY_SYSTEM_ATTRS: Any = models.StudySystemAttributeModel.__table__

UNIQUE: Mapping[Table, tuple[str, ...]] = {  # the columns that a row is replaced by
    STUDY_USER_ATTRS: ("study_id", "key"),
    STUDY_SYSTEM_ATTRS: ("study_id", "key"),
    PARAMS: ("trial_id", "param_name"),
    REPORTS: ("trial_id", "step"),
    OBJECTIVES: ("trial_id", "objective"),
    USER_ATTRS: ("trial_id", "key"),
    SYSTEM_ATTRS: ("trial_id", "key"),
    CHECKPOINTS: ("study", "number"),
    RESERVATIONS: ("trial_id",),
}


@dataclass
class Changes:
    """What is to be written of one trial. What comes later replaces what came earlier."""

    trial_id: int
    rows: dict[tuple[Table, Any], Row] = field(default_factory=dict)  # by table and key
    checkpoint: tuple[str, int, Callable[[], bytes]] | None = None  # study, number, its bytes
    state: TrialState | None = None
    completed: datetime | None = None  # with its time zone
    held: bool = False  # by this worker, until it got its state

    @property
    def has_reports(self) -> bool:
        """Whether a value of a step is among them."""
        return any(table is REPORTS for table, _ in self.rows)

    def put(self, table: Table, **columns: Any) -> None:
        """Insert or replace a row of one of the trial's tables."""
        _, key = UNIQUE[table]
        self.rows[table, columns[key]] = {"trial_id": self.trial_id} | columns

    def then(self, later: Changes) -> Changes:
        """Return both, where `later` wins."""
        return Changes(
            self.trial_id,
            self.rows | later.rows,
            later.checkpoint or self.checkpoint,
            later.state or self.state,
            later.completed or self.completed,
            later.held or self.held,
        )


@dataclass
class Batch:
    """What one transaction writes."""

    trials: dict[int, Changes] = field(default_factory=dict)
    study_attrs: dict[tuple[Table, int, str], Row] = field(default_factory=dict)  # table, id, key
    stale_checkpoints: set[tuple[str, int]] = field(default_factory=set)  # study, number

    def __bool__(self) -> bool:
        return bool(self.trials or self.study_attrs or self.stale_checkpoints)

    def then(self, later: Batch) -> Batch:
        """Return both, where `later` wins."""
        trials = dict(self.trials)
        for trial_id, changes in later.trials.items():
            trials[trial_id] = trials[trial_id].then(changes) if trial_id in trials else changes
        stale = self.stale_checkpoints | later.stale_checkpoints
        return Batch(trials, self.study_attrs | later.study_attrs, stale)

    def pack(self) -> None:
        """Work out what is only worked out when it is written."""
        for changes in self.trials.values():
            if changes.checkpoint is not None:
                changes.checkpoint[2]()

    def rows(self) -> dict[Table, list[Row]]:
        """Return the rows to insert or replace, by table; the states of trials are not in them."""
        found: dict[Table, list[Row]] = defaultdict(list)
        for (table, _, _), row in self.study_attrs.items():
            found[table].append(row)
        for changes in self.trials.values():
            for (table, _), row in changes.rows.items():
                found[table].append(row)
            if changes.checkpoint is not None:
                study, number, data = changes.checkpoint
                found[CHECKPOINTS].append({"study": study, "number": number, "data": data()})
        return found
