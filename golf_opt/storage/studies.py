"""Studies of ours in a storage: what makes a study the same, and what is kept with it."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from golf_opt.config.schema import UsageError, did_you_mean
from golf_opt.storage.optuna_internals import id_of_study, storage_of
from golf_opt.storage.workers import flush

FINGERPRINT = "golf_opt:fingerprint"
STUDY_ID = "golf_opt:id"
RECIPE = "golf_opt:recipe"  # arch, space, protocol, ...: how to run the study elsewhere
IMPORTING = "golf_opt:importing"  # the worker that fills the study; False when it is whole
FACTS = "golf_opt:facts"  # what the study's note tells
NOTE_SECTIONS = "golf_opt:note_sections"  # what else is in the note, in Markdown by title
CONFIRMED = "golf_opt:confirmed"  # {trial: {seed: result}}, see golf/confirm.py
OBJECTIVES = {"test": "test accuracy", "holdout": "holdout accuracy"}  # by protocol


def open_study(
    storage: BaseStorage, name: str, fingerprint: Mapping[str, Any]
) -> tuple[optuna.Study, bool]:
    """Create the study, or open it if it is the same one; return it and whether it is new.

    Raises:
        UsageError: the name belongs to a study with another fingerprint, or to a foreign study.
    """
    known = name in optuna.get_all_study_names(storage)
    if known:
        _check_fingerprint(optuna.load_study(study_name=name, storage=storage), fingerprint)
    study = optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=True
    )
    if not known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([fingerprint["objective"]])
        mark(study, STUDY_ID, uuid.uuid4().hex)
        mark(study, FINGERPRINT, dict(fingerprint))
        flush(study)
    return study, not known


def find_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Return a study of ours by its name.

    Raises:
        UsageError: there is none of that name, or golf-opt did not make it.
    """
    study = find_any_study(storage, name)
    if RECIPE not in marks(study):
        raise UsageError(f"study {name!r} was not made by this golf-opt; it keeps no recipe.")
    return study


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


def _check_fingerprint(study: optuna.Study, fingerprint: Mapping[str, Any]) -> None:
    stored = marks(study).get(FINGERPRINT)
    if stored is None:
        raise UsageError(
            f"study {study.study_name!r} is there already and was not made by golf-opt; "
            "choose another name with study.name=..."
        )
    if changes := differences(stored, fingerprint):
        shown = "; ".join(changes[:4]) + ("; ..." if len(changes) > 4 else "")
        raise UsageError(
            f"study {study.study_name!r} is another study: {shown}. Give what it was made with to "
            "go on with it, or begin a new one with study.name=..."
        )


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return `space.lr.high was 0.01 and is 0.03` for every value that differs."""
    before, after = _flat(stored), _flat(given)
    return [
        f"{key} was {before.get(key, 'absent')} and is {after.get(key, 'absent')}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return rows


def num_finished(study: optuna.Study) -> int:
    """Trials that count against the total: complete, pruned or failed."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return len(study.get_trials(deepcopy=False, states=states))
