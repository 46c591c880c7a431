"""Where studies are kept: SQLite, Postgres or any Optuna URL; fingerprints; workers that died.

A URL in the configuration has no password: `cli` moves it to the environment before Hydra sees
it, and `with_password` puts it back for the one call that needs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sqlite3
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb.models import TrialUserAttributeModel
from optuna.trial import TrialState
from sqlalchemy import event, insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from golf_opt.config import StorageConfig, UsageError, did_you_mean

PASSWORD_ENV = "GOLF_STORAGE_PASSWORD"
FINGERPRINT = "golf_opt:fingerprint"
STUDY_ID = "golf_opt:id"
RECIPE = "golf_opt:recipe"  # arch, space, protocol, ...: how to run the study elsewhere
FACTS = "golf_opt:facts"  # what the study's note tells
NOTE_SECTIONS = "golf_opt:note_sections"  # what else is in the note, in Markdown by title
CONFIRMED = "golf_opt:confirmed"  # {trial: {seed: result}}, see golf/confirm.py
WORKER = "worker"
OBJECTIVES = {"test": "test accuracy", "holdout": "holdout accuracy"}  # by protocol
SQLITE_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 10


@contextlib.contextmanager
def opened_storage(config: StorageConfig) -> Iterator[BaseStorage]:
    """Open the storage for a block, and give its connections back afterwards."""
    storage = open_storage(config)
    try:
        yield storage
    finally:
        backend = getattr(storage, "_backend", storage)
        if isinstance(backend, RDBStorage):
            backend.remove_session()
            backend.engine.dispose()


def open_storage(config: StorageConfig) -> BaseStorage:
    """Open, and if need be create, the storage.

    Raises:
        UsageError: the URL is no URL, or nothing answers there, or it may not be used.
    """
    if config.url is None and config.url_env is None:
        return optuna.storages.InMemoryStorage()
    url = storage_url(config)
    try:
        return _open_sqlite(url) if url.drivername.startswith("sqlite") else _open_server(url)
    except UsageError:
        raise
    except (SQLAlchemyError, ImportError, OSError, RuntimeError, sqlite3.Error) as error:
        raise UsageError(_explain(url, error)) from error


def storage_url(config: StorageConfig) -> URL:
    """Return the URL with its password."""
    text = config.url or os.environ.get(config.url_env or "", "")
    if not text:
        raise UsageError(
            f"storage has no URL: {config.url_env} is not set; set it to "
            "postgresql://USER@HOST/DATABASE, or give storage.url=..."
        )
    text, password = take_password(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise UsageError(
            "storage.url is not a URL SQLAlchemy understands; it must look like "
            "sqlite:///studies/golf.db or postgresql://USER@HOST/DATABASE."
        ) from error
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    return url.set(password=password) if password else with_password(url)


def with_password(url: URL) -> URL:
    """Return the URL with the password that was kept out of the configuration."""
    password = os.environ.get(PASSWORD_ENV)
    return url.set(password=password) if password and not url.password else url


def show_url(url: URL) -> str:
    """Return the URL fit for a screen or a log: no password."""
    return url.set(password="***" if url.password else None, query={}).render_as_string(
        hide_password=True
    )


def take_password(text: str) -> tuple[str, str | None]:
    """Split a URL's password off: return the URL without it, and the password or None."""
    match = re.search(r"(?P<head>^.*?[\w+.-]+://[^:/@\s]*):(?P<password>.*)(?P<tail>@[^@]*)$", text)
    if match is None:
        return text, None

    return match["head"] + match["tail"], unquote(match["password"])


def _open_sqlite(url: URL) -> BaseStorage:
    """WAL lets the dashboard read while trials write; NORMAL is safe with it and much faster."""
    if url.database and url.database != ":memory:" and not url.database.startswith("file:"):
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path, timeout=SQLITE_TIMEOUT_S) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    storage = _rdb(url, {"timeout": SQLITE_TIMEOUT_S})
    event.listen(storage.engine, "connect", _relax_sync)
    storage.engine.dispose()  # so that every connection passes the listener
    return optuna.storages.get_storage(storage)


