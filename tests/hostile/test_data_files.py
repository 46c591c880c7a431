"""Data files that somebody spoilt: each is a data set, or is refused in one line."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Ran, told
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig
from golf_opt.task.data import load

Golf = Callable[..., Ran]


def archive() -> bytes:
    found = {
        f"{which}_{part}": values
        for part, n in (("train", 12), ("test", 6))
        for which, values in (("x", np.zeros((n, 4, 5), np.uint8)), ("y", np.arange(n) % 3))
    }
    kept = io.BytesIO()
    np.savez(kept, **found)  # type: ignore[arg-type]
    return kept.getvalue()


ARCHIVE = archive()


@fuzz(examples=150)
@given(
    changes=some.lists(
        some.tuples(some.integers(0, len(ARCHIVE) - 1), some.integers(0, 255)), max_size=6
    ),
    end=some.integers(0, len(ARCHIVE)) | some.just(len(ARCHIVE)),
)
def test_any_archive(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], end: int
) -> None:
    path = tmp_path_factory.mktemp("archive") / "a.npz"
    spoilt = bytearray(ARCHIVE)
    for place, value in changes:
        spoilt[place] = value
    path.write_bytes(bytes(spoilt[:end]))
    try:
        found = load(DataConfig(str(path), Path("nowhere")))
    except UsageError as refused:
        assert "\n" not in str(refused)
    else:
        assert found.train.images.shape[0] == len(found.train.labels) > 0


def bomb(folder: Path) -> Path:
    """An array of 16 GiB of zeros, in a header alone."""
    kept = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        kept, {"descr": "|u1", "fortran_order": False, "shape": (1 << 34,)}
    )
    import zipfile

    with zipfile.ZipFile(folder / "bomb.npz", "w") as file:
        file.writestr("x_train.npy", kept.getvalue())
        file.writestr("y_train.npy", kept.getvalue())
    return folder / "bomb.npz"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.npz")
    return folder / "pipe.npz"


def large_picture(folder: Path) -> Path:
    (folder / "p" / "cat").mkdir(parents=True)
    Image.new("1", (14_000, 14_000)).save(folder / "p" / "cat" / "1.png")
    return folder / "p"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bomb, "cannot be read"),
        (pipe, "is not there|no such thing|regular"),
        (large_picture, "1.png is no picture that can be read"),
    ],
)
def test_what_would_take_all_memory_or_time(
    golf: Golf, tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    ran = golf("study", f"data={make(tmp_path)}", "trials=1", "epochs=1")
    assert any(word in told(ran) for word in message.split("|"))
    assert not (tmp_path / "studies").exists()
