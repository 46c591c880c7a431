"""Rounds: remove a few percent, fine-tune the survivors, keep what reaches the target, again.

Fine-tuning the same survivors gives nearly the same accuracy whatever the seed; what is removed
decides. So a round tries several choices side by side, in all lanes: by the optimal brain surgeon
on other images and with other damping, and by magnitude. The one with the highest accuracy on the
guide is where the next round begins. Where none reaches the target the round is undone; after a
few of those the fraction is halved, down to one weight.

A round is a pure function of where it begins, so one that was stopped is simply begun again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from golf_opt.config.schema import PruneOptions
from golf_opt.engines.base import Engine, Floats, Introspective, Job, LaneState, Tensors
from golf_opt.engines.flat import unpack
from golf_opt.engines.lanes import Run, train
from golf_opt.golf.dead import clear
from golf_opt.golf.pruning import surgeon
from golf_opt.golf.pruning.ranking import by_magnitude
from golf_opt.golf.pruning.search import PruningState, allowed_errors, flatten
from golf_opt.task import rng
from golf_opt.task.arch import Net
from golf_opt.task.data import View
from golf_opt.task.recipe import Candidate

DAMPING = 1e-4
DAMPINGS = (10**-4.5, 1e-2)  # of the varied surgeon, on half of the images
MAGNITUDE_EVERY = 3  # variants; the others are the surgeon's
NOISE = 0.3  # log-normal, on magnitudes, of all but the first variant of each kind


@dataclass(eq=False)
class Variant(Run[int]):
    """One way to go through a round: the survivors to begin with, and what training made of them.

    Its key is that of its random choices.
    """

    accuracy: float = -1.0  # the best of its epochs on the guide
    tensors: Tensors = field(default_factory=dict)  # of that epoch


class Rounds:
    """The rounds of one pruning.

    Args:
        engine: made with `view`; trains on its training images and measures on the guide.
        net: the net.
        view: the images.
        scope: which of the flat weights may go.
        options: what to do.
    """

    def __init__(
        self,
        engine: Engine,
        net: Net,
        view: View,
        scope: npt.NDArray[np.bool_],
        options: PruneOptions,
    ) -> None:
        self._engine, self._net, self._images = engine, net, view.train
        self._scope, self._options = scope, options
        self._guide = view.objective
        self._num_guide = len(view.objective)
        self._least = self._num_guide - allowed_errors(options.aim, self._num_guide)

    def run(self, state: PruningState) -> Generator[None]:
        """Go on until single weights fail; yields several times a second.

        The state changes at the end of a round alone.
        """
        while (step := self._step(state)) > 0:
            variants = self._variants(state, step)
            yield from self._train(variants)
            self._close(state, variants)
            yield

    def _train(self, variants: list[Variant]) -> Iterator[None]:
        """Train the variants in all lanes, keeping the best epoch of each."""
        with contextlib.closing(train(self._engine, variants)) as slices:
            for variant, part in slices:
                if part.result is not None and part.result.accuracy > variant.accuracy:
                    variant.accuracy = part.result.accuracy
                    variant.tensors = self._engine.state(part.lane).net
                yield

    def _step(self, state: PruningState) -> int:
        """Return how many weights to remove; 0 when even one was too many."""
        removable = np.count_nonzero(state.weights[: len(self._scope)][self._scope])
        wanted = self._options.rounds.share * removable
        last = state.level > 0 and wanted * 2.0 ** (1 - state.level) <= 1
        if removable <= 1 or last:
            return 0
        return max(1, round(wanted * 2.0**-state.level))

    def _variants(self, state: PruningState, step: int) -> list[Variant]:
        each = self._gradients(state)
        variants = []
        for index in range(self._options.rounds.variants):
            key = rng.derive(self._options.seed, "round", state.turn, "variant", index)
            if each is None or index % MAGNITUDE_EVERY == MAGNITUDE_EVERY - 1:
                first = index < MAGNITUDE_EVERY
                weights = self._by_magnitude(state, step, None if first else key)
            else:
                weights = self._by_surgeon(state, step, each, None if index == 0 else key)
            variants.append(self._variant(weights, state.buffers, key))
        return variants

    def _gradients(self, state: PruningState, believed: bool = True) -> Floats | None:
        """Return what the surgeon needs, or the same for true labels; None where it cannot work."""
        if not isinstance(self._engine, Introspective) or state.nz > surgeon.LARGEST:
            return None
        tensors = state.tensors(self._net)
        key = rng.derive(self._options.seed, "round", state.turn)
        return surgeon.gradients(self._engine, self._net, tensors, self._images, key, believed)

    def _by_surgeon(self, state: PruningState, step: int, each: Floats, key: int | None) -> Floats:
        if key is None:
            return surgeon.remove(state.weights, self._scope, each, step, DAMPING)
        half = each[rng.permutation(key, len(each))[: len(each) // 2]]
        low, high = np.log(DAMPINGS)
        damping = float(np.exp(low + (high - low) * rng.uniform(key, 1)[0]))
        prejudice = self._noise(key) ** 2  # the cost goes with the square
        return surgeon.remove(state.weights, self._scope, half, step, damping, prejudice)

    def _by_magnitude(self, state: PruningState, step: int, key: int | None) -> Floats:
        weights = state.weights.copy()
        ranks = by_magnitude(self._net)(weights)
        if key is not None:
            ranks = ranks * self._noise(key)
        alive = np.flatnonzero(self._scope & (weights[: len(self._scope)] != 0))
        weights[alive[np.argsort(ranks[alive], kind="stable")[:step]]] = 0
        return weights

    def _noise(self, key: int) -> npt.NDArray[np.float64]:
        return np.exp(NOISE * np.random.default_rng(key).normal(size=len(self._scope)))

    def _variant(
        self,
        weights: Floats,
        buffers: Tensors,
        key: int,
        back: npt.NDArray[np.bool_] | None = None,
        epochs: int | None = None,
    ) -> Variant:
        """Return the variant to train, without what has lost its effect.

        Args:
            weights: flat; those that are zero stay so.
            buffers: `buffers/...`.
            key: of its random choices.
            back: which may become anything although they are zero, [size of the net].
            epochs: of training; None: the option's.
        """
        net, options = self._net, self._options.rounds
        tensors = clear(net, unpack(weights, "weights", net.parameters) | buffers)
        keep = (flatten(net, tensors) != 0).astype(np.float32)
        keep[: len(self._scope)][~self._scope if back is None else back | ~self._scope] = 1
        start = LaneState(tensors | unpack(keep, "masks", net.parameters), 0, 0, 0.0, 0.0)
        candidate = Candidate(
            options.batch_size,
            options.lr,
            schedule="cosine",
            optimizer="adamw",
            weight_decay=options.weight_decay,
        )
        return Variant(key, Job(net, candidate, key, epochs or options.epochs), start)

    def _close(self, state: PruningState, variants: list[Variant]) -> None:
        """Take up the best variant, if it reaches the target and is better than what there was."""
        tried = [[survivors(self._net, variant), variant.accuracy] for variant in variants]
        best, size = self._best(variants), state.nz
        state.turn += 1
        worth = (survivors(self._net, best), -best.accuracy)
        if self._reaches(best) and worth < (size, -state.accuracy):
            state.weights = flatten(self._net, best.tensors)
            state.buffers = {k: v for k, v in best.tensors.items() if k.startswith("buffers/")}
            state.accuracy = best.accuracy
        if state.nz < size:
            state.failures = 0
        else:
            self._fail(state)
        state.log.append(
            {"round": state.turn, "tried": tried, "nz": state.nz, "accuracy": state.accuracy}
        )

    def _fail(self, state: PruningState) -> None:
        state.failures += 1
        if state.failures == self._options.rounds.patience:
            state.level, state.failures = state.level + 1, 0

    def _best(self, variants: list[Variant]) -> Variant:
        return max(variants, key=lambda variant: variant.accuracy)

    def _reaches(self, variant: Variant) -> bool:
        return round(variant.accuracy * self._num_guide) >= self._least


def survivors(net: Net, variant: Variant) -> int:
    """Return how many weights of a variant are not zero."""
    assert variant.resume is not None
    return int(np.count_nonzero(flatten(net, variant.tensors or variant.resume.tensors)))
