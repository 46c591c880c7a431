"""Trials also go where users keep theirs: written by a thread, behind the study's loop.

What trials report goes into a queue and is written from there, so that no lane waits for a disk or
a server. What is not written by the end of the study is waited for. An error of the other program
costs one line, and the study goes on without it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from optuna.trial import TrialState

from golf_opt.config.errors import UsageError
from golf_opt.engines.base import EpochResult
from golf_opt.storage.studies import STUDY_ID, marks
from golf_opt.study.callbacks import Callback, TrialRun
from golf_opt.task.goals import Goal
from golf_opt.utils.text import one_line

MOST_WAITING = 20_000  # entries of the queue; epochs have half of it, what begins and ends the rest
FLUSH_S = 60.0  # how long the end of a study waits for what is not written
INTERRUPTED = "waiting"  # the state of a trial that goes on later

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Tracked:
    """A trial that was in a lane: what it tries and, of each epoch, what it measured."""

    number: int
    params: Mapping[str, Any]  # the whole recipe
    facts: Mapping[str, Any]  # study, seed, engine and the like, as plain values
    epochs: Mapping[int, Metrics]  # so far
    state: str = "running"  # or complete, pruned, fail, waiting
    value: float | None = None  # the objective, of a complete trial; of several there is none


class Writer(Protocol):
    """Writes trials somewhere; one thread calls it."""

    def begin(self, trial: Tracked) -> None:
        """A trial begins, or goes on with `trial.epochs` behind it."""

    def epoch(self, number: int, epoch: int, metrics: Metrics) -> None:
        """A trial ended an epoch."""

    def end(self, trial: Tracked) -> None:
        """A trial is over, or waits to go on elsewhere. All its epochs were told."""

    def close(self) -> None:
        """No trial is in a lane any more."""


class Tracker(Callback):
    """A callback that hands trials to a `Writer` in a thread."""

    name: ClassVar[str]  # as in callbacks=NAME
    package: ClassVar[str]  # what has to be installed

    def __init__(self) -> None:
        if importlib.util.find_spec(self.package) is None:
            raise UsageError(
                f"callbacks={self.name} needs the package {self.package}, which is not installed: "
                f"pip install 'golf-opt[{self.name}]'"
            )
        self._queue: queue.Queue[tuple[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._fault: str | None = None  # what ended the writing, not told yet
        self._lost = 0  # entries for which there was no room

    def writer(self, study: str, study_id: str) -> Writer:
        """Return what writes; called in the thread.

        Args:
            study: its name.
            study_id: 32 hex digits, which no other study has.
        """
        raise NotImplementedError

    # --- in the loop's thread

    def on_study_start(self) -> None:
        study = self.context.study
        self._named = study.study_name, str(marks(study).get(STUDY_ID))
        self._thread.start()

    def on_trial_start(self, run: TrialRun) -> None:
        self._put("begin", self._tracked(run))

    def on_epoch_end(self, run: TrialRun) -> None:
        result = run.history[-1]
        if self._queue.qsize() < MOST_WAITING / 2:  # the trial's end tells all its epochs again
            self._put(
                "epoch",
                (run.number, result.epoch, metrics_of(result, self.context.description.goals)),
            )
        self._tell_fault()

    def on_trial_end(self, run: TrialRun, state: TrialState) -> None:
        values = run.history[-1].values if state == TrialState.COMPLETE else ()
        value = values[0] if len(values) == 1 else None
        self._put("end", self._tracked(run, state.name.lower(), value))

    def on_interrupt(self, run: TrialRun) -> None:
        self._put("end", self._tracked(run, INTERRUPTED))

    def on_study_end(self) -> None:
        if self._thread.is_alive():
            until = time.monotonic() + FLUSH_S
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=FLUSH_S)
            self._thread.join(max(0.0, until - time.monotonic()))
        self._tell_fault()
        if self._thread.is_alive():
            self._lost += self._queue.qsize()
        if self._lost:
            self.context.say(f"{self.name} was too slow: {self._lost:,} entries are not written")

    def _tracked(
        self, run: TrialRun, state: str = "running", value: float | None = None
    ) -> Tracked:
        noted = run.trial.user_attrs | {"study": self.context.study.study_name}
        return Tracked(
            run.number,
            run.job.parameters,
            {key: noted[key] for key in sorted(noted) if isinstance(noted[key], (str, int))},
            {
                result.epoch: metrics_of(result, self.context.description.goals)
                for result in run.history
            },
            state,
            value,
        )

    def _put(self, event: str, content: object) -> None:
        try:
            self._queue.put_nowait((event, content))
        except queue.Full:
            self._lost += 1

    def _tell_fault(self) -> None:
        if self._fault:
            self.context.say(f"{self.name} cannot be written, the study goes on: {self._fault}")
            self._fault = ""  # it is told once

    # --- in the thread

    def _work(self) -> None:
        try:
            self._write()
        except BaseException as error:  # whatever another program raises, SystemExit too
            self._fault = one_line(f"{type(error).__name__}: {error}", 300)
            while self._queue.get() is not None:
                pass

    def _write(self) -> None:
        writer = self.writer(*self._named)
        told: dict[int, set[int]] = {}
        while (entry := self._queue.get()) is not None:
            event, content = entry
            if event == "begin":
                told[content.number] = set(content.epochs)
                writer.begin(content)
            elif event == "epoch":
                told[content[0]].add(content[1])
                writer.epoch(*content)
            else:
                known = told.pop(content.number)
                for epoch, metrics in content.epochs.items():
                    if epoch not in known:
                        writer.epoch(content.number, epoch, metrics)
                writer.end(content)
        writer.close()


def metrics_of(result: EpochResult, goals: Sequence[Goal]) -> dict[str, float]:
    """Return what an epoch measured, by name."""
    if not goals[0].accuracy:  # an objective of the user's own
        names = (goal.name for goal in goals)
        return {"time_s": result.time_s} | dict(zip(names, result.values, strict=True))
    return {
        name: float(value)
        for name, value in asdict(result).items()
        if isinstance(value, (int, float)) and name != "epoch"
    }
