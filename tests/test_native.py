"""The native engine against PyTorch: gradients, losses along a training run, and its promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from golf_opt.engines import base
from golf_opt.engines.native import NativeEngine, compiler, engine, library, unsupported
from golf_opt.engines.native.codegen import dropout_nodes, generate, group_layers
from golf_opt.engines.torch import TorchEngine, build_module
from golf_opt.task import arch, rng
from golf_opt.task.data import Split, View
from golf_opt.task.inputs import MNIST
from golf_opt.task.recipe import OPTIMIZERS, SCHEDULES, Candidate

(MEAN,), (STD,) = MNIST.mean, MNIST.std

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
QUICK = ("-O1",)  # to compile


def conv(channels: int, kernel: int, **more: Any) -> dict[str, Any]:
    return {"kind": "conv", "channels": channels, "kernel": kernel, **more}


def kind(kind_: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind_, **more}


POOL, RELU, LINEAR = kind("max_pool"), kind("relu"), kind("linear", features=10)
EVERYTHING = [
    kind("batch_norm"),
    conv(5, 3, padding="same", bias=False),
    kind("batch_norm"),
    kind("prelu"),
    POOL,
    kind("depthwise", kernel=3, padding="same", name="shared"),
    kind("leaky_relu", slope=0.2),
    kind("reuse", of="shared"),
    kind("batch_norm"),
    RELU,
    kind("pointwise", channels=7),
    RELU,
    kind("max_pool", size=3),
    kind("dropout", p=0.3),
    kind("depthwise", kernel=2, stride=2, bias=False),
    kind("prelu"),
    kind("linear", features=13, bias=False),
    kind("dropout"),
    kind("prelu"),
    LINEAR,
]
NETS: dict[str, list[dict[str, Any]]] = {
    "relu": [conv(4, 4), RELU, POOL, conv(5, 3), RELU, POOL, conv(4, 3), RELU, LINEAR],
    "prelu": [conv(3, 5), kind("prelu"), POOL, conv(4, 3), kind("prelu"), LINEAR],
    "strides": [conv(7, 3, stride=2), RELU, POOL, conv(9, 2, stride=2), POOL, LINEAR],
    "wide kernels": [POOL, conv(3, 9), RELU, conv(4, 5, padding="same"), POOL, LINEAR],
    "average": [conv(26, 1), RELU, POOL, kind("pointwise", channels=10), kind("global_avg_pool")],
    "odd edges": [conv(2, 4), kind("batch_norm"), RELU, POOL, RELU, conv(3, 4), POOL, POOL, LINEAR],
    "everything": EVERYTHING,
}


def net_of(layers: list[dict[str, Any]]) -> arch.Net:
    return arch.build_net({"name": "test", "layers": layers})


def split_of(name: str, n: int, seed: int = 0) -> Split:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 10, n, dtype=np.uint8)
    images = draw.integers(0, 256, (n, 1, 28, 28), dtype=np.uint8)
    images[np.arange(n), 0, labels * 2] = 255  # something to learn
    return Split(name, images, labels)


def snapshot_of(n: int, seed: int = 0) -> View:
    test = split_of("test", 50, seed + 1)
    return View("synthetic", "test", split_of("train", n, seed), test, test, digest="")


VIEW = snapshot_of(128)


@pytest.fixture(scope="module", autouse=True)
def cache(kernels: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOLF_CACHE", str(kernels))
        yield


def native(view: View = VIEW, lanes: int = 1, **more: Any) -> NativeEngine:
    return NativeEngine(view, lanes, flags=QUICK, **more)


def oracle_gradients(
    net: arch.Net, tensors: base.Tensors, batch: Split, smoothing: float, keys: list[int]
) -> tuple[float, base.Tensors]:
    """Loss, `gradients/...` and `buffers/...` by PyTorch in float64."""
    module = build_module(net).double().train()
    with torch.no_grad():
        for name, tensor in module.tensors().items():
            tensor.copy_(torch.from_numpy(tensors[name]))
    for dropout, key in zip(module.dropouts(), keys, strict=True):
        dropout.key.fill_(key)
    x = (torch.from_numpy(batch.images).double() / 255 - MEAN) / STD
    labels = torch.from_numpy(batch.labels.astype(np.int64))
    loss = torch.nn.functional.cross_entropy(module(x), labels, label_smoothing=smoothing)
    loss.backward()
    found: base.Tensors = {}
    for parameter in net.parameters:
        gradient = module.layers.get_parameter(parameter.name).grad
        assert gradient is not None
        found[f"gradients/{parameter.name}"] = gradient.numpy()
    for buffer in net.buffers:
        found[f"buffers/{buffer.name}"] = module.layers.get_buffer(buffer.name).numpy()
    return float(loss.detach()), found


def check_gradients(net: arch.Net, batch_size: int, width: int = 16, images: int = 16) -> None:
    batch = VIEW.train.take("batch", np.arange(batch_size))
    tensors = base.initial_weights(net, 3)
    keys = [1000 + i for i in range(len(dropout_nodes(net)))]
    loss, expected = oracle_gradients(net, tensors, batch, 0.1, keys)
    lanes = native(width=width, images=images)
    found_loss, found = lanes.gradients(net, tensors, batch, 0.1, keys)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    largest = max(np.abs(expected[name]).max() for name in expected if name.startswith("grad"))
    # What a normalisation cancels has no gradient but noise: compare it with the others'.
    floor = 1e-2 if net.buffers else 1e-5
    for name, values in expected.items():
        scale = max(np.abs(values).max(), floor * largest)
        assert np.abs(found[name] - values).max() <= 1e-4 * scale, (name, batch_size, width, images)


@pytest.mark.parametrize("name", NETS)
def test_gradients_match_pytorch(name: str) -> None:
    net = net_of(NETS[name])
    for batch_size in (5, 21):
        check_gradients(net, batch_size, images=8)


@pytest.mark.parametrize(("width", "images"), [(16, 16), (16, 4), (8, 8), (4, 4), (1, 1)])
def test_gradients_do_not_depend_on_the_vector_width(width: int, images: int) -> None:
    net = net_of(EVERYTHING)
    for batch_size in (2, 4, 14, 16, 17, 32, 128) if width == 16 else (14,):
        check_gradients(net, batch_size, width, images)


def test_one_image_is_a_batch() -> None:
    check_gradients(net_of(NETS["relu"]), 1, images=8)


@st.composite
def architectures(draw: st.DrawFn) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = []
    side = 28
    for _ in range(draw(st.integers(1, 4))):
        what = draw(st.sampled_from(["conv", "depthwise", "pointwise", "max_pool", "batch_norm"]))
        if what in ("conv", "depthwise"):
            kernel = draw(st.integers(1, min(6, side)))
            same = kernel % 2 == 1 and draw(st.booleans())
            stride = draw(st.sampled_from([1, 1, 2, 3]))
            more = {"padding": "same" if same else "valid", "bias": draw(st.booleans())}
            layers.append(kind(what, kernel=kernel, stride=stride, **more))
            if what == "conv":
                layers[-1]["channels"] = draw(st.integers(1, 9))
        elif what == "pointwise":
            layers.append(kind(what, channels=draw(st.integers(1, 20))))
        elif what == "max_pool":
            layers.append(kind(what, size=draw(st.integers(1, min(4, side)))))
        else:
            layers.append(kind(what))
        then = draw(st.sampled_from([None, "relu", "prelu", "leaky_relu", "dropout"]))
        layers += [kind(then)] if then else []
        side = net_of([*layers, LINEAR]).nodes[-1].input_shape[1]
        if side >= 2 and draw(st.booleans()):
            layers.append(POOL)
        side = net_of([*layers, LINEAR]).nodes[-1].input_shape[1]
    return [*layers, LINEAR]


@pytest.mark.slow
@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.generate],  # each example is a compile, and shrinking takes hundreds
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(layers=architectures(), batch_size=st.integers(2, 20))
def test_gradients_of_random_architectures(layers: list[dict[str, Any]], batch_size: int) -> None:
    check_gradients(net_of(layers), batch_size, images=8 if batch_size % 2 else 4)


def train(lanes: base.Engine, job: base.Job, state: base.LaneState | None = None) -> list[Any]:
    """Train one job in lane 0 to its end; return its epochs' results."""
    lanes.start(0, job, state)
    results: list[Any] = []
    while len(results) < job.epochs - (state.epoch if state else 0):
        for part in lanes.step():
            assert part.error is None, part.error
            results += [part.result] if part.result else []
    return results


