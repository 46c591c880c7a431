"""`golf-opt ls`: the studies of a storage, how far they are, and who works on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from golf_opt.config.schema import ListConfig
from golf_opt.storage.connect import opened_to_read
from golf_opt.storage.ledger import Lease
from golf_opt.storage.optuna_internals import id_of_study, storage_of
from golf_opt.storage.studies import marks
from golf_opt.storage.workers import coordination, is_held
from golf_opt.study.aims import answer
from golf_opt.study.description import readable
from golf_opt.utils.points import MEAN, best_trial
from golf_opt.utils.processes import WORKER, is_alive, show_worker
from golf_opt.utils.text import percent, show_duration
from golf_opt.utils.trials import attribute, counts

LATELY = timedelta(minutes=10)  # a worker of another host is there if it ended a trial since then
STATES = ("complete", "pruned", "fail", "running", "waiting")
COLUMNS = (
    "study", "arch", "parameters", "data", "protocol", "total", *STATES, "best", "best_trial",
    "workers", "last_activity",
)  # fmt: skip


@dataclass(frozen=True)
class StudyRow:
    """What `ls` tells of a study. What only golf-opt knows is None for a foreign study."""

    study: str
    arch: str | None  # of a net, or the name of an objective
    parameters: int | None  # of a family, those of the best net
    data: str | None
    protocol: str | None
    total: int | None  # trials asked for when the study was made
    trials: dict[str, int]  # by state
    best: float | None  # objective, of a net in [0, 1]; with target= of the smallest reaching it
    best_trial: int | None
    workers: tuple[str, ...]  # `host:pid`
    last_activity: datetime | None  # a trial began or ended, local time of the worker


def list_studies(config: ListConfig, say: Callable[[str], None]) -> None:
    """Print the studies of the storage.

    Raises:
        UsageError: the storage cannot be opened.
    """
    with opened_to_read(config.storage) as storage:
        rows = study_rows(storage)
    console = Console()
    form = config.format
    if form == "auto":
        form = "table" if console.is_terminal else "plain"
    if form == "json":
        say(json.dumps([asdict(row) for row in rows], indent=2, default=str))
    elif form == "plain":
        for line in plain_lines(rows):
            say(line)
    elif rows:
        console.print(table(rows))
    else:
        say("no studies yet")


def study_rows(storage: BaseStorage) -> list[StudyRow]:
    """Return a row for each study, by name."""
    names = sorted(optuna.get_all_study_names(storage))
    return [study_row(optuna.load_study(study_name=name, storage=storage)) for name in names]


def study_row(study: optuna.Study) -> StudyRow:
    plan = readable(study.study_name, marks(study))
    net = plan.one_net if plan else None
    trials = study.get_trials(deepcopy=False)
    best = answer(study) if plan else best_trial(study, MEAN)
    moments = [trial.datetime_complete or trial.datetime_start for trial in trials]
    leases = []
    if any(trial.state == TrialState.RUNNING for trial in trials):
        leases = coordination(storage_of(study)).leases(id_of_study(study))
    return StudyRow(
        study=study.study_name,
        arch=plan.subject if plan else None,
        parameters=net.num_params if net else attribute(best, "num_params", int) if best else None,
        data=plan.data if plan and plan.data else None,
        protocol=plan.protocol if plan and plan.data else None,
        total=plan.trials if plan else None,
        trials=counts(study),
        best=best.values[0] if best else None,
        best_trial=best.number if best else None,
        workers=tuple(sorted(workers_seen(trials, leases, datetime.now()))),
        last_activity=max(filter(None, moments), default=None),
    )


def workers_seen(
    trials: Sequence[FrozenTrial], running: Sequence[Lease], now: datetime
) -> set[str]:
    """Return `host:pid` of workers that are at a trial, or ended one lately and go on."""
    seen = {lease.owner for lease in running if is_held(lease)}
    for trial in trials:
        ended, worker = trial.datetime_complete, trial.user_attrs.get(WORKER)
        if ended is not None and now - ended < LATELY and isinstance(worker, str):
            seen.update([worker] if is_alive(worker) else [])
    return {show_worker(worker) for worker in seen if worker is not None}


def plain_lines(rows: Sequence[StudyRow]) -> list[str]:
    """Return a line of column names and a line a study, separated by tabs, `-` for nothing."""
    return ["\t".join(COLUMNS)] + ["\t".join(map(_plain, _cells(row))) for row in rows]


def _cells(row: StudyRow) -> list[Any]:
    best = None if row.best is None else f"{row.best:.4f}" if row.parameters else f"{row.best:.6g}"
    return [
        row.study, row.arch, row.parameters, row.data, row.protocol, row.total,
        *(row.trials[state] for state in STATES),
        best, row.best_trial, ",".join(row.workers),
        row.last_activity.isoformat(" ", "seconds") if row.last_activity else None,
    ]  # fmt: skip


def _plain(value: object) -> str:
    """Return a value on one line; a foreign study's name may hold anything."""
    text = "" if value is None else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text) or "-"


def table(rows: Sequence[StudyRow]) -> Table:
    """Return the studies for a terminal, times as time ago."""
    drawn = Table(box=None, padding=(0, 1, 0, 0))
    for name, options in _TABLE.items():
        drawn.add_column(name, **options)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in _table_cells(row)))
    return drawn


_NUMBER: dict[str, Any] = {"justify": "right", "no_wrap": True}
_TABLE: dict[str, dict[str, Any]] = {
    "study": {"overflow": "fold"},
    "params": _NUMBER,
    "data": {"no_wrap": True},
    "protocol": {"no_wrap": True},
    "trials": {"min_width": 8},
    "best": _NUMBER,
    "trial": _NUMBER,
    "workers": _NUMBER,
    "active ago": {"justify": "right"},
}


def _table_cells(row: StudyRow) -> list[str]:
    done = sum(row.trials[state] for state in ("complete", "pruned", "fail"))
    parts = [f"{done} of {row.total}" if row.total else str(done)]
    parts += [
        f"{row.trials[state]} {state}" for state in (*STATES[1:], "paused") if row.trials[state]
    ]
    best = "-"
    if row.best is not None:
        best = percent(row.best) if row.parameters else f"{row.best:.6g}"
    ago = "-"
    if row.last_activity:  # another box's clock may be ahead
        ago = show_duration(max(0.0, (datetime.now() - row.last_activity).total_seconds()))
    return [
        _plain(row.study), f"{row.parameters:,}" if row.parameters else "-", row.data or "-",
        row.protocol or "-", ", ".join(parts), best, _plain(row.best_trial),
        str(len(row.workers)), ago,
    ]  # fmt: skip
