"""Studies as figures and reports read them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from golf_opt.storage.optuna_internals import id_of_study
from golf_opt.study.description import StudyDescription, description_of, readable
from golf_opt.visualization.snapshot import StudySnapshot


def snapshot_of(study: optuna.Study) -> StudySnapshot:
    """Return a study of ours as figures need it."""
    return _snapshot(study.study_name, description_of(study), study.get_trials(deepcopy=False))


def best_of_all(storage: BaseStorage, but: str) -> list[StudySnapshot]:
    """Return every study of ours but one, each with its best trial alone."""
    snapshots = []
    for frozen in storage.get_all_studies():
        plan = readable(frozen.system_attrs)
        if plan is not None and frozen.study_name != but:
            with contextlib.suppress(ValueError):  # no trial is complete
                best = storage.get_best_trial(id_of_study(frozen))
                snapshots.append(_snapshot(frozen.study_name, plan, [best]))
    return snapshots


def _snapshot(name: str, plan: StudyDescription, trials: Sequence[FrozenTrial]) -> StudySnapshot:
    return StudySnapshot(name, plan.data, plan.protocol, plan.objective, plan.epochs, trials)
