"""Points: one set of parameters each, tried on one seed or several, and what their seeds say.

A trial is one training. Further seeds of a point are further trials, which name the point's first
trial and which seed they are; a trial that says nothing of it is a point of its own. So a study
without further seeds has as many points as trials, and its points are its trials.
"""

from __future__ import annotations

import copy
import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from typing import Literal, NamedTuple

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from golf_opt.utils.stats import CONFIDENCE
from golf_opt.utils.trials import attribute, of_kind

POINT, SEED_INDEX = "point", "seed_index"  # user attributes of a further seed of a point
SEEDS = "seeds"  # a user attribute of a point seen as one trial: the first value on each seed
PRIOR = 3  # degrees of freedom, at most, that the study's noise has beside a point's own
FIXED_PARAMS = "fixed_params"  # Optuna's system attribute: parameters that no sampler is asked for
CONSTRAINT = "constraints"  # with :NAME, Optuna's system attribute of a constraint


def further_seed(point: FrozenTrial, index: int) -> FrozenTrial:
    """Return what a further seed of a point begins as: a running trial of the same parameters."""
    made = create_trial(
        state=TrialState.RUNNING,
        user_attrs={POINT: point.number, SEED_INDEX: index},
        system_attrs={FIXED_PARAMS: point.params},
    )
    made.datetime_start = datetime.now()
    return made


def begins_a_seed(trial: FrozenTrial) -> bool:
    """Return whether a trial to be made is what `further_seed` returns."""
    return trial.state == TrialState.RUNNING and is_further_seed(trial)


def is_further_seed(trial: FrozenTrial | optuna.Trial) -> bool:
    """Return whether a trial is of a point that another one began."""
    return SEED_INDEX in trial.user_attrs


@dataclass(frozen=True)
class Noise:
    """The standard deviation among seeds of a study's points, and its degrees of freedom."""

    sd: float
    freedom: int


@dataclass(frozen=True)
class Point:
    """One set of parameters and its trials: `trials[index]` is of seed `index`; 0 is the first."""

    trials: dict[int, FrozenTrial]

    @property
    def first(self) -> FrozenTrial:
        return self.trials[0]

    @property
    def number(self) -> int:
        return self.first.number

    @cached_property
    def results(self) -> dict[int, list[float]]:
        """The values of each seed that is complete."""
        return {
            index: trial.values
            for index, trial in self.trials.items()
            if trial.state == TrialState.COMPLETE and all(map(math.isfinite, trial.values))
        }

    @property
    def pending(self) -> int:
        """How many of its seeds run, or wait to go on."""
        return sum(not trial.state.is_finished() for trial in self.trials.values())


def points_of(trials: Iterable[FrozenTrial]) -> list[Point]:
    """Return the points of trials, by number.

    A trial that claims to be a seed of a point that is not there, or one that the point has
    already, is a point of its own.
    """
    points: dict[int, Point] = {}
    for trial in trials:
        if not is_further_seed(trial):
            points[trial.number] = Point({0: trial})
            continue
        index, number = attribute(trial, SEED_INDEX, int), attribute(trial, POINT, int)
        point = None if number is None else points.get(number)
        if point and index is not None and index > 0 and index not in point.trials:
            point.trials[index] = trial
        else:
            points[trial.number] = Point({0: trial})
    return list(points.values())


