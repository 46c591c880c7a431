"""Every private part of Optuna and optuna-dashboard that golf_opt touches, each under a name.

Those of TPE are in `lean_tpe`.

Both packages may change these in any release. `tests/test_optuna_internals.py` has a test for each,
which says what of golf_opt no longer works.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Container, Mapping
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import PercentilePruner
from optuna.pruners._percentile import (
    _get_best_intermediate_result_over_steps,
    _is_first_in_interval_step,
)
from optuna.storages import BaseStorage
from optuna.storages._rdb import models as models
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy as FrozenStudy
from optuna.study._multi_objective import _fast_non_domination_rank
from optuna.study._tell import _tell_with_warning
from optuna.trial import FrozenTrial, TrialState


def storage_of(study: optuna.Study) -> BaseStorage:
    """Return the storage that a study is in."""
    return study._storage


def id_of_study(study: optuna.Study | FrozenStudy) -> int:
    """Return the number by which a study's storage knows it."""
    return study._study_id


def id_of_trial(trial: optuna.Trial | FrozenTrial) -> int:
    """Return the number by which a trial's storage knows it; it is unique over all studies."""
    return trial._trial_id


def frozen(trial: optuna.Trial) -> FrozenTrial:
    """Return a running trial as it is known here, without asking the storage."""
    return trial._cached_frozen_trial


def reported(trial: optuna.Trial) -> dict[int, float]:
    """Return what a trial reported so far, by step, without asking the storage."""
    return frozen(trial).intermediate_values


def report(trial: optuna.Trial, value: float, step: int) -> None:
    """Report a value as `Trial.report` does, which refuses where objectives are several."""
    trial.storage.set_trial_intermediate_value(id_of_trial(trial), step, value)
    reported(trial)[step] = value


def tell(
    study: optuna.Study, trial: optuna.Trial, values: list[float] | None, state: TrialState
) -> None:
    """End a trial, if it has not ended, as `Study.tell` does, which copies it for its caller."""
    _tell_with_warning(study, trial, values, state, skip_if_finished=True)


def new_trial(study: optuna.Study, like: FrozenTrial | None = None) -> optuna.Trial:
    """Make a new running trial, whatever waits; its parameters are asked for as always.

    Args:
        study: that it is of.
        like: a running trial whose attributes it has, such as parameters that are fixed.
    """
    return trial_of(study, storage_of(study).create_new_trial(id_of_study(study), like))


def new_trial_ids(study: optuna.Study, count: int) -> list[int]:
    """Make up to so many new running trials, one at least; return their ids, for `trial_of`."""
    create = getattr(storage_of(study), "create_new_trials", None)
    if create is None:
        return [storage_of(study).create_new_trial(id_of_study(study))]
    made: list[int] = create(id_of_study(study), count)
    return made


def trial_of(study: optuna.Study, trial_id: int) -> optuna.Trial:
    """Return a running trial, to ask for its parameters."""
    study._thread_local.cached_all_trials = None  # as `Study.ask` does: read the trials anew
    return optuna.Trial(study, trial_id)


def take_trial(study: optuna.Study, trial_id: int) -> optuna.Trial | None:
    """Make a waiting trial a running one; None where another worker was faster."""
    study._thread_local.cached_all_trials = None
    storage = storage_of(study)
    try:
        if storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return optuna.Trial(study, trial_id)
    except UpdateFinishedTrialError:
        pass
    return None


def bracket_of(study: optuna.Study) -> int | None:
    """Return which of Hyperband's brackets this is; None of a whole study."""
    return getattr(study, "_bracket_id", None)