SMALL = [conv(3, 4), RELU, POOL, conv(4, 3), RELU, POOL, LINEAR]
RECIPES = [
    *({"optimizer": name, "weight_decay": 0.01} for name in OPTIMIZERS),
    *({"schedule": name, "gamma": 0.9, "step_size": 7} for name in SCHEDULES),
    {"label_smoothing": 0.1, "gamma": 0.97},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_losses_along_200_steps_match_pytorch(recipe: dict[str, Any]) -> None:
    """100 epochs of two steps each, the second one smaller."""
    view = snapshot_of(20)
    lr = 0.02 if recipe.get("optimizer") == "sgd" else 0.002
    job = base.Job(net_of(SMALL), Candidate(14, lr, **recipe), 5, 100)
    found = train(native(view), job)
    expected = train(TorchEngine(view, device="cpu", dtype=torch.float64), job)
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-3, abs=1e-5)
    assert [r.lr for r in found] == [r.lr for r in expected]


def masked(net: arch.Net) -> base.LaneState:
    """The start of a trial with a third of its weights fixed at zero."""
    tensors = base.initial_weights(net, 1)
    drop = np.random.default_rng(0)
    for parameter in net.parameters:
        if parameter.name.endswith("weight") and len(parameter.shape) > 1:
            mask = (drop.random(parameter.shape) > 0.3).astype(np.float32)
            tensors[f"masks/{parameter.name}"] = mask
    return base.LaneState(tensors, 0, 0, 0.0, 0.0)


