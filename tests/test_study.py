"""The study loop: totals, resumes, interrupts, failures, and what a trial stores."""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import shlex
import signal
import sqlite3
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Ran, told
from optuna.trial import TrialState
from optuna_dashboard import get_note

from golf_opt.config.schema import DataConfig, StorageConfig
from golf_opt.golf.source import load_trained
from golf_opt.storage.checkpoint import open_checkpoints
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import marks
from golf_opt.study import space
from golf_opt.study.callbacks import Callback, TrialRun
from golf_opt.study.description import description_of, find_study
from golf_opt.task import forward
from golf_opt.task.data import load as load_data

Golf = Callable[..., Ran]
Start = Callable[..., subprocess.Popen[str]]
QUICK = ("study", "data=digits", "engine=torch", "space.batch_size=32")
NAME = "c4-5-4@digits-2epochs"


def load(folder: Path, name: str = NAME) -> optuna.Study:
    """The study of a folder's default storage."""
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/studies/golf.db")


def found_in(folder: Path) -> str:
    """A PYTHONPATH with a folder before what is there already."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def params(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def values(study: optuna.Study) -> list[float | None]:
    return [trial.value for trial in study.trials]


def test_trials_is_the_total_and_resuming_asks_the_same(golf: Golf, tmp_path: Path) -> None:
    """3, then 5 trials are exactly 5, and the same 5 as in one go."""
    assert golf(*QUICK, "epochs=2", "trials=3").status == 0
    more = golf(*QUICK, "epochs=2", "trials=5")
    assert "going on at 3 of 5 trials" in more.out
    study = load(tmp_path)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5
    assert len({tuple(p.values()) for p in params(study)}) == 5
    assert golf(*QUICK, "epochs=2", "trials=5", "study.name=once").status == 0
    once = load(tmp_path, "once")
    assert (params(once), values(once)) == (params(study), values(study))
    again = golf(*QUICK, "epochs=2", "trials=5")
    assert again.status == 0 and len(load(tmp_path).trials) == 5


def test_a_trial_stores_what_made_it(golf: Golf, tmp_path: Path) -> None:
    golf(*QUICK, "epochs=2", "trials=1")
    (trial,) = load(tmp_path).trials
    attrs = trial.user_attrs
    assert set(trial.params) == {"lr", "step_size", "gamma"}
    assert list(trial.intermediate_values) == [1, 2]
    assert trial.value == trial.intermediate_values[2]
    assert 0 < attrs["train_accuracy"] <= 1 and len(attrs["epoch_losses"]) == 2
    assert (attrs["protocol"], attrs["engine"], attrs["num_params"]) == ("test", "torch", 807)
    assert attrs["versions"]["optuna"] == optuna.__version__
    assert {"seed", "device", "git_commit", "time_s", "worker"} <= set(attrs)


def test_the_study_carries_a_note_and_a_metric_name(golf: Golf, tmp_path: Path) -> None:
    out = golf(*QUICK, "epochs=2", "trials=1").out
    study = load(tmp_path)
    assert study.metric_names == ["test accuracy"]
    note = get_note(study)
    for part in ("807 parameters", "Best so far", "golf-opt study data=digits", "noise of seeds"):
        assert part in note
    assert "best test accuracy" in out and "next: golf-opt dashboard\n" in out and NAME in out


def wait_for_epoch(folder: Path, epoch: int) -> None:
    """Wait until some trial of the study has reported this epoch."""
    database = f"file:{folder}/studies/golf.db?mode=ro"  # a reader that creates no tables
    reported = "SELECT 1 FROM trial_intermediate_values WHERE step = ?"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(sqlite3.OperationalError),  # not there yet
            contextlib.closing(sqlite3.connect(database, uri=True)) as connection,
        ):
            if connection.execute(reported, (epoch,)).fetchone():
                return
        time.sleep(0.05)
    raise AssertionError("no trial got that far")


LONG = (*QUICK, "study.name=s", "epochs=10", "trials=2", "pruner=none")


@pytest.fixture(scope="module")
def twin(studies_of: Callable[..., Path]) -> optuna.Study:
    """The same study, never interrupted."""
    return load(studies_of(*LONG), "s")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_trial_goes_on_and_ends_as_if_it_had_not_been(
    golf: Golf, golf_process: Start, tmp_path: Path, twin: optuna.Study, how: signal.Signals
) -> None:
    process = golf_process(*LONG)
    wait_for_epoch(tmp_path, 3)  # epoch 2 is saved by then, not only reported
    process.send_signal(how)
    out, err = process.communicate(timeout=120)
    states = [trial.state.name for trial in load(tmp_path, "s").trials]
    if how is signal.SIGKILL:
        assert states[-1] == "RUNNING"
    else:
        assert process.returncode == 128 + how and "Traceback" not in err
        assert states[-1] == "WAITING" and "waiting to go on" in out

    Spy.log = []
    rest = golf(*LONG, "+callbacks.spy._target_=test_study.Spy")
    assert rest.status == 0
    assert Spy.log[0] > 2, "the trial started over"
    study = load(tmp_path, "s")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    if how is signal.SIGKILL:
        assert "was left by a worker that died" in rest.out

    assert values(study) == values(twin)
    for trial, other in zip(study.trials, twin.trials, strict=True):
        assert trial.intermediate_values == other.intermediate_values
        assert trial.user_attrs["epoch_losses"] == other.user_attrs["epoch_losses"]


@pytest.mark.slow
def test_the_examples_of_callback_and_space_run(golf_process: Start, tmp_path: Path) -> None:
    assert doctest.testmod(space).attempted >= 3 and doctest.testmod(space).failed == 0
    example = re.search(r"::\n\n(.*?)\n\n    and runs with", Callback.__doc__ or "", re.DOTALL)
    assert example is not None
    (tmp_path / "my_module.py").write_text(textwrap.dedent(example[1]))
    process = golf_process(
        *QUICK, "epochs=3", "trials=1", "+callbacks.good._target_=my_module.StopWhenGood",
        "+callbacks.good.accuracy=0", PYTHONPATH=found_in(tmp_path),
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert "(1 pruned)" in out, err
    assert list(load(tmp_path, "c4-5-4@digits-3epochs").trials[0].intermediate_values) == [1]


class Spy(Callback):
    """A callback of a user's own: notes the epochs it sees."""

    log: list[int]

    def on_epoch_end(self, run: TrialRun) -> None:
        self.log.append(run.history[-1].epoch)


