"""Rounds: remove a few percent, fine-tune the survivors, keep what reaches the target, again.

Fine-tuning the same survivors gives nearly the same accuracy whatever the seed; what is removed
decides. So a round tries several choices side by side, in all lanes: by the optimal brain surgeon
on other images and with other damping, and by magnitude. The one with the highest accuracy on the
guide is where the next round begins. Where none reaches the target the round is undone; after a
few of those the share is halved, down to one weight.

A round is a pure function of where it begins, so one that was stopped is simply begun again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from golf_opt.config.schema import PruneOptions
from golf_opt.engines.base import Engine, Job, LaneState, Tensors
from golf_opt.engines.native.engine import NativeEngine, unpack
from golf_opt.golf.dead import clear
from golf_opt.golf.pruning import surgeon
from golf_opt.golf.pruning.evaluator import Floats, allowed_errors, flatten
from golf_opt.golf.pruning.ranking import by_magnitude
from golf_opt.golf.pruning.search import Standing
from golf_opt.task import rng
from golf_opt.task.arch import Net
from golf_opt.task.data import Split
from golf_opt.task.recipe import Candidate

DAMPING = 1e-4
DAMPINGS = (10**-4.5, 1e-2)  # of the varied surgeon, on half of the images
MAGNITUDE_EVERY = 3  # variants; the others are the surgeon's
NOISE = 0.3  # log-normal, on magnitudes, of all but the first variant of each kind


@dataclass
class Variant:
    """One way to go through a round: what survives, and what training made of it."""

    start: LaneState
    job: Job
    accuracy: float = -1.0  # the best of its epochs on the guide
    tensors: Tensors = field(default_factory=dict)  # of that epoch


class Rounds:
    """The rounds of one pruning.

    Args:
        engine: trains on `train` and measures on the guide.
        net: the net.
        train: its training images.
        num_guide: how many images the guide has.
        scope: which of the flat weights may go.
        options: what to do.
    """

    def __init__(
        self,
        engine: Engine,
        net: Net,
        train: Split,
        num_guide: int,
        scope: npt.NDArray[np.bool_],
        options: PruneOptions,
    ) -> None:
        self._engine, self._net, self._train = engine, net, train
        self._scope, self._options = scope, options
        self._num_guide = num_guide
        self._least = num_guide - allowed_errors(options.target, num_guide)

    def run(self, standing: Standing) -> Generator[None]:
        """Go on until single weights fail; yields several times a second.

        The standing changes at the end of a round alone.
        """
        while (step := self._step(standing)) > 0:
            variants = self._variants(standing, step)
            yield from train(self._engine, variants)
            self._close(standing, variants)
            yield

    def _step(self, standing: Standing) -> int:
        """Return how many weights to remove; 0 when even one was too many."""
        removable = np.count_nonzero(standing.weights[: len(self._scope)][self._scope])
        wanted = self._options.rounds.share * removable
        last = standing.level > 0 and wanted * 2.0 ** (1 - standing.level) <= 1
        if removable <= 1 or last:
            return 0
        return max(1, round(wanted * 2.0**-standing.level))

    def _variants(self, standing: Standing, step: int) -> list[Variant]:
        each = self._gradients(standing)
        variants = []
        for index in range(self._options.rounds.variants):
            key = rng.derive(self._options.seed, "round", standing.turn, "variant", index)
            if each is None or index % MAGNITUDE_EVERY == MAGNITUDE_EVERY - 1:
                first = index < MAGNITUDE_EVERY
                weights = self._by_magnitude(standing, step, None if first else key)
            else:
                weights = self._by_surgeon(standing, step, each, None if index == 0 else key)
            variants.append(self._variant(standing, weights, key))
        return variants

    def _gradients(self, standing: Standing) -> Floats | None:
        """Return what the surgeon needs; None where it cannot work."""
        if not isinstance(self._engine, NativeEngine) or standing.nz > surgeon.LARGEST:
            return None
        tensors = unpack(standing.weights, "weights", self._net.parameters) | standing.buffers
        key = rng.derive(self._options.seed, "round", standing.turn)
        return surgeon.gradients(self._engine, self._net, tensors, self._train, key)

    def _by_surgeon(self, standing: Standing, step: int, each: Floats, key: int | None) -> Floats:
        if key is None:
            return surgeon.remove(standing.weights, self._scope, each, step, DAMPING)
        half = each[rng.permutation(key, len(each))[: len(each) // 2]]
        low, high = np.log(DAMPINGS)
        damping = float(np.exp(low + (high - low) * rng.uniform(key, 1)[0]))
        prejudice = self._noise(key) ** 2  # the cost goes with the square
        return surgeon.remove(standing.weights, self._scope, half, step, damping, prejudice)

    def _by_magnitude(self, standing: Standing, step: int, key: int | None) -> Floats:
        weights = standing.weights.copy()
        ranks = by_magnitude(self._net)(weights)
        if key is not None:
            ranks = ranks * self._noise(key)
        alive = np.flatnonzero(self._scope & (weights[: len(self._scope)] != 0))
        weights[alive[np.argsort(ranks[alive], kind="stable")[:step]]] = 0
        return weights

    def _noise(self, key: int) -> npt.NDArray[np.float64]:
        return np.exp(NOISE * np.random.default_rng(key).normal(size=len(self._scope)))

    def _variant(self, standing: Standing, weights: Floats, key: int) -> Variant:
        """Return the variant to train, without what has lost its effect."""
        net, options = self._net, self._options.rounds
        tensors = clear(net, unpack(weights, "weights", net.parameters) | standing.buffers)
        keep = (flatten(net, tensors) != 0).astype(np.float32)
        keep[: len(self._scope)][~self._scope] = 1  # these may become anything, zero or not
        start = LaneState(tensors | unpack(keep, "masks", net.parameters), 0, 0, 0.0, 0.0)
        candidate = Candidate(options.batch_size, options.lr, schedule="cosine")
        return Variant(start, Job(net, candidate, key, options.epochs))

    def _close(self, standing: Standing, variants: list[Variant]) -> None:
        """Take up the best variant, if it reaches the target."""
        tried = [[_survivors(self._net, variant), variant.accuracy] for variant in variants]
        best = max(variants, key=lambda variant: variant.accuracy)
        standing.turn += 1
        if round(best.accuracy * self._num_guide) >= self._least:
            standing.weights = flatten(self._net, best.tensors)
            standing.buffers = {k: v for k, v in best.tensors.items() if k.startswith("buffers/")}
            standing.accuracy, standing.failures = best.accuracy, 0
        else:
            standing.failures += 1
            if standing.failures == self._options.rounds.patience:
                standing.level, standing.failures = standing.level + 1, 0
        standing.log.append(
            {
                "round": standing.turn,
                "tried": tried,
                "nz": standing.nz,
                "accuracy": standing.accuracy,
            }
        )


def train(engine: Engine, variants: list[Variant]) -> Iterator[None]:
    """Train the variants in all lanes, keeping the best epoch of each; yields as lanes report."""
    waiting = list(reversed(variants))
    busy: dict[int, Variant] = {}
    try:
        while waiting or busy:
            for lane in range(engine.num_lanes):
                if waiting and lane not in busy:
                    busy[lane] = waiting.pop()
                    engine.start(lane, busy[lane].job, busy[lane].start)
            for part in engine.step():
                variant, result = busy[part.lane], part.result
                if result is not None and result.accuracy > variant.accuracy:
                    variant.accuracy = result.accuracy
                    variant.tensors = engine.state(part.lane).tensors
                if part.error is not None or (result and result.epoch == variant.job.epochs):
                    engine.stop(part.lane)
                    del busy[part.lane]
            yield
    finally:
        for lane in busy:
            engine.stop(lane)


def _survivors(net: Net, variant: Variant) -> int:
    tensors = variant.tensors or variant.start.tensors
    return int(np.count_nonzero(flatten(net, tensors)))
