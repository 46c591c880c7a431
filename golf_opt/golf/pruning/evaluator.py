"""What pruning asks: does a net with these weights still reach the target on the guide?

A search asks thousands of times. So the images that the net is least sure of come first: a
candidate that errs too often is refused after a few percent of the images. Each chunk is shared
out to all lanes. Every accepted candidate was seen on all images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise

import numpy as np

from golf_opt.engines.base import Engine, Floats, Introspective, Tensors
from golf_opt.engines.flat import pack, unpack
from golf_opt.task.arch import Net
from golf_opt.task.data import Split

CUTS = (0.04, 0.2)  # after these fractions of the images, the hardest first, it may give up
VECTOR = 64  # floats; a multiple of any machine's, so that every kernel can read the flat weights


def allowed_errors(target: float, n: int) -> int:
    """Return how many of n images may be wrong: 0.98 of 10,000 images is 200, exactly."""
    return n - -int(-Fraction(str(target)) * n // 1)


def flatten(net: Net, tensors: Tensors) -> Floats:
    """Return `weights/...` as one array in the order of `net.parameters`, padded with zeros."""
    return pack(tensors, "weights", net.parameters, -(-net.num_params // VECTOR) * VECTOR)


class Evaluator:
    """Counts the errors of a net on a split, giving up early.

    Args:
        engine: any; one that is `Introspective` sorts the images and uses all lanes.
        net: the net, of which only weights change.
        buffers: its `buffers/...`.
        split: the guide.
        target: the accuracy to keep, in [0, 1].
    """

    def __init__(
        self, engine: Engine, net: Net, buffers: Tensors, split: Split, target: float
    ) -> None:
        self.split, self.allowed = split, allowed_errors(target, len(split))
        self._engine, self._net, self._buffers = engine, net, buffers
        self._chunks = [split]
        self._counters: list[Callable[[Floats, Split], int]] = [self._count]
        if isinstance(engine, Introspective):
            threads = min(engine.num_lanes, os.cpu_count() or 1)
            self._counters = [engine.counter(net, self._buffers) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(len(self._counters))

    def passes(self, weights: Floats) -> bool:
        """Return whether the target is kept with these flat weights."""
        errors = 0
        for chunk in self._chunks:
            errors += self._errors(weights, chunk)
            if errors > self.allowed:
                return False
        return True

    def accuracy(self, weights: Floats) -> float:
        """Return the fraction of the guide's images that get their label."""
        errors = sum(self._errors(weights, chunk) for chunk in self._chunks)
        return (len(self.split) - errors) / len(self.split)

    def sort(self, weights: Floats) -> None:
        """Put the images first that the net with these weights is wrong about, or nearly."""
        if not isinstance(self._engine, Introspective):
            return
        scores = self._engine.logits(self._net, self._tensors(weights), self.split.images)
        index = np.arange(len(self.split))
        own = scores[index, self.split.labels]
        scores[index, self.split.labels] = -np.inf
        order = np.argsort(own - scores.max(axis=1), kind="stable")
        parts = np.split(order, [round(fraction * len(order)) for fraction in CUTS])
        self._chunks = [self.split.take(self.split.name, part) for part in parts]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _tensors(self, weights: Floats) -> Tensors:
        return unpack(weights, "weights", self._net.parameters) | self._buffers

    def _count(self, weights: Floats, split: Split) -> int:
        accuracy = self._engine.evaluate(self._net, self._tensors(weights), split)
        return round(accuracy * len(split))

    def _errors(self, weights: Floats, split: Split) -> int:
        if len(self._counters) == 1:
            return len(split) - self._counters[0](weights, split)
        cuts = np.linspace(0, len(split), len(self._counters) + 1).astype(int)
        parts = [Split(split.name, split.images[a:b], split.labels[a:b]) for a, b in pairwise(cuts)]
        work = zip(self._counters, parts, strict=True)
        right: Iterator[int] = self._pool.map(lambda pair: pair[0](weights, pair[1]), work)
        return len(split) - sum(right)
