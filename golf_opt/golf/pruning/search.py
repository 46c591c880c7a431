"""Brute force: set weights to zero one by one; a zero stays if the target is kept.

What is true at every yield: the standing's weights keep the target. So whoever stops the search
has the best so far, and whoever goes on from a standing ends like one who was never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.golf.pruning.evaluator import Floats, Judge
from golf_opt.golf.pruning.ranking import Ranking

SORT_EVERY = 48  # removals, after which other images are the doubtful ones


@dataclass
class Standing:
    """Where a pruning stands: all that it takes to go on."""

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
    evaluations: int = 0  # of the guide by the judge, those that it cut short too
    time_s: float = 0.0
    finished: bool = False
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def nz(self) -> int:
        return int(np.count_nonzero(self.weights))


def passes(
    standing: Standing,
    judge: Judge,
    ranking: Ranking,
    scope: npt.NDArray[np.bool_],
    once: bool = False,
) -> Iterator[None]:
    """Try every weight in the order of the ranking, pass after pass until one removes nothing.

    Yields after each weight that was tried.
    """
    judge.sort(standing.weights)
    while True:
        if not len(standing.order):
            _begin(standing, ranking, scope)
        for _ in _pass(standing, judge):
            yield
        standing.accuracy = judge.accuracy(standing.weights)
        standing.evaluations += 1
        standing.log.append(
            {
                "pass": standing.turn,
                "removed": standing.removed,
                "nz": standing.nz,
                "accuracy": standing.accuracy,
            }
        )
        standing.order = standing.order[:0]
        if once or standing.removed == 0:
            return
        yield


def _begin(standing: Standing, ranking: Ranking, scope: npt.NDArray[np.bool_]) -> None:
    ranks = ranking(standing.weights)[: len(scope)]
    candidates = np.flatnonzero(scope & (standing.weights[: len(scope)] != 0))
    standing.order = candidates[np.argsort(ranks[candidates], kind="stable")]
    standing.turn, standing.at, standing.removed = standing.turn + 1, 0, 0


def _pass(standing: Standing, judge: Judge) -> Iterator[None]:
    weights = standing.weights
    while standing.at < len(standing.order):
        index = standing.order[standing.at]
        before, weights[index] = weights[index], 0
        standing.evaluations += 1
        if judge.passes(weights):
            standing.removed += 1
            if standing.removed % SORT_EVERY == 0:
                judge.sort(weights)
        else:
            weights[index] = before
        standing.at += 1
        yield
