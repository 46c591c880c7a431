"""Regrowth: where no single weight can go, some that are gone come back, and more have to go.

Rounds of removal end at one choice of survivors; another choice of as many may have room. So in
each variant those zeros come back that gradients pull at the most, all weights are trained, the
optimal brain surgeon takes as many away again and a few more, and the survivors are trained.
Mocanu and others, "Scalable training of artificial neural networks with adaptive sparse
connectivity", 2018; Evci and others, "Rigging the lottery", 2020, revive by gradient.

How many more differs by variant: one for the most careful, up to a step that doubles what went
well and halves where nothing did. Who reaches the target, or nearly, then loses every weight that
can go without any training: single cuts of the surgeon, tried on the guide one by one, find what
took many more rounds. One that has as many weights as before is taken up if it is more accurate.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Introspective
from golf_opt.golf.pruning import surgeon
from golf_opt.golf.pruning.ranking import by_magnitude
from golf_opt.golf.pruning.rounds import Rounds, Variant, survivors
from golf_opt.golf.pruning.search import Evaluator, PruningState, flatten, passes
from golf_opt.golf.pruning.surgery import ONE_BY_ONE, Surgery
from golf_opt.task import rng

REVIVED = (3, 24)  # weights that come back, at least and at most, drawn on a log scale
BOLDEST = 8  # the largest step to begin with, in weights less than before
NEAR = 10  # images of the guide that a variant may miss the target by, to be cut once more
SHAVES = 2  # tries of the surgeon in a row, to cut a variant once more
GROWING = 1 / 3  # of the epochs of a round, before weights are taken away again


class Regrowth(Rounds):
    """Rounds in which weights come back; an engine that gives gradients is needed."""

    def run(self, state: PruningState) -> Generator[None]:
        """Go on until `rounds.regrow` of them in a row gave no smaller net.

        Nets that are too large for the surgeon stay as they are.
        """
        if state.nz + REVIVED[1] > surgeon.LARGEST:
            return
        while state.failures < self._options.rounds.regrow:
            grown = self._grown(state)
            yield from self._train(grown)
            steps = self._steps(state)
            cut = [
                self._cut(state, variant, step, first=variant is grown[0])
                for variant, step in zip(grown, steps, strict=True)
            ]
            yield from self._train(cut)
            for variant in filter(self._nearly, cut):
                yield from self._shave(variant)
            self._close(state, cut)
            yield

    def _steps(self, state: PruningState) -> list[int]:
        """Return how many weights less than before each variant is to have."""
        boldest = max(1, state.level)
        steps = np.geomspace(1, boldest, self._options.rounds.variants)
        return [round(step) for step in steps]

    def _grown(self, state: PruningState) -> list[Variant]:
        """Return the variants to train, each with other weights back, at zero."""
        pull = self._pull(state)
        gone = np.flatnonzero(self._scope & (state.weights[: len(self._scope)] == 0))
        epochs = max(1, round(GROWING * self._options.rounds.epochs))
        low, high = np.log(REVIVED)
        variants = []
        for index in range(self._options.rounds.variants):
            key = rng.derive(self._options.seed, "regrowth", state.turn, "variant", index)
            count = round(float(np.exp(low + (high - low) * rng.uniform(key, 1)[0])))
            worth = (pull * self._noise(key) ** 2)[gone]
            back = np.zeros(len(self._scope), dtype=bool)
            back[gone[np.argsort(-worth, kind="stable")[:count]]] = True
            variants.append(self._variant(state.weights, state.buffers, key, back, epochs))
        return variants

    def _pull(self, state: PruningState) -> npt.NDArray[np.float64]:
        """Return what the loss falls by with each weight, but for a factor: gradient^2 / Fisher."""
        each = self._gradients(state)
        assert each is not None
        by_label = self._gradients(state, believed=False)
        assert by_label is not None
        fisher = np.maximum((each.astype(np.float64) ** 2).mean(axis=0), 1e-12)
        pull: npt.NDArray[np.float64] = by_label.astype(np.float64).mean(axis=0) ** 2 / fisher
        return pull

    def _cut(self, state: PruningState, grown: Variant, step: int, first: bool) -> Variant:
        """Return the variant to train once more, with `step` weights less than the net had."""
        weights = flatten(self._net, grown.tensors)
        buffers = {k: v for k, v in grown.tensors.items() if k.startswith("buffers/")}
        now = replace(state, weights=weights, buffers=buffers)
        step += now.nz - state.nz
        if step > 0:
            each = self._gradients(now)
            assert each is not None
            weights = self._by_surgeon(now, step, each, None if first else grown.key)
        return self._variant(weights, buffers, grown.key)

    def _nearly(self, variant: Variant) -> bool:
        """Whether a variant reaches the target, or may do so by the luck of a cut."""
        return round(variant.accuracy * self._num_guide) >= self._least - NEAR

    def _shave(self, variant: Variant) -> Iterator[None]:
        """Take away what can go from a variant without training, by the surgeon and as it is."""
        buffers = {k: v for k, v in variant.tensors.items() if k.startswith("buffers/")}
        left = PruningState(
            flatten(self._net, variant.tensors), buffers, variant.accuracy, level=ONE_BY_ONE
        )
        assert isinstance(self._engine, Introspective)
        evaluator = Evaluator(self._engine, self._net, buffers, self._guide, self._options.aim)
        with contextlib.closing(evaluator):
            surgery = Surgery(
                self._engine, self._net, self._images, self._scope, evaluator, variant.key
            )
            yield from surgery.run(left, SHAVES)
            if evaluator.passes(left.weights):
                yield from passes(left, evaluator, by_magnitude(self._net), self._scope, once=True)
        variant.tensors, variant.accuracy = left.tensors(self._net), left.accuracy

    def _close(self, state: PruningState, variants: list[Variant]) -> None:
        size = state.nz
        super()._close(state, variants)
        gained = size - state.nz
        state.level = 2 * gained if gained else max(1, state.level // 2)

    def _fail(self, state: PruningState) -> None:
        state.failures += 1

    def _best(self, variants: list[Variant]) -> Variant:
        """Return the smallest of those that reach the target, else the most accurate."""
        able = list(filter(self._reaches, variants))
        if not able:
            return super()._best(variants)
        return min(able, key=lambda each: (survivors(self._net, each), -each.accuracy))
