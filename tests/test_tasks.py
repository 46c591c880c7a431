"""Tasks of the documentation, from data to C, at small size; MNIST is every other test's."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Ran, golf_in, told

from golf_opt.config.schema import StorageConfig
from golf_opt.engines.native import compiler
from golf_opt.golf.source import load_file
from golf_opt.storage.connect import opened_to_read
from golf_opt.study.description import description_of, find_study

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "examples"))
import tasks

SHAPES = {
    "digits8": ((1, 8, 8), 10),
    "photos": ((3, 32, 32), 2),
    "signals": ((1, 1, 128), 5),
}


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("name", SHAPES)
def test_a_task_from_its_data_to_c(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GOLF_DATA", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(tasks, "STEP", 16)  # fewer patches
    shape, classes = SHAPES[name]
    quick = ["space.batch_size=32", "space.lr=3e-3"]
    if name != "digits8":  # whose commands are processes, as whoever runs the example has them
        monkeypatch.setattr(tasks, "golf", lambda *words: golf_in(tmp_path, *words))
    tasks.run(name, tmp_path, trials=2, epochs=2, more=quick)
    said = capfd.readouterr().out
    with opened_to_read(StorageConfig(f"sqlite:///{tmp_path}/golf.db")) as storage:
        study = find_study(storage, name)
        spec = description_of(study).input
        assert (spec.shape, spec.classes) == (shape, classes)
        assert [trial.state.is_finished() for trial in study.trials] == [True] * 2
        best = study.best_value
    assert best > 1.5 / classes or name == "digits8"  # it has learned something in two epochs
    header = (tmp_path / "net.h").read_text()
    assert f"image[{np.prod(shape)}], float scores[{classes}]" in header
    assert ("golf_class_names" in header) == (name in ("photos", "signals"))
    (pruned,) = (tmp_path / "pruned").glob("*/prune.json")
    assert json.loads(pruned.read_text())["input"]["shape"] == list(shape)
    assert (tmp_path / "reports" / f"{name}.html").is_file()
    assert list((tmp_path / "interpret").glob("*/confusion.png"))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["same"] == result["images"] and len(result["confirmed"]) == 2
    assert f"engine says of {result['images']:,} of {result['images']:,} test images" in said


def test_patches_of_the_test_are_of_no_column_of_the_training() -> None:
    made = tasks.photos()
    assert made["x_train"].shape[1:] == (32, 32, 3) and len(made["x_test"]) == 2500
    for label in (0, 1):
        train = {row.tobytes() for row in made["x_train"][made["y_train"] == label]}
        test = {row.tobytes() for row in made["x_test"][made["y_test"] == label]}
        assert not train & test


def test_signals_are_the_same_each_time() -> None:
    first, second = tasks.signals(), tasks.signals()
    np.testing.assert_array_equal(first["x_test"], second["x_test"])
    assert np.bincount(first["y_train"]).min() > 1000


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_weights_say_what_net_they_are_of(golf: Callable[..., Ran], tmp_path: Path) -> None:
    """A pruned net of colours is deployed without `arch=`; a file of torch needs it."""
    made = tasks.photos()
    np.savez_compressed(
        tmp_path / "photos.npz", **{k: v[::9] for k, v in made.items() if k[0] != "c"}
    )
    quick = ("trials=1", "epochs=1", "space.batch_size=32", "space.lr=3e-3")
    assert golf("study", "arch=c2-2", "data=photos.npz", "study.name=mine", *quick).status == 0
    ran = golf("prune", "study=mine", "target=0.3")
    assert ran.status == 0, ran.err
    (weights,) = (tmp_path / "studies" / "pruned").glob("*/weights.safetensors")
    ran = golf("deploy", f"weights={weights}", "output=a.h")
    assert ran.status == 0, ran.err
    assert "image[3072], float scores[2]" in (tmp_path / "a.h").read_text()
    net = load_file(weights)
    state = {name.partition("/")[2]: torch.tensor(v) for name, v in net.tensors.items()}
    torch.save(state, tmp_path / "net.pt")
    told_to = ("deploy", "weights=net.pt", "output=b.h")
    assert "does not say what net it is" in told(golf(*told_to))
    assert "but must be" in told(golf(*told_to, "arch=c2-2"))  # it would be MNIST's
    assert golf(*told_to, "arch=c2-2", "data=photos.npz").status == 0
    tables = [(tmp_path / name).read_text().partition("#ifndef")[2] for name in ("a.h", "b.h")]
    assert tables[0] == tables[1]
