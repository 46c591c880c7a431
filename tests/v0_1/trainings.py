"""Twenty seeded trainings over seven nets, as digests of their weights: what no move may change.

The losses are those of version 0.1, the digests those of the native engine since it puts nets
together from compiled pieces, which changed the last bits of sums.
`python -m tests.v0_1.trainings` writes the digests of today's code on this machine; others may
differ, since the approximate reciprocals of AMD's and Intel's CPUs do. `--this-cpu` prints those of
the build that studies use, to compare two versions on one machine.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from golf_opt.engines.base import Job
from golf_opt.engines.native import NativeEngine, compiler
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import Split, View
from golf_opt.task.grammar import load_arch
from golf_opt.task.recipe import Candidate

FILE = Path(__file__).with_name("trainings.json")
EPOCHS = 3
PORTABLE = {"width": 8, "images": 8, "flags": ("-march=x86-64-v3", "-O1")}
NETS = (
    "c4-5-4",
    "c4-5-4-prelu",
    "c3-4-4-k5-3-3",
    "deepml-separable",
    "reused-separable",
    "separable-697",
)
LAYERS: list[dict[str, Any]] = [
    {"kind": "conv", "channels": 3, "kernel": 5, "stride": 2},
    {"kind": "batch_norm"},
    {"kind": "leaky_relu", "slope": 0.1},
    {"kind": "depthwise", "kernel": 3, "padding": "same", "name": "spatial"},
    {"kind": "max_pool", "size": 3},
    {"kind": "reuse", "of": "spatial"},
    {"kind": "dropout", "p": 0.3},
    {"kind": "linear", "features": 12},
    {"kind": "prelu"},
    {"kind": "linear", "features": 10},
]
RECIPES: tuple[dict[str, Any], ...] = (
    {"batch_size": 14, "lr": 8e-4, "step_size": 1, "gamma": 0.62},
    {"batch_size": 5, "lr": 2e-3, "schedule": "cosine", "optimizer": "adamw", "weight_decay": 1e-2},
    {"batch_size": 32, "lr": 5e-2, "schedule": "one_cycle", "optimizer": "sgd"},
)


def nets() -> list[Net]:
    own = build_net({"name": "every-layer", "layers": LAYERS})
    return [*(load_arch(name) for name in NETS), own]


def view() -> View:
    """150 and 70 images whose class shows: a bright bar in the row of the class."""
    draw = np.random.default_rng(7)

    def split(name: str, n: int) -> Split:
        labels = draw.integers(0, 10, n).astype(np.uint8)
        images = draw.integers(0, 60, (n, 1, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[0, 2 + 2 * label : 5 + 2 * label, 4:24] += 150
        return Split(name, images, labels)

    train, test = split("train", 150), split("test", 70)
    return View("bars", "test", train, test, test, digest="")


def jobs() -> list[tuple[str, Job]]:
    """Return the 20 jobs by name: every net with every recipe, less the last one."""
    pairs = list(product(nets(), range(len(RECIPES))))[:20]
    return [
        (f"{net.name} {row}", Job(net, Candidate(**RECIPES[row]), 100 + at, EPOCHS))
        for at, (net, row) in enumerate(pairs)
    ]


def train(engine: NativeEngine, job: Job) -> dict[str, Any]:
    """Train a job to its end; return the losses of its epochs and the digest of its tensors."""
    engine.start(0, job)
    losses: list[float] = []
    while len(losses) < job.epochs:
        losses += [part.result.loss for part in engine.step() if part.result is not None]
    tensors = engine.state(0).tensors
    engine.stop(0)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return {"losses": losses, "sha256": digest.hexdigest()}


def build() -> str:
    """Return compiler and C library."""
    command = compiler()
    assert command is not None
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    return f"{version.stdout.splitlines()[0]}, {' '.join(platform.libc_ver())}"


def machine() -> str:
    """Return what the bits of a training depend on: the CPU, compiler and C library."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    return f"{model}, {build()}"


def main() -> None:
    this_cpu = "--this-cpu" in sys.argv
    engine = NativeEngine(view(), 1, **({} if this_cpu else PORTABLE))  # type: ignore[arg-type]
    rows = {name: train(engine, job) for name, job in jobs()}
    if this_cpu:
        for name, row in rows.items():
            print(name, row["sha256"])
        return
    kept = json.loads(FILE.read_text()) | {"digests_of": machine()}  # its losses stay those of 0.1
    for name, row in rows.items():
        kept["trainings"][name]["sha256"] = row["sha256"]
    FILE.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
