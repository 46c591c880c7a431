"""Surgery: weights go by the brain surgeon alone, the others making up for each; no training.

It begins with many at a time, and goes on with fewer where those miss the target. Where the
cheapest one by itself does, the others are tried too, one by one: what the surgeon says of the
loss on training images is not quite what the guide counts. Fisher's information is measured again
after every cut, since the weights have moved.

Where even single weights miss the target, values may drift to where it is kept, if that is asked
for: after the cut that misses it by the least, or else to have room for the next one.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Floats, Introspective
from golf_opt.golf.pruning import surgeon
from golf_opt.golf.pruning.drift import drift
from golf_opt.golf.pruning.search import Evaluator, PruningState
from golf_opt.task import rng
from golf_opt.task.arch import Net
from golf_opt.task.data import Split

DAMPING = 1e-4
FRACTION = 0.04  # of the survivors, that go at once to begin with
ONE_BY_ONE = 64  # the level from which on only single weights go
TRIES = 24  # choices of images in a row by whose information no weight can go, before it ends
CHOICES = 8  # single cuts that keep the target, of which the most accurate is made
CHEAP, DRIFTED = 24, 2  # single cuts that are looked at where none does, and drift then


class Surgery:
    """The surgery of one net.

    Args:
        engine: gives gradients.
        net: the net.
        train: the images that they are of.
        scope: which of the flat weights may go.
        evaluator: says whether the target is kept.
        key: of the choice of images, and of what drifts.
        drift: legs that values may drift after a cut; 0: they do not.
    """

    def __init__(
        self,
        engine: Introspective,
        net: Net,
        train: Split,
        scope: npt.NDArray[np.bool_],
        evaluator: Evaluator,
        key: int,
        drift: int = 0,
    ) -> None:
        self._engine, self._net, self._train = engine, net, train
        self._scope, self._evaluator, self._key = scope, evaluator, key
        self._legs = drift

    def run(self, state: PruningState, tries: int | None = None) -> Generator[None]:
        """Go on until no single weight can go; yields after each cut.

        A cut is a pure function of the state before it. That need not keep the target: it is
        enough that a cut does.
        """
        while state.failures < (tries or TRIES):
            cut, state.turn = self._cut(state), state.turn + 1
            state.failures += 1
            if cut is not None:
                self._take(state, cut)
            yield

    def _take(self, state: PruningState, cut: Floats) -> None:
        gone = state.nz - int(np.count_nonzero(cut))
        state.weights, state.accuracy, state.failures = cut, self._evaluator.accuracy(cut), 0
        state.log.append(
            {"pass": state.turn, "removed": gone, "nz": state.nz, "accuracy": state.accuracy}
        )

    def _cut(self, state: PruningState) -> Floats | None:
        """Return the weights after the next cut; None where there is none."""
        self._evaluator.sort(state.weights)
        key = rng.derive(self._key, "surgery", state.turn)
        tensors = state.tensors(self._net)
        each = surgeon.gradients(self._engine, self._net, tensors, self._train, key)
        while (step := round(FRACTION * state.nz * 2.0**-state.level)) > 1:
            cut = surgeon.remove(state.weights, self._scope, each, step, DAMPING)
            if self._keeps(state, cut):
                return cut
            state.level += 1
        singles = surgeon.single(state.weights, self._scope, each, DAMPING)
        able = islice((cut for cut in singles if self._keeps(state, cut)), CHOICES)
        best = min(able, key=self._evaluator.errors, default=None)
        return self._drifted(state, each, key) if best is None and self._legs else best

    def _drifted(self, state: PruningState, each: Floats, key: int) -> Floats | None:
        """Return the weights after a cut, or of a net that missed the target, that now keep it."""
        random, allowed = np.random.default_rng(key), self._evaluator.allowed

        def drifted(weights: Floats, goal: int) -> tuple[Floats, int]:
            given = self._net, weights, state.buffers, each, self._evaluator, goal
            return drift(*given, self._legs, random)

        whole = [state.weights]
        if self._keeps(state, state.weights):
            singles = surgeon.single(state.weights, self._scope, each, DAMPING)
            cheap = islice(singles, CHEAP)
            whole = sorted(cheap, key=self._evaluator.errors)[:DRIFTED]
        for weights in whole:
            found, errors = drifted(weights, allowed)
            if errors <= allowed:
                return found
        state.weights, _ = drifted(state.weights, 0)
        state.accuracy = self._evaluator.accuracy(state.weights)
        return None

    def _keeps(self, state: PruningState, cut: Floats) -> bool:
        state.evaluations += 1
        return self._evaluator.passes(cut)
