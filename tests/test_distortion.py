"""Images distorted while they are read: what compiled code does is what PyTorch's sampling does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_cuda import emulated
from test_native import (
    LINEAR,
    SHAPES,
    SMALL,
    assert_same,
    kind,
    native,
    net_of,
    snapshot_of,
    state_after,
    train,
)

from golf_opt.engines import base
from golf_opt.engines.native import compiler, engine
from golf_opt.engines.native.codegen import pieces
from golf_opt.engines.torch import TorchEngine
from golf_opt.engines.torch.distorted import distorted
from golf_opt.task.data import View
from golf_opt.task.distortion import Sources, distortion_key, sources
from golf_opt.task.inputs import MNIST, InputSpec
from golf_opt.task.recipe import DISTORTIONS, Candidate

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
ALL = {
    "shift": 2.0, "rotate": 15.0, "scale": 0.15, "shear": 0.2, "elastic": 1.5, "erase": 0.3,
}  # fmt: skip
FAR = {"shift": 9.0, "rotate": 180.0, "scale": 0.5, "shear": 1.0}
SHAPED = {"mnist": MNIST} | {name: spec for name, (spec, _) in SHAPES.items()}
SHAPED["tall"] = InputSpec((1, 40, 3), 4, (0.2,), (0.3,))
PLAIN = Candidate(1, 0.5, optimizer="sgd")


def where(candidate: Candidate, shape: tuple[int, int], n: int = 200) -> Sources:
    return sources(candidate, distortion_key(0, 0), np.arange(n), *shape)


def test_an_image_that_is_not_distorted_comes_from_where_it_is() -> None:
    found = where(PLAIN, (5, 7), 3)
    rows, columns = np.mgrid[:5, :7]
    assert (found.x == columns).all() and (found.y == rows).all() and found.kept.all()
    assert not PLAIN.distorts


def test_each_strength_does_what_it_is_named_for() -> None:
    shape, middle = (29, 29), (slice(None), 14, 14)
    rows, columns = np.mgrid[:29, :29]

    def moved(**strength: float) -> tuple[Any, Any]:
        found = where(replace(PLAIN, **strength), shape)
        return found.x - columns, found.y - rows

    x, y = moved(shift=2.0)
    assert 1.9 < np.abs(x).max() <= 2 and np.ptp(x, axis=(1, 2)).max() == 0
    assert 1.9 < np.abs(y).max() <= 2 and abs(np.corrcoef(x[middle], y[middle])[0, 1]) < 0.2
    x, y = moved(rotate=90.0)  # lengths stay, and the corners go to each other
    assert not x[middle].any()
    lengths = np.hypot(x + columns - 14, y + rows - 14)
    assert np.allclose(lengths, np.hypot(columns - 14, rows - 14), atol=0.01)
    assert 27 < np.abs(x).max() <= 28.01
    x, y = moved(scale=0.5)  # a corner comes from 14 / 1.5 to 14 / 0.5 pixels away
    assert 13 < x.max() <= 14 and -14 <= x.min() < -13
    assert 4 < x[:, 14, 0].max() <= 14 - 14 / 1.5 + 0.01 and not x[middle].any()
    x, y = moved(shear=0.5)
    assert 6.7 < np.abs(x).max() <= 7 and not y.any() and not x[:, 14].any()
    x, y = moved(elastic=3.0)
    assert 2.9 < np.abs(x).max() <= 3 and np.abs(np.diff(x, axis=2)).max() <= 6 / 8 + 0.01
    assert np.ptp(x, axis=(1, 2)).min() > 1
    cut = 1 - where(replace(PLAIN, erase=0.5), shape).kept
    assert set(cut.sum(axis=1).max(axis=1)) <= set(range(7, 16)) and cut.sum() > 0


def test_images_draw_by_seed_epoch_and_position() -> None:
    recipe = replace(PLAIN, **ALL)
    some = sources(recipe, distortion_key(3, 1), np.array([7, 9]), 8, 8)
    whole = sources(recipe, distortion_key(3, 1), np.arange(10), 8, 8)
    assert (some.x == whole.x[[7, 9]]).all() and (some.kept == whole.kept[[7, 9]]).all()
    others = [distortion_key(*pair) for pair in ((3, 0), (4, 1))]
    for key in others:
        assert (sources(recipe, key, np.arange(10), 8, 8).x[:, 0, 0] != whole.x[:, 0, 0]).all()


def test_what_comes_from_outside_is_background() -> None:
    images = torch.ones(1, 1, 3, 3)
    found = Sources(np.full((1, 3, 3), -0.5), np.full((1, 3, 3), 1.0), np.ones((1, 3, 3)))
    background = torch.full((1, 1, 1), -3.0)
    assert distorted(images, found, background).flatten().tolist() == [-1.0] * 9


def seen(lanes: base.Engine, spec: InputSpec, candidate: Candidate, seed: int) -> Any:
    """The one image of an epoch of one step, as the net saw it: its weights' gradients tell."""
    net = net_of([kind("linear", features="classes")], spec)
    start = {name: np.zeros_like(t) for name, t in base.initial_weights(net, 0).items()}
    job = base.Job(net, candidate, seed, 1)
    train(lanes, job, base.LaneState(start, 0, 0, 0.0, 0.0))
    after = lanes.state(0).tensors
    lanes.stop(0)
    weight, bias = (after[f"weights/{parameter.name}"] for parameter in net.parameters)
    return (weight[0] / bias[0]).reshape(spec.shape)


