"""Budgets and plateaus: what ends a study before its total, and how exactly."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from conftest import Ran

from golf_opt.api.asked import configured
from golf_opt.config.check import check
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import StorageConfig, StudyConfig
from golf_opt.config.types import Budget, BudgetOrNone
from golf_opt.storage import workers
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.failures import StorageUnreachable
from golf_opt.storage.reservations import time_of
from golf_opt.storage.studies import mark, marks
from golf_opt.study.asking import Asking
from golf_opt.study.stopping import LIMITS, STAGNATION, Limits, begin_limits, limits_of
from golf_opt.utils.text import show_duration

pytest_plugins = ["postgres"]

Golf = Callable[..., Ran]
STUDY = (
    "study", "arch=c4-5-4", "data=digits", "space.batch_size=32", "study.name=s", "sampler=random",
    "~callbacks.note",
)  # fmt: skip


def epochs_of(storage: StorageConfig) -> list[int]:
    """The epochs that each trial of the study reported."""
    with opened_storage(storage) as opened:
        study = optuna.load_study(study_name="s", storage=opened)
        return [len(trial.intermediate_values) for trial in study.trials]


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(seconds=90)), ("1.5h", Budget(seconds=5400)), ("10m", Budget(seconds=600)),
        ("20000epochs", Budget(epochs=20_000)), ("1 epoch", Budget(epochs=1)), (None, None),
    ],
)  # fmt: skip
def test_a_budget_is_a_time_or_epochs(text: str | None, budget: Budget | None) -> None:
    assert check(BudgetOrNone, text, "budget") == budget


@pytest.mark.parametrize("text", ["10", "0m", "-1m", "10 parsecs", "2.5epochs", 600])
def test_any_other_budget_is_refused(text: object) -> None:
    with pytest.raises(UsageError, match=r"epochs such as 20000epochs|whole number of epochs"):
        check(BudgetOrNone, text, "budget")


@pytest.mark.parametrize("storage", ["sqlite", "memory", "journal"])
def test_a_budget_of_epochs_is_spent_to_the_last_one(
    golf: Golf, tmp_path: Path, storage: str
) -> None:
    command = (*STUDY, "epochs=4", "pruner=none", "budget=10epochs", f"storage={storage}")
    first = golf(*command)
    assert first.status == 0 and "10 epochs of the budget left" in first.out, first.err
    assert "study s: 2 trials finished (0 pruned), 1 waiting to go on" in first.out
    if storage == "memory":
        return
    assert "to go on, by as much again" in first.out
    if storage == "sqlite":
        where = StorageConfig(f"sqlite:///{tmp_path}/studies/golf.db", None)
        assert epochs_of(where) in ([4, 4, 2], [4, 3, 3], [4, 2, 4])
        assert golf(*command).status == 0
        assert sum(epochs_of(where)) == 20 and epochs_of(where) == [4] * 5


def test_a_budget_of_time_ends_in_time_and_keeps_what_was_begun(
    golf: Golf, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, words_left = list[float](), Limits.words_left

    def heard(limits: Limits, study: optuna.Study) -> str | None:
        left.append(limits.seconds_left or 0.0)
        return words_left(limits, study)

    golf(*STUDY, "epochs=1", "trials=1", "storage=memory")  # compiles
    monkeypatch.setattr(Limits, "words_left", heard)
    ran = golf(*STUDY, "epochs=10000", "pruner=none", "budget=5s")
    assert ran.status == 0, ran.err
    assert "its time is up; trials under way wait to go on" in ran.out
    assert "study s: 0 trials finished (0 pruned), 2 waiting to go on" in ran.out
    assert 0 < left[0] <= 5
    assert f"new study, {show_duration(left[0])} of the budget left" in ran.out
    assert "next, to go on, by as much again: " in ran.out
    joined = golf("worker", "study=s")
    assert joined.status == 0 and "going on at 0 trials, 0 s of the budget left" in joined.out
    assert "next, to go on: the command that began it, with budget=" in joined.out


def test_paused_trials_count_with_what_they_trained(golf: Golf, tmp_path: Path) -> None:
    promote = ("epochs=9", "pruner=promote", "pruner.min_resource=1", "budget=40epochs")
    assert golf(*STUDY, *promote).status == 0
    where = StorageConfig(f"sqlite:///{tmp_path}/studies/golf.db", None)
    assert sum(epochs_of(where)) == 40 and max(epochs_of(where)) > 1


def test_a_budget_that_ends_before_the_promotions_says_how_to_go_on(golf: Golf) -> None:
    """Every trial of the total is begun, and paused or finished, but the study is not over."""
    promote = ("epochs=9", "pruner=promote", "pruner.min_resource=1", "engine.lanes=1")
    ran = golf(*STUDY, *promote, "trials=2", "budget=2epochs")
    assert "study s: 0 of 2 trials finished (0 pruned), 2 paused" in ran.out, ran.err
    assert "next, to go on, by as much again: " in ran.out
    assert "study s: 1 of 2 trials finished" in golf(*STUDY, *promote, "trials=2", "budget=1h").out


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_a_budget_is_exact_over_workers_of_which_two_are_killed(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    where = StorageConfig(f"sqlite:///{tmp_path}/golf.db", None)
    if kind == "postgres":
        where = request.getfixturevalue("on_postgres")
    common = ("~callbacks.note", "engine=native", "engine.lanes=1", f"storage.url={where.url}")
    first = [*STUDY, *common, "epochs=100", "pruner=none", "budget=700epochs"]
    with contextlib.ExitStack() as ended:

        def start(*arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "golf_opt", *dict.fromkeys(arguments)], cwd=tmp_path,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            ended.callback(process.communicate)
            ended.callback(process.kill)
            return process

        processes = [start(*first)]
        assert processes[0].stdout is not None
        assert "budget left" in processes[0].stdout.readline()
        processes += [start("worker", "study=s", *common) for _ in range(3)]
        for process in processes[1:3]:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.3)
            process.send_signal(signal.SIGKILL)
        rest = [process.communicate(timeout=240)[0] for process in (processes[0], processes[3])]
        for process, out in zip((processes[0], processes[3]), rest, strict=True):
            assert process.returncode == 0, out
    assert sum(epochs_of(where)) == 700


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_plateau_ends_a_study(golf: Golf, tmp_path: Path, seeds: int) -> None:
    """Every point is as good as the other, so that it is one as soon as there may be any."""
    (tmp_path / "flat.py").write_text("def train(job):\n    yield 0.5\n")
    (tmp_path / "space.yaml").write_text("x: {type: float, low: 0.0, high: 1.0}\n")
    flat = ("study", "objective=flat:train", "space=space.yaml", "epochs=1", "study.name=s")
    ran = golf(*flat, "stop=plateau", "trials=100", "engine.lanes=1", f"seeds={seeds}")
    assert ran.status == 0, ran.err
    assert f"study s: {STAGNATION + 1} of 100 trials finished" in ran.out
    assert f"the last {STAGNATION} complete points are no better" in ran.out
    two = golf(*flat, "stop=plateau", "directions={a: minimize, b: minimize}")
    assert two.status == 2 and "stop is plateau, which looks at one value" in two.err


def test_limits_of_others_are_not_believed(golf: Golf, tmp_path: Path) -> None:
    assert golf(*STUDY, "epochs=1", "trials=1", "budget=1h").status == 0
    with opened_storage(StorageConfig(f"sqlite:///{tmp_path}/studies/golf.db", None)) as storage:
        study = optuna.load_study(study_name="s", storage=storage)
        assert marks(study)[LIMITS]["deadline"] > time.time() + 3000
        mark(study, LIMITS, {"deadline": "never", "epochs": -1, "plateau": 3})
        assert LIMITS not in marks(study)


def test_without_a_total_a_study_has_its_usual_one_or_a_budget() -> None:
    def total(verb: str, **given: object) -> int | None:
        return configured(StudyConfig, verb, given).total

    assert [total("study"), total("search"), total("search", trials=7)] == [50, 200, 7]
    assert [total("study", budget="1h"), total("study", budget="1h", trials=7)] == [None, 7]


@pytest.mark.parametrize("ahead_s", [86_400.0, -86_400.0])
def test_workers_with_other_clocks_have_the_same_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    """The database's clock is what they agree on, wherever it stands."""
    monkeypatch.setattr(workers, "time_of", lambda engine: time_of(engine) + ahead_s)
    with opened_storage(StorageConfig(f"sqlite:///{tmp_path}/golf.db", None)) as storage:
        study = optuna.create_study(study_name="s", storage=storage)
        begun = time.monotonic() - 100
        limits = begin_limits(study, Budget(seconds=600), plateau=True, begun=begun)
        for seen in (limits, limits_of(study)):
            assert seen.seconds_left == pytest.approx(500, abs=20) and seen.plateau
        assert marks(study)[LIMITS]["deadline"] == pytest.approx(
            time.time() + ahead_s + 500, abs=20
        )


def test_a_worker_stays_while_the_database_cannot_say_what_is_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent(_: Asking) -> None:
        raise StorageUnreachable("no answer")

    monkeypatch.setattr(Asking, "_choose", silent)
    assert object.__new__(Asking).has_more
