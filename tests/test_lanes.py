"""Trainings side by side without a study: no lane is idle, states are those of the slices."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from conftest import net

from golf_opt.engines.base import Engine, Introspective, Job, LaneState
from golf_opt.engines.lanes import Lanes, Run, train
from golf_opt.engines.native import NativeEngine, compiler
from golf_opt.engines.torch import TorchEngine
from golf_opt.task.data import View
from golf_opt.task.recipe import Candidate

NET = net("c2-2-2")


def run_of(seed: int, epochs: int = 2, resume: LaneState | None = None) -> Run[int]:
    return Run(seed, Job(NET, Candidate(32, 2e-3), seed, epochs), resume)


def losses(run: Run[int]) -> list[float]:
    return [result.loss for result in run.history]


def test_runs_go_through_the_lanes_as_if_alone(small_view: View) -> None:
    runs = [run_of(seed, epochs=1 + seed) for seed in range(4)]
    engine = TorchEngine(small_view, lanes=2)
    ended = []
    for run, part in train(engine, runs):
        assert engine.state(part.lane).epoch == len(run.history)
        ended += [run.key] if run.over else []
    assert sorted(ended) == [0, 1, 2, 3] and ended[0] == 0
    assert [run.epochs_done for run in runs] == [1, 2, 3, 4]
    for run in runs:
        (alone,) = {r for r, _ in train(TorchEngine(small_view), [run_of(run.key, 1 + run.key)])}
        assert losses(run) == losses(alone)


def test_a_run_may_begin_at_a_state(small_view: View) -> None:
    engine, whole = TorchEngine(small_view), run_of(5, epochs=3)
    states = [engine.state(part.lane) for _, part in train(engine, [whole]) if part.result]
    rest = run_of(5, epochs=3, resume=states[0])
    assert all(run is rest for run, _ in train(engine, [rest]))
    assert [result.epoch for result in rest.history] == [2, 3] and rest.over
    assert losses(rest) == losses(whole)[1:]


def test_an_error_ends_a_run_and_the_others_go_on(small_view: View) -> None:
    bad = Run(0, Job(NET, Candidate(32, 1e30), 0, 2))
    good = run_of(1)
    for _ in train(TorchEngine(small_view, lanes=2), [bad, good]):
        pass
    assert "training loss became" in str(bad.error) and bad.over
    assert len(good.history) == 2 and good.error is None


@pytest.mark.parametrize("how", ["stopped", "closed"])
def test_lanes_are_free_when_training_is_given_up(small_view: View, how: str) -> None:
    engine = TorchEngine(small_view, lanes=2)
    runs = [run_of(seed, epochs=50) for seed in range(3)]
    slices = train(engine, runs, stopped=lambda: how == "stopped" and bool(runs[0].history))
    with contextlib.closing(slices):
        for _ in slices:
            if how == "closed":
                break
    assert not runs[0].over
    lanes: Lanes[Run[int]] = Lanes(engine)
    assert [lane for lane, _ in lanes.fill(lambda lane: run_of(lane))] == [0, 1]
    (run, part), *_ = lanes.step()
    assert lanes.leave(part.lane) is run and len(lanes.busy) == 1
    lanes.close()
    assert lanes.busy == [] and engine.step() == []


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_which_engine_shows_more_than_accuracy(small_view: View) -> None:
    engine: Introspective = NativeEngine(small_view, 1)
    plain: Engine = TorchEngine(small_view)
    assert isinstance(engine, Introspective) and not isinstance(plain, Introspective)
    tensors = {f"weights/{p.name}": np.zeros(p.shape, np.float32) for p in NET.parameters}
    assert not engine.logits(NET, tensors, small_view.test.images).any()
