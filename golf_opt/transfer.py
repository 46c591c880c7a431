"""`golf-opt export` and `import`: a study as files, and from files into any storage.

A folder of an export holds

    study.json           name, directions, attributes, number of trials
    trials.jsonl         one trial a line, in order: everything that Optuna knows of it
    trials.csv           the same for a spreadsheet: no lists, no distributions
    checkpoints/N.safetensors   the weights of trial N
    artifacts/ID         files of trials, such as learning curves

Numbers that are not finite are written as Python's json does: NaN, Infinity, -Infinity.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from golf_opt import __version__
from golf_opt.callbacks import open_checkpoints
from golf_opt.checkpoint import DamagedCheckpoint, load_checkpoint, save_checkpoint
from golf_opt.config import ExportConfig, ImportConfig, UsageError
from golf_opt.golf.source import job_of
from golf_opt.removal import artifact_ids, artifacts_of, remove_study
from golf_opt.storage import (
    FINGERPRINT,
    RECIPE,
    STUDY_ID,
    find_any_study,
    is_alive,
    mark,
    marks,
    opened_storage,
    opened_to_read,
    this_worker,
)

FORMAT = 1
IMPORTING = "golf_opt:importing"  # the process that fills the study; False when it is whole
STUDY_KEYS = {
    "name": str, "directions": list, "trials": int, "user_attrs": dict, "system_attrs": dict,
}  # fmt: skip
LAST = (RECIPE, FINGERPRINT)  # a study without them is not run, nor golfed with
Say = Callable[[str], None]


# --- export


def export_study(config: ExportConfig, say: Say) -> None:
    """Write a study to a new folder, whole or not at all.

    Raises:
        UsageError: there is no such study, or the folder exists or cannot be written.
    """
    with opened_to_read(config.storage) as storage:
        study = find_any_study(storage, config.study)
        refuse_unfinished(study)
        part = config.output.with_name(f".{config.output.name}.{os.getpid()}")
        try:
            part.mkdir(parents=True)
            kept = write_export(study, part, config, say)
            part.rename(config.output)
        except OSError as error:
            raise UsageError(
                f"output {str(config.output)!r} cannot be written: {error.strerror}."
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    say(f"exported {config.study}: {kept}, to {config.output}")


def write_export(study: optuna.Study, folder: Path, config: ExportConfig, say: Say) -> str:
    """Write every file; return `3 trials, 3 checkpoints`."""
    trials = study.get_trials(deepcopy=False)
    _write_json(folder / "study.json", describe_study(study, len(trials)))
    with (folder / "trials.jsonl").open("w") as file:
        file.writelines(json.dumps(describe_trial(trial)) + "\n" for trial in trials)
    write_csv(folder / "trials.csv", trials)
    copy_artifacts(config.folder / "artifacts", folder / "artifacts", artifacts_of(study))
    kept = f"{len(trials)} trials"
    if config.checkpoints and RECIPE in marks(study):
        kept += f", {export_checkpoints(study, trials, config.folder, folder, say)} checkpoints"
    return kept


def describe_study(study: optuna.Study, num_trials: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "golf_opt": __version__,
        "optuna": optuna.__version__,
        "name": study.study_name,
        "directions": [direction.name for direction in study.directions],
        "trials": num_trials,
        "user_attrs": study.user_attrs,
        "system_attrs": {k: v for k, v in marks(study).items() if k != IMPORTING},
    }


def describe_trial(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial as JSON; `id` is what the dashboard's attributes of the study refer to."""
    return {
        "number": trial.number,
        "id": trial._trial_id,
        "state": trial.state.name,
        "values": trial.values,
        "datetime_start": _show_moment(trial.datetime_start),
        "datetime_complete": _show_moment(trial.datetime_complete),
        "params": trial.params,
        "distributions": {
            name: json.loads(distribution_to_json(distribution))
            for name, distribution in trial.distributions.items()
        },
        "intermediate_values": trial.intermediate_values,
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
    }


def _show_moment(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def write_csv(path: Path, trials: Sequence[FrozenTrial]) -> None:
    """Write a line a trial: its objective, its parameters, and attributes that are one value."""
    rows = []
    for trial in trials:
        row: dict[str, Any] = {
            "number": trial.number,
            "state": trial.state.name,
            "datetime_start": _show_moment(trial.datetime_start),
            "datetime_complete": _show_moment(trial.datetime_complete),
        }
        values = trial.values or []
        row |= {f"value{i or ''}": value for i, value in enumerate(values)}
        row |= {f"params.{name}": value for name, value in trial.params.items()}
        row |= {
            f"user_attrs.{name}": value
            for name, value in trial.user_attrs.items()
            if isinstance(value, (str, int, float))
        }
        rows.append(row)
    columns = dict.fromkeys(["number", "state", "value", *(key for row in rows for key in row)])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="")
        writer.writeheader()
        writer.writerows(rows)


