"""The GPU benchmark: populations train what plain models train, and its run works on a CPU too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import net
from torch.nn import functional as F

from bench.peers.jax_scan import ScanPopulation
from bench.peers.population import Grouped, Vmapped
from bench.peers.pytorch import Graphed, Resident
from golf_opt.arch import Net
from golf_opt.data import MEAN, STD, View
from golf_opt.engines.base import Tensors, data_order, initial_weights
from golf_opt.engines.torch import build_module

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
        F.cross_entropy(module(images.unsqueeze(1)), labels).backward()
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


@pytest.mark.parametrize("arch", ["c4-5-4", "c2-3-prelu"])
@pytest.mark.parametrize("peer", [vmapped, grouped, scanned])
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
