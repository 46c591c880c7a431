"""Where studies are kept: SQLite, Postgres or any Optuna URL; and what makes a study the same.

A URL in the configuration has no password: `cli` moves it to the environment before Hydra sees
it, and `with_password` puts it back for the one call that needs it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from golf_opt.config.errors import UsageError, did_you_mean
from golf_opt.config.schema import StorageConfig
from golf_opt.storage.bulk import BulkStorage
from golf_opt.storage.ledger import Lease, is_made_meanwhile
from golf_opt.storage.write_behind import LEASE_S, StorageUnreachable, WriteBehindStorage
from golf_opt.utils.files import WRITE_ERRORS
from golf_opt.utils.processes import is_alive, this_worker

PASSWORD_ENV = "GOLF_STORAGE_PASSWORD"
PASSWORD_FILE_ENV = "GOLF_STORAGE_PASSWORD_FILE"  # names a file that holds it, as containers do
STUDY_ID = "golf_opt:id"
IMPORTING = "golf_opt:importing"  # the worker that fills the study; False when it is whole
NOTE_SECTIONS = "golf_opt:note_sections"  # what else is in the note, in Markdown by title
CONFIRMED = "golf_opt:confirmed"  # {trial: {seed: result}}, see golf/confirm.py
WORKER = "worker"  # the user attribute with the name of the worker that ran a trial last
SQLITE_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 10
MEETING_PAUSES_S = (0.1, 0.3, 1.0)  # where several workers make the tables at the same moment
STATEMENT_TIMEOUT_S = 60
JOURNAL = "journal:"  # begins the URL of a journal file
NETWORK_FILE_SYSTEMS = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs",
    "fuse.glusterfs", "afs",
)  # fmt: skip


@contextlib.contextmanager
def opened_storage(config: StorageConfig) -> Iterator[BaseStorage]:
    """Open the storage for a block, and give its connections back afterwards."""
    storage = open_storage(config)
    try:
        yield storage
    finally:
        if isinstance(storage, WriteBehindStorage):
            storage.close()


@contextlib.contextmanager
def opened_to_read(config: StorageConfig) -> Iterator[BaseStorage]:
    """Open the storage as it is: where there is no file yet, an empty one in memory stands in."""
    url, path = config.url or "", ""
    if url.startswith(JOURNAL):
        path = url.removeprefix(JOURNAL)
    elif url.startswith("sqlite"):
        path = storage_url(config).database or ""
    if path and not path.startswith((":", "file:")) and not Path(path).exists():
        config = StorageConfig(None, None)
    with opened_storage(config) as storage:
        yield storage


def open_storage(config: StorageConfig) -> BaseStorage:
    """Open, and if need be create, the storage.

    Raises:
        UsageError: the URL is no URL, or nothing answers there, or it may not be used.
    """
    if config.url is None and config.url_env is None:
        return optuna.storages.InMemoryStorage()
    if config.url is not None and config.url.startswith(JOURNAL):
        return _open_journal(Path(config.url.removeprefix(JOURNAL)))
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
    if url.password or url.drivername.startswith("sqlite"):
        return url
    password = os.environ.get(PASSWORD_ENV) or _password_from_file()
    return url.set(password=password) if password else url


def _password_from_file() -> str | None:
    """Return what the file named by GOLF_STORAGE_PASSWORD_FILE holds, less the newline after it."""
    name = os.environ.get(PASSWORD_FILE_ENV)
    if not name:
        return None
    try:
        password = Path(name).read_text("utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(
            f"{PASSWORD_FILE_ENV} names {name}, which cannot be read: {reason}."
        ) from error
    if not password:
        raise UsageError(f"{PASSWORD_FILE_ENV} names {name}, but must name a file with a password.")
    return password


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


def _open_journal(path: Path) -> BaseStorage:
    """Optuna's log of operations, for one worker."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        backend = JournalFileBackend(str(path))
        return JournalStorage(backend)
    except OSError as error:
        raise UsageError(f"storage {JOURNAL}{path} cannot be used: {error}") from error


def _open_sqlite(url: URL) -> BaseStorage:
    """WAL lets the dashboard read while trials write; NORMAL is safe with it and much faster.

    WAL keeps its index in shared memory, which machines do not share: on a network file system the
    file is locked as a whole instead, and every write waits for the disk.
    """
    wal = True
    if url.database and url.database != ":memory:" and not url.database.startswith("file:"):
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        wal = file_system(path) not in NETWORK_FILE_SYSTEMS
        with sqlite3.connect(path, timeout=SQLITE_TIMEOUT_S) as connection:
            connection.execute(f"PRAGMA journal_mode={'WAL' if wal else 'TRUNCATE'}")
        connection.close()
    backend = _rdb(url, {"timeout": SQLITE_TIMEOUT_S})
    if wal:
        event.listen(backend.engine, "connect", _relax_sync)
        backend.engine.dispose()  # so that every connection passes the listener
    return WriteBehindStorage(backend, this_worker(), is_alive)


