"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WRITE_ERRORS = (
    errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM,
    errno.ENOTDIR, errno.EEXIST,
)  # fmt: skip


def read_regular(path: Path, inside: Path | None = None) -> bytes:
    """Read a file that somebody else may have made: a regular one, and no other.

    Args:
        path: of the file. A pipe would make us wait for ever.
        inside: a folder that the file must be in; no link may lead out of it.

    Raises:
        OSError: it cannot be read, or is none of that.
    """
    real = Path(os.path.realpath(path))  # which does not mind links in a circle; opening does
    if inside is not None and not real.is_relative_to(os.path.realpath(inside)):
        raise OSError(errno.EPERM, f"it leads out of {inside}", str(path))
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read()


def replace_file(path: Path, data: bytes) -> None:
    """Write a file through one beside it, so that whoever reads or dies sees old or new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the one that the user knows
        raise


@contextmanager
def tidied(place: Path) -> Iterator[None]:
    """Let a block that fails leave no empty folder at a place, of those that it made.

    Args:
        place: a folder; it, those above it, and two levels below it are looked at.
    """
    place = place.absolute()
    above = [place, *place.parents]
    before = {*filter(_is_folder, above), *_folders(place, 2)}
    try:
        yield
    except BaseException:
        for folder in [*sorted(_folders(place, 2), reverse=True), *above]:
            if folder not in before:
                with suppress(OSError):  # somebody uses it
                    folder.rmdir()
        raise


def _is_folder(path: Path) -> bool:
    with suppress(OSError, ValueError):  # no file can have this name
        return path.is_dir()
    return False


def _folders(place: Path, levels: int) -> Iterator[Path]:
    """Yield the folders below a place, so many levels deep; no links."""
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)
                if levels > 1:
                    yield from _folders(Path(entry.path), levels - 1)


def replace_text(path: Path, text: str) -> None:
    replace_file(path, text.encode())


def replace_section(path: Path, begin: str, end: str, text: str) -> None:
    """Put a text between two marks of a file, in place of what is there."""
    head, _, rest = path.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    replace_text(path, f"{head}{begin}{text}{end}{tail}")


def print_or_write(path: Path, begin: str, end: str, text: str) -> None:
    """Print a generated part of a page; with --write, put it there between its marks."""
    if "--write" in sys.argv:
        replace_section(path, begin, end, text)
    else:
        print(text)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path` that takes its place, unless the block raises.

    Then nothing is left of it, nor of the folders above it that were made for it.
    """
    new = [folder for folder in path.parents if not folder.exists()]  # the innermost first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as staging:
            made = Path(staging) / path.name
            made.mkdir()
            yield made
            if path.exists():
                shutil.rmtree(path)
            made.replace(path)
    except BaseException:
        for folder in new:
            with suppress(OSError):  # it is not there, or somebody else put something into it
                folder.rmdir()
        raise
