"""One GPU, one run: golf-opt's lanes against PyTorch and JAX, then a whole study.

    python -m bench.gpu [--quick] [--parts peers,ours,study] [--output DIR] [--seconds N]

Same net, batch size and data for everybody: uint8 images on the GPU, normalised batch by batch.
Training alone is counted, in epoch-trials (60,000 images of one model) per second. The contestants
take turns, and a figure is the median over the turns; compiling and warming up come before. A peer
trains a number of steps with the GPU idle before and after. Ours is read between two returns of
its engine with all lanes busy, and its evaluation has one image to look at. In a population every
model has weights and a data order of its own.

Results are saved after every turn. A contestant that failed, or that there was no time for, is
listed with the reason. MNIST is read from $GOLF_DATA (default data/).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.engines import flops_per_image
from bench.fma import Peak
from bench.gpu_model.profile import Profiler
from bench.gpu_model.roofline import GPUS, GpuModel
from bench.gpu_study import run_study
from bench.peers.jax_scan import ScanPopulation
from bench.peers.population import Grouped, Vmapped
from bench.peers.pytorch import Graphed, Resident
from bench.report import RESULTS, save, versions
from golf_opt.config.schema import DataConfig
from golf_opt.engines.speed import images_per_second
from golf_opt.task import data
from golf_opt.task.arch import Net
from golf_opt.task.data import Split, View
from golf_opt.task.grammar import load_arch

NET = "c4-5-4"
PARTS = ("peers", "ours", "study")
EPOCH = 60_000  # images
SETUP_SHARE = 0.6  # of a batch size's time
RACE_SHARE = 0.6  # of the seconds; the rest is the study's
CONSOLE = Console(width=110)


@dataclass(frozen=True)
class Plan:
    """What is run, and on what; tests have a smaller one."""

    batches: tuple[int, ...] = (14, 4, 32)  # the first for all contestants
    models: tuple[int, ...] = (16, 132, 528)
    lanes: tuple[int, ...] = (1, 16, 132, 264, 528)
    hows: tuple[str, ...] = ("eager", "graphs", "compiled")  # compiled: the largest alone
    turns: int = 5
    turn_s: float = 0.8
    trials: int = 1000
    epochs: int = 18
    device: str = "cuda"
    jax_platform: str = "gpu"


QUICK = Plan((14,), (16,), (1, 132), ("eager", "graphs"), turns=2, trials=40, epochs=2)


@dataclass
class Entry:
    """A contestant, and its images per second turn by turn, or why it has none."""

    kind: str  # eager, graphs, vectorised, ours
    name: str
    models: int  # in training side by side
    make: Callable[[], Peer | Lanes]
    rates: list[float] = field(default_factory=list)
    why: str | None = None

    @property
    def rate(self) -> float:
        return statistics.median(self.rates) / EPOCH if self.rates else 0.0

    def row(self) -> dict[str, Any]:
        keys = {"name": self.name, "kind": self.kind, "models": self.models}
        return keys | {"epoch_trials_per_s": self.rate, "turns": len(self.rates), "why": self.why}

    def attempt(self, call: Callable[[], Any]) -> Any:
        """Return what the call does; note why if it fails, so that the others go on."""
        try:
            return call()
        except Exception as error:
            self.why = short(error)
            CONSOLE.print(f"{self.name}, {self.models}: {self.why}")


class Peer:
    """One of bench/peers, as many steps a turn as take `turn_s`."""

    def __init__(self, make: Callable[[], Any], device: str, turn_s: float) -> None:
        self.contestant, self.device, self.steps = make(), device, 10
        self.turn()  # compiles
        self.steps = max(5, round(self.turn() * turn_s / self.images * self.steps))
        self.turn()  # for JAX another length is another program

    def turn(self) -> float:
        """Return images per second."""
        self._wait()
        started = time.perf_counter()
        self.images = self.contestant.run(self.steps)
        self._wait()
        return self.images / (time.perf_counter() - started)

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


class Lanes:
    """Ours, a trial in each lane. `make` makes the engine of a view and a number of lanes."""

    def __init__(
        self, make: Any, net: Net, train: Split, batch_size: int, lanes: int, turn_s: float
    ) -> None:
        self.engine = make(training_only(train), lanes=lanes)
        self.engine.prepare(net, (batch_size,))
        self.net, self.images, self.batch_size = net, len(train), batch_size
        self.turn_s = turn_s
        self.turn()

    def turn(self) -> float:
        """Return images per second of all lanes together."""
        sizes = (self.batch_size,)
        return images_per_second(self.engine, self.net, self.images, self.turn_s, batch_sizes=sizes)


def training_only(train: Split) -> View:
    """Return a view whose objective is one image."""
    one = train.take("one", train.labels[:1].astype("int64") * 0)
    return View("bench", "test", train, one, one, digest="")


def short(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def peers(plan: Plan, net: Net, train: Split, batch_size: int) -> list[Entry]:
    """Return everybody else, those that take long to set up last."""
    own, entries = (net, train, batch_size), []

    def add(kind: str, name: str, models: int, cls: Any, *rest: Any) -> None:
        make = partial(Peer, partial(cls, *own, *rest), plan.device, plan.turn_s)
        entries.append(Entry(kind, name, models, make))

    add("eager", "eager", 1, Resident, plan.device)
    add("graphs", "cuda graphs", 1, Graphed, plan.device)
    for how in plan.hows:
        for size in plan.models[-1:] if how == "compiled" else plan.models:
            for cls in (Grouped, Vmapped):
                add("vectorised", f"{cls.name} {how}", size, cls, size, plan.device, how)
    for size in plan.models:
        add("vectorised", "jax vmap", size, ScanPopulation, size, plan.jax_platform)
    return sorted(entries, key=lambda entry: "compiled" in entry.name)


def ours(
    plan: Plan, make: Any, net: Net, train: Split, batch_size: int, lanes: Sequence[int]
) -> list[Entry]:
    own = (make, net, train, batch_size)
    return [Entry("ours", "golf-opt", n, partial(Lanes, *own, n, plan.turn_s)) for n in lanes]


def compete(entries: list[Entry], turns: int, seconds: float, told: Callable[[], None]) -> None:
    """Set everybody up in a share of the time, then take turns until it is over."""
    begun, ready = time.monotonic(), []
    for entry in entries:
        if time.monotonic() - begun > SETUP_SHARE * seconds:
            entry.why = "no time left to set it up"
        elif contestant := entry.attempt(entry.make):
            ready.append((entry, contestant))
    for turn in range(turns):
        for entry, contestant in ready:
            late = turn > 0 and time.monotonic() - begun > seconds
            if not entry.why and not late and (rate := entry.attempt(contestant.turn)):
                entry.rates.append(rate)
        told()
    for entry, contestant in ready:
        if isinstance(contestant, Lanes):
            entry.attempt(contestant.engine.close)


def fastest(entries: Sequence[Entry], kind: str) -> Entry | None:
    found = [entry for entry in entries if entry.kind == kind and entry.rates]
    return max(found, key=lambda entry: entry.rate, default=None)


def summary(
    entries: Sequence[Entry], net: Net, peak_gflops: float | None, predicted: float | None = None
) -> dict[str, Any]:
    """Return the rows, and ours over eager, the best population, the GPU's peak, and the model."""
    result: dict[str, Any] = {"rows": [entry.row() for entry in entries]}
    best = {kind: fastest(entries, kind) for kind in ("eager", "graphs", "vectorised", "ours")}
    if mine := best["ours"]:
        for kind, other in best.items():
            if other and kind != "ours":
                result[f"over_{kind}"] = mine.rate / other.rate
        if predicted:
            result |= {"predicted": predicted, "over_predicted": mine.rate / predicted}
        result["gflops"] = mine.rate * EPOCH * flops_per_image(net) / 1e9
        if peak_gflops:
            result |= {"peak_gflops": peak_gflops, "peak_share": result["gflops"] / peak_gflops}
    return result


