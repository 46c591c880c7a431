"""Optuna's TPE without its repetition: the same points, for less. Private parts of it are here.

Optuna reads what it needs of every trial anew: several times an ask, and again for each parameter,
or group of parameters, that it models by itself. Nearly all trials are those of the ask before, so
what is read of them is kept, as rows of arrays, and each model is made once for a look.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers._tpe import sampler as tpe
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.probability_distributions import (
    _BatchedCategoricalDistributions,
    _unique_inverse_2d,
)
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from golf_opt.storage.optuna_internals import SeenStudy

Rows = npt.NDArray[np.intp]
Params = Callable[[FrozenTrial], dict[str, Any]]

COMPLETE, PRUNED, INFEASIBLE, RUNNING, OTHER = range(5)  # in the order in which TPE ranks them
NUMBER, KIND, FIRST, SECOND, SPACE = range(5)  # columns of facts; the middle ones rank trials
LOG_ROOT_2_PI = math.log(2 * math.pi) / 2
ROWS = 24  # of densities that are worked out together: what fits a processor's cache
SPARE = 1000  # rows of trials that changed since, beyond as many as there are trials


class Memory:
    """What TPE needs of trials, a row for each.

    A trial is known by the object that it is: storages put a changed copy in place of a trial.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._row_of: dict[int, int] = {}  # by the trial's identity
        self._trials: list[FrozenTrial] = []  # by row; as long as they are here it is nobody else's
        self._params: list[dict[str, Any]] = []  # by row
        self._spaces: dict[int, tuple[object, int]] = {}  # by the identity of their distributions
        self._space_ids: dict[tuple[Any, ...], int] = {}
        self._facts = np.empty((0, 5))
        self._columns: dict[str, tuple[BaseDistribution, npt.NDArray[np.float64]]] = {}

    def rows(self, study: optuna.Study, trials: Sequence[FrozenTrial], params: Params) -> Rows:
        """Return the rows of trials.

        Args:
            study: whose direction ranks them.
            trials: of it.
            params: returns what a trial was, or is going to be, asked for.
        """
        if len(self._trials) > 2 * len(trials) + SPARE:
            self._forget()
        found = list(map(self._row_of.get, map(id, trials)))
        if None in found:
            new = [trial for trial, row in zip(trials, found, strict=True) if row is None]
            for row, trial in enumerate(new, len(self._trials)):
                self._row_of[id(trial)] = row
            self._trials += new
            self._params += map(params, new)
            facts = [(t.number, *_rank(t, study), self._space(t.distributions)) for t in new]
            self._facts = np.concatenate([self._facts, facts])
            found = list(map(self._row_of.get, map(id, trials)))
        return np.array(found, dtype=np.intp)

    def _space(self, distributions: dict[str, BaseDistribution]) -> int:
        """Return a number that trials of the same distributions share."""
        known = self._spaces.get(id(distributions))
        if known is None or known[0] is not distributions:
            key = tuple(sorted(distributions.items(), key=lambda item: item[0]))
            known = distributions, self._space_ids.setdefault(key, len(self._space_ids))
            self._spaces[id(distributions)] = known
        return known[1]

    def facts(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return number, kind, two numbers to rank by and space of rows: [rows, 5]."""
        return self._facts[rows]

    def trials(self, rows: Rows) -> list[FrozenTrial]:
        return [self._trials[row] for row in rows]

    def observed(
        self, rows: Rows, space: dict[str, BaseDistribution]
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Return the parameters of those rows that have all of a space, as models see them."""
        columns = np.array([self._column(name, space[name])[rows] for name in space])
        present = ~np.isnan(columns).any(axis=0)
        return dict(zip(space, columns[:, present], strict=True))

    def _column(self, name: str, distribution: BaseDistribution) -> npt.NDArray[np.float64]:
        known, column = self._columns.get(name, (distribution, np.empty(0)))
        if known is not distribution and known != distribution:
            column = np.empty(0)
        new = [
            distribution.to_internal_repr(params[name]) if name in params else np.nan
            for params in self._params[len(column) :]
        ]
        column = np.concatenate([column, new])
        self._columns[name] = distribution, column
        return column


class LeanEstimator(_ParzenEstimator):
    """Optuna's mixture; the densities of numbers are worked out as one product of matrices.

    They differ from Optuna's by rounding, about 1e-12 of their logarithms, and what is drawn by
    1e-8: Optuna's own inverse of the normal distribution is no nearer.
    """

    def sample(self, rng: np.random.RandomState, size: int) -> dict[str, npt.NDArray[np.float64]]:
        mixture = self._mixture_distribution
        kernels = rng.choice(len(mixture.weights), p=mixture.weights, size=size)
        drawn, numbers = np.empty((size, len(mixture.distributions))), []
        for place, of in enumerate(mixture.distributions):
            if isinstance(of, _BatchedCategoricalDistributions):
                upto = np.cumsum(of.weights[kernels], axis=-1)
                upto[:, -1] = 1
                drawn[:, place] = (upto < rng.rand(size)[:, None]).sum(axis=-1)
            else:
                numbers.append((place, of))
        shares = rng.uniform(size=(len(numbers), size))
        for (place, of), share in zip(numbers, shares, strict=True):
            drawn[:, place] = _number(of, kernels, share)
        return self._untransform(drawn)

    def log_pdf(self, samples_dict: dict[str, npt.NDArray[np.float64]]) -> Any:
        samples, mixture = self._transform(samples_dict), self._mixture_distribution
        kernels = np.log(mixture.weights)
        powers, factors, tables = [], [], []  # of numbers; and of what has few values
        for column, of in zip(samples.T, mixture.distributions, strict=True):
            if isinstance(of, _BatchedCategoricalDistributions):
                tables.append((np.log(of.weights.T), column.astype(np.int64)))
                continue
            at = (of.mu - of.adapted_low) / (of.adapted_high - of.adapted_low)  # from 0 to 1
            narrow = (of.adapted_high - of.adapted_low) / of.sigma
            kernels = kernels - _log_mass(-at * narrow, (1 - at) * narrow)
            if of.step:
                tables.append(_log_steps(of, column))
                continue
            place = np.log(column) if of.is_log else column
            place = (place - of.adapted_low) / (of.adapted_high - of.adapted_low)
            powers += [place**2, place]
            factors += [-0.5 * narrow**2, at * narrow**2]
            kernels += -0.5 * (at * narrow) ** 2 - np.log(of.sigma) - LOG_ROOT_2_PI
        powers_of = np.array(powers).reshape(len(powers), len(samples)).T
        factors_of = np.array(factors).reshape(len(powers), len(kernels))
        found = np.empty(len(samples))
        for begin in range(0, len(samples), ROWS):
            rows = slice(begin, begin + ROWS)
            logs = powers_of[rows] @ factors_of + kernels
            for table, row_of in tables:
                logs += table[row_of[rows]]
            found[rows] = _log_sum_exp(logs)
        return found


def _log_sum_exp(logs: npt.NDArray[np.float64]) -> Any:
    """Return the logarithm of the sum of each row of logarithms, which is overwritten."""
    highest = logs.max(axis=1)
    highest[np.isneginf(highest)] = 0
    logs -= highest[:, None]
    with np.errstate(divide="ignore"):
        return np.log(np.exp(logs, out=logs).sum(axis=1)) + highest


def _number(of: Any, kernels: Rows, share: npt.NDArray[np.float64]) -> Any:
    """Return the numbers below which these shares of these kernels lie, on steps if it has some."""
    mu, sigma = of.mu[kernels], of.sigma[kernels]
    low, high = (of.adapted_low - mu) / sigma, (of.adapted_high - mu) / sigma
    number = mu + sigma * _quantile(share, low, high)
    number = np.exp(number) if of.is_log else number
    if not of.step:
        return number
    return np.clip(of.low + np.round((number - of.low) / of.step) * of.step, of.low, of.high)


def _quantile(
    share: npt.NDArray[np.float64], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> Any:
    """Return below what a share of the normal distribution between two numbers lies."""
    from scipy.special import log_ndtr, ndtri_exp

    right = low >= 0  # where its tail is thin to the right, take the left one
    tail = log_ndtr(np.where(right, -high, low))
    part = np.log(np.where(right, 1 - share, share)) + _log_mass(low, high)
    number = ndtri_exp(np.logaddexp(tail, part))
    return np.where(right, -number, number)


def _log_steps(of: Any, column: npt.NDArray[np.float64]) -> tuple[Any, Rows]:
    """Return the logarithms of each kernel's mass, not truncated, on steps; and samples' steps."""
    steps, which_step = np.unique(column, return_inverse=True)
    mu, sigma, which_kernel = _unique_inverse_2d(of.mu, of.sigma)
    sides = steps - of.step / 2, steps + of.step / 2
    low, high = (np.log(side) if of.is_log else side for side in sides)
    masses = _log_mass((low[:, None] - mu) / sigma, (high[:, None] - mu) / sigma)
    return masses[:, which_kernel], which_step


def _log_mass(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> Any:
    """Return the logarithm of the normal distribution's mass between two numbers."""
    from scipy.special import log_ndtr, ndtr

    right = low > 0  # where its tail is thin to the right, take the left one
    low, high = np.where(right, -high, low), np.where(right, -low, high)
    thin, mass = high <= 0, np.empty_like(low)
    of_low, of_high = log_ndtr(low[thin]), log_ndtr(high[thin])
    mass[thin] = of_high + np.log1p(-np.exp(of_low - of_high))
    mass[~thin] = np.log1p(-ndtr(low[~thin]) - ndtr(-high[~thin]))
    return mass


class LeanTPE(optuna.samplers.TPESampler):
    """Optuna's TPE; of a `SeenStudy`, which is one look at it, everything is worked out once.

    `memory` may be handed from one sampler to the next of the same study. `together` points are
    drawn at once, each the best of candidates of its own: hardly dearer than one.
    """

    memory: Memory | None = None
    together = 1
    _asked: optuna.Study | None = None  # for which the following is
    _known: Rows | None = None  # of its trials
    _space: dict[str, BaseDistribution] | None = None  # that models have in common
    _halves: tuple[Rows, Rows] | None = None  # good trials and the others
    _models: dict[tuple[str, ...], tuple[_ParzenEstimator, _ParzenEstimator]]
    _drawn: dict[tuple[str, ...], deque[dict[str, Any]]]

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if not isinstance(study, SeenStudy) or not self._is_multivariate(study):
            return super().infer_relative_search_space(study, trial)
        memory, rows = self._rows(study)
        self._space = self._space or self._space_of(study, trial, memory, rows)
        return self._space

    def _space_of(
        self, study: SeenStudy, trial: FrozenTrial, memory: Memory, rows: Rows
    ) -> dict[str, BaseDistribution]:
        """Return what a point is drawn from: what all finished trials have in common."""
        facts = memory.facts(rows)
        finished = facts[:, KIND] <= INFEASIBLE
        firsts = np.unique(facts[finished, SPACE], return_index=True)[1]
        one_each = memory.trials(rows[finished][np.sort(firsts)])  # further ones change nothing
        if self._group:
            return super().infer_relative_search_space(SeenStudy(study, lambda _: one_each), trial)
        common = intersection_search_space(one_each, include_pruned=True)
        return {name: of for name, of in common.items() if not of.single()}

    def _rows(self, study: SeenStudy) -> tuple[Memory, Rows]:
        """Return the memory, and the rows of the study's trials in it."""
        self.memory = self.memory or Memory()
        if self._asked is not study or self._known is None:
            self._asked, self._halves, self._models = study, None, {}
            self._drawn, self._space = defaultdict(deque), None
            trials = study._get_trials(deepcopy=False, use_cache=True)
            params = partial(self._get_params, study=study)
            self._known = self.memory.rows(study, trials, params)
        return self.memory, self._known

    def _sample(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not isinstance(study, SeenStudy):
            return super()._sample(study, trial, search_space)
        self._parzen_estimator_cls = LeanEstimator
        self._rows(study)
        key = tuple(search_space)
        if key not in self._models:
            self._halves = self._halves or self._divide(study, trial)
            below, above = (
                self._build_parzen_estimator(study, search_space, half, is_below)  # type: ignore[arg-type]
                for half, is_below in zip(self._halves, (True, False), strict=True)
            )
            self._models[key] = below, above
        drawn = self._drawn[key] = self._drawn[key] or deque(self._draw(*self._models[key]))
        chosen = drawn.popleft()
        return {name: of.to_external_repr(chosen[name]) for name, of in search_space.items()}

    def _draw(self, below: _ParzenEstimator, above: _ParzenEstimator) -> Iterator[dict[str, Any]]:
        """Yield points that look good, as models see them."""
        samples = below.sample(self._rng.rng, self.together * self._n_ei_candidates)
        gains = self._compute_acquisition_func(samples, below, above)
        for begin in range(0, len(gains), self._n_ei_candidates):
            own = slice(begin, begin + self._n_ei_candidates)
            candidates = {name: column[own] for name, column in samples.items()}
            yield self._compare(candidates, gains[own])

    def _get_internal_repr(
        self, trials: Any, search_space: dict[str, BaseDistribution], study: optuna.Study
    ) -> dict[str, npt.NDArray[np.float64]]:
        if self.memory is not None and isinstance(trials, np.ndarray):
            return self.memory.observed(trials, search_space)
        return super()._get_internal_repr(trials, search_space, study)

    def _divide(self, study: SeenStudy, trial: FrozenTrial) -> tuple[Rows, Rows]:
        """Return the rows of good trials and those of the others, each by number."""
        memory, rows = self._rows(study)
        rows = rows[np.argsort(memory.facts(rows)[:, NUMBER], kind="stable")]
        facts = memory.facts(rows)
        most = RUNNING if self._constant_liar else INFEASIBLE
        considered = (facts[:, NUMBER] != trial.number) & (facts[:, KIND] <= most)
        rows, facts = rows[considered], facts[considered]
        several = len(study.directions) > 1
        if self._gamma is None:
            self._gamma = tpe.default_gamma_multiobjective if several else tpe.default_gamma
        n_below = self._gamma(int((facts[:, KIND] != RUNNING).sum()))
        is_below = np.zeros(len(rows), dtype=bool)
        if several:
            below, _ = tpe._split_trials(study, memory.trials(rows), n_below)
            is_below = np.isin(facts[:, NUMBER], [good.number for good in below])
        else:
            order = np.lexsort((facts[:, SECOND], facts[:, FIRST], facts[:, KIND]))
            finished = order[facts[order, KIND] != RUNNING]
            is_below[finished[:n_below]] = True
        return rows[is_below], rows[~is_below]


def _rank(trial: FrozenTrial, study: optuna.Study) -> tuple[int, float, float]:
    """Return a trial's kind and two numbers: good trials come first when sorted by all of it."""
    if trial.state == TrialState.RUNNING:
        return RUNNING, 0.0, 0.0
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return OTHER, 0.0, 0.0
    infeasible = tpe._get_infeasible_trial_score(trial)
    if infeasible > 0:
        return INFEASIBLE, infeasible, 0.0
    if len(study.directions) > 1:  # Optuna divides them itself
        return (COMPLETE if trial.state == TrialState.COMPLETE else PRUNED), 0.0, 0.0
    if trial.state == TrialState.PRUNED:
        return PRUNED, *tpe._get_pruned_trial_score(trial, study)
    sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
    return COMPLETE, sign * trial.values[0], 0.0


def best_of(study: optuna.Study, trials: list[FrozenTrial], count: int) -> list[FrozenTrial]:
    """Return the trials, up to `count`, that TPE would call good; of several goals, complete ones.

    Args:
        study: whose directions rank them.
        trials: complete or pruned ones.
        count: how many.
    """
    if len(study.directions) > 1:
        trials = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return tpe._split_trials(study, trials, count)[0]
