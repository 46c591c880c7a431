"""PyTorch, one model: tensors in memory, the tutorial's DataLoader, torch.compile, CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from golf_opt.engines.base import data_order, initial_weights
from golf_opt.engines.torch import build_module
from golf_opt.task.arch import Net
from golf_opt.task.data import Split
from golf_opt.task.inputs import MNIST

(MEAN,), (STD,) = MNIST.mean, MNIST.std

PIXEL_SCALE, PIXEL_SHIFT = 1 / (255 * STD), MEAN / STD
GRAPH_WARMUP_STEPS = 3  # as torch.cuda.graphs asks for before a capture


def resident(train: Split, device: str) -> tuple[Tensor, Tensor]:
    """Return images [n, 1, 28, 28] uint8 and labels [n] int64 on a device."""
    images = torch.from_numpy(np.array(train.images))
    return images.to(device), torch.from_numpy(train.labels.astype(np.int64)).to(device)


def normalised(images: Tensor) -> Tensor:
    """Return uint8 images as the nets take them, float32."""
    return images * PIXEL_SCALE - PIXEL_SHIFT


def captured(update: Callable[[Tensor], None], index: Tensor) -> Callable[[Tensor], None]:
    """Capture `update(index)` as a CUDA graph; return what replays it for another index."""
    if index.device.type != "cuda":
        raise RuntimeError("CUDA graphs need a GPU")
    static, side = index.clone(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimiser is capturable and not yet captured
        for _ in range(GRAPH_WARMUP_STEPS):
            update(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update(static)

    def replay(index: Tensor) -> None:
        static.copy_(index)
        graph.replay()

    return replay


def _model(net: Net) -> nn.Module:
    module = build_module(net)
    with torch.no_grad():
        for name, tensor in module.tensors().items():
            tensor.copy_(torch.from_numpy(initial_weights(net, 0)[name]))
    return module.train()


class Eager:
    """Normalised tensors in memory, index_select, fused Adam: PyTorch without needless work."""

    name = "eager"
    fused, capturable = True, False

    def __init__(self, net: Net, train: Split, batch_size: int, device: str = "cpu") -> None:
        self.input = net.input
        self.images, self.labels = self._load(train, device)
        self.order = torch.from_numpy(data_order(0, 0, len(train))).to(device)
        self.batch_size = batch_size
        self.module = self._prepare(_model(net).to(device))
        self.optimizer = torch.optim.Adam(
            self.module.parameters(), lr=1e-3, fused=self.fused, capturable=self.capturable
        )
        self.loss = nn.CrossEntropyLoss()
        self.batches = self._batches()

    def _prepare(self, module: nn.Module) -> Any:
        return module

    def _load(self, train: Split, device: str) -> tuple[Tensor, Tensor]:
        images, labels = resident(train, device)
        mean, std = (
            torch.tensor(values, device=device).reshape(-1, 1, 1)
            for values in (self.input.mean, self.input.std)
        )
        return (images.float() / 255 - mean) / std, labels

    def _gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.images.index_select(0, index), self.labels[index]

    def _indices(self) -> Iterator[Tensor]:
        while True:
            for index in self.order.split(self.batch_size):
                if len(index) == self.batch_size:
                    yield index

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in self._indices():
            yield self._gather(index)

    def _update(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(self.module(x), y).backward()
        self.optimizer.step()

    def run(self, steps: int) -> int:
        """Train for some steps; return the number of images."""
        for _ in range(steps):
            self._update(*next(self.batches))
        return steps * self.batch_size


class Resident(Eager):
    """The same with uint8 images, on any device, normalised batch by batch."""

    def _load(self, train: Split, device: str) -> tuple[Tensor, Tensor]:
        return resident(train, device)

    def _gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return normalised(self.images.index_select(0, index)), self.labels.index_select(0, index)


class Graphed(Resident):
    """The same with the whole step captured as a CUDA graph: two launches a step."""

    name = "cuda graphs"
    capturable = True

    def __init__(self, net: Net, train: Split, batch_size: int, device: str = "cuda") -> None:
        super().__init__(net, train, batch_size, device)
        self.indices = self._indices()
        self.step = captured(lambda index: self._update(*self._gather(index)), next(self.indices))

    def run(self, steps: int) -> int:
        for _ in range(steps):
            self.step(next(self.indices))
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
        return self.transform(self.open(self.split.images[index, 0])), int(self.split.labels[index])


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
