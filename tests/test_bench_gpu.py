"""The GPU benchmark: populations train what plain models train, and its run works on a CPU too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from conftest import ROOT, Ran, net
from torch.nn import functional as F

from bench.fma import compile_loop
from bench.gpu import Bench, Plan
from bench.gpu_study import analysed
from bench.peers.jax_scan import ScanPopulation
from bench.peers.population import Grouped, Vmapped
from bench.peers.pytorch import Graphed, Resident
from golf_opt.engines import speed
from golf_opt.engines.base import Tensors, data_order, initial_weights
from golf_opt.engines.torch import TorchEngine, build_module
from golf_opt.task.arch import Net
from golf_opt.task.data import View
from golf_opt.task.inputs import MNIST

(MEAN,), (STD,) = MNIST.mean, MNIST.std

MODELS, BATCH, STEPS = 3, 7, 5


def trained_alone(of: Net, view: View, seed: int) -> Tensors:
    """Train one plain PyTorch model on its own; return its weights by parameter."""
    module = build_module(of, initial_weights(of, seed))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    order = data_order(seed, 0, len(view.train))
    for step in range(STEPS):
        index = order[step * BATCH : (step + 1) * BATCH]
        images = torch.from_numpy((np.float32(view.train.images[index]) / 255 - MEAN) / STD)
        labels = torch.from_numpy(view.train.labels[index].astype(np.int64))
        optimizer.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        optimizer.step()
    return {name: t.detach().numpy() for name, t in module.tensors().items()}


def vmapped(of: Net, view: View) -> Any:
    peer = Vmapped(of, view.train, BATCH, MODELS, "cpu")
    assert peer.run(STEPS) == STEPS * BATCH * MODELS
    return peer.weights


def grouped(of: Net, view: View) -> Any:
    peer = Grouped(of, view.train, BATCH, MODELS, "cpu")
    assert peer.run(STEPS) == STEPS * BATCH * MODELS
    return {name: weight.detach() for name, weight in peer.weights.items()}


def scanned(of: Net, view: View) -> Any:
    pytest.importorskip("jax")
    peer = ScanPopulation(of, view.train, BATCH, MODELS, "cpu")
    assert peer.run(STEPS) == STEPS * BATCH * MODELS
    return {name.removeprefix("weights/"): weight for name, weight in peer.state[0].items()}


@pytest.mark.parametrize(
    ("peer", "arch"),
    [(vmapped, "c4-5-4"), (grouped, "c4-5-4"), (grouped, "c2-3-prelu"), (scanned, "c2-3-prelu")],
)
def test_a_population_is_models_trained_one_by_one(
    peer: Callable[[Net, View], Any], arch: str, small_view: View
) -> None:
    of = net(arch)
    weights = peer(of, small_view)
    for seed in range(MODELS):
        alone, start = trained_alone(of, small_view, seed), initial_weights(of, seed)
        for parameter in of.parameters:
            name = f"weights/{parameter.name}"
            assert np.abs(alone[name] - start[name]).max() > 1e-3  # it did move
            found = np.asarray(weights[parameter.name][seed])
            np.testing.assert_allclose(found, alone[name], rtol=0, atol=1e-4, err_msg=name)


def test_the_eager_peer_is_a_plain_model(small_view: View) -> None:
    of = net("c4-5-4")
    peer = Resident(of, small_view.train, BATCH, "cpu")
    peer.run(STEPS)
    alone = trained_alone(of, small_view, 0)
    for name, tensor in peer.module.tensors().items():
        np.testing.assert_allclose(tensor.detach().numpy(), alone[name], rtol=0, atol=1e-4)


def test_cuda_graphs_say_that_they_need_a_gpu(small_view: View) -> None:
    with pytest.raises(RuntimeError, match="need a GPU"):
        Graphed(net("c4-5-4"), small_view.train, BATCH, "cpu")


def test_the_loop_of_multiply_adds_compiles() -> None:
    assert compile_loop((9, 0)).startswith(b"\x7fELF")


class Engine(TorchEngine):
    """PyTorch in the place of the CUDA engine, with what the benchmark asks of that one beside."""

    def __init__(self, view: View, lanes: int) -> None:
        super().__init__(view, lanes, "cpu")

    def prepare(self, net: Net, batch_sizes: tuple[int, ...]) -> None:
        self.sizes = batch_sizes

    def kernels(self) -> list[dict[str, Any]]:
        return [{"images": size, "registers": 1} for size in self.sizes]


PLAN = Plan(
    (14, 4), (2,), (1, 2), ("eager", "graphs"), 2, 0.01, device="cpu", jax_platform="no such"
)


def test_a_run_tells_who_was_how_fast_and_who_failed(small_view: View, tmp_path: Path) -> None:
    run = Bench(PLAN, small_view.train, Engine, "gpu", tmp_path)
    run.kernels()
    run.race(["peers", "ours"], 60)
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["images"] for row in told["kernels"]] == [14, 4]
    rows = {(row["name"], row["models"]): row for row in told["batch 14"]["rows"]}
    for measured in (("eager", 1), ("golf-opt", 2), ("vmap eager", 2), ("grouped eager", 2)):
        assert rows[measured]["epoch_trials_per_s"] > 0 and rows[measured]["turns"] == 2
    for failed in (("cuda graphs", 1), ("vmap graphs", 2), ("jax vmap", 2)):
        assert rows[failed]["turns"] == 0 and "RuntimeError" in rows[failed]["why"]
    best = max(row["epoch_trials_per_s"] for row in rows.values() if row["kind"] == "ours")
    ratio = best / rows["eager", 1]["epoch_trials_per_s"]
    assert told["batch 14"]["over_eager"] == pytest.approx(ratio)
    again = [(row["name"], row["models"]) for row in told["batch 4"]["rows"]]
    assert again[0] == ("eager", 1) and ("golf-opt", 2) in again and len(again) == 3


def test_out_of_time_it_keeps_what_it_has(small_view: View, tmp_path: Path) -> None:
    run = Bench(replace(PLAN, batches=(14,)), small_view.train, Engine, "gpu", tmp_path)
    run.race(["peers"], 1e-9)
    rows = json.loads((tmp_path / "gpu.json").read_text())["batch 14"]["rows"]
    assert all(row["why"] == "no time left to set it up" for row in rows)


def test_lanes_that_do_nothing_end_their_turn(
    small_view: View, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(speed, "PATIENCE_S", 0.1)
    monkeypatch.setattr(Engine, "step", lambda engine: [])
    run = Bench(PLAN, small_view.train, Engine, "gpu", tmp_path)
    run.race(["ours"], 60)
    whys = [row["why"] for row in run.result["batch 14"]["rows"]]
    assert [why.split(" in ")[0] for why in whys] == [
        "EngineFault: 1 lanes did nothing", "EngineFault: 2 lanes did nothing",
    ]  # fmt: skip


def test_a_stopwatch_tells_where_a_study_spends_its_time(
    golf: Callable[..., Ran], tmp_path: Path
) -> None:
    ran = golf(
        *("study", "data=digits", "engine=torch", "trials=4", "epochs=1", "dir=."),
        *("space.batch_size=32", "study.name=watched"),
        "+callbacks.stopwatch._target_=bench.gpu_study.Stopwatch",
        f"+callbacks.stopwatch.path={tmp_path}/stopwatch.json",
    )
    assert ran.status == 0, ran.err
    told = json.loads((tmp_path / "stopwatch.json").read_text())
    study = optuna.load_study(study_name="watched", storage=f"sqlite:///{tmp_path}/golf.db")
    found = analysed(study.trials, 1, told)
    shares = {part: found[f"share_{part}"] for part in ("engine", "sampler", "storage", "loop")}
    assert sum(shares.values()) == pytest.approx(1, abs=0.01)  # the pruner has nothing to do
    assert shares["engine"] > 0.5 and min(shares.values()) > 0
    assert found["trials"] == {"complete": 4} and found["epoch_trials"] == 4
    assert 0.5 < found["lanes_training"] <= found["lanes_busy"] <= 1.01


def test_without_a_gpu_it_says_so() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "bench.gpu"],
        cwd=ROOT, capture_output=True, text=True, env={"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert ran.returncode == 2 and ran.stdout == ""
    assert ran.stderr == "bench.gpu needs an NVIDIA GPU, and PyTorch finds none.\n"
