"""`golf-opt export` and `import`: a study as files, and from files into any storage."""

from __future__ import annotations

import copy
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from golf_opt.config.command import override, runnable
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import ExportConfig, ImportConfig
from golf_opt.manage.archive import (
    Exported,
    checkpoint_name,
    read_export,
    write_study,
    write_trials,
)
from golf_opt.manage.removal import artifact_ids, artifacts_of, remove_study
from golf_opt.storage import gate
from golf_opt.storage.checkpoint import DamagedCheckpoint, open_checkpoints, pack, unpack
from golf_opt.storage.connect import opened_storage, opened_to_read
from golf_opt.storage.optuna_internals import id_of_trial
from golf_opt.storage.studies import IMPORTING, STUDY_ID, find_any_study, mark, marks
from golf_opt.storage.workers import flush
from golf_opt.study.description import KEYS, description_of, read
from golf_opt.utils.files import replace_file
from golf_opt.utils.processes import is_alive, worker_id
from golf_opt.utils.signals import Stop, stop_on_signals, unless_stopped
from golf_opt.utils.text import count

Say = Callable[[str], None]


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
    say(f"exported {study.study_name}: {kept}, to {config.output}")


def write_export(study: optuna.Study, folder: Path, config: ExportConfig, say: Say) -> str:
    """Write every file; return `3 trials, 3 checkpoints`."""
    trials = study.get_trials(deepcopy=False)
    write_trials(folder, trials)
    for id_ in sorted(artifacts_of(study)):
        source = config.folder / "artifacts" / id_
        if source.is_file() and not source.is_symlink():
            replace_file(folder / "artifacts" / id_, source.read_bytes())
    kept = count(len(trials), "trial")
    description = read(marks(study))
    if config.checkpoints and description is not None and description.objective is None:
        written = export_checkpoints(study, trials, config.folder, folder, say)
        kept += f", {count(written, 'checkpoint')}"
    write_study(folder, study, len(trials))
    return kept


def export_checkpoints(
    study: optuna.Study, trials: Sequence[FrozenTrial], source: Path, target: Path, say: Say
) -> int:
    """Write the checkpoints that there are; return how many."""
    description = description_of(study)
    checkpoints = open_checkpoints(study, source)
    written = 0
    for trial in trials:
        if "seed" not in trial.user_attrs:
            continue  # it was never started
        try:
            job = description.job(trial)
            checkpoint = checkpoints.load(trial.number, job)
        except FileNotFoundError:
            continue
        except (DamagedCheckpoint, UsageError) as damage:
            say(f"left out: {damage}")
            continue
        replace_file(target / checkpoint_name(trial.number), pack(job, checkpoint))
        written += 1
    return written


def import_artifacts(exported: Exported, folder: Path, copied: list[str]) -> None:
    """Copy the files that the export has and the folder lacks; name each in `copied`.

    One that is no regular file of the export, or not the one that was exported, is told and left
    out: a picture is not worth a study.
    """
    ids = artifact_ids(exported.study.system_attrs)
    for trial in exported.trials:
        ids |= artifact_ids(trial.system_attrs)
    complaints = []
    for id_ in sorted(id_ for id_ in ids if not (folder / id_).exists()):
        try:
            data = exported.read_file(f"artifacts/{id_}")
        except UsageError as error:
            complaints.append(f"a file is left out: {gate.reason(error)}")
            continue
        if data is not None:
            replace_file(folder / id_, data)
            copied.append(id_)
    gate.tell(str(exported.folder), complaints)


def import_study(config: ImportConfig, say: Say) -> None:
    """Take an export into a storage, all of it or nothing.

    Trials come in as they were, but for one thing: what was running waits, since nobody here
    runs it. The study gets an id, and so a folder for checkpoints, of its own.

    Raises:
        UsageError: the folder is no export, or the name is taken.
    """
    exported = read_export(config.input)
    name = config.name or exported.study.name
    if config.storage.url is None and config.storage.url_env is None:
        raise UsageError("storage is memory, but must be one that outlives the import.")
    with opened_storage(config.storage) as storage, stop_on_signals() as stop:
        study = create_empty(storage, name, exported)
        written: list[str] = []
        try:
            fill(study, exported, config.folder, written, stop)
        except BaseException as error:
            remove_study(study, config.folder, written)
            if isinstance(error, OSError):
                raise UsageError(
                    f"dir {str(config.folder)!r} cannot be written: {error.strerror}."
                ) from error
            raise
    requeued = sum(trial.state == TrialState.RUNNING for trial in exported.trials)
    note = f"; {requeued} that were running wait to go on" if requeued else ""
    say(f"imported {name}: {count(len(exported.trials), 'trial')}{note}")


