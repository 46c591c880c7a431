"""What went wrong with a storage: for the program, whether it may pass; for the user, one line."""

from __future__ import annotations

import re

import optuna
from sqlalchemy import exc
from sqlalchemy.engine import URL

from golf_opt.storage.url import show_url
from golf_opt.utils.files import WRITE_ERRORS

CROWDED = "too many (clients|connections)|connection slots|no more connections"  # PgBouncer's


class StorageUnreachable(Exception):
    """The database does not answer now; what was to be written is kept in memory."""


def is_passing(error: Exception, dialect: str) -> bool:
    """Return whether an error of the database may be over after a while.

    A server that restarts is; a full disk, a missing right or a broken statement is not.
    """
    cause = _of_the_database(error)
    if isinstance(cause, exc.TimeoutError):
        return True
    if not isinstance(cause, exc.DBAPIError):
        return False
    if dialect == "sqlite":
        return "locked" in str(cause.orig) or "busy" in str(cause.orig)
    if cause.connection_invalidated:
        return True
    state = getattr(cause.orig, "sqlstate", None)
    if state is None:  # no word from the server: it is not there
        return isinstance(cause, (exc.OperationalError, exc.InterfaceError))
    # connection, transaction rollback (deadlock), shutdown, too many connections, lock timeout
    return state[:2] in ("08", "40", "57") or state in ("53300", "55P03")


def _of_the_database(error: BaseException) -> BaseException:
    """Return the database's error behind one of Optuna's; another one as it is."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, exc.SQLAlchemyError):
        cause = cause.__cause__
    return cause or error


def opens_soon(error: Exception) -> bool:
    """Return whether it may be that others open the database at this moment, and no more than that.

    They make the same tables, or have all connections and may give one back.
    """
    cause = _of_the_database(error)
    if not isinstance(cause, exc.DBAPIError):
        return False
    return is_made_meanwhile(cause) or re.search(CROWDED, str(cause.orig)) is not None


def is_made_meanwhile(error: exc.DBAPIError) -> bool:
    """Return whether what was to be created exists: another worker made it at the same moment."""
    if isinstance(error, exc.IntegrityError):  # the same row: of a catalogue, of Optuna's versions
        return True
    duplicates = ("42P07", "42710")  # a table, a type
    return getattr(error.orig, "sqlstate", "") in duplicates or "already exists" in str(error.orig)


def explain_opening(url: URL, error: Exception) -> str:
    """Return one line about why a storage cannot be used, without its password."""
    shown = show_url(url)
    if isinstance(error, RuntimeError) and "schema" in str(error):
        return (
            f"storage {shown} was made by another version of Optuna ({optuna.__version__} is "
            f'installed); upgrade it with: optuna storage upgrade --storage "{shown}"'
        )
    if isinstance(error, (exc.NoSuchModuleError, ImportError)):
        return f"storage {shown} needs a database driver that is not installed: {error}"
    cause = _of_the_database(error)
    reason = str(getattr(cause, "orig", None) or cause).strip()
    if url.password:
        reason = reason.replace(str(url.password), "***")
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    hint = ""
    if re.search(r'database ".*" does not exist', reason):
        hint = f'; create it with: CREATE DATABASE "{url.database}"'
    elif "disk I/O error" in reason:  # SQLite's, where its files cannot grow
        hint = "; is the disk full?"
    return f"storage {shown} cannot be used: {' '.join(lines[:2]) or type(cause).__name__}{hint}"


def explain_failure(error: Exception) -> str | None:
    """Return one line about a storage or a disk that failed while in use; None for other errors."""
    if isinstance(error, OSError) and error.errno in WRITE_ERRORS:
        return f"{error.filename or 'a file'} cannot be written: {error.strerror}"
    if isinstance(error, StorageUnreachable):
        return f"storage does not answer: {' '.join(str(error).split())}"
    if not isinstance(error, (optuna.exceptions.StorageInternalError, exc.SQLAlchemyError)):
        return None
    cause = _of_the_database(error)
    return f"storage cannot be written: {getattr(cause, 'orig', None) or cause}"