def test_a_loss_that_is_not_finite_fails_the_trial_and_not_the_study(
    golf: Golf, tmp_path: Path
) -> None:
    points = "study.enqueue=[{lr: 1e30}, {lr: 1e-3}]"
    ran = golf(*QUICK, "epochs=2", "trials=2", "space.lr.high=1e31", points)
    assert ran.status == 0
    failed, good = load(tmp_path).trials
    assert failed.state.name == "FAIL"
    assert "training loss became" in failed.user_attrs["fail_reason"]
    assert good.state.name == "COMPLETE" and "1 failed" in ran.out


def test_the_published_optimum_runs_first(golf: Golf, tmp_path: Path) -> None:
    quick = ("study", "data=digits", "engine=torch", "epochs=1", "study.enqueue=article")
    golf(*quick, "trials=1", "study.name=s")
    article = {"batch_size": 14, "lr": 8e-4, "step_size": 5, "gamma": 0.62}
    assert params(load(tmp_path, "s")) == [article]
    golf(*quick, "trials=2", "study.name=s")
    assert params(load(tmp_path, "s"))[1] != article


def test_a_bad_trial_is_pruned_and_leaves_no_checkpoint(golf: Golf, tmp_path: Path) -> None:
    good = "{lr: 5e-3, step_size: 6, gamma: 0.9}"
    bad = "{lr: 1.1e-5, step_size: 1, gamma: 0.1}"
    ran = golf(
        *QUICK, "epochs=8", "trials=2", "study.name=s", f"study.enqueue=[{good},{bad}]",
        "pruner.n_startup_trials=1", "pruner.n_warmup_steps=2", "+space.average=swa",
    )  # fmt: skip
    study = load(tmp_path, "s")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert list(study.trials[1].intermediate_values) == [1, 2]  # the first after the warm-up
    config = StorageConfig(f"sqlite:///{tmp_path}/studies/golf.db", None)
    with opened_storage(config) as storage:
        checkpoints = open_checkpoints(find_study(storage, "s"), tmp_path / "studies")
        assert {name.split("/")[0] for name in checkpoints.load(0).state.tensors} == {"weights"}
        with pytest.raises(FileNotFoundError):
            checkpoints.load(1)
        kept = load_trained(find_study(storage, "s"), tmp_path / "studies", 0)
    test = load_data(DataConfig("digits", tmp_path)).view("test").test
    assert forward.accuracy(kept.net, kept.tensors, test.images, test.labels) == study.best_value
    assert "(1 pruned)" in ran.out


