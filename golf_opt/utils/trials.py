"""What trials say: which is the best, and how many are in which state.

Values and attributes come from a database that others may write to. So nothing is expected of them:
what is not of its kind counts as not there.
"""

from __future__ import annotations

import contextlib
import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, repeat
from operator import is_not
from typing import Any, TypeVar

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

PAUSED = "golf_opt:paused"  # the system attribute of a paused trial: the epoch that it reached
MOST_BITS = 63  # of a whole number, as in NumPy and in databases
Kind = TypeVar("Kind", int, float, str, dict[str, Any], list[Any])


class KnownTrials(list[FrozenTrial]):
    """All trials of a study, and what would else be looked for among them again and again.

    Args:
        trials: in any state.
        open: of these, those that are not finished, in any order.
        points_ended: of those that are, how many are no further seed of a point.
    """

    def __init__(
        self, trials: Iterable[FrozenTrial], open: list[FrozenTrial], points_ended: int
    ) -> None:
        super().__init__(trials)
        self.open, self.points_ended = open, points_ended


def changed(trials: Sequence[FrozenTrial], before: Sequence[FrozenTrial]) -> Iterator[FrozenTrial]:
    """Yield those trials of a list that are new, or not what was at their place before.

    A storage puts a changed copy in place of a trial, so that comparing identities will do.
    """
    padded: Iterable[FrozenTrial | None] = chain(before, repeat(None))
    return compress(trials, map(is_not, trials, padded))


def attribute(trial: FrozenTrial, name: str, kind: type[Kind]) -> Kind | None:
    """Return a user attribute of a trial; None where it is missing or of another kind.

    A whole number is a float too. No float is NaN or infinite, no whole number has over 63 bits.
    """
    return of_kind(trial.user_attrs.get(name), kind)


def of_kind(value: object, kind: type[Kind]) -> Kind | None:
    """Return a value that somebody else stored; None where it is of another kind."""
    if kind is float and type(value) in (int, float):
        with contextlib.suppress(OverflowError):
            number = float(value)  # type: ignore[arg-type]
            return number if math.isfinite(number) else None  # type: ignore[return-value]
        return None
    if type(value) is not kind or (isinstance(value, int) and value.bit_length() > MOST_BITS):
        return None
    return value


def paused_at(trial: FrozenTrial) -> int | None:
    """Return the epoch after which a trial is paused; None of one that is not.

    A paused trial waits, as Optuna sees it, but goes on only when it is promoted.
    """
    if trial.state != TrialState.WAITING:
        return None
    return of_kind(trial.system_attrs.get(PAUSED), int)


def state_words(trial: FrozenTrial) -> str:
    """Return `complete`, or `paused at epoch 4`."""
    epoch = paused_at(trial)
    return trial.state.name.lower() if epoch is None else f"paused at epoch {epoch}"


def epoch_losses(trial: FrozenTrial) -> list[float]:
    """Return the training loss of each epoch, NaN where what is kept is no number."""
    losses = (of_kind(loss, float) for loss in attribute(trial, "epoch_losses", list) or ())
    return [math.nan if loss is None else loss for loss in losses]


def best_trials(
    trials: Iterable[FrozenTrial],
    count: int,
    direction: StudyDirection = StudyDirection.MAXIMIZE,  # of every net of ours
) -> list[FrozenTrial]:
    """Return up to `count` complete trials, the best first, equal ones by number.

    A value that is infinite or NaN, both of which a database may hold, is no result. Of trials with
    several values none is best, and none is returned.
    """
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    ranked = (
        (sign * trial.values[0], trial.number, trial)
        for trial in trials
        if trial.state == TrialState.COMPLETE
        and len(trial.values) == 1
        and math.isfinite(trial.values[0])
    )
    return [trial for *_, trial in heapq.nsmallest(count, ranked, key=lambda row: row[:2])]


def counts(study: optuna.Study) -> dict[str, int]:
    """Return how many trials are in each state, by its lower-case name; paused ones do not wait."""
    trials = study.get_trials(deepcopy=False)
    tally = Counter("paused" if paused_at(t) is not None else t.state.name.lower() for t in trials)
    return {state: tally[state] for state in (*(s.name.lower() for s in TrialState), "paused")}
