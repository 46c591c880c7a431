"""How the native engine's work grows with its lanes: epochs a second with 1 lane and with more.

    python -m bench.lanes

The numbers of lanes take turns; a figure is the median over the turns. MNIST is read from
$GOLF_DATA (default data/).
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from rich.console import Console

from bench.report import machine, save
from golf_opt.config.schema import DataConfig
from golf_opt.engines.base import Job
from golf_opt.engines.native import NativeEngine
from golf_opt.engines.native.engine import physical_cores
from golf_opt.task import data
from golf_opt.task.data import View
from golf_opt.task.grammar import load_arch
from golf_opt.task.recipe import Candidate

TURNS = 7
EPOCHS = 4


def epochs_per_s(view: View, lanes: int) -> float:
    """Train a job of EPOCHS epochs in each lane; return finished epochs a second."""
    engine = NativeEngine(view, lanes)
    net = load_arch("c4-5-4")
    started = time.perf_counter()
    for lane in range(lanes):
        engine.start(lane, Job(net, Candidate(16, 1e-3), seed=lane, epochs=EPOCHS))
    done = 0
    while done < lanes * EPOCHS:
        done += sum(part.result is not None for part in engine.step())
    seconds = time.perf_counter() - started
    engine.close()
    return done / seconds


def main() -> None:
    view = data.load(DataConfig("mnist", Path(os.environ.get("GOLF_DATA", "data")))).view("test")
    counts = [1, physical_cores()]
    epochs_per_s(view, 1)  # compiles
    turns = [[epochs_per_s(view, lanes) for lanes in counts] for _ in range(TURNS)]
    rates = {str(n): statistics.median(t[i] for t in turns) for i, n in enumerate(counts)}
    ratio = statistics.median(turn[-1] / turn[0] for turn in turns)
    Console().print(f"{counts[-1]} lanes do {ratio:.2f} times the work of 1 (c4-5-4, batch 16)")
    save("lanes", {"machine": machine(), "epochs_per_s": rates, "ratio": ratio})


if __name__ == "__main__":
    main()
