"""Hundreds of lanes without a GPU: the study loop with an engine that only sleeps.

    python -m bench.sleeping [--lanes 528] [--trials 5000] [--epoch-ms 500] [--storage sqlite]
                             [--output DIR] [--profile FILE]

Loop, sampler (TPE), pruner, storage and callbacks are the real ones, in one process; an epoch of a
trial is a time in which its lane needs no processor. What is left of the lanes' time is what all
that costs. `lanes_training` is the share of it in which trials were in an epoch, `steady` the same
from when every lane had a trial until the last trial began. `--storage postgres` takes
$GOLF_STORAGE_URL.
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import json
import math
import statistics
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from bench.gpu_study import analysed
from bench.report import machine, save
from golf_opt.cli.compose import compose
from golf_opt.config import schema
from golf_opt.config.check import load
from golf_opt.engines.base import EpochResult, Job, LaneState, Slice, initial_weights
from golf_opt.study import run as study_run


@dataclass
class Sleep:
    """A lane that is in an epoch until `due`."""

    job: Job
    epoch: int
    until: int
    due: float
    returned: float  # when the slice before was taken: a lane is ahead by one


class SleepingEngine:
    """An engine whose epochs take a time, and nothing else. Its accuracies are made up."""

    name, device = "sleeping", "none"

    def __init__(self, lanes: int, epoch_s: float) -> None:
        self.num_lanes, self._epoch_s = lanes, epoch_s
        self._lanes: dict[int, Sleep] = {}
        self._due: list[tuple[float, int, int]] = []  # when, lane, which of its trials
        self._turn: dict[int, int] = {}
        self._tensors: dict[str, Any] = {}

    def start(
        self, lane: int, job: Job, state: LaneState | None = None, until: int | None = None
    ) -> None:
        now = time.monotonic()
        done = state.epoch if state else 0
        self._lanes[lane] = Sleep(job, done, until or job.epochs, now, now)
        self._turn[lane] = self._turn.get(lane, 0) + 1
        self._sleep(lane, now)

    def extend(self, lane: int, until: int) -> None:
        self._lanes[lane].until = until
        self._sleep(lane, time.monotonic())

    def _sleep(self, lane: int, begin: float) -> None:
        sleep = self._lanes[lane]
        if sleep.epoch < sleep.until:
            sleep.due = begin + self._epoch_s
            heapq.heappush(self._due, (sleep.due, lane, self._turn[lane]))

    def step(self) -> list[Slice]:
        """Return the epochs that are over; wait for the first if none is."""
        slices: list[Slice] = []
        while self._due and not slices:
            time.sleep(min(0.5, max(0.0, self._due[0][0] - time.monotonic())))
            now = time.monotonic()
            over = []
            while self._due and self._due[0][0] <= now:
                over.append(heapq.heappop(self._due))
            for due, lane, turn in over:
                if lane in self._lanes and turn == self._turn[lane]:
                    slices.append(self._end_epoch(lane, due, now))
        return slices

    def _end_epoch(self, lane: int, due: float, now: float) -> Slice:
        sleep = self._lanes[lane]
        sleep.epoch += 1
        result = made_up(sleep.job, sleep.epoch, self._epoch_s)
        self._sleep(lane, max(due, sleep.returned))
        sleep.returned = now
        return Slice(lane, sleep.epoch, 1.0, result)

    def state(self, lane: int) -> LaneState:
        sleep = self._lanes[lane]
        if not self._tensors:
            weights = initial_weights(sleep.job.net, 0)
            kinds = ("weights", "exp_avg", "exp_avg_sq")
            self._tensors = {
                name.replace("weights", kind): v for name, v in weights.items() for kind in kinds
            }
        return LaneState(self._tensors, sleep.epoch, 0, 0.0, 0.0)

    def stop(self, lane: int) -> None:
        del self._lanes[lane]

    def evaluate(self, *given: Any) -> float:
        return 0.0

    def close(self) -> None:
        pass


def made_up(job: Job, epoch: int, epoch_s: float) -> EpochResult:
    """Return an epoch whose accuracy depends on the recipe, with the noise of a seed."""
    noise = (zlib.crc32(f"{job.seed} {epoch}".encode()) % 1000) / 1000 - 0.5
    off = math.log10(job.candidate.lr / 8e-4)
    accuracy = 0.98 - 0.02 * off**2 - 0.1 * math.exp(-epoch / 2) + 0.004 * noise
    accuracy = min(0.999, max(0.1, accuracy))
    last = accuracy if epoch == job.epochs else None
    return EpochResult(epoch, 1 - accuracy, accuracy, job.candidate.lr, epoch_s, last)


def steady(trials: Sequence[optuna.trial.FrozenTrial], lanes: int) -> dict[str, float]:
    """Return the share of training from the first full house to the last beginning, and how long.

    A trial's training is taken as even over the time that it was in its lane.
    """
    ended = [trial for trial in trials if trial.datetime_start and trial.datetime_complete]
    begins = sorted(trial.datetime_start.timestamp() for trial in ended if trial.datetime_start)
    if len(begins) <= lanes:
        return {}
    since, to, training = begins[lanes - 1], begins[-1], 0.0
    for trial in ended:
        assert trial.datetime_start and trial.datetime_complete
        begin, end = trial.datetime_start.timestamp(), trial.datetime_complete.timestamp()
        inside = max(0.0, min(end, to) - max(begin, since))
        training += trial.user_attrs["time_s"] * inside / max(end - begin, 1e-9)
    return {"steady": training / (lanes * (to - since)), "steady_s": to - since}


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the study in a folder; return what it took."""
    watch = folder / "stopwatch.json"
    overrides = [
        "data=digits", "arch=c4-5-4", f"trials={options.trials}", f"epochs={options.epochs}",
        f"storage={options.storage}", f"dir={folder}", "study.name=sleeping",
        "callbacks.progress.mode=quiet",
        "+callbacks.stopwatch._target_=bench.gpu_study.Stopwatch",
        f"+callbacks.stopwatch.path={watch}",
    ]  # fmt: skip
    config = load(schema.StudyConfig, compose("study", overrides))
    engine = SleepingEngine(options.lanes, options.epoch_ms / 1000)
    study_run.engine_for = lambda *given: engine  # type: ignore[assignment]
    begun, cpu_begun = time.perf_counter(), time.process_time()
    profile = cProfile.Profile(time.thread_time)
    if options.profile:
        profile.enable()
    study_run.run_study(config, "bench.sleeping", print)
    profile.disable()
    wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu_begun
    if options.profile:
        profile.dump_stats(options.profile)
    with study_run.opened_storage(config.storage) as storage:
        trials = optuna.load_study(study_name="sleeping", storage=storage).trials
    told = analysed(trials, options.epochs, json.loads(watch.read_text()))
    asked = statistics.mean(len(trial.intermediate_values) for trial in trials)
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        **told,
        **steady(trials, options.lanes),
        "epochs_a_trial": asked,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lanes", type=int, default=528)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--epoch-ms", type=float, default=500.0)
    parser.add_argument("--storage", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--output", type=Path, metavar="DIR")
    parser.add_argument("--profile", type=Path, metavar="FILE")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        found = run(options, Path(name))
    for key, value in found.items():
        print(f"{key} {value}")
    if options.output:
        asked = {"epoch_ms": options.epoch_ms, "storage": options.storage}
        save(
            f"sleeping-{options.storage}", {"machine": machine(), **asked, **found}, options.output
        )


if __name__ == "__main__":
    main()