def export_checkpoints(
    study: optuna.Study, trials: Sequence[FrozenTrial], source: Path, target: Path, say: Say
) -> int:
    """Write the checkpoints that there are; return how many."""
    recipe = marks(study)[RECIPE]
    checkpoints = open_checkpoints(study, source)
    written = 0
    for trial in trials:
        if "seed" not in trial.user_attrs:
            continue  # it was never started
        job = job_of(recipe, trial)
        try:
            checkpoint = checkpoints.load(trial.number, job)
        except FileNotFoundError:
            continue
        except DamagedCheckpoint as damage:
            say(f"left out: {damage}")
            continue
        save_checkpoint(_checkpoint_path(target, trial.number), job, checkpoint)
        written += 1
    return written


def _checkpoint_path(folder: Path, number: int) -> Path:
    return folder / "checkpoints" / f"{number}.safetensors"


def copy_artifacts(source: Path, target: Path, ids: set[str]) -> list[str]:
    """Copy the files that there are and the target lacks; return which."""
    copied = []
    for id_ in sorted(ids):
        if (source / id_).is_file() and not (target / id_).exists():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / id_, target / id_)
            copied.append(id_)
    return copied


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


# --- import


@dataclass(frozen=True)
class Exported:
    """An export that was read and checked."""

    study: Mapping[str, Any]  # as `describe_study` wrote it
    trials: list[FrozenTrial]  # in order, with the ids that they had
    folder: Path


def import_study(config: ImportConfig, say: Say) -> None:
    """Take an export into a storage, all of it or nothing.

    Trials come in as they were, but for one thing: what was running waits, since nobody here
    runs it. The study gets an id, and so a folder for checkpoints, of its own.

    Raises:
        UsageError: the folder is no export, or the name is taken.
    """
    exported = read_export(config.input)
    name = config.name or exported.study["name"]
    if config.storage.url is None and config.storage.url_env is None:
        raise UsageError("storage is memory, but must be one that outlives the import.")
    with opened_storage(config.storage) as storage, _stopped_by_sigterm():
        study = create_empty(storage, name, exported)
        written: list[str] = []
        try:
            fill(study, exported, config.folder, written)
        except BaseException as error:
            remove_study(study, config.folder, written)
            if isinstance(error, OSError):
                raise UsageError(
                    f"dir {str(config.folder)!r} cannot be written: {error.strerror}."
                ) from error
            raise
    put_back = sum(trial.state == TrialState.RUNNING for trial in exported.trials)
    note = f"; {put_back} that were running wait to go on" if put_back else ""
    say(f"imported {name}: {len(exported.trials)} trials{note}")


def create_empty(storage: BaseStorage, name: str, exported: Exported) -> optuna.Study:
    """Create the study, marked as one to be filled; one that a dead import left makes room."""
    if name in optuna.get_all_study_names(storage):
        there = optuna.load_study(study_name=name, storage=storage)
        importer = marks(there).get(IMPORTING)
        if not importer or is_alive(importer):
            raise taken(name)
        optuna.delete_study(study_name=name, storage=storage)
    directions = [StudyDirection[direction] for direction in exported.study["directions"]]
    try:
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    except optuna.exceptions.DuplicatedStudyError as error:  # another one was faster
        raise taken(name) from error
    mark(study, IMPORTING, this_worker())
    return study


def taken(name: str) -> UsageError:
    return UsageError(
        f"study {name!r} is there already; give another name=..., or remove it first: "
        f"golf-opt rm study={name!r}"
    )


def refuse_unfinished(study: optuna.Study) -> None:
    """Raise a UsageError for a study that an import has not filled."""
    if marks(study).get(IMPORTING):
        raise UsageError(
            f"study {study.study_name!r} is not whole: its import is under way or was cut short."
        )


