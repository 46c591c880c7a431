"""What a search is after: a trial's values and constraints, and which trial is the answer."""

from __future__ import annotations

from collections.abc import Iterable

import optuna
from optuna.trial import FrozenTrial, TrialState

from golf_opt.engines.base import EpochResult, Job, Work
from golf_opt.study.description import StudyDescription, description_of
from golf_opt.utils.trials import best_trial


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
    target = description_of(study).target
    if target is None:
        return best_trial(study)
    return smallest_reaching(study.get_trials(deepcopy=False), target)


def smallest_reaching(trials: Iterable[FrozenTrial], target: float) -> FrozenTrial | None:
    """Return the complete trial of fewest parameters with an accuracy of at least `target`."""
    reaching = [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE
        and len(trial.values) == 2
        and trial.values[0] >= target
    ]
    return min(reaching, key=lambda t: (t.values[1], -t.values[0], t.number), default=None)
