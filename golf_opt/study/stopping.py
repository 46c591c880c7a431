"""What ends a study before its total of trials: a budget of time or epochs, and a plateau.

None of it makes a study another one: it is kept beside the study for the workers that join, and the
next run may set something else.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime

import optuna

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import StudyConfig
from golf_opt.config.types import Budget
from golf_opt.storage.optuna_internals import id_of_study, storage_of
from golf_opt.storage.studies import mark, marks
from golf_opt.storage.workers import coordination
from golf_opt.study.allocation import last_epoch
from golf_opt.study.description import StudyDescription, snapshot_of
from golf_opt.task.goals import show_goals
from golf_opt.utils.text import count, show_duration
from golf_opt.visualization.snapshot import seed_noise

LIMITS = "golf_opt:limits"  # of the run that was begun last
STAGNATION = 30  # complete points in a row without a better one, where a plateau ends the study


@dataclass(frozen=True)
class Limits:
    """When a run of the study, and what its workers do, is over.

    Args:
        deadline: by this process's monotonic clock; the database keeps it by its own, so that
            the clocks of the workers' machines do not matter.
        epochs: that the study's trials may have reported in all.
        plateau: whether to stop where trials get no better.
    """

    deadline: float | None = None
    epochs: int | None = None
    plateau: bool = False

    @property
    def is_budget(self) -> bool:
        return self.deadline is not None or self.epochs is not None

    @property
    def seconds_left(self) -> float | None:
        return None if self.deadline is None else self.deadline - time.monotonic()

    def epochs_left(self, study: optuna.Study) -> int | None:
        """Return how many epochs are not trained yet, as far as is known here; None: any."""
        if self.epochs is None:
            return None
        trials = study.get_trials(deepcopy=False)
        return max(0, self.epochs - sum(map(last_epoch, trials)))

    def is_spent(self, study: optuna.Study) -> bool:
        """Return whether there was a budget and nothing of it is left."""
        seconds, epochs = self.seconds_left, self.epochs_left(study)
        return (seconds is not None and seconds <= 0) or epochs == 0

    def why_over(self, study: optuna.Study, news: bool) -> str | None:
        """Return why the run is over, whatever its trials do; None where it is not.

        Args:
            study: that runs.
            news: whether trials have ended since this was asked last.
        """
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "its time is up"
        if news and self.plateau and _is_plateau(study):
            return f"the last {STAGNATION} complete points are no better than those before them"
        return None

    def words_left(self, study: optuna.Study) -> str | None:
        """Return `3 min and 120 epochs of the budget left`; None without a budget."""
        seconds, epochs = self.seconds_left, self.epochs_left(study)
        parts = [] if seconds is None else [show_duration(max(0.0, seconds))]
        parts += [] if epochs is None else [count(epochs, "epoch")]
        return f"{' and '.join(parts)} of the budget left" if parts else None


def begin_limits(study: optuna.Study, budget: Budget | None, plateau: bool, begun: float) -> Limits:
    """Return the limits of a run that begins, and keep them for the workers that join it.

    Args:
        study: that runs.
        budget: what the run may take, from now on.
        plateau: whether it stops where trials get no better.
        begun: when the command did, by this process's monotonic clock.
    """
    workers = coordination(storage_of(study))
    deadline = epochs = None
    if budget is not None and budget.seconds is not None:
        deadline = begun + budget.seconds
    if budget is not None and budget.epochs is not None:
        epochs = workers.epochs_spent(id_of_study(study)) + budget.epochs
    limits = Limits(deadline, epochs, plateau)
    kept = asdict(limits)
    if limits.seconds_left is not None:
        kept["deadline"] = workers.now() + limits.seconds_left
    if kept != marks(study).get(LIMITS, asdict(Limits())):
        mark(study, LIMITS, kept)
    return limits


def check_stop(config: StudyConfig, plan: StudyDescription) -> None:
    """Refuse to look for a plateau of several values.

    Raises:
        UsageError: it is asked for.
    """
    if config.stop is not None and len(plan.goals) > 1:
        raise UsageError(
            f"stop is {config.stop}, which looks at one value, but the goals are "
            f"{show_goals(plan.goals)}; leave stop= out, and give trials= or budget=."
        )


def limits_of(study: optuna.Study) -> Limits:
    """Return the limits of the run that was begun last."""
    limits = Limits(**marks(study).get(LIMITS, {}))
    if limits.deadline is None:
        return limits
    left_s = limits.deadline - coordination(storage_of(study)).now()
    return replace(limits, deadline=time.monotonic() + left_s)


def _is_plateau(study: optuna.Study) -> bool:
    """Return whether the last complete points are no better than earlier ones, but for noise.

    Further seeds are none: they are of the best so far, and say nothing of what the next would be.

    Optuna's terminators, which do about the same, are on their way out of it.
    """
    snapshot = snapshot_of(study)
    points = sorted(snapshot.points, key=lambda row: row.trial.datetime_complete or datetime.min)
    if len(points) <= STAGNATION:
        return False
    values = [row.rank for row in points]
    sd, _ = seed_noise(snapshot)
    return bool(max(values[-STAGNATION:]) <= max(values[:-STAGNATION]) + (sd or 0.0))