def front_numbers(losses: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Return for each row of losses, [rows, goals], in which front it is: 0 is the best.

    Behind the front that the best `count` rows end in, all are in one.
    """
    return _fast_non_domination_rank(losses, n_below=count)


def compared_value(
    pruner: PercentilePruner, trial: FrozenTrial, direction: StudyDirection
) -> float | None:
    """Return the value, maybe NaN, by which the pruner judges a trial that has reported something.

    None where it does not judge after the trial's last step.
    """
    step, warm_up, interval = trial.last_step, pruner._n_warmup_steps, pruner._interval_steps
    assert step is not None
    steps = trial.intermediate_values.keys()
    if step < warm_up or not _is_first_in_interval_step(step, steps, warm_up, interval):
        return None
    return float(_get_best_intermediate_result_over_steps(trial, direction))


def check_trial(trial: FrozenTrial) -> None:
    """Raise a ValueError for a trial whose parts do not fit together."""
    trial._validate()


def describe_distribution(distribution: BaseDistribution) -> dict[str, Any]:
    """Return a distribution's arguments by name."""
    return distribution._asdict()


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a parameter may have this value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def num_grid_points(sampler: optuna.samplers.GridSampler) -> int:
    """Return how many points a grid has."""
    return len(sampler._all_grids)


def forget_study(storage: BaseStorage, study_id: int) -> None:
    """Let a caching storage read a study anew: another one may have its id by now."""
    getattr(storage, "_studies", {}).pop(study_id, None)


def save_note(study: optuna.Study, text: str) -> None:
    """Write the Markdown note that heads a study on the dashboard."""
    _dashboard_notes().save_note(study, text)


@cache
def _dashboard_notes() -> ModuleType:
    """Load optuna-dashboard's module for notes without the rest of it, which takes two seconds."""
    package = find_spec("optuna_dashboard")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "_note.py"
    spec = spec_from_file_location("golf_opt._dashboard_notes", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def serialize_trial(
    study_id: int, trial: FrozenTrial, study_system_attrs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a trial as the dashboard's page reads it from JSON."""
    from optuna_dashboard._serializer import serialize_frozen_trial

    return serialize_frozen_trial(study_id, trial, study_system_attrs)  # type: ignore[no-any-return]


def refetch_trials(app: Any, study_id: int) -> None:
    """Let the dashboard's next answer be from the storage, not from up to ten seconds ago."""
    app._inmemory_cache._trials_last_fetched_at.pop(study_id, None)


def forget_all_trials(app: Any) -> None:
    """Empty the dashboard's caches of trials and of what it computed of them."""
    from optuna_dashboard import _importance

    app._inmemory_cache.clear()
    with _importance.param_importance_cache_lock:
        _importance.param_importance_cache.clear()


def named(study: FrozenStudy, name: str, system_attrs: dict[str, Any]) -> FrozenStudy:
    """Return a copy of a study under another name, with other system attributes."""
    user_attrs = dict(sorted(study.user_attrs.items()))  # a database may return any order
    directions, study_id = study.directions, study._study_id
    return FrozenStudy(name, None, user_attrs, system_attrs, study_id, directions=directions)


def check_study_page(study: FrozenStudy) -> None:
    """Raise whatever the dashboard would for a study that it cannot show."""
    from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
    from optuna_dashboard._serializer import serialize_study_detail

    figures = get_plotly_graph_objects(study.system_attrs)
    serialize_study_detail(study, [], [], [], [], [], False, figures, [])


class SeenStudy(optuna.Study):
    """A study, or one of Hyperband's brackets of it, whose trials are seen in another way.

    They are those of the first look at it: an ask, or some together, look for each parameter.

    Args:
        study: that it is in everything else.
        view: from its trials to those that it has.
        directions: of their values; None: the study's own.
    """

    def __init__(
        self,
        study: optuna.Study,
        view: Callable[[list[FrozenTrial]], list[FrozenTrial]],
        directions: list[StudyDirection] | None = None,
    ) -> None:
        self.__dict__.update(object.__getattribute__(study, "__dict__"))  # a bracket hides its own
        self._whole, self._view = study, view
        self._directions = directions or study.directions
        self._seen: dict[tuple[TrialState, ...] | None, list[FrozenTrial]] = {}  # by their states

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        if None not in self._seen:
            whole = self._whole._get_trials(deepcopy=False, use_cache=use_cache)
            self._seen[None] = self._view(whole)
        key = None if states is None else tuple(state for state in TrialState if state in states)
        if key is not None and key not in self._seen:
            self._seen[key] = [trial for trial in self._seen[None] if trial.state in key]
        trials = list(self._seen[key])
        return copy.deepcopy(trials) if deepcopy else trials


class RebuiltCmaEs(optuna.samplers.CmaEsSampler):
    """Optuna's CMA-ES, whose state is worked out from the trials at every ask.

    Optuna pickles the state into attributes of trials and unpickles whatever it finds there, so
    that who can write to a database, or hand over an export, runs code. But the state is a
    function of the trials of each generation; neither is it kept here, nor read.
    """

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        self._rebuilds_for = study, search_space
        return super().sample_relative(study, trial, search_space)

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        study, space = self._rebuilds_for
        as_box = _SearchSpaceTransform(
            space, transform_step=not self._with_margin, transform_0_1=True
        )
        before = self._cma_rng.rng.get_state()
        optimizer = self._init_optimizer(as_box, study.direction)
        sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
        size, first = optimizer.population_size, optimizer.generation
        while True:
            trials = self._get_solution_trials(completed_trials, optimizer.generation)[:size]
            if len(trials) < size:
                break
            optimizer.tell([(self._place(t, as_box), sign * t.values[0]) for t in trials])
        key = self._attr_key_generation
        if any(trial.system_attrs.get(key, first) > first for trial in completed_trials):
            self._cma_rng.rng.set_state(before)  # Optuna's finds a state, and draws none to begin
        return optimizer

    def _place(self, trial: FrozenTrial, as_box: _SearchSpaceTransform) -> Any:
        if self._with_margin:
            return np.array(trial.system_attrs["x_for_tell"])
        return as_box.transform(trial.params)

    def _get_solution_trials(self, trials: list[FrozenTrial], generation: int) -> list[FrozenTrial]:
        _, space = self._rebuilds_for
        return [
            trial
            for trial in super()._get_solution_trials(trials, generation)
            if space.keys() <= trial.params.keys() and math.isfinite(trial.values[0])
        ]

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        return {}  # of attributes to keep
