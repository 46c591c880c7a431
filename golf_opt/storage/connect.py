"""Opens storages: SQLite in a file, PostgreSQL, another server, a journal file, or memory."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import StorageConfig
from golf_opt.storage.bulk import BulkStorage
from golf_opt.storage.failures import explain_opening, opens_soon
from golf_opt.storage.new_file import no_empty_file
from golf_opt.storage.url import JOURNAL, file_of, is_journal, storage_url
from golf_opt.storage.workers import coordination
from golf_opt.storage.write_behind import WriteBehindStorage
from golf_opt.utils.processes import worker_id

SQLITE_TIMEOUT_S = 60
SQLITE_MEETING_S = 1.0  # that one worker waits for others to set the same journal mode
CONNECT_TIMEOUT_S = 10
MEETING_PAUSES_S = (0.1, 0.3, 1.0, 3.0)  # where many workers open it at the same moment
OPENING_ERRORS = (SQLAlchemyError, StorageInternalError)  # the latter is Optuna's about the first
LIMIT_STATEMENTS = "SET LOCAL statement_timeout = '60s'"
SILENCE_S = 20.0  # after which a connection may be gone: most are used more often
MOST_OF_AN_OPERATION = 1_000_000  # bytes of a journal's first line
NETWORK_FILE_SYSTEMS = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs",
    "fuse.glusterfs", "afs",
)  # fmt: skip


@contextlib.contextmanager
def opened_storage(config: StorageConfig, connections: int = 1) -> Iterator[BaseStorage]:
    """Open the storage for a block, and give its connections back afterwards."""
    with no_empty_file(file_of(config)):
        storage = open_storage(config, connections)
        try:
            yield storage
        finally:
            coordination(storage).close()


@contextlib.contextmanager
def opened_to_read(config: StorageConfig) -> Iterator[BaseStorage]:
    """Open the storage as it is: where there is no file yet, an empty one in memory stands in."""
    path = file_of(config)
    if path is not None and not path.exists():
        config = StorageConfig(None, None)
    with opened_storage(config) as storage:
        yield storage


def open_storage(config: StorageConfig, connections: int = 1) -> BaseStorage:
    """Open, and if need be create, the storage.

    Args:
        config: where it is.
        connections: to a server, at most; all but one are closed when they are not used.

    Raises:
        UsageError: the URL is no URL, or nothing answers there, or it may not be used.
    """
    if config.url is None and config.url_env is None:
        return optuna.storages.InMemoryStorage()
    path = file_of(config)
    if path is not None and is_journal(config):
        return _open_journal(path)
    url = storage_url(config)
    try:
        if url.drivername.startswith("sqlite"):
            return _open_sqlite(url)
        return _open_server(url, connections)
    except UsageError:
        raise
    except (*OPENING_ERRORS, ImportError, OSError, RuntimeError, sqlite3.Error) as error:
        raise UsageError(explain_opening(url, error)) from error


def _open_journal(path: Path) -> BaseStorage:
    """Optuna's log of operations, for one worker."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with path.open("rb") as file:  # Optuna would write behind a line that it cannot read
                first = file.readline(MOST_OF_AN_OPERATION)
                assert not first or "op_code" in json.loads(first)
        backend = JournalFileBackend(str(path))
        return JournalStorage(backend)
    except OSError as error:
        raise UsageError(f"storage {JOURNAL}{path} cannot be used: {error}") from error
    except Exception as error:  # Optuna checks nothing of what it reads
        raise UsageError(f"storage {JOURNAL}{path} is no journal of Optuna's.") from error


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
        _set_journal_mode(path, "WAL" if wal else "TRUNCATE")
    backend = _rdb(url, {"timeout": SQLITE_TIMEOUT_S})
    if wal:
        event.listen(backend.engine, "connect", _relax_sync)
        backend.engine.dispose()  # so that every connection passes the listener
    return WriteBehindStorage(backend, worker_id())


def _set_journal_mode(path: Path, mode: str) -> None:
    """Set it, however many workers do at the same moment.

    One that saw the old mode waits for the others to leave the file, which they do not, once they
    have it open in the new mode: so none waits for long, but looks again.
    """
    latest = time.monotonic() + SQLITE_TIMEOUT_S
    while True:
        with contextlib.closing(sqlite3.connect(path, timeout=SQLITE_MEETING_S)) as connection:
            try:
                connection.execute(f"PRAGMA journal_mode={mode}")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > latest:
                    raise


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


def _open_server(url: URL, connections: int) -> BaseStorage:
    """Open a database of a server; between it and us may be a PgBouncer in transaction mode.

    There a session is no longer than a transaction, and begins with none of a client's own
    options: so nothing is prepared for later, and every transaction says how long it may take.
    """
    pool: dict[str, Any] = {"pool_size": 1, "max_overflow": connections}
    if url.get_backend_name() != "postgresql":
        return optuna.storages.get_storage(_rdb(url, {}, pool_pre_ping=True, **pool))
    connect: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S}
    begin = LIMIT_STATEMENTS
    if url.get_driver_name() == "psycopg":
        # it would send BEGIN by itself, and wait for the answer before what limits the statements
        connect |= {"prepare_threshold": None, "autocommit": True}
        begin = f"BEGIN; {LIMIT_STATEMENTS}"
    # Optuna makes and checks its tables with two connections at a time: workers that begin at once
    # would have all there are, and each wait for one more. So there the two are one
    _rdb(url, connect, poolclass=StaticPool, isolation_level="AUTOCOMMIT").engine.dispose()
    backend = _rdb(url, connect, made=True, **pool | {"max_overflow": connections - 1})
    event.listen(backend.engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    event.listen(backend.engine, "checkin", _note_the_time)
    event.listen(backend.engine, "checkout", _ping_after_silence)
    return WriteBehindStorage(backend, worker_id())


def _note_the_time(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _ping_after_silence(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Ask a connection whether it still stands, as `pool_pre_ping` does, but not at every use.

    Raises:
        DisconnectionError: it does not; the pool makes another.
    """
    if time.monotonic() - record.info.get("used", math.inf) > SILENCE_S:
        try:
            connection.cursor().execute("SELECT 1")
        except Exception as error:
            raise DisconnectionError from error


def _rdb(url: URL, connect_args: dict[str, Any], made: bool = False, **options: Any) -> RDBStorage:
    """Return Optuna's storage; one that is not known to be made is made, or checked."""
    options["connect_args"] = connect_args
    text = url.render_as_string(hide_password=False)
    skip = {"skip_table_creation": made, "skip_compatibility_check": made}
    for pause_s in MEETING_PAUSES_S:
        try:
            return BulkStorage(text, options, **skip)
        except OPENING_ERRORS as error:
            if not opens_soon(error):
                raise
            time.sleep(pause_s)
    return BulkStorage(text, options, **skip)
