"""What happens around a trial: a short list of callbacks, composed in `conf/callbacks`.

They run in the order of the configuration, in the thread of the study loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.pruners import NopPruner
from optuna.trial import TrialState

from golf_opt.engines.base import Engine, EpochResult, LaneState, Slice, Work
from golf_opt.storage import checkpoint
from golf_opt.storage.objective_files import ObjectiveFiles
from golf_opt.storage.optuna_internals import frozen
from golf_opt.study.description import StudyDescription
from golf_opt.study.note import write_note
from golf_opt.study.stopping import Limits
from golf_opt.task.data import View
from golf_opt.utils.pace import Pace
from golf_opt.utils.points import is_further_seed

NOTE_EVERY_S = 3.0
Say = Callable[[str], None]  # prints a line to the user


@dataclass
class TrialRun:
    """A trial on its way through a lane."""

    trial: optuna.Trial
    job: Work
    lane: int
    is_new: bool = False  # nobody has begun it before
    resume: LaneState | None = None  # where the lane begins, if not at the start
    until: int = 0  # the epoch at whose end to look at it again; set before it starts
    rung: int = 0  # likewise, were there no budget
    history: list[EpochResult] = field(default_factory=list)
    epochs_done: float = 0.0  # fractions included

    @property
    def number(self) -> int:
        return self.trial.number


class Checkpoints(Protocol):
    """Where the trials of a study stand."""

    every_slice: bool  # whether to save that often
    folder: Path

    def save(self, trial: optuna.Trial, job: Any, checkpoint: checkpoint.Checkpoint) -> None: ...

    def load(self, number: int, job: Any = None) -> checkpoint.Checkpoint: ...

    def delete(self, number: int) -> None: ...


@dataclass(frozen=True)
class StudyContext:
    """What callbacks may know of the study they serve."""

    study: optuna.Study
    engine: Engine[Any]
    folder: Path  # checkpoints/ is in it
    description: StudyDescription  # net, space, data, protocol, epochs, trials, command
    view: View | None  # of the data; None: an objective that asks for none
    say: Say
    limits: Limits = field(default_factory=Limits)  # of the run

    @cached_property
    def checkpoints(self) -> Checkpoints:
        kept = checkpoint.open_checkpoints(self.study, self.folder)
        return kept if self.description.objective is None else ObjectiveFiles(kept.folder)


class Callback:
    """What you can hang into the study loop. Override what you need.

    `context` is set before anything is called. Arguments come from the configuration. For example,
    this ends every trial that is good enough, in `my_module.py`::

        import optuna

        from golf_opt.study.callbacks import Callback, TrialRun

        class StopWhenGood(Callback):
            def __init__(self, accuracy: float) -> None:
                self.accuracy = accuracy  # in [0, 1]

            def on_epoch_end(self, run: TrialRun) -> None:
                if run.history[-1].accuracy >= self.accuracy:
                    raise optuna.TrialPruned

    and runs with `golf-opt study +callbacks.good._target_=my_module.StopWhenGood
    +callbacks.good.accuracy=0.9`.
    """

    context: StudyContext

    def on_study_start(self) -> None:
        """The study is open; no trial has started."""

    def on_trial_start(self, run: TrialRun) -> None:
        """The trial has its candidate; set `run.resume` to begin elsewhere than at the start."""

    def on_slice(self, run: TrialRun, done: Slice) -> None:
        """A slice of an epoch, or all of it, was trained."""

    def on_epoch_end(self, run: TrialRun) -> None:
        """`run.history[-1]` is new and reported. Raise `optuna.TrialPruned` to end the trial."""

    def on_trial_end(self, run: TrialRun, state: TrialState) -> None:
        """The trial is about to become complete, pruned or failed; attributes can still be set."""

    def on_trial_finished(self, run: TrialRun) -> None:
        """The trial is finished in the storage, and its lane may hold another one already."""

    def on_interrupt(self, run: TrialRun) -> None:
        """The study stops before this trial's end; the trial goes back to the queue."""

    def on_pause(self, run: TrialRun) -> None:
        """The trial waits from here on until it is promoted, and its lane is given away."""
        self.on_interrupt(run)

    def on_study_end(self) -> None:
        """The loop is over, for whatever reason."""


class Pruning(Callback):
    """Ends a trial when the study's pruner says so; not after its last epoch."""

    def on_epoch_end(self, run: TrialRun) -> None:
        if isinstance(self.context.study.pruner, NopPruner):
            return  # asking it reads the trial from the storage all the same
        if is_further_seed(frozen(run.trial)):  # Optuna copies attributes of the other
            return  # or the mean would be of the seeds that did well
        if len(run.history) < run.job.epochs and run.trial.should_prune():
            raise optuna.TrialPruned


class Checkpointing(Callback):
    """Saves every epoch, and where an interrupted trial stands; goes on from there.

    Where it costs next to nothing, in the database, it saves every slice. The checkpoint of a
    complete trial stays, as the net that was evaluated: its weights are what one golfs with.
    """

    def on_trial_start(self, run: TrialRun) -> None:
        if run.is_new:
            return
        with contextlib.suppress(FileNotFoundError):
            try:
                saved = self.context.checkpoints.load(run.number, run.job)
            except checkpoint.DamagedCheckpoint as damage:
                run.trial.set_user_attr("checkpoint_damaged", str(damage))
                why = " ".join(str(damage).split()).removesuffix(".")
                self.context.say(
                    f"trial {run.number} starts anew, since its checkpoint is damaged: {why}"
                )
                return
            run.resume = saved.state
            run.history = list(saved.history)
            run.epochs_done = saved.state.epoch

    def on_slice(self, run: TrialRun, done: Slice) -> None:
        if self.context.checkpoints.every_slice and done.result is None and done.error is None:
            self._save(run)

    def on_epoch_end(self, run: TrialRun) -> None:
        self._save(run)

    def on_interrupt(self, run: TrialRun) -> None:
        self._save(run)

    def on_trial_end(self, run: TrialRun, state: TrialState) -> None:
        if state == TrialState.COMPLETE:
            self._save(run, net_alone=True)
        else:
            self.context.checkpoints.delete(run.number)

    def _save(self, run: TrialRun, net_alone: bool = False) -> None:
        state = self.context.engine.state(run.lane)
        state = replace(state, tensors=state.net) if net_alone else state
        saved = checkpoint.Checkpoint(state, tuple(run.history), self.context.engine.name)
        self.context.checkpoints.save(run.trial, run.job, saved)


class StudyNote(Callback):
    """Keeps the study's Markdown note on the dashboard current."""

    def __init__(self) -> None:
        self._pace = Pace(NOTE_EVERY_S)

    def on_study_start(self) -> None:
        self._write()

    def on_trial_finished(self, run: TrialRun) -> None:
        if self._pace.is_due:
            self._write()

    def on_study_end(self) -> None:
        self._write()

    def _write(self) -> None:
        with self._pace:
            write_note(self.context.study, self.context.description)
