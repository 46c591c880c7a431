"""How many trials and points a study has: counted once, and from then on only what is new."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy import and_, select
from sqlalchemy.engine import Connection

from golf_opt.config.types import MOST
from golf_opt.storage.tables import TRIALS, USER_ATTRS
from golf_opt.utils.points import SEED_INDEX


def count(connection: Connection, trials: sql.ColumnElement[bool]) -> int:
    return int(connection.scalar(select(sql.func.count()).where(trials)) or 0)


def has(key: str, value: Any = None) -> sql.ColumnElement[bool]:
    """Return the condition that a trial has a user attribute, with a value if one is given."""
    row = USER_ATTRS.alias()
    there = and_(row.c.trial_id == TRIALS.c.trial_id, row.c.key == key)
    same = sql.true() if value is None else row.c.value_json == json.dumps(value)
    return sql.exists().where(there, same)


IS_POINT = ~has(SEED_INDEX)  # and no further seed of one


@dataclass(frozen=True)
class Tally:
    """A study's trials up to one of them: how many, how many points, and the highest number."""

    last_id: int = -1
    trials: int = 0
    points: int = 0
    number: int = -1

    def on_to_now(self, connection: Connection, study_id: int) -> Tally:
        """Count on, in a transaction that holds the study's lock.

        No trial of a study is ever deleted alone, and as each is made under the lock, what was
        made later has a higher id.
        """
        new = and_(TRIALS.c.study_id == study_id, TRIALS.c.trial_id > self.last_id)
        used = TRIALS.c.number <= MOST  # somebody else may have given any number
        columns = (
            sql.func.max(TRIALS.c.trial_id),
            sql.func.count(),
            sql.func.count().filter(IS_POINT),
            sql.func.max(TRIALS.c.number).filter(used),
        )  # in one statement: all workers wait for it
        last_id, trials, points, number = connection.execute(select(*columns).where(new)).one()
        if last_id is None:
            return self
        number = self.number if number is None else max(self.number, int(number))
        return Tally(last_id, self.trials + trials, self.points + points, number)
