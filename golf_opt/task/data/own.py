"""Data that comes with no name: arrays in a file, a folder of pictures, IDX files; and digits.

What has no test part gets one: a sixth of the images, chosen by a hash of each, so that two equal
ones are on the same side, and the choice stays when others are added.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.config.errors import UsageError, near, short
from golf_opt.task import rng
from golf_opt.task.data import idx
from golf_opt.task.data.splits import HOLDOUT_SHARE, Bytes, Dataset, Split, dataset
from golf_opt.task.inputs import MOST_CLASSES, MOST_PIXELS
from golf_opt.utils.files import read_regular

Size = tuple[int, int]  # height, width
MOST_BYTES = 1 << 33  # of an array, unpacked
MOST_PICTURES = 1_000_000
ARRAYS = {  # what we call an array -> what others call it
    "x_train": ("x_train", "X_train", "train_images", "train_x", "images_train"),
    "y_train": ("y_train", "Y_train", "train_labels", "train_y", "labels_train"),
    "x_test": ("x_test", "X_test", "test_images", "test_x", "images_test"),
    "y_test": ("y_test", "Y_test", "test_labels", "test_y", "labels_test"),
    "class_names": ("class_names", "classes", "label_names", "names"),
}
GREY_MODES = ("1", "L", "LA", "I", "I;16", "F")  # of Pillow


def load_path(path: Path, size: Size | None, grey: bool) -> Dataset:
    """Load a file of arrays, a folder of pictures or a folder of IDX files.

    Args:
        path: of the file or folder; it becomes the name of the data set.
        size: of the pictures, to which each is scaled; None where they are all of one.
        grey: whether pictures become grey.

    Raises:
        UsageError: it is none of that; what is wrong is named.
    """
    if path.is_dir() and (files := idx.files_in(path)):
        return _idx_folder(path, files)
    if path.is_dir():
        return _pictures(path, size, grey)
    if not path.is_file() or path.suffix != ".npz":
        raise UsageError(no_data(path))
    return _arrays(path)


def no_data(path: Path, names: Sequence[str] = ()) -> str:
    """Return the message for what is neither a data set's name, one of `names`, nor data."""
    there = "is no such thing" if path.is_file() else "is not there"
    known = f" ({', '.join(names)})" if names else ""
    fix = near(str(path), names) if names else "; give data=PATH, where it is now."
    return (
        f"data is {short(str(path))}, but must be a data set's name{known}, a file FILE.npz of "
        f"arrays, or a folder with a folder of pictures for each class; {path} {there}{fix}"
    )


def _arrays(path: Path) -> Dataset:
    try:
        with np.load(io.BytesIO(read_regular(path)), allow_pickle=False) as found:
            sizes = [info.file_size for info in found.zip.infolist()]
            if sum(sizes) > MOST_BYTES:
                raise UsageError(f"data={path} unpacks to more than {MOST_BYTES:,} bytes.")
            arrays = {
                ours: found[name]
                for ours, names in ARRAYS.items()
                for name in names
                if name in found.files
            }
            listed = ", ".join(found.files)
    except UsageError:
        raise
    except Exception as error:  # zipfile and zlib have many errors, with no base of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"data={path} cannot be read: {reason}; it must be what numpy.savez_compressed writes."
        ) from error
    for needed in ("x_train", "y_train"):
        if needed not in arrays:
            raise UsageError(
                f"data={path} has {listed or 'nothing'}, but must have x_train, y_train, x_test "
                f"and y_test (or {', '.join(ARRAYS[needed][1:4])}, ...); {needed} is missing."
            )
    names = tuple(map(str, np.ravel(arrays.get("class_names", np.array([], dtype=str)))))
    train = _split(path, "train", arrays)
    if "x_test" in arrays and "y_test" in arrays:
        return dataset(str(path), train, _split(path, "test", arrays), names)
    return _split_off(str(path), train, names)


def _split(path: Path, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Split:
    images, labels = arrays[f"x_{name}"], arrays[f"y_{name}"]
    where = f"data={path}: x_{name}"
    if images.dtype != np.uint8:
        raise UsageError(f"{where} is {images.dtype}, but must be uint8, from 0 to 255.")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] <= 4:  # channels last, as Keras has them
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or not 1 <= images.shape[1] <= 4:
        shape = list(arrays[f"x_{name}"].shape)
        raise UsageError(
            f"{where} is {shape}, but must be [n, height, width], [n, height, width, channels] or "
            "[n, channels, height, width] of 1 to 4 channels."
        )
    if labels.shape not in ((len(images),), (len(images), 1)) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"data={path}: y_{name} is {labels.dtype} {list(labels.shape)}, but must be a whole "
            f"number for each of the {len(images)} images."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < MOST_CLASSES:
        worst = int(labels.min() if labels.min() < 0 else labels.max())
        raise UsageError(
            f"data={path}: y_{name} has the label {worst}, but must have labels from 0 to "
            f"{MOST_CLASSES - 1}."
        )
    flat = labels.reshape(-1).astype(np.uint8)
    return Split(name, np.ascontiguousarray(images), flat)


def _split_off(name: str, whole: Split, names: tuple[str, ...]) -> Dataset:
    """Return a data set whose test part is every sixth image or so, by a hash of it."""
    hashes = [hashlib.md5(image.tobytes()).digest() for image in whole.images]
    numbers = np.array([int.from_bytes(digest[:8], "little") for digest in hashes], dtype=np.uint64)
    test = numbers % np.uint64(HOLDOUT_SHARE) == 0
    parts = [
        whole.take(part, np.flatnonzero(chosen))
        for part, chosen in (("train", ~test), ("test", test))
    ]
    note = (
        f"data={name} has no test part: {test.sum():,} of {len(whole):,} images, chosen by a hash "
        "of each, are kept for it"
    )
    return dataset(name, parts[0], parts[1], names, (note,))


