"""Pruning a record's net further, where values drift to fit the test set that decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, net

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig, PruneOptions, prune_options
from golf_opt.engines.base import Tensors
from golf_opt.engines.flat import unpack
from golf_opt.engines.native import NativeEngine, compiler
from golf_opt.golf.pruning import drift as drifting
from golf_opt.golf.pruning import surgeon, surgery
from golf_opt.golf.pruning.head import first_of_head
from golf_opt.golf.pruning.ranking import in_scope
from golf_opt.golf.pruning.regrowth import Swaps
from golf_opt.golf.pruning.search import Evaluator, PruningState, flatten
from golf_opt.golf.pruning.weight_pruner import WeightPruner
from golf_opt.golf.weights import read_weights
from golf_opt.task.data import View, load

NET = net("c4-5-4-prelu")
RECORD = ROOT / "studies/records/article/2026-11-30_c4-5-4-prelu-surgeon/weights.safetensors"


def unflat(flat: np.ndarray) -> Tensors:
    return unpack(flat, "weights", NET.parameters)


def options(target: float, drift: int, rule: str = "test") -> PruneOptions:
    rounds = replace(prune_options().rounds, regrow=1, drift=drift)
    return prune_options(method="rounds", target=target, rule=rule, rounds=rounds)


@dataclass
class OfRecord:
    """A record's net, of which no single weight can go, on the test set that decided."""

    engine: NativeEngine
    view: View
    weights: np.ndarray
    evaluator: Evaluator

    def surgery(self, key: int, drift: int = 0) -> surgery.Surgery:
        scope = in_scope(NET, "all")
        given = self.engine, NET, self.view.train, scope, self.evaluator
        return surgery.Surgery(*given, key, drift)

    @property
    def state(self) -> PruningState:
        accuracy = self.evaluator.accuracy(self.weights)
        return PruningState(self.weights, {}, accuracy, level=surgery.ONE_BY_ONE)


@pytest.fixture(scope="module")
def of_record(mnist_root: Path) -> Iterator[OfRecord]:
    if compiler() is None:
        pytest.skip("no C++ compiler")
    view = load(DataConfig("mnist", mnist_root)).view("test")
    engine = NativeEngine(view, lanes=2, flags=("-O1",))
    tensors, _ = read_weights(RECORD, NET)
    evaluator = Evaluator(engine, NET, {}, view.test, 0.98)
    yield OfRecord(engine, view, flatten(NET, tensors), evaluator)
    evaluator.close()


@pytest.mark.parametrize("steps", [(0, 600), (40, 0), (40, 600)], ids=["head", "front", "both"])
def test_drift_finds_fewer_errors_on_the_guide_and_leaves_zeros(
    of_record: OfRecord, monkeypatch: pytest.MonkeyPatch, steps: tuple[int, int]
) -> None:
    monkeypatch.setattr(drifting, "STEPS", steps[0])
    monkeypatch.setattr(drifting, "HEAD_STEPS", steps[1])
    engine, evaluator, weights = of_record.engine, of_record.evaluator, of_record.weights
    each = surgeon.gradients(engine, NET, unflat(weights), of_record.view.train, 1)

    def drifted(goal: int, seed: int = 0) -> tuple[np.ndarray, int]:
        random = np.random.default_rng(seed)
        return drifting.drift(NET, weights, {}, each, evaluator, goal, 2, random)

    found, errors = drifted(0)
    right = engine.evaluate(NET, unflat(found), of_record.view.test)
    assert errors < 200 == evaluator.errors(weights)
    assert errors == round((1 - right) * 10_000)
    assert ((found == 0) == (weights == 0)).all()
    moved, last = found != weights, first_of_head(NET)
    assert (moved[:last].any(), moved[last:].any()) == (steps[0] > 0, steps[1] > 0)
    assert (drifted(0)[0] == found).all() and (drifted(0, 1)[0] != found).any()
    assert drifted(200)[0] is weights  # few enough to begin with


def test_surgery_goes_on_where_values_drift(
    of_record: OfRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From where the surgeon's cuts are at their end, and from below the target too."""
    state, evaluator = of_record.state, of_record.evaluator
    list(of_record.surgery(5).run(state, 1))
    assert (state.nz, state.failures) == (199, 1)
    state.failures = 0
    next(of_record.surgery(5, drift=3).run(state))
    assert state.nz == 198 and evaluator.passes(state.weights)
    assert state.accuracy == evaluator.accuracy(state.weights)
    state.failures = 1
    monkeypatch.setattr(evaluator, "allowed", evaluator.errors(state.weights) - 1)
    monkeypatch.setattr(surgeon, "single", lambda *_: iter(()))  # no cut makes that good
    next(of_record.surgery(6, drift=6).run(state, 9))
    assert (state.nz, state.failures) == (198, 0) and evaluator.passes(state.weights)


def test_swaps_take_away_more_than_comes_back_without_training(
    of_record: OfRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try is of one variant; the last stage but one of rounds where values drift."""
    monkeypatch.setattr(surgery, "CHEAP", 6)
    monkeypatch.setattr(surgeon, "IMAGES", 1024)
    engine, view, asked = of_record.engine, of_record.view, options(0.9798, drift=1)
    pruner = WeightPruner(engine, NET, unflat(of_record.weights), view, asked)
    state, weights = pruner.state, of_record.weights
    swapped = Swaps(engine, NET, view, pruner._scope, asked)._swapped(state)
    came = np.flatnonzero((flatten(NET, swapped.tensors) != 0) & (weights == 0))
    assert 1 <= len(came) <= 4 and 0 < np.abs(flatten(NET, swapped.tensors)[came]).max() <= 0.3
    monkeypatch.setattr(engine, "start", pytest.fail)  # of a training
    state.stage = pruner._stages[-2]
    for _ in pruner.run():
        if state.log:
            break
    (row,) = state.log
    assert [[state.nz, state.accuracy]] == row["tried"] and state.nz < 199
    assert engine.evaluate(NET, state.tensors(NET), view.test) == state.accuracy >= 0.9798


def test_drift_is_refused_where_held_out_images_decide(of_record: OfRecord) -> None:
    view = replace(of_record.view, protocol="holdout")
    with pytest.raises(UsageError, match=r"rounds.drift is 3, but must be 0 with rule=holdout"):
        WeightPruner(
            of_record.engine, NET, unflat(of_record.weights), view, options(0.98, 3, "holdout")
        )
