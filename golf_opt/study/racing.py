"""Racing: further seeds for the points that may still win, and for no other.

A point begins with one seed. One that may be better than its rival, by a paired test on the seeds
that both have, gets another; one that is significantly worse never does. The rival is the best of
the points that are no worse in what has no noise, such as the number of parameters: with one goal
the best of all, with several the best of those at most as large. It gets further seeds too, when
somebody challenges it, so that it does not stay on top by luck.

The test is Student's t on the differences, seed by seed. Their variance is steadied by the noise of
all points' seeds (`utils.points.moderated`), since two differences tell next to nothing of it: so a
single seed far below the best is enough to drop a point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import TrialState

from golf_opt.study.allocation import Choice, Repeat, Rule, Trials, last_epoch, num_begun
from golf_opt.study.interest import floor_below
from golf_opt.utils.points import (
    Noise,
    Point,
    Statistic,
    moderated,
    points_of,
    seed_noise_of,
)


@dataclass(frozen=True)
class Contender:
    """A point in the race. All values are such that larger is better."""

    number: int
    values: Mapping[int, float]  # of the first goal, by seed
    others: tuple[float, ...]  # of the other goals, which have no noise
    rank: float
    tried: int  # seeds that it had, has, or is about to have
    pending: int  # of these, not finished

    @property
    def mean(self) -> float:
        """Of the first goal, over the seeds that are known."""
        return sum(self.values.values()) / len(self.values)

    def no_larger_than(self, other: Contender) -> bool:
        """Whether it is no worse in what has no noise."""
        return all(a >= b for a, b in zip(self.others, other.others, strict=True))


@dataclass(frozen=True)
class Racing:
    """Decides which point gets another seed.

    Args:
        most: seeds of a point.
        alpha: below this chance of being better than its rival a point is out of the race.
        share: of all epochs that further seeds may take, as long as new points are asked for.
        front: whether accuracy and size are weighed: see `interest`.
    """

    most: int
    alpha: float = 0.1
    share: float = 0.5
    front: bool = False

    def choose(
        self,
        points: Sequence[Point],
        statistic: Statistic,
        signs: Sequence[int] = (1,),
        last: bool = False,
    ) -> tuple[int, int] | None:
        """Return the number of the point that gets another seed and the seed's index, or None.

        Args:
            points: of the study.
            statistic: what points rank by.
            signs: of each goal, what makes the better one of two values the larger one.
            last: whether no new points are asked for any more.
        """
        if not last and share_with_another(points) > self.share:
            return None
        noise = seed_noise_of(points, signs[0])
        contenders = [
            _contender(point, statistic, signs, noise)
            for point in points
            if point.first.state == TrialState.COMPLETE and 0 in point.results  # few are
        ]
        if self.front and contenders:
            floor = floor_below(max(contender.mean for contender in contenders))
            contenders = [contender for contender in contenders if contender.mean >= floor]
        contenders.sort(key=lambda c: (-c.rank, c.number))
        best: tuple[float, Contender] | None = None
        rivals: list[Contender] = []  # those that have none themselves: the others are behind one
        seen = set()  # rivals that a better point of one seed has been compared with
        for challenger in contenders:
            rival = next((r for r in rivals if r.no_larger_than(challenger)), None)
            if rival is None:
                rivals.append(challenger)
                continue
            single = len(challenger.values) == 1
            who = self._next_of(challenger, rival, last)
            if who is None or (single and rival.number in seen):
                continue
            if single:
                seen.add(rival.number)
            chance = chance_better(challenger, rival, noise)
            if chance >= self.alpha and (best is None or chance > best[0]):
                best = chance, who
        if best is None:
            return None
        return best[1].number, best[1].tried

    def _next_of(self, challenger: Contender, rival: Contender, last: bool) -> Contender | None:
        """Return which of two gets a seed: the one with fewer; of equals, the one ahead."""
        fewer = challenger if challenger.tried < min(rival.tried, self.most) else rival
        if fewer is rival and rival.tried >= self.most:
            fewer = challenger
        waits = (fewer.pending or challenger.pending) and not last  # what runs may drop it
        return None if waits or fewer.tried >= self.most else fewer


class FurtherSeeds(Rule):
    """The same number of seeds for every point.

    Args:
        most: seeds of a point.
        at_once: whether they begin beside the first one. Where that may be given up or paused, they
            wait until it is complete; they themselves never are, or the mean would be of those that
            did well.
    """

    def __init__(self, most: int, at_once: bool) -> None:
        self._most, self._at_once = most, at_once

    def choose(self, trials: Trials) -> Choice | None:
        for point in points_of(trials):
            running = self._at_once and point.first.state == TrialState.RUNNING
            has_begun = running and point.first.params  # which the further ones take over
            if (0 in point.results or has_begun) and max(point.trials) + 1 < self._most:
                return Repeat(point.number, max(point.trials) + 1)
        return None


class Raced(Rule):
    """Further seeds for points that may still win: see `Racing`.

    Args:
        racing: decides.
        statistic: what points rank by.
        signs: of each goal, what makes the better one of two values the larger one.
        total: points that the study is to have; None is no limit.
    """

    def __init__(
        self, racing: Racing, statistic: Statistic, signs: Sequence[int], total: int | None
    ) -> None:
        self._racing, self._statistic, self._signs = racing, statistic, signs
        self._total = total
        self._known: tuple[tuple[int, int, bool], Choice | None] | None = None

    def choose(self, trials: Trials) -> Choice | None:
        finished = sum(trial.state.is_finished() for trial in trials)
        last = self._total is not None and num_begun(trials) >= self._total
        moment = len(trials), finished, last  # all that it depends on
        if self._known is None or self._known[0] != moment:
            found = self._racing.choose(points_of(trials), self._statistic, self._signs, last)
            self._known = moment, None if found is None else Repeat(*found)
        return self._known[1]


def share_with_another(points: Sequence[Point]) -> float:
    """Return the share of all epochs that further seeds take, with one more seed of some point.

    What runs, or is complete and reported nothing, counts as long as the longest training so far.
    """
    longest = (
        max((last_epoch(t) for point in points for t in point.trials.values()), default=0) or 1
    )
    first, further = 0, longest
    for point in points:
        for index, trial in point.trials.items():
            running = trial.state == TrialState.RUNNING
            epochs = longest if running else last_epoch(trial) or longest
            first, further = (first, further + epochs) if index else (first + epochs, further)
    return further / (first + further)


def _contender(
    point: Point, statistic: Statistic, signs: Sequence[int], noise: Noise | None
) -> Contender:
    sign, rows = signs[0], point.results
    others = tuple(s * v for s, v in zip(signs[1:], rows[0][1:], strict=True))
    values = [values[0] for values in rows.values()]
    return Contender(
        point.number,
        {index: sign * values[0] for index, values in rows.items()},
        others,
        statistic.rank(values, sign, noise),
        max(point.trials) + 1,
        point.pending,
    )


def chance_better(challenger: Contender, rival: Contender, noise: Noise | None) -> float:
    """Return the chance that a point is better than its rival, by the seeds that both have.

    It is a half where nothing is known of the noise.
    """
    differences = [
        value - rival.values[index]
        for index, value in challenger.values.items()
        if index in rival.values
    ]
    count = len(differences)
    mean = sum(differences) / count
    squares = sum((difference - mean) ** 2 for difference in differences)
    spread = moderated(squares, count - 1, noise, scale=2)  # of the difference of two
    if spread is None:
        return 0.5
    if spread.sd == 0:
        return 0.5 if mean == 0 else float(mean > 0)
    from scipy.special import stdtr  # a second less than scipy.stats takes to import

    return float(stdtr(spread.freedom, mean / (spread.sd / math.sqrt(count))))
