"""Images that come by their losses: how often, for how much, and the same in every engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_cuda import emulated
from test_native import (
    LINEAR,
    SMALL,
    assert_same,
    kind,
    native,
    net_of,
    snapshot_of,
    state_after,
    train,
)
from torch.nn import functional as F

from golf_opt.engines import base
from golf_opt.engines.native import compiler, engine
from golf_opt.engines.order import Hardness, Places, places_of
from golf_opt.engines.torch import TorchEngine
from golf_opt.storage.checkpoint import Checkpoint, DamagedCheckpoint, pack, unpack
from golf_opt.task.distortion import distortion_key, share_of_next
from golf_opt.task.recipe import Candidate

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
BY_LOSS = ("importance", "hard", "curriculum", "forgetting")
N = 1000


def levels_of(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).binomial(15, 0.5, n).astype(np.uint8)


def hardness_of(levels: Any) -> Hardness:
    return Hardness(levels, levels.copy())


def job_of(order: Any, share: float = 0.5, epochs: int = 400, **more: Any) -> base.Job:
    recipe = Candidate(8, 1e-3, order=order, order_share=share, **more)
    return base.Job(net_of([kind("relu"), LINEAR]), recipe, 3, epochs)


def drawn(job: base.Job, epoch: int, levels: Any) -> Places:
    return places_of(job, epoch, len(levels), hardness_of(levels))


@pytest.mark.parametrize("order", ["importance", "hard"])
def test_images_come_as_often_as_their_losses_say(order: str) -> None:
    levels, job, epochs = levels_of(N), job_of(order), 400
    losses = 2.0**levels
    often = 0.5 + 0.5 * N * losses / losses.sum()
    counts = np.zeros((epochs, N))
    for epoch in range(epochs):
        counts[epoch] = np.bincount(drawn(job, epoch, levels).images, minlength=N)
    assert (counts.sum(axis=1) == N).all() and often.max() > 5
    assert (np.abs(counts - often) < 1).all()  # rounded up or down
    part = often % 1
    variance = part * (1 - part) / epochs
    assert np.mean((counts.mean(axis=0) - often) ** 2 / variance) < 3  # 1 is what chance does
    assert len({tuple(row) for row in counts}) == epochs


def test_each_place_is_any_images() -> None:
    """Batches are no worse mixed than an epoch is, and no two epochs are alike."""
    levels, job = levels_of(N), job_of("importance")
    first = np.mean([levels[drawn(job, e, levels).images[:100]].mean() for e in range(100)])
    last = np.mean([levels[drawn(job, e, levels).images[-100:]].mean() for e in range(100)])
    assert abs(first - last) < 0.1 and first > levels.mean() + 0.5


def test_what_importance_draws_more_often_counts_less() -> None:
    levels, job = levels_of(N), job_of("importance", share=0.8)
    values = np.random.default_rng(1).normal(size=N) + levels  # that hard images have more of
    means = []
    for epoch in range(200):
        places = drawn(job, epoch, levels)
        assert places.worth is not None and places.worth.max() <= 1 / (1 - 0.8) * (1 + 1e-6)
        means.append((places.worth * values[places.images]).mean())
    error = np.std(means) / np.sqrt(len(means))
    assert abs(np.mean(means) - values.mean()) < 3 * error
    assert values[drawn(job, 0, levels).images].mean() > values.mean() + 100 * error
    assert drawn(job_of("hard", 0.8), 0, levels).worth is None


def test_a_curriculum_begins_with_what_is_easy() -> None:
    levels, job = levels_of(N), job_of("curriculum", share=0.6, epochs=20)
    assert sorted(drawn(job, 0, levels).images) == list(range(N))  # nothing is known
    pools = [np.unique(drawn(job, epoch, levels).images) for epoch in range(20)]
    expected = [N - 60 * max(0, 10 - epoch) for epoch in range(1, 20)]
    assert [len(pool) for pool in pools[1:]] == pytest.approx(expected, abs=1)
    for pool in pools[1:10]:
        assert levels[pool].max() <= np.sort(levels)[len(pool)]
    counts = np.bincount(drawn(job, 1, levels).images)
    assert set(counts) <= {0, 2, 3} and counts.sum() == N
    same = np.zeros(N, dtype=np.uint8)  # ties go by chance
    pool, other = (set(drawn(job, epoch, same).images) for epoch in (1, 2))
    assert 0.4 < len(pool & other) / len(pool) < 0.7


def test_what_is_forgotten_comes_more_often() -> None:
    """An image counts each time that it was right, then wrong, up to seven, and once if wrong."""
    right, wrong = 0.6, 0.8  # losses below and above log(2)
    courses = {0: [right], 1: [right, wrong], 2: [wrong], 3: [right, wrong]}
    of = Hardness.begin(job_of("forgetting"), None, 5)
    assert of is not None and of.weights().tolist() == [1] * 5
    for epoch in range(18):
        for image, losses in courses.items():
            for loss in (right, losses[epoch % len(losses)]):  # the last one counts
                of.note(np.array([image]), np.array([loss]))
        of = of.at_epochs_end()
    assert of.now.tolist() == [1, 14, 0, 14, 0]
    after = Hardness(np.array([1, 4, 0, 14, 0], dtype=np.uint8), of.now, True)
    assert after.weights().tolist() == [0, 3, 1, 8, 1] and after.copy().forgetting
    often = 0.5 + 0.5 * 5 * after.weights() / 13
    counts = np.zeros(5)
    for epoch in range(400):
        counts += np.bincount(places_of(job_of("forgetting"), epoch, 5, after).images, minlength=5)
    assert counts / 400 == pytest.approx(often, abs=0.1)
    all_right = Hardness(np.ones(5, dtype=np.uint8), np.ones(5, dtype=np.uint8), True)
    assert all_right.weights().tolist() == [1] * 5


@pytest.mark.parametrize("order", BY_LOSS)
def test_without_a_share_it_is_the_order_of_every_recipe(order: str) -> None:
    job, levels = job_of(order, share=0.0), levels_of(N)
    places = drawn(job, 5, levels)
    assert places.images.tolist() == base.data_order(job.seed, 5, N).tolist()
    assert places.worth is None or (places.worth == 1).all()
    assert Hardness.begin(job_of("uniform"), None, N) is None


@pytest.mark.parametrize("n", [1, 6, 7])
def test_levels_are_powers_of_two_and_half_a_byte(n: int) -> None:
    job = job_of("hard")
    fresh = Hardness.begin(job, None, n)
    assert fresh is not None and not fresh.now.any()
    losses = np.array([0.0, 2**-10, 0.49, 0.5, 0.99, 40.0, 1.0, 3.0], dtype=np.float32)
    fresh.note(np.array([0, 1, 2, 3, 4, 5, 0, 6]) % n, losses)
    if n == 7:
        assert fresh.now.tolist() == [11, 1, 9, 10, 10, 15, 12]
    assert not fresh.before.any()
    kept = fresh.tensors(step=3)
    assert {name: (t.dtype, t.size) for name, t in kept.items()} == {
        f"images/{name}": (np.uint8, (n + 1) // 2) for name in ("before", "now")
    }
    again = Hardness.begin(job, base.LaneState(kept, 1, 3, 0.0, 0.0), n)
    assert again is not None and np.array_equal(again.now, fresh.now) and not again.before.any()
    ended = fresh.at_epochs_end()
    assert list(ended.tensors(step=0)) == ["images/before"]
    assert np.array_equal(ended.before, fresh.now)
    other = Hardness.begin(job, base.LaneState(kept, 1, 3, 0.0, 0.0), n + 2)  # of other images
    assert other is not None and not other.now.any() and len(other.now) == n + 2


def one_step(job: base.Job, levels: Any) -> base.LaneState:
    """The state in front of an epoch of images as hard as that."""
    tensors = base.initial_weights(job.net, job.seed)
    return base.LaneState(tensors | hardness_of(levels).tensors(0), 0, 0, 0.0, 0.0)


ALL = {"label_smoothing": 0.1, "distill": 0.7, "temperature": 3.0, "mixup": 0.5}
RECIPES = [{}, {name: value for name, value in ALL.items() if name != "mixup"}, ALL]


@needs_compiler
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("which", ["native", "cuda", "torch"])
def test_gradients_are_weighed_as_in_pytorch(which: str, recipe: dict[str, Any]) -> None:
    n, lr = 21, 0.5
    view, levels = snapshot_of(n), levels_of(n, 4)
    candidate = Candidate(n, lr, optimizer="sgd", order="importance", order_share=0.9, **recipe)
    job = base.Job(net_of(SMALL), candidate, 1, 1)
    state = one_step(job, levels)
    lanes: base.Engine = {
        "native": lambda: native(view, images=8),
        "cuda": lambda: emulated(view),
        "torch": lambda: TorchEngine(view, device="cpu", dtype=torch.float64),
    }[which]()
    (result,) = train(lanes, job, state)
    after = lanes.state(0)
    lanes.close()
    places = places_of(job, 0, n, hardness_of(levels))
    images = torch.from_numpy(places.images.astype(np.int64))
    oracle = TorchEngine(view, device="cpu", dtype=torch.float64)
    module = oracle._module(job.net, state.tensors).train()
    x, y = oracle._train
    soft = torch.from_numpy(view.train.soft).double()[images]  # type: ignore[arg-type]
    mixed = share_of_next(candidate, distortion_key(1, 0), 0)
    assert (mixed > 0.1) == candidate.mixes
    scores = module((1 - mixed) * x[images] + mixed * x[images.roll(-1)])
    hot, share, losses = candidate.temperature, candidate.distill, torch.zeros(n).double()
    for part, shift in ((1 - mixed, 0), (mixed, -1)):
        labels, theirs = y[images].roll(shift), (soft.roll(shift, 0) / hot).softmax(1)
        smoothed = candidate.label_smoothing
        hard = F.cross_entropy(scores, labels, label_smoothing=smoothed, reduction="none")
        apart = (theirs * (theirs.log() - (scores / hot).log_softmax(1))).sum(1)
        losses = losses + part * ((1 - share) * hard + share * hot**2 * apart)
    assert places.worth is not None and np.ptp(places.worth) > 1
    loss = (torch.from_numpy(places.worth) * losses).sum() / n
    loss.backward()  # type: ignore[no-untyped-call]
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for parameter in job.net.parameters:
        weight = module.tensors()[f"weights/{parameter.name}"]
        assert weight.grad is not None
        step = (
            state.tensors[f"weights/{parameter.name}"] - after.tensors[f"weights/{parameter.name}"]
        )
        largest = float(weight.grad.abs().max())
        assert np.abs(step / lr - weight.grad.numpy()).max() < 1e-4 * largest, parameter.name
    told = Hardness.begin(job, after, n)
    expected = hardness_of(levels)
    expected.note(places.images, losses.detach().numpy())
    assert told is not None and np.array_equal(told.before, expected.now)


@needs_compiler
@pytest.mark.parametrize(
    ("order", "more"),
    [
        ("importance", {"average": "ema", "distill": 0.3}),
        ("hard", {"mixup": 0.4, "shift": 1.0}),
        ("curriculum", {}),
        ("forgetting", {"lr": 0.03, "order_share": 0.95}),
    ],
)
def test_losses_along_a_training_are_pytorchs(order: Any, more: dict[str, Any]) -> None:
    view = snapshot_of(61)
    recipe = Candidate(14, order=order, **({"lr": 4e-3, "order_share": 0.7} | more))
    job, plain = (
        base.Job(net_of(SMALL), r, 3, 8) for r in (recipe, replace(recipe, order="uniform"))
    )
    oracle = TorchEngine(view, device="cpu", dtype=torch.float64)
    expected = [r.loss for r in train(oracle, job)]
    kept = oracle.state(0).tensors
    for lanes in (native(view, images=8), emulated(view)):
        assert [r.loss for r in train(lanes, job)] == pytest.approx(expected, rel=1e-3)
        found = lanes.state(0).tensors
        assert np.array_equal(found["images/before"], kept["images/before"])
        lanes.stop(0)
        others = train(lanes, plain)
        assert others[0].loss == pytest.approx(expected[0], rel=1e-4)  # nothing is known yet
        assert abs(others[-1].loss - expected[-1]) > 0.01
        assert "images/before" not in lanes.state(0).tensors
        lanes.close()


@needs_compiler
@pytest.mark.parametrize("which", ["native", "cuda", "torch"])
def test_resuming_mid_epoch_changes_nothing(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view = snapshot_of(50)
    job = base.Job(net_of(SMALL), Candidate(8, 4e-3, order="importance"), 2, 4)
    makes: dict[str, Any] = {"native": native, "cuda": emulated, "torch": TorchEngine}
    make = makes[which]
    whole = make(view)
    results = train(whole, job)
    monkeypatch.setattr(engine, "SLICE_S", 0.0)
    monkeypatch.setattr("golf_opt.engines.torch.engine.SLICE_S", 0.0)
    lanes = emulated(view, slice_s=0.0) if which == "cuda" else make(view)
    state = state_after(lanes, job, 17)  # an epoch is 7 steps
    assert (state.epoch, state.step) == (2, 3)
    assert not np.array_equal(state.tensors["images/before"], state.tensors["images/now"])
    rest = make(view)
    after = train(rest, job, state)
    assert [(r.loss, r.accuracy) for r in after] == [(r.loss, r.accuracy) for r in results[2:]]
    assert_same(rest.state(0), whole.state(0))
    there = dict(state.tensors)
    del there["images/now"], there["images/before"]
    other = make(view)
    lost = train(other, job, replace(state, tensors=there))
    assert lost[-1].loss != results[-1].loss  # so it matters
    for lanes in (whole, rest, other):
        lanes.close()


def test_a_checkpoint_has_levels_of_its_kind() -> None:
    job = job_of("hard")
    tensors = one_step(job, levels_of(N)).tensors

    def kept(**changed: Any) -> base.Tensors:
        named = {f"images/{name}": values for name, values in changed.items()}
        state = base.LaneState(tensors | named, 0, 3, 0.0, 0.0)
        data = pack(job, Checkpoint(state, (), "native"))
        return unpack("it", data, job).state.tensors

    pairs = tensors["images/before"]
    assert np.array_equal(kept(now=pairs)["images/now"], pairs)
    for wrong in ({"now": pairs.astype(np.float32)}, {"now": pairs[None]}, {"later": pairs}):
        with pytest.raises(DamagedCheckpoint, match="is damaged: its images/"):
            kept(**wrong)


def test_a_recipe_that_does_not_look_at_losses_does_not_tell_of_it() -> None:
    """What an older version stored is still of the same candidate."""
    assert not set(Candidate(8, 1e-3).to_dict()) & {"order", "order_share"}
    assert Candidate(8, 1e-3, order="hard").to_dict()["order"] == "hard"
