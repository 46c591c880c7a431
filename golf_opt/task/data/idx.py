"""IDX files, the format of MNIST: 4 bytes of magic, a size for each dimension, the data.

Sizes are big-endian.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from golf_opt.config.errors import UsageError
from golf_opt.task.data.splits import Bytes
from golf_opt.utils.files import read_regular

UNSIGNED_BYTES = 8  # the code of what we read
MOST_DIMENSIONS = 4
PARTS = {"train": "train", "test": "t10k"}  # how MNIST's makers call them
KINDS = ("images", "labels")


def files_in(folder: Path) -> Mapping[str, Path]:
    """Return the files of `train-images`, `train-labels`, `test-images` and `test-labels`.

    Nothing where the folder has no training images; each file may be packed, as `....gz`.

    Raises:
        UsageError: some of them are there, others are not.
    """
    found = {}
    for name, part in PARTS.items():
        for kind in KINDS:
            stems = [f"{which}-{kind}-idx" for which in dict.fromkeys((part, name))]
            paths = [path for stem in stems for path in sorted(folder.glob(f"{stem}*ubyte*"))]
            if paths:
                found[f"{name}-{kind}"] = paths[0]
    if "train-images" not in found:
        return {}
    for name, part in PARTS.items():
        for kind in KINDS:
            if f"{name}-{kind}" not in found:
                raise UsageError(f"data={folder} has IDX files, but no {part}-{kind}-idx...-ubyte.")
    return found


def read(path: Path) -> Bytes:
    """Return the array of an IDX file of unsigned bytes, packed or not.

    Raises:
        UsageError: it is no such file.
    """
    try:
        raw = read_regular(path)
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    dimensions = raw[3] if len(raw) > 3 else 0
    if raw[:3] != bytes((0, 0, UNSIGNED_BYTES)) or not 1 <= dimensions <= MOST_DIMENSIONS:
        raise damaged(path, "its header is not that of an IDX file of unsigned bytes", None)
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, start, 4)]
    if len(raw) != start + math.prod(shape):
        found = f"it has {len(raw):,} bytes instead of {start + math.prod(shape):,}"
        raise damaged(path, found, None)
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def read_known(path: Path, shape: tuple[int, ...], md5: str | None) -> tuple[Bytes, str]:
    """Return the array of a file whose shape and maybe checksum are known, and its MD5.

    Raises:
        UsageError: it is not that file.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    header = bytes((0, 0, UNSIGNED_BYTES, len(shape)))
    header += b"".join(size.to_bytes(4, "big") for size in shape)
    expected = len(header) + math.prod(shape)
    if len(raw) != expected:
        raise damaged(path, f"it has {len(raw):,} bytes instead of {expected:,}", md5)
    if not raw.startswith(header):
        raise damaged(path, f"its header is not that of a {'x'.join(map(str, shape))} array", md5)
    found = hashlib.md5(raw).hexdigest()
    if md5 is not None and found != md5:
        raise damaged(path, "its checksum differs", md5)
    return np.frombuffer(raw, dtype=np.uint8, offset=len(header)).reshape(shape), found


def damaged(path: Path, what: str, md5: str | None) -> UsageError:
    """Return the error of a damaged file."""
    checksum = f" (expected MD5 {md5})" if md5 else ""
    return UsageError(
        f"{path} is damaged: {what}{checksum}. Delete it and run again, or replace it."
    )