def by_pytorch(view: View, candidate: Candidate, seed: int) -> Any:
    found = sources(candidate, distortion_key(seed, 0), np.arange(1), *view.input.shape[1:])
    mean, std = (torch.tensor(v).double()[:, None, None] for v in (view.input.mean, view.input.std))
    images = (torch.from_numpy(view.train.images).double() / 255 - mean) / std
    return distorted(images, found, -mean / std)[0].numpy()


@needs_compiler
@pytest.mark.parametrize("name", SHAPED)
def test_images_are_pytorchs_samples(name: str) -> None:
    view = snapshot_of(1, spec=SHAPED[name])
    blocks = [emulated(view)] if name in ("mnist", "colour") else []  # dear to compile
    for lanes in (native(view), native(view, width=4, images=1), *blocks):
        for seed, strengths in enumerate([*({k: v} for k, v in ALL.items()), ALL, FAR, FAR]):
            candidate = replace(PLAIN, **strengths)
            ours, theirs = (
                seen(lanes, view.input, candidate, seed),
                by_pytorch(view, candidate, seed),
            )
            apart = np.abs(ours - theirs) * np.array(view.input.std)[:, None, None] * 255
            # positions are rounded to 1/256 pixel: another rounding is worth a byte
            assert apart.max() < 1.1 and np.median(apart) < 0.02, (strengths, apart.max())
        lanes.close()


@needs_compiler
def test_losses_with_everything_on_are_pytorchs() -> None:
    spec, layers = SHAPES["colour"]
    for view, net, size in (
        (snapshot_of(60), net_of(SMALL), 14),
        (snapshot_of(40, spec=spec), net_of(layers, spec), 32),
    ):
        job = base.Job(net, Candidate(size, 2e-3, label_smoothing=0.1, **ALL), 3, 6)
        plain = base.Job(net, Candidate(size, 2e-3, label_smoothing=0.1), 3, 6)
        expected = [r.loss for r in train(TorchEngine(view, dtype=torch.float64), job)]
        for lanes in (native(view), emulated(view)):
            assert [r.loss for r in train(lanes, job)] == pytest.approx(expected, rel=1e-3)
            lanes.stop(0)
            assert abs(train(lanes, plain)[-1].loss - expected[-1]) > 0.01
            lanes.close()


@needs_compiler
@pytest.mark.parametrize("which", ["native", "cuda"])
def test_resuming_mid_epoch_changes_nothing(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view = snapshot_of(50)
    job = base.Job(net_of(SMALL), Candidate(8, 1e-3, **ALL), 2, 3)
    make = native if which == "native" else emulated
    whole = make(view)
    results = train(whole, job)
    monkeypatch.setattr(engine, "SLICE_S", 0.0)
    lanes = native(view) if which == "native" else emulated(view, slice_s=0.0)
    state = state_after(lanes, job, 10)  # an epoch is 7 steps
    assert (state.epoch, state.step) == (1, 3)
    rest = make(view)
    after = train(rest, job, state)
    assert [(r.loss, r.accuracy) for r in after] == [(r.loss, r.accuracy) for r in results[1:]]
    assert_same(rest.state(0), whole.state(0))


@needs_compiler
def test_without_strength_all_is_as_it_was() -> None:
    net, view = net_of([kind("relu"), LINEAR]), snapshot_of(30)
    assert pieces(net, Candidate(8, 1e-3).distorts).input == pieces(net).input
    assert "distort" not in pieces(net).input and "distort" in pieces(net, True).input
    lanes = native(view)
    none = Candidate(8, 1e-3, **dict.fromkeys(DISTORTIONS, 0.0))
    states = []
    for candidate in (Candidate(8, 1e-3), none, replace(none, shift=1e-30)):
        lanes.start(0, base.Job(net, candidate, 1, 2))
        while not any(part.result and part.epoch == 2 for part in lanes.step()):
            pass
        states.append(lanes.state(0))
        lanes.stop(0)
    assert_same(states[0], states[1])
    # the sampler with nothing to do: the same images but for rounding
    for name, values in states[0].tensors.items():
        assert np.allclose(values, states[2].tensors[name], atol=1e-4), name


def test_defaults_are_not_told() -> None:
    """What an older version stored is still of the same candidate."""
    assert not set(Candidate(8, 1e-3).to_dict()) & set(DISTORTIONS)
    assert Candidate(8, 1e-3, erase=0.2).to_dict()["erase"] == 0.2
