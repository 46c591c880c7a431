"""The study loop: ask -> lane -> step -> report and prune -> tell. It alone steers Optuna."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import optuna
from optuna.trial import TrialState

from golf_opt.config.errors import UsageError
from golf_opt.engines.base import EpochResult, Slice
from golf_opt.engines.lanes import Lanes
from golf_opt.storage.failures import StorageUnreachable
from golf_opt.storage.optuna_internals import (
    id_of_study,
    id_of_trial,
    report,
    reported,
    storage_of,
    tell,
)
from golf_opt.storage.workers import coordination, pause, requeue
from golf_opt.study.aims import missed, values_of
from golf_opt.study.asking import Asking
from golf_opt.study.build import Parts, allocation
from golf_opt.study.callbacks import StudyContext, TrialRun
from golf_opt.utils.signals import Stop, stop_on_signals

IDLE_S = 0.2  # between two looks at trials that other workers run
WAITING_FRACTION, WAITING_S = 0.1, 10.0  # of lane time spent without a trial: worth a word
MOST_FAILURES = 3  # trials in a row in which an objective may fail
WORKERS_S = 1.0  # between two looks at the workers themselves


class StudyLoop:
    """Keeps every lane of the engine full until the study has its total of finished trials."""

    def __init__(self, context: StudyContext, parts: Parts) -> None:
        self._study, self._plan, self._say = context.study, context.description, context.say
        self._parts, self._checkpoints = parts, context.checkpoints
        self._study.sampler, self._study.pruner = parts.sampler, parts.pruner
        self._workers = coordination(storage_of(context.study))
        space = {name: dimension.distribution for name, dimension in parts.space.tuned.items()}
        self._workers.set_plan(id_of_study(context.study), self._plan.trials, space)
        self._lanes: Lanes[TrialRun] = Lanes(context.engine)
        self._finished: list[TrialRun] = []  # in the storage, but callbacks do not know yet
        self._looked_at_workers = -1e9  # when other workers were last looked after
        self._reachable = True
        self._failed_in_a_row = 0
        self._limits = context.limits
        self._stop = Stop()
        rules = allocation(self._plan, parts.pruner)
        free = self._lanes.num_free
        self._asking = Asking(context, parts, rules, self._workers, self._goes_on, free)
        for callback in parts.callbacks:
            callback.context = context

    def run(self) -> int | None:
        """Run until the total is reached; return the signal that ended it earlier, or None."""
        with stop_on_signals() as self._stop:
            self._look_after_workers()
            self._call("on_study_start")
            try:
                while self._stop.signal is None and not self._is_over() and self._fill():
                    self._announce_finished()  # only now that the lanes are full again
                    for run, done in self._step():
                        self._advance(run, done)
                    self._look_after_workers()
                self._say_if_lanes_waited()
                if self._stop.signal is None:
                    with contextlib.suppress(StorageUnreachable):  # the end of a study waits for it
                        self._workers.flush(lambda: self._stop.signal is not None)
            finally:
                self._requeue_all()
                self._announce_finished()
                self._call("on_study_end")
        return self._stop.signal

    def _goes_on(self) -> bool:
        """Return whether there is neither a signal nor the end of the time."""
        over = self._limits.why_over(self._study, news=False)
        return self._stop.signal is None and over is None

    def _is_over(self) -> bool:
        """Return whether the run's limits end it, and say so."""
        why = self._limits.why_over(self._study, news=bool(self._finished))
        if why is not None:
            self._say(f"the study stops here: {why}; trials under way wait to go on")
        return why is not None

    def _fill(self) -> bool:
        """Give every free lane a trial; return whether a trial runs, here or elsewhere."""
        placed = True
        while placed:
            placed = False
            for _, run in self._lanes.fill(self._take):
                placed = True
                if len(run.history) == run.job.epochs:  # its worker died before it could `tell`
                    self._report(run)
                elif len(run.history) >= run.until:  # others took the rest of the budget
                    self._look_again(run)
        if self._lanes.busy or not self._goes_on():
            return True
        return self._workers.shared and self._more_may_come()

    def _more_may_come(self) -> bool:
        """Return whether other workers may leave something to do here."""
        if self._asking.refused or self._asking.others_run:
            return True
        self._workers.refresh(id_of_study(self._study))  # before this worker says that it is over
        return self._asking.others_run or self._asking.has_more

    def _step(self) -> list[tuple[TrialRun, Slice]]:
        """Let the lanes work; where none has a trial, wait for those of other workers."""
        if self._lanes.busy:
            return self._lanes.step()
        time.sleep(IDLE_S)
        return []

    def _look_after_workers(self) -> None:
        """Requeue trials of dead workers, and leave those that were taken from this one."""
        if time.monotonic() - self._looked_at_workers < WORKERS_S:
            return
        self._looked_at_workers = time.monotonic()
        with contextlib.suppress(StorageUnreachable):
            for number, state in self._workers.requeue_dead(id_of_study(self._study)):
                what = "failed" if state == TrialState.FAIL else "waits to go on"
                self._say(f"trial {number} was left by a worker that died; it {what}")
        lost = self._workers.lost_trials()
        for lane, run in self._lanes.busy:
            if id_of_trial(run.trial) in lost:
                self._lanes.leave(lane)
                self._say(f"trial {run.number} was taken over by another worker")
        if self._reachable != self._workers.reachable:
            self._reachable = not self._reachable
            self._say(
                "storage answers again; what was kept is written"
                if self._reachable
                else "storage does not answer; trials go on and what they report is kept"
            )

    def _take(self, lane: int) -> TrialRun | None:
        """Begin what the lane does next; None where it has nothing to do now."""
        run = self._asking.take(lane)
        if run is not None:
            self._call("on_trial_start", run)
            for result in run.history:  # of a worker that died between checkpoint and report
                self._report_values(run, result)
            self._asking.set_until(run)
        return run

    def _advance(self, run: TrialRun, done: Slice) -> None:
        """Handle what one lane did: report its epoch, and end its trial if it is over."""
        self._call("on_slice", run, done)
        run.epochs_done = done.epoch - 1 + done.progress
        if done.error is not None:
            run.trial.set_user_attr("fail_reason", done.error)
            self._finish(run, TrialState.FAIL)
            self._say_if_failing(done.error)
        elif done.result is not None:
            run.history.append(done.result)
            self._report(run)

    def _report(self, run: TrialRun) -> None:
        result = run.history[-1]
        self._report_values(run, result)
        try:
            self._call("on_epoch_end", run)
        except optuna.TrialPruned:
            self._finish(run, TrialState.PRUNED)
        else:
            if result.epoch == run.job.epochs:
                self._finish(run, TrialState.COMPLETE)
            elif result.epoch >= run.until:
                self._look_again(run)

    def _look_again(self, run: TrialRun) -> None:
        """Let a trial that rests go on, or free its lane: it is paused, or the budget spent."""
        promoted = len(run.history) < run.rung or self._asking.is_promoted(run)
        if promoted and self._asking.set_until(run):
            self._lanes.engine.extend(run.lane, run.until)
            return
        self._note_so_far(run)
        self._call("on_interrupt" if promoted else "on_pause", run)
        self._lanes.leave(run.lane)
        with contextlib.suppress(StorageUnreachable):  # it is written when the storage answers
            if promoted:
                requeue(self._study, id_of_trial(run.trial))
            else:
                pause(self._study, id_of_trial(run.trial), len(run.history))

    def _report_values(self, run: TrialRun, result: EpochResult) -> None:
        """Report an epoch, unless it was reported before the trial was resumed."""
        if result.epoch not in reported(run.trial):
            report(run.trial, result.values[0], result.epoch)
            if len(result.values) > 1:  # of which Optuna keeps no more than that
                names = [goal.name for goal in self._plan.goals]
                rows = zip(*(epoch.values for epoch in run.history), strict=True)
                kept = {name: list(row) for name, row in zip(names, rows, strict=True)}
                run.trial.set_user_attr("epoch_values", kept)

    def _finish(self, run: TrialRun, state: TrialState) -> None:
        """Store what a trial came to besides its reported values, end it, free its lane."""
        self._note_so_far(run)
        values = None
        if state == TrialState.COMPLETE:
            values = values_of(self._plan, run.job, run.history[-1])
            if self._plan.objective is None:
                run.trial.set_user_attr("train_accuracy", run.history[-1].train_accuracy)
        if run.history and state != TrialState.FAIL:
            for name, value in missed(self._plan, run.job, run.history[-1]).items():
                run.trial.set_constraint(name, value)  # is met at or below zero
        self._call("on_trial_end", run, state)
        tell(self._study, run.trial, values, state)
        self._lanes.leave(run.lane)
        self._finished.append(run)
        failed = state == TrialState.FAIL
        self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0

    def _note_so_far(self, run: TrialRun) -> None:
        """Store what the trial's epochs came to besides their values."""
        if self._plan.objective is None:
            run.trial.set_user_attr("epoch_losses", [result.loss for result in run.history])
        time_s = round(sum(result.time_s for result in run.history), 3)
        run.trial.set_user_attr("time_s", time_s)

    def _say_if_failing(self, why: str) -> None:
        """End a study whose objective does nothing but fail; what it was to try is not spent.

        Raises:
            UsageError: it is so.
        """
        if self._plan.objective is not None and self._failed_in_a_row >= MOST_FAILURES:
            raise UsageError(
                f"{self._failed_in_a_row} trials in a row failed, the last with: {why}. The study "
                "stops; mend the objective and give the same command again."
            )

    def _announce_finished(self) -> None:
        for run in self._finished:
            self._call("on_trial_finished", run)
        self._finished.clear()

    def _say_if_lanes_waited(self) -> None:
        """Say so where asking for trials, not training them, took the time."""
        fraction, seconds = self._lanes.waiting
        if fraction > WAITING_FRACTION and seconds > WAITING_S:
            each_ms = 1e3 * sum(self._asking.times_s) / len(self._asking.times_s)
            self._say(
                f"note: lanes stood idle {fraction:.0%} of the time, since asking for a trial took "
                f"{each_ms:.0f} ms; sampler=random and sampler=qmc ask for next to nothing, and "
                "fewer engine.lanes wait less"
            )

    def _requeue_all(self) -> None:
        """Return the trials in flight to the queue; the next run goes on with them."""
        for lane, run in self._lanes.busy:
            self._call("on_interrupt", run)
            self._lanes.leave(lane)
            self._requeue(id_of_trial(run.trial))
        for trial_id in self._asking.ahead:
            self._requeue(trial_id)

    def _requeue(self, trial_id: int) -> None:
        with contextlib.suppress(StorageUnreachable):  # `close` tries once more
            requeue(self._study, trial_id)

    def _call(self, event: str, *args: Any) -> None:
        for callback in self._parts.callbacks:
            getattr(callback, event)(*args)
