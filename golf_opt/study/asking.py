"""From what a free lane is to do next to a trial of this worker's, with its job."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import optuna
from optuna.trial import TrialState

from golf_opt.config.errors import UsageError
from golf_opt.engines import provenance
from golf_opt.engines.base import Job, Work
from golf_opt.engines.python import Call
from golf_opt.storage.failures import StorageUnreachable
from golf_opt.storage.optuna_internals import (
    frozen,
    id_of_study,
    id_of_trial,
    new_trial,
    new_trial_ids,
    take_trial,
    tell,
    trial_of,
)
from golf_opt.storage.workers import ManyWorkers, SingleWorker
from golf_opt.storage.write_behind import BudgetSpent
from golf_opt.study.aims import missed
from golf_opt.study.allocation import Allocation, Choice, GoOn, New, Repeat, Trials
from golf_opt.study.build import Parts
from golf_opt.study.callbacks import StudyContext, TrialRun
from golf_opt.utils.points import further_seed
from golf_opt.utils.processes import WORKER, worker_id
from golf_opt.utils.trials import PAUSED, paused_at

MOST_AHEAD = 128  # trials that are made together
LANES_A_LOOK = 32  # for each of which one trial may be asked for from the same look at the study


class Asking:
    """Gives lanes their trials, as an allocation has it, as long as `goes_on` says so.

    Where several lanes are free (`num_free`) and all of them get new points, these are made in one
    transaction; what was made and not begun is `ahead`. Each is asked for when a lane takes it, of
    hundreds of lanes a few from one look at the study.

    `refused` says that the storage gave no trial last time, though there was something to do: it
    does not answer, or others have asked for the last ones meanwhile.
    """

    def __init__(
        self,
        context: StudyContext,
        parts: Parts,
        allocation: Allocation,
        workers: SingleWorker | ManyWorkers,
        goes_on: Callable[[], bool],
        num_free: Callable[[], int],
    ) -> None:
        self._study, self._plan, self._say = context.study, context.description, context.say
        self._parts, self._allocation = parts, allocation
        self._checkpoints, self._workers, self._goes_on = context.checkpoints, workers, goes_on
        self._most_epochs = context.limits.epochs
        self._num_free, self._num_lanes = num_free, context.engine.num_lanes
        self._alike = context.limits.epochs is None and self._plan.by_seed.most == 1
        self.ahead: deque[int] = deque()  # ids of running trials that no lane has yet
        self._new: int | None = None  # id of the trial of which nobody knew before
        self._provenance = provenance(context.engine) | self._plan.provenance
        self.refused = False
        self.times_s: list[float] = []  # for each trial: choose, ask and suggest

    @property
    def trials(self) -> Trials:
        """The study's trials as this worker knows them."""
        return self._study.get_trials(deepcopy=False)

    @property
    def others_run(self) -> bool:
        """Whether some trial runs, where none does here."""
        return any(trial.state == TrialState.RUNNING for trial in self.trials)

    @property
    def has_more(self) -> bool:
        """Whether there is something to do, as far as the storage can be asked."""
        try:
            return self._choose() is not None
        except StorageUnreachable:
            return True

    def take(self, lane: int) -> TrialRun | None:
        """Return the run of the next trial; None where there is nothing to do now.

        Trials that end before they begin, as those of nets that are too large, may be many.
        """
        begun = time.monotonic()
        while True:
            trial = self._next() if self._goes_on() else None
            if trial is None:
                return None
            if (job := self._job_of(trial)) is not None:
                break
        attributes = {WORKER: worker_id(), "seed": job.seed} | self._provenance
        if isinstance(job, Job):
            attributes["num_params"] = job.net.num_params
        is_new, self._new = id_of_trial(trial) == self._new, None
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        self.times_s.append(time.monotonic() - begun)
        return TrialRun(trial, job, lane, is_new)

    def set_until(self, run: TrialRun) -> bool:
        """Set the epoch at whose end the run's trial is looked at again.

        Return whether there is anything to train up to there: the budget may be spent.
        """
        done = len(run.history)
        run.rung = run.until = self._allocation.until(frozen(run.trial), run.job.epochs)
        if self._most_epochs is not None and done < run.until:
            study, trial = id_of_study(self._study), id_of_trial(run.trial)
            try:
                reserve = self._workers.reserve
                run.until = reserve(study, trial, done, run.until, self._most_epochs)
            except StorageUnreachable:
                run.until = done
        return run.until > done

    def is_promoted(self, run: TrialRun) -> bool:
        """Return whether a trial that rests at a rung goes on at once."""
        return self._allocation.goes_on(run.number, self.trials)

    def _choose(self) -> Choice | None:
        """Return what a free lane does; None where the budget is spent.

        Raises:
            StorageUnreachable: the database has to say that, and does not answer.
        """
        if self._most_epochs is not None:
            spent = self._workers.epochs_spent(id_of_study(self._study))
            if spent >= self._most_epochs:
                return None
        return self._allocation.choose(self.trials)

    def _next(self) -> optuna.Trial | None:
        """Return the next trial; None where there is none, or where nothing that is left is given.

        What others were faster at is not tried twice: if it is chosen again, what is known here is
        still old, and the lanes, signals and limits have their turn first.
        """
        self.refused = False
        if self.ahead:
            return self._next_ahead()
        lost: set[Choice] = set()
        try:
            while (choice := self._choose()) is not None and choice not in lost:
                if (trial := self._ask(choice)) is not None:
                    return trial
                lost.add(choice)
        except (BudgetSpent, StorageUnreachable):
            self.refused = True
            return None
        self.refused = choice is not None
        return None

    def _ask(self, choice: Choice) -> optuna.Trial | None:
        """Return the trial, a running one of this worker's; None where another was faster."""
        match choice:
            case GoOn(number):
                waiting = next(trial for trial in self.trials if trial.number == number)
                trial = take_trial(self._study, id_of_trial(waiting))
                if trial is None:
                    self._workers.refresh(id_of_study(self._study))  # what is known here is old
                elif paused_at(waiting) is not None:
                    trial.storage.set_trial_system_attr(id_of_trial(trial), PAUSED, None)
                return trial
            case Repeat(point, index):
                return self._further_seed(point, index)
            case New():
                count = min(self._num_free(), MOST_AHEAD) if self._alike else 1
                self.ahead.extend(new_trial_ids(self._study, max(1, count)))
                return self._next_ahead()

    def _next_ahead(self) -> optuna.Trial:
        """Return the next trial of those made ahead, its point asked for."""
        sampler = self._parts.sampler
        if not sampler.to_come:
            sampler.expect(min(len(self.ahead), max(1, self._num_lanes // LANES_A_LOOK)))
        self._new = self.ahead.popleft()
        return trial_of(self._study, self._new)

    def _further_seed(self, point: int, index: int) -> optuna.Trial | None:
        first = next(trial for trial in self.trials if trial.number == point)
        try:
            return new_trial(self._study, further_seed(first, index))
        except BudgetSpent:  # another worker has begun it meanwhile
            self._workers.refresh(id_of_study(self._study))
            return None

    def _job_of(self, trial: optuna.Trial) -> Work | None:
        """Return what a trial tries; one that was stored as what cannot be run fails: None."""
        seed = self._plan.by_seed.of(trial)
        try:
            values = self._parts.space.values(trial)
            if self._plan.objective is None:
                job = self._plan.job_of(values, seed)
                return None if self._is_too_large(trial, job) else job
            folder = self._checkpoints.folder / str(trial.number)
            return Call(values, seed, self._plan.epochs, trial.number, folder)
        except UsageError as error:
            trial.set_user_attr("fail_reason", str(error))
            tell(self._study, trial, None, TrialState.FAIL)
            self._say(f"trial {trial.number} failed: {error}")
            return None

    def _is_too_large(self, trial: optuna.Trial, job: Job) -> bool:
        """End a trial whose net has too many parameters, untrained; the sampler learns of it."""
        excess = missed(self._plan, job, None)
        if not any(value > 0 for value in excess.values()):
            return False
        trial.set_user_attr("num_params", job.net.num_params)
        for name, value in excess.items():
            trial.set_constraint(name, value)
        tell(self._study, trial, None, TrialState.PRUNED)
        return True
