"""Data of the user's own: arrays, folders of pictures, IDX files; and what is wrong with them."""

from __future__ import annotations

import gzip
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran, told
from hydra.errors import MissingConfigException
from PIL import Image

from golf_opt.cli.compose import compose
from golf_opt.cli.errors import explain
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig
from golf_opt.task.data import Dataset, load
from golf_opt.task.data.published import PUBLISHED

NOWHERE = Path("nowhere")
COLOURS = {"blue": (10, 20, 200), "green": (30, 180, 40), "red": (220, 30, 20)}


def loaded(path: Path, **more: Any) -> Dataset:
    return load(DataConfig(str(path), NOWHERE, **more))


def arrays(n: int = 40, shape: tuple[int, ...] = (8, 6), classes: int = 4) -> dict[str, Any]:
    draw = np.random.default_rng(3)
    found: dict[str, Any] = {}
    for part, count in (("train", n), ("test", n // 2)):
        found[f"x_{part}"] = draw.integers(0, 256, (count, *shape), dtype=np.uint8)
        found[f"y_{part}"] = np.arange(count) % classes
    return found


def npz(folder: Path, **found: Any) -> Path:
    np.savez_compressed(folder / "mine.npz", **found)
    return folder / "mine.npz"


def pictures(folder: Path, n: int = 12, size: tuple[int, int] = (9, 7)) -> Path:
    """Write n pictures of each colour, size (width, height), into a folder for each."""
    draw = np.random.default_rng(5)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(n):
            noise = draw.integers(0, 30, (size[1], size[0], 3))
            pixels = (np.array(colour) + noise).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02}.png")
    return folder


@pytest.mark.parametrize(
    ("given", "kept"),
    [((8, 6), (1, 8, 6)), ((8, 6, 3), (3, 8, 6)), ((2, 8, 6), (2, 8, 6)), ((1, 1, 64), (1, 1, 64))],
)
def test_arrays_of_any_shape(tmp_path: Path, given: tuple[int, ...], kept: tuple[int, ...]) -> None:
    found = arrays(shape=given)
    data = loaded(npz(tmp_path, **found, class_names=np.array(["a", "b", "c", "d"])))
    assert data.input.shape == kept and data.input.class_names == ("a", "b", "c", "d")
    assert data.train.images.shape == (40, *kept) and data.train.images.flags.c_contiguous
    by_channel = np.moveaxis(data.train.images, 1, -1).reshape(-1, kept[0]) / 255
    np.testing.assert_allclose(data.input.mean, by_channel.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(data.input.std, by_channel.std(axis=0), atol=1e-4)
    if given == (8, 6, 3):
        np.testing.assert_array_equal(data.test.images[5, 2], found["x_test"][5, :, :, 2])


def test_the_names_that_other_tools_write(tmp_path: Path) -> None:
    found = arrays()
    ours = loaded(npz(tmp_path, **found)).digest
    theirs = {
        "train_images": found["x_train"], "train_labels": found["y_train"][:, None],
        "test_images": found["x_test"], "test_labels": found["y_test"],
    }  # fmt: skip
    assert loaded(npz(tmp_path, **theirs)).digest == ours


def test_the_digest_covers_images_labels_and_names(tmp_path: Path) -> None:
    found = arrays()
    others = [dict(found), dict(found), dict(found) | {"class_names": np.array(list("abcd"))}]
    others[0]["x_test"] = found["x_test"].copy()
    others[0]["x_test"][3, 2, 1] ^= 1
    others[1]["y_train"] = found["y_train"][::-1]
    digests = [loaded(npz(tmp_path, **each)).digest for each in (found, *others)]
    assert len(set(digests)) == 4


def test_a_test_part_is_split_off_by_the_images_themselves(tmp_path: Path) -> None:
    found = arrays(n=600)
    whole = {name: found[name] for name in ("x_train", "y_train")}
    data = loaded(npz(tmp_path, **whole))
    assert (len(data.train), len(data.test)) == (501, 99)
    assert "has no test part: 99 of 600 images" in data.notes[0]
    more = {name: np.concatenate([found[name][:1], values]) for name, values in whole.items()}
    again = loaded(npz(tmp_path, **more))  # one image twice: both are on one side
    tests = {image.tobytes() for image in data.test.images}
    assert {image.tobytes() for image in again.test.images} == tests
    assert not tests & {image.tobytes() for image in again.train.images}


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    data = loaded(pictures(tmp_path / "colours", n=40))
    assert data.input.shape == (3, 7, 9) and data.input.class_names == ("blue", "green", "red")
    assert len(data.train) + len(data.test) == 120 and 8 < len(data.test) < 35
    red = data.train.images[data.train.labels == 2]
    assert red[:, 0].min() >= 220 and red[:, 2].max() < 50
    grey = loaded(tmp_path / "colours", size=8, grey=True)
    assert grey.input.shape == (1, 8, 8)
    sized = loaded(tmp_path / "colours", size=(4, 5))
    assert sized.input.shape == (3, 4, 5)
    assert len({d.digest for d in (data, grey, sized)}) == 3


def test_large_pictures_are_not_in_memory_all_at_once(tmp_path: Path) -> None:
    for index, name in enumerate(f"{part}/{label}" for part in ("train", "test") for label in "ab"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (1600, 1600), (60 * index, 0, 0)).save(tmp_path / name / "0.png")
        for copy in range(1, 12):
            shutil.copy(tmp_path / name / "0.png", tmp_path / name / f"{copy}.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = loaded(tmp_path, size=8)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert data.train.images.shape == (24, 3, 8, 8) and data.train.images[-1, 0, 0, 0] == 60
    assert grown < 120_000, "KiB; the pictures take 360,000"


def test_a_folder_with_its_own_test_part(tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "train", n=5)
    pictures(tmp_path / "data" / "test", n=2)
    data = loaded(tmp_path / "data")
    assert (len(data.train), len(data.test), data.notes) == (15, 6, ())


def test_a_folder_of_idx_files(tmp_path: Path) -> None:
    found = arrays(shape=(5, 4))
    for part, name in (("train", "train"), ("test", "t10k")):
        for kind, key in (("images-idx3", f"x_{part}"), ("labels-idx1", f"y_{part}")):
            values = found[key].astype(np.uint8)
            header = bytes((0, 0, 8, values.ndim))
            header += b"".join(size.to_bytes(4, "big") for size in values.shape)
            packed = gzip.compress(header + values.tobytes())
            (tmp_path / f"{name}-{kind}-ubyte.gz").write_bytes(packed)
    data = loaded(tmp_path)
    assert data.input.shape == (1, 5, 4)
    np.testing.assert_array_equal(data.test.images[:, 0], found["x_test"])


def test_a_name_of_torchvisions_reads_what_is_in_the_root(mnist_root: Path, tmp_path: Path) -> None:
    (tmp_path / "KMNIST").symlink_to(mnist_root / "MNIST")  # the same form
    data = load(DataConfig("kmnist", tmp_path))
    mnist = load(DataConfig("mnist", mnist_root))
    np.testing.assert_array_equal(data.train.images, mnist.train.images)
    assert (data.input.mean, data.input.std) == ((0.1307,), (0.3081,))
    assert data.digest != mnist.digest


def test_every_name_of_data_can_be_typed() -> None:
    for name in PUBLISHED:
        assert compose("study", [f"data={name}"]).data.name == name
    with pytest.raises(MissingConfigException) as unknown:
        compose("study", ["data=cifar11"])
    assert "did you mean 'cifar10'?" in explain(unknown.value, "study")[0]


def test_a_name_of_torchvisions_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"data=cifar10 wants torchvision.s CIFAR10 .*data.root"):
        load(DataConfig("cifar10", tmp_path))


def _changed(**changes: Any) -> Callable[[Path], Path]:
    return lambda folder: npz(folder, **(arrays() | changes))


def _without(key: str) -> Callable[[Path], Path]:
    return lambda folder: npz(folder, **{k: v for k, v in arrays().items() if k != key})


def _no_zip(folder: Path) -> Path:
    (folder / "mine.npz").write_bytes(b"PK\x03\x04 no more")
    return folder / "mine.npz"


def _spoilt(folder: Path) -> Path:
    path = npz(folder, **arrays())
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("x_train.npy").header_offset + 100  # in what is compressed
    raw = bytearray(path.read_bytes())
    raw[start : start + 20] = b"\xff" * 20
    path.write_bytes(raw)
    return path


def _pickled(folder: Path) -> Path:
    objects = np.array([{"a": 1}] * 40, dtype=object)
    return npz(folder, **(arrays() | {"x_train": objects}))


def _corrupt(folder: Path) -> Path:
    pictures(folder / "p")
    (folder / "p" / "red" / "03.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    return folder / "p"


def _mixed(folder: Path) -> Path:
    pictures(folder / "p")
    Image.new("RGB", (5, 5)).save(folder / "p" / "red" / "03.png")
    return folder / "p"


def _of_a_camera(folder: Path) -> Path:
    return pictures(folder / "p", n=1, size=(160, 120))


def _empty_class(folder: Path) -> Path:
    pictures(folder / "p")
    (folder / "p" / "yellow").mkdir()
    return folder / "p"


def _unknown_class(folder: Path) -> Path:
    pictures(folder / "p" / "train")
    pictures(folder / "p" / "test")
    (folder / "p" / "test" / "red").rename(folder / "p" / "test" / "yellow")
    return folder / "p"


def _half_of_idx(folder: Path) -> Path:
    (folder / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(12))
    return folder


MISTAKES: list[tuple[str, Callable[[Path], Path], str]] = [
    ("nothing there", lambda folder: folder / "gone.npz", "must be .* FILE.npz .* is not there"),
    ("another file", lambda folder: Path(__file__), "must be a data set's name, .* no such thing"),
    ("no archive", _no_zip, "cannot be read: .* numpy.savez_compressed"),
    ("spoilt", _spoilt, "cannot be read: .*decompressing"),
    ("pickled", _pickled, "cannot be read: .*allow_pickle"),
    ("no labels", _without("y_train"), "has x_train, x_test, y_test, but must have .* y_train is"),
    ("floats", _changed(x_train=np.zeros((40, 8, 6))), "x_train is float64, but must be uint8"),
    ("flat", _changed(x_train=np.zeros((40, 48), np.uint8)), r"x_train is \[40, 48\], but must be"),
    ("few labels", _changed(y_train=np.zeros(7, int)), "y_train is int64 .* each of the 40 images"),
    ("negative", _changed(y_test=-np.ones(20, int)), "y_test has the label -1, but must have"),
    ("too many", _changed(y_train=np.arange(40) * 9), "has the label 351, but must have labels"),
    ("a gap", _changed(y_train=np.arange(40) % 3 * 2), "has no training image of class 1"),
    ("beyond names", _changed(class_names=np.array(["a", "b"])), "has the label 3, .* names 2 cl"),
    (
        "tested beyond names",
        _changed(y_test=np.full(20, 6), class_names=np.array(list("abcd"))),
        "has the label 6, .* names 4 cl",
    ),
    ("other sizes", _changed(x_test=np.zeros((20, 9, 9), np.uint8)), "train images are .* 1x9x9"),
    (
        "large",
        _changed(x_train=np.zeros((40, 99, 99), np.uint8), x_test=np.zeros((20, 99, 99), np.uint8)),
        "99x99, but must have at most",
    ),
    ("no picture", _corrupt, "03.png is no picture that can be read"),
    ("mixed sizes", _mixed, "has pictures of 7x9 and of 5x5, .*03.png .* data.size=32"),
    ("large pictures", _of_a_camera, "has pictures of 120x160, but must have .* data.size=32"),
    ("empty class", _empty_class, "has no image of class yellow"),
    ("unknown class", _unknown_class, "has no training image of class yellow"),
    ("half of IDX", _half_of_idx, "has IDX files, but no train-labels-idx"),
    ("empty folder", lambda folder: folder, "has no pictures in .* a folder of them for each"),
]


@pytest.mark.parametrize(("what", "make", "told"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_what_is_wrong_is_told_in_a_line(
    what: str, make: Callable[[Path], Path], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        loaded(make(tmp_path))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_a_study_of_own_data_goes_on_wherever_the_data_is(
    golf: Callable[..., Ran], tmp_path: Path
) -> None:
    """By another path, in a worker, after export and import; never with other data."""
    npz(tmp_path, **arrays(n=60), class_names=np.array(["a", "b", "c", "d"]))
    quick = ("arch=c2-k3", "epochs=1", "engine=torch", "space.batch_size=16", "protocol=holdout")
    ran = golf("study", "data=mine.npz", "trials=1", *quick)
    assert ran.status == 0, ran.err
    assert "c2-k3@mine-holdout-1epochs: " in ran.out and "test accuracy" in ran.out
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.npz").rename(tmp_path / "elsewhere" / "mine.npz")
    name = "study=c2-k3@mine-holdout-1epochs"
    assert "data is 'mine.npz'" in told(golf("worker", name))  # it is not where it was
    other = golf("study", "data=./elsewhere/mine.npz", "trials=2", *quick)
    assert other.status == 0 and "2 of 2 trials finished" in other.out, other.err
    assert golf("export", name, "output=backup").status == 0
    assert golf("import", "input=backup", "name=copy").status == 0
    assert golf("report", "study=copy").status == 0
    ran = golf("worker", "study=copy", "data=elsewhere/mine.npz")
    assert ran.status == 0 and "2 of 2 trials finished" in ran.out, ran.err
    found = arrays(n=60)
    found["x_train"][0, 0, 0] ^= 1
    npz(tmp_path, **found, class_names=np.array(["a", "b", "c", "d"]))
    assert "is another study: data was" in told(golf("worker", "study=copy", "data=mine.npz"))
    assert "is another study: data: " in told(golf("study", "data=mine.npz", "trials=3", *quick))


# --- on the command line ---

Golf = Callable[..., Ran]
TRAINED = ("epochs=1", "engine=torch", "engine.lanes=1", "space.batch_size=8", "study.name=s")


def test_pictures_are_scaled_as_the_study_says_wherever_they_are_now(
    golf: Golf, tmp_path: Path
) -> None:
    _mixed(tmp_path)
    asked = ("study", "arch=c2-k3", "data.size=[6,7]", *TRAINED)
    assert "1 of 1 trial finished" in golf(*asked, "data=p", "trials=1").out
    assert "2 of 2 trials finished" in golf(*asked, "data=p", "trials=2").out
    (tmp_path / "p").rename(tmp_path / "moved")
    assert "give data=PATH, where it is now." in told(golf("confirm", "study=s", "seeds=1"))
    ran = golf("confirm", "study=s", "top=1", "seeds=1", "data=moved", "engine=torch")
    assert "best by mean" in ran.out, ran.err
    ran = golf("arch", "c2-k3", "data=moved", "data.size=[6,7]")
    assert "2x4x5" in ran.out and "total parameters" in ran.out


def test_names_and_paths_are_data_for_every_verb_that_takes_some(
    golf: Golf, tmp_path: Path
) -> None:
    for name in PUBLISHED:
        assert f"name: {name}\n" in golf("study", f"data={name}", "--cfg", "job").out
    npz(tmp_path, **arrays())
    for verb in ("report", "dashboard", "record", "verify", "interpret", "prune", "worker"):
        assert "name: mine.npz\n" in golf(verb, "data=mine.npz", "--cfg", "job").out, verb
    assert told(golf("report", "study=s", "data=kmnits")).endswith("did you mean 'kmnist'?")
    assert "no/where is not there" in told(golf("study", "data=no/where"))


def test_a_record_of_own_data_is_held_against_it(golf: Golf, tmp_path: Path) -> None:
    bright = np.arange(60, dtype=np.uint8) % 2
    images = np.broadcast_to(bright[:, None, None, None] * np.uint8(255), (60, 1, 6, 5))
    npz(tmp_path, x_train=images, y_train=bright, x_test=images, y_test=bright)
    golf("study", "data=mine.npz", "arch=c2-k3", "space.lr=3e-2", *TRAINED, "trials=1")
    record = ("record", "study=s", "board=article", "slug=mine")
    line = told(golf(*record, "data=digits"))
    assert "data is digits (1x28x28, 10 classes), but mine takes 1x6x5, 2 classes" in line
    assert golf(*record, "data=mine.npz").status == 0
    assert "1 of 1 records verified" in golf("verify", "data=mine.npz").out