def test_holdout_reads_the_test_set_once(golf: Golf, tmp_path: Path) -> None:
    ran = golf(*QUICK, "epochs=2", "trials=2", "protocol=holdout")
    study = load(tmp_path, "c4-5-4@digits-holdout-2epochs")
    assert study.metric_names == ["holdout accuracy"]
    (reading,) = marks(study)["golf_opt:test_readings"]
    assert reading["trial"] == study.best_trial.number and 0 <= reading["test_accuracy"] <= 1
    assert "read once" in ran.out and "best holdout accuracy" in ran.out
    golf(*QUICK, "epochs=2", "trials=2", "protocol=holdout")
    study = load(tmp_path, "c4-5-4@digits-holdout-2epochs")
    assert len(marks(study)["golf_opt:test_readings"]) == 1


def test_the_identity_holds_what_makes_the_study(golf: Golf, tmp_path: Path) -> None:
    golf(*QUICK, "epochs=2", "trials=1", "space.lr.high=3e-2")
    identity = description_of(load(tmp_path)).identity()
    assert identity["space"]["lr"]["high"] == 0.03 and identity["space"]["batch_size"] == 32
    assert identity["arch"] == "c4-5-4" and identity["data"].startswith("digits (")


@pytest.mark.slow
def test_lanes_that_wait_for_the_sampler_are_told_of(
    golf: Golf, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*QUICK, "epochs=1", "sampler=random", "study.name=s")
    assert "stood idle" not in golf(*command, "trials=4").out
    monkeypatch.setattr("golf_opt.study.loop.WAITING_S", 1.0)
    original = optuna.samplers.RandomSampler.sample_independent

    def slow(self: Any, *arguments: Any) -> Any:
        time.sleep(0.2)
        return original(self, *arguments)

    monkeypatch.setattr(optuna.samplers.RandomSampler, "sample_independent", slow)
    said = golf(*command, "trials=8").out
    assert re.search(r"idle \d\d% of the time, since asking for a trial took [6-9]\d\d ms", said)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random", "qmc", "grid"])
def test_every_sampler_asks_new_points(golf: Golf, tmp_path: Path, sampler: str) -> None:
    extra = ["sampler.n_startup_trials=2"] if sampler in ("tpe", "gp") else []
    ran = golf(*QUICK, "epochs=1", "trials=4", "study.name=s", f"sampler={sampler}", *extra)
    assert ran.status == 0
    assert len({tuple(p.values()) for p in params(load(tmp_path, "s"))}) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "pruner", ["median", "hyperband", "successive_halving", "percentile", "none"]
)
def test_every_pruner_runs(golf: Golf, tmp_path: Path, pruner: str) -> None:
    ran = golf(*QUICK, "epochs=3", "trials=2", "study.name=s", f"pruner={pruner}")
    assert ran.status == 0 and len(load(tmp_path, "s").trials) == 2


def test_the_wide_space_tunes_the_rest_of_the_recipe(golf: Golf, tmp_path: Path) -> None:
    points = "[{schedule: cosine, optimizer: adamw}, {schedule: step, optimizer: sgd}]"
    golf(*QUICK, "space=wide", "epochs=1", "trials=2", "study.name=s", f"study.enqueue={points}")
    cosine, step = params(load(tmp_path, "s"))
    assert cosine["schedule"] == "cosine" and "gamma" not in cosine
    assert step["optimizer"] == "sgd" and {"gamma", "step_size"} <= set(step)
    assert {"weight_decay", "label_smoothing"} <= set(cosine)


