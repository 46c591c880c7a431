"""What asks for the next point: Optuna's samplers, seeded trial by trial, and our grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Annotated, Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from pydantic import Field, StrictInt

from golf_opt.config.check import check
from golf_opt.config.errors import UsageError
from golf_opt.storage.lean_tpe import LeanTPE, Memory
from golf_opt.storage.optuna_internals import RebuiltCmaEs, SeenStudy, bracket_of
from golf_opt.study.newest import NewestAndBest
from golf_opt.study.space import Space
from golf_opt.study.view import View
from golf_opt.utils.points import is_further_seed
from golf_opt.utils.trials import changed

CmaEsSampler = RebuiltCmaEs  # in conf/sampler, and for studies that name Optuna's
TPESampler = LeanTPE  # likewise

AS_IT_IS = View()  # but for seeds and pauses
DRAWS = 5  # of a point of a search, until its net is a new one


class GridSampler(optuna.samplers.GridSampler):
    """Optuna's grid; the study loop, not the sampler, decides when a study is over."""

    def after_trial(self, *args: Any, **kwargs: Any) -> None:
        """Optuna's would stop `Study.optimize`, which is not running."""


class FreshSampler(optuna.samplers.BaseSampler):
    """A new sampler for every trial, or for some that are expected together, made from its number.

    So a study stopped and resumed asks for the same points as one that ran through (with one lane),
    and two workers never ask for the same point. It sees a point's seeds as one trial, and what a
    paused trial is likely to come to: see `View`. Of a long study TPE sees a part: `NewestAndBest`.

    In a search a point whose net was looked at before is drawn again, a few times at most: a model
    asks for what is best so far again and again, with another recipe.

    Args:
        make: from a trial's number to its sampler.
        view: what samplers see of a study.
        space: of a search, which tells nets apart.
    """

    def __init__(
        self,
        make: Callable[[int], optuna.samplers.BaseSampler],
        view: View = AS_IT_IS,
        space: Space | None = None,
    ) -> None:
        self._make, self._view, self._space = make, view, space
        self._looked_at: list[FrozenTrial] = []  # of which these are the nets
        self._nets: dict[int, tuple[Any, ...]] = {}  # by the trial's number
        self._num_of: Counter[tuple[Any, ...]] = Counter()  # trials of each net
        self._newest: dict[int | None, NewestAndBest] = {}  # by Hyperband's bracket
        self._memory = Memory()
        self._sampler = make(0)
        self._seen: optuna.Study | None = None
        self._together, self.to_come = 1, 0  # trials of the next look, and of the last one

    def expect(self, count: int) -> None:
        """Take one look at the study for the next so many trials, where it is TPE that is asked.

        None of them is known to the others; where hundreds run it makes no difference.
        """
        self._together, self.to_come = count, 0

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if self.to_come:
            self.to_come -= 1
            return
        together, self._together = self._together, 1
        self._sampler = self._make(trial.number)
        look, directions = partial(self._view.of, directions=study.directions), study.directions
        if isinstance(self._sampler, LeanTPE):
            self._sampler.memory = self._memory
            if bracket_of(study) is None and not self._view.front:  # in which trials differ
                self._sampler.together, self.to_come = together, together - 1
        if isinstance(self._sampler, optuna.samplers.TPESampler):
            if self._view.front:
                look = partial(self._view.below_a_size, number=trial.number)
                directions = [StudyDirection.MAXIMIZE]
            look = partial(self._look_at_newest, study, look)
        elif isinstance(self._sampler, optuna.samplers.NSGAIISampler):
            look = partial(look, most_paused=None)  # any may be a parent, and asking is cheap
        self._seen = SeenStudy(study, look, directions)
        if not is_further_seed(trial):  # a further seed asks for nothing
            self._sampler.before_trial(self._seen, trial)

    def _look_at_newest(
        self,
        study: optuna.Study,
        look: Callable[..., list[FrozenTrial]],
        trials: list[FrozenTrial],
    ) -> list[FrozenTrial]:
        newest = self._newest.setdefault(bracket_of(study), NewestAndBest())
        seen = newest.of(study, trials)
        return look(seen, several=newest.several)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(self._seen or study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        nets = self._nets_before(study, trial) if search_space else ()
        for _ in range(DRAWS):
            drawn = self._sampler.sample_relative(self._seen or study, trial, search_space)
            if self._space is None or not drawn or self._space.net_of(drawn) not in nets:
                break
        return drawn

    def _nets_before(self, study: optuna.Study, trial: FrozenTrial) -> Container[tuple[Any, ...]]:
        """Return the nets that the study has looked at, or is looking at."""
        if self._space is None:
            return ()
        trials = study.get_trials(deepcopy=False)
        for other in changed(trials, self._looked_at):
            if (net := self._nets.pop(other.number, None)) is not None:
                self._num_of[net] -= 1
                if not self._num_of[net]:
                    del self._num_of[net]
            if other.number != trial.number:
                self._nets[other.number] = net = self._space.net_of(other.params)
                self._num_of[net] += 1
        self._looked_at = trials
        return self._num_of

    def sample_independent(self, study: optuna.Study, *args: Any) -> Any:
        return self._sampler.sample_independent(self._seen or study, *args)

    def after_trial(self, *args: Any) -> None:
        self._sampler.after_trial(*args)


def grid_sampler(space: Space, seed: int, points: Mapping[str, int] | int) -> GridSampler:
    """Return a grid of `points` values a dimension, evenly spaced on the dimension's own scale."""
    grid = {}
    for name, dimension in space.tuned.items():
        if dimension.when:
            raise UsageError(f"sampler=grid cannot do space.{name}, which has a `when`; use tpe.")
        count = points if isinstance(points, int) else points.get(name, 3)
        check(Annotated[StrictInt, Field(ge=1, le=1000)], count, f"sampler.points for {name}")
        grid[name] = _spaced(dimension.distribution, count)
    return GridSampler(grid, seed=seed)


def _spaced(distribution: BaseDistribution, count: int) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    low, high = distribution.low, distribution.high
    fractions = [index / (count - 1) for index in range(count)] if count > 1 else [0.5]
    if distribution.log:
        values = [low * (high / low) ** fraction for fraction in fractions]
    else:
        values = [low + (high - low) * fraction for fraction in fractions]
    values = [min(max(value, low), high) for value in values]
    if isinstance(distribution, IntDistribution):
        return sorted({round(value) for value in values})
    return values
