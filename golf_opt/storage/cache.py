"""What a worker knows of trials, and what of that the database does not know yet."""

from __future__ import annotations

import bisect
import copy
import json
import math
import random
import threading
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Table

from golf_opt.storage import gate
from golf_opt.storage.changing import Changing
from golf_opt.storage.optuna_internals import id_of_trial
from golf_opt.storage.tables import Batch, Changes
from golf_opt.utils.points import is_further_seed
from golf_opt.utils.processes import WORKER
from golf_opt.utils.trials import KnownTrials, attribute

REFRESH_S = 1.0  # between two reads of other workers' trials, at least
REFRESH_FRACTION = 0.02  # of the time that reading them may take
READ_A_SECOND = 1500  # trials that run, by all workers of a study together, in one database
NEVER = -math.inf


@dataclass
class CachedStudy:
    """What this worker knows of one study."""

    trials: dict[int, FrozenTrial] = field(default_factory=dict)  # by number, in order
    open: dict[int, FrozenTrial] = field(default_factory=dict)  # those not finished, by number
    ended: list[FrozenTrial] = field(default_factory=list)  # the others, as they ended
    points_ended: int = 0  # of these, those that are no further seed
    finished: dict[tuple[TrialState, ...], list[FrozenTrial]] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    total: int | None = None  # trials that it is to have
    space: Mapping[str, BaseDistribution] | None = None  # that all of them are drawn from
    read_at: float = NEVER  # when other workers' trials were last read
    pause_s: float = REFRESH_S  # until they are read again
    workers: int = 0  # elsewhere, that had trials then
    last_id: int = -1  # of the trials that were read
    unfinished: set[int] = field(default_factory=set)  # ids of trials to be read again
    in_order: bool = True
    epochs: int = 0  # that finished trials reported, none of which is in `unfinished`

    def put(self, trial: FrozenTrial) -> None:
        """Take a trial in, in place of what was known of it."""
        before = self.trials.get(trial.number)
        if before is None and self.trials and trial.number < next(reversed(self.trials)):
            self.in_order = False
        self.trials[trial.number] = trial
        self._count(before, trial)
        if before is not None and before.state.is_finished():
            if (before.state, before.values) != (trial.state, trial.values):
                self._sort_out()  # it runs again: another worker has it
        elif trial.state.is_finished():
            self.open.pop(trial.number, None)
            self._end(trial)
        else:
            self.open[trial.number] = trial

    def _count(self, before: FrozenTrial | None, trial: FrozenTrial) -> None:
        if before is not None and id_of_trial(before) == id_of_trial(trial):
            self.read_again(before)
        if trial.state.is_finished():
            self.unfinished.discard(id_of_trial(trial))
            self.epochs += _epochs(trial)
        else:
            self.unfinished.add(id_of_trial(trial))

    def read_again(self, trial: FrozenTrial) -> None:
        """Count a trial among those that may change in the database."""
        if id_of_trial(trial) not in self.unfinished:
            self.unfinished.add(id_of_trial(trial))
            self.epochs -= _epochs(trial)

    def sort(self) -> None:
        if not self.in_order:
            self.trials, self.in_order = dict(sorted(self.trials.items())), True

    def _end(self, trial: FrozenTrial) -> None:
        self.ended.append(trial)
        self.points_ended += not is_further_seed(trial)
        for states, trials in self.finished.items():
            if trial.state in states:
                bisect.insort(trials, trial, key=_number)

    def _sort_out(self) -> None:
        """Tell trials that ended from the others anew."""
        self.sort()
        self.finished.clear()
        self.open, self.ended, self.points_ended = {}, [], 0
        for trial in self.trials.values():
            if trial.state.is_finished():
                self._end(trial)
            else:
                self.open[trial.number] = trial

    def known(self) -> KnownTrials:
        """Return all trials."""
        self.sort()
        return KnownTrials(self.trials.values(), list(self.open.values()), self.points_ended)

    def fitting(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a trial that was read; one of another space counts as failed.

        No sampler could learn from it, and most would raise.
        """
        for name, distribution in trial.distributions.items() if self.space is not None else ():
            if self.space and self.space.get(name) != distribution:
                other = ValueError(f"its {name} is of another space")
                gate.tell("this study", [gate.counts_as_failed(trial.number, other)])
                return gate.failed(trial.number, id_of_trial(trial), str(other))
        return trial

    def in_states(self, states: Container[TrialState]) -> list[FrozenTrial]:
        """Return the trials in some states; pruners ask for the finished ones at every report."""
        key = tuple(state for state in TrialState if state in states)
        if not any(state.is_finished() for state in key):
            found = [trial for trial in self.open.values() if trial.state in key]
            return sorted(found, key=_number)
        if not all(state.is_finished() for state in key):
            return [trial for trial in self.trials.values() if trial.state in key]
        if key not in self.finished:
            self.finished[key] = [trial for trial in self.trials.values() if trial.state in key]
        return list(self.finished[key])

    def distribution(self, name: str) -> BaseDistribution | None:
        """Return what a parameter was first drawn from in this study."""
        if name not in self.distributions:
            for trial in self.trials.values():
                self.distributions = trial.distributions | self.distributions
        return self.distributions.get(name)


def pause_s(taken_s: float, running: int, workers: int) -> float:
    """Return how long not to read others' trials; reading took some time, and all workers do."""
    return max(REFRESH_S, taken_s / REFRESH_FRACTION, running * workers / READ_A_SECOND)


def _epochs(trial: FrozenTrial) -> int:
    return sum(step > 0 for step in trial.intermediate_values)


def _number(trial: FrozenTrial) -> int:
    return trial.number


class TrialCache:
    """The trials of this worker and of others, and the changes of the next write.

    `lock` guards all of it. Whoever changes a trial and notes that for the database holds the lock
    over both, so that a write takes either with the other. Nothing here waits for the database.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.studies: dict[int, CachedStudy] = {}
        self.batch = Batch()
        self.held: set[int] = set()  # running trials of this worker
        self.lost: set[int] = set()  # held once; another worker has them now
        self._places: dict[int, tuple[int, int]] = {}  # trial id -> study id, number

    def study(self, study_id: int) -> CachedStudy:
        with self.lock:
            return self.studies.setdefault(study_id, CachedStudy())

    def find(self, trial_id: int) -> FrozenTrial | None:
        with self.lock:
            place = self._places.get(trial_id)
            return None if place is None else self.studies[place[0]].trials[place[1]]

    def study_of(self, trial_id: int) -> int:
        return self._places[trial_id][0]

    def knows_better(self, trial_id: int) -> bool:
        """Return whether a trial is newer here than in the database."""
        with self.lock:
            return trial_id in self.held or trial_id in self.batch.trials

    # --- this worker's trials ---

    def hold(self, study_id: int, trial: FrozenTrial) -> None:
        """Take in a trial that this worker runs from now on."""
        trial_id = id_of_trial(trial)
        with self.lock:
            self._places[trial_id] = (study_id, trial.number)
            self.studies[study_id].put(trial)
            self.held.add(trial_id)
            self.lost.discard(trial_id)

    def changes(self, trial_id: int) -> Changes:
        """Return what is to be written of a trial; of a lost one nothing ever is."""
        with self.lock:
            if trial_id in self.lost:
                return Changes(trial_id)
            return self.batch.trials.setdefault(trial_id, Changes(trial_id))

    def replace(self, trial_id: int, **changed: Any) -> None:
        """Put a changed copy in place of a trial, so that no reader sees a trial change."""
        study_id, number = self._places[trial_id]
        trial = copy.copy(self.studies[study_id].trials[number])
        for name, value in changed.items():
            setattr(trial, name, value)
        self.studies[study_id].put(trial)

    def lose(self, trial_ids: set[int]) -> None:
        """Forget what this worker thought of trials that it no longer holds."""
        with self.lock:
            self.lost |= trial_ids
            self.held -= trial_ids
            for trial_id in trial_ids:
                self.batch.trials.pop(trial_id, None)
                study_id, number = self._places[trial_id]
                study = self.studies[study_id]
                study.read_again(study.trials[number])
                study.read_at = NEVER  # and ask the database

    # --- the next write ---

    def take_batch(self) -> tuple[Batch, set[int]]:
        """Return what is to be written, which is kept no more, and the trials that need a lease."""
        with self.lock:
            batch, self.batch = self.batch, Batch()
            ended = {trial_id for trial_id, changes in batch.trials.items() if changes.held}
            return batch, self.held | ended

    def return_batch(self, batch: Batch) -> None:
        """Take back what could not be written, under what came since."""
        with self.lock:
            self.batch = batch.then(self.batch)

    def study_attrs(self, table: Table, study_id: int) -> dict[str, Any]:
        """Return those attributes of a study that are not written yet."""
        with self.lock:
            return {
                key: json.loads(row["value_json"])
                for (kind, study, key), row in self.batch.study_attrs.items()
                if (kind, study) == (table, study_id)
            }

    # --- what was read from the database ---

    def changing(self, study_id: int, elsewhere: bool = False) -> Changing:
        """Return which of a study's trials may be others than they are here.

        Args:
            study_id: of the study.
            elsewhere: only those that this worker does not know better.
        """
        with self.lock:
            if (study := self.studies.get(study_id)) is None:
                return Changing()
            own = self.held | self.batch.trials.keys() if elsewhere else set()
            return Changing(study.unfinished - own, study.last_id, study.epochs)

    def merge(self, study_id: int, trials: Sequence[FrozenTrial], begun: float) -> None:
        """Take in trials of a study, of which the reading began at a monotonic time."""
        with self.lock:
            study = self.study(study_id)
            running, workers = 0, set()  # elsewhere
            for trial in trials:
                self.place(study_id, trial)
                study.last_id = max(study.last_id, id_of_trial(trial))
                if trial.state == TrialState.RUNNING and id_of_trial(trial) not in self.held:
                    running += 1
                    workers.add(attribute(trial, WORKER, str))
            study.sort()
            study.read_at, study.workers = time.monotonic(), len(workers)
            at_least = pause_s(study.read_at - begun, running, study.workers)
            study.pause_s = random.uniform(1.0, 1.5) * at_least  # not all workers at once

    def place(self, study_id: int, trial: FrozenTrial) -> None:
        """Take in a trial, unless this worker knows better."""
        trial_id = id_of_trial(trial)
        with self.lock:
            study = self.study(study_id)
            trial = study.fitting(trial)
            self._places[trial_id] = (study_id, trial.number)
            if self.knows_better(trial_id):
                return
            before = study.trials.get(trial.number)
            over = before is not None and before.state.is_finished()
            if over and not trial.state.is_finished() and trial_id not in self.lost:
                return  # read before the end that this worker reported was written
            study.put(trial)

    def trial_ids(self, study_id: int) -> set[int]:
        with self.lock:
            return {id_of_trial(trial) for trial in self.study(study_id).trials.values()}

    def forget_study(self, study_id: int) -> None:
        with self.lock:
            gone = self.trial_ids(study_id)
            self.studies.pop(study_id)
            self.held -= gone
            for trial_id in gone:
                self._places.pop(trial_id, None)