def test_a_damaged_checkpoint_only_costs_its_epochs(
    golf: Golf, golf_process: Start, tmp_path: Path
) -> None:
    process = golf_process(*LONG)
    wait_for_epoch(tmp_path, 1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    with contextlib.closing(sqlite3.connect(tmp_path / "studies" / "golf.db")) as database:
        cut = database.execute("UPDATE golf_checkpoints SET data = substr(data, 1, 99)")
        assert cut.rowcount >= 1
        database.commit()
    ran = golf(*LONG)
    assert ran.status == 0
    (said,) = [line for line in ran.out.splitlines() if "damaged" in line]
    assert re.match(
        r"trial \d starts anew, since its checkpoint is damaged: .* cannot be read", said
    )
    trials = load(tmp_path, "s").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    assert any("cannot be read" in t.user_attrs.get("checkpoint_damaged", "") for t in trials)


def test_a_killed_trial_with_a_damaged_checkpoint_is_not_said_to_go_on_from_it(
    golf: Golf, golf_process: Start, tmp_path: Path
) -> None:
    process = golf_process(*LONG)
    wait_for_epoch(tmp_path, 2)
    process.kill()
    process.communicate(timeout=120)
    with contextlib.closing(sqlite3.connect(tmp_path / "studies" / "golf.db")) as database:
        database.execute("UPDATE golf_checkpoints SET data = x'00'")
        database.commit()
    ran = golf(*LONG)
    assert ran.status == 0
    assert "was left by a worker that died; it waits to go on" in ran.out
    assert "starts anew, since its checkpoint is damaged" in ran.out
    assert "from its checkpoint" not in ran.out


FIXED = ("space.batch_size=32", "space.lr=1e-3", "space.step_size=5", "space.gamma=0.6")


def test_a_study_of_seeds_tells_their_spread(golf: Golf, tmp_path: Path) -> None:
    """Nothing is tuned, and n trials are n seeds."""
    command = (*QUICK[:-1], *FIXED, "epochs=1", "study.name=s", "sampler=random", "pruner=none")
    one = golf(*command, "trials=1").out
    assert "(trial 0, n = 1 seed, train accuracy" in one and "no tuned parameters" not in one
    ran = golf(*command, "trials=3")
    found = [100 * (value or 0.0) for value in values(load(tmp_path, "s"))]
    words = (
        f"mean {statistics.fmean(found):.2f} %, sd {statistics.stdev(found):.2f} points, "
        f"{min(found):.2f} to {max(found):.2f} %, n = 3 seeds"
    )
    assert f"\ntest accuracy: {words}\n" in ran.out
    assert "\n  batch_size=32 lr=0.001 step_size=5 gamma=0.6, nothing tuned\n" in ran.out
    assert "n = 1 seed" not in ran.out
    storage = f"sqlite:///{tmp_path}/studies/golf.db"
    note = get_note(optuna.load_study(study_name="s", storage=storage))
    assert f"every trial is a seed: **{words}**" in note
    assert "n = 1" not in note and "no tuned" not in note and "cannot be told apart" not in note


CHANGED = [
    ("space.batch_size=14", "space.batch_size: 4..32 before, 14 now", "-batch_size14"),
    ("epochs=3", "epochs: 2 before, 3 now", "-3epochs"),
    ("space.lr.high=2e-2", "space.lr: 1e-05..0.01 (log) before, 1e-05..0.02 (log) now", "-2"),
    (
        "arch.layers.0.channels=3",
        "layer 1, conv: channels=4 before, channels=3 now",
        "-2",
    ),
    ("space=wide", "space.gamma: 0.1..0.99 before, 0.1..0.99 where schedule is step now", "-wide"),
]


@pytest.mark.parametrize(("argument", "change", "suffix"), CHANGED, ids=lambda value: value)
def test_another_study_is_told_in_the_words_of_the_command_line(
    golf: Golf, begun: Callable[..., None], argument: str, change: str, suffix: str
) -> None:
    """And the message ends in a command that runs as it stands."""
    command = (*QUICK[:-1], "epochs=2", "dir=my studies", "trials=1", f"study.name={NAME}")
    begun(*command)
    ran = golf(*command, argument)
    said = told(ran)
    assert said.startswith(f"study '{NAME}' is another study: ")
    assert change in said and "absent" not in said and "Int" not in said and "..." not in said
    assert "or begin a new one: golf-opt study data=digits" in said
    words = shlex.split(said.split("begin a new one: ")[1])[1:]
    assert words.count(f"study.name={NAME}{suffix}") == 1
    made = golf(*words)
    assert (made.status, made.err) == (0, ""), made.err
    assert made.out.startswith(f"{NAME}{suffix}: ") and "new study" in made.out
    there = told(golf(*command, argument))
    assert there.endswith(f"or go on with this one: golf-opt {shlex.join(words)}")


def test_a_foreign_study_costs_a_name(golf: Golf, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/golf.db"
    optuna.create_study(study_name=NAME, storage=storage)
    command = (*QUICK, "epochs=2", "trials=1", f"storage.url={storage}")
    said = told(golf(*command))
    assert "was not made by golf-opt; choose another name: golf-opt study " in said
    words = shlex.split(said.split("another name: ")[1])[1:]
    assert words == [*command, f"study.name={NAME}-2"]
    assert golf(*words).status == 0


def test_no_data_and_no_network_falls_back_loudly(
    golf: Golf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("GOLF_DATA", str(tmp_path / "nothing"))
    ran = golf("study", "arch=c4-5-4", "engine=torch", "trials=1", "epochs=2")
    assert ran.status == 0 and "NOT MNIST" in ran.out and NAME in ran.out
    assert len(load(tmp_path).trials) == 1


@pytest.mark.mnist
@pytest.mark.slow
def test_mnist_for_real(golf: Golf, tmp_path: Path, mnist_root: Path) -> None:
    ran = golf(
        "study", "arch=c4-5-4", "data=mnist", f"data.root={mnist_root}", "trials=1", "epochs=1",
        "study.enqueue=article",
    )  # fmt: skip
    study = load(tmp_path, "c4-5-4@1epochs")
    assert ran.status == 0 and study.best_value > 0.9


@pytest.mark.slow
def test_plain_output_has_no_escape_codes(tmp_path: Path) -> None:
    """Nor does a process import what takes it seconds and is in no use."""
    code = (
        "import sys; from golf_opt.cli.main import main; main();"
        "print({'sklearn', 'torch._dynamo'} & {*sys.modules})"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, *QUICK, "epochs=1", "trials=1"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stdout.splitlines()[-1] == "set()"
    assert "\x1b" not in out.stdout and out.stderr == ""
    assert "trial    0  epoch   1/1" in out.stdout


@pytest.mark.mnist
def test_native_lanes_go_on_after_a_kill(
    golf: Golf, golf_process: Start, tmp_path: Path, mnist_root: Path
) -> None:
    """kill -9 with both lanes busy, in the middle of epochs; then the values of a twin."""
    command = (
        "study", "data=mnist", f"data.root={mnist_root}", "engine=native", "engine.lanes=2",
        "trials=2", "epochs=6", "pruner=none", "sampler=random", "+space.average=ema",
    )  # fmt: skip
    process = golf_process(*command, "study.name=s")
    wait_for_epoch(tmp_path, 2)
    process.kill()
    process.communicate()
    assert [trial.state.name for trial in load(tmp_path, "s").trials] == ["RUNNING", "RUNNING"]
    golf(*command, "study.name=s")
    golf(*command, "study.name=twin")
    killed, undisturbed = load(tmp_path, "s"), load(tmp_path, "twin")
    assert [trial.state.name for trial in killed.trials] == ["COMPLETE", "COMPLETE"]
    for trial, other in zip(killed.trials, undisturbed.trials, strict=True):
        if trial.params == other.params:  # the order of asking may differ with two lanes
            assert trial.intermediate_values == other.intermediate_values
    assert any(t.params == o.params for t, o in zip(killed.trials, undisturbed.trials, strict=True))


class DieBeforeTell(Callback):
    """Ends the process as kill -9 would, after the last epoch's checkpoint."""

    def on_trial_end(self, run: TrialRun, state: TrialState) -> None:
        os._exit(9)


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_a_trial_killed_after_its_last_epoch_is_finished(
    golf: Golf, golf_process: Start, tmp_path: Path, engine: str
) -> None:
    command = (*QUICK, f"engine={engine}", "epochs=2", "trials=2", "engine.lanes=1")
    process = golf_process(
        *command,
        "+callbacks.die._target_=test_study.DieBeforeTell",
        PYTHONPATH=found_in(Path(__file__).parent),
    )
    process.communicate(timeout=120)
    assert [trial.state.name for trial in load(tmp_path).trials] == ["RUNNING"]
    assert golf(*command).status == 0
    study = load(tmp_path)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    for trial in study.trials:
        assert list(trial.intermediate_values) == [1, 2]
        assert trial.value == trial.intermediate_values[2]
        assert trial.user_attrs["train_accuracy"] > 0
