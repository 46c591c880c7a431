"""Pruning a trained net: as few non-zero parameters as keep the target on a guide.

    index       one pass in index order, as in the article
    magnitude   passes by abs(w) / rms of its tensor, until one removes nothing
    saliency    passes by the effect on the training loss
    anneal      passes by magnitude, then a search for another choice of weights; see `annealing`
    surgeon     the optimal brain surgeon, without any training; see `surgery`
    rounds      remove a few percent, fine-tune the survivors, again; then single cuts of the
                surgeon, and weights that come back; see `rounds`, `surgery`, `drift`, `regrowth`

The guide is the test set under rule=test, held-out training images under rule=holdout; there the
test set is read once, when the result is written. Cuts that are tried by the hundred on 10,000
images, untrained, soon fit those: it took the guide's word for 0.3 to 0.8 points that the test set
did not have. So under rule=holdout method=rounds asks the guide of trained nets alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import PruneOptions
from golf_opt.engines.base import Engine, Introspective, Tensors
from golf_opt.golf.dead import Count, count, fold, num_nonzero, shrink
from golf_opt.golf.pruning import surgeon
from golf_opt.golf.pruning.annealing import Annealing
from golf_opt.golf.pruning.ranking import Ranking, by_index, by_magnitude, by_saliency, in_scope
from golf_opt.golf.pruning.regrowth import BOLDEST, Regrowth, Swaps
from golf_opt.golf.pruning.rounds import Rounds
from golf_opt.golf.pruning.search import Evaluator, PruningState, allowed_errors, flatten, passes
from golf_opt.golf.pruning.surgery import ONE_BY_ONE, Surgery
from golf_opt.task.arch import Net
from golf_opt.task.data import View
from golf_opt.utils.text import percent

STAGES = {
    "anneal": ("passes", "annealing"),
    "surgeon": ("surgery", "passes"),
    "rounds": ("rounds", "surgery", "regrowth", "passes"),
}  # of a method; of others only passes
TRAINED = ("rounds", "regrowth")  # in which what the guide is asked of was trained before
LEVELS = {"surgery": ONE_BY_ONE, "regrowth": BOLDEST}  # of a stage that is not the first
HALF_A_POINT = 0.005  # of accuracy, that pruning may cost where no target is given
DRIFTING = 4  # tries of surgery in a row where values drift: each takes longer
LEAST = 1e-6  # a target is above zero


@dataclass(frozen=True)
class PruningResult:
    """A pruned net, measured. Accuracies are fractions in [0, 1]."""

    net: Net
    tensors: Tensors  # `weights/...`, `buffers/...`, and `masks/...` of zeros and ones
    count: Count
    removed: int
    view: View  # its objective was the guide
    accuracy: float  # on the guide
    train_accuracy: float
    test_accuracy: float
    state: PruningState  # as it was in the end
    small: Net | None  # the same without dead channels, where there were any

    @property
    def nz(self) -> int:
        return self.count.nz


class WeightPruner:
    """One pruning, from the start or from where it was.

    Args:
        engine: made with `view`; rounds train in it.
        net: what to prune.
        tensors: its `weights/...` and `buffers/...`.
        view: the data under the rule.
        options: what to do.
        state: where an earlier run stopped.

    Raises:
        UsageError: the net misses the target to begin with.
    """

    def __init__(
        self,
        engine: Engine,
        net: Net,
        tensors: Tensors,
        view: View,
        options: PruneOptions,
        state: PruningState | None = None,
    ) -> None:
        assert view.protocol == options.rule
        _check(engine, options, num_nonzero(net, tensors))
        accuracy = engine.evaluate(net, tensors, view.objective)
        if options.target is None:
            options = replace(options, target=max(LEAST, round(accuracy - HALF_A_POINT, 6)))
        self.engine, self.net, self.view, self.options = engine, net, view, options
        self.size_before = num_nonzero(net, tensors)
        self.state = state or self._start(tensors, accuracy)
        self._scope = in_scope(net, options.scope)
        self._trained = flatten(net, tensors)

    def _start(self, tensors: Tensors, accuracy: float) -> PruningState:
        guide, target = self.view.objective, self.options.aim
        errors = len(guide) - round(accuracy * len(guide))
        if errors > allowed_errors(target, len(guide)):
            raise UsageError(
                f"the net has {percent(accuracy)} on the {len(guide):,} {guide.name} images, but "
                f"must have the target, {percent(target)}, before anything is removed; train a "
                "better one, or give a lower target=."
            )
        buffers = {k: v.copy() for k, v in tensors.items() if k.startswith("buffers/")}
        stage = self._stages[0]
        return PruningState(flatten(self.net, tensors), buffers, accuracy, stage)

    @property
    def _stages(self) -> tuple[str, ...]:
        stages = STAGES.get(self.options.method, ("passes",))
        return TRAINED if stages[0] in TRAINED and self.options.rule == "holdout" else stages

    def run(self) -> Generator[PruningState]:
        """Prune; yield after every candidate, so that the caller can show, save and stop."""
        if self.state.finished:
            return
        stages = self._stages
        at = stages.index(self.state.stage) if self.state.stage in stages else -1
        for stage in stages[at:]:
            if stage != self.state.stage:
                self.state.stage, self.state.failures = stage, 0
                self.state.level = LEVELS.get(stage, 0)
            with contextlib.closing(self._steps(stage)) as steps:
                for _ in self._timed(steps):
                    yield self.state
        self.state.finished = True
        yield self.state

    def result(self) -> PruningResult:
        """Remove dead channels and measure, the test set included."""
        tensors = self._folded(self.state.tensors(self.net))
        small, small_tensors = shrink(self.net, tensors)
        counted = count(self.net, tensors)
        guide, test = self.view.objective, self.view.test
        accuracy = self.engine.evaluate(self.net, tensors, guide)
        smaller = small is not self.net and self._same(small, small_tensors, accuracy)
        return PruningResult(
            net=self.net,
            tensors=tensors | masks(self.net, tensors),
            count=counted,
            removed=self.size_before - counted.nz,
            view=self.view,
            accuracy=accuracy,
            train_accuracy=self.engine.evaluate(self.net, tensors, self.view.train),
            test_accuracy=accuracy
            if guide is test
            else self.engine.evaluate(self.net, tensors, test),
            state=self.state,
            small=small if smaller else None,
        )

    def _steps(self, stage: str) -> Generator[None]:
        """Return what a stage does."""
        if stage in ("rounds", "regrowth"):
            again = Swaps if self.options.rounds.drift else Regrowth
            kind = Rounds if stage == "rounds" else again
            rounds = kind(self.engine, self.net, self.view, self._scope, self.options)
            yield from rounds.run(self.state)
            return
        state, options = self.state, self.options
        evaluator = Evaluator(
            self.engine, self.net, state.buffers, self.view.objective, options.aim
        )
        with contextlib.closing(evaluator):
            if stage == "annealing":
                annealing = Annealing(self.net, self._trained, self._scope, evaluator, options.seed)
                yield from annealing.run(state)
            elif stage == "surgery":
                if not isinstance(self.engine, Introspective) or state.nz > surgeon.LARGEST:
                    return
                legs = options.rounds.drift if options.method == "rounds" else 0
                given = self.engine, self.net, self.view.train, self._scope, evaluator
                surgery = Surgery(*given, options.seed, legs)
                yield from surgery.run(state, DRIFTING if legs else None)
            else:
                once = options.method == "index"
                yield from passes(state, evaluator, self._ranking(), self._scope, once)

    def _timed(self, steps: Iterator[None]) -> Iterator[None]:
        """Go through the steps, adding the time they take to the state's."""
        while True:
            started = time.monotonic()
            ended = next(steps, StopIteration)
            self.state.time_s += time.monotonic() - started
            if ended is StopIteration:
                return
            yield

    def _ranking(self) -> Ranking:
        options, buffers, train = self.options, self.state.buffers, self.view.train
        if options.method == "index":
            return by_index
        if options.method == "saliency":
            return by_saliency(self.engine, self.net, buffers, train, options.order, options.seed)
        return by_magnitude(self.net)

    def _folded(self, tensors: Tensors) -> Tensors:
        """Fold constant channels, unless rounding costs an image or nothing is gained."""
        folded = fold(self.net, tensors)
        if num_nonzero(self.net, folded) >= num_nonzero(self.net, tensors):
            return tensors
        before = self.engine.evaluate(self.net, tensors, self.view.objective)
        return folded if self._same(self.net, folded, before) else tensors

    def _same(self, net: Net, tensors: Tensors, accuracy: float) -> bool:
        """Whether a net has this accuracy on the guide, to the image."""
        return self.engine.evaluate(net, tensors, self.view.objective) == accuracy