class Bench:
    """Runs the parts of a plan; `make_engine` makes ours of a view and a number of lanes."""

    def __init__(self, plan: Plan, train: Split, make_engine: Any, name: str, folder: Path) -> None:
        self.plan, self.train, self.make_engine = plan, train, make_engine
        self.net = load_arch(NET)
        self.result: dict[str, Any] = {"machine": machine(plan.device), "net": NET}
        self.save = partial(save, name, self.result, folder)
        self.predicted: dict[int, float] = {}  # epoch-trials a second, by batch size

    def race(self, parts: Sequence[str], seconds: float) -> None:
        """Measure each batch size: the first takes three fifths of the time."""
        plan, again = self.plan, [("eager", 1)]
        peak = self.peak()
        for at, batch_size in enumerate(plan.batches):
            own = (self.net, self.train, batch_size)
            entries = peers(plan, *own) if "peers" in parts else []
            if at:
                entries = [entry for entry in entries if (entry.name, entry.models) in again]
            if "ours" in parts:
                lanes = plan.lanes[-1:] if at else plan.lanes
                entries[2:2] = ours(plan, self.make_engine, *own, lanes)
            limits: list[float] = []

            def told(batch_size=batch_size, entries=entries, limits=limits) -> None:
                limits.extend([gflops] if (gflops := peak()) else [])
                limit = statistics.median(limits) if limits else None
                predicted = self.predicted.get(batch_size)
                told = summary(entries, self.net, limit, predicted)
                self.result[f"batch {batch_size}"] = told
                self.save()

            told()
            compete(entries, plan.turns, seconds * (0.2 if at else 0.6), told)
            CONSOLE.print(table_of(f"batch {batch_size}", self.result[f"batch {batch_size}"]))
            if best := fastest(entries, "vectorised"):
                again.append((best.name, best.models))

    def peak(self) -> Callable[[], float | None]:
        """Return what measures the GPU's float32 peak in GFLOP/s; it gives None where it cannot."""
        try:
            return Peak().gflops
        except Exception as error:
            CONSOLE.print(f"the float32 peak is not measured: {short(error)}")
            return lambda: None

    def kernels(self) -> None:
        """Save and print what the compiler made of the kernel for each batch size."""
        try:
            engine = self.make_engine(training_only(self.train), lanes=1)
            engine.prepare(self.net, self.plan.batches)
            self.result["kernels"] = engine.kernels()
            engine.close()
        except Exception as error:
            self.result["kernels"] = [{"why": short(error)}]
        self.save()
        for row in self.result["kernels"]:
            CONSOLE.print("kernel:", ", ".join(f"{key} {value}" for key, value in row.items()))

    def predict(self, gpu: GpuModel | None) -> None:
        """Say what the model expects of training with all lanes full, before it is measured."""
        for size in self.plan.batches if gpu else ():
            try:
                found = Profiler(self.net, size).predict(gpu)
            except Exception as error:
                CONSOLE.print(f"predicted at batch {size}: nothing, {short(error)}")
                continue
            self.predicted[size] = found.held * gpu.cores / found.epoch_s[0]
            limit = found.limit(found.step)
            CONSOLE.print(
                f"predicted at batch {size}: {self.predicted[size]:,.0f} epoch-trials/s in "
                f"{found.held * gpu.cores} lanes, limited by {limit}"
            )

    def study(self, root: Path, engine: str, seconds: float) -> None:
        try:
            told = run_study(NET, root, engine, self.plan.trials, self.plan.epochs, seconds)
        except Exception as error:
            told = {"why": short(error)}
        self.result["study"] = told
        self.save()
        for key, value in told.items():
            CONSOLE.print(f"study: {key} {value}")


