"""Compare samplers, pruners and ways with seeds at an equal budget of epochs, on a recorded table.

    python -m bench.samplers.compare [FOLDER] [--repeats 20] [--epochs 900] [--rows REGEX]
        [--jobs N] [--write]

The real study loop runs with an engine that replays the table (see `replay`). FOLDER, which is
studies/samplers by default, holds `table.jsonl`; a line a study is appended to `runs.jsonl`, so
that the same command goes on where it stopped. Then the folder's README.md and its picture are
written from these lines. --write does nothing but that.

A row that this golf-opt cannot run, since it has no such key or choice, is skipped with a word.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from omegaconf.errors import OmegaConfBaseException

from bench.report import ROOT
from bench.samplers.replay import Remembering, ReplayEngine, Spent
from bench.samplers.rows import ROWS, Row
from bench.samplers.table import Table
from golf_opt.cli.compose import compose
from golf_opt.config.check import load
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import StudyConfig
from golf_opt.study.build import build_parts
from golf_opt.study.callbacks import Callback, Pruning, StudyContext, TrialRun
from golf_opt.study.description import describe
from golf_opt.study.loop import StudyLoop
from golf_opt.study.opening import open_study
from golf_opt.utils.trials import best_trial

FOLDER = ROOT / "studies" / "samplers"
EPOCHS = 900  # of a study: fifty trials of the article's eighteen
REPEATS = 20
NO_END = 10_000  # trials: the budget ends a study


class Picks(Callback):
    """Takes note of what the study would pick, whenever that changes: [epochs spent, point]."""

    def __init__(self, engine: ReplayEngine) -> None:
        self._engine = engine
        self.made: list[tuple[int, int]] = []

    def look(self) -> None:
        best = best_trial(self.context.study)
        if best is None:
            return
        point = self._engine.table.nearest(best.params)
        if not self.made or self.made[-1][1] != point:
            self.made.append((self._engine.spent, point))

    def on_trial_finished(self, run: TrialRun) -> None:
        self.look()


@cache
def table_of(path: Path) -> Table:
    return Table(path)


@cache
def plan_of(row: Row, head: str) -> StudyConfig:
    """Return the configuration of a row's studies.

    Raises:
        UsageError, OmegaConfBaseException: this golf-opt does not know what the row asks for.
    """
    table = json.loads(head)
    trials = 81 if "sampler=grid" in row.asks else NO_END
    fixed = (f"epochs={table['epochs']}", f"protocol={table['protocol']}", f"trials={trials}")
    config = load(
        StudyConfig, compose("study", ["data=mnist", "storage=memory", *fixed, *row.asks])
    )
    changed = {"arch": table["arch"], "space": table["space"]}
    for name, value in changed.items():
        object.__setattr__(config, name, value)
    return config


def run(row: Row, repeat: int, path: Path, budget: int) -> dict[str, Any]:
    """Run one study of a row; return what it came to."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    table, began = table_of(path), time.perf_counter()
    config = plan_of(row, json.dumps(table.head))
    object.__setattr__(config, "seed", repeat)
    view = table.view()
    engine = ReplayEngine(table, budget, seed=repeat)
    parts = build_parts(config, {})
    picks = Picks(engine)
    parts.callbacks.extend([Remembering(), Pruning(), picks])
    with tempfile.TemporaryDirectory() as folder:
        description = describe(config, view, "")
        storage = optuna.storages.InMemoryStorage()
        study, _ = open_study(storage, "compared", description)
        context = StudyContext(study, engine, Path(folder), description, view, lambda _: None)
        with contextlib.suppress(Spent):
            StudyLoop(context, parts).run()
    picks.look()
    trials = study.get_trials(deepcopy=False)
    best = best_trial(study)
    assert best is not None, f"{row.name} completed nothing"
    return {
        "row": row.name,
        "repeat": repeat,
        "budget": budget,
        "spent": engine.spent,
        "trials": dict(Counter(trial.state.name.lower() for trial in trials)),
        "points": len({tuple(sorted(trial.params.items())) for trial in trials}),
        "seen": best.value,
        "point": picks.made[-1][1],
        "confirmed": round(table.confirmed(picks.made[-1][1]), 6),
        "held_back": table.is_held_back(picks.made[-1][1]),
        "picks": [[spent, round(table.confirmed(point), 6)] for spent, point in picks.made],
        "s": round(time.perf_counter() - began, 2),
    }


def able(rows: list[Row], head: dict[str, Any]) -> list[Row]:
    """Return the rows that this golf-opt can run; say why the others are skipped."""
    kept = []
    for row in rows:
        try:
            plan_of(row, json.dumps(head))
        except (UsageError, OmegaConfBaseException, Exception) as error:
            print(f"skipped {row.name}: {str(error).splitlines()[0]}")
        else:
            kept.append(row)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rows", default="")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--write", action="store_true", help="only write the README again")
    options = parser.parse_args()
    path, runs = options.folder / "table.jsonl", options.folder / "runs.jsonl"
    if not options.write:
        rows = [row for row in ROWS if re.search(options.rows, row.name)]
        rows = able(rows, Table(path).head)
        lines = runs.read_text().splitlines() if runs.exists() else []
        there = {(kept["row"], kept["repeat"], kept["budget"]) for kept in map(json.loads, lines)}
        missing = [
            (row, repeat)
            for repeat in range(options.repeats)
            for row in rows
            if (row.name, repeat, options.epochs) not in there
        ]
        with ProcessPoolExecutor(options.jobs) as pool, runs.open("a") as file:
            waiting = [pool.submit(run, *one, path, options.epochs) for one in missing]
            for done, future in enumerate(as_completed(waiting), 1):
                made = future.result()
                file.write(json.dumps(made, separators=(",", ":")) + "\n")
                file.flush()
                print(f"{done} of {len(missing)}: {made['row']}, {made['s']} s", flush=True)
    from bench.samplers.shown import write

    write(options.folder)


if __name__ == "__main__":
    main()
