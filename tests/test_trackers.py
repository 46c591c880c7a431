"""callbacks=mlflow, tensorboard, wandb: what trials report is read back from where they keep it."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, told

import golf_opt as golf
from golf_opt.study import tracking
from golf_opt.study.callbacks import Callback, TrialRun
from golf_opt.study.tracking import Metrics, Tracked, Tracker, Writer

Golf = Callable[..., Ran]
Study = Callable[..., list[golf.Trial]]
STUDY = (
    "study", "arch=c2-2", "data=digits", "epochs=2", "engine=torch", "sampler=random",
    "space.batch_size=32", "study.name=s", "callbacks.progress.mode=plain",
)  # fmt: skip
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "WANDB_MODE": "offline"}


OURS: dict[str, Any] = {
    "arch": "c2-2", "data": "digits", "epochs": 2, "engine": {"name": "torch", "lanes": 1},
    "sampler": "random", "space": {"batch_size": 32}, "study.name": "s",
}  # fmt: skip
theirs = pytest.mark.filterwarnings("ignore")  # of what they import


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Run the study with other keys, and return its trials; `stop`: in the first one."""
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def run(stop: bool = False, **keys: Any) -> list[golf.Trial]:
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            if stop and line.startswith("trial    0"):
                os.kill(os.getpid(), signal.SIGINT)

        done = golf.study(**OURS | keys, say=say)
        assert "cannot be written" not in "\n".join(said)
        return done.all

    return run


# --- the real ones


@theirs
def test_mlflow_keeps_a_run_for_each_trial(tmp_path: Path, study: Study) -> None:
    """Stopped in the middle, the trial goes on in its run: each epoch is there once."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    more = {"epochs": 8, "trials": 2, "callbacks": "mlflow", "callbacks.mlflow.uri": uri}
    begun = study(stop=True, **more)
    assert begun[0].state == "waiting"
    kept = study(**more)

    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    rows = {}
    for run in client.search_runs([experiment.experiment_id]):
        measured = client.get_metric_history(run.info.run_id, "accuracy")
        rows[run.info.run_name] = run, [(metric.step, metric.value) for metric in measured]
    assert len(kept) == len(rows) == 2
    for trial in kept:
        run, history = rows[f"trial {trial.number}"]
        tags, params = run.data.tags, run.data.params
        assert run.info.status == "FINISHED" and tags["state"] == "complete" == trial.state
        assert params["lr"] == str(trial.params["lr"]) and params["batch_size"] == "32"
        assert tags["seed"] == str(trial.seed) and tags["study"] == "s"
        assert run.data.metrics["objective"] == trial.value
        assert sorted(history) == [*enumerate(trial.history, 1)]


@theirs
def test_tensorboard_has_a_folder_for_each_trial(tmp_path: Path, study: Study, golf: Golf) -> None:
    """Written by a worker, too."""
    (begun,) = study(stop=True, epochs=8, trials=1)
    assert begun.state == "waiting"
    ran = golf("worker", "study=s", "engine=torch", "callbacks=tensorboard")
    assert ran.status == 0 and "cannot be written" not in ran.out
    (trial,) = study(epochs=8, trials=1)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "studies" / "tensorboard" / "s" / "trial-0000"))
    events.Reload()
    scalars = events.Scalars("accuracy")
    assert [(event.step, event.value) for event in scalars] == [
        (epoch, pytest.approx(value)) for epoch, value in enumerate(trial.history, 1)
    ]
    assert events.Scalars("objective")[0].value == pytest.approx(trial.value)
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")


@theirs
def test_wandb_offline(tmp_path: Path, study: Study) -> None:
    kept = study(trials=2, callbacks="wandb")
    files = [*(tmp_path / "studies" / "wandb").glob("offline-run-*/run-*.wandb")]
    runs = dict(map(read_wandb, files))
    assert len(runs) == len(kept) == 2
    for trial in kept:
        config, history, summary = runs[f"trial {trial.number}"]
        assert config["lr"] == trial.params["lr"] and config["seed"] == trial.seed
        assert [row["accuracy"] for row in history] == [*trial.history]
        assert [row["_step"] for row in history] == [1, 2]
        assert summary["objective"] == trial.value


def read_wandb(path: Path) -> tuple[str, tuple[dict[str, Any], list[dict[str, Any]], Any]]:
    """A run's name, and its config, history and summary."""
    from wandb.proto.wandb_internal_pb2 import Record

    def of(items: Any) -> dict[str, Any]:
        return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}

    name, config, history, summary = "", {}, [], {}
    for data in log_records(path.read_bytes()):
        record = Record.FromString(data)
        name = record.run.display_name or name
        config |= of(record.run.config.update)
        summary |= of(record.summary.update)
        if record.WhichOneof("record_type") == "history":
            history.append(of(record.history.item))
    return name, (config, history, summary)


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a log as LevelDB writes it, where one may be in parts; 7 bytes come first."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the only part, or the last one
            yield whole
            whole = b""


