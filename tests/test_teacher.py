"""A teacher's files, what they are checked for, and studies that learn from one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import Ran, told

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig
from golf_opt.engines.base import Job, initial_weights
from golf_opt.engines.native import NativeEngine, compiler
from golf_opt.engines.torch import TorchEngine
from golf_opt.study.description import description_of
from golf_opt.task.data import Split, View, load
from golf_opt.task.data.teacher import FACTS, LOGITS, digest_of, find_teacher, read_teacher, taught
from golf_opt.task.grammar import load_arch
from golf_opt.task.recipe import Candidate

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
STUDY = ("study", "arch=c2-2", "data=digits", "epochs=2", "trials=2", "space=distil", "seed=1")


def digits(protocol: str = "test") -> View:
    return load(DataConfig("digits", Path("data"))).view(protocol)


def logits_of(split: Split, right: float = 6.0, seed: int = 0) -> np.ndarray[Any, Any]:
    """What a teacher might say: the label, with some doubt."""
    doubt = np.random.default_rng(seed).normal(0, 1, (len(split), 10))
    return (doubt + right * np.eye(10)[split.labels]).astype(np.float32)


def facts_of(view: View, logits: Path, **changed: Any) -> str:
    facts = {
        "format": 1, "data": view.dataset, "data_digest": view.digest, "protocol": view.protocol,
        "num_train": len(view.train), "net": "c2-2", "layers": [], "num_params": 9, "recipe": {},
        "epochs": 3, "seeds": [1, 2], "averaged": "logits", "measured_on": view.objective.name,
        "accuracy": 0.9876, "accuracies": [0.98, 0.97], "train_accuracy": 0.99,
        "logits": digest_of(logits.read_bytes()), "version": "0", "command": "",
    }  # fmt: skip
    return json.dumps(facts | changed)


def folder_of(path: Path, view: View, seed: int = 0, **changed: Any) -> Path:
    """A teacher's folder, as golf-opt teach leaves it."""
    path.mkdir(parents=True)
    np.save(path / LOGITS, logits_of(view.train, seed=seed))
    (path / FACTS).write_text(facts_of(view, path / LOGITS, **changed))
    return path


def study_of(tmp_path: Path) -> optuna.Study:
    storage = f"sqlite:///{tmp_path / 'studies' / 'golf.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def test_logits_stand_beside_the_training_images(tmp_path: Path) -> None:
    view = digits("holdout")
    path = folder_of(tmp_path / "teacher", view)
    teacher = read_teacher(path)
    assert teacher.words == "2 nets c2-2, 98.76 % on holdout"
    soft = taught(view, teacher).train.soft
    np.testing.assert_array_equal(soft, logits_of(view.train))
    part = taught(view, teacher).train.take("part", np.array([5, 2]))
    assert part.soft is not None and np.array_equal(part.soft, logits_of(view.train)[[5, 2]])
    half = tmp_path / "half.npy"
    np.save(half, logits_of(view.train).astype(np.float16))
    assert read_teacher(half).facts is None and read_teacher(half).logits.dtype == np.float32
    assert read_teacher(path / LOGITS).digest == teacher.digest != read_teacher(half).digest


def test_a_teacher_of_other_images_is_refused(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "teacher", digits("test"))
    with pytest.raises(UsageError, match="may have seen the held-out ones"):
        taught(digits("holdout"), read_teacher(path))
    path = folder_of(tmp_path / "other", digits("test"), data_digest="0" * 16)
    with pytest.raises(UsageError, match=r"was trained on .* \(0{16}\), but must be trained on"):
        taught(digits("test"), read_teacher(path))
    with pytest.raises(UsageError, match=r"logits of 1,438 images .* those of the 1,199 training"):
        taught(digits("holdout"), read_teacher(path / LOGITS))


def spoil_pickle(path: Path) -> None:
    np.save(path / LOGITS, np.array([{}, {}]), allow_pickle=True)


def spoil_archive(path: Path) -> None:
    with (path / LOGITS).open("wb") as file:
        np.savez(file, a=np.zeros(3))


