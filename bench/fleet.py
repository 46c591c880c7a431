"""Many workers on one PostgreSQL: trials a second and connections, with and without a proxy.

    python -m bench.fleet [--trials N] [--turns N]

1, 8 and 32 processes share one study; the objective costs nothing, so that the storage is all there
is to measure: ask, 4 suggestions of a random sampler, 5 reports, tell.

    golf    each process opens the storage as golf-opt does
    optuna  each opens Optuna's own
    grpc    each speaks to Optuna's gRPC proxy, which alone holds connections

The contestants take turns; a figure is the median over the turns. The script starts a PostgreSQL of
its own, with its defaults (fsync on, 100 connections), and a proxy for each turn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import socket
import statistics
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import metadata
from typing import Any

import optuna
import psycopg
from optuna.storages import BaseStorage
from rich.console import Console
from rich.table import Table

from bench.report import save
from golf_opt.config.schema import StorageConfig
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.url import PASSWORD_ENV, storage_url, take_password
from tests.postgres import PASSWORD, Server, free_port, started

PROCESSES = (1, 8, 32)
WAYS = ("golf", "optuna", "grpc")
REPORTS = 5
STUDY, WARM_UP = "fleet", "warm-up"
SAMPLE_S = 0.1  # between two counts of the connections
GRPC = ("grpc", "optuna.storages._grpc.client", "optuna.storages._grpc.servicer")
START_LIMIT_S = 600
CONTEXT = multiprocessing.get_context("forkserver")  # processes that need not import again


@contextmanager
def opened(way: str, where: str) -> Iterator[BaseStorage]:
    """Open the storage: `where` is a URL, or the port of a proxy."""
    if way == "golf":
        with opened_storage(StorageConfig(where, None)) as storage:
            yield storage
    elif way == "optuna":
        yield optuna.storages.get_storage(with_driver(where))
    else:
        yield optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=int(where))


def with_driver(url: str) -> str:
    return storage_url(StorageConfig(url, None)).render_as_string(hide_password=False)


def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def work(way: str, where: str, trials: int, start: Any) -> None:
    """Be one of the processes: warm up, wait for the others, do the trials."""
    quiet()
    with opened(way, where) as storage:
        do_trials(storage, WARM_UP, 2)
        start.wait()
        do_trials(storage, STUDY, trials)


def do_trials(storage: BaseStorage, name: str, trials: int) -> None:
    study = optuna.load_study(
        study_name=name,
        storage=storage,
        sampler=optuna.samplers.RandomSampler(),
        pruner=optuna.pruners.NopPruner(),
    )
    for _ in range(trials):
        trial = study.ask()
        value = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
        trial.suggest_float("gamma", 0.1, 0.99)
        trial.suggest_int("batch_size", 4, 32)
        trial.suggest_int("step_size", 1, 6)
        for step in range(REPORTS):
            trial.report(value, step)
        study.tell(trial, value)


def serve(url: str, port: int) -> None:
    """Be the proxy, as Optuna's manual has it."""
    quiet()
    storage = optuna.storages.get_storage(with_driver(url))
    optuna.storages.run_grpc_proxy_server(storage, host="127.0.0.1", port=port)


@contextmanager
def proxy(url: str) -> Iterator[int]:
    """Run Optuna's gRPC proxy; give its port when it listens."""
    port = free_port()
    process = CONTEXT.Process(target=serve, args=(url, port))
    process.start()
    try:
        while process.is_alive():
            with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.join()


class Connections(threading.Thread):
    """Counts the connections to a database, but for its own; `most` is the highest count."""

    def __init__(self, server: Server, database: str) -> None:
        super().__init__(daemon=True)
        self.most, self.stop = 0, threading.Event()
        self._database, self._connection = database, server.connect()

    def run(self) -> None:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        with self._connection as connection:
            while not self.stop.wait(SAMPLE_S):
                row = connection.execute(query, (self._database,)).fetchone()
                self.most = max(self.most, row[0] if row else 0)


def turn(server: Server, way: str, processes: int, trials: int) -> dict[str, float]:
    """Return trials a second, the most connections at a time, and trials that are missing."""
    database = server.create_database()
    url, _ = take_password(server.url(database))
    own = StorageConfig(url, None)
    with opened_storage(own) as storage:
        for name in (WARM_UP, STUDY):
            optuna.create_study(study_name=name, storage=storage, direction="maximize")
    each = trials // processes
    start = CONTEXT.Barrier(processes + 1)
    with proxy(url) if way == "grpc" else nullcontext(url) as where:
        workers = [
            CONTEXT.Process(target=work, args=(way, str(where), each, start))
            for _ in range(processes)
        ]
        for worker in workers:
            worker.start()
        connections = Connections(server, database)
        connections.start()
        start.wait(START_LIMIT_S)
        began = time.perf_counter()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - began
        connections.stop.set()
        connections.join()
    with opened_storage(own) as storage:
        study = optuna.load_study(study_name=STUDY, storage=storage)
        numbers = {trial.number for trial in study.trials if trial.value is not None}
    return {
        "trials_per_s": len(numbers) / seconds,
        "connections": connections.most,
        "lost": each * processes - len(numbers),
        "failed_processes": sum(worker.exitcode != 0 for worker in workers),
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="trials a second on one PostgreSQL")
    for column in ("processes", "way", "trials/s", "connections", "lost trials"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["processes"]),
            row["way"],
            f"{row['trials_per_s']:.1f}",
            str(row["connections"]),
            str(row["lost"]),
        )
    return table


def measure(trials: int, turns: int) -> dict[str, Any]:
    console = Console()
    found: dict[tuple[int, str], list[dict[str, float]]] = {
        (processes, way): [] for processes in PROCESSES for way in WAYS
    }
    with started() as server:
        with server.connect() as connection:
            version = connection.info.server_version // 10_000
        for _ in range(turns):
            for (processes, way), results in found.items():
                results.append(turn(server, way, processes, trials))
                console.print(f"{processes:>3} {way:<6} {results[-1]}")
    rows = [
        {
            "processes": processes,
            "way": way,
            "trials_per_s": statistics.median(r["trials_per_s"] for r in results),
            "connections": max(r["connections"] for r in results),
            "lost": sum(r["lost"] for r in results),
            "failed_processes": sum(r["failed_processes"] for r in results),
        }
        for (processes, way), results in found.items()
    ]
    console.print(table_of(rows))
    return {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "postgres": version,
        "psycopg": psycopg.__version__,
        **{name: metadata.version(name) for name in ("optuna", "sqlalchemy", "grpcio")},
        "trials": trials,
        "turns": turns,
        "reports": REPORTS,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=320, help="of a turn, all processes together")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    quiet()
    os.environ[PASSWORD_ENV] = PASSWORD  # of every database that the server will have
    CONTEXT.set_forkserver_preload(
        ["bench.report", "golf_opt.storage.connect", "rich.table", "tests.postgres", *GRPC]
    )
    print(save("fleet", measure(options.trials, options.turns)))


if __name__ == "__main__":
    main()