def seed_noise_of(points: Sequence[Point], sign: int = 1) -> Noise | None:
    """Return the noise of seeds in the first value; None where no point has two.

    It is that of the better half of the points with several seeds: bad ones vary more.

    Args:
        points: of one study.
        sign: what makes the better one of two values the larger one.
    """
    several = [point for point in points if len(point.trials) > 1 and len(point.results) > 1]
    groups = [[values[0] for values in point.results.values()] for point in several]
    groups.sort(key=lambda values: -sign * float(np.mean(values)))
    groups = groups[: (len(groups) + 1) // 2]
    freedom = sum(len(values) - 1 for values in groups)
    if not freedom:
        return None
    squares = sum(float(np.var(values)) * len(values) for values in groups)
    return Noise(math.sqrt(squares / freedom), freedom)


def moderated(squares: float, freedom: int, noise: Noise | None, scale: float = 1) -> Noise | None:
    """Return a standard deviation from few values, steadied by the study's noise.

    Args:
        squares: the sum of their squared deviations.
        freedom: their degrees of freedom, 0 of a single value.
        noise: the study's.
        scale: the variance of what is measured, in squares of the noise's sd.
    """
    prior = min(noise.freedom, PRIOR) if noise else 0
    if not prior + freedom:
        return None
    both = (prior * scale * noise.sd**2 if noise else 0.0) + squares
    return Noise(math.sqrt(both / (prior + freedom)), prior + freedom)


@cache
def quantile(freedom: int) -> float:
    """Return Student's t at the upper end of the two-sided 95 % interval."""
    from scipy.special import stdtrit  # a second less than scipy.stats takes to import

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def half_interval(values: Sequence[float], noise: Noise | None) -> float | None:
    """Return half the 95 % interval of the mean of a point's seeds, steadied by the study's noise.

    None of a single value where the noise is not known.
    """
    own = moderated(float(np.var(values)) * len(values), len(values) - 1, noise)
    return None if own is None else quantile(own.freedom) * own.sd / math.sqrt(len(values))


@dataclass(frozen=True)
class Statistic:
    """What a point is worth, by its seeds.

    mean   of its seeds
    lower  the lower confidence bound of the mean, by Student's t (of what is minimised, the upper)
    share  of the seeds that reach a target
    best   the best of its seeds: what luck gives one who trains that often
    """

    kind: Literal["mean", "lower", "share", "best"] = "mean"
    target: float | None = None  # of `share`

    @classmethod
    def parse(cls, text: str) -> Statistic:
        """Read `mean`, `lower`, `best` or `share:0.98`.

        Raises:
            ValueError: it is none of these.
        """
        kind, _, target = text.partition(":")
        if kind == "share" and target:
            number = of_kind(float(target), float)
            if number is not None:
                return cls("share", number)
        if text not in ("mean", "lower", "best"):
            raise ValueError(f"{text!r} is no statistic")
        return cls(text)  # type: ignore[arg-type]

    def of(self, values: Sequence[float], sign: int = 1, noise: Noise | None = None) -> float:
        """Return what the values of a point's seeds are worth, in their own unit; share: in [0, 1].

        Args:
            values: one for each seed, one at least.
            sign: what makes the better one of two values the larger one.
            noise: of the study, for a bound where seeds are few.
        """
        if self.kind == "best":
            return sign * max(sign * value for value in values)
        if self.target is not None:
            return sum(sign * value >= sign * self.target for value in values) / len(values)
        mean = float(np.mean(values)) if len(values) > 1 else values[0]
        if self.kind == "mean":
            return mean
        return mean - sign * (half_interval(values, noise) or 0.0)

    def rank(self, values: Sequence[float], sign: int = 1, noise: Noise | None = None) -> float:
        """Return what a point ranks by, the larger the better.

        Of means of different numbers of seeds the largest is mostly one of few: luck. So they rank
        by the lower bound of the mean, under the noise that the study's own seeds show. Where all
        points have as many seeds it is the order of the means.
        """
        worth = sign * self.of(values, sign, noise)
        if self.kind == "mean" and noise is not None:
            worth -= quantile(noise.freedom) * noise.sd / math.sqrt(len(values))
        if self.kind == "share":  # the mean of what is believed of it, having known nothing
            return (self.of(values, sign) * len(values) + 0.5) / (len(values) + 1)
        return worth

    def words(self, name: str, seeds: str) -> str:
        """Return `mean holdout accuracy of 5 seeds`, of a goal's name and `5 seeds`."""
        if self.target is not None:
            return f"share of {seeds} with {name} of {self.target:g} or better"
        kind = "lower bound of mean" if self.kind == "lower" else self.kind
        return f"{kind} {name} of {seeds}"


MEAN = Statistic()


class Shown(NamedTuple):
    """A point as one trial, and what it ranks by: the larger the better, NaN of one without."""

    trial: FrozenTrial
    rank: float


def shown(
    trials: Sequence[FrozenTrial], statistic: Statistic = MEAN, signs: Sequence[int] = (1,)
) -> list[Shown]:
    """Return each point as one trial: its first, with the statistic of its seeds as values.

    What has no further seeds is returned as it is. Of several values the first is what the
    statistic is of; the others, and constraints, are means. The values on each seed are under the
    user attribute `seeds`, and `statistic=best` names the best trial.

    Args:
        trials: of a study.
        statistic: what a point is worth.
        signs: of each value, what makes the better one of two the larger one.
    """
    points = points_of(trials)
    noise = seed_noise_of(points, signs[0])
    rows = []
    for point in points:
        values = [row[0] for row in point.results.values()]
        rank = statistic.rank(values, signs[0], noise) if 0 in point.results else math.nan
        rows.append(Shown(_as_trial(point, statistic, signs[0], noise), rank))
    return rows


def as_trials(
    trials: Sequence[FrozenTrial], statistic: Statistic = MEAN, signs: Sequence[int] = (1,)
) -> list[FrozenTrial]:
    """Return what `shown` does, without the ranks: the very trials where none is a further seed."""
    if not any(SEED_INDEX in trial.user_attrs for trial in trials):  # they may be thousands
        return list(trials)
    return [row.trial for row in shown(trials, statistic, signs)]


def _as_trial(point: Point, statistic: Statistic, sign: int, noise: Noise | None) -> FrozenTrial:
    first, rows = point.first, point.results
    if len(point.trials) == 1 or 0 not in rows:
        return first
    columns = [list(column) for column in zip(*rows.values(), strict=True)]
    shown = first
    if statistic.kind == "best":
        shown = point.trials[max(rows, key=lambda index: (sign * rows[index][0], -index))]
    made = copy.copy(shown)
    means = [float(np.mean(column)) for column in columns[1:]]
    made.values = [statistic.of(columns[0], sign, noise), *means]
    made.user_attrs = shown.user_attrs | {SEEDS: columns[0]}
    limits = [point.trials[index].constraints for index in rows]
    made.system_attrs = shown.system_attrs | {
        f"{CONSTRAINT}:{name}": float(np.mean([row[name] for row in limits]))
        for name in shown.constraints
        if all(name in row for row in limits)
    }
    return made


def best_points(
    trials: Sequence[FrozenTrial],
    count: int,
    direction: StudyDirection = StudyDirection.MAXIMIZE,  # of every net of ours
    statistic: Statistic = MEAN,
) -> list[FrozenTrial]:
    """Return up to `count` points as `shown` has them, the best first, equal ones by number.

    A value that is infinite or NaN, both of which a database may hold, is no result. Of points with
    several values none is best, and none is returned.
    """
    sign = -1 if direction == StudyDirection.MINIMIZE else 1
    ranked = (
        (-rank, trial.number, trial)
        for trial, rank in shown(trials, statistic, (sign,))
        if math.isfinite(rank) and len(trial.values) == 1
    )
    return [trial for *_, trial in heapq.nsmallest(count, ranked, key=lambda row: row[:2])]


def best_trial(study: optuna.Study, statistic: Statistic = MEAN) -> FrozenTrial | None:
    """Return the best point of a study; None without one, and where objectives are several."""
    if len(study.directions) > 1:
        return None
    trials = study.get_trials(deepcopy=False)
    return next(iter(best_points(trials, 1, study.direction, statistic)), None)


def seeds_of(trial: FrozenTrial) -> int:
    """Return on how many seeds the values of a trial are that `shown` gave."""
    return len(attribute(trial, SEEDS, list) or (None,))
