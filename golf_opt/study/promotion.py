"""Pausing trials that are not yet good, and promoting the best of them: `pruner=promote`.

Asynchronous successive halving, with what a stored state adds to it: nothing is given up. A trial
that reaches a rung, the end of a certain epoch, goes on if it is among the best 1/reduction_factor
of those that reached it, and not as many have gone on before; otherwise it is paused and its lane
takes another trial. As more trials reach the rung, more of the paused ones go on from their state.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, StrictInt

from golf_opt.config.check import check
from golf_opt.storage.optuna_internals import front_numbers
from golf_opt.study.allocation import Choice, GoOn, Rule, Trials, last_epoch
from golf_opt.study.curves import extrapolated
from golf_opt.study.interest import floor_below
from golf_opt.task.goals import Goal
from golf_opt.utils.points import is_further_seed
from golf_opt.utils.trials import attribute, changed, of_kind, paused_at

Rank = Literal["value", "extrapolated"]


class Promote(NopPruner):
    """What `conf/pruner/promote.yaml` names. As a pruner of Optuna's it ends no trial.

    Args:
        min_resource: epochs up to the first rung.
        reduction_factor: of the trials at a rung one in so many goes on; each rung is that many
            times as high as the one below.
        rank: trials by their value at the rung, or by what their curve comes to at the last epoch.

    Raises:
        UsageError: one of them is none.
    """

    def __init__(
        self, min_resource: int = 1, reduction_factor: int = 3, rank: Rank = "value"
    ) -> None:
        self.first = check(
            Annotated[StrictInt, Field(ge=1, le=10_000)], min_resource, "pruner.min_resource"
        )
        self.factor = check(
            Annotated[StrictInt, Field(ge=2, le=100)], reduction_factor, "pruner.reduction_factor"
        )
        self.rank: Rank = check(Rank, rank, "pruner.rank")

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs at whose ends trials are looked at, all below the last one."""
        found, rung = [], self.first
        while rung < epochs:
            found.append(rung)
            rung *= self.factor
        return found


class Promotion(Rule):
    """Promotes the best paused trial of the highest rung that has one to promote.

    Further seeds of a point are none of its business: they are trained to the end. Beyond a
    target accuracy counts for nothing, and only size does.
    """

    def __init__(
        self, pruner: Promote, goals: Sequence[Goal], epochs: int, target: float | None = None
    ) -> None:
        self._pruner, self._goals, self._epochs = pruner, goals, epochs
        self._most = math.inf if target is None else target
        self._rungs = pruner.rungs(epochs)
        self._known: dict[tuple[int, int], list[float]] = {}  # by trial and rung: what ranks it
        self._standing = _Standing()

    def choose(self, trials: Trials) -> Choice | None:
        if len(self._goals) == 1:
            self._standing.update(trials, self._entries)
            number = self._standing.promoted(self._pruner.factor)
            return None if number is None else GoOn(number)
        firsts = [trial for trial in trials if not is_further_seed(trial)]
        paused = self._paused(firsts)
        for rung in sorted(paused, reverse=True):
            reached = self._reached(firsts, rung)
            waiting = {trial.number for trial in paused[rung]}
            places = len(reached) // self._pruner.factor
            if len(reached) - len(waiting) >= places:
                continue  # those that were among the best when they were asked have taken them all
            for trial in self.ranked(reached, rung, places):
                if trial.number in waiting:
                    return GoOn(trial.number)
        return None

    def _entries(self, trial: FrozenTrial) -> list[_Entry]:
        """Return where a trial stands, of one goal."""
        if is_further_seed(trial):
            return []
        waits_at, found = self._rung_of(trial), []
        for rung in self._rungs:
            if self._reached([trial], rung):
                place = -self._worth_at(trial, rung)[0], trial.number
                found.append((rung, False, place))
                if rung == waits_at:
                    found.append((rung, True, place))
        return found

    def until(self, trial: FrozenTrial, epochs: int) -> int:
        ahead = () if is_further_seed(trial) else self._rungs
        return next((rung for rung in ahead if rung > last_epoch(trial)), epochs)

    def ranked(self, reached: Trials, rung: int, count: int) -> list[FrozenTrial]:
        """Return the best `count` that reached a rung, the best first, equal ones by number."""
        worth = np.array([self._worth_at(trial, rung) for trial in reached])
        if self._goals[0].accuracy and len(self._goals) > 1:
            of_interest = worth[:, 0] >= floor_below(worth[:, 0].max())
            worth[~of_interest, 1:] = -np.inf  # among themselves by accuracy, after all others
        return [reached[index] for index in _best_first(worth, count)]

    def best_paused(self, trials: Trials) -> FrozenTrial | None:
        """Return the best paused trial of the highest rung that has any."""
        paused = self._paused(trials)
        return self.ranked(paused[max(paused)], max(paused), 1)[0] if paused else None

    def _paused(self, trials: Trials) -> dict[int, list[FrozenTrial]]:
        """Return the paused trials by the highest rung that each has reached."""
        found = defaultdict(list)
        for trial in trials:
            if (rung := self._rung_of(trial)) is not None:
                found[rung].append(trial)
        return found

    def _reached(self, trials: Trials, rung: int) -> list[FrozenTrial]:
        return [
            trial
            for trial in trials
            if trial.state != TrialState.FAIL and rung in trial.intermediate_values
        ]

    def _rung_of(self, trial: FrozenTrial) -> int | None:
        """Return the highest rung that a paused trial has reached."""
        epoch = paused_at(trial)
        if epoch is None:
            return None
        values = trial.intermediate_values
        if epoch in values and epoch in self._rungs:  # as nearly always
            return epoch
        return next((r for r in reversed(self._rungs) if r <= epoch and r in values), None)

    def _worth_at(self, trial: FrozenTrial, rung: int) -> list[float]:
        key = trial.number, rung
        if key not in self._known:
            self._known[key] = self._worth(trial, rung)
        return self._known[key]

    def _worth(self, trial: FrozenTrial, rung: int) -> list[float]:
        """Return what ranks a trial at a rung, a number for each goal; larger is better."""
        first, *others = self._goals
        value = trial.intermediate_values[rung]
        if self._pruner.rank == "extrapolated":
            so_far = {e: v for e, v in trial.intermediate_values.items() if e <= rung}
            value = extrapolated(so_far, self._epochs, first.sign)
        row = [min(first.sign * value, self._most)]
        kept = attribute(trial, "epoch_values", dict) or {}
        for goal in others:
            by_epoch = of_kind(kept.get(goal.name), list) or []
            size = trial.user_attrs.get("num_params") if goal.name == "parameters" else None
            worth = of_kind(by_epoch[rung - 1] if rung <= len(by_epoch) else size, float)
            row.append(-np.inf if worth is None else goal.sign * worth)
        return [-np.inf if np.isnan(number) else number for number in row]