def test_a_net_with_every_option_trains_like_pytorch() -> None:
    view = snapshot_of(60)
    options = {"optimizer": "adamw", "weight_decay": 0.05, "label_smoothing": 0.1}
    job = base.Job(net_of(EVERYTHING), Candidate(21, 1e-3, schedule="one_cycle", **options), 1, 20)
    net = net_of(EVERYTHING)
    state = masked(net)
    lanes = native(view, images=16)
    found = train(lanes, job, state)
    after = lanes.state(0).tensors
    oracle = TorchEngine(view, device="cpu", dtype=torch.float64)
    expected = train(oracle, job, state)
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-3)
    for name, mask in state.tensors.items():
        if name.startswith("masks/"):
            weights = after[name.replace("masks", "weights")]
            assert not weights[mask == 0].any() and weights[mask == 1].any()
            assert np.array_equal(after[name], mask)
    scores = lanes.logits(job.net, after, view.test.images)
    module = build_module(job.net).eval()
    with torch.no_grad():
        for name, tensor in module.tensors().items():
            tensor.copy_(torch.from_numpy(after[name]))
        x = (torch.from_numpy(view.test.images) / 255 - MEAN) / STD
        assert np.allclose(scores, module(x).numpy(), atol=1e-4)


def assert_same(one: base.LaneState, other: base.LaneState) -> None:
    assert (one.epoch, one.step, one.loss_sum) == (other.epoch, other.step, other.loss_sum)
    assert one.tensors.keys() == other.tensors.keys()
    for name, values in one.tensors.items():
        assert np.array_equal(values, other.tensors[name]), name


