"""The errors of a net of which only the last linear layer changes, by its features kept in memory.

What lies before the layer stays, so its inputs are computed once. A weight that changes moves one
score of each image, by its input times the change. And whether the image still gets its label is a
question of one number: the margin between its label's score and the class that moves, or where
the label's own score moves, the best other class.
"""

from __future__ import annotations

import numpy as np

from golf_opt.engines.base import Floats, Tensors
from golf_opt.task import layers
from golf_opt.task.arch import Net
from golf_opt.task.data import Split
from golf_opt.task.forward import forward, normalise

BATCH = 500  # images at once, of those before the layer


class Head:
    """The last linear layer of a net, and what it reads of a split's images.

    Weights are numbered as in the flat array: `first`, and those after it, [class, input]; then a
    bias of each class, if there is one. A bias is a weight whose input is one.

    Args:
        net: ends with a linear layer of its own; see `first_of_head`.
        tensors: its `weights/...` and `buffers/...`.
        split: the images.
    """

    def __init__(self, net: Net, tensors: Tensors, split: Split) -> None:
        last = net.nodes[-1]
        weight, *bias = (tensors[f"weights/{p.name}"] for p in last.parameters)
        self.first = first_of_head(net)
        self._width = weight.shape[1]
        self._labels = split.labels.astype(np.int64)
        self._features = np.concatenate(
            [features(net, tensors, split), np.ones((len(bias), len(split)), dtype=np.float32)]
        )
        self._weights = np.concatenate([weight, *(row[:, None] for row in bias)], axis=1)
        own = self._labels == np.arange(len(weight))[:, None]
        self._signs = np.where(own, np.float32(1), np.float32(-1))
        self._update()

    def place(self, index: int) -> tuple[int, int]:
        """Return class and input of a flat weight."""
        at = index - self.first
        bias = at - len(self._weights) * self._width
        return (bias, self._width) if bias >= 0 else (at // self._width, at % self._width)

    def errors(self, index: int, value: float) -> int:
        """Return how many images miss their label when a flat weight has another value."""
        row, column = self.place(index)
        change = np.float32(value) - self._weights[row, column]
        margins = self._features[column] * change
        margins *= self._signs[row]
        margins += self._margins[row]
        return len(margins) - int(np.count_nonzero(margins > 0))

    def set(self, index: int, value: float) -> None:
        """Give a flat weight another value."""
        self._weights[self.place(index)] = value
        self._update()

    def _update(self) -> None:
        """Work out the margin of each image for each class that may move, [classes, images].

        It is negative for ever where a third class has more than the label.
        """
        scores = self._weights @ self._features
        images = np.arange(len(self._labels))
        label = scores[self._labels, images].copy()
        scores[self._labels, images] = -np.inf
        second, first = np.partition(scores, -2, axis=0)[-2:]
        others = np.where(scores == first, second, first)  # the best but for label and class
        self._margins = np.where(self._signs > 0, label - first, label - scores)
        self._margins[(self._signs < 0) & (label <= others)] = -np.inf


def first_of_head(net: Net) -> int:
    """Return where in the flat weights those of the last layer begin; where it is none, the end."""
    last = net.nodes[-1]
    linear = isinstance(last.layer, layers.Linear) and not last.shared and len(net.nodes) > 1
    return net.num_params - (sum(p.size for p in last.parameters) if linear else 0)


def features(net: Net, tensors: Tensors, split: Split) -> Floats:
    """Return what the last layer of a net reads, [inputs, images]."""
    parts = []
    for at in range(0, len(split), BATCH):
        images = split.images[at : at + BATCH]
        *_, (_, read), _ = forward(net, tensors, normalise(net.input, images))
        parts.append(read.reshape(len(images), -1).T)
    return np.concatenate(parts, axis=1)