# --- behind the loop


class Held(Tracker):
    """Its writer waits until three trials are over, and keeps what it was told."""

    name, package = "held", "json"
    over = threading.Event()
    told: list[tuple[str, int]]

    def writer(self, study: str, study_id: str) -> Writer:
        assert study == "s" and len(study_id) == 32
        Held.told = []
        return HeldWriter()


class HeldWriter:
    def begin(self, trial: Tracked) -> None:
        assert Held.over.wait(60)
        Held.told.append(("begin", trial.number))

    def epoch(self, number: int, epoch: int, metrics: Metrics) -> None:
        assert 0 <= metrics["accuracy"] <= 1
        Held.told.append((f"epoch {epoch}", number))

    def end(self, trial: Tracked) -> None:
        Held.told.append((trial.state, trial.number))

    def close(self) -> None:
        Held.told.append(("close", -1))


class Release(Callback):
    def on_trial_finished(self, run: TrialRun) -> None:
        if run.number == 2:
            Held.over.set()


def test_lanes_do_not_wait_for_the_writer(golf: Golf) -> None:
    """It writes nothing before the third trial is over; at the study's end all is written."""
    ran = golf(
        *STUDY, "trials=3", "+callbacks.held._target_=test_trackers.Held",
        "+callbacks.free._target_=test_trackers.Release",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    expected = [
        (what, number) for number in range(3)
        for what in ("begin", "epoch 1", "epoch 2", "complete")
    ]  # fmt: skip
    assert Held.told == [*expected, ("close", -1)]


class Stuck(Tracker):
    """Its writer never ends its first trial."""

    name, package = "stuck", "json"

    def writer(self, study: str, study_id: str) -> Writer:
        return StuckWriter()


class StuckWriter(HeldWriter):
    def begin(self, trial: Tracked) -> None:
        threading.Event().wait()


def test_a_writer_that_hangs_keeps_no_study_from_its_end(
    golf: Golf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MOST_WAITING", 3)
    monkeypatch.setattr(tracking, "FLUSH_S", 0.2)
    ran = golf(*STUDY, "trials=3", "+callbacks.x._target_=test_trackers.Stuck")
    assert ran.status == 0, ran.err
    assert "stuck was too slow: " in ran.out and "3 of 3 trials finished" in ran.out


class Faulty(Tracker):
    name, package = "faulty", "json"

    def writer(self, study: str, study_id: str) -> Writer:
        raise SystemExit("no\nserver")


def test_an_error_of_theirs_costs_one_line(golf: Golf) -> None:
    ran = golf(*STUDY, "trials=2", "+callbacks.x._target_=test_trackers.Faulty")
    assert ran.status == 0, ran.err
    told_ = [line for line in ran.out.splitlines() if line.startswith("faulty")]
    assert told_ == ["faulty cannot be written, the study goes on: SystemExit: no server"]
    assert "2 of 2 trials finished" in ran.out


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "wandb"])
def test_a_package_that_is_missing(
    golf: Golf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    assert told(golf(*STUDY, f"callbacks={name}")) == (
        f"callbacks={name} needs the package {name}, which is not installed: "
        f"pip install 'golf-opt[{name}]'"
    )
    assert [*tmp_path.iterdir()] == []
