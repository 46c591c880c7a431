"""Feature visualisation: the image that drives a channel, a feature or a class score highest.

Gradient ascent on the input, from an even grey with a little noise, kept within what a pixel can
be. The image is a blurred one throughout: free pixels end in checkerboards, which drive a unit hard
and look like nothing, while pen strokes are a few pixels wide. What has no say stays grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from golf_opt.engines.torch import TorchNet, build_module
from golf_opt.engines.torch.untraced import spare_imports, step_of
from golf_opt.task import rng
from golf_opt.task.arch import Net

GREY, NOISE = 0.5, 0.01  # of the start, in shares of a pixel's range
RATE = 0.03  # of Adam, in the same unit
BLUR = 1.0  # standard deviation in pixels
LEAK = 0.1  # gradient of an activation that is off
Value = Callable[[Tensor, Tensor, Tensor], Tensor]  # outputs, rows, units -> what is driven [n]


class LeakyGradient(nn.Module):
    """An activation whose gradient does not vanish below zero, so that a unit can be found.

    The output is the activation's. Where it is constant below zero, as ReLU and hard-swish are and
    PReLU with a slope that was pruned, the gradient there is LEAK.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(x)
        return y + LEAK * (x - x.detach()) * ((x < 0) & (y == 0))


@dataclass(frozen=True)
class Ascent:
    """Images [n, channels, height, width] in [0, 1] for n units, what each gives for its own."""

    images: npt.NDArray[np.float32]
    start: npt.NDArray[np.float32]  # [n] for the grey image
    reached: npt.NDArray[np.float32]  # [n] for its own


class Climber:
    """Climbs for any unit of one net."""

    def __init__(
        self, net: Net, tensors: Mapping[str, npt.NDArray[Any]], steps: int, seed: int = 0
    ) -> None:
        torch.set_num_threads(1)  # these nets are too small for more than one to help
        self._module = _climbable(net, tensors)
        self._input = net.input
        self._steps, self._seed = steps, seed

    def channels(self, node: int, units: Sequence[int]) -> Ascent:
        """Drive the mean over a channel of the output of a node."""
        return self._climb(node, units, lambda x, rows, at: x[rows, at].mean(dim=(1, 2)))

    def features(self, node: int, units: Sequence[int]) -> Ascent:
        """Drive single numbers of the output of a node, numbered as (channel, y, x)."""
        return self._climb(node, units, lambda x, rows, at: x.flatten(1)[rows, at])

    def _climb(self, node: int, units: Sequence[int], value: Value) -> Ascent:
        shape = (len(units), *self._input.shape)
        noise = rng.uniform(rng.derive(self._seed, "ascent"), math.prod(shape))
        start = GREY + NOISE * (2 * noise.reshape(shape) - 1)
        canvas = torch.from_numpy(start.astype(np.float32)).requires_grad_()
        rows, at = torch.arange(len(units)), torch.tensor(list(units))
        spare_imports()
        step = step_of(torch.optim.Adam([canvas], lr=RATE))
        mean, std = (
            torch.tensor(values).reshape(-1, 1, 1) for values in (self._input.mean, self._input.std)
        )

        def values() -> Tensor:
            image = (_blur(canvas) - mean) / std
            return value(self._module(image, node + 1), rows, at)

        first = values().detach().numpy().copy()
        for _ in range(self._steps):
            canvas.grad = None
            (-values().sum()).backward()  # type: ignore[no-untyped-call]
            step()
            with torch.no_grad():
                canvas.clamp_(0, 1)
        with torch.no_grad():
            last = values().numpy().copy()
            images = _blur(canvas).numpy().copy()
        return Ascent(images, first, last)


def _blur(images: Tensor) -> Tensor:
    """Blur images [n, channels, height, width] with a Gaussian; repeated edges leave grey grey."""
    reach = round(3 * BLUR)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / BLUR) ** 2)
    line /= line.sum()
    padded = F.pad(images, [reach] * 4, mode="replicate").flatten(0, 1).unsqueeze(1)
    blurred = F.conv2d(F.conv2d(padded, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))
    return blurred.reshape(images.shape)


def _climbable(net: Net, tensors: Mapping[str, npt.NDArray[Any]]) -> TorchNet:
    module = build_module(net, tensors).eval().requires_grad_(False)
    for name, layer in list(module.layers.items()):
        if isinstance(layer, (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Hardswish)):
            module.layers[name] = LeakyGradient(layer)
    return module