def _relax_sync(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def _open_server(url: URL) -> BaseStorage:
    connect = {"connect_timeout": CONNECT_TIMEOUT_S} if "psycopg" in url.drivername else {}
    return optuna.storages.get_storage(_rdb(url, connect, pool_pre_ping=True))


def _rdb(url: URL, connect_args: dict[str, Any], **options: Any) -> RDBStorage:
    options["connect_args"] = connect_args
    return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)


def _explain(url: URL, error: Exception) -> str:
    """Return one line about why a storage cannot be used, without its password."""
    shown = show_url(url)
    if isinstance(error, RuntimeError) and "schema" in str(error):
        return (
            f"storage {shown} was made by another version of Optuna ({optuna.__version__} is "
            f'installed); upgrade it with: optuna storage upgrade --storage "{shown}"'
        )
    if isinstance(error, (NoSuchModuleError, ImportError)):
        return f"storage {shown} needs a database driver that is not installed: {error}"
    reason = str(getattr(error, "orig", None) or error).strip()
    if url.password:
        reason = reason.replace(str(url.password), "***")
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return f"storage {shown} cannot be used: {' '.join(lines[:2]) or type(error).__name__}"


def explain_failure(error: Exception) -> str | None:
    """Return one line about a storage that failed while in use; None for any other error."""
    if not isinstance(error, (optuna.exceptions.StorageInternalError, SQLAlchemyError)):
        return None
    cause = error.__cause__ or error
    return f"storage cannot be written: {getattr(cause, 'orig', None) or cause}"


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
    return study, not known


def find_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Return a study of ours by its name.

    Raises:
        UsageError: there is none of that name, or golf-opt did not make it.
    """
    names = optuna.get_all_study_names(storage)
    if name not in names:
        known = f"it must be {did_you_mean(name, names)}" if names else "there are none yet"
        raise UsageError(f"study {name!r} is not in the storage; {known}")
    study = optuna.load_study(study_name=name, storage=storage)
    if RECIPE not in marks(study):
        raise UsageError(f"study {name!r} was not made by this golf-opt; it keeps no recipe.")
    return study


def mark(study: optuna.Study, key: str, value: Any) -> None:
    """Keep something of ours with a study, out of the table of attributes that people read."""
    study._storage.set_study_system_attr(study._study_id, key, value)


def marks(study: optuna.Study) -> dict[str, Any]:
    """Return what `mark` kept, among other system attributes."""
    return study._storage.get_study_system_attrs(study._study_id)


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


def set_attributes(trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
    """Set user attributes that the trial does not have yet: one transaction for all of them.

    Optuna has one for each, which for the dozen of a trial takes longer than a third of an epoch.
    """
    backend = getattr(trial.storage, "_backend", None)
    known = trial.user_attrs
    if not isinstance(backend, RDBStorage) or known.keys() & attributes.keys():
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        return
    rows = [
        {"trial_id": trial._trial_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]
    with backend.engine.begin() as connection:
        connection.execute(insert(TrialUserAttributeModel), rows)
    trial._cached_frozen_trial.user_attrs.update(attributes)


def this_worker() -> dict[str, Any]:
    """Return what identifies this process on its host, even after its number is used again."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def _born(pid: int) -> str | None:
    """When a process started, where the system says so (/proc/PID/stat, field 22)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return None


def is_alive(worker: Mapping[str, Any]) -> bool:
    """Return whether a worker may still be running; one on another host may."""
    if worker["host"] != socket.gethostname():
        return True
    try:
        os.kill(worker["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return worker["born"] is None or _born(worker["pid"]) == worker["born"]


def put_back(study: optuna.Study, trial_id: int) -> None:
    """Return a running trial to the queue, as it is; the next ask takes it up again."""
    study._storage.set_trial_state_values(trial_id, TrialState.WAITING)


def put_back_orphans(study: optuna.Study) -> list[int]:
    """Put back the trials that dead processes of this host left running; return their numbers."""
    orphans = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(WORKER)
        if worker is not None and not is_alive(worker):
            put_back(study, trial._trial_id)
            orphans.append(trial.number)
    return orphans


def num_finished(study: optuna.Study) -> int:
    """Trials that count against the total: complete, pruned or failed."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return len(study.get_trials(deepcopy=False, states=states))
