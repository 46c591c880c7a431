"""Rounds: remove a few percent, fine-tune the survivors, keep what reaches the target, again.

A round tries several variants side by side, in all lanes: other shares, other rankings, other
seeds. The one with the fewest survivors that reaches the target is where the next round begins.
Where none does, the round is undone, and the next takes a smaller step and trains longer. A round
is a pure function of where it begins, so that one that was stopped is simply begun again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from golf_opt import rng
from golf_opt.arch import Net
from golf_opt.config import PruneOptions
from golf_opt.engines.base import Engine, Job, LaneState, Tensors
from golf_opt.engines.native.engine import unpack
from golf_opt.golf.dead import clear
from golf_opt.golf.judge import Floats, flatten
from golf_opt.golf.ranking import Ranking
from golf_opt.golf.search import Standing
from golf_opt.recipe import Candidate

STEPS = (1.0, 1.6, 0.6, 1.0)  # of the level's share, by variant
SMALLER, LONGER = 0.5, 2  # from one level of the ladder to the next


@dataclass
class Variant:
    """One way to go through a round: what survives, and what training made of it."""

    nz: int
    start: LaneState
    job: Job
    accuracy: float = -1.0  # the best of its epochs on the guide
    train_loss: float = np.inf
    tensors: Tensors = field(default_factory=dict)  # of that epoch


def ladder(options: PruneOptions) -> list[tuple[float, int]]:
    """Return the levels, each the share to remove and the epochs of fine-tuning."""
    share, epochs = options.rounds.share, options.rounds.epochs
    levels = [(share, epochs)]
    while epochs < options.rounds.max_epochs:
        share, epochs = share * SMALLER, min(epochs * LONGER, options.rounds.max_epochs)
        levels.append((share, epochs))
    return levels


def rounds(
    engine: Engine,
    net: Net,
    standing: Standing,
    rankings: list[Ranking],
    scope: npt.NDArray[np.bool_],
    options: PruneOptions,
) -> Generator[None]:
    """Go down the ladder; yields several times a second, but the standing changes by rounds."""
    levels = ladder(options)
    while standing.level < len(levels):
        share, epochs = levels[standing.level]
        ranked = [ranking(standing.weights) for ranking in rankings]
        variants = [
            _variant(net, standing, ranked[i % len(ranked)], scope, options, i, share, epochs)
            for i in range(options.rounds.variants)
        ]
        yield from train(engine, variants)
        _close_round(net, standing, variants, options, epochs)
        yield


def _variant(
    net: Net,
    standing: Standing,
    ranks: npt.NDArray[np.float64],
    scope: npt.NDArray[np.bool_],
    options: PruneOptions,
    index: int,
    share: float,
    epochs: int,
) -> Variant:
    """Remove the least of the ranking, and whatever loses its effect thereby."""
    weights = standing.weights.copy()
    size = len(scope)
    alive = np.flatnonzero(scope & (weights[:size] != 0))
    step = max(1, round(share * STEPS[index % len(STEPS)] * len(alive)))
    weights[alive[np.argsort(ranks[alive], kind="stable")[:step]]] = 0
    tensors = clear(net, unpack(weights, "weights", net.parameters) | standing.buffers)
    weights = flatten(net, tensors)
    keep = (weights != 0).astype(np.float32)
    keep[:size][~scope] = 1  # what may not go may become anything, zero or not
    seed = rng.derive(options.seed, "round", standing.turn, "variant", index)
    candidate = Candidate(options.rounds.batch_size, options.rounds.lr, schedule="cosine")
    start = LaneState(tensors | unpack(keep, "masks", net.parameters), 0, 0, 0.0, 0.0)
    return Variant(int(np.count_nonzero(weights)), start, Job(net, candidate, seed, epochs))


def train(engine: Engine, variants: list[Variant]) -> Iterator[None]:
    """Train the variants in all lanes, each keeping the best of its epochs."""
    waiting = list(reversed(variants))
    busy: dict[int, Variant] = {}
    try:
        while waiting or busy:
            for lane in range(engine.num_lanes):
                if waiting and lane not in busy:
                    busy[lane] = waiting.pop()
                    engine.start(lane, busy[lane].job, busy[lane].start)
            for part in engine.step():
                variant = busy[part.lane]
                if part.result is not None and part.result.accuracy > variant.accuracy:
                    variant.accuracy = part.result.accuracy
                    variant.train_loss = part.result.loss
                    variant.tensors = engine.state(part.lane).tensors
                over = part.result is not None and part.result.epoch == variant.job.epochs
                if over or part.error is not None:
                    engine.stop(part.lane)
                    del busy[part.lane]
            yield
    finally:
        for lane in busy:
            engine.stop(lane)


def _close_round(
    net: Net, standing: Standing, variants: list[Variant], options: PruneOptions, epochs: int
) -> None:
    """Take up the best variant that reached the target, or step down the ladder."""
    reached = [v for v in variants if v.accuracy >= options.target]
    best = min(reached, key=lambda v: (v.nz, -v.accuracy), default=None)
    standing.turn += 1
    if best is None:
        standing.level += 1
    else:
        standing.weights = _survivors(net, best)
        standing.buffers = {k: v for k, v in best.tensors.items() if k.startswith("buffers/")}
        standing.accuracy = best.accuracy
    standing.log.append(
        {
            "round": standing.turn,
            "epochs": epochs,
            "tried": [[v.nz, v.accuracy] for v in variants],
            "nz": standing.nz,
            "accuracy": standing.accuracy,
        }
    )


def _survivors(net: Net, variant: Variant) -> Floats:
    return flatten(net, variant.tensors)
