"""Files that the dashboard shows with a finished trial."""

from __future__ import annotations

import io
import json
import mimetypes
import uuid
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.trial import FrozenTrial

from golf_opt.storage.optuna_internals import id_of_trial
from golf_opt.storage.studies import mark, marks

# Optuna lets nothing be added to a finished trial, so these are kept with its study, under the
# key that the dashboard has for them.
KEY = "dashboard:artifacts:{trial}:{artifact}"


def attach(
    study: optuna.Study, folder: Path, trial: FrozenTrial, files: Mapping[str, bytes]
) -> None:
    """Attach files to a trial by name; one of the same name is replaced, not added to.

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
    for name, data in files.items():
        artifact = known.get(name, str(uuid.uuid4()))
        store.write(artifact, io.BytesIO(data))
        if name not in known:
            kind, encoding = mimetypes.guess_type(name)
            row = {
                "artifact_id": artifact,
                "filename": name,
                "mimetype": kind or "application/octet-stream",
                "encoding": encoding,
            }
            mark(study, KEY.format(trial=id_of_trial(trial), artifact=artifact), json.dumps(row))


def attached(study: optuna.Study, trial: FrozenTrial) -> dict[str, str]:
    """Return what `attach` gave a trial: file name -> the artifact's id."""
    prefix = KEY.format(trial=id_of_trial(trial), artifact="")
    rows = [json.loads(value) for key, value in marks(study).items() if key.startswith(prefix)]
    return {row["filename"]: row["artifact_id"] for row in rows if row is not None}