def fill(study: optuna.Study, exported: Exported, folder: Path, written: list[str]) -> None:
    """Add attributes, trials and files; name in `written` the artifacts that were not there."""
    renamed = {}
    for trial in exported.trials:
        study.add_trial(_put_back(trial))
    for old, new in zip(exported.trials, study.get_trials(deepcopy=False), strict=True):
        renamed[f"dashboard:{old._trial_id}:"] = f"dashboard:{new._trial_id}:"
    for key, value in exported.study["user_attrs"].items():
        study.set_user_attr(key, value)
    system_attrs = exported.study["system_attrs"]
    for key, value in system_attrs.items():
        if key not in LAST:
            mark(study, _renamed(key, renamed), value)
    if STUDY_ID in system_attrs:
        mark(study, STUDY_ID, uuid.uuid4().hex)
    if RECIPE in system_attrs:
        import_checkpoints(study, exported, folder)
    ids = set[str]().union(*(artifact_ids(trial.system_attrs) for trial in exported.trials))
    ids |= artifact_ids(system_attrs)
    written += copy_artifacts(exported.folder / "artifacts", folder / "artifacts", ids)
    for key in LAST:
        if key in system_attrs:
            mark(study, key, system_attrs[key])
    mark(study, IMPORTING, False)


def _put_back(trial: FrozenTrial) -> FrozenTrial:
    """Return a running trial as one that waits to be taken up again, any other as it is."""
    if trial.state == TrialState.RUNNING:
        trial = copy.copy(trial)
        trial.state = TrialState.WAITING
    return trial


def _renamed(key: str, renamed: Mapping[str, str]) -> str:
    """Return the dashboard's key for a trial's note under the trial's new id."""
    head = key[: key.find(":", len("dashboard:")) + 1]
    return renamed.get(head, head) + key[len(head) :]


def import_checkpoints(study: optuna.Study, exported: Exported, folder: Path) -> None:
    recipe = exported.study["system_attrs"][RECIPE]
    checkpoints = open_checkpoints(study, folder)
    for trial in exported.trials:
        path = _checkpoint_path(exported.folder, trial.number)
        if not path.is_file():
            continue
        job = job_of(recipe, trial)
        try:
            checkpoints.save(trial.number, job, load_checkpoint(path, job))
        except DamagedCheckpoint as damage:
            raise UsageError(f"{damage} Delete it to import the study without.") from damage


def read_export(folder: Path) -> Exported:
    """Read and check an export.

    Raises:
        UsageError: it is none, or is damaged.
    """
    path = folder / "study.json"
    try:
        study = json.loads(path.read_text())
        if study["format"] != FORMAT:
            raise UsageError(
                f"{path} has format {study['format']!r}, but must have {FORMAT}: it was made by "
                "another version of golf-opt."
            )
        lines = (folder / "trials.jsonl").read_text().splitlines()
    except OSError as error:
        raise UsageError(
            f"input is {str(folder)!r}, but must be a folder that golf-opt export wrote: "
            f"{error.filename} cannot be read: {error.strerror}."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} is damaged: {_reason(error)}.") from error
    for key, kind in STUDY_KEYS.items():
        if not isinstance(study.get(key), kind):
            raise UsageError(f"{path} is damaged: its {key} is {study.get(key)!r}.")
    for direction in study["directions"]:
        if direction not in StudyDirection.__members__:
            raise UsageError(f"{path} is damaged: {direction!r} is no direction.")
    if len(lines) != study["trials"]:
        raise UsageError(
            f"{folder / 'trials.jsonl'} is damaged: it has {len(lines)} lines, but must have "
            f"{study['trials']}."
        )
    return Exported(
        study, [_trial_of_line(folder, i, text) for i, text in enumerate(lines)], folder
    )


def _trial_of_line(folder: Path, number: int, line: str) -> FrozenTrial:
    try:
        trial = parse_trial(json.loads(line))
        trial._validate()
        if trial.number != number:
            raise ValueError(f"trial {trial.number} stands where trial {number} must")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        where = f"{folder / 'trials.jsonl'}, line {number + 1}"
        raise UsageError(f"{where}, is damaged: {_reason(error)}.") from error
    return trial


def _reason(error: Exception) -> str:
    text = str(error).rstrip(".")
    return f"it has no {text}" if isinstance(error, KeyError) else text


def parse_trial(row: Mapping[str, Any]) -> FrozenTrial:
    """Return the trial that `describe_trial` wrote."""
    return FrozenTrial(
        number=row["number"],
        trial_id=row["id"],
        state=TrialState[row["state"]],
        value=None,
        values=row["values"],
        datetime_start=_read_moment(row["datetime_start"]),
        datetime_complete=_read_moment(row["datetime_complete"]),
        params=row["params"],
        distributions={
            name: json_to_distribution(json.dumps(distribution))
            for name, distribution in row["distributions"].items()
        },
        intermediate_values={
            int(step): value for step, value in row["intermediate_values"].items()
        },
        user_attrs=row["user_attrs"],
        system_attrs=row["system_attrs"],
    )


def _read_moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise, so that what was begun is undone."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
