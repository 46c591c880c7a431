"""What of a budget is spent: in SQL, for any worker at any moment."""

from __future__ import annotations

import sqlalchemy as sql
from optuna.trial import TrialState
from sqlalchemy import and_, select
from sqlalchemy.engine import Connection, Engine

from golf_opt.storage.changing import Changing
from golf_opt.storage.tables import CLOCKS, REPORTS, RESERVATIONS, TRIALS


def time_of(engine: Engine) -> float:
    """Return a database's time, in seconds since 1970."""
    clock: sql.ColumnElement[float] = sql.literal_column(CLOCKS[engine.dialect.name])
    with engine.connect() as connection:
        return float(connection.scalar(select(clock)) or 0)


def spent(connection: Connection, study_id: int, changing: Changing, but: int | None = None) -> int:
    """Return the epochs that a study's trials have reported, or may still train.

    A running trial counts with what is reserved for it, where that is more: so what other workers
    have trained and not yet written is in it. A reservation ends when its trial does, or waits.

    Args:
        connection: in whose transaction to look.
        study_id: of the study.
        changing: the trials to ask for; the epochs of the others are known.
        but: a trial that is left out.
    """
    so_far = (
        select(sql.func.count())
        .where(REPORTS.c.trial_id == RESERVATIONS.c.trial_id, REPORTS.c.step > 0)
        .scalar_subquery()
    )
    epochs = changing.epochs
    for part in changing.parts(study_id):
        trials = and_(part, TRIALS.c.trial_id != (but or 0))
        joined = and_(trials, REPORTS.c.trial_id == TRIALS.c.trial_id, REPORTS.c.step > 0)
        epochs += int(connection.scalar(select(sql.func.count()).where(joined)) or 0)
        reserved = and_(
            trials,
            TRIALS.c.state == TrialState.RUNNING,
            RESERVATIONS.c.trial_id == TRIALS.c.trial_id,
        )
        rows = connection.execute(select(RESERVATIONS.c.until, so_far).where(reserved))
        epochs += sum(max(0, until - int(n)) for until, n in rows if isinstance(until, int))
    return epochs


def granted(
    connection: Connection,
    study_id: int,
    changing: Changing,
    trial_id: int,
    done: int,
    until: int,
    limit: int,
) -> int:
    """Return up to which epoch a trial may train, of a budget that others draw on too.

    Args:
        connection: in whose transaction, which holds the study's lock.
        study_id: of its study.
        changing: the study's trials to ask for.
        trial_id: of the trial.
        done: epochs of it that are finished.
        until: the epoch that it is to reach.
        limit: epochs that the study may take in all.
    """
    left = limit - spent(connection, study_id, changing, but=trial_id) - done
    return min(until, done + max(0, left))
