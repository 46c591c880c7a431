"""PyTorch, many models at once: torch.func.vmap, or convolutions with a group for each model.

The grammar's nets only: convolutions, activations, max pools, one linear layer.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from bench.peers.pytorch import captured, normalised, resident
from golf_opt.engines.base import data_order, initial_weights
from golf_opt.engines.torch import build_module
from golf_opt.task import layers
from golf_opt.task.arch import Net
from golf_opt.task.data import Split

HOWS = ("eager", "graphs", "compiled")


@cache
def orders(size: int, n: int) -> npt.NDArray[Any]:
    """Return the data order of each model, seeds 0, 1, ..., [size, n]."""
    return np.stack([data_order(seed, 0, n) for seed in range(size)])


class Population:
    """Models with weights and data order of their own, seeds 0, 1, ...

    Adam works element by element, so that PyTorch's fused one on stacked tensors is each model's
    own; that is one launch, and quicker than Adam written out. All models have one learning rate.

    Args:
        size: models.
        how: `eager`; `graphs` captures the step as a CUDA graph; `compiled` uses torch.compile.
    """

    name = "population"

    def __init__(
        self, net: Net, train: Split, batch_size: int, size: int, device: str, how: str = "eager"
    ) -> None:
        assert how in HOWS
        self.net, self.batch_size, self.size, self.how = net, batch_size, size, how
        self.images, self.labels = resident(train, device)
        self.orders = torch.from_numpy(orders(size, len(train))).to(device)
        drawn = [initial_weights(net, seed) for seed in range(size)]
        self.weights = {
            p.name: torch.from_numpy(np.stack([of[f"weights/{p.name}"] for of in drawn])).to(device)
            for p in net.parameters
        }
        graphs = how == "graphs"
        self.optimizer = torch.optim.Adam(
            list(self.weights.values()), lr=1e-3, fused=True, capturable=graphs
        )
        self.at = 0
        self._prepare(device)
        first = self.orders[:, :batch_size]
        self._step = captured(self._update, first) if graphs else self._update

    def _prepare(self, device: str) -> None:
        """Make what `_update` needs."""

    def _update(self, index: Tensor) -> None:
        """Train every model on its row of `index` [size, batch]."""
        raise NotImplementedError

    def run(self, steps: int) -> int:
        """Train all models for some steps; return the number of images, of all together."""
        for _ in range(steps):
            if self.at + self.batch_size > self.orders.shape[1]:
                self.at = 0
            self._step(self.orders[:, self.at : self.at + self.batch_size])
            self.at += self.batch_size
        return steps * self.batch_size * self.size


class Vmapped(Population):
    """One model's gradients, mapped over stacked weights by torch.func."""

    name = "vmap"

    def _prepare(self, device: str) -> None:
        self.module = build_module(self.net).to(device)
        self.gradients = vmap(grad(self._loss))
        if self.how == "compiled":
            self.gradients = torch.compile(self.gradients, dynamic=False)

    def _loss(self, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        named = {f"layers.{name}": weight for name, weight in weights.items()}
        return F.cross_entropy(functional_call(self.module, named, (x,)), y)

    def _update(self, index: Tensor) -> None:
        flat = index.reshape(-1)
        x = normalised(self.images.index_select(0, flat))
        x, y = x.view(*index.shape, 1, 28, 28), self.labels.index_select(0, flat).view(index.shape)
        for name, gradient in self.gradients(self.weights, x, y).items():
            self.weights[name].grad = gradient
        self.optimizer.step()


class Grouped(Population):
    """All models as one net: a group of channels for each, a batched product for the last layer."""

    name = "grouped"

    def _prepare(self, device: str) -> None:
        for weight in self.weights.values():
            weight.requires_grad_()
        if self.how == "compiled":
            self._scores = torch.compile(self._scores, dynamic=False)  # type: ignore[method-assign]

    def _scores(self, x: Tensor) -> Tensor:
        """Return [size, batch, 10] for images [batch, size, 28, 28]."""
        for node in self.net.nodes:
            layer, weight = node.layer, self.weights.get(f"{node.name}.weight")
            if isinstance(layer, layers.Conv):
                bias = self.weights[f"{node.name}.bias"].flatten()
                kernels = weight.flatten(0, 1)
                x = F.conv2d(x, kernels, bias, layer.strides, layer.pads, groups=self.size)
            elif isinstance(layer, layers.Linear):
                x = x.reshape(len(x), self.size, -1).transpose(0, 1)
                bias = self.weights[f"{node.name}.bias"].unsqueeze(1)
                x = torch.baddbmm(bias, x, weight.transpose(1, 2))
            elif isinstance(layer, layers.MaxPool):
                x = F.max_pool2d(x, layer.sizes)
            elif isinstance(layer, layers.PReLU):
                x = F.prelu(x, weight.flatten())
            else:
                leaky = isinstance(layer, layers.LeakyReLU)
                x = F.leaky_relu(x, layer.slope) if leaky else F.relu(x)
        return x

    def _update(self, index: Tensor) -> None:
        x = normalised(self.images.index_select(0, index.t().reshape(-1)))
        scores = self._scores(x.view(self.batch_size, self.size, 28, 28))
        labels = self.labels.index_select(0, index.reshape(-1))
        loss = F.cross_entropy(scores.flatten(0, 1), labels, reduction="sum") / self.batch_size
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
