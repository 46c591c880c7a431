"""What a study costs as it grows: at 1,000, 10,000 and 100,000 trials, and what a million would.

    python -m bench.million [--trials 1000 10000 100000]

A study made by the real command is multiplied to so many trials of 18 epochs in SQLite. A worker
joins it, each size in a process of its own: it reads the study, and then asks for trials as another
worker finishes some. Then the dashboard is started on the study: until its first page is there, and
what its page asks for as it stays open. Times are of the processor, which others on the machine do
not change much; but for those of the first read and of the dashboard they are medians of nine.

An exponent says how a cost grows from the last size but one to the last, 1 with the study and 0 not
at all, and what a million trials would cost goes on with it. Nothing of that was run.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from bench.dashboard import EPOCHS, GOLF, get, large_study, process_cpu_s
from bench.report import machine, save
from golf_opt.config.schema import StorageConfig
from golf_opt.dashboard.metrics import Metrics
from golf_opt.dashboard.reading import ShownStorage
from golf_opt.manage.listing import study_row
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.optuna_internals import frozen, id_of_study, id_of_trial
from golf_opt.storage.workers import coordination
from golf_opt.study.build import allocation, sampler_maker
from golf_opt.study.description import description_of, find_study
from golf_opt.study.promotion import Promote
from golf_opt.study.pruners import MedianPruner
from golf_opt.study.samplers import FreshSampler
from golf_opt.study.space import build_space

SIZES = (1_000, 10_000, 100_000)
MILLION = 1_000_000
TURNS = 9
NAMES = {
    "read_s": "a worker reads the study, s",
    "memory_mb": "memory of that, MB",
    "refresh_ms": "reads what another worker finished, ms",
    "ask_ms": "makes a trial, ms",
    "take_ms": "takes one that waits, ms",
    "tell_ms": "writes 18 epochs and the result, ms",
    "leases_ms": "looks after other workers, ms",
    "spent_ms": "counts the epochs of a budget, ms",
    "tpe_ms": "TPE's choice of a point, ms",
    "median_ms": "the median pruner, once, ms",
    "choose_ms": "what a free lane does, ms",
    "promote_ms": "the same with pruner=promote, ms",
    "ls_ms": "a row of golf-opt ls, once read, ms",
    "metrics_ms": "/metrics, ms",
    "first_page_s": "golf-opt dashboard to its first page, s",
    "first_page_mb": "that page, MB",
    "page_ms": "what an open page asks for, ms",
    "server_mb": "memory of the dashboard, MB",
}


def timed_ms(call: Callable[[], Any]) -> float:
    begun = time.thread_time()
    call()
    return 1e3 * (time.thread_time() - begun)


def median_ms(call: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> float:
    """Return the median of what a call takes; what comes before each does not count."""
    times = []
    for _ in range(TURNS):
        before()
        times.append(timed_ms(call))
    return statistics.median(times)


def memory_mb(pid: int | str = "self") -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) / 1024


class Worker:
    """A worker on a study, and another one beside it, each with a storage of its own."""

    def __init__(self, mine: BaseStorage, theirs: BaseStorage) -> None:
        self.storage, self.workers = mine, coordination(mine)
        before_mb, begun = memory_mb(), time.thread_time()
        self.study = find_study(mine, "large")
        self.id = id_of_study(self.study)
        self.study.get_trials(deepcopy=False)
        self.read_s, self.memory_mb = time.thread_time() - begun, memory_mb() - before_mb
        self.other = optuna.Study("large", theirs)
        self.others = coordination(theirs)
        self.other.sampler = optuna.samplers.RandomSampler()
        plan = description_of(self.study)
        self.plan, self.space = plan, build_space(plan.space)
        for workers in (self.workers, self.others):
            workers.set_plan(self.id, 10 * MILLION)

    def finish(self, study: optuna.Study, trial: optuna.Trial) -> None:
        """Report and tell a trial, and write it."""
        for epoch in range(1, EPOCHS + 1):
            trial.report(0.5, epoch)
        study.tell(trial, 0.5)
        coordination(trial.storage).flush()

    def other_finishes(self) -> None:
        trial = self.other.ask()
        self.space.values(trial)
        self.finish(self.other, trial)

    def other_queues(self) -> None:
        self.other.enqueue_trial({"lr": 1e-3})
        self.workers.refresh(self.id)

    def take_waiting(self) -> None:
        waiting = self.storage.get_all_trials(self.id, False, (TrialState.WAITING,))
        assert self.storage.set_trial_state_values(id_of_trial(waiting[0]), TrialState.RUNNING)

    def costs(self) -> dict[str, float]:
        """Return what this worker's calls take, in milliseconds."""
        study, asked = self.study, []

        def ask() -> None:
            asked.append(study.ask())

        study.sampler = self.other.sampler
        found = {
            "refresh_ms": median_ms(lambda: self.workers.refresh(self.id), self.other_finishes)
        }
        found["ask_ms"] = median_ms(ask)
        found["tell_ms"] = median_ms(lambda: self.finish(study, asked.pop()))
        found["take_ms"] = median_ms(self.take_waiting, self.other_queues)
        found["leases_ms"] = median_ms(lambda: self.workers.leases(self.id))
        found["spent_ms"] = median_ms(lambda: self.workers.epochs_spent(self.id))
        study.sampler = FreshSampler(sampler_maker(self.plan, self.space))
        found["tpe_ms"] = median_ms(lambda: self.space.values(asked[-1]), ask)
        asked[-1].report(0.5, 9)
        pruner, trial = MedianPruner(5, 3), frozen(asked[-1])
        found["median_ms"] = median_ms(lambda: pruner.prune(study, trial), self.finish_one)
        for name, rule in (("choose_ms", pruner), ("promote_ms", Promote(1, 3))):
            rules = allocation(self.plan, rule)
            found[name] = median_ms(lambda: rules.choose(study.get_trials(deepcopy=False)))  # noqa: B023
        found["ls_ms"] = median_ms(lambda: study_row(study))
        reader = ShownStorage(self.workers.reader)
        metrics = Metrics(reader, self.storage)
        metrics.text()  # reads the study
        found["metrics_ms"] = median_ms(metrics.text)
        return found

    def finish_one(self) -> None:
        """Let a trial of this worker finish: what pruners know of the finished ones is old."""
        self.finish(self.study, self.study.ask())


