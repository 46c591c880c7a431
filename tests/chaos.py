"""Workers that are killed at random, and what must be true of their study afterwards.

    python -m tests.chaos [--storage sqlite|postgres] [--trials 200] [--rounds 3] [--seed 0]

Real processes run a study of c4-5-4 on scikit-learn's digits. Again and again one of them gets
kill -9 or SIGTERM and another takes its place; on PostgreSQL the server is restarted once and
killed once. Then the trials are trained again, undisturbed, and everything is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from bench.report import save
from golf_opt.config.schema import DataConfig, StorageConfig
from golf_opt.engines.base import Job
from golf_opt.engines.native import NativeEngine
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.url import PASSWORD_ENV, take_password
from golf_opt.storage.workers import coordination
from golf_opt.study.callbacks import Callback, TrialRun
from golf_opt.study.description import description_of
from golf_opt.task.data import View, load
from golf_opt.task.data.teacher import read_teacher, taught
from golf_opt.task.grammar import load_arch
from tests import postgres

ROOT = Path(__file__).parents[1]
WORKERS = 4
PATIENCE_S = 240  # with anything that comes, however slow the machine
STUDY = "chaos"
LOG_ENV = "GOLF_CHAOS_LOG"
TEACHER = "teacher.npy"
SLOW, SLOW_S = "slow", 0.1
RECIPE = (  # all that a trial has to remember, and to draw
    "+space.average=ema", "+space.distill=0.3", "+space.order=importance", "+space.shift=1.0",
    "+space.rotate=10.0",
)  # fmt: skip


class EpochLog(Callback):
    """Writes a line for every epoch that was trained here, at once.

    While there is a file `slow` beside the log, an epoch takes a while on any machine: as many
    seconds as stand in it, or `SLOW_S`.
    """

    def on_epoch_end(self, run: TrialRun) -> None:
        result = run.history[-1]
        line = {"trial": run.number, "epoch": result.epoch, "time_s": result.time_s}
        with Path(os.environ[LOG_ENV]).open("a") as file:
            file.write(json.dumps(line) + "\n")
        slow = Path(os.environ[LOG_ENV]).with_name(SLOW)
        with contextlib.suppress(FileNotFoundError):
            time.sleep(float(slow.read_text() or SLOW_S))


@dataclass(frozen=True)
class Report:
    """What was done to a study, and what it cost."""

    kills: int
    terms: int
    server_restarts: int
    wall_s: float
    epochs: int
    epochs_repeated: int
    repeated_s: float  # of training
    repeated_s_a_kill: float


class Fleet:
    """Workers of one study, each in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        storage: StorageConfig,
        trials: int,
        epochs: int,
        size: int,
        blows: int,
    ) -> None:
        self.folder, self.storage = folder, storage
        self.work, self.size, self.blows = trials * epochs, size, blows
        self.log = folder / "epochs.jsonl"
        self._first = (
            "study", "arch=c4-5-4", "data=digits", f"epochs={epochs}", f"trials={trials}",
            f"study.name={STUDY}", "sampler=random", "pruner=none", f"teacher={folder / TEACHER}",
            *RECIPE,
        )  # fmt: skip
        self._next = ("worker", f"study={STUDY}")
        self._common = (
            f"storage.url={storage.url}", "engine=native", "engine.lanes=1",
            "callbacks.progress.mode=quiet", "~callbacks.note",
            "+callbacks.log._target_=tests.chaos.EpochLog",
        )  # fmt: skip
        self.running: list[subprocess.Popen[str]] = []
        self.errors: list[str] = []
        self._started = 0

    def start(self) -> None:
        """Start a worker; the first of all begins the study."""
        place = self.folder / f"worker{self._started}"
        place.mkdir()
        verb = self._first if self._started == 0 else self._next
        self._started += 1
        process = subprocess.Popen(
            [sys.executable, "-m", "golf_opt", *verb, *self._common, f"dir={place}"],
            cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=os.environ | {LOG_ENV: str(self.log), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.running.append(process)

    def end(self, process: subprocess.Popen[str], how: signal.Signals | None = None) -> None:
        """Wait for a worker, after a signal if one is given; its complaints are kept."""
        if how is not None:
            process.send_signal(how)
        _, complaint = process.communicate(timeout=PATIENCE_S)
        self.running.remove(process)
        expected = (0, -signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM)
        refused = process.returncode == 2 and "golf-opt: storage " in complaint  # server was down
        if not (refused or process.returncode in expected) or "Traceback" in complaint:
            self.errors.append(f"exit {process.returncode}: {complaint}")


@contextlib.contextmanager
def storage_of(kind: str, folder: Path) -> Iterator[tuple[StorageConfig, postgres.Server | None]]:
    """A fresh storage; its password is in the environment, as the product keeps it."""
    if kind == "sqlite":
        yield StorageConfig(f"sqlite:///{folder}/chaos.db", None), None
        return
    with postgres.started() as server:
        url, password = take_password(server.url(server.create_database()))
        os.environ[PASSWORD_ENV] = password or ""
        try:
            yield StorageConfig(url, None), server
        finally:
            del os.environ[PASSWORD_ENV]


def torment(
    fleet: Fleet, server: postgres.Server | None, trials: int, draw: random.Random
) -> tuple[int, int, int]:
    """Run the study to its end with kills all the way; return kills, terminations, restarts.

    The first and the third blow hit the server, where there is one.
    """
    kills = terms = restarts = blows = 0
    plan = {} if server is None else {1: signal.SIGKILL, 3: signal.SIGINT}
    fleet.start()
    wait_until_begun(fleet)
    while finished(fleet) < trials:
        for process in list(fleet.running):
            if process.poll() is not None:
                fleet.end(process)
        while len(fleet.running) < fleet.size:
            fleet.start()
        wait_to_strike(fleet, draw)
        blows += 1
        if server is not None and blows in plan:
            server.stop(plan[blows])
            time.sleep(draw.uniform(0.5, 2.0))
            server.start()
            restarts += 1
            continue
        victim = draw.choice(fleet.running)
        if draw.random() < 0.5:
            kills += 1
            fleet.end(victim, signal.SIGKILL)
        else:
            terms += 1
            fleet.end(victim, signal.SIGTERM)
    for process in list(fleet.running):
        fleet.end(process)
    return kills, terms, restarts


def wait_until_begun(fleet: Fleet) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fleet.log.exists():
        if fleet.running[0].poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the study did not begin: {fleet.running[0].communicate()[1]}")
        time.sleep(0.1)


def wait_to_strike(fleet: Fleet, draw: random.Random) -> None:
    """Wait for about the next share of the work, so that a quick machine is hit as often."""
    goal = epochs_trained(fleet) + round(draw.uniform(0.5, 1.5) * fleet.work / fleet.blows)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and epochs_trained(fleet) < goal:
        if all(process.poll() is not None for process in fleet.running):
            return
        time.sleep(0.05)


def epochs_trained(fleet: Fleet) -> int:
    return fleet.log.read_bytes().count(b"\n")


def finished(fleet: Fleet) -> int:
    return sum(trial.state.is_finished() for trial in trials_of(fleet.storage))


def digits() -> View:
    return load(DataConfig("digits", Path())).view("test")


def trials_of(storage: StorageConfig) -> list[FrozenTrial]:
    """Return the study's trials as the database has them now."""
    with opened_storage(storage) as opened:
        return optuna.load_study(study_name=STUDY, storage=opened).trials


def check(fleet: Fleet, trials: int, epochs: int) -> tuple[int, float]:
    """Assert what must be true; return how many epochs were trained twice, and their time."""
    assert not fleet.errors, "\n".join(fleet.errors)
    with opened_storage(fleet.storage) as opened:
        study = optuna.load_study(study_name=STUDY, storage=opened)
        assert coordination(opened).requeue_dead(study._study_id) == []
        rows, plan = study.trials, description_of(study)
        candidates = [plan.job(trial).candidate for trial in rows]
    assert Counter(trial.state for trial in rows) == {TrialState.COMPLETE: trials}
    assert [trial.number for trial in rows] == list(range(trials))
    net, view = load_arch("c4-5-4"), taught(digits(), read_teacher(fleet.folder / TEACHER))
    engine = NativeEngine(view, lanes=1)
    for trial, candidate in zip(rows, candidates, strict=True):
        assert sorted(trial.intermediate_values) == list(range(1, epochs + 1))
        engine.start(0, Job(net, candidate, trial.user_attrs["seed"], epochs))
        undisturbed: dict[int, float] = {}
        while len(undisturbed) < epochs:
            for part in engine.step():
                if part.result is not None:
                    undisturbed[part.result.epoch] = part.result.accuracy
        engine.stop(0)
        assert trial.intermediate_values == undisturbed, f"trial {trial.number}"
        assert trial.value == undisturbed[epochs]
    engine.close()
    lines = [json.loads(line) for line in fleet.log.read_text().splitlines()]
    trained = Counter((line["trial"], line["epoch"]) for line in lines)
    assert len(trained) == trials * epochs
    times = {(line["trial"], line["epoch"]): line["time_s"] for line in lines}
    again = sum(count - 1 for count in trained.values())
    again_s = sum((count - 1) * times[key] for key, count in trained.items())
    return again, again_s


def run(
    kind: str,
    trials: int,
    epochs: int,
    seed: int,
    workers: int = WORKERS,
    blows: int = 40,
    slow_s: float = 0.0,
) -> Report:
    """Run one round with about so many blows, and assert what must be true of it.

    With `slow_s` an epoch takes that long at least, so that few of them pass between two blows.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name, storage_of(kind, Path(name)) as (storage, server):
        fleet = Fleet(Path(name), storage, trials, epochs, workers, blows)
        (fleet.folder / SLOW).write_text(str(slow_s))
        labels = digits().train.labels
        np.save(fleet.folder / TEACHER, 4 * np.eye(10, dtype=np.float32)[labels])
        try:
            kills, terms, restarts = torment(fleet, server, trials, random.Random(seed))
        finally:
            for process in fleet.running:
                process.kill()
                process.communicate()
        wall_s = time.monotonic() - started
        again, again_s = check(fleet, trials, epochs)
    per_kill_s = again_s / max(1, kills)
    return Report(kills, terms, restarts, wall_s, trials * epochs, again, again_s, per_kill_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", choices=("sqlite", "postgres"), default="postgres")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rounds = []
    for turn in range(options.rounds):
        report = run(options.storage, options.trials, options.epochs, options.seed + turn)
        Console().print(f"round {turn + 1} on {options.storage}: {asdict(report)}")
        rounds.append(asdict(report))
    about = {"workers": WORKERS, "trials": options.trials, "epochs": options.epochs}
    save(f"chaos-{options.storage}", about | {"rounds": rounds})


if __name__ == "__main__":
    main()
