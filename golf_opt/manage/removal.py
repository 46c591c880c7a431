"""`golf-opt rm`: a study, its checkpoints and its pictures are removed together."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from golf_opt.config.command import again, override
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import RemovalConfig
from golf_opt.storage.checkpoint import open_checkpoints
from golf_opt.storage.connect import opened_to_read
from golf_opt.storage.optuna_internals import id_of_study, storage_of
from golf_opt.storage.studies import find_any_study, marks
from golf_opt.storage.workers import coordination, is_held
from golf_opt.utils.processes import show_worker
from golf_opt.utils.text import count
from golf_opt.utils.trials import counts

# keys of attributes for a file: Optuna's, and the dashboard's for one of a finished trial
ARTIFACT = re.compile(r"(?:dashboard:artifacts:\d+|artifacts):([0-9a-f-]{36})")


def remove(config: RemovalConfig, say: Callable[[str], None]) -> bool:
    """Remove a study after asking; return whether it was removed.

    Raises:
        UsageError: there is no such study, a worker is at it, or nobody is there to be asked.
    """
    with opened_to_read(config.storage) as storage:
        study = find_any_study(storage, config.study, exact=config.yes)
        refuse_running(study, config.force)
        tally = counts(study)
        what = f"study {study.study_name!r} with {count(sum(tally.values()), 'trial')}"
        if not config.yes and not confirmed(f"remove {what}?", study.study_name):
            say("nothing was removed")
            return False
        refuse_running(study, config.force)  # again: the question may have stood for an hour
        others = {
            id_
            for name in optuna.get_all_study_names(storage)
            if name != study.study_name
            for id_ in artifacts_of(optuna.load_study(study_name=name, storage=storage))
        }
        mine = artifacts_of(study) - others if config.artifacts else set()
        remove_study(study, config.folder, mine)
        say(f"removed {what}")
    return True


def refuse_running(study: optuna.Study, force: bool) -> None:
    """Raise a UsageError where a worker is at a trial.

    A trial that runs without a lease is some other program's, which only the user can know of:
    `force` says that it is gone.
    """
    running = coordination(storage_of(study)).leases(id_of_study(study))
    held = {
        lease.number: show_worker(lease.owner)
        for lease in running
        if lease.owner and is_held(lease)
    }
    if held:
        shown = ", ".join(f"{number} on {worker}" for number, worker in sorted(held.items()))
        raise UsageError(
            f"study {study.study_name!r} is at work: trial {shown}. End that first (Ctrl-C or "
            "SIGTERM there requeues its trials), then remove the study."
        )
    unknown = sorted(lease.number for lease in running if lease.owner is None)
    if unknown and not force:
        raise UsageError(
            f"study {study.study_name!r} has trial {', '.join(map(str, unknown))} running in a "
            "program that keeps no lease; end it first, or give force=true if it is gone."
        )


def confirmed(question: str, name: str) -> bool:
    """Ask on the terminal.

    Raises:
        UsageError: there is no terminal.
    """
    if not sys.stdin.isatty():
        raise UsageError(
            "yes is False, but must be true where there is no terminal to ask on: "
            f"{again('rm', override('study', name), 'yes=true')}"
        )
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def artifacts_of(study: optuna.Study) -> set[str]:
    """Return the ids of the files that the study and its trials refer to."""
    found = set(artifact_ids(marks(study)))
    for trial in study.get_trials(deepcopy=False):
        found |= artifact_ids(trial.system_attrs)
    return found


def artifact_ids(system_attrs: Mapping[str, Any]) -> set[str]:
    return {match[1] for key in system_attrs if (match := ARTIFACT.fullmatch(key))}


def remove_study(study: optuna.Study, folder: Path, artifacts: Iterable[str]) -> None:
    """Remove files first and the study last, so that one cut short can be repeated."""
    store = FileSystemArtifactStore(folder / "artifacts")
    for id_ in artifacts:
        try:
            store.remove(id_)
        except ArtifactNotFound:
            continue
    with contextlib.suppress(UsageError):  # a foreign study has no checkpoints
        open_checkpoints(study, folder).delete_all()
    optuna.delete_study(study_name=study.study_name, storage=storage_of(study))
