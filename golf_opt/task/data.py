"""Images and labels as uint8 arrays, through torchvision, and the splits a protocol allows.

data=mnist, fashion   torchvision's datasets in `data.root`, downloaded if they are not there
data=digits           scikit-learn's bundled 8x8 digits, scaled to MNIST's frame
data=auto             mnist if it can be had, otherwise digits, saying so loudly
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.config.check import check
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig
from golf_opt.task import rng
from golf_opt.utils.files import WRITE_ERRORS

MEAN, STD = 0.1307, 0.3081  # the article's normalisation of pixels scaled to [0, 1]
HOLDOUT_SHARE = 6  # one sixth of the training images: 10,000 of MNIST's 60,000
DOWNLOAD_TIMEOUT_S = 10.0

TORCHVISION_CLASSES = {"mnist": "MNIST", "fashion": "FashionMNIST"}

# file in <root>/<Class>/raw -> (shape of the array, MD5 of the unpacked file where we know it)
IDX_SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass(frozen=True)
class Split:
    """Images [n, 28, 28] uint8 and their labels [n] uint8."""

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, name: str, index: npt.NDArray[np.int64]) -> Split:
        return Split(name, self.images[index], self.labels[index])


@dataclass(frozen=True)
class View:
    """What a protocol lets a trial see: `train` to learn from, `objective` to be measured on.

    With `protocol=test` the objective is the test set, as in the article. With `holdout` it is a
    sixth of the training images, and `test` is for one reading at the end.
    """

    dataset: str
    protocol: str
    train: Split
    objective: Split
    test: Split
    digest: str  # 16 hex digits that change with anything that a trial sees


@dataclass(frozen=True)
class Dataset:
    """A data set as its makers split it. `fallback` says why it is not the one asked for."""

    name: str
    train: Split
    test: Split
    digest: str  # MD5 of the data
    fallback: str | None = None

    def view(self, protocol: str) -> View:
        """Return the splits under `test` or `holdout`."""
        digest = hashlib.md5(f"{self.digest} {protocol}".encode()).hexdigest()[:16]
        if protocol == "test":
            return View(self.name, protocol, self.train, self.test, self.test, digest)
        order = rng.permutation(rng.derive("holdout"), len(self.train))
        cut = len(order) // HOLDOUT_SHARE
        held_out = self.train.take("holdout", np.sort(order[:cut]))
        train = self.train.take("train", np.sort(order[cut:]))
        return View(self.name, protocol, train, held_out, self.test, digest)


def load(config: DataConfig) -> Dataset:
    """Load the data set that was asked for.

    Raises:
        UsageError: files are missing and cannot be had, or are not what they should be.
    """
    if config.name == "digits":
        return _digits()
    if config.name != "auto":
        return _torchvision(config.name, config.root)
    try:
        return _torchvision("mnist", config.root)
    except MissingData as missing:
        return replace(_digits(), fallback=str(missing))


class MissingData(UsageError):
    """Nothing is there and nothing could be downloaded; a damaged file is no such case."""


def _torchvision(name: str, root: Path) -> Dataset:
    folder = root / TORCHVISION_CLASSES[name] / "raw"
    missing = [file for file in IDX_SHAPES if not (folder / file).is_file()]
    if missing:
        _download(name, root, folder, missing)
    read = [_read_idx(name, folder / file, shape) for file, shape in IDX_SHAPES.items()]
    (train_images, train_labels, test_images, test_labels), md5s = zip(*read, strict=True)
    digest = hashlib.md5("".join(md5s).encode()).hexdigest()
    train = Split("train", train_images, train_labels)
    return Dataset(name, train, Split("test", test_images, test_labels), digest)


def _download(name: str, root: Path, folder: Path, missing: list[str]) -> None:
    """Let torchvision fetch the files, or unpack .gz files that are already in the folder."""
    from torchvision import datasets  # takes seconds to import, and is needed only here

    cls: Any = getattr(datasets, TORCHVISION_CLASSES[name])
    missing_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    files_before = set(folder.glob("*"))
    timeout_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        cls(root, download=True)
    except (RuntimeError, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in WRITE_ERRORS:
            for path in set(folder.glob("*")) - files_before:
                path.unlink()  # half written
            raise UsageError(f"{folder} cannot be written: {error.strerror}.") from error
        raise _unavailable(name, cls, folder, missing, error) from error
    finally:
        socket.setdefaulttimeout(timeout_before)
        for path in missing_folders:
            with contextlib.suppress(OSError):  # it is in use, as it should be
                path.rmdir()


def _unavailable(
    name: str, cls: Any, folder: Path, missing: list[str], error: Exception
) -> UsageError:
    """Name the damaged .gz file if there is one, otherwise the missing files."""
    md5_of = {Path(file).stem: md5 for file, md5 in cls.resources}
    for file in missing:
        packed = folder / f"{file}.gz"
        if packed.is_file() and hashlib.md5(packed.read_bytes()).hexdigest() != md5_of[file]:
            return _damaged(packed, "its checksum differs", md5_of[file])
    return MissingData(
        f"data={name} wants {', '.join(missing)} (or the same with .gz) in {folder}, "
        f"and no mirror answered ({type(error).__name__}). Put the files there, or set "
        "data.root or GOLF_DATA to a folder that has them, or use data=digits."
    )


def _read_idx(name: str, path: Path, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.uint8], str]:
    """Return the array of an IDX file of unsigned bytes, and the file's MD5.

    The format: 4 bytes of magic, a big-endian size for each dimension, the data.
    """
    md5 = MNIST_MD5[path.name] if name == "mnist" else None
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    header = bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)
    expected = len(header) + int(np.prod(shape))
    if len(raw) != expected:
        raise _damaged(path, f"it has {len(raw):,} bytes instead of {expected:,}", md5)
    if not raw.startswith(header):
        raise _damaged(path, f"its header is not that of a {'x'.join(map(str, shape))} array", md5)
    found = hashlib.md5(raw).hexdigest()
    if md5 is not None and found != md5:
        raise _damaged(path, "its checksum differs", md5)
    return np.frombuffer(raw, dtype=np.uint8, offset=len(header)).reshape(shape), found


def _damaged(path: Path, what: str, md5: str | None) -> UsageError:
    checksum = f" (expected MD5 {md5})" if md5 else ""
    return UsageError(
        f"{path} is damaged: {what}{checksum}. Delete it and run again, or replace it."
    )


def _digits() -> Dataset:
    """scikit-learn's digits, 1,797 images of 8x8: scaled to 20x20 and centred, as MNIST's are."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = (digits.images * (255 / 16)).round().astype(np.uint8)
    images = np.zeros((len(small), 28, 28), dtype=np.uint8)
    for index, image in enumerate(small):
        scaled = Image.fromarray(image).resize((20, 20), Image.Resampling.BILINEAR)
        images[index, 4:24, 4:24] = np.asarray(scaled)
    whole = Split("all", images, digits.target.astype(np.uint8))
    order = rng.permutation(rng.derive("digits"), len(whole))
    cut = len(whole) // 5
    train = whole.take("train", np.sort(order[cut:]))
    test = whole.take("test", np.sort(order[:cut]))
    return Dataset("digits", train, test, hashlib.md5(images.tobytes()).hexdigest())


def objective_split(name: str, root: Path, protocol: str, digest: str) -> Split | None:
    """Return the split that a study's objective was measured on, or None; downloads nothing.

    Args:
        name: mnist, fashion or digits.
        root: the folder that holds MNIST/raw/.
        protocol: test or holdout.
        digest: of the study's view; other data than that is none.
    """
    folder = root / TORCHVISION_CLASSES.get(name, "") / "raw"
    if name != "digits" and not all((folder / file).is_file() for file in IDX_SHAPES):
        return None
    try:
        view = load(check(DataConfig, {"name": name, "root": root})).view(protocol)
    except UsageError:
        return None
    return view.objective if view.digest == digest else None