_Entry = tuple[int, bool, tuple[float, int]]  # rung, whether it waits there, place: sorted by it


class _Standing:
    """Who has reached each rung, the best first, kept up as trials change: they may be many."""

    def __init__(self) -> None:
        self._seen: Trials = ()
        self._entries: dict[int, list[_Entry]] = {}  # by the trial's number
        self._at: dict[tuple[int, bool], list[tuple[float, int]]] = defaultdict(list)

    def update(self, trials: Trials, entries_of: Callable[[FrozenTrial], list[_Entry]]) -> None:
        """Take note of the trials that are new or changed, and of no other."""
        if len(trials) < len(self._seen):
            self._entries.clear()
            self._at.clear()
            self._seen = ()
        for trial in changed(trials, self._seen):
            old, new = self._entries.get(trial.number, []), entries_of(trial)
            if new == old:
                continue
            for rung, waits, place in old:
                places = self._at[rung, waits]
                del places[bisect.bisect_left(places, place)]
            for rung, waits, place in new:
                bisect.insort(self._at[rung, waits], place)
            self._entries[trial.number] = new
        self._seen = list(trials)

    def promoted(self, factor: int) -> int | None:
        """Return the number of the best that waits at the highest rung that has a place for it."""
        for rung in sorted((rung for rung, waits in self._at if waits), reverse=True):
            reached, waiting = self._at[rung, False], self._at[rung, True]
            places = len(reached) // factor
            if not waiting or len(reached) - len(waiting) >= places:
                continue  # those that were among the best when they were asked have taken them all
            if bisect.bisect_left(reached, waiting[0]) < places:
                return waiting[0][1]
        return None


class AtLeastOne(Rule):
    """Lets the best go on to the end where otherwise none would have got there."""

    def __init__(self, promotion: Promotion) -> None:
        self._promotion = promotion

    def choose(self, trials: Trials) -> Choice | None:
        if any(trial.state in (TrialState.RUNNING, TrialState.COMPLETE) for trial in trials):
            return None
        best = self._promotion.best_paused(trials)
        return None if best is None else GoOn(best.number)


def _best_first(worth: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Return the best `count` of rows of numbers of which larger are better, [rows, goals].

    Of several goals, those come first that no other row beats in all of them, then those that only
    such rows beat, and so on; of each such front those that stand most alone.
    """
    if worth.shape[1] == 1:
        return np.argsort(-worth[:, 0], kind="stable")[:count]
    fronts, alone = front_numbers(-worth, count), np.zeros(len(worth))
    for front in np.unique(fronts):
        rows = np.flatnonzero(fronts == front)
        for column in np.clip(worth[rows], -1e300, 1e300).T:
            order = np.argsort(column, kind="stable")
            width = max(column[order[-1]] - column[order[0]], 1e-300)
            gaps = np.full(len(rows), np.inf)
            gaps[1:-1] = (column[order[2:]] - column[order[:-2]]) / width
            alone[rows[order]] += gaps
    return np.lexsort((-alone, fronts))[:count]
