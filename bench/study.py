"""A whole study: golf-opt with the native engine in 2 lanes, and a plain script in 2 processes.

    python -m bench.study [--epochs N] [--full]

Both train the same 12 candidates of c4-5-4 without pruning. The plain script (peers/plain_study.py)
would take hours, so that without --full every epoch of it ends after some steps and its wall-clock
time is put together from the time that each whole epoch would have taken: the sum over all trials,
divided by 2 processes, which is what it would be without any other loss. MNIST is read from
$GOLF_DATA (default data/).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from bench.report import machine, save

PLAIN = Path(__file__).parent / "peers" / "plain_study.py"
PROCESSES = 2
SAMPLED_STEPS = 60
SAMPLED_EPOCHS = 1


def candidates() -> list[dict[str, Any]]:
    """Return 12 fixed points of the article's search space."""
    draw = random.Random(0)
    return [
        {
            "batch_size": draw.randint(4, 32),
            "lr": 10 ** draw.uniform(-4, -2),
            "step_size": draw.randint(1, 6),
            "gamma": draw.uniform(0.1, 0.99),
        }
        for _ in range(12)
    ]


def run_plain(root: Path, folder: Path, epochs: int, full: bool) -> float:
    """Return the wall-clock seconds of the plain study."""
    points = folder / "candidates.json"
    points.write_text(json.dumps(candidates()))
    url = f"sqlite:///{folder}/plain.db"
    optuna.create_study(study_name="plain", storage=url, direction="maximize")
    limits = [str(epochs)] if full else [str(SAMPLED_EPOCHS), str(SAMPLED_STEPS)]
    command = [sys.executable, str(PLAIN), str(root), url, str(points), *limits]
    started = time.perf_counter()
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    outputs = [process.communicate()[0] for process in running]
    assert all(process.returncode == 0 for process in running), "the plain study failed"
    if full:
        return time.perf_counter() - started
    epoch_s = [
        float(line.split()[1])
        for output in outputs
        for line in output.splitlines()
        if line.startswith("epoch_s")
    ]
    return sum(epoch_s) / len(epoch_s) * len(candidates()) * epochs / PROCESSES


def run_golf(root: Path, folder: Path, epochs: int) -> dict[str, float]:
    """Return seconds: of the whole command, its processor time, of that the kernel's, of the loop.

    Processor time tells what the command itself costs: a host that runs other guests on the same
    cores takes a share of the wall-clock time that says nothing about it.
    """
    cpu_before = _children_cpu_s()
    started = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "golf_opt", "study", "arch=c4-5-4", "pruner=none"),
            *("data=mnist", f"data.root={root}", f"epochs={epochs}", "trials=12"),
            *("engine.name=native", f"engine.lanes={PROCESSES}", f"dir={folder}"),
            f"study.enqueue={_hydra(candidates())}",
        ],
        check=True,
    )
    wall_s = time.perf_counter() - started
    database = next(folder.glob("*.db"))
    url = f"sqlite:///{database}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=None, storage=url)
    ends = [trial.datetime_complete for trial in study.trials if trial.datetime_complete]
    starts = [trial.datetime_start for trial in study.trials if trial.datetime_start]
    return {
        "golf_s": wall_s,
        "cpu_s": _children_cpu_s() - cpu_before,
        "loop_s": (max(ends) - min(starts)).total_seconds(),
        "kernel_s": sum(float(trial.user_attrs["time_s"]) for trial in study.trials),
    }


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _hydra(points: list[dict[str, Any]]) -> str:
    """Return a list of mappings as Hydra's command line reads it."""
    rows = [",".join(f"{name}:{value!r}" for name, value in point.items()) for point in points]
    return "[" + ",".join("{" + row + "}" for row in rows) + "]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--full", action="store_true", help="run the plain study to its end")
    options = parser.parse_args()
    root = Path(os.environ.get("GOLF_DATA", "data")).absolute()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        golf = run_golf(root, folder / "golf", options.epochs)
        plain_s = run_plain(root, folder, options.epochs, options.full)
    result: dict[str, Any] = {
        "machine": machine(),
        "epochs": options.epochs,
        "plain_s": plain_s,
        "plain_is_measured_whole": options.full,
        **golf,
        "ratio": plain_s / golf["golf_s"],
        "cpu_share_outside_kernel": 1 - golf["kernel_s"] / golf["cpu_s"],
        "lane_share_outside_kernel": 1 - golf["kernel_s"] / (PROCESSES * golf["loop_s"]),
    }
    console = Console()
    console.print(f"plain script, {PROCESSES} processes  {plain_s:10.1f} s")
    console.print(f"golf-opt, {PROCESSES} lanes          {golf['golf_s']:10.1f} s")
    console.print(
        f"ratio {result['ratio']:.1f}; outside the kernel: "
        f"{100 * result['cpu_share_outside_kernel']:.1f}% of the command's processor time, "
        f"{100 * result['lane_share_outside_kernel']:.1f}% of the lanes' time in the loop"
    )
    console.print(f"{save('study', result)}")


if __name__ == "__main__":
    main()
