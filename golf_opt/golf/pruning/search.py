"""Brute force: set weights to zero one by one; a zero stays if the target is kept.

What is true at every yield: the state's weights keep the target. So whoever stops the search has
the best so far, and whoever goes on from a state ends like one who was never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Floats, Tensors
from golf_opt.engines.flat import unpack
from golf_opt.golf.pruning.evaluator import Evaluator
from golf_opt.golf.pruning.ranking import Ranking
from golf_opt.task.arch import Net

SORT_EVERY = 48  # removals, after which other images are the doubtful ones


@dataclass
class PruningState:
    """How far a pruning is: all that it takes to go on."""

    weights: Floats  # flat, padded; they keep the target
    buffers: dict[str, npt.NDArray[Any]]
    accuracy: float  # of these weights on the guide; as of the last pass or round
    stage: str = "passes"  # or `rounds`
    turn: int = 0  # pass or round, from 1
    order: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    at: int = 0  # the next one of `order`
    removed: int = 0  # in this pass
    level: int = 0  # on the ladder of the rounds
    failures: int = 0  # rounds without success on this level
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