def create_empty(storage: BaseStorage, name: str, exported: Exported) -> optuna.Study:
    """Create the study, marked as one to be filled; one that a dead import left makes room."""
    if name in optuna.get_all_study_names(storage):
        there = optuna.load_study(study_name=name, storage=storage)
        importer = marks(there).get(IMPORTING)
        if not importer or is_alive(importer):
            raise taken(name)
        optuna.delete_study(study_name=name, storage=storage)
    directions = [StudyDirection[direction] for direction in exported.study.directions]
    try:
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    except optuna.exceptions.DuplicatedStudyError as error:  # another one was faster
        raise taken(name) from error
    mark(study, IMPORTING, worker_id())
    flush(study)
    return study


def taken(name: str) -> UsageError:
    return UsageError(
        f"study {name!r} is there already; give another name=..., or remove it first: "
        f"{runnable('rm', override('study', name))}"
    )


def refuse_unfinished(study: optuna.Study) -> None:
    """Raise a UsageError for a study that an import has not filled."""
    if marks(study).get(IMPORTING):
        raise UsageError(
            f"study {study.study_name!r} is not whole: its import is under way or was cut short."
        )


def fill(
    study: optuna.Study, exported: Exported, folder: Path, written: list[str], stop: Stop
) -> None:
    """Add attributes, trials and files; name in `written` the artifacts that were not there."""
    for trial in unless_stopped(exported.trials, stop):
        study.add_trial(_requeued(trial))
    pairs = zip(exported.trials, study.get_trials(deepcopy=False), strict=True)
    renamed = {str(id_of_trial(old)): str(id_of_trial(new)) for old, new in pairs}
    for key, value in exported.study.user_attrs.items():
        study.set_user_attr(key, value)
    system_attrs = exported.study.system_attrs
    for key, value in system_attrs.items():
        if key not in KEYS:
            mark(study, _renamed(key, renamed), value)
    if STUDY_ID in system_attrs or any(key in system_attrs for key in KEYS):
        mark(study, STUDY_ID, uuid.uuid4().hex)
    import_checkpoints(study, exported, folder, stop)
    import_artifacts(exported, folder / "artifacts", written)
    for key in KEYS:
        if key in system_attrs:
            mark(study, key, system_attrs[key])
    mark(study, IMPORTING, False)
    flush(study)


def _requeued(trial: FrozenTrial) -> FrozenTrial:
    """Return a running trial as one that waits to be taken up again, any other as it is."""
    if trial.state == TrialState.RUNNING:
        trial = copy.copy(trial)
        trial.state = TrialState.WAITING
    return trial


def _renamed(key: str, renamed: Mapping[str, str]) -> str:
    """Return the dashboard's key for a trial's note or file under the trial's new id."""
    return re.sub(
        r"^(dashboard:(?:artifacts:)?)(\d+)(?=:)",
        lambda match: match[1] + renamed.get(match[2], match[2]),
        key,
    )


def import_checkpoints(study: optuna.Study, exported: Exported, folder: Path, stop: Stop) -> None:
    description = read(exported.study.system_attrs)
    if description is None or description.objective is not None:
        return  # a study not ours has none, and those of an objective stay where they are
    checkpoints = open_checkpoints(study, folder)
    for trial in unless_stopped(exported.trials, stop):
        name = checkpoint_name(trial.number)
        data = exported.read_file(name)
        if data is None or trial.state == TrialState.FAIL:
            continue
        job = description.job(trial)
        try:
            checkpoints.put(trial.number, job, unpack(str(exported.folder / name), data, job))
        except DamagedCheckpoint as damage:
            raise UsageError(f"{damage} Delete it to import the study without.") from damage
