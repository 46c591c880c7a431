"""A database that is made for a command whose disk is full is not left behind."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from golf_opt.utils.files import tidied

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
SQLITE_FULL = ("SQLITE_FULL", "SQLITE_IOERR")  # the latter where it cannot map memory
BESIDE = ("", "-wal", "-shm", "-journal")  # the file itself, and what SQLite puts beside it


@contextmanager
def no_empty_file(path: Path | None) -> Iterator[None]:
    """Let a block use a database; one that it made goes again if there is no room for a study.

    Args:
        path: of the database's file; None of one on a server.
    """
    if path is None or path.exists():
        yield
        return
    with tidied(path.parent):
        try:
            yield
        except Exception as error:
            if is_full(error) and not _holds_studies(path):
                for suffix in BESIDE:
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
            raise


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or what it came from, is that there is no room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        name = getattr(error, "sqlite_errorname", None)
        if isinstance(name, str) and name.startswith(SQLITE_FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _holds_studies(path: Path) -> bool:
    """Return whether anybody has a study in a database by now."""
    try:
        if path.read_bytes()[:6] != b"SQLite":  # a journal
            return path.stat().st_size > 0
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return bool(database.execute("SELECT count(*) FROM studies").fetchone()[0])
    except (OSError, sqlite3.Error) as error:
        return "locked" in str(error)
