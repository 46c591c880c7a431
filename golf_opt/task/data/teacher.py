"""A teacher: what a better net, or several of them, says of every training image.

Its logits are an array [images, classes] in the order of the training images, kept as a file
FILE.npy, or in a folder with facts of how they came about: logits.npy and teacher.json.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from golf_opt.config.errors import UsageError
from golf_opt.config.types import Protocol
from golf_opt.task.data.splits import View
from golf_opt.utils.files import read_regular
from golf_opt.utils.text import count, percent

LOGITS, FACTS = "logits.npy", "teacher.json"
MUST = "a folder that golf-opt teach made, or a file FILE.npy of logits [images, classes]"


class Facts(BaseModel):
    """What teacher.json says. Accuracies are in [0, 1]."""

    model_config = ConfigDict(strict=True, frozen=True)

    format: Literal[1] = 1
    data: str
    data_digest: str  # of what the teacher saw and was measured on, see `View.digest`
    protocol: Protocol
    num_train: int  # images
    net: str
    layers: list[dict[str, Any]]
    num_params: int
    recipe: dict[str, Any]
    epochs: int
    seeds: list[int]  # of the nets that it is made of
    averaged: Literal["logits"] = "logits"  # what of them is: a geometric mean of probabilities
    measured_on: str  # the name of the split of the next two
    accuracy: float  # of all together
    accuracies: list[float]  # of each net by itself
    train_accuracy: float
    logits: str  # the digest of logits.npy
    version: str  # of golf_opt
    command: str

    @property
    def words(self) -> str:
        """Return `4 nets separable-wide, 99.31 % on test`."""
        nets = count(len(self.seeds), "net")
        return f"{nets} {self.net}, {percent(self.accuracy)} on {self.measured_on}"


@dataclass(frozen=True)
class Teacher:
    """What was read of one."""

    path: Path
    logits: npt.NDArray[np.float32]  # [images, classes]
    digest: str  # 16 hex digits of the file of logits
    facts: Facts | None  # a file by itself has none

    @property
    def words(self) -> str:
        return self.path.name if self.facts is None else self.facts.words


def read_teacher(path: Path) -> Teacher:
    """Read a teacher from its folder or its file of logits.

    Raises:
        UsageError: it is none, or damaged.
    """
    if not path.exists():
        raise UsageError(f"teacher is {str(path)!r}, but must be {MUST}; it is not there.")
    try:
        facts = _facts(path / FACTS) if path.is_dir() else None
        file = path / LOGITS if path.is_dir() else path
        data = read_regular(file)
        logits = _array(data)
    except OSError as error:
        why = error.strerror
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{FACTS}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    except Exception as error:  # NumPy's and JSON's have no base of their own
        why = " ".join(str(error).split()) or type(error).__name__
    else:
        digest = digest_of(data)
        if facts is None or facts.logits == digest:
            return Teacher(path, logits, digest, facts)
        why = f"{LOGITS} is not the file that {FACTS} tells of"
    raise UsageError(f"teacher is {str(path)!r}, but must be {MUST}; it cannot be read: {why}.")


def digest_of(data: bytes) -> str:
    """Return what a file of logits is known by."""
    return hashlib.sha256(data).hexdigest()[:16]


def _facts(path: Path) -> Facts:
    return Facts.model_validate(json.loads(read_regular(path)))


def _array(data: bytes) -> npt.NDArray[np.float32]:
    found = np.load(io.BytesIO(data), allow_pickle=False)
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f":
        raise ValueError("it must have numbers with a point, [images, classes]")
    if not np.isfinite(found).all():
        raise ValueError("it has numbers that are not finite")
    return np.ascontiguousarray(found, dtype=np.float32)


def find_teacher(place: Path, digest: str) -> Teacher | None:
    """Return the teacher of a digest: at a place, or in one of the folders there; None: nowhere."""
    for path in _teachers(place):
        try:
            found = read_teacher(path)
        except UsageError:
            continue  # it may be another one
        if found.digest == digest:
            return found
    return None


def _teachers(place: Path) -> Iterator[Path]:
    if place.is_file() or (place / FACTS).is_file():
        yield place
    elif place.is_dir():
        yield from sorted(path.parent for path in place.glob(f"*/{FACTS}"))


def taught(view: View, teacher: Teacher) -> View:
    """Return the data with a teacher's logits beside its training images.

    Raises:
        UsageError: it is a teacher of other images.
    """
    check_same_images(view, teacher)
    images, classes = teacher.logits.shape
    if (images, classes) != (len(view.train), view.input.classes):
        raise UsageError(
            f"teacher {teacher.path} has logits of {images:,} images and {classes} classes, but "
            f"must have those of the {len(view.train):,} training images and {view.input.classes} "
            f"classes of {view.dataset} under protocol={view.protocol}."
        )
    return replace(view, train=replace(view.train, soft=teacher.logits))


def check_same_images(view: View, teacher: Teacher) -> None:
    """Refuse a teacher that was trained on other images than a net of `view` is.

    Raises:
        UsageError: it was.
    """
    facts = teacher.facts
    if facts is None or facts.data_digest == view.digest:
        return
    seen = view.protocol == "holdout" and facts.protocol == "test"
    raise UsageError(
        f"teacher {teacher.path} was trained on {facts.data} under protocol={facts.protocol} "
        f"({facts.data_digest}), but must be trained on the very images that its pupils are, "
        f"{view.dataset} under protocol={view.protocol} ({view.digest})"
        + ("; it may have seen the held-out ones." if seen else ".")
    )
