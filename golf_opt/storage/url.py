"""The URL of a storage, and its password, which stays out of the configuration.

`cli` moves a password from the URL to the environment before Hydra sees it, so that neither its
log nor a stored configuration holds it; `storage_url` adds it for the connection alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from golf_opt.config.errors import UsageError, short
from golf_opt.config.schema import StorageConfig
from golf_opt.config.types import wrong_path

JOURNAL = "journal:"  # begins the URL of a journal file
PASSWORD_ENV = "GOLF_STORAGE_PASSWORD"
PASSWORD_FILE_ENV = "GOLF_STORAGE_PASSWORD_FILE"  # names a file that holds it, as containers do


def storage_url(config: StorageConfig) -> URL:
    """Return the URL with its password."""
    text = config.url or os.environ.get(config.url_env or "", "")
    if not text and config.url_env is None:
        raise UsageError("storage.url is '', but must look like sqlite:///studies/golf.db.")
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
    if not (password or url.password or url.drivername.startswith("sqlite")):
        password = os.environ.get(PASSWORD_ENV) or _password_from_file()
    return url.set(password=password) if password else url


def file_of(config: StorageConfig) -> Path | None:
    """Return the file that a storage is kept in, of SQLite or a journal; None where it is none.

    Raises:
        UsageError: the path is none, or what lies there is no file that could be a database.
    """
    if config.url is None and config.url_env is None:
        return None
    if is_journal(config):
        path = str(config.url).removeprefix(JOURNAL)
    else:
        url = storage_url(config)
        path = url.database or ":memory:"
        if url.get_backend_name() != "sqlite" or path.startswith((":memory:", "file:")):
            return None
    wrong = wrong_path(path)
    found = Path(path)
    if wrong is None and found.exists() and not (found.is_file() or found.is_dir()):
        wrong = "a file, and that is something else."
    if wrong is not None:
        raise UsageError(f"the file of the storage is {short(path)}, but must be {wrong}")
    return found


def is_journal(config: StorageConfig) -> bool:
    return (config.url or "").startswith(JOURNAL)


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
