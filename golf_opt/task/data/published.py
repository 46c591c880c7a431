"""Torchvision's data sets in `data.root`, downloaded where there is a network."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from golf_opt.config.errors import UsageError
from golf_opt.task.data import idx
from golf_opt.task.data.splits import Dataset, MissingData, Split, dataset
from golf_opt.utils.files import WRITE_ERRORS

DOWNLOAD_TIMEOUT_S = 10.0

# file in <root>/<Class>/raw -> shape of the array
IDX_SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
MNIST_MD5 = {  # of the unpacked files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass(frozen=True)
class Published:
    """A class of torchvision.datasets, and what it takes for either part."""

    cls: str
    train: Mapping[str, Any] = field(default_factory=lambda: {"train": True})
    test: Mapping[str, Any] = field(default_factory=lambda: {"train": False})

    @classmethod
    def emnist(cls, split: str) -> Published:
        return cls("EMNIST", *({"split": split, "train": part} for part in (True, False)))


SPLIT = ({"split": "train"}, {"split": "test"})
PUBLISHED = {
    "mnist": Published("MNIST"),
    "fashion": Published("FashionMNIST"),
    "kmnist": Published("KMNIST"),
    "emnist-letters": Published.emnist("letters"),
    "emnist-balanced": Published.emnist("balanced"),
    "cifar10": Published("CIFAR10"),
    "cifar100": Published("CIFAR100"),
    "svhn": Published("SVHN", *SPLIT),
    "stl10": Published("STL10", *SPLIT),
    "usps": Published("USPS"),
}
IN_MNISTS_FORM = ("mnist", "fashion", "kmnist")
NORMALISED_AS_MNIST = ("mnist", "fashion")


def load_published(name: str, root: Path, download: bool) -> Dataset:
    """Load a data set by its name in PUBLISHED.

    Args:
        name: of it.
        root: the folder that torchvision keeps it in.
        download: whether to fetch what is missing.

    Raises:
        MissingData: it is not there, and cannot be fetched.
        UsageError: a file is damaged, or the folder cannot be written to.
    """
    if name not in IN_MNISTS_FORM:
        return _through_torchvision(name, root, download)
    folder = root / PUBLISHED[name].cls / "raw"
    missing = [file for file in IDX_SHAPES if not (folder / file).is_file()]
    if missing:
        if not download:
            raise _missing(name, f"{', '.join(missing)} (or the same with .gz) in {folder}", None)
        _download(name, root, folder, missing)
    md5_of = MNIST_MD5 if name == "mnist" else {}
    read = [
        idx.read_known(folder / file, shape, md5_of.get(file)) for file, shape in IDX_SHAPES.items()
    ]
    (train_images, train_labels, test_images, test_labels), md5s = zip(*read, strict=True)
    train = Split("train", train_images[:, None], train_labels)
    test = Split("test", test_images[:, None], test_labels)
    if name in NORMALISED_AS_MNIST:
        return Dataset(name, train, test, hashlib.md5("".join(md5s).encode()).hexdigest())
    return dataset(name, train, test, ())


def _through_torchvision(name: str, root: Path, download: bool) -> Dataset:
    """Read a data set picture by picture, as torchvision gives them."""
    from torchvision import datasets

    source = PUBLISHED[name]
    cls: Any = getattr(datasets, source.cls)
    opened = []
    for options in (source.train, source.test):
        try:
            try:
                opened.append(cls(root, **options, download=False))
            except (RuntimeError, OSError):  # not there, or not whole
                if not download:
                    raise
                with _short_timeout():
                    opened.append(cls(root, **options, download=True))
        except (RuntimeError, OSError, EOFError) as error:
            _refuse_unwritable(root, error)
            raise _missing(name, f"torchvision's {source.cls} in {root}", error) from error
    names = list(map(str, getattr(opened[0], "classes", [])))
    numbers = [np.array([label for _, label in part]) for part in opened]
    used = np.unique(numbers[0])  # EMNIST's letters are numbered from 1
    splits = []
    for part, name_of, labels in zip(opened, ("train", "test"), numbers, strict=True):
        images = np.stack([np.asarray(image) for image, _ in part])
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        index = np.searchsorted(used, labels).astype(np.uint8)
        splits.append(Split(name_of, np.ascontiguousarray(images), index))
    return dataset(name, splits[0], splits[1], tuple(names[i] for i in used) if names else ())


@contextlib.contextmanager
def _short_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _download(name: str, root: Path, folder: Path, missing: list[str]) -> None:
    """Let torchvision fetch the files, or unpack .gz files that are already in the folder."""
    from torchvision import datasets  # takes seconds to import, and is needed only here

    cls: Any = getattr(datasets, PUBLISHED[name].cls)
    missing_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    files_before = set(folder.glob("*"))
    try:
        with _short_timeout():
            cls(root, download=True)
    except (RuntimeError, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in WRITE_ERRORS:
            for path in set(folder.glob("*")) - files_before:
                path.unlink()  # half written
        _refuse_unwritable(folder, error)
        raise _unavailable(name, cls, folder, missing, error) from error
    finally:
        for path in missing_folders:
            with contextlib.suppress(OSError):  # it is in use, as it should be
                path.rmdir()


def _refuse_unwritable(folder: Path, error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in WRITE_ERRORS:
        raise UsageError(f"{folder} cannot be written: {error.strerror}.") from error


def _unavailable(
    name: str, cls: Any, folder: Path, missing: list[str], error: Exception
) -> UsageError:
    """Name the damaged .gz file if there is one, otherwise the missing files."""
    md5_of = {Path(file).stem: md5 for file, md5 in cls.resources}
    for file in missing:
        packed = folder / f"{file}.gz"
        if packed.is_file() and hashlib.md5(packed.read_bytes()).hexdigest() != md5_of[file]:
            return idx.damaged(packed, "its checksum differs", md5_of[file])
    return _missing(name, f"{', '.join(missing)} (or the same with .gz) in {folder}", error)


def _missing(name: str, wanted: str, error: Exception | None) -> MissingData:
    tried = f", and no mirror answered ({type(error).__name__})" if error else ""
    return MissingData(
        f"data={name} wants {wanted}{tried}. Put the files there, or set "
        "data.root or GOLF_DATA to a folder that has them, or use data=digits."
    )
