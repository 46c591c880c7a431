"""Regrowth: where no single weight can go, some that are gone come back, and more have to go.

Rounds of removal end at one choice of survivors; another choice of as many may have room. So in
each variant those zeros come back that gradients pull at the most, all weights are trained, the
optimal brain surgeon takes as many away again and a few more, and the survivors are trained.
Mocanu and others, "Scalable training of artificial neural networks with adaptive sparse
connectivity", 2018; Evci and others, "Rigging the lottery", 2020, revive by gradient.

How many more differs by variant: one for the most careful, up to a step that doubles what went
well and halves where nothing did. Who reaches the target, or nearly, then loses every weight that
can go without any training, where the test set decides: single cuts of the surgeon, tried on it one
by one, find what took many more rounds. One that has as many weights as before is taken up if it is
more accurate.
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
from golf_opt.golf.pruning.rounds import DAMPING, Rounds, Variant, survivors
from golf_opt.golf.pruning.search import Evaluator, PruningState, flatten, passes
from golf_opt.golf.pruning.surgery import ONE_BY_ONE, Surgery
from golf_opt.task import rng

REVIVED = (3, 24)  # weights that come back, at least and at most, drawn on a log scale
BOLDEST = 8  # the largest step to begin with, in weights less than before
NEAR = 10  # images of the guide that a variant may miss the target by, to be cut once more
SHAVES = 2  # tries of the surgeon in a row, to cut a variant once more
SWAPPED = (1, 4)  # weights that come back without training, at least and at most
REVIVAL, LONGEST = 0.5, 0.3  # of the step of Newton's that they take, and what it is at most
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
            if self._options.rule == "test":
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
        pull, _ = self._pull(state)
        epochs = max(1, round(GROWING * self._options.rounds.epochs))
        low, high = np.log(REVIVED)
        variants = []
        for index in range(self._options.rounds.variants):
            key = rng.derive(self._options.seed, "regrowth", state.turn, "variant", index)
            count = round(float(np.exp(low + (high - low) * rng.uniform(key, 1)[0])))
            back = self._back(state, pull * self._noise(key) ** 2, count)
            variants.append(self._variant(state.weights, state.buffers, key, back, epochs))
        return variants

    def _back(
        self, state: PruningState, worth: npt.NDArray[np.float64], count: int
    ) -> npt.NDArray[np.bool_]:
        """Return so many weights that are gone, those worth most, [size of the net]."""
        gone = np.flatnonzero(self._scope & (state.weights[: len(self._scope)] == 0))
        back = np.zeros(len(self._scope), dtype=bool)
        back[gone[np.argsort(-worth[gone], kind="stable")[:count]]] = True
        return back

    def _pull(self, state: PruningState) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return what the loss falls by with each weight, but for a factor, and where it is least.

        That is gradient^2 / Fisher, and a step of Newton's from where the weight is.
        """
        each = self._gradients(state)
        assert each is not None
        by_label = self._gradients(state, believed=False)
        assert by_label is not None
        fisher = np.maximum((each.astype(np.float64) ** 2).mean(axis=0), 1e-12)
        gradient = by_label.astype(np.float64).mean(axis=0)
        return gradient**2 / fisher, -gradient / (fisher + DAMPING)

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

    def _shave(self, variant: Variant, tries: int = SHAVES) -> Iterator[None]:
        """Take away what can go from a variant without training, by the surgeon and as it is."""
        buffers = {k: v for k, v in variant.tensors.items() if k.startswith("buffers/")}
        left = PruningState(
            flatten(self._net, variant.tensors), buffers, variant.accuracy, level=ONE_BY_ONE
        )
        assert isinstance(self._engine, Introspective)
        evaluator = Evaluator(self._engine, self._net, buffers, self._guide, self._options.aim)
        with contextlib.closing(evaluator):
            given = self._engine, self._net, self._images, self._scope, evaluator
            surgery = Surgery(*given, variant.key, self._options.rounds.drift)
            yield from surgery.run(left, tries)
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


class Swaps(Regrowth):
    """Regrowth of a net that values have drifted for, without training, which would undo that.

    A few weights come back by a step of Newton's method, then single cuts and drift take away as
    many and one more. Each round is one try.
    """

    def run(self, state: PruningState) -> Generator[None]:
        """Go on until `rounds.regrow` tries in a row gave no smaller net."""
        if state.nz + SWAPPED[1] > surgeon.LARGEST:
            return
        while state.failures < self._options.rounds.regrow:
            variant = self._swapped(state)
            yield from self._shave(variant, tries=1)
            self._close(state, [variant])
            yield

    def _swapped(self, state: PruningState) -> Variant:
        """Return the net with a few weights more."""
        key = rng.derive(self._options.seed, "swap", state.turn)
        pull, least = self._pull(state)
        low, high = SWAPPED
        count = low + int(rng.uniform(key, 1)[0] * (high + 1 - low))
        back = np.flatnonzero(self._back(state, pull * self._noise(key) ** 4, count))
        weights = state.weights.copy()
        weights[back] = np.clip(REVIVAL * least[back], -LONGEST, LONGEST)
        variant = self._variant(weights, state.buffers, key)
        assert variant.resume is not None
        kept = ("weights/", "buffers/")
        variant.tensors = {k: v for k, v in variant.resume.tensors.items() if k.startswith(kept)}
        variant.accuracy = self._engine.evaluate(self._net, variant.tensors, self._guide)
        return variant
