"""The tables of a database: Optuna's, and two small ones of our own.

golf_leases       which worker runs a trial, and when it last said so
golf_checkpoints  where a trial stands, for nets small enough
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

STUDIES: Any = models.StudyModel.__table__
TRIALS: Any = models.TrialModel.__table__
PARAMS: Any = models.TrialParamModel.__table__
OBJECTIVES: Any = models.TrialValueModel.__table__
REPORTS: Any = models.TrialIntermediateValueModel.__table__
USER_ATTRS: Any = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Any = models.TrialSystemAttributeModel.__table__
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
}
