"""A net of `arch` as a PyTorch module, with the dropout that every engine has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from golf_opt.task import layers
from golf_opt.task.arch import Net, Node
from golf_opt.task.modules import given
from golf_opt.task.modules.factory import tensors_of


class CounterDropout(nn.Module):
    """Dropout whose mask is a function of a key; the engine sets the key before each step."""

    key: Tensor

    def __init__(self, p: float, node_index: int) -> None:
        super().__init__()
        self.p = p
        self.node_index = node_index
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = _uniform(self.key, x.numel(), x.device).reshape(x.shape) >= self.p
        return x * keep / (1 - self.p)


class ChannelScale(nn.Module):
    """A learned factor for each channel of [n, channels, ...]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.reshape(-1, *[1] * (x.dim() - 2))


class Sum(nn.Module):
    """The sum of two tensors of one shape."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x + other


def _mix(word: Tensor) -> Tensor:
    """`rng.mix` on int64 tensors that hold 32-bit words."""
    mask = 0xFFFFFFFF
    word = word ^ (word >> 16)
    word = (word * 0x7FEB352D) & mask
    word = word ^ (word >> 15)
    word = (word * 0x846CA68B) & mask
    return word ^ (word >> 16)


def _uniform(key: Tensor, n: int, device: torch.device) -> Tensor:
    """`rng.uniform` on a device, [n] float32."""
    index = torch.arange(n, dtype=torch.int64, device=device)
    word = _mix((_mix(index ^ key) + key) & 0xFFFFFFFF)
    return (word >> 8).to(torch.float32) * 2**-24


def _layer(node: Node, index: int) -> nn.Module:
    """Return the torch module of a node."""
    layer, channels = node.layer, node.input_shape[0]
    match layer:
        case layers.Conv():
            depthwise = isinstance(layer, layers.Depthwise)
            return nn.Conv2d(
                channels,
                node.output_shape[0],
                layer.kernels,
                layer.strides,
                layer.pads,
                groups=channels if depthwise else 1,
                bias=layer.bias,
            )
        case layers.Linear():
            return nn.Linear(int(np.prod(node.input_shape)), layer.features, layer.bias)
        case layers.BatchNorm():
            norm = nn.BatchNorm2d if len(node.input_shape) == 3 else nn.BatchNorm1d
            return norm(channels, eps=layer.EPS, momentum=layer.MOMENTUM)
        case layers.ReLU():
            return nn.ReLU()
        case layers.LeakyReLU():
            return nn.LeakyReLU(layer.slope)
        case layers.PReLU():
            return nn.PReLU(channels)
        case layers.GELU():
            return nn.GELU()
        case layers.HardSwish():
            return nn.Hardswish()
        case layers.Tanh():
            return nn.Tanh()
        case layers.Scale():
            return ChannelScale(channels)
        case layers.MaxPool():
            return nn.MaxPool2d(layer.sizes)
        case layers.AvgPool():
            return nn.AvgPool2d(layer.sizes)
        case layers.GlobalAvgPool():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case layers.Dropout():
            return CounterDropout(layer.p, index)
        case layers.Add():
            return Sum()
        case layers.Module():
            return given.make(layer)
    raise AssertionError(f"no torch module for {layer.kind}")


class TorchNet(nn.Module):
    """A net of `arch` as a torch module, from normalised images to class scores."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.layers = nn.ModuleDict(
            {node.name: _layer(node, i) for i, node in enumerate(net.nodes) if not node.shared}
        )

    def forward(self, x: Tensor, until: int | None = None) -> Tensor:
        """Return the output of the first `until` nodes, or of all."""
        added = {node.of for node in self.net.nodes}
        kept: dict[int | None, Tensor] = {}
        for place, node in enumerate(self.net.nodes[:until]):
            if isinstance(node.layer, layers.Linear):
                x = x.flatten(1)
            x = self.layers[node.name](x, *[] if node.of is None else [kept[node.of]])
            if place in added:
                kept[place] = x
        return x

    def tensors(self) -> dict[str, Tensor]:
        """Return `weights/<parameter>` and `buffers/<buffer>` as live tensors."""
        named = self._named()
        weights = {f"weights/{p.name}": named[p.name] for p in self.net.parameters}
        return weights | {f"buffers/{b.name}": named[b.name] for b in self.net.buffers}

    def _named(self) -> dict[str, Tensor]:
        if self.net.module is None:
            return tensors_of(self.layers)
        (module,) = self.layers.values()  # the names are its own
        return tensors_of(module)

    def dropouts(self) -> list[CounterDropout]:
        return [layer for layer in self.layers.values() if isinstance(layer, CounterDropout)]


def build_module(net: Net, tensors: Mapping[str, npt.NDArray[Any]] | None = None) -> TorchNet:
    """Return the net as a torch module, with these `weights/...` and `buffers/...` if given."""
    module = TorchNet(net)
    if tensors is not None:
        with torch.no_grad():
            for name, tensor in module.tensors().items():
                tensor.copy_(torch.from_numpy(np.array(tensors[name])))
    return module
