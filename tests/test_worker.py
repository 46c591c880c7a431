"""golf-opt worker: goes on with a study that was begun elsewhere, or says why it must not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import Ran

from golf_opt.config.schema import StorageConfig
from golf_opt.storage.checkpoint import open_checkpoints
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import mark, marks
from golf_opt.study.description import DESCRIPTION, find_study

pytest_plugins = ["postgres"]

Golf = Callable[..., Ran]
COMMON = ("engine=native", "~callbacks.note")
STUDY = (
    "study", "arch=c4-5-4", "data=digits", "trials=2", "epochs=400", "sampler=random",
    "pruner=none",
)  # fmt: skip


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> StorageConfig:
    if request.param == "sqlite":
        return StorageConfig(f"sqlite:///{tmp_path}/golf.db", None)
    return request.getfixturevalue("on_postgres")


@contextlib.contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`golf-opt` as a process of its own, in a folder of its own."""
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "golf_opt", *arguments], cwd=folder, env=os.environ,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_epoch(config: StorageConfig, epoch: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with opened_storage(config) as storage:
            if "s" in optuna.get_all_study_names(storage):
                trials = optuna.load_study(study_name="s", storage=storage).trials
                if any(epoch in trial.intermediate_values for trial in trials):
                    return
        time.sleep(0.1)
    raise AssertionError("no trial got that far")


def kept(config: StorageConfig, name: str) -> list[tuple[dict[int, float], dict[str, Any]]]:
    """The values and the weights of a study's trials."""
    with opened_storage(config) as storage:
        study = find_study(storage, name)
        checkpoints = open_checkpoints(study, Path("no folder"))
        return [
            (trial.intermediate_values, checkpoints.load(trial.number).state.tensors)
            for trial in study.trials
        ]


@pytest.fixture(scope="module")
def twin(studies_of: Callable[..., Path]) -> list[tuple[dict[int, float], dict[str, Any]]]:
    """What the study holds where nothing disturbs it."""
    folder = studies_of(*STUDY, "study.name=s", *COMMON, "engine.lanes=1")
    return kept(StorageConfig(f"sqlite:///{folder}/studies/golf.db", None), "s")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_trial_goes_on_in_another_worker_bit_for_bit(
    golf: Golf, config: StorageConfig, tmp_path: Path, twin: Any, how: signal.Signals
) -> None:
    """From another folder and with other lanes; the checkpoint is in the database."""
    where = f"storage.url={config.url}"
    with started(
        tmp_path / "laptop", *STUDY, "study.name=s", *COMMON, "engine.lanes=1", where
    ) as laptop:
        wait_for_epoch(config, 20)
        laptop.send_signal(how)
        laptop.communicate(timeout=120)
        if how is signal.SIGTERM:
            assert laptop.returncode == 128 + how
    joined = golf("worker", "study=s", *COMMON, "engine.lanes=2", where, "dir=elsewhere")
    assert joined.status == 0, joined.err
    assert "2 of 2 trials finished" in joined.out
    assert ("was left by a worker that died" in joined.out) == (how is signal.SIGKILL)
    assert "epoch   1/400" not in joined.out.split("trial    1")[0], "the trial began again"
    for (values, weights), (others, same) in zip(kept(config, "s"), twin, strict=True):
        assert values == others and len(values) == 400
        assert weights.keys() == same.keys()
        for name, tensor in weights.items():
            np.testing.assert_array_equal(tensor, same[name])


@pytest.fixture
def finished(begun: Callable[..., None], golf: Golf, tmp_path: Path) -> StorageConfig:
    """A finished study `s` of one short trial."""
    quick = ("study", "data=digits", "engine=torch", "space.batch_size=32", "epochs=1", "trials=1")
    begun(*quick, "study.name=s")
    return StorageConfig(f"sqlite:///{tmp_path}/studies/golf.db", None)


def change(config: StorageConfig, **changed: Any) -> None:
    with opened_storage(config) as storage:
        study = find_study(storage, "s")
        mark(study, DESCRIPTION, json.loads(json.dumps(marks(study)[DESCRIPTION])) | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"digest": "other"}, r"data was digits \(other\) and is digits \("),
        ({"format": 9, "version": "9.9.0"}, "format is 9, but must be at most 4 .*golf-opt==9.9.0"),
        ({"epochs": "many"}, "description is damaged: epochs: .* integer"),
        ({"sampler": {"_target_": "os.system"}}, "takes only Optuna's own"),
        ({"sampler": {"_target_": "optuna.logging.os.system"}}, "takes only Optuna's own"),
        ({"sampler": {"_target_": "golf_opt.utils.files.replace_text"}}, "only Optuna's own"),
        ({"pruner": {"of": {"_target_": "os.system"}}}, "takes only Optuna's own"),
        ({"pruner": {"of": [{"_target_": "os.system"}]}}, "takes only Optuna's own"),
    ],
)
def test_a_worker_that_does_not_fit_is_refused(
    golf: Golf, finished: StorageConfig, changed: dict[str, Any], message: str
) -> None:
    change(finished, **changed)
    ran = golf("worker", "study=s", "engine=torch")
    assert ran.status == 2 and ran.err.startswith("golf-opt: ") and "Traceback" not in ran.err
    assert re.search(message, ran.err), ran.err


def test_another_version_is_only_noted(golf: Golf, finished: StorageConfig) -> None:
    change(finished, version="0.0.9")
    ran = golf("worker", "study=s", "engine=torch")
    assert ran.status == 0 and "note: the study was stored by golf-opt 0.0.9" in ran.out


def test_a_study_must_be_named_and_there(golf: Golf, finished: StorageConfig) -> None:
    assert "study is missing" in golf("worker").err
    unknown = golf("worker", "study=t")
    assert unknown.status == 2 and "'t' is not in the storage; it must be one of s" in unknown.err
