"""What waits to be written to the database, and the rows that it becomes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import TrialState
from sqlalchemy import Table

from golf_opt.storage.optuna_internals import models
from golf_opt.storage.tables import (
    CHECKPOINTS,
    OBJECTIVES,
    PARAMS,
    REPORTS,
    SYSTEM_ATTRS,
    USER_ATTRS,
    Row,
)


@dataclass
class Changes:
    """What is to be written of one trial. Later values replace earlier ones."""

    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)
    user_attrs: dict[str, str] = field(default_factory=dict)  # as JSON
    system_attrs: dict[str, str] = field(default_factory=dict)  # as JSON
    reports: dict[int, float] = field(default_factory=dict)
    checkpoint: tuple[str, int, Callable[[], bytes]] | None = None  # study, number, its bytes
    state: TrialState | None = None
    values: Sequence[float] | None = None
    completed: datetime | None = None  # with its time zone

    def then(self, later: Changes) -> Changes:
        """Return both, where `later` wins."""
        return Changes(
            self.params | later.params,
            self.user_attrs | later.user_attrs,
            self.system_attrs | later.system_attrs,
            self.reports | later.reports,
            later.checkpoint or self.checkpoint,
            later.state or self.state,
            later.values if later.state else self.values,
            later.completed or self.completed,
        )

    def rows(self, trial_id: int) -> Iterator[tuple[Table, Row]]:
        """Give the rows to insert or replace, without the trial's state, and their tables."""
        trial: Row = {"trial_id": trial_id}
        for name, (param, distribution) in self.params.items():
            text = distribution_to_json(distribution)
            row = {"param_name": name, "param_value": param, "distribution_json": text}
            yield PARAMS, trial | row
        to_stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
        for step, report in self.reports.items():
            stored, kind = to_stored(report)
            row = {"step": step, "intermediate_value": stored, "intermediate_value_type": kind}
            yield REPORTS, trial | row
        for objective, number in enumerate(self.values or ()):
            value, sign = models.TrialValueModel.value_to_stored_repr(number)
            yield OBJECTIVES, trial | {"objective": objective, "value": value, "value_type": sign}
        for table, attrs in ((USER_ATTRS, self.user_attrs), (SYSTEM_ATTRS, self.system_attrs)):
            for key, text in attrs.items():
                yield table, trial | {"key": key, "value_json": text}
        if self.checkpoint is not None:
            study, number, data = self.checkpoint
            yield CHECKPOINTS, {"study": study, "number": number, "data": data()}


@dataclass
class Batch:
    """What one transaction writes."""

    trials: dict[int, Changes] = field(default_factory=dict)
    study_attrs: dict[tuple[Table, int, str], str] = field(default_factory=dict)  # table, id, key
    stale_checkpoints: set[tuple[str, int]] = field(default_factory=set)  # study, number

    def __bool__(self) -> bool:
        return bool(self.trials or self.study_attrs or self.stale_checkpoints)

    def then(self, later: Batch) -> Batch:
        """Return both, where `later` wins."""
        trials = dict(self.trials)
        for trial_id, changes in later.trials.items():
            trials[trial_id] = trials.get(trial_id, Changes()).then(changes)
        stale = self.stale_checkpoints | later.stale_checkpoints
        return Batch(trials, self.study_attrs | later.study_attrs, stale)

    def rows(self) -> dict[Table, list[Row]]:
        """Return the rows to insert or replace, by table; the states of trials are not in them."""
        found: dict[Table, list[Row]] = defaultdict(list)
        for (table, study_id, key), text in self.study_attrs.items():
            found[table].append({"study_id": study_id, "key": key, "value_json": text})
        for trial_id, changes in self.trials.items():
            for table, row in changes.rows(trial_id):
                found[table].append(row)
        return found
