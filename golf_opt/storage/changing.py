"""Which trials of a study may change: the few that are worth a question, however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, or_

from golf_opt.storage.tables import TRIALS

MOST_IDS = 500  # named in one statement; databases have limits


@dataclass(frozen=True)
class Changing:
    """All trials of a study but those that were known to be finished, who do not change any more.

    Without anything known, they are all trials.

    Args:
        ids: of trials that were not finished when they were read.
        last_id: that was read; trials with a higher one are not known.
        epochs: that the finished ones reported.
    """

    ids: Set[int] = frozenset()
    last_id: int = -1
    epochs: int = 0

    def parts(self, study_id: int) -> Iterator[ColumnElement[bool]]:
        """Yield conditions, each of which holds for a part of the trials, and for no other's."""
        mine, ids = TRIALS.c.study_id == study_id, sorted(self.ids)
        old = [number for number in ids if number <= self.last_id]
        new = TRIALS.c.trial_id > self.last_id
        yield and_(mine, or_(new, TRIALS.c.trial_id.in_(_numbers(old[:MOST_IDS]))))
        for begin in range(MOST_IDS, len(old), MOST_IDS):
            yield and_(mine, TRIALS.c.trial_id.in_(_numbers(old[begin : begin + MOST_IDS])))


def _numbers(ids: list[int]) -> BindParameter[int]:
    """Return ids as they stand in the statement: a parameter each takes a driver longer."""
    return bindparam("ids", ids, unique=True, expanding=True, literal_execute=True)
