"""Images per second of one core: the native engine, its peers, and the core's limit.

    python -m bench.engines [--quick] [--data FILE --net NAME]

Same net, weights, batch size and data; one core for everybody. The contestants take turns, and a
figure is the median over the turns. Peers run for a share of an epoch. Compile times are kept out
by a warm-up. MNIST is read from $GOLF_DATA (default data/). With other data, `data=` of golf-opt,
one net is held against eager PyTorch alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.table import Table

from bench.peers.jax_scan import Scan, supports
from bench.peers.pytorch import Compiled, Eager, Tutorial
from bench.report import PICTURES, machine, save, slug
from golf_opt.config.schema import DataConfig
from golf_opt.engines.base import Job
from golf_opt.engines.native import NativeEngine, library
from golf_opt.engines.native.codegen import group_layers
from golf_opt.task import data, layers
from golf_opt.task.arch import Net
from golf_opt.task.data import Split, View
from golf_opt.task.grammar import load_arch
from golf_opt.task.recipe import Candidate

NETS = ("c4-5-4", "c8-5-4", "c4-5-4-prelu", "deepml-separable")
BATCH_SIZES = (4, 8, 14, 16, 32, 128)
SLOW_TO_COMPILE = ((14, 128), "c4-5-4")  # torch.compile and JAX: there only
DISTORTIONS = {
    "shift": 2.0, "rotate": 15.0, "scale": 0.1, "shear": 0.1, "elastic": 1.5, "erase": 0.3,
}  # fmt: skip
TURNS = 5
TURN_S = 0.8  # of a peer


class Contestant(Protocol):
    name: str

    def run(self, steps: int) -> int: ...


class Native:
    """Whole epochs of the engine in one lane; its evaluation has one image to look at."""

    def __init__(
        self, net: Net, train: Split, batch_size: int, name: str = "native", **recipe: Any
    ) -> None:
        self.name = name
        one = train.take("one", train.labels[:1].astype("int64") * 0)
        view = View("bench", "test", train, one, one, digest="", input=net.input)
        self.engine = NativeEngine(view, lanes=1)
        self.job = Job(net, Candidate(batch_size, 1e-3, **recipe), 0, 1)
        self.images = len(train)

    def run(self, steps: int) -> int:
        self.engine.start(0, self.job)
        while not any(part.result for part in self.engine.step()):
            pass
        self.engine.stop(0)
        return self.images


def flops_per_image(net: Net) -> int:
    """Return the floating-point operations of one training step per image.

    Two for each weight and position: forward, for the weights' gradients and, but for the first
    layer, for the inputs'. Only sums that a pool looks at count.
    """
    total, trained = 0, 0
    for group in group_layers(net.nodes):
        layer, out = group.node.layer, group.node.output_shape
        if not isinstance(layer, (layers.Conv, layers.Linear)):
            continue
        weights = group.node.layer.parameters(group.node.input_shape)[0].size
        side = [2 * (n // 2) if group.pool else n for n in out[1:]]
        positions = side[0] * side[1] if side else 1
        total += 2 * weights * positions * (3 if trained else 2)
        trained += 1
    return total


def peak_gflops() -> Callable[[], float]:
    """Compile the loop of fused multiply-adds; return what measures it once."""
    folder = Path(tempfile.mkdtemp())
    kernel = Path(library.__file__).parent / "kernel"
    source = Path(__file__).parent / "peak.cpp"
    command = [*library.require_compiler(), *library._flags(), f"-I{kernel}", str(source)]
    subprocess.run([*command, "-o", str(folder / "peak")], check=True)

    def measure() -> float:
        run = subprocess.run([folder / "peak"], capture_output=True, text=True, check=True)
        return float(run.stdout)

    return measure


def contestants(net: Net, train: Split, batch_size: int, quick: bool) -> list[Contestant]:
    chosen: list[Contestant] = [Native(net, train, batch_size), Eager(net, train, batch_size)]
    if (net.name, batch_size) == ("c4-5-4", 32):
        chosen.append(Native(net, train, batch_size, "distorted", **DISTORTIONS))
    if not quick:
        chosen.append(Tutorial(net, train, batch_size))
        if batch_size in SLOW_TO_COMPILE[0] and net.name == SLOW_TO_COMPILE[1]:
            chosen.append(Compiled(net, train, batch_size))
            if supports(net):
                chosen.append(Scan(net, train, batch_size))
    return chosen


def measure(chosen: list[Contestant], turns: int) -> dict[str, float]:
    """Return images per second by name, the median over interleaved turns."""
    steps, rates = {}, {contestant.name: [] for contestant in chosen}  # type: ignore[var-annotated]
    for contestant in chosen:
        contestant.run(20)  # compiles and warms up
        started = time.perf_counter()
        contestant.run(20)
        steps[contestant.name] = max(20, int(20 * TURN_S / (time.perf_counter() - started)))
        if isinstance(contestant, Scan):
            contestant.run(steps[contestant.name])  # another length is another program
    for _ in range(turns):
        for contestant in chosen:
            started = time.perf_counter()
            images = contestant.run(steps[contestant.name])
            rates[contestant.name].append(images / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in rates.items()}


def table_of(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="training, images per second on one core")
    peers = list(dict.fromkeys(name for row in rows for name in row["images_per_s"]))
    for column in ("net", "batch", *peers, "native / eager", "GFLOP/s", "of the peak"):
        table.add_column(column, justify="left" if column == "net" else "right")
    for row in rows:
        rates = row["images_per_s"]
        cells = [f"{rates[name]:,.0f}" if name in rates else "" for name in peers]
        last = [f"{row['ratio']:.1f}", f"{row['gflops']:.0f}", f"{100 * row['peak_share']:.0f}%"]
        table.add_row(row["net"], str(row["batch_size"]), *cells, *last)
    return table


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for net in dict.fromkeys(row["net"] for row in rows):
        mine = [row for row in rows if row["net"] == net]
        axes.plot([r["batch_size"] for r in mine], [r["ratio"] for r in mine], "o-", label=net)
    axes.set(xscale="log", xlabel="batch size", ylabel="images per second, native / eager PyTorch")
    axes.set_xticks(BATCH_SIZES, [str(size) for size in BATCH_SIZES])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="c4-5-4 against eager only, 3 turns")
    parser.add_argument("--data", default="mnist", help="of golf-opt")
    parser.add_argument("--net", help="one net instead of those of the benchmark")
    asked = parser.parse_args()
    quick = asked.quick or asked.data != "mnist"
    console = Console(width=120)
    about = machine()
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})  # one core for everybody
    torch.set_num_threads(1)
    root = Path(os.environ.get("GOLF_DATA", "data"))
    found = data.load(DataConfig(asked.data, root))
    train = found.train
    peak = peak_gflops()
    rows: list[dict[str, Any]] = []
    for name in [asked.net] if asked.net else NETS[:1] if quick else NETS:
        net = load_arch(name, found.input)
        for batch_size in BATCH_SIZES:
            limits = [peak()]
            rates = measure(contestants(net, train, batch_size, quick), 3 if quick else TURNS)
            limits.append(peak())
            gflops = rates["native"] * flops_per_image(net) / 1e9
            limit = statistics.median(limits)
            rows.append(
                {
                    "net": name,
                    "batch_size": batch_size,
                    "images_per_s": rates,
                    "ratio": rates["native"] / rates["eager"],
                    "gflops": gflops,
                    "peak_gflops": limit,
                    "peak_share": gflops / limit,
                }
            )
            console.print(f"{name} batch {batch_size}: {rows[-1]['ratio']:.1f} times eager")
    console.print(table_of(rows))
    suffix = "-quick" if quick else ""
    if asked.data != "mnist":
        suffix = f"-{slug(Path(asked.data).stem)}"
    path = save(f"engines{suffix}", {"machine": about, "rows": rows})
    if not quick:
        plot(rows, PICTURES / f"engines-{slug(about['cpu'])}.png")
    console.print(f"{path}")


if __name__ == "__main__":
    main()