def _idx_folder(path: Path, files: Mapping[str, Path]) -> Dataset:
    splits = []
    for name in ("train", "test"):
        images, labels = (idx.read(files[f"{name}-{what}"]) for what in ("images", "labels"))
        splits.append(_split(path, name, {f"x_{name}": images, f"y_{name}": labels}))
    return dataset(str(path), splits[0], splits[1], ())


def _pictures(path: Path, size: Size | None, grey: bool) -> Dataset:
    test = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    parts = {"train": path / "train", "test": test} if (path / "train").is_dir() else {}
    if not parts:
        test = None
    folders = {name: folder for name, folder in parts.items() if folder} or {"train": path}
    listed = {name: _list_pictures(path, folder) for name, folder in folders.items()}
    names = tuple(dict.fromkeys(label for label, _ in listed["train"]))
    files = [picture for pictures in listed.values() for _, picture in pictures]
    modes, sizes = zip(*map(_mode_and_size, files), strict=True)
    grey = grey or all(mode in GREY_MODES for mode in modes)
    if size is None:
        _check_sizes(path, files, sizes)
    splits = {}
    for name, pictures in listed.items():
        if unknown := [label for label, _ in pictures if label not in names]:
            raise UsageError(f"data={path} has no training image of class {unknown[0]}; add some.")
        labels = [names.index(label) for label, _ in pictures]
        images = [_pixels(picture, size, grey) for _, picture in pictures]
        splits[name] = Split(name, np.stack(images), np.array(labels, dtype=np.uint8))
    if "test" in splits:
        return dataset(str(path), splits["train"], splits["test"], names)
    return _split_off(str(path), splits["train"], names)


def _list_pictures(whole: Path, folder: Path) -> list[tuple[str, Path]]:
    """Return the class and the path of each picture, sorted; through torchvision's ImageFolder."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder), allow_empty=True)
    except FileNotFoundError:
        found = None
    if found is None or not found.samples:
        raise UsageError(
            f"data={whole} has no pictures in {folder}; it must have a folder of them for each "
            "class, such as cat/1.png and dog/1.png."
        )
    used = set(found.targets)
    for index, name in enumerate(found.classes):
        if index not in used:
            raise UsageError(f"data={whole} has no image of class {name} in {folder}; add some.")
    if len(found.classes) > MOST_CLASSES or len(found.samples) > MOST_PICTURES:
        raise UsageError(
            f"data={whole} has {len(found.samples):,} pictures of {len(found.classes):,} classes, "
            f"but must have at most {MOST_PICTURES:,} of {MOST_CLASSES}."
        )
    return [(found.classes[label], Path(picture)) for picture, label in found.samples]


def _open(path: Path, decode: bool) -> Any:
    """Return a picture; all of them decoded at once may not fit into memory."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(read_regular(path)))
        if decode:
            image.load()
    except Exception as error:  # Pillow raises what its decoders do: SyntaxError, struct.error, ...
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{path} is no picture that can be read: {reason}; replace it or take it out."
        ) from error
    return image


def _mode_and_size(path: Path) -> tuple[str, tuple[int, int]]:
    image = _open(path, decode=False)
    return image.mode, image.size


def _check_sizes(path: Path, files: Iterable[Path], sizes: Sequence[tuple[int, int]]) -> None:
    """Refuse pictures, each of a width and a height, that no net takes as they are."""
    first = "{1}x{0}".format(*sizes[0])
    fix = "give a size to scale them to, such as data.size=32."
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            other = "{1}x{0}".format(*size)
            raise UsageError(
                f"data={path} has pictures of {first} and of {other}, {file} for one; {fix}"
            )
    if math.prod(sizes[0]) > MOST_PIXELS:
        raise UsageError(
            f"data={path} has pictures of {first}, but must have at most {MOST_PIXELS:,} pixels "
            f"(96x96); {fix}"
        )


def _pixels(path: Path, size: Size | None, grey: bool) -> Bytes:
    """Return a picture as bytes [channels, height, width]."""
    from PIL import Image

    image = _open(path, decode=True)
    if image.mode in ("I", "I;16", "F"):  # 16 bits
        image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257).astype(np.uint8))
    image = image.convert("L" if grey else "RGB")
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def bundled_digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return images [1797, 8, 8] in 0..16 and labels, from the file that scikit-learn brings.

    As its `load_digits` does, but without it: it takes two seconds to import.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise UsageError("data=digits is scikit-learn's, but scikit-learn is not installed.")
    path = Path(found.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    rows = np.loadtxt(path, delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)


def digits() -> Dataset:
    """scikit-learn's digits, 1,797 images of 8x8: scaled to 20x20 and centred, as MNIST's are."""
    from PIL import Image

    found, labels = bundled_digits()
    small = (found * (255 / 16)).round().astype(np.uint8)
    images = np.zeros((len(small), 1, 28, 28), dtype=np.uint8)
    for index, image in enumerate(small):
        scaled = Image.fromarray(image).resize((20, 20), Image.Resampling.BILINEAR)
        images[index, 0, 4:24, 4:24] = np.asarray(scaled)
    whole = Split("all", images, labels.astype(np.uint8))
    order = rng.permutation(rng.derive("digits"), len(whole))
    cut = len(whole) // 5
    train = whole.take("train", np.sort(order[cut:]))
    test = whole.take("test", np.sort(order[:cut]))
    return Dataset("digits", train, test, hashlib.md5(images.tobytes()).hexdigest())