@pytest.mark.parametrize("batch_size", [4, 14, 17])
def test_resuming_mid_epoch_changes_nothing(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = base.Job(
        net_of([*SMALL[:-1], kind("dropout", p=0.2), LINEAR]), Candidate(batch_size, 1e-3), 2, 3
    )
    whole = native()
    results = train(whole, job)
    monkeypatch.setattr(engine, "SLICE_S", 0.0)  # a slice is a step
    steps = base.steps_per_epoch(128, batch_size)
    state, seen = None, 0
    pieces: list[Any] = []
    first = native(lanes=2)
    while len(pieces) < 3:
        lane = seen % 2
        first.start(lane, job, state)
        for _ in range(3):  # of many slices ahead, only what `step` returned counts
            parts: list[base.Slice] = []
            while not parts and len(pieces) < 3:
                parts = first.step()
            pieces += [part.result for part in parts if part.result]
            seen += len(parts)
        state = first.state(lane)
        assert state.epoch * steps + state.step == seen
        first.stop(lane)
    assert [(r.loss, r.accuracy) for r in pieces] == [(r.loss, r.accuracy) for r in results]
    assert state is not None
    assert_same(state, whole.state(0))
    whole.close()


def test_lanes_do_not_touch_each_other() -> None:
    jobs = [base.Job(net_of(SMALL), Candidate(8 + i, 1e-3), i, 4) for i in range(3)]
    alone = []
    for job in jobs:
        lanes = native()
        train(lanes, job)
        alone.append(lanes.state(0))
    together = native(lanes=3)
    for lane, job in enumerate(jobs):
        together.start(lane, job)
    ended: set[int] = set()
    while len(ended) < 3:
        ended |= {s.lane for s in together.step() if s.result and s.result.epoch == 4}
    for lane, state in enumerate(alone):
        assert_same(together.state(lane), state)
    together.close()
    assert together.step() == []


def test_accuracy_is_that_of_evaluate() -> None:
    lanes = native(images=4)
    job = base.Job(net_of(SMALL), Candidate(14, 3e-3), 0, 12)
    last = train(lanes, job)[-1]
    assert last.accuracy == lanes.evaluate(job.net, lanes.state(0).tensors, VIEW.test)
    assert last.accuracy > 0.2 and last.epoch == 12 and last.time_s > 0


@pytest.mark.parametrize("lr", [1e30, 1e8])
def test_a_loss_that_is_not_finite_ends_the_trial(lr: float) -> None:
    lanes = native()
    lanes.start(0, base.Job(net_of(SMALL), Candidate(4, lr, optimizer="sgd"), 0, 5))
    slices: list[base.Slice] = []
    while not (slices and slices[-1].error):
        slices += lanes.step()
    assert "training loss became nan in epoch 1" in str(slices[-1].error)
    assert lanes.step() == []  # it stays occupied, and nobody waits for it
    lanes.stop(0)


def test_stop_is_quick_and_drops_what_is_pending() -> None:
    lanes = native(snapshot_of(128))
    lanes.start(0, base.Job(net_of(SMALL), Candidate(1, 1e-5), 0, 10_000))
    lanes.step()
    lanes.stop(0)
    assert lanes.step() == []
    lanes.start(0, base.Job(net_of(SMALL), Candidate(1, 1e-5), 0, 1))
    assert lanes.step()[0].epoch == 1
    lanes.close()


def test_a_finished_state_has_nothing_left_to_train() -> None:
    lanes = native()
    job = base.Job(net_of(SMALL), Candidate(16, 1e-3), 0, 1)
    train(lanes, job)
    state = lanes.state(0)
    lanes.stop(0)
    lanes.start(0, job, state)
    assert lanes.step() == [base.Slice(0, 1, 1.0)]
    assert_same(lanes.state(0), state)
    lanes.close()


@pytest.mark.parametrize("n", [1, 2, 5, 64, 1797, 60_000])
def test_data_order_is_that_of_every_engine(n: int) -> None:
    kernel = library.load(net_of(SMALL), 16, 16, extra_flags=QUICK)
    order = engine.epoch_order(kernel, 7, 3, n)
    assert np.array_equal(order, base.data_order(7, 3, n))


def test_dropout_keys_are_those_of_every_engine() -> None:
    found = base.dropout_keys(9, [2, 5], np.arange(40, 43))
    expected = [[base.dropout_key(9, node, step) for node in (2, 5)] for step in (40, 41, 42)]
    assert found.tolist() == expected


def test_small_batches_lie_in_part_of_a_vector() -> None:
    chosen = {size: engine.images_wide(size, 16) for size in (1, 4, 8, 14, 16, 17, 32, 128)}
    assert chosen == {1: 4, 4: 4, 8: 8, 14: 16, 16: 16, 17: 4, 32: 16, 128: 16}
    assert [engine.images_wide(14, width) for width in (8, 4, 1)] == [8, 4, 1]


def test_neighbours_are_fused() -> None:
    groups = group_layers(net_of(EVERYTHING).nodes)
    assert [len(group.nodes) for group in groups] == [1, 1, 3, 2, 1, 2, 2, 1, 1, 2, 1, 1, 1, 1]
    header = generate(net_of([conv(2, 4), RELU, POOL, LINEAR]))
    assert header.count("Conv<") == 1 and "Apply" not in header


def test_what_native_cannot_do_is_named() -> None:
    net = net_of([kind("linear", features=2000), LINEAR])
    assert unsupported(net_of(SMALL)) is None
    assert "1,590,010 parameters" in str(unsupported(net))
    with pytest.raises(ValueError, match="engine is 'native', but must be 'torch' here"):
        library.load(net, 16)


def test_derived_keys_match_the_generator() -> None:
    assert rng.derive(1, "dropout", 2, 3) == base.dropout_key(1, 2, 3)
