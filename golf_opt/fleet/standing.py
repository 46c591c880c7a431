"""How a study stands, as its database has it: whether it is over, how fast it goes, who is idle."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from golf_opt.config.errors import UsageError
from golf_opt.storage.optuna_internals import id_of_study, storage_of
from golf_opt.storage.studies import num_finished
from golf_opt.storage.workers import coordination, is_held
from golf_opt.study.build import allocation, build_parts, check_targets
from golf_opt.study.description import description_of
from golf_opt.study.stopping import limits_of

WINDOW_S = 60.0  # over which speed and idleness are taken


@dataclass(frozen=True)
class Moment:
    """A study at a moment."""

    time: float  # by this process's monotonic clock, in seconds
    finished: int  # points that are complete, pruned or failed
    epochs: int  # that trials reported in all
    busy: int  # workers that have a trial
    over: bool  # whether there is nothing left to do, now


class Standing:
    """Looks at a study again and again.

    Args:
        study: of golf-opt, in a storage that workers share.

    Raises:
        UsageError: only one worker can use its storage.
    """

    def __init__(self, study: optuna.Study) -> None:
        workers = coordination(storage_of(study))
        if not workers.shared:
            raise UsageError(
                f"study {study.study_name!r} is in a storage for one worker; a fleet's must be "
                "SQLite or PostgreSQL, to which golf-opt export and import take it."
            )
        self.study, self.plan, self._workers = study, description_of(study), workers
        for part in ("sampler", "pruner"):
            check_targets(part, getattr(self.plan, part))
        self._allocation = allocation(self.plan, build_parts(self.plan, {}).pruner)
        self._past: deque[tuple[Moment, int]] = deque()  # with the workers that ran

    def look(self, running: int) -> Moment:
        """Return how the study stands now; `running` workers are said to be at it."""
        id_ = id_of_study(self.study)
        self._workers.refresh(id_)
        trials = self.study.get_trials(deepcopy=False)
        now = Moment(
            time=time.monotonic(),
            finished=num_finished(self.study),
            epochs=sum(len(trial.intermediate_values) for trial in trials),
            busy=len({lease.owner for lease in self._workers.leases(id_) if is_held(lease)}),
            over=self._is_over(),
        )
        self._past.append((now, running))
        while now.time - self._past[0][0].time > WINDOW_S:
            self._past.popleft()
        return now

    def _is_over(self) -> bool:
        """Return whether no worker would find anything to do."""
        limits = limits_of(self.study)
        if limits.why_over(self.study, news=True) is not None:
            return True
        trials = self.study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.RUNNING for trial in trials):
            return False
        if limits.epochs is not None:
            spent = self._workers.epochs_spent(id_of_study(self.study))
            if spent >= limits.epochs:
                return True
        return self._allocation.choose(trials) is None

    @property
    def epochs_per_s(self) -> float:
        (first, _), (last, _) = self._past[0], self._past[-1]
        return (last.epochs - first.epochs) / max(1e-9, last.time - first.time)

    @property
    def idle(self) -> float | None:
        """Return the share of the workers that had no trial, starting ones among them."""
        running = sum(count for _, count in self._past)
        busy = sum(min(moment.busy, count) for moment, count in self._past)
        return 1 - busy / running if running else None
