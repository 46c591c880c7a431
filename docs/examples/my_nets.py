"""Two nets in PyTorch: one that golf_opt has layers for, and one that it has not."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]  # channels, height, width


class Tiny(nn.Module):
    """A block whose input is added to its output."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * (shape[1] // 4) * (shape[2] // 4), classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = F.relu(x + self.norm(self.conv(x)))
        x = F.max_pool2d(x, 2)
        scores: Tensor = self.head(x.flatten(1))
        return scores


class Odd(nn.Module):
    """Running sums along each row, which are no layer of golf_opt's."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape[0], 4, 4, stride=4)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(4 * (shape[1] // 4) * (shape[2] // 4), classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cumsum(F.relu(self.conv(x)), dim=3)
        scores: Tensor = self.head(self.drop(x.flatten(1)))
        return scores
