"""What keeping the books of a trial costs: golf-opt's storage and plain Optuna's, in one run.

    python -m bench.storage [--turns N]

One trial is: ask, 4 suggestions, 20 times report and should_prune (median pruner), tell. The study
has 1,000 finished trials already; 1, 8 or 64 trials are under way at a time. The sampler is
random, so that the storage is what is measured; TPE's own time is listed apart. Plain Optuna is
`optuna.create_study(storage=url)` as its documentation has it. The two take turns; a figure is the
median over the turns of wall-clock time a trial, the last write included. The script starts a
PostgreSQL of its own, with its defaults.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from rich.console import Console
from rich.table import Table

from bench.report import machine, save
from golf_opt.config.schema import StorageConfig
from golf_opt.storage.connect import open_storage
from golf_opt.storage.url import PASSWORD_ENV, take_password
from golf_opt.storage.workers import coordination, flush
from tests.postgres import started

FILLED, STEPS = 1_000, 20
RUNNING = (1, 8, 64)
WAVES = {1: 5, 8: 2, 64: 1}  # of trials under way together, a turn
LONG = 10_000  # trials of a long study
KINDS = ("sqlite", "postgres")
CONSOLE = Console()


def suggest(trial: optuna.Trial) -> None:
    trial.suggest_int("batch_size", 4, 32)
    trial.suggest_float("lr", 1e-5, 1e-2, log=True)
    trial.suggest_int("step_size", 1, 6)
    trial.suggest_float("gamma", 0.1, 0.99)


def wave(study: optuna.Study, running: int) -> None:
    """Take `running` trials from their ask to their tell, side by side."""
    trials = [study.ask() for _ in range(running)]
    for trial in trials:
        suggest(trial)
    for step in range(1, STEPS + 1):
        for trial in trials:
            trial.report(0.9 + trial.params["lr"] + 1e-4 * step, step)
            trial.should_prune()
    for trial in trials:
        study.tell(trial, 0.9 + trial.params["lr"])


def open_study(storage: BaseStorage, name: str) -> optuna.Study:
    return optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(), pruner=optuna.pruners.MedianPruner(),
    )  # fmt: skip


def fill(study: optuna.Study, count: int) -> None:
    for _ in range(count):
        wave(study, 1)
    flush(study)


def timed(study: optuna.Study, running: int) -> float:
    """Return milliseconds a trial."""
    begun = time.perf_counter()
    for _ in range(WAVES[running]):
        wave(study, running)
    flush(study)
    return 1e3 * (time.perf_counter() - begun) / (running * WAVES[running])


@contextmanager
def database(kind: str, folder: Path) -> Iterator[tuple[str, StorageConfig]]:
    """A fresh database: its URL with the password, and as golf-opt is told it."""
    if kind == "sqlite":
        url = f"sqlite:///{folder}/bench.db"
        yield url, StorageConfig(url, None)
        return
    with started() as server:
        url = server.url(server.create_database()).replace("postgresql:", "postgresql+psycopg:")
        bare, password = take_password(url)
        os.environ[PASSWORD_ENV] = password or ""
        yield url, StorageConfig(bare, None)
        del os.environ[PASSWORD_ENV]


def compare(kind: str, folder: Path, turns: int) -> dict[str, Any]:
    """Return milliseconds a trial of both, by trials under way, and of a long study."""
    with database(kind, folder) as (url, config):
        ours = open_storage(config)
        fill(open_study(ours, "mine"), FILLED)
        fill(open_study(ours, "plain"), FILLED)
        mine, plain = (
            open_study(ours, "mine"),
            open_study(optuna.storages.get_storage(url), "plain"),
        )
        rows: dict[str, Any] = {}
        for running in RUNNING:
            pairs = [(timed(plain, running), timed(mine, running)) for _ in range(turns)]
            plain_ms, mine_ms = (statistics.median(column) for column in zip(*pairs, strict=True))
            rows[str(running)] = {
                "plain_ms": plain_ms, "mine_ms": mine_ms, "ratio": plain_ms / mine_ms,
            }  # fmt: skip
        long = open_study(ours, "long")
        long.pruner = optuna.pruners.NopPruner()  # the median's own time grows with the study
        begun = time.perf_counter()
        fill(long, LONG)
        rows["long_s"] = time.perf_counter() - begun
        coordination(ours).close()
        plain._storage._backend.engine.dispose()
    return rows


def tpe_ms(count: int) -> float:
    """Return milliseconds that TPE itself takes for a trial, with `count` trials before it."""
    study = optuna.create_study(direction="maximize")
    draw = optuna.samplers.RandomSampler(seed=0)
    study.sampler = draw
    for _ in range(count):
        trial = study.ask()
        suggest(trial)
        study.tell(trial, trial.params["lr"])

    def once(sampler: optuna.samplers.BaseSampler) -> float:
        study.sampler = sampler
        begun = time.perf_counter()
        trial = study.ask()
        suggest(trial)
        taken = time.perf_counter() - begun
        study.tell(trial, trial.params["lr"])
        return 1e3 * taken

    tpe = optuna.samplers.TPESampler(seed=0)
    once(tpe)
    pairs = [(once(tpe), once(draw)) for _ in range(9)]
    return statistics.median(with_tpe - without for with_tpe, without in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    result: dict[str, Any] = {"machine": machine(), "filled": FILLED, "steps": STEPS}
    table = Table("storage", "running", "plain Optuna", "golf-opt", "ratio")
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            result[kind] = compare(kind, Path(folder), options.turns)
        for running in RUNNING:
            row = result[kind][str(running)]
            figures = (f"{row['plain_ms']:.1f} ms", f"{row['mine_ms']:.2f} ms")
            table.add_row(kind, str(running), *figures, f"{row['ratio']:.0f}")
    result["tpe_ms"] = {str(count): tpe_ms(count) for count in (100, 1_000, 5_000)}
    CONSOLE.print(table)
    tpe = ", ".join(f"{ms:.1f} at {count}" for count, ms in result["tpe_ms"].items())
    CONSOLE.print(f"TPE itself, milliseconds a trial: {tpe} trials")
    costs = ", ".join(f"{result[kind]['long_s']:.0f} s on {kind}" for kind in KINDS)
    CONSOLE.print(f"the books of {LONG:,} trials cost {costs}, sampler and pruner apart")
    CONSOLE.print(f"{save('storage', result)}")


if __name__ == "__main__":
    main()
