"""Check replays against live studies: the same rows, really trained, and what they pick confirmed.

    python -m bench.samplers.live [FOLDER] [--rows REGEX] [--repeats 3]

A line a study is appended to FOLDER/live.jsonl; the page of `compare` shows both side by side. What
a live study picks is trained with each seed that replays hold back. MNIST is read from $GOLF_DATA
(default data/).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.samplers.compare import EPOCHS, plan_of, study_of, table_of
from bench.samplers.record import seed_of
from bench.samplers.rows import ROWS, Row
from bench.samplers.shown import STUDIES
from golf_opt.config.schema import DataConfig
from golf_opt.engines.lanes import Run, train
from golf_opt.engines.native import NativeEngine
from golf_opt.study.build import describe
from golf_opt.study.callbacks import Checkpointing, Pruning
from golf_opt.task import data as data_sets


def live(row: Row, repeat: int, path: Path, budget: int) -> dict[str, Any]:
    """Run one study of a row for real, and confirm what it picks."""
    table = table_of(path)
    root = Path(os.environ.get("GOLF_DATA", "data"))
    view = data_sets.load(DataConfig(table.head["data"], root)).view(table.head["protocol"])
    plan = describe(plan_of(row, json.dumps(table.head), budget), view, "")
    with contextlib.closing(NativeEngine(view)) as engine:
        around = [Checkpointing(), Pruning()]
        made, params = study_of(row, repeat, table, budget, engine, view, around)
        values = dict(plan.search_space.fixed) | dict(params)
        most = max(max(seeds) for seeds in table.curves.values())
        seeds = [seed_of(seed) for seed in range(table.num_search_seeds, most + 1)]
        tests = []
        for run, part in train(engine, [Run(seed, plan.job_of(values, seed)) for seed in seeds]):
            if run.over and run.error is None:
                tensors = engine.state(part.lane).tensors
                tests.append(engine.evaluate(run.job.net, tensors, view.test))
    return made | {"params": params, "confirmed": round(fmean(tests), 6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=STUDIES)
    parser.add_argument("--rows", default="^(tpe median|random none)$")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    kept = options.folder / "live.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    there = {(made["row"], made["repeat"], made["budget"]) for made in map(json.loads, lines)}
    for repeat in range(options.repeats):
        for row in ROWS:
            asked = re.search(options.rows, row.name)
            if asked and (row.name, repeat, options.epochs) not in there:
                made = live(row, repeat, options.folder / "table.jsonl", options.epochs)
                with kept.open("a") as file:
                    file.write(json.dumps(made, separators=(",", ":")) + "\n")
                print(f"{row.name} {repeat}: {made['confirmed']}, {made['s']} s", flush=True)


if __name__ == "__main__":
    main()