def spoil_numbers(path: Path) -> None:
    np.save(path / LOGITS, np.full((3, 10), np.nan, dtype=np.float32))


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled": (spoil_pickle, "allow_pickle=False"),
    "not finite": (spoil_numbers, "not finite"),
    "whole numbers": (lambda p: np.save(p / LOGITS, np.zeros((3, 10), dtype=int)), "with a point"),
    "an archive": (spoil_archive, "with a point"),
    "short": (lambda p: (p / LOGITS).write_bytes((p / LOGITS).read_bytes()[:999]), "cannot be r"),
    "no logits": (lambda p: (p / LOGITS).unlink(), "No such file"),
    "other logits": (lambda p: np.save(p / LOGITS, np.zeros((3, 10))), "is not the file that"),
    "no facts": (lambda p: (p / FACTS).unlink(), "No such file"),
    "no JSON": (lambda p: (p / FACTS).write_text("{"), "cannot be read: Expecting"),
    "other facts": (lambda p: (p / FACTS).write_text("{}"), "teacher.json: data: Field required"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_no_teacher_is_refused_in_one_line(tmp_path: Path, how: str) -> None:
    path = folder_of(tmp_path / "teacher", digits())
    spoil, message = SPOILED[how]
    spoil(path)
    with pytest.raises(UsageError, match=message) as refused:
        read_teacher(path)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    assert find_teacher(tmp_path, "0" * 16) is None


def test_a_study_learns_from_its_teacher_and_no_other(
    tmp_path: Path, golf: Callable[..., Ran]
) -> None:
    first = read_teacher(folder_of(tmp_path / "first", digits()))
    folder_of(tmp_path / "second", digits(), seed=1)
    ran = golf(*STUDY, "teacher=first")
    assert ran.status == 0, ran.err
    study = study_of(tmp_path)
    assert study.study_name == f"c2-2@digits-2epochs-teacher{first.digest[:6]}"
    assert description_of(study).identity()["teacher"] == first.digest
    before = [trial.value for trial in study.trials]
    name = f"study.name={study.study_name}"
    refused = told(golf(*STUDY, "teacher=second", name))
    assert f"teacher: {first.digest} before, " in refused
    assert "space has distill, but there is no teacher" in told(golf(*STUDY, name))
    assert "the space has no distill" in told(golf(*STUDY, "space=article", "teacher=first"))
    assert "is not there" in told(golf(*STUDY, "teacher=third"))
    assert [trial.value for trial in study_of(tmp_path).trials] == before


def test_a_teacher_changes_what_is_learned(tmp_path: Path, golf: Callable[..., Ran]) -> None:
    """The same seed and recipe, but for the teacher: what a wrong one says is learned, too."""
    wrong = np.roll(logits_of(digits().train), 1, axis=1)
    np.save(tmp_path / "wrong.npy", wrong)
    np.save(tmp_path / "right.npy", logits_of(digits().train))
    accuracies = {}
    for name in ("right", "wrong"):
        fixed = ("space.distill=1.0", "space.temperature=2.0", "space.lr=1e-2", "trials=1")
        ran = golf(*STUDY, *fixed, "epochs=4", f"teacher={name}.npy", f"dir={name}")
        assert ran.status == 0, ran.err
        storage = f"sqlite:///{tmp_path / name / 'golf.db'}"
        (study,) = optuna.get_all_study_names(storage)
        trial = optuna.load_study(study_name=study, storage=storage).trials[0]
        accuracies[name] = trial.value
    assert accuracies["right"] > 0.6 and accuracies["wrong"] < 0.1


def test_others_find_the_teacher_by_its_digest(tmp_path: Path, golf: Callable[..., Ran]) -> None:
    teacher = folder_of(tmp_path / "teacher", digits())
    assert golf(*STUDY, "teacher=teacher", "study.name=mine").status == 0
    folder_of(tmp_path / "studies" / "teachers" / "another", digits(), seed=1)
    teacher.rename(tmp_path / "elsewhere")
    digest = description_of(study_of(tmp_path)).identity()["teacher"]
    for verb in (("worker",), ("confirm", "seeds=1", "top=1")):
        gone = told(golf(*verb, "study=mine"))
        assert (
            f"learns from teacher {digest} (2 nets c2-2, 98.76 % on test), which is not at" in gone
        )
        assert "give teacher=PATH" in gone
    ran = golf("confirm", "study=mine", "seeds=1", "top=1", "teacher=elsewhere")
    assert ran.status == 0, ran.err
    (tmp_path / "elsewhere").rename(tmp_path / "studies" / "teachers" / "moved")
    ran = golf("worker", "study=mine")
    assert ran.status == 0 and "teacher: studies/teachers/moved" in ran.out, ran
    ran = golf("report", "study=mine")  # needs none
    assert ran.status == 0, ran.err


def test_teach_makes_a_teacher_that_a_study_takes(tmp_path: Path, golf: Callable[..., Ran]) -> None:
    small = ("teach", "data=digits", "arch=c4-4", "nets=2", "epochs=8", "protocol=holdout")
    ran = golf(*small)
    assert ran.status == 0, ran.err
    folder = tmp_path / "studies" / "teachers" / "c4-4-digits-holdout"
    teacher, view = read_teacher(folder), digits("holdout")
    facts = teacher.facts
    assert facts is not None and facts.data_digest == view.digest and len(facts.seeds) == 2
    assert teacher.logits.shape == (len(view.train), 10)
    right = float((teacher.logits.argmax(1) == view.train.labels).mean())
    assert facts.train_accuracy == right > 0.8
    assert facts.accuracy >= min(facts.accuracies) > 0.7
    # the mean of what both nets say, each trained anew by itself
    engine, total = NativeEngine(view, 1), np.zeros((len(view.train), 10))
    for seed in facts.seeds:
        net = load_arch("c4-4")
        engine.start(0, Job(net, Candidate(**facts.recipe), seed, facts.epochs))
        while engine.state(0).epoch < facts.epochs:
            engine.step()
        total += engine.logits(net, engine.state(0).net, view.train.images)
        engine.stop(0)
    np.testing.assert_allclose(teacher.logits, total / 2, atol=1e-5)
    assert "is there already" in told(golf(*small))
    ran = golf(*STUDY, "protocol=holdout", f"teacher={folder}", "trials=1")
    assert ran.status == 0, ran.err


def test_teach_refuses_in_one_line(tmp_path: Path, golf: Callable[..., Ran]) -> None:
    small = ("teach", "data=digits", "arch=c2-2")
    assert "recipe.lr is 0, but must be above 0" in told(golf(*small, "recipe.lr=0"))
    assert "without a teacher" in golf(*small, "+recipe.distill=0.5").err
    assert "name is '../x', but must be a folder's name" in told(golf(*small, "name=../x"))
    assert not (tmp_path / "studies").exists()


def test_pytorch_says_the_same_of_images() -> None:
    view, net = digits(), load_arch("c2-2")
    tensors = initial_weights(net, 5)
    ours, theirs = NativeEngine(view, 1), TorchEngine(view, device="cpu")
    images = view.objective.images
    expected = ours.logits(net, tensors, images)
    np.testing.assert_allclose(theirs.logits(net, tensors, images), expected, atol=1e-4)
