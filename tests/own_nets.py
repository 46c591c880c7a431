"""Nets as users write them in PyTorch, for test_own_nets.py: of layers of ours, and others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]


class Functional(nn.Module):
    """As in PyTorch's own example: functions, and a log-softmax in the end."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape[0], 4, 3)
        self.conv2 = nn.Conv2d(4, 5, 3)
        inputs = 5 * ((shape[1] - 2) // 2 - 2) * ((shape[2] - 2) // 2 - 2)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.leaky_relu(self.conv1(x), 0.1), 2)
        x = F.dropout(F.relu(self.conv2(x)), 0.25, self.training)
        x = x.view(x.size(0), -1)
        return F.log_softmax(self.fc(x), dim=1)


class Residual(nn.Module):
    """The sum of what a block is given and of what it makes of it."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], 4, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding="same", bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 4, (3, 1), padding=(1, 0)),
        )  # fmt: skip
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        return self.head(F.relu(x + self.block(x)).mean((2, 3)))


def separable(shape: Shape, classes: int) -> nn.Module:
    """Depthwise and pointwise convolutions, a head of 1x1, and no linear layer at all."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 6, 3, stride=2),
        nn.PReLU(6),
        nn.Conv2d(6, 6, 3, groups=6, padding=1, stride=(1, 2)),
        nn.Hardswish(),
        nn.AvgPool2d((2, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Dropout(0.1),
        nn.Conv2d(6, classes, 1),
        nn.Flatten(),
    )


class Twice(nn.Module):
    """One convolution used twice, and one activation for all."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(shape[0], 4, 1)
        self.mix = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.act = nn.Tanh()
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.mix(self.act(self.widen(x))))
        x = self.act(self.mix(x))
        return self.head(torch.flatten(self.pool(x), 1))


class Scaled(nn.Module):
    """A learned factor per channel, on what is added to what was there."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], 3, 4, stride=4)
        self.norm = nn.BatchNorm2d(3)
        self.mix = nn.Conv2d(3, 3, 1)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.head = nn.Linear(3 * (shape[1] // 4) * (shape[2] // 4), classes)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.stem(x)
        y = self.scale * F.gelu(self.mix(self.norm(x)))
        return self.head(torch.add(y, x).reshape(len(x), -1))


def dense(shape: Shape, classes: int) -> nn.Module:
    """No convolution: a normalisation and slopes of single numbers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), 9), nn.BatchNorm1d(9), nn.PReLU(9),
        nn.Identity(), nn.Linear(9, classes, bias=False),
    )  # fmt: skip


class InPlace(nn.Module):
    """`+=`, activations that work in place, and a module within a module."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.features = nn.ModuleList([nn.Conv2d(shape[0], 5, 3), nn.Conv2d(5, 5, 3, padding=1)])
        self.head = nn.ModuleDict({"out": nn.Linear(5, classes)})

    def forward(self, x: Tensor) -> Tensor:
        for at, conv in enumerate(self.features):
            y = conv(x)
            if at:
                y += x
            x = F.relu(y, inplace=True)
        return self.head["out"](F.adaptive_avg_pool2d(x, 1).squeeze(3).squeeze(2))


def wide(shape: Shape, classes: int) -> nn.Module:
    """Windows that are no squares."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 3, (3, 5), stride=(2, 1), padding=(1, 2)), nn.ReLU(),
        nn.MaxPool2d((1, 3)), nn.Conv2d(3, 4, (1, 3)), nn.LeakyReLU(), nn.MaxPool2d((2, 1)),
        nn.Flatten(), nn.Linear(4 * ((shape[1] + 1) // 2 // 2) * (shape[2] // 3 - 2), classes),
    )  # fmt: skip


OURS = (Functional, Residual, separable, Twice, Scaled, dense, InPlace, wide)


class Odd(nn.Module):
    """An operation that is no layer, randomness, statistics, and a parameter without a dot."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape[0], 2, 5, stride=3)
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.3)
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.register_buffer("ramp", torch.linspace(0, 1, 8).reshape(8, 1))
        self.head = nn.Linear(2 * 8 * 8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = torch.cumsum(x, 3) + self.ramp
        return self.head(self.drop(x.flatten(1))) * self.temperature


# What is wrong with a net is said in one line.


def half_global(shape: Shape, classes: int) -> nn.Module:
    """An option that is None."""
    pool = nn.AdaptiveAvgPool2d((1, None))
    return nn.Sequential(pool, nn.Flatten(), nn.Linear(shape[0] * shape[2], classes))


def no_module(shape: Shape, classes: int) -> Any:
    return {"conv": 3}


def no_arguments() -> nn.Module:
    return nn.Flatten()


def raises(shape: Shape, classes: int) -> nn.Module:
    raise RuntimeError("the moon is not right")


def other_scores(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 7))


def does_not_fit(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(5, classes))


def two_outputs(shape: Shape, classes: int) -> nn.Module:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(math.prod(shape), classes)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.fc(x.flatten(1)), x

    return Two()


def half_precision(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes).half())


def no_parameters(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, classes)), nn.Flatten())


def lazy(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def always_random(shape: Shape, classes: int) -> nn.Module:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(math.prod(shape), classes)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.dropout(x.flatten(1), 0.5))

    return Noisy()


def counts_its_steps(shape: Shape, classes: int) -> nn.Module:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(math.prod(shape), classes)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            return self.fc(x.flatten(1)) / (1 + self.calls)

    return Counting()


class _Draw:
    state = 0.0


def draws_elsewhere(shape: Shape, classes: int) -> nn.Module:
    _Draw.state += 0.1
    net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
    nn.init.constant_(net[1].bias, _Draw.state)
    return net
