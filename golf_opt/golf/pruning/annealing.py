"""Simulated annealing over which weights stay, with the values that they were trained to.

Where no single weight can go, one that is gone may come back and others go in its place. A walk
flips weights at random, those of the last layer and the others in turn, and keeps the target
throughout. Its energy is the number of weights, and the errors on the guide: those below what is
allowed are room for a weight to go later. A flip is refused by Metropolis' rule: Kirkpatrick,
Gelatt, Vecchi, "Optimization by simulated annealing", 1983.

The luck of a flip is drawn before its errors are counted, so that the count can end where it is
lost. Flips of the last layer are counted from its features, kept in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Floats
from golf_opt.engines.flat import unpack
from golf_opt.golf.pruning.head import Head, first_of_head
from golf_opt.golf.pruning.search import Evaluator, PruningState
from golf_opt.task import rng
from golf_opt.task.arch import Net

ERRORS = 6.0  # that are worth a weight
HOT = 0.5  # temperature that a walk begins with, in weights; it ends with none
FLIPS = 1200  # of weights before the last layer, in a walk; whole evaluations
HEAD_FLIPS = 20_000  # of the last layer's
LEGS = 4  # a walk goes over both by turns
PATIENCE = 12  # walks in a row that found nothing smaller


class Annealing:
    """The annealing of one net.

    Args:
        net: the net.
        trained: its flat weights, from which some went.
        scope: which of them may go.
        evaluator: counts errors.
        key: of what is random.
    """

    def __init__(
        self,
        net: Net,
        trained: Floats,
        scope: npt.NDArray[np.bool_],
        evaluator: Evaluator,
        key: int,
    ) -> None:
        self._net, self._trained, self._evaluator, self._key = net, trained, evaluator, key
        places = np.flatnonzero(scope & (trained[: len(scope)] != 0))
        self._front, self._head = np.split(places, [np.searchsorted(places, first_of_head(net))])

    def run(self, state: PruningState) -> Generator[None]:
        """Go on until walks find nothing smaller; yields several times a second.

        A walk is a pure function of the state before it, which changes at its end alone.
        """
        while state.failures < PATIENCE:
            walk = Walk(self._net, self._trained, state, self._evaluator)
            random = np.random.default_rng(rng.derive(self._key, "walk", state.turn))
            for leg in range(LEGS):
                hot = HOT * (1 - leg / LEGS)
                for places, flips in ((self._front, FLIPS), (self._head, HEAD_FLIPS)):
                    if len(places):
                        yield from walk.go(places, flips // LEGS, hot, hot - HOT / LEGS, random)
            self._close(state, walk)
            yield

    def _close(self, state: PruningState, walk: Walk) -> None:
        """Take up where the walk was at its best, if that is better than where it began."""
        size = state.nz
        state.turn, state.failures = state.turn + 1, state.failures + 1
        state.evaluations += walk.evaluations
        accuracy = self._evaluator.accuracy(walk.best)
        nz = int(np.count_nonzero(walk.best))
        if self._evaluator.passes(walk.best) and (nz, -accuracy) < (size, -state.accuracy):
            state.weights, state.accuracy = walk.best, accuracy
        if state.nz < size:
            state.failures = 0
        row = {"round": state.turn, "tried": [[nz, accuracy]]}
        state.log.append(row | {"nz": state.nz, "accuracy": state.accuracy})


class Walk:
    """A walk over nets that keep the target, from that of a state; `best` is the best of them."""

    def __init__(
        self, net: Net, trained: Floats, state: PruningState, evaluator: Evaluator
    ) -> None:
        self._net, self._trained, self._evaluator = net, trained, evaluator
        self._buffers, self._weights = state.buffers, state.weights.copy()
        self._last = first_of_head(net)
        evaluator.sort(self._weights)
        self._size, self._errors = state.nz, evaluator.errors(self._weights)
        self.best, self._least = self._weights.copy(), (self._size, self._errors)
        self.evaluations = 0

    def go(
        self,
        places: npt.NDArray[np.int64],
        flips: int,
        hot: float,
        cold: float,
        random: np.random.Generator,
    ) -> Generator[None]:
        """Flip some of these flat weights at random, at temperatures from `hot` to `cold`."""
        count, take = self._counting(int(places[0]))
        drawn, luck = random.choice(places, flips), -np.log1p(-random.random(flips))
        for turn, (index, more) in enumerate(zip(drawn, luck, strict=True)):
            before = self._weights[index]
            value = 0.0 if before else float(self._trained[index])
            change = -1 if before else 1
            temperature = hot + (cold - hot) * turn / flips
            most = self._errors + ERRORS * (temperature * more - change)
            most = min(self._evaluator.allowed, math.floor(most))
            self.evaluations += 1
            if most >= 0 and (errors := count(index, value, most)) <= most:
                take(index, value)
                self._weights[index] = value
                self._size, self._errors = self._size + change, errors
                self._remember()
            if turn % 64 == 0:
                yield

    def _remember(self) -> None:
        if (self._size, self._errors) < self._least:
            self.best, self._least = self._weights.copy(), (self._size, self._errors)

    def _counting(
        self, first: int
    ) -> tuple[Callable[[int, float, int], int], Callable[[int, float], None]]:
        """Return what counts the errors of a flip, and what is to be told of one that is made."""
        if first >= self._last:
            tensors = unpack(self._weights, "weights", self._net.parameters) | self._buffers
            head = Head(self._net, tensors, self._evaluator.split)
            return lambda index, value, _: head.errors(index, value), head.set

        def whole(index: int, value: float, most: int) -> int:
            changed = self._weights.copy()
            changed[index] = value
            return self._evaluator.errors(changed, most)

        return whole, lambda index, value: None