def masks(net: Net, tensors: Tensors) -> Tensors:
    """Return `masks/...`, one where a weight is not zero."""
    return {
        f"masks/{p.name}": (tensors[f"weights/{p.name}"] != 0).astype(np.float32)
        for p in net.parameters
    }


def _check(engine: Engine, options: PruneOptions, size: int) -> None:
    """Refuse what the engine, or the brain surgeon, cannot do with a net of this size.

    Raises:
        UsageError: so it is.
    """
    gradients = isinstance(engine, Introspective)
    for key in ("regrow", "drift"):
        if (value := getattr(options.rounds, key)) and not gradients:
            raise UsageError(
                f"rounds.{key} is {value}, but must be 0 with engine={engine.name}; the gradients "
                "that it needs come from engine=native."
            )
    if options.rounds.drift and options.rule != "test":
        raise UsageError(
            f"rounds.drift is {options.rounds.drift}, but must be 0 with rule={options.rule}: "
            "images that values were fitted to no longer tell what others would say."
        )
    if options.method != "surgeon":
        return
    if not gradients:
        raise UsageError(
            f"method is 'surgeon', but must be another one with engine={engine.name}; the "
            "gradients that it needs come from engine=native."
        )
    if size > surgeon.LARGEST:
        raise UsageError(
            "method is 'surgeon', but must be another one for a net of more than "
            f"{surgeon.LARGEST:,} non-zero parameters, of which it has {size:,}."
        )