def _relax_sync(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the type of the file system that a path is on, such as `ext4` or `nfs4`; or ``."""
    place = path.absolute()
    found = (0, "")
    with contextlib.suppress(OSError):
        for line in mounts.read_text().splitlines():
            _, mounted, kind, *_ = line.split()
            if place.is_relative_to(mounted):
                found = max(found, (len(mounted), kind))
    return found[1]


def _open_server(url: URL) -> BaseStorage:
    pool: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 2, "max_overflow": 2}
    if url.get_backend_name() != "postgresql":
        return optuna.storages.get_storage(_rdb(url, {}, **pool))
    connect = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "options": f"-c statement_timeout={1000 * STATEMENT_TIMEOUT_S}",
    }
    return WriteBehindStorage(_rdb(url, connect, **pool), this_worker(), is_alive)


def _rdb(url: URL, connect_args: dict[str, Any], **options: Any) -> RDBStorage:
    options["connect_args"] = connect_args
    text = url.render_as_string(hide_password=False)
    for pause_s in MEETING_PAUSES_S:
        try:
            return _TidyStorage(text, options)
        except DBAPIError as error:
            if not is_made_meanwhile(error):
                raise
            time.sleep(pause_s)
    return _TidyStorage(text, options)


class _TidyStorage(BulkStorage):
    """Optuna's storage; one that cannot be opened leaves no connection open."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        try:
            super().__init__(url, engine_kwargs)
        except BaseException:
            if engine := getattr(self, "engine", None):
                engine.dispose()
            raise


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
    hint = ""
    if re.search(r'database ".*" does not exist', reason):
        hint = f'; create it with: CREATE DATABASE "{url.database}"'
    elif "disk I/O error" in reason:  # SQLite's, where its files cannot grow
        hint = "; is the disk full?"
    return f"storage {shown} cannot be used: {' '.join(lines[:2]) or type(error).__name__}{hint}"


def explain_failure(error: Exception) -> str | None:
    """Return one line about a storage or a disk that failed while in use; None for other errors."""
    if isinstance(error, OSError) and error.errno in WRITE_ERRORS:
        return f"{error.filename or 'a file'} cannot be written: {error.strerror}"
    if isinstance(error, StorageUnreachable):
        return f"storage does not answer: {' '.join(str(error).split())}"
    if not isinstance(error, (optuna.exceptions.StorageInternalError, SQLAlchemyError)):
        return None
    cause = error.__cause__ or error
    return f"storage cannot be written: {getattr(cause, 'orig', None) or cause}"


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
    study._storage.set_study_system_attr(study._study_id, key, value)


def marks(study: optuna.Study) -> dict[str, Any]:
    """Return what `mark` kept, among other system attributes."""
    return study._storage.get_study_system_attrs(study._study_id)


def set_total(study: optuna.Study, total: int) -> None:
    """Let no worker make more than `total` trials of the study."""
    if isinstance(study._storage, WriteBehindStorage):
        study._storage.set_total(study._study_id, total)


def is_shared(study: optuna.Study) -> bool:
    """Return whether other workers may run trials of the study."""
    return isinstance(study._storage, WriteBehindStorage)


def is_reachable(study: optuna.Study) -> bool:
    """Return whether the database answered last time."""
    storage = study._storage
    return storage.reachable if isinstance(storage, WriteBehindStorage) else True


def leases(study: optuna.Study) -> list[Lease]:
    """Return the trials that run elsewhere; without an owner where the storage knows of none."""
    if isinstance(study._storage, WriteBehindStorage):
        return study._storage.ledger.others(study._study_id)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [Lease(trial._trial_id, trial.number, None, None) for trial in running]


def holds(lease: Lease) -> bool:
    """Return whether a worker is at the trial, as far as can be told from here."""
    return lease.owner is not None and is_alive(lease.owner) and (lease.age_s or 0.0) <= LEASE_S


def flush(study: optuna.Study) -> None:
    """Write what waits to be written."""
    if isinstance(study._storage, WriteBehindStorage):
        study._storage.flush()


def settle(study: optuna.Study, stopped: Callable[[], bool]) -> None:
    """Write what waits to be written, however long that takes, unless `stopped`."""
    if isinstance(study._storage, WriteBehindStorage):
        study._storage.settle(stopped)


def lost_trials(study: optuna.Study) -> set[int]:
    """Return ids of trials that other workers took over: this one was silent for too long."""
    storage = study._storage
    return storage.lost_trials() if isinstance(storage, WriteBehindStorage) else set()


def put_back(study: optuna.Study, trial_id: int) -> None:
    """Return a running trial to the queue, as it is; the next ask takes it up again."""
    study._storage.set_trial_state_values(trial_id, TrialState.WAITING)


def requeue_dead(study: optuna.Study) -> list[tuple[int, TrialState]]:
    """Put back the trials of dead workers; return their numbers and their states now."""
    storage = study._storage
    if isinstance(storage, WriteBehindStorage):
        return [(lease.number, state) for lease, state in storage.requeue_dead(study._study_id)]
    requeued = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(WORKER)
        if worker is not None and not is_alive(worker):
            put_back(study, trial._trial_id)
            requeued.append((trial.number, TrialState.WAITING))
    return requeued


def num_finished(study: optuna.Study) -> int:
    """Trials that count against the total: complete, pruned or failed."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return len(study.get_trials(deepcopy=False, states=states))
