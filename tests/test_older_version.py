"""What version 0.1 left behind opens, goes on and gives the same: `v0_1/` was made by it.

studies.db   `old`, stopped by SIGINT in its fifth trial, and `grid`, finished
export/      `golf-opt export` of `old` as it ends where nothing stops it
trainings.*  losses of twenty seeded trainings; digests of today's weights

golf-opt study arch=c4-5-4 data=digits epochs=12 trials=6 engine=native engine.lanes=1 \
    space.batch_size=16 pruner=none seed=3 study.name=old
golf-opt study arch=c4-5-4 data=digits epochs=2 trials=2 engine=torch sampler=grid \
    sampler.points=2 space.step_size=1 space.gamma=0.9 study.name=grid
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Ran
from v0_1 import trainings

from golf_opt.engines.native import NativeEngine, compiler
from golf_opt.storage.studies import marks
from golf_opt.study.description import FACTS_0_1, FINGERPRINT_0_1, description_of

OLD = Path(__file__).parent / "v0_1"
STUDY = (
    *("study", "arch=c4-5-4", "data=digits", "epochs=12", "trials=6", "seed=3", "pruner=none"),
    *("engine=native", "engine.lanes=1", "space.batch_size=16", "study.name=old"),
)
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of studies with the database of version 0.1."""
    studies = tmp_path / "studies"
    studies.mkdir()
    shutil.copy(OLD / "studies.db", studies / "golf.db")
    return studies


def study_of(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'golf.db'}")


def twin() -> list[dict[str, Any]]:
    """The trials of `old` as they are where nothing stops it."""
    return [json.loads(line) for line in (OLD / "export" / "trials.jsonl").read_text().splitlines()]


@needs_compiler
def test_twenty_trainings_give_the_same_weights() -> None:
    kept = json.loads(trainings.FILE.read_text())
    engine = NativeEngine(trainings.view(), 1, **trainings.PORTABLE)  # type: ignore[arg-type]
    same_machine = trainings.machine() == kept["digests_of"]
    assert len(kept["trainings"]) == 20
    for name, job in trainings.jobs():
        now, then = trainings.train(engine, job), kept["trainings"][name]
        assert now["losses"] == pytest.approx(then["losses"], rel=1e-3), name
        assert not same_machine or now["sha256"] == then["sha256"], name


@needs_compiler
def test_a_stopped_study_goes_on(folder: Path, golf: Callable[..., Ran]) -> None:
    ran = golf(*STUDY)
    assert ran.status == 0, ran.err
    assert "going on at 4 of 6 trials" in ran.out
    now = study_of(folder, "old").get_trials()
    assert [trial.number for trial in now] == list(range(6))
    for trial, then in zip(now, twin(), strict=True):
        assert trial.state.name == then["state"] == "COMPLETE"
        assert trial.params == then["params"]
        accuracies = list(trial.intermediate_values.values())
        # two images of 359: the last bits of sums are the kernel's and the CPU's
        assert accuracies == pytest.approx(then["user_attrs"]["epoch_accuracies"], abs=0.007)


@pytest.mark.parametrize("name", ["old", "grid"])
def test_what_was_kept_in_three_parts_is_one_description(
    folder: Path, golf: Callable[..., Ran], name: str
) -> None:
    before = marks(study_of(folder, name))
    described, identity = description_of(study_of(folder, name)), dict(before[FINGERPRINT_0_1])
    assert identity.pop("direction") == "maximize"
    identity["seeds"] = "each point its own"  # there was no other way
    assert described.identity() == identity
    facts = before[FACTS_0_1]
    assert (described.num_train, described.command) == (facts["num_train"], facts["command"])
    assert described.net.num_params == facts["num_params"]
    for verb in (["ls"], ["report", f"study={name}"], ["export", f"study={name}", "output=out"]):
        ran = golf(*verb)
        assert ran.status == 0, ran.err
    assert marks(study_of(folder, name)) == before, "who reads wrote"


def test_a_worker_knows_the_samplers_old_name(folder: Path, golf: Callable[..., Ran]) -> None:
    ran = golf("worker", "study=grid", "engine=torch")
    assert (ran.status, ran.err) == (0, "")
    assert "study grid: 2 of 2 trials finished" in ran.out


def test_an_export_opens(tmp_path: Path, golf: Callable[..., Ran]) -> None:
    ran = golf("import", f"input={OLD / 'export'}")
    assert ran.status == 0, ran.err
    study = study_of(tmp_path / "studies", "old")
    assert [trial.value for trial in study.get_trials()] == [row["values"][0] for row in twin()]
    ran = golf("deploy", "study=old", "format=c", "output=net.h")
    assert ran.status == 0, ran.err
    assert re.search(r"golf_predict", (tmp_path / "net.h").read_text())
    again = golf("export", "study=old", "output=again")
    assert again.status == 0, again.err
    for name in ("trials.jsonl", "trials.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (OLD / "export" / name).read_bytes()
    for path in (OLD / "export" / "checkpoints").iterdir():
        assert (tmp_path / "again" / "checkpoints" / path.name).read_bytes() == path.read_bytes()
