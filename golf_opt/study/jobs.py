"""What a lane trained for a trial, read from what the study and the trial store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from golf_opt.engines.base import Job
from golf_opt.storage.studies import RECIPE, marks
from golf_opt.study.space import build_space
from golf_opt.task.arch import build_net
from golf_opt.task.recipe import Candidate


def candidate_of(study: optuna.Study, trial: FrozenTrial) -> Candidate:
    """Return the hyperparameters of a trial: what was tuned and what the space fixes."""
    return _candidate(marks(study)[RECIPE], trial)


def job_of(recipe: Mapping[str, Any], trial: FrozenTrial) -> Job:
    """Return what a lane trained for a trial of a study with this recipe."""
    candidate = _candidate(recipe, trial)
    return Job(build_net(recipe["arch"]), candidate, trial.user_attrs["seed"], recipe["epochs"])


def _candidate(recipe: Mapping[str, Any], trial: FrozenTrial) -> Candidate:
    return Candidate(**dict(build_space(recipe["space"]).fixed) | trial.params)
