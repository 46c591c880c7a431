"""Data sets, splits, the fallback, and damaged files."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig
from golf_opt.task.data import load
from golf_opt.task.data.own import bundled_digits
from golf_opt.task.data.published import IDX_SHAPES, MNIST_MD5


@pytest.fixture
def copy_of_mnist(mnist_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(mnist_root / "MNIST", tmp_path / "MNIST")
    return tmp_path


@pytest.mark.mnist
def test_mnist_is_mnist(mnist_root: Path) -> None:
    data = load(DataConfig("mnist", mnist_root))
    assert data.train.images.shape == (60_000, 1, 28, 28) and data.train.images.dtype == np.uint8
    assert np.bincount(data.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    pixels = data.train.images.astype(np.float64) / 255
    assert (round(pixels.mean(), 4), round(pixels.std(), 4)) == (0.1307, 0.3081)


@pytest.mark.mnist
def test_holdout_takes_a_sixth_and_leaves_the_test_set_alone(mnist_root: Path) -> None:
    data = load(DataConfig("mnist", mnist_root))
    view = data.view("holdout")
    assert (len(view.train), len(view.objective), len(view.test)) == (50_000, 10_000, 10_000)
    together = np.sort(np.concatenate([view.train.labels, view.objective.labels]))
    assert np.array_equal(together, np.sort(data.train.labels))
    shares = np.bincount(view.objective.labels) / 10_000 - np.bincount(data.train.labels) / 60_000
    assert np.abs(shares).max() < 0.015
    assert view.test is data.test
    assert view.digest != data.view("test").digest


def test_the_folds_hold_out_each_training_image_once(mnist_root: Path) -> None:
    views = [load(DataConfig("mnist", mnist_root, fold=fold)).view("holdout") for fold in range(6)]
    held_out = [image.tobytes() for view in views for image in view.objective.images]
    whole = load(DataConfig("mnist", mnist_root)).train.images
    assert sorted(held_out) == sorted(image.tobytes() for image in whole)
    assert [len(view.train) for view in views] == [50_000] * 6
    assert len({view.digest for view in views}) == 6
    assert load(DataConfig("mnist", mnist_root, fold=1)).view("test").digest == (
        load(DataConfig("mnist", mnist_root)).view("test").digest
    )


@pytest.mark.mnist
def test_packed_files_are_unpacked(copy_of_mnist: Path) -> None:
    raw = copy_of_mnist / "MNIST" / "raw"
    for file in IDX_SHAPES:
        (raw / f"{file}.gz").write_bytes(gzip.compress((raw / file).read_bytes(), 1))
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError, match=r"\.gz is damaged.*expected MD5"):
        load(DataConfig("mnist", copy_of_mnist))  # our gzip is not the published file


@pytest.mark.mnist
@pytest.mark.parametrize("file", IDX_SHAPES)
def test_a_truncated_file_is_named_with_its_checksum(copy_of_mnist: Path, file: str) -> None:
    path = copy_of_mnist / "MNIST" / "raw" / file
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UsageError, match=f"{file} is damaged: it has .*{MNIST_MD5[file]}"):
        load(DataConfig("mnist", copy_of_mnist))


@pytest.mark.mnist
def test_a_file_with_other_contents_is_named(copy_of_mnist: Path) -> None:
    path = copy_of_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(UsageError, match="its checksum differs"):
        load(DataConfig("auto", copy_of_mnist))  # a damaged file is no reason to fall back


def test_digits_look_like_mnist() -> None:
    data = load(DataConfig("digits", Path("nowhere")))
    assert data.train.images.shape == (1438, 1, 28, 28) and len(data.test) == 359
    assert data.train.images[:, 0, :4].max() == 0 and data.train.images.max() == 255
    assert data.fallback is None


def test_auto_falls_back_and_says_why(tmp_path: Path, no_network: None) -> None:
    data = load(DataConfig("auto", tmp_path))
    assert data.name == "digits"
    assert data.fallback is not None and "train-images-idx3-ubyte" in data.fallback


def test_mnist_never_falls_back(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(UsageError, match=r"wants train-images-idx3-ubyte.* in .*MNIST/raw"):
        load(DataConfig("mnist", tmp_path))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every download to a closed port of this machine."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def test_digests_tell_data_and_protocols_apart(mnist_root: Path) -> None:
    mnist, digits = load(DataConfig("mnist", mnist_root)), load(DataConfig("digits", Path()))
    digests = {data.view(p).digest for data in (mnist, digits) for p in ("test", "holdout")}
    assert len(digests) == 4


def test_digits_are_those_that_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits()
    images, labels = bundled_digits()
    assert np.array_equal(images, theirs.images) and np.array_equal(labels, theirs.target)