def machine(device: str) -> dict[str, Any]:
    """Return what the figures depend on."""
    about = {**versions(), "cores": len(os.sched_getaffinity(0)), "cuda": torch.version.cuda}
    if device.startswith("cuda"):
        gpu = torch.cuda.get_device_properties(device)
        about |= {"gpu": gpu.name, "sms": gpu.multi_processor_count}
        about |= {"tf32_in_cudnn": torch.backends.cudnn.allow_tf32}  # PyTorch's default
    return about


def modelled() -> GpuModel | None:
    """Return the model of the GPU that is here, None where there is none for its architecture."""
    major, minor = torch.cuda.get_device_capability()
    cores = torch.cuda.get_device_properties().multi_processor_count
    found = next((gpu for gpu in GPUS if gpu.arch == f"sm_{major}{minor}"), None)
    return found and replace(found, cores=cores)


def table_of(title: str, result: dict[str, Any]) -> Table:
    facts = [f"{key} {value:,.2f}" for key, value in result.items() if isinstance(value, float)]
    table = Table("contestant", "models", "epoch-trials/s", "turns", "", title=title)
    table.caption = ", ".join(facts)
    for row in result["rows"]:
        rate = f"{row['epoch_trials_per_s']:,.2f}" if row["turns"] else ""
        table.add_row(row["name"], str(row["models"]), rate, str(row["turns"]), row["why"] or "")
    return table


def cuda_engine(view: View, lanes: int) -> Any:
    from golf_opt.engines.cuda import CudaEngine

    return CudaEngine(view, lanes=lanes)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few contestants, a short study")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of peers,ours,study")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=540, help="in all, about")
    options = parser.parse_args()
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    return options


def main() -> None:
    begun = time.monotonic()
    options = parse()
    if not torch.cuda.is_available():
        print("bench.gpu needs an NVIDIA GPU, and PyTorch finds none.", file=sys.stderr)
        sys.exit(2)
    torch.backends.cudnn.benchmark = True  # the quickest convolutions for the peers
    root = Path(os.environ.get("GOLF_DATA", "data")).absolute()
    train = data.load(DataConfig("mnist", root)).train
    name = "gpu-quick" if options.quick else "gpu"
    bench = Bench(QUICK if options.quick else Plan(), train, cuda_engine, name, options.output)
    if "ours" in options.parts:
        bench.kernels()
        bench.predict(modelled())
    if {"peers", "ours"} & set(options.parts):
        share = RACE_SHARE if "study" in options.parts else 1.0
        bench.race(options.parts, share * options.seconds)
    if "study" in options.parts:
        left = options.seconds - (time.monotonic() - begun)
        bench.study(root, "cuda", max(60.0, left))
    CONSOLE.print(f"{bench.save()}, {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
