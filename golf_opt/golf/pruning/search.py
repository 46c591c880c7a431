"""Brute force: set weights to zero one by one; a zero stays if the target is kept.

What is true at every yield: the state's weights keep the target. So whoever stops the search has
the best so far, and whoever goes on from a state ends like one who was never stopped.

The question, whether a net still reaches the target on the guide, is asked thousands of times. So
the images that the net is least sure of come first: a candidate that errs too often is refused
after a few percent of the images. Each chunk is shared out to all lanes. Every accepted candidate
was seen on all images.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Engine, Floats, Introspective, Tensors
from golf_opt.engines.flat import pack, unpack
from golf_opt.golf.pruning.ranking import Ranking
from golf_opt.task.arch import Net
from golf_opt.task.data import Split

CUTS = (0.04, 0.2)  # after these fractions of the images, the hardest first, it may give up
VECTOR = 64  # floats; a multiple of any machine's, so that every kernel can read the flat weights
SORT_EVERY = 48  # removals, after which other images are the doubtful ones


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
        return self.errors(weights, self.allowed) <= self.allowed

    def accuracy(self, weights: Floats) -> float:
        """Return the fraction of the guide's images that get their label."""
        return (len(self.split) - self.errors(weights)) / len(self.split)

    def errors(self, weights: Floats, most: float = math.inf) -> int:
        """Return how many images get another label; of those that are more than `most`, a part."""
        errors = 0
        for chunk in self._chunks:
            errors += self.errors_among(weights, chunk)
            if errors > most:
                break
        return errors

    def errors_among(self, weights: Floats, split: Split) -> int:
        """Return how many of some images get another label."""
        if len(self._counters) == 1:
            return len(split) - self._counters[0](weights, split)
        cuts = np.linspace(0, len(split), len(self._counters) + 1).astype(int)
        parts = [Split(split.name, split.images[a:b], split.labels[a:b]) for a, b in pairwise(cuts)]
        work = zip(self._counters, parts, strict=True)
        right: Iterator[int] = self._pool.map(lambda pair: pair[0](weights, pair[1]), work)
        return len(split) - sum(right)

    def sort(self, weights: Floats) -> None:
        """Put the images first that the net with these weights is wrong about, or nearly."""
        if not isinstance(self._engine, Introspective):
            return
        order = np.argsort(self._margins(weights), kind="stable")
        parts = np.split(order, [round(fraction * len(order)) for fraction in CUTS])
        self._chunks = [self.split.take(self.split.name, part) for part in parts]

    def undecided(self, weights: Floats, fraction: float) -> Split:
        """Return the fraction of the images that the net is nearest to another answer about."""
        order = np.argsort(np.abs(self._margins(weights)), kind="stable")
        return self.split.take(self.split.name, order[: round(fraction * len(order))])

    def _margins(self, weights: Floats) -> Floats:
        """Return by how much each image's label is ahead of all others; below zero: wrong."""
        assert isinstance(self._engine, Introspective)
        scores = self._engine.logits(self._net, self._tensors(weights), self.split.images)
        index = np.arange(len(self.split))
        own = scores[index, self.split.labels]
        scores[index, self.split.labels] = -np.inf
        margins: Floats = own - scores.max(axis=1)
        return margins

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _tensors(self, weights: Floats) -> Tensors:
        return unpack(weights, "weights", self._net.parameters) | self._buffers

    def _count(self, weights: Floats, split: Split) -> int:
        accuracy = self._engine.evaluate(self._net, self._tensors(weights), split)
        return round(accuracy * len(split))


@dataclass
class PruningState:
    """How far a pruning is: all that it takes to go on."""

    weights: Floats  # flat, padded; they keep the target
    buffers: dict[str, npt.NDArray[Any]]
    accuracy: float  # of these weights on the guide; as of the last pass or round
    stage: str = "passes"  # or another of `weight_pruner.STAGES`
    turn: int = 0  # pass or round, from 1
    order: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    at: int = 0  # the next one of `order`
    removed: int = 0  # in this pass
    level: int = 0  # on the ladder of the rounds
    failures: int = 0  # rounds without success on this level, or of regrowth
    evaluations: int = 0  # of the guide, those that were cut short too
    time_s: float = 0.0
    finished: bool = False
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def nz(self) -> int:
        return int(np.count_nonzero(self.weights))

    def tensors(self, net: Net) -> Tensors:
        """Return `weights/...` and `buffers/...`."""
        return unpack(self.weights, "weights", net.parameters) | self.buffers


def passes(
    state: PruningState,
    evaluator: Evaluator,
    ranking: Ranking,
    scope: npt.NDArray[np.bool_],
    once: bool = False,
) -> Iterator[None]:
    """Try every weight in the order of the ranking, pass after pass until one removes nothing.

    Yields after each weight that was tried.
    """
    evaluator.sort(state.weights)
    while True:
        if not len(state.order):
            _begin(state, ranking, scope)
        for _ in _pass(state, evaluator):
            yield
        state.accuracy = evaluator.accuracy(state.weights)
        state.evaluations += 1
        state.log.append(
            {
                "pass": state.turn,
                "removed": state.removed,
                "nz": state.nz,
                "accuracy": state.accuracy,
            }
        )
        state.order = state.order[:0]
        if once or state.removed == 0:
            return
        yield


def _begin(state: PruningState, ranking: Ranking, scope: npt.NDArray[np.bool_]) -> None:
    ranks = ranking(state.weights)[: len(scope)]
    candidates = np.flatnonzero(scope & (state.weights[: len(scope)] != 0))
    state.order = candidates[np.argsort(ranks[candidates], kind="stable")]
    state.turn, state.at, state.removed = state.turn + 1, 0, 0


def _pass(state: PruningState, evaluator: Evaluator) -> Iterator[None]:
    weights = state.weights
    while state.at < len(state.order):
        index = state.order[state.at]
        before, weights[index] = weights[index], 0
        state.evaluations += 1
        if evaluator.passes(weights):
            state.removed += 1
            if state.removed % SORT_EVERY == 0:
                evaluator.sort(weights)
        else:
            weights[index] = before
        state.at += 1
        yield
