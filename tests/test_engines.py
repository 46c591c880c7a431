"""Every engine keeps the protocol's promises; the torch engine equals a hand-written loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import net, tiny_net
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from golf_opt.engines.base import (
    Engine,
    EpochResult,
    Job,
    LaneState,
    data_order,
    dropout_key,
    initial_weights,
)
from golf_opt.engines.native import NativeEngine, compiler
from golf_opt.engines.torch import CounterDropout, TorchEngine, build_module, pick_device
from golf_opt.task import rng
from golf_opt.task.data import View
from golf_opt.task.inputs import MNIST
from golf_opt.task.recipe import Candidate, learning_rates

(MEAN,), (STD,) = MNIST.mean, MNIST.std

EVERYTHING = (
    {"kind": "conv", "channels": 3, "kernel": 5, "stride": 2},
    {"kind": "batch_norm"},
    {"kind": "prelu"},
    {"kind": "max_pool", "size": 2},
    {"kind": "depthwise", "kernel": 3, "padding": "same", "name": "spatial"},
    {"kind": "pointwise", "channels": 3, "bias": False},
    {"kind": "leaky_relu", "slope": 0.1},
    {"kind": "reuse", "of": "spatial"},
    {"kind": "dropout", "p": 0.3, "name": "dropped"},
    {"kind": "conv", "channels": 3, "kernel": [1, 3], "padding": "same"},
    {"kind": "batch_norm"},
    {"kind": "gelu"},
    {"kind": "add", "of": "dropped"},
    {"kind": "scale"},
    {"kind": "linear", "features": 12},
    {"kind": "tanh"},
)
CANDIDATE = Candidate(14, 2e-3, step_size=1, gamma=0.7)


def train(engine: Engine, job: Job, state: LaneState | None = None) -> list[EpochResult]:
    """Run one job in lane 0 to its end; leave it there."""
    engine.start(0, job, state)
    results = []
    while not results or results[-1].epoch < job.epochs:
        for done in engine.step():
            assert done.error is None, done.error
            if done.result:
                results.append(done.result)
    return results


def job_of(*layers: dict[str, object], candidate: Candidate = CANDIDATE, epochs: int = 2) -> Job:
    return Job(tiny_net(*(layers or EVERYTHING)), candidate, seed=11, epochs=epochs)


def numbers(results: list[EpochResult]) -> list[tuple[float, float]]:
    return [(result.loss, result.accuracy) for result in results]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_torch_engine_equals_a_hand_written_loop(small_view: View, optimizer: str) -> None:
    """Same weights, order, rates and smoothing, in float64: the losses agree to rounding."""
    candidate = replace(
        CANDIDATE, optimizer=optimizer, weight_decay=1e-2, label_smoothing=0.1, schedule="cosine"
    )
    job = Job(net("c4-5-4-prelu"), candidate, seed=3, epochs=2)
    ours = train(TorchEngine(small_view, dtype=torch.float64), job)

    x = (torch.tensor(small_view.train.images, dtype=torch.float64) / 255 - MEAN) / STD
    y = torch.tensor(small_view.train.labels, dtype=torch.int64)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 4), nn.PReLU(4), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3), nn.PReLU(5), nn.MaxPool2d(2),
        nn.Conv2d(5, 4, 3), nn.PReLU(4), nn.Flatten(), nn.Linear(36, 10),
    ).double()  # fmt: skip
    start = initial_weights(job.net, job.seed).values()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), start, strict=True):
            parameter.copy_(torch.tensor(value))
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    extra = {"momentum": 0.9} if optimizer == "sgd" else {}
    optimiser = make(model.parameters(), lr=1.0, weight_decay=1e-2, **extra)
    for epoch, result in enumerate(ours):
        order = torch.tensor(data_order(job.seed, epoch, len(y)))
        rates = learning_rates(candidate, epoch, job.epochs, 11)
        total = 0.0
        for index, rate in zip(order.split(14), rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
            loss = F.cross_entropy(model(x[index]), y[index], label_smoothing=0.1)
            loss.backward()
            optimiser.step()
            total += loss.item() * len(index)
        assert result.loss == pytest.approx(total / len(y), rel=1e-9)


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_averages_are_those_of_torchs_averaged_model(small_view: View, average: str) -> None:
    """In float64, of 66 steps, with the statistics of a normalisation."""
    candidate = Candidate(14, 2e-3, average=average, average_span=0.05)  # type: ignore[arg-type]
    conv = {"kind": "conv", "channels": 3, "kernel": 5, "stride": 2}
    layers = [conv, {"kind": "batch_norm"}, {"kind": "relu"}]
    job = job_of(*layers, candidate=candidate, epochs=6)
    engine = TorchEngine(small_view, dtype=torch.float64)
    ours = train(engine, job)

    x = (torch.tensor(small_view.train.images, dtype=torch.float64) / 255 - MEAN) / STD
    y = torch.tensor(small_view.train.labels, dtype=torch.int64)
    model = build_module(job.net, initial_weights(job.net, job.seed)).double()
    follow = get_ema_multi_avg_fn(math.exp(-1 / 3.3)) if average == "ema" else None
    averaged = AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(6):
        for step, index in enumerate(torch.tensor(data_order(job.seed, epoch, len(y))).split(14)):
            optimiser.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            optimiser.step()
            if average == "ema" or epoch * 11 + step >= 63:
                averaged.update_parameters(model)
    state, oracle = engine.state(0), averaged.module.eval()
    assert state.net.keys() == oracle.tensors().keys()
    for name, tensor in oracle.tensors().items():
        found = state.net[name]
        np.testing.assert_allclose(found, tensor.detach(), rtol=1e-7, atol=1e-9, err_msg=name)
    for name in ("weights/linear1.weight", "buffers/batch_norm1.running_mean"):
        assert not np.allclose(state.net[name], state.tensors[name], rtol=1e-4), name
    right = (oracle(x).argmax(1) == y).double().mean()
    assert ours[-1].train_accuracy == right


def test_a_net_learns(small_view: View) -> None:
    results = train(
        TorchEngine(small_view), Job(net("c4-5-4"), Candidate(8, 5e-3), seed=0, epochs=12)
    )
    assert results[-1].accuracy > 0.9


def test_weights_start_as_pytorch_would_draw_them() -> None:
    weights = initial_weights(net("pytorch-example"), seed=1)["weights/linear1.weight"]
    bound = 1 / np.sqrt(9216)
    assert np.abs(weights).max() <= bound
    assert weights.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)
    other = initial_weights(net("pytorch-example"), seed=2)["weights/linear1.weight"]
    assert abs(np.corrcoef(weights.ravel(), other.ravel())[0, 1]) < 0.01


def test_module_has_the_parameters_of_the_architecture() -> None:
    for name in ("c4-5-4-prelu", "deepml-separable", "reused-separable"):
        module = build_module(net(name))
        shapes = {key: tuple(value.shape) for key, value in module.layers.named_parameters()}
        assert shapes == {p.name: p.shape for p in net(name).parameters}
        assert module(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_dropout_follows_the_counter(small_view: View) -> None:
    dropout = CounterDropout(0.25, node_index=4)
    dropout.key.fill_(dropout_key(seed=5, node_index=4, step=9))
    x = torch.ones(6, 3, 4, 4)
    keep = rng.uniform(dropout_key(5, 4, 9), x.numel()).reshape(x.shape) >= 0.25
    np.testing.assert_allclose(dropout(x).numpy(), keep / 0.75, rtol=1e-6)
    assert torch.equal(dropout.eval()(x), x)


def rests_and_goes_on(engine: Engine, job: Job, train: Callable[..., list[EpochResult]]) -> None:
    """Check that it does not matter to a job of 4 epochs where it rests; other tests use this."""
    whole = numbers(train(engine, job))
    end = engine.state(0)
    engine.stop(0)

    engine.start(0, job, until=2)
    engine.start(1, job, until=1)
    slices = [part for _ in range(100) for part in engine.step()]
    results = {lane: [s.result for s in slices if s.lane == lane and s.result] for lane in (0, 1)}
    assert [result.epoch for result in results[0]] == [1, 2] and len(results[1]) == 1
    assert engine.step() == []  # nobody works
    state = engine.state(0)
    assert (state.epoch, state.step) == (2, 0)
    engine.stop(1)
    engine.extend(0, 3)
    engine.extend(0, 4)
    while len(results[0]) < 4:
        results[0] += [part.result for part in engine.step() if part.result]
    assert numbers(results[0]) == whole
    for name, tensor in end.tensors.items():
        np.testing.assert_array_equal(engine.state(0).tensors[name], tensor, err_msg=name)
    engine.stop(0)

    assert numbers(train(engine, job, state)) == whole[2:]  # elsewhere, from where it rested
    for name, tensor in end.tensors.items():
        np.testing.assert_array_equal(engine.state(0).tensors[name], tensor, err_msg=name)
    engine.stop(0)


ENGINES: dict[str, Callable[[View, int], Engine]] = {
    "torch": lambda view, lanes: TorchEngine(view, lanes=lanes),
    "native": lambda view, lanes: NativeEngine(view, lanes=lanes),
}


@pytest.fixture(params=ENGINES)
def make_engine(request: pytest.FixtureRequest) -> Callable[[View, int], Engine]:
    if request.param == "native" and compiler() is None:
        pytest.skip("there is no C++ compiler")
    return ENGINES[request.param]


def test_a_trial_is_a_pure_function_of_its_job(
    make_engine: Callable[[View, int], Engine], small_view: View
) -> None:
    first = train(make_engine(small_view, 1), job_of())
    assert numbers(train(make_engine(small_view, 1), job_of())) == numbers(first)
    other = train(make_engine(small_view, 1), replace(job_of(), seed=12))
    assert numbers(other) != numbers(first)


def test_lanes_do_not_see_each_other(
    make_engine: Callable[[View, int], Engine], small_view: View
) -> None:
    jobs = [replace(job_of(), seed=seed) for seed in range(3)]
    alone = [numbers(train(make_engine(small_view, 1), job)) for job in jobs]
    engine = make_engine(small_view, 3)
    together: dict[int, list[EpochResult]] = {0: [], 1: [], 2: []}
    for lane, job in enumerate(jobs):
        engine.start(lane, job)
    while any(len(results) < 2 for results in together.values()):
        for done in engine.step():
            if done.result and len(together[done.lane]) < 2:
                together[done.lane].append(done.result)
    assert [numbers(results) for results in together.values()] == alone


def test_a_slice_at_a_time_and_the_state_that_belongs_to_it(
    make_engine: Callable[[View, int], Engine], small_view: View
) -> None:
    """However far a lane ran ahead, `step` returns one slice of it, and `state` is that slice's.

    A slow machine may need several slices for an epoch.
    """
    engine = make_engine(small_view, 1)
    engine.start(0, job_of(epochs=8))
    for epoch in range(1, 9):
        time.sleep(0.02)
        while (slices := engine.step())[0].result is None:
            assert len(slices) == 1 and engine.state(0).epoch == epoch - 1
        (done,) = slices
        assert done.result is not None and done.result.epoch == epoch == engine.state(0).epoch


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_stopped_trial_goes_on_bit_for_bit(
    make_engine: Callable[[View, int], Engine], small_view: View, optimizer: str
) -> None:
    average = {"adam": "none", "sgd": "ema"}[optimizer]
    candidate = replace(CANDIDATE, optimizer=optimizer, average=average)
    job = job_of(candidate=candidate, epochs=3)
    engine = make_engine(small_view, 1)
    whole = train(engine, job)
    whole_state = engine.state(0)
    engine.stop(0)

    engine.start(0, job)
    while not (done := engine.step()[-1]).result:
        pass
    state = engine.state(0)
    engine.stop(0)
    assert done.result is not None and state.epoch >= 1
    other = make_engine(small_view, 1)
    rest = train(other, job, state)
    assert numbers(rest) == numbers(whole)[state.epoch :]
    for name, tensor in whole_state.tensors.items():
        np.testing.assert_array_equal(other.state(0).tensors[name], tensor, err_msg=name)


def test_a_lane_rests_and_goes_on_bit_for_bit(
    make_engine: Callable[[View, int], Engine], small_view: View
) -> None:
    candidate = replace(CANDIDATE, average="swa", average_span=0.6)
    rests_and_goes_on(make_engine(small_view, 2), job_of(candidate=candidate, epochs=4), train)


def test_torch_goes_on_within_an_epoch(small_view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(candidate=replace(CANDIDATE, average="ema"))
    whole = train(TorchEngine(small_view), job)
    monkeypatch.setattr("golf_opt.engines.torch.engine.SLICE_S", 1e-6)  # a step a slice
    engine = TorchEngine(small_view)
    engine.start(0, job)
    for _ in range(15):  # 11 steps are an epoch
        engine.step()
    state = engine.state(0)
    assert (state.epoch, state.step) == (1, 4)
    assert numbers(train(TorchEngine(small_view), job, state)) == numbers(whole)[1:]


def test_masked_weights_stay_zero(
    make_engine: Callable[[View, int], Engine], small_view: View
) -> None:
    job = job_of()
    tensors = initial_weights(job.net, job.seed)
    mask = np.ones((3, 1, 5, 5), dtype=np.float32)
    mask[1, 0, 2] = 0
    tensors["masks/conv1.weight"] = mask
    engine = make_engine(small_view, 1)
    train(engine, job, LaneState(tensors, 0, 0, 0.0, 0.0))
    after = engine.state(0).tensors
    assert np.all(after["weights/conv1.weight"][mask == 0] == 0)
    assert np.all(after["weights/conv1.weight"][mask == 1] != 0)
    np.testing.assert_array_equal(after["masks/conv1.weight"], mask)


def test_a_loss_that_is_not_finite_is_an_error(
    make_engine: Callable[[View, int], Engine], small_view: View
) -> None:
    engine = make_engine(small_view, 1)
    engine.start(0, job_of(candidate=Candidate(14, 1e30)))
    for _ in range(20):
        (done,) = engine.step()[-1:]
        if done.error:
            break
    assert done.error is not None and "training loss became" in done.error
    engine.stop(0)
    assert len(train(engine, job_of())) == 2  # the lane is fit for use


@pytest.mark.parametrize("average", ["none", "ema"])
def test_evaluate_agrees_with_training(
    make_engine: Callable[[View, int], Engine], small_view: View, average: str
) -> None:
    engine = make_engine(small_view, 1)
    job = job_of(candidate=replace(CANDIDATE, average=average, average_span=0.5))
    last = train(engine, job)[-1]
    accuracy = engine.evaluate(job.net, engine.state(0).net, small_view.objective)
    assert accuracy == last.accuracy
    accuracy = engine.evaluate(job.net, engine.state(0).net, small_view.train)
    assert accuracy == last.train_accuracy


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_graph_equals_cpu(small_view: View) -> None:
    job = job_of(epochs=3)
    cpu = train(TorchEngine(small_view, device="cpu"), job)
    gpu = train(TorchEngine(small_view, device="cuda"), job)
    np.testing.assert_allclose(numbers(gpu), numbers(cpu), rtol=2e-2)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"engine\.device is 'cuda:99'"):
        pick_device("cuda:99")
