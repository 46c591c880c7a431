"""What is kept with a study of ours besides its trials."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from golf_opt.config.errors import UsageError, did_you_mean
from golf_opt.storage.optuna_internals import id_of_study, storage_of

STUDY_ID = "golf_opt:id"
IMPORTING = "golf_opt:importing"  # the worker that fills the study; False when it is whole
NOTE_SECTIONS = "golf_opt:note_sections"  # what else is in the note, in Markdown by title
CONFIRMED = "golf_opt:confirmed"  # {trial: {seed: result}}, see golf/confirm.py


def find_any_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Return a study by its name, whoever made it.

    Raises:
        UsageError: there is none of that name.
    """
    names = optuna.get_all_study_names(storage)
    if name not in names:
        known = f"it must be {did_you_mean(name, names)}" if names else "there are none yet"
        raise UsageError(f"study {name!r} is not in the storage; {known}")
    return optuna.load_study(study_name=name, storage=storage)


def mark(study: optuna.Study, key: str, value: Any) -> None:
    """Keep something of ours with a study, out of the table of attributes that people read."""
    storage_of(study).set_study_system_attr(id_of_study(study), key, value)


def marks(study: optuna.Study) -> dict[str, Any]:
    """Return what `mark` kept, among other system attributes."""
    return storage_of(study).get_study_system_attrs(id_of_study(study))


def num_finished(study: optuna.Study) -> int:
    """Trials that count against the total: complete, pruned or failed."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return len(study.get_trials(deepcopy=False, states=states))
