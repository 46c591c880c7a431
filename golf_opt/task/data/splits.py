"""Images with their labels, and which of them a protocol lets a trial see."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from golf_opt.config.errors import UsageError
from golf_opt.task import rng
from golf_opt.task.inputs import MNIST, InputSpec

HOLDOUT_SHARE = 6  # one sixth of the training images: 10,000 of MNIST's 60,000

Bytes = npt.NDArray[np.uint8]


class MissingData(UsageError):
    """Nothing is there and nothing could be downloaded; a damaged file is no such case."""


@dataclass(frozen=True)
class Split:
    """Images [n, channels, height, width] uint8 and their labels [n] uint8.

    `soft` are a teacher's logits of them, [n, classes] float32, where there is one.
    """

    name: str
    images: Bytes
    labels: Bytes
    soft: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, name: str, index: npt.NDArray[np.int64]) -> Split:
        soft = None if self.soft is None else self.soft[index]
        return Split(name, self.images[index], self.labels[index], soft)


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
    input: InputSpec = MNIST


@dataclass(frozen=True)
class Dataset:
    """A data set as its makers split it. `fallback` says why it is not the one asked for.

    `fold` says which sixth of the training images is held out, 0 to 5.
    """

    name: str
    train: Split
    test: Split
    digest: str  # MD5 of the data
    input: InputSpec = MNIST
    fallback: str | None = None
    notes: tuple[str, ...] = ()  # what a user should know of how it was read
    fold: int = 0

    def view(self, protocol: str) -> View:
        """Return the splits under `test` or `holdout`."""
        seen = f"{self.digest} {protocol}"
        train, objective = self.train, self.test
        if protocol == "holdout":
            order = rng.permutation(rng.derive("holdout"), len(self.train))
            cut = len(order) // HOLDOUT_SHARE
            order = np.roll(order, -self.fold * cut)
            train = self.train.take("train", np.sort(order[cut:]))
            objective = self.train.take("holdout", np.sort(order[:cut]))
            seen += f" {self.fold}" if self.fold else ""
        digest = hashlib.md5(seen.encode()).hexdigest()[:16]
        return View(self.name, protocol, train, objective, self.test, digest, self.input)


def dataset(
    name: str, train: Split, test: Split, names: tuple[str, ...], notes: tuple[str, ...] = ()
) -> Dataset:
    """Return a data set of images and labels, with the normalisation of its training images.

    The digest is of all that: images, labels, and the names of the classes.

    Raises:
        UsageError: there is nothing to train on or to measure with, or a class has no image.
    """
    for split in (train, test):
        if not len(split):
            raise UsageError(f"data={name} has no {split.name} images.")
    shapes = ["x".join(map(str, split.images.shape[1:])) for split in (train, test)]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"data={name}: train images are {shapes[0]}, but test images {shapes[1]}; they must be "
            "of one shape."
        )
    largest = int(max(train.labels.max(), test.labels.max()))
    classes = len(names) or largest + 1
    counts = np.bincount(train.labels, minlength=classes)
    if largest >= classes:
        raise UsageError(
            f"data={name} has the label {largest}, but must have labels from 0 to {classes - 1}, "
            f"since it names {classes} classes."
        )
    if (without := np.flatnonzero(counts == 0)).size:
        missing = names[without[0]] if names else without[0]
        raise UsageError(
            f"data={name} has no training image of class {missing}; add some, or number the "
            "classes without a gap."
        )
    channels, height, width = train.images.shape[1:]
    mean, std = _moments(train.images)
    spec = InputSpec((channels, height, width), classes, mean, std, names)
    md5 = hashlib.md5(repr((spec.shape, names)).encode())
    for split in (train, test):
        md5.update(split.images.tobytes())
        md5.update(split.labels.tobytes())
    return Dataset(name, train, test, md5.hexdigest(), spec, notes=notes)


def _moments(images: Bytes) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, of bytes scaled to [0, 1].

    They are rounded so that a study says the same wherever it is read. A channel that is the same
    everywhere is only shifted.
    """
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ values)
        std = float(np.sqrt(share @ (values - mean) ** 2))
        means.append(round(mean, 4))
        stds.append(max(round(std, 4), 1e-4) if std else 1.0)
    return tuple(means), tuple(stds)
