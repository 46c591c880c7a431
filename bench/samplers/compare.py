"""Compare samplers, pruners and ways with seeds at an equal budget of epochs, on a recorded table.

    python -m bench.samplers.compare [FOLDER] [--repeats 20] [--epochs 900] [--rows REGEX]
        [--jobs N] [--all] [--write]

The real study loop runs with an engine that replays the table (see `replay`). FOLDER, which is
studies/samplers by default, may hold a `table.jsonl` of its own; a line a study is appended to
`runs.jsonl`, so that the same command goes on where it stopped. Then the folder's README.md and
its picture are written from these lines. --write does nothing but that.

A row that this golf-opt cannot run, since it has no such key or choice, is skipped with a word.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from hydra.errors import ConfigCompositionException
from omegaconf.errors import OmegaConfBaseException

from bench.samplers.replay import Remembering, ReplayEngine
from bench.samplers.rows import ROWS, Row
from bench.samplers.shown import STUDIES, table_path, write
from bench.samplers.table import Table
from golf_opt.cli.compose import compose
from golf_opt.config.check import load
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import StudyConfig
from golf_opt.engines.base import Engine
from golf_opt.study.allocation import last_epoch
from golf_opt.study.build import build_parts, describe
from golf_opt.study.callbacks import Callback, Pruning, StudyContext, TrialRun
from golf_opt.study.loop import StudyLoop
from golf_opt.study.opening import open_study
from golf_opt.study.stopping import begin_limits
from golf_opt.task.data import View
from golf_opt.utils.points import best_trial

GRID = 81  # points
EPOCHS = 900  # of a study: fifty trials of the article's eighteen
REPEATS = 20


class Picks(Callback):
    """Takes note of what a study would pick, when that changes.

    `picks` is of [epochs spent, point of the table].
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self.picks: list[tuple[int, int]] = []

    @property
    def spent(self) -> int:
        """Epochs that the study's trials have reported."""
        return sum(map(last_epoch, self.context.study.get_trials(deepcopy=False)))

    def on_trial_finished(self, run: TrialRun) -> None:
        self._look()

    def on_study_end(self) -> None:
        self._look()

    def _look(self) -> None:
        worth = self.context.description.by_seed.worth
        if (best := best_trial(self.context.study, worth)) is None:
            return
        point = self._table.nearest(best.params)
        if not self.picks or self.picks[-1][1] != point:
            self.picks.append((self.spent, point))


@cache
def table_of(path: Path) -> Table:
    return Table(path)


@cache
def plan_of(row: Row, head: str, budget: int) -> StudyConfig:
    """Return the configuration of a row's studies, of so many epochs each.

    Raises:
        UsageError, OmegaConfBaseException: this golf-opt does not know what the row asks for.
    """
    table = json.loads(head)
    of_family = "family" in table
    plain = ["pruner=median", "sampler=tpe", "seeds=1"]  # the defaults of `study`
    verb = ["search", *plain] if of_family else ["study"]
    fixed = [f"epochs={table['epochs']}", f"protocol={table['protocol']}", f"budget={budget}epochs"]
    if "sampler=grid" in row.asks:
        fixed.append(f"trials={GRID}")
    asks = list(row.asks)
    for name in [key.split("=")[0] for key in asks]:
        verb = [word for word in verb if not word.startswith(f"{name}=")]
    if of_family:
        fixed.append(f"max_params={table['max_params']}")
    overrides = [*verb[1:], "data=mnist", "storage=memory", *fixed, *asks]
    config = load(StudyConfig, compose(verb[0], overrides))
    for name in ("arch", "family", "space"):
        object.__setattr__(config, name, table.get(name))
    return config


def run(row: Row, repeat: int, path: Path, budget: int) -> dict[str, Any]:
    """Run one study of a row on a table; return what it came to."""
    table = table_of(path)
    engine = ReplayEngine(table, seed=repeat)
    around = [Remembering(engine), Pruning()]
    return study_of(row, repeat, table, budget, engine, table.view(), around)[0]


def study_of(
    row: Row,
    repeat: int,
    table: Table,
    budget: int,
    engine: Engine[Any],
    view: View,
    around: list[Callback],
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Run one study of a row; return what it came to, and the parameters of its pick."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    began = time.monotonic()
    config = plan_of(row, json.dumps(table.head), budget)
    object.__setattr__(config, "seed", repeat)
    parts = build_parts(config, {})
    noted = Picks(table)
    parts.callbacks.extend([*around, noted])
    with tempfile.TemporaryDirectory() as folder:
        description = describe(config, view, "")
        storage = optuna.storages.InMemoryStorage()
        study, _ = open_study(storage, "compared", description)
        limits = begin_limits(study, config.budget, plateau=False, begun=began)
        context = StudyContext(
            study, engine, Path(folder), description, view, lambda _: None, limits
        )
        StudyLoop(context, parts).run()
    trials = study.get_trials(deepcopy=False)
    best = best_trial(study, description.by_seed.worth)
    assert best is not None, f"{row.name} completed nothing"
    made = {
        "row": row.name,
        "repeat": repeat,
        "budget": budget,
        "spent": noted.spent,
        "trials": dict(Counter(trial.state.name.lower() for trial in trials)),
        "points": len({tuple(sorted(trial.params.items())) for trial in trials}),
        "seen": best.value,
        "point": noted.picks[-1][1],
        "picks": noted.picks,
        "s": round(time.monotonic() - began, 2),
    }
    return made, best.params


def able(rows: list[Row], head: dict[str, Any]) -> list[Row]:
    """Return the rows that this golf-opt can run; say why the others are skipped."""
    kept = []
    for row in rows:
        try:
            plan_of(row, json.dumps(head), EPOCHS)
        except (UsageError, OmegaConfBaseException, ConfigCompositionException) as error:
            print(f"skipped {row.name}: {str(error).splitlines()[0]}")
        else:
            kept.append(row)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=STUDIES)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rows", default="")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--all", action="store_true", help="rows that take long, too")
    parser.add_argument("--write", action="store_true", help="only write the README again")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options.folder.mkdir(parents=True, exist_ok=True)
    path, runs = table_path(options.folder), options.folder / "runs.jsonl"
    if not options.write:
        rows = [row for row in ROWS if re.search(options.rows, row.name)]
        rows = [row for row in rows if options.all or not row.slow]
        rows = able(rows, Table(path).head)
        lines = runs.read_text().splitlines() if runs.exists() else []
        there = {(kept["row"], kept["repeat"], kept["budget"]) for kept in map(json.loads, lines)}
        missing = [
            (row, repeat)
            for repeat in range(options.repeats)
            for row in rows
            if (row.name, repeat, options.epochs) not in there
        ]
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that the pool starts
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, fresh) as pool, runs.open("a") as file:
            waiting = [pool.submit(run, *one, path, options.epochs) for one in missing]
            for done, future in enumerate(as_completed(waiting), 1):
                made = future.result()
                file.write(json.dumps(made, separators=(",", ":")) + "\n")
                file.flush()
                print(f"{done} of {len(missing)}: {made['row']}, {made['s']} s", flush=True)
    write(options.folder)


if __name__ == "__main__":
    main()
