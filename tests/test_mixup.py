"""Images mixed with others of their batch; gradients are in test_order.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_native import SMALL, assert_same, native, net_of, snapshot_of, state_after, train

from golf_opt.engines import base
from golf_opt.engines.native import compiler, engine
from golf_opt.engines.torch import TorchEngine
from golf_opt.task.distortion import share_of_next
from golf_opt.task.recipe import Candidate

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
MIXED = Candidate(14, 4e-3, mixup=0.5, label_smoothing=0.1)


def test_shares_are_uniform_up_to_mixup() -> None:
    shares = [share_of_next(replace(MIXED, mixup=0.2), 77, 14 * step) for step in range(1000)]
    assert 0 <= min(shares) < 0.002 and 0.198 < max(shares) < 0.2
    assert np.mean(shares) == pytest.approx(0.1, abs=0.006)
    assert abs(np.corrcoef(shares[1:], shares[:-1])[0, 1]) < 0.1


@needs_compiler
def test_losses_along_a_training_are_pytorchs() -> None:
    view = snapshot_of(61)
    job = base.Job(net_of(SMALL), MIXED, 3, 6)
    expected = train(TorchEngine(view, device="cpu", dtype=torch.float64), job)
    lanes = native(view, images=8)
    found = train(lanes, job)
    lanes.stop(0)
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-3)
    assert [r.accuracy for r in found] == [r.accuracy for r in expected]
    plain = train(lanes, replace(job, candidate=replace(MIXED, mixup=0.0)))
    assert abs(plain[0].loss - found[0].loss) > 0.003
    lanes.close()


@needs_compiler
def test_an_image_alone_in_its_batch_stays_as_it_is() -> None:
    view = snapshot_of(20)
    jobs = [base.Job(net_of(SMALL), Candidate(1, 1e-3, mixup=m), 3, 2) for m in (0.0, 0.5)]
    lanes = native(view, images=8)
    losses = []
    for job in jobs:
        losses.append([r.loss for r in train(lanes, job)])
        lanes.stop(0)
    lanes.close()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@needs_compiler
def test_resuming_mid_epoch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    view = snapshot_of(50)
    job = base.Job(net_of(SMALL), replace(MIXED, batch_size=8, rotate=10.0), 2, 3)
    whole = native(view, images=8)
    results = train(whole, job)
    monkeypatch.setattr(engine, "SLICE_S", 0.0)
    lanes = native(view, images=8)
    state = state_after(lanes, job, 10)  # an epoch is 7 steps
    assert (state.epoch, state.step) == (1, 3)
    rest = native(view, images=8)
    after = train(rest, job, state)
    assert [(r.loss, r.accuracy) for r in after] == [(r.loss, r.accuracy) for r in results[1:]]
    assert_same(rest.state(0), whole.state(0))