def worker_costs(database: str) -> dict[str, float]:
    """Be a process that joins the study."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    config = StorageConfig(f"sqlite:///{database}", None)
    with opened_storage(config) as mine, opened_storage(config) as theirs:
        worker = Worker(mine, theirs)
        return {"read_s": worker.read_s, "memory_mb": worker.memory_mb, **worker.costs()}


def dashboard_costs(folder: Path, trials: int) -> dict[str, float]:
    """Return what the dashboard takes, from its start on."""
    command = [*GOLF, "dashboard", f"dir={folder}", "dashboard.port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        page = f"{process.stdout.readline().split()[1]}api/studies/1"
        body = get(page)
        first_s = process_cpu_s(process.pid)
        there = len(json.loads(body)["trials"])
        assert there >= trials
        return {
            "first_page_s": first_s,
            "first_page_mb": len(body) / 1e6,
            "page_ms": polled_ms(process.pid, f"{page}?after={there}"),
            "server_mb": memory_mb(process.pid),
        }
    finally:
        process.terminate()
        process.wait(60)


def polled_ms(pid: int, page: str) -> float:
    begun = process_cpu_s(pid)
    for _ in range(TURNS):
        get(page)
    return 1e3 * (process_cpu_s(pid) - begun) / TURNS


def measure(trials: int, folder: Path) -> dict[str, float]:
    folder.mkdir()
    database = large_study(folder, trials)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        found = pool.submit(worker_costs, str(database)).result()
    return found | dashboard_costs(folder, trials)


def grown(sizes: Sequence[int], costs: Sequence[float]) -> tuple[float, float]:
    """Return the exponent with which a cost grows, and what it comes to at a million trials."""
    (few, many), (less, more) = sizes[-2:], costs[-2:]
    exponent = math.log(max(more, 1e-9) / max(less, 1e-9)) / math.log(many / few)
    return exponent, more * (MILLION / many) ** max(0.0, exponent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=SIZES)
    sizes = sorted(parser.parse_args().trials)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        for trials in sizes:
            rows.append(measure(trials, Path(name) / str(trials)))
            report(sizes[: len(rows)], rows)


def report(sizes: Sequence[int], rows: Sequence[dict[str, float]]) -> None:
    """Show and save what was measured so far, and what follows from it."""
    table = Table("", *(f"{size:,}" for size in sizes), "exponent", "1,000,000 (extrapolated)")
    result: dict[str, Any] = {}
    for key, title in NAMES.items():
        costs = [row[key] for row in rows]
        exponent, million = grown(sizes, costs) if len(sizes) > 1 else (0.0, costs[-1])
        shown = [f"{cost:,.1f}" if cost < 100 else f"{cost:,.0f}" for cost in (*costs, million)]
        table.add_row(title, *shown[:-1], f"{exponent:.2f}", shown[-1])
        result[key] = {"measured": costs, "exponent": exponent, "million": million}
    Console().print(table)
    about = {"machine": machine(), "load": os.getloadavg()[0], "epochs": EPOCHS, "turns": TURNS}
    print(save("million", {**about, "trials": list(sizes), "costs": result}), flush=True)


if __name__ == "__main__":
    main()
