"""What asking for a trial costs as a study grows: choosing, numbering, TPE.

    python -m bench.asking [--storage sqlite] [--sizes 1000 10000 100000] [--output DIR]

A database is filled with complete and pruned trials of the article's space; 64 more are running.
Then a free lane is given new trials, as the study's loop does it, by Optuna's TPE and by ours. The
two take turns; figures are medians over the turns, of milliseconds of processor time in the
asking thread (which another program's load changes little) and on the wall.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert

from bench.report import machine, save
from bench.storage import database
from golf_opt.cli.compose import compose
from golf_opt.config import schema
from golf_opt.config.check import load
from golf_opt.storage import tables
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.optuna_internals import id_of_study, models, new_trial
from golf_opt.storage.workers import coordination
from golf_opt.study.allocation import Allocation, NewPoints, Queued
from golf_opt.study.build import sampler_maker
from golf_opt.study.samplers import FreshSampler
from golf_opt.study.space import Space, build_space

RUNNING = 64
CHUNK = 5000  # trials that are inserted together
COMPLETE_FRACTION = 0.3
CONSOLE = Console()


def fill(study: optuna.Study, space: Space, since: int, to: int) -> None:
    """Insert finished trials, numbered from `since` to before `to`."""
    storage: Any = study._storage
    draw, now = np.random.default_rng(since), datetime.now(UTC).replace(tzinfo=None)
    names = [(name, dimension.distribution) for name, dimension in space.tuned.items()]
    kind = models.TrialValueModel.TrialValueType.FINITE
    for begin in range(since, to, CHUNK):
        numbers = range(begin, min(begin + CHUNK, to))
        states = [
            TrialState.COMPLETE if draw.random() < COMPLETE_FRACTION else TrialState.PRUNED
            for _ in numbers
        ]
        head = {"study_id": id_of_study(study), "datetime_start": now, "datetime_complete": now}
        with storage._backend.engine.begin() as connection:
            rows = [{"number": n, "state": s} | head for n, s in zip(numbers, states, strict=True)]
            query = insert(tables.TRIALS).returning(tables.TRIALS.c.trial_id, tables.TRIALS.c.state)
            made = connection.execute(query, rows).all()
            params, values, reports = [], [], []
            for trial_id, state in made:
                for name, distribution in names:
                    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
                    drawn = low + (high - low) * draw.random()
                    if getattr(distribution, "log", False):
                        drawn = low * (high / low) ** draw.random()
                    value = distribution.to_internal_repr(
                        round(drawn) if isinstance(low, int) else drawn
                    )
                    row = {"param_name": name, "param_value": value, "trial_id": trial_id}
                    params.append(row | {"distribution_json": distribution_to_json(distribution)})
                report = {"step": 4, "intermediate_value": draw.random(), "trial_id": trial_id}
                reports.append(report | {"intermediate_value_type": "FINITE"})
                if state == TrialState.COMPLETE:
                    row = {"trial_id": trial_id, "objective": 0, "value": draw.random()}
                    values.append(row | {"value_type": kind})
            for table, rows in (
                (tables.PARAMS, params),
                (tables.OBJECTIVES, values),
                (tables.REPORTS, reports),
            ):
                connection.execute(insert(table), rows)


def ask(study: optuna.Study, space: Space, rules: Allocation) -> tuple[float, float]:
    """Ask for a trial as a free lane does; return milliseconds of this thread's and of the wall."""
    begun, cpu_begun = time.perf_counter(), time.thread_time()
    assert rules.choose(study.get_trials(deepcopy=False)) is not None
    trial = new_trial(study)
    space.values(trial)
    taken = 1e3 * (time.thread_time() - cpu_begun), 1e3 * (time.perf_counter() - begun)
    study.tell(trial, state=TrialState.FAIL)
    return taken


def measured(study: optuna.Study, config: schema.StudyConfig, asks: int) -> dict[str, Any]:
    """Return milliseconds an ask of each sampler."""
    space = build_space(config.space)
    rules = Allocation([Queued(10**6), NewPoints(10**6)])
    samplers: dict[str, optuna.samplers.BaseSampler] = {
        "optuna": optuna.samplers.TPESampler(seed=0),
        "golf-opt": FreshSampler(sampler_maker(config, space)),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in samplers}
    for turn in range(asks + 1):
        for name, sampler in samplers.items():
            study.sampler = sampler
            found = ask(study, space, rules)
            if turn:  # the first reads the study, and fills what is kept
                taken[name].append(found)
    return {
        name: dict(
            zip(
                ("cpu_ms", "wall_ms"), map(statistics.median, zip(*pairs, strict=True)), strict=True
            )
        )
        for name, pairs in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--storage", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--output", type=Path, metavar="DIR")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    overrides = ["data=digits", "arch=c4-5-4", "trials=1000000"]
    config = load(schema.StudyConfig, compose("study", overrides))
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, database(options.storage, Path(folder)) as found:
        filled = 0
        for size in options.sizes:
            with opened_storage(found[1]) as storage:  # a new worker, which reads what is there
                study = optuna.create_study(
                    study_name="s", storage=storage, direction="maximize", load_if_exists=True
                )
                space = build_space(config.space)
                fill(study, space, filled, size)
                coordination(storage).refresh(id_of_study(study))
                study.sampler = optuna.samplers.RandomSampler()
                running = [study.ask() for _ in range(RUNNING)]
                for trial in running:
                    space.values(trial)
                rows[str(size)] = measured(study, config, max(3, math.ceil(20_000 / size)))
                for trial in running:
                    study.tell(trial, state=TrialState.FAIL)
                filled = len(study.get_trials(deepcopy=False))
                coordination(storage).flush()
    table = Table("trials", "optuna", "golf-opt", "ratio", title="processor time of an ask")
    for size, row in rows.items():
        ms = {name: figures["cpu_ms"] for name, figures in row.items()}
        ratio = ms["optuna"] / ms["golf-opt"]
        table.add_row(size, *(f"{value:.1f} ms" for value in ms.values()), f"{ratio:.0f}")
    CONSOLE.print(table)
    busy = os.getloadavg()[1]
    result = {"machine": machine(), "storage": options.storage, "load": busy, "trials": rows}
    CONSOLE.print(f"{save(f'asking-{options.storage}', result, options.output)}")


if __name__ == "__main__":
    main()
