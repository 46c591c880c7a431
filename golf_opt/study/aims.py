"""What a search is after: a trial's values and constraints, and which trial is the answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from golf_opt.engines.base import EpochResult, Job, Work
from golf_opt.storage.optuna_internals import id_of_study
from golf_opt.study.description import StudyDescription, description_of, readable
from golf_opt.utils.points import Shown, best_trial
from golf_opt.visualization.snapshot import StudySnapshot


def values_of(plan: StudyDescription, work: Work, result: EpochResult) -> list[float]:
    """Return what a trial came to, a value for each goal."""
    size = [float(work.net.num_params)] if isinstance(work, Job) else []
    return [*result.values, *size][: len(plan.goals)]


def missed(plan: StudyDescription, work: Work, result: EpochResult | None) -> dict[str, float]:
    """Return by how much a trial misses what a search asks for; at most zero where it does not.

    Args:
        plan: of the search.
        work: the trial's.
        result: of its last epoch, be it pruned there; None: nothing is trained.
    """
    found = {}
    if plan.max_params is not None and isinstance(work, Job):
        found["parameters"] = float(work.net.num_params - plan.max_params)
    if plan.target is not None and result is not None:
        found["accuracy"] = plan.target - result.values[0]
    return found


def answer(study: optuna.Study) -> FrozenTrial | None:
    """Return the best complete trial, or of a search with a target the smallest that reaches it.

    None where there is none yet, and where several goals are weighed.
    """
    plan = description_of(study)
    if plan.target is None:
        return best_trial(study, plan.by_seed.worth)
    snapshot = plan.snapshot(study.study_name, study.get_trials(deepcopy=False))
    return smallest_reaching(snapshot.points, plan.target)


def smallest_reaching(points: Iterable[Shown], target: float) -> FrozenTrial | None:
    """Return the point of fewest parameters that ranks at `target` at least, as one trial.

    Of several seeds that is what their mean reaches in spite of the noise: not by luck.
    """
    reaching = [row.trial for row in points if row.rank >= target]
    return min(reaching, key=lambda t: (t.values[1], -t.values[0], t.number), default=None)


def best_of_all(storage: BaseStorage, but: str) -> list[StudySnapshot]:
    """Return every study of ours but one, each with its best trial alone."""
    snapshots = []
    for frozen in storage.get_all_studies():
        plan = readable(frozen.study_name, frozen.system_attrs)
        if plan is not None and frozen.study_name != but:
            with contextlib.suppress(ValueError, RuntimeError):  # none is complete; several goals
                if plan.seeds == 1:
                    best = [storage.get_best_trial(id_of_study(frozen))]
                else:
                    trials = storage.get_all_trials(id_of_study(frozen), deepcopy=False)
                    best = plan.snapshot(frozen.study_name, trials).ranked(1)
                snapshots.append(plan.snapshot(frozen.study_name, best))
    return snapshots
