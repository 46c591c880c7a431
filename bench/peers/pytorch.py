"""PyTorch three ways: tensors in memory, the tutorial's DataLoader, and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from golf_opt.arch import Net
from golf_opt.data import MEAN, STD, Split
from golf_opt.engines.base import data_order, initial_weights
from golf_opt.engines.torch import build_module


def _model(net: Net) -> nn.Module:
    module = build_module(net)
    with torch.no_grad():
        for name, tensor in module.tensors().items():
            tensor.copy_(torch.from_numpy(initial_weights(net, 0)[name]))
    return module.train()


class Eager:
    """Normalised tensors in memory, index_select, fused Adam: PyTorch without needless work."""

    name = "eager"
    fused = True

    def __init__(self, net: Net, train: Split, batch_size: int) -> None:
        images = torch.from_numpy(np.array(train.images)).unsqueeze(1)
        self.images = (images.float() / 255 - MEAN) / STD
        self.labels = torch.from_numpy(train.labels.astype(np.int64))
        self.order = torch.from_numpy(data_order(0, 0, len(train)))
        self.batch_size = batch_size
        self.module = self._prepare(_model(net))
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=1e-3, fused=self.fused)
        self.loss = nn.CrossEntropyLoss()
        self.batches = self._batches()

    def _prepare(self, module: nn.Module) -> Any:
        return module

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for index in self.order.split(self.batch_size):
                if len(index) == self.batch_size:
                    yield self.images.index_select(0, index), self.labels[index]

    def run(self, steps: int) -> int:
        """Train for some steps; return the number of images."""
        for _ in range(steps):
            x, y = next(self.batches)
            self.optimizer.zero_grad()
            self.loss(self.module(x), y).backward()
            self.optimizer.step()
        return steps * self.batch_size


class Compiled(Eager):
    """The same with the module compiled by torch.compile."""

    name = "torch.compile"

    def _prepare(self, module: nn.Module) -> Any:
        return torch.compile(module)


class _Tutorial(TensorDataset):
    """MNIST as torchvision gives it: a PIL image through ToTensor and Normalize, one at a time."""

    def __init__(self, split: Split) -> None:
        from PIL import Image
        from torchvision import transforms

        self.split = split
        self.open = Image.fromarray
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
        )

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:  # type: ignore[override]
        return self.transform(self.open(self.split.images[index])), int(self.split.labels[index])


class Tutorial(Eager):
    """DataLoader and transforms as the tutorials write them, Adam with its defaults."""

    name = "dataloader"
    fused = False

    def __init__(self, net: Net, train: Split, batch_size: int) -> None:
        self.loader = DataLoader(_Tutorial(train), batch_size=batch_size, shuffle=True)
        super().__init__(net, train, batch_size)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader
