"""A whole study by the command that a user types, and where its time goes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import optuna

from golf_opt.study.callbacks import Callback

ROOT = Path(__file__).parents[1]
SAMPLER = (
    "before_trial", "infer_relative_search_space", "sample_relative", "sample_independent",
    "after_trial",
)  # fmt: skip
ENGINE = ("start", "step", "state", "stop")
LAST_WORDS_S = 20.0  # for a study that is told to stop


class Stopwatch(Callback):
    """Writes what the thread of the study's loop spends its seconds in to `path`.

    The parts are engine (waiting for it), sampler, pruner, storage, and the loop's own. A part that
    another one calls counts by itself: what the sampler reads is the storage's time.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._inside = ["loop"]

    def on_study_start(self) -> None:
        study, engine = self.context.study, self.context.engine
        storage = study._storage
        calls = [
            name for name in dir(storage) if name[0] != "_" and callable(getattr(storage, name))
        ]
        self._thread = threading.get_ident()
        self._time(engine, "engine", ENGINE)
        self._time(study.sampler, "sampler", SAMPLER)
        self._time(study.pruner, "pruner", ["prune"])
        self._time(storage, "storage", calls)
        self._since = time.perf_counter()

    def on_study_end(self) -> None:
        self._turn()
        told = {"lanes": self.context.engine.num_lanes, "parts_s": self._parts}
        self._path.write_text(json.dumps(told))

    def _turn(self) -> None:
        """Give the time since the last turn to the part that the thread is in."""
        now = time.perf_counter()
        self._parts[self._inside[-1]] += now - self._since
        self._since = now

    def _time(self, owner: Any, part: str, names: Iterable[str]) -> None:
        for name in names:
            setattr(owner, name, self._timed(getattr(owner, name), part))

    def _timed(self, call: Any, part: str) -> Any:
        @wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return call(*args, **kwargs)
            self._turn()
            self._inside.append(part)
            try:
                return call(*args, **kwargs)
            finally:
                self._turn()
                self._inside.pop()

        return timed


def run_study(
    arch: str, root: Path, engine: str, trials: int, epochs: int, limit_s: float
) -> dict[str, Any]:
    """Run a study with TPE, median pruning and SQLite; stop it after `limit_s` seconds.

    Returns seconds (of the command, of its loop, and shares of the loop's by part), trials by
    state, and two shares of the lanes' time in the loop: `lanes_busy`, in which they held a trial,
    and `lanes_training`, which trials recorded as training and evaluation.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [
            *(sys.executable, "-m", "golf_opt", "study", f"arch={arch}", f"engine={engine}"),
            *(f"trials={trials}", f"epochs={epochs}", "sampler=tpe", "pruner=median"),
            *("data=mnist", f"data.root={root}", "storage=sqlite", f"dir={folder}", "--quiet"),
            "+callbacks.stopwatch._target_=bench.gpu_study.Stopwatch",
            f"+callbacks.stopwatch.path={folder}/stopwatch.json",
        ]
        started = time.perf_counter()
        cut_short = not finished(command, folder / "log", limit_s)
        wall_s = time.perf_counter() - started
        told = json.loads((folder / "stopwatch.json").read_text())
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url = f"sqlite:///{next(folder.glob('*.db'))}"
        study = optuna.load_study(study_name=None, storage=url)
        return {"wall_s": wall_s, "cut_short": cut_short} | analysed(study.trials, epochs, told)


def finished(command: list[str], log: Path, limit_s: float) -> bool:
    """Run a command; tell it to stop when its time is over. Return whether it came to its end."""
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(LAST_WORDS_S)
            finally:
                process.kill()
            return False
    if status:
        raise RuntimeError(f"the study ended with {status}: {log.read_text().strip()[-300:]}")
    return True


def analysed(
    trials: list[optuna.trial.FrozenTrial], epochs: int, told: dict[str, Any]
) -> dict[str, Any]:
    """Return what trials and stopwatch tell; see `run_study`."""
    ended = [trial for trial in trials if trial.datetime_start and trial.datetime_complete]
    spans = [(trial.datetime_complete - trial.datetime_start).total_seconds() for trial in ended]
    begun = min(trial.datetime_start for trial in ended)
    span_s = (max(trial.datetime_complete for trial in ended) - begun).total_seconds()
    trained = sum(len(trial.intermediate_values) for trial in ended)
    lane_s, loop_s = told["lanes"] * span_s, sum(told["parts_s"].values())
    states = [trial.state.name.lower() for trial in trials]
    return {
        "loop_s": loop_s,
        "lanes": told["lanes"],
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "epoch_trials": trained,
        "epoch_trials_per_s": trained / span_s,
        "share_of_epochs_trained": trained / (len(ended) * epochs),
        "lanes_busy": sum(spans) / lane_s,
        "lanes_training": sum(trial.user_attrs["time_s"] for trial in ended) / lane_s,
        **{f"share_{part}": value / loop_s for part, value in told["parts_s"].items()},
        "best": max((trial.value for trial in ended if trial.value is not None), default=None),
    }
