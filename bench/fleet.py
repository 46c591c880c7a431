"""Many workers on one PostgreSQL: trials a second and connections, with and without a proxy.

    python -m bench.fleet [--trials N] [--turns N]

1, 8 and 32 processes share one study; the objective costs nothing, so that the storage is all there
is to measure: ask, 4 suggestions of a random sampler, 5 reports, tell. `direct`: each process opens
the storage as golf-opt does. `grpc`: each speaks to Optuna's gRPC proxy, which alone holds
connections. The contestants take turns; a figure is the median over the turns. The script starts a
PostgreSQL of its own, with its defaults (fsync on, 100 connections), and a proxy for each turn.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import optuna
import psycopg
from optuna.storages import BaseStorage
from rich.console import Console
from rich.table import Table

from bench.report import save
from golf_opt.config import StorageConfig
from golf_opt.storage import PASSWORD_ENV, open_storage, take_password
from tests.postgres import Server, free_port, started

PROCESSES = (1, 8, 32)
WAYS = ("direct", "grpc")
REPORTS = 5
STUDY, WARM_UP = "fleet", "warm-up"
SAMPLE_S = 0.1  # between two counts of the connections


def connect(way: str, where: str) -> BaseStorage:
    """Open the storage: `where` is a URL, or the port of a proxy."""
    if way == "direct":
        return open_storage(StorageConfig(where, None))
    from optuna.storages import GrpcStorageProxy

    return GrpcStorageProxy(host="127.0.0.1", port=int(where))


def work(way: str, where: str, trials: int) -> None:
    """Be one of the processes: warm up, say that we are ready, wait for a line, do the trials."""
    storage = connect(way, where)
    do_trials(storage, WARM_UP, 2)
    print("ready", flush=True)
    sys.stdin.readline()
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
    """Be the proxy."""
    from optuna.storages import run_grpc_proxy_server

    run_grpc_proxy_server(open_storage(StorageConfig(url, None)), host="127.0.0.1", port=port)


def child(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "bench.fleet", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def proxy(url: str) -> Iterator[int]:
    """Run Optuna's gRPC proxy; give its port when it answers."""
    port = free_port()
    process = child("--serve", url, port)
    try:
        for _ in range(300):
            try:
                optuna.get_all_study_names(connect("grpc", str(port)))
                break
            except Exception:  # grpc has its own kind of error, and a private one
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.communicate()


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
    url, password = take_password(server.url(database))
    os.environ[PASSWORD_ENV] = password or ""
    storage = open_storage(StorageConfig(url, None))
    optuna.create_study(study_name=WARM_UP, storage=storage)
    study = optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
    each = trials // processes
    with proxy(url) if way == "grpc" else _nothing() as port:
        where = url if way == "direct" else port
        workers = [child("--work", way, where, each) for _ in range(processes)]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n", "a worker did not start"
        close(storage)  # our own connections do not count
        connections = Connections(server, database)
        connections.start()
        began = time.perf_counter()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            worker.communicate()
        seconds = time.perf_counter() - began
        connections.stop.set()
        connections.join()
    failed = sum(worker.returncode != 0 for worker in workers)
    complete = [trial.number for trial in study.get_trials(deepcopy=False) if trial.value]
    close(storage)
    return {
        "trials_per_s": len(complete) / seconds,
        "connections": connections.most,
        "lost": each * processes - len(set(complete)),
        "failed_processes": failed,
    }


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def close(storage: BaseStorage) -> None:
    """Give the connections back; the next call opens new ones."""
    storage.remove_session()
    backend = getattr(storage, "_backend", None)
    if backend is not None:
        backend.engine.dispose()


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
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    if options.work:
        work(*options.work[:2], trials=int(options.work[2]))
    elif options.serve:
        serve(options.serve[0], int(options.serve[1]))
    else:
        print(save("fleet", measure(options.trials, options.turns)))


if __name__ == "__main__":
    main()
