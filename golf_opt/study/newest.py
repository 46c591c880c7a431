"""Which trials of a long study a model learns from: the newest, and the best of those before them.

Asking TPE takes as long as it has trials to look at. Of those that are not among the best it weighs
each the less the older it is; in a study of several thousand trials the oldest make no difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from golf_opt.storage.lean_tpe import best_of
from golf_opt.utils.points import POINT, is_further_seed
from golf_opt.utils.trials import attribute, paused_at

MOST = 2000  # trials, of which none is left out
BLOCK = 200  # trials that become old together: sorting them out is not for every ask
BEST = 200  # of the older ones; TPE calls 25 good where one value is optimised
RUNNING = TrialState.RUNNING


class NewestAndBest:
    """The newest trials of a study, with the best of the older ones and those that still run.

    Up to `MOST` trials it is all of them. What is returned depends on the trials alone, not on when
    it was asked for before; older trials are looked at once, as they become so. Of a point with
    several seeds all are there, or none.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self.several = False  # whether some point has several seeds
        self._checked = 0  # so many of the first trials were looked at for that
        self._looked = 0  # so many of the first trials are older ones
        self._best: list[int] = []  # their places among the trials
        self._open: list[int] = []  # of those that were not finished when last looked at
        self._shown: list[int] = []
        self._seeds: dict[int, list[int]] = defaultdict(list)  # of older ones, by their point

    def of(self, study: optuna.Study, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return those that count, in their order.

        Args:
            study: whose directions say what is best.
            trials: all of its, in an order that only grows at its end.
        """
        older = max(0, len(trials) - self._most) // BLOCK * BLOCK
        new = trials[max(0, self._checked - BLOCK) :]  # other workers' may come in late
        self.several = self.several or any(map(is_further_seed, new))
        self._checked = len(trials)
        if not older:
            return trials
        if older != self._looked:
            self._look(study, trials, older)
        newest = trials[older:]
        further = filter(is_further_seed, newest if self.several else ())
        points = {attribute(trial, POINT, int) for trial in further}
        shown = set(self._shown).union(p for p in points if p is not None and 0 <= p < older)
        shown |= {seed for point in shown & self._seeds.keys() for seed in self._seeds[point]}
        return [trials[place] for place in sorted(shown)] + newest

    def _look(self, study: optuna.Study, trials: list[FrozenTrial], older: int) -> None:
        """Sort out the trials before a place."""
        kept = self._best + self._open
        for place in range(self._looked, older):
            if is_further_seed(trials[place]):
                point = attribute(trials[place], POINT, int)
                self._seeds[-1 if point is None else point].append(place)
            else:
                kept.append(place)
        self._open = [place for place in kept if not trials[place].state.is_finished()]
        places = {id(trials[p]): p for p in kept if trials[p].state in _RESULTS}
        good = best_of(study, [trials[place] for place in sorted(places.values())], BEST)
        self._best = [places[id(trial)] for trial in good]
        running = [place for place in self._open if trials[place].state == RUNNING]
        self._shown = self._best + running + _furthest(trials, self._open)
        self._looked = older


_RESULTS = (TrialState.COMPLETE, TrialState.PRUNED)


def _furthest(trials: Sequence[FrozenTrial], places: Sequence[int]) -> list[int]:
    """Return the places of those paused trials that got furthest, of equals the newest."""
    paused = ((at, place) for place in places if (at := paused_at(trials[place])) is not None)
    return [place for _, place in sorted(paused)[-BEST:]]
