"""Two hundred workers on one PostgreSQL with its defaults: how long an ask takes, and what is lost.

    python -m bench.crowd [--workers 200] [--trials 10000] [--trial-s 20]

Each worker is a process with a storage of its own, as golf-opt opens it. It asks for a trial (4
suggestions of a random sampler), sleeps through 5 epochs and reports each, tells the result, and
looks after other workers once a second, until the study has its total. First as many workers as
PostgreSQL takes, which lets in 100 clients, do a tenth of the trials; then all workers do all, with
a PgBouncer in transaction mode between.

Workers, PgBouncer and PostgreSQL share this machine: where each worker has one of its own, an ask
waits for less. `ask` is the storage's part; what a sampler takes is in `bench.million`. The first
ask of each worker, which makes its connection and compiles its statements, is told by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from bench.fleet import CONTEXT, START_LIMIT_S, Connections, quiet
from bench.report import machine, save
from golf_opt.config.schema import StorageConfig
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.optuna_internals import id_of_study, new_trial
from golf_opt.storage.url import PASSWORD_ENV, take_password
from golf_opt.storage.workers import coordination
from golf_opt.storage.write_behind import BudgetSpent
from golf_opt.utils.processes import WORKER, worker_id
from tests.pgbouncer import before
from tests.postgres import PASSWORD, Server, started

STUDY, EPOCHS = "crowd", 5
LOOK_S = 1.0  # between two looks at other workers, as the study's loop has it
BOUNCER_POOL = 20  # connections from PgBouncer to PostgreSQL, its default
DIRECT = 90  # workers without PgBouncer
START_S = 0.2  # from one worker's start to the next one's, as an engine would: one takes as long
MARK_MS, PROGRESS_S = 50.0, 30


def work(url: str, total: int, trial_s: float, start: Any, done: Any, told: Path) -> None:
    """Be a worker; write how long each ask took, in seconds."""
    quiet()
    asks = []
    with opened_storage(StorageConfig(url, None)) as storage:
        study = optuna.load_study(
            study_name=STUDY, storage=storage, sampler=optuna.samplers.RandomSampler()
        )
        workers, study_id = coordination(storage), id_of_study(study)
        workers.set_plan(study_id, total)
        draw, looked = random.Random(os.getpid()), time.monotonic()
        start.wait()
        time.sleep(draw.uniform(0, trial_s))  # not all of them ask at the same moments
        while True:
            begun = time.perf_counter()
            try:
                trial = new_trial(study)
            except BudgetSpent:
                break
            asks.append(time.perf_counter() - begun)
            value = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
            trial.suggest_float("gamma", 0.1, 0.99)
            trial.suggest_int("batch_size", 4, 32)
            trial.suggest_int("step_size", 1, 6)
            trial.set_user_attr(WORKER, worker_id())
            for epoch in range(1, EPOCHS + 1):
                time.sleep(trial_s / EPOCHS * draw.uniform(0.5, 1.5))
                trial.report(value, epoch)
                if time.monotonic() - looked > LOOK_S:
                    looked = time.monotonic()
                    workers.requeue_dead(study_id)
            study.tell(trial, value)
            with done.get_lock():
                done.value += 1
    (told / f"{os.getpid()}.json").write_text(json.dumps(asks))


def crowd(server: Server, through: Server, workers: int, total: int, trial_s: float) -> Any:
    """Run a study of so many workers; return what was seen."""
    database = server.create_database()
    url, _ = take_password(through.url(database))
    config = StorageConfig(url, None)
    with opened_storage(config) as storage:
        optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
    start, done = CONTEXT.Barrier(workers + 1), CONTEXT.Value("i", 0)
    with tempfile.TemporaryDirectory() as name:
        given = (url, total, trial_s, start, done, Path(name))
        processes = [CONTEXT.Process(target=work, args=given) for _ in range(workers)]
        for process in processes:
            process.start()
            time.sleep(START_S)
        connections = Connections(server, database)
        connections.start()
        start.wait(START_LIMIT_S)
        time.sleep(1)
        idle, begun = connections.most, time.perf_counter()
        for process in processes:
            while process.is_alive():
                process.join(PROGRESS_S)
                print(f"{done.value:,} of {total:,} trials", flush=True)
        seconds = time.perf_counter() - begun
        connections.stop.set()
        connections.join()
        asks = [json.loads(path.read_text()) for path in Path(name).iterdir()]
    with opened_storage(config) as storage:
        trials = optuna.load_study(study_name=STUDY, storage=storage).trials
    whole = [
        trial.number for trial in trials
        if trial.state == TrialState.COMPLETE and trial.value == trial.params["lr"]
        and trial.intermediate_values == dict.fromkeys(range(1, EPOCHS + 1), trial.value)
    ]  # fmt: skip
    return {
        "workers": workers,
        "trials": total,
        "made": len(trials),
        "lost": total - len({*whole} & {*range(total)}),
        "failed_processes": sum(process.exitcode != 0 for process in processes),
        "seconds": seconds,
        "busy": len(trials) * trial_s / (seconds * workers),
        "ask_ms": percentiles_ms([s for own in asks for s in own[1:]]),
        "first_ask_ms": percentiles_ms([s for own in asks for s in own[:1]]),
        "connections_at_the_start": idle,
        "connections_most": connections.most,
    }


def percentiles_ms(seconds: list[float]) -> dict[str, float]:
    return {str(p): 1e3 * float(np.percentile(seconds, p)) for p in (50, 95, 99, 100)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--trial-s", type=float, default=20.0)
    options = parser.parse_args()
    quiet()
    os.environ[PASSWORD_ENV] = PASSWORD  # of every database that the server will have
    CONTEXT.set_forkserver_preload(["bench.fleet", "golf_opt.storage.connect", "tests.pgbouncer"])
    rows = {}
    with started() as server:
        direct = min(DIRECT, options.workers)
        ways = {
            "direct": (nullcontext(server), direct, options.trials // 10),
            "pgbouncer": (before(server, BOUNCER_POOL), options.workers, options.trials),
        }
        for way, (opened, workers, trials) in ways.items():
            with opened as through:
                rows[way] = crowd(server, through, workers, trials, options.trial_s)
                print(way, rows[way], flush=True)
    table = Table("way", "workers", "trials", "lost", "ask p50", "p99", "most", "connections")
    for way, row in rows.items():
        asks = [f"{row['ask_ms'][p]:.1f} ms" for p in ("50", "99", "100")]
        shown = (row["workers"], row["made"], row["lost"], *asks, row["connections_most"])
        table.add_row(way, *map(str, shown))
    Console().print(table)
    about = {"machine": machine(), "load": os.getloadavg()[0], "mark_ms": MARK_MS}
    print(save("crowd", {**about, "trial_s": options.trial_s, "epochs": EPOCHS, "ways": rows}))


if __name__ == "__main__":
    main()
