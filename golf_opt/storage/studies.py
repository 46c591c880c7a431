"""What is kept with a study of ours besides its trials."""

from __future__ import annotations

import io
import json
import mimetypes
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from golf_opt.config.errors import UsageError, did_you_mean
from golf_opt.storage.gate import admit_attributes
from golf_opt.storage.optuna_internals import FrozenStudy, id_of_study, id_of_trial, storage_of
from golf_opt.utils.points import is_further_seed
from golf_opt.utils.text import printable

STUDY_ID = "golf_opt:id"
IMPORTING = "golf_opt:importing"  # the worker that fills the study; False when it is whole
NOTE_SECTIONS = "golf_opt:note_sections"  # what else is in the note, in Markdown by title
TEST_READINGS = "golf_opt:test_readings"
CONFIRMED = "golf_opt:confirmed"  # {trial: {seed: result}}, see golf/confirm.py
# Optuna lets nothing be added to a finished trial, so its files are kept with its study, under the
# key that the dashboard has for them.
FILE_KEY = "dashboard:artifacts:{trial}:{artifact}"


LAST = "last"  # names the study that something happened in last


def find_any_study(storage: BaseStorage, name: str, exact: bool = False) -> optuna.Study:
    """Return a study by its name, whoever made it.

    Args:
        storage: that it is in.
        name: the whole of it; or, said on stderr, so much of it that only one study is meant:
            `c4-5-4` for `c4-5-4@6epochs`; or `last`, the study with the latest activity.
        exact: whether only the whole of it will do.

    Raises:
        UsageError: there is none of that name, or several are meant.
    """
    names = optuna.get_all_study_names(storage)
    found = name if name in names or exact else _meant(storage, names, name)
    if found not in names:
        known = f"it must be {_nearest(names, name)}" if names else "there are none yet"
        raise UsageError(f"study {name!r} is not in the storage; {known}")
    if found != name:
        print(f"golf-opt: study={name} is {printable(found)}", file=sys.stderr, flush=True)
    return optuna.load_study(study_name=found, storage=storage)


def _meant(storage: BaseStorage, names: Sequence[str], name: str) -> str:
    if name == LAST and names:
        return max(
            storage.get_all_studies(), key=lambda study: _activity(storage, study)
        ).study_name
    for begin in (f"{name}@", name):
        if len(fitting := [known for known in names if known.startswith(begin)]) == 1:
            return fitting[0]
    return name


def _activity(storage: BaseStorage, study: FrozenStudy) -> tuple[datetime, int]:
    """Return when a trial of a study last began or ended; without one the newer study counts."""
    trials = storage.get_all_trials(id_of_study(study), deepcopy=False)
    moments = [trial.datetime_complete or trial.datetime_start for trial in trials]
    return max(filter(None, moments), default=datetime.min), id_of_study(study)


def _nearest(names: Sequence[str], name: str) -> str:
    """Return which studies may be meant: those that begin as the name does, or else all."""
    return did_you_mean(name, [n for n in names if n.startswith(name)] or names)


def mark(study: optuna.Study, key: str, value: Any) -> None:
    """Keep something of ours with a study, out of the table of attributes that people read."""
    storage_of(study).set_study_system_attr(id_of_study(study), key, value)


def marks(study: optuna.Study) -> dict[str, Any]:
    """Return what `mark` kept, among other system attributes; each is what it must be."""
    kept = storage_of(study).get_study_system_attrs(id_of_study(study))
    return admit_attributes(kept, [])  # a database's passed this gate before, a journal's did not


def readings_of(study: optuna.Study) -> dict[int, float]:
    """Return the accuracy on the test set, by the number of each trial that it was read for."""
    return {row["trial"]: row["test_accuracy"] for row in marks(study).get(TEST_READINGS, [])}


def num_finished(study: optuna.Study) -> int:
    """Points that count against the total: complete, pruned or failed by their first seed."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    finished = study.get_trials(deepcopy=False, states=states)
    return sum(not is_further_seed(trial) for trial in finished)


def attach(
    study: optuna.Study, folder: Path, trial: FrozenTrial, files: Mapping[str, bytes]
) -> None:
    """Attach files to a trial by name; one of the same name is replaced, not added to.

    The dashboard shows them in the order of their ids, or in that of their rows: both are ours.

    Args:
        study: of the trial.
        folder: of the studies; it holds artifacts/.
        trial: finished or not.
        files: name -> content.
    """
    path = folder / "artifacts"
    path.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(path)
    known = attached(study, trial)
    ids = sorted(str(uuid.uuid4()) for _ in files)
    for (name, data), new in zip(files.items(), ids, strict=True):
        artifact = known.get(name, new)
        store.write(artifact, io.BytesIO(data))
        if name not in known:
            kind, encoding = mimetypes.guess_type(name)
            row = {
                "artifact_id": artifact,
                "filename": name,
                "mimetype": kind or "application/octet-stream",
                "encoding": encoding,
            }
            key = FILE_KEY.format(trial=id_of_trial(trial), artifact=artifact)
            mark(study, key, json.dumps(row))


def attached(study: optuna.Study, trial: FrozenTrial) -> dict[str, str]:
    """Return what `attach` gave a trial: file name -> the artifact's id."""
    prefix = FILE_KEY.format(trial=id_of_trial(trial), artifact="")
    rows = [json.loads(value) for key, value in marks(study).items() if key.startswith(prefix)]
    return {row["filename"]: row["artifact_id"] for row in rows if row is not None}
