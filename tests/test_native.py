"""The native engine against PyTorch: gradients, losses along a training run, and its promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RESIDUAL
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import EngineConfig
from golf_opt.engines import base, create_engine
from golf_opt.engines.native import NativeEngine, compiler, engine, library, unsupported
from golf_opt.engines.native.codegen import dropout_nodes, generate, group_layers
from golf_opt.engines.native.lane import epoch_order
from golf_opt.engines.torch import TorchEngine, build_module
from golf_opt.task import arch, forward, rng
from golf_opt.task.data import Split, View
from golf_opt.task.inputs import MNIST, InputSpec
from golf_opt.task.recipe import OPTIMIZERS, SCHEDULES, Candidate

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
    "residual": [*RESIDUAL, LINEAR],
    "rectangles": [
        kind("scale"), POOL,
        conv(3, [1, 5], stride=[2, 1]), kind("scale"), kind("max_pool", size=[1, 2]),
        conv(4, [5, 1], padding="same", bias=False, name="early"), kind("batch_norm"), kind("tanh"),
        conv(4, [3, 5], padding="same", bias=False), kind("add", of="early"),
        kind("avg_pool"), kind("gelu"), POOL, LINEAR,
    ],
}  # fmt: skip


CLASSES = {"kind": "linear", "features": "classes"}
CONV = {"kind": "conv", "channels": 5, "kernel": 3}
# Images of other shapes than MNIST's, and the layers of a net for them.
SHAPES: dict[str, tuple[InputSpec, list[dict[str, Any]]]] = {
    "colour": (
        InputSpec((3, 32, 32), 2, (0.3, 0.5, 0.6), (0.2, 0.25, 0.3)),
        [CONV, {"kind": "relu"}, {"kind": "max_pool"}, CONV, {"kind": "prelu"}, CLASSES],
    ),
    "small": (
        InputSpec((1, 8, 8), 10, (0.3,), (0.37,)),
        [CONV | {"padding": "same"}, {"kind": "batch_norm"}, {"kind": "relu"}, CLASSES],
    ),
    "signal": (
        InputSpec((1, 1, 128), 5, (0.5,), (0.1,)),
        [
            CONV | {"kernel": [1, 7], "stride": [1, 2]}, {"kind": "relu"},
            {"kind": "max_pool", "size": [1, 3]}, {"kind": "global_avg_pool"}, CLASSES,
        ],
    ),
    "odd": (  # an image is no whole number of what the kernel loads, nor is a row
        InputSpec((4, 9, 7), 200, (0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1)),
        [{"kind": "depthwise", "kernel": 2, "stride": 2}, {"kind": "leaky_relu"}, CLASSES],
    ),
    "odd rows": (
        InputSpec((2, 5, 6), 3, (0.1, 0.2), (0.4, 0.3)), [{"kind": "pointwise", "channels": 3},
        {"kind": "relu"}, {"kind": "dropout", "p": 0.3}, CLASSES],
    ),
}  # fmt: skip


def net_of(layers: list[dict[str, Any]], spec: InputSpec = MNIST) -> arch.Net:
    return arch.build_net({"name": "test", "layers": layers}, spec)


def split_of(name: str, n: int, seed: int = 0, spec: InputSpec = MNIST) -> Split:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, spec.classes, n, dtype=np.uint8)
    images = draw.integers(0, 256, (n, *spec.shape), dtype=np.uint8)
    if spec == MNIST:
        images[np.arange(n), 0, labels * 2] = 255  # something to learn
    soft = draw.normal(0, 5, (n, spec.classes)).astype(np.float32)  # of a teacher
    return Split(name, images, labels, soft)


def snapshot_of(n: int, seed: int = 0, spec: InputSpec = MNIST) -> View:
    test = split_of("test", 50, seed + 1, spec)
    train = split_of("train", n, seed, spec)
    return View("synthetic", "test", train, test, test, digest="", input=spec)


VIEW = snapshot_of(128)


def native(view: View = VIEW, lanes: int = 1, **more: Any) -> NativeEngine:
    return NativeEngine(view, lanes, flags=QUICK, **more)


def oracle_gradients(
    net: arch.Net,
    tensors: base.Tensors,
    batch: Split,
    smoothing: float,
    keys: list[int],
    distill: float = 0.0,
    temperature: float = 1.0,
) -> tuple[float, base.Tensors]:
    """Loss, `gradients/...` and `buffers/...` by PyTorch in float64."""
    module = build_module(net).double().train()
    with torch.no_grad():
        for name, tensor in module.tensors().items():
            tensor.copy_(torch.from_numpy(tensors[name]))
    for dropout, key in zip(module.dropouts(), keys, strict=True):
        dropout.key.fill_(key)
    mean, std = (torch.tensor(v).double()[:, None, None] for v in (net.input.mean, net.input.std))
    x = (torch.from_numpy(batch.images).double() / 255 - mean) / std
    labels = torch.from_numpy(batch.labels.astype(np.int64))
    scores = module(x)
    loss = torch.nn.functional.cross_entropy(scores, labels, label_smoothing=smoothing)
    if distill:
        assert batch.soft is not None
        soft = (torch.from_numpy(batch.soft).double() / temperature).softmax(1)
        net_ = (scores / temperature).log_softmax(1)
        apart = torch.nn.functional.kl_div(net_, soft, reduction="batchmean")
        loss = (1 - distill) * loss + distill * temperature**2 * apart
    loss.backward()
    found: base.Tensors = {}
    for parameter in net.parameters:
        gradient = module.layers.get_parameter(parameter.name).grad
        assert gradient is not None
        found[f"gradients/{parameter.name}"] = gradient.numpy()
    for buffer in net.buffers:
        found[f"buffers/{buffer.name}"] = module.layers.get_buffer(buffer.name).numpy()
    return float(loss.detach()), found


def check_gradients(
    net: arch.Net, batch_size: int, width: int = 16, images: int = 16, **teacher: float
) -> None:
    view = VIEW if net.input == MNIST else snapshot_of(128, spec=net.input)
    batch = view.train.take("batch", np.arange(batch_size))
    tensors = base.initial_weights(net, 3)
    keys = [1000 + i for i in range(len(dropout_nodes(net)))]
    loss, expected = oracle_gradients(net, tensors, batch, 0.1, keys, **teacher)
    lanes = native(view, width=width, images=images)
    found_loss, found = lanes.gradients(net, tensors, batch, 0.1, keys, **teacher)
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


@pytest.mark.parametrize(("width", "images"), [(16, 4), (8, 8), (1, 1)])
def test_gradients_do_not_depend_on_the_vector_width(width: int, images: int) -> None:
    net = net_of(EVERYTHING)
    for batch_size in (2, 4, 14, 16, 17, 32, 128) if width == 16 else (14,):
        check_gradients(net, batch_size, width, images)


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_match_pytorch_on_images_of_any_shape(name: str) -> None:
    spec, layers = SHAPES[name]
    net = net_of(layers, spec)
    for batch_size, width, images in ((21, 16, 16), (5, 8, 4), (3, 1, 1)):
        check_gradients(net, batch_size, width, images)
    view, tensors = snapshot_of(60, spec=spec), base.initial_weights(net, 3)
    scores = native(view).logits(net, tensors, view.test.images)
    ours = forward.logits(net, tensors, view.test.images, np.float64)
    np.testing.assert_allclose(scores, ours, atol=1e-4)
    right = (ours.argmax(axis=1) == view.test.labels).mean()
    assert native(view).evaluate(net, tensors, view.test) == right


@pytest.mark.parametrize("name", SHAPES)
def test_training_on_images_of_any_shape_is_pytorchs(name: str) -> None:
    spec, layers = SHAPES[name]
    view, job = (
        snapshot_of(60, spec=spec),
        base.Job(net_of(layers, spec), Candidate(14, 2e-3), 3, 4),
    )
    losses = [
        [result.loss for result in train(engine, job)]
        for engine in (native(view), TorchEngine(view, dtype=torch.float64))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_one_image_is_a_batch() -> None:
    check_gradients(net_of(NETS["relu"]), 1, images=8)


def side_of(draw: st.DrawFn, most: int) -> Any:
    """A window's size, as one number or as height and width."""
    one = draw(st.integers(1, most))
    return one if draw(st.booleans()) else [one, draw(st.integers(1, most))]


@st.composite
def architectures(draw: st.DrawFn) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = []

    def shape() -> tuple[int, ...]:
        return net_of([*layers, LINEAR]).nodes[-1].input_shape

    for block in range(draw(st.integers(1, 4))):
        side = min(shape()[1:]) if layers else 28
        what = draw(st.sampled_from([
            "conv", "depthwise", "pointwise", "max_pool", "avg_pool", "batch_norm", "residual",
        ]))  # fmt: skip
        if what in ("conv", "depthwise"):
            kernel = side_of(draw, min(6, side))
            odd = all(k % 2 for k in ([kernel] if isinstance(kernel, int) else kernel))
            same = odd and draw(st.booleans())
            stride = draw(st.sampled_from([1, 1, 2, 3, [1, 2], [2, 1]]))
            more = {"padding": "same" if same else "valid", "bias": draw(st.booleans())}
            layers.append(kind(what, kernel=kernel, stride=stride, **more))
            if what == "conv":
                layers[-1]["channels"] = draw(st.integers(1, 9))
        elif what == "pointwise":
            stride = draw(st.sampled_from([1, 2, [1, 2]]))
            layers.append(kind(what, channels=draw(st.integers(1, 20)), stride=stride))
        elif what in ("max_pool", "avg_pool"):
            layers.append(kind(what, size=side_of(draw, min(4, side))))
        elif what == "residual":  # right behind, behind a normalisation, or the sum of a sum
            layers.append(kind("scale", name=f"start{block}"))
            inside = [conv(shape()[0], 3, padding="same", bias=False), kind("batch_norm")]
            layers += draw(st.sampled_from([[], inside, inside[:1], inside[1:]]))
            layers.append(kind("add", of=f"start{block}", name=f"sum{block}"))
            layers += [kind("add", of=f"sum{block}")] if draw(st.booleans()) else []
        else:
            layers.append(kind(what))
        then = draw(st.sampled_from([
            None, "relu", "prelu", "leaky_relu", "dropout", "gelu", "hard_swish", "tanh", "scale",
        ]))  # fmt: skip
        layers += [kind(then)] if then else []
        if min(shape()[1:]) >= 2 and draw(st.booleans()):
            layers.append(POOL)
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


def state_after(lanes: base.Engine, job: base.Job, slices: int) -> base.LaneState:
    """Begin a job in lane 0; return how far it is after so many slices, and close the engine."""
    lanes.start(0, job)
    for _ in range(slices):
        while not lanes.step():
            pass
    state = lanes.state(0)
    lanes.close()
    return state


@pytest.mark.parametrize(("distill", "temperature"), [(0.6, 2.5), (1.0, 0.5), (0.3, 20.0)])
def test_a_teacher_pulls_as_in_pytorch(distill: float, temperature: float) -> None:
    teacher = {"distill": distill, "temperature": temperature}
    check_gradients(net_of(NETS["relu"]), 21, **teacher)
    check_gradients(net_of(SHAPES["odd"][1], SHAPES["odd"][0]), 5, 16, 4, **teacher)


def test_a_net_cannot_learn_from_a_teacher_that_is_not_there() -> None:
    alone = replace(VIEW, train=replace(VIEW.train, soft=None))
    job = base.Job(net_of(NETS["relu"]), Candidate(21, 1e-3, distill=0.5), 1, 1)
    for lanes in (native(alone), TorchEngine(alone)):
        with pytest.raises(UsageError, match=r"distill is 0\.5, but must be 0 without a teacher"):
            lanes.start(0, job)


SMALL = [conv(3, 4), RELU, POOL, conv(4, 3), RELU, POOL, LINEAR]
RECIPES = [
    *({"optimizer": name, "weight_decay": 0.01} for name in OPTIMIZERS),
    *({"schedule": name, "gamma": 0.9, "step_size": 7} for name in SCHEDULES),
    {"label_smoothing": 0.1, "gamma": 0.97},
    {"label_smoothing": 0.1, "distill": 0.7, "temperature": 3.0},
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
    options |= {"average": "ema"}
    job = base.Job(net_of(EVERYTHING), Candidate(21, 1e-3, schedule="one_cycle", **options), 1, 20)
    net = net_of(EVERYTHING)
    state = masked(net)
    lanes = native(view, images=8)
    found = train(lanes, job, state)
    after = lanes.state(0).tensors
    oracle = TorchEngine(view, device="cpu", dtype=torch.float64)
    expected = train(oracle, job, state)
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-3)
    for name, values in oracle.state(0).tensors.items():
        assert np.allclose(after[name], values, atol=2e-3), name
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
        x = (torch.from_numpy(view.test.images) / 255 - MNIST.mean[0]) / MNIST.std[0]
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
    average = {4: "none", 14: "ema", 17: "swa"}[batch_size]
    candidate = Candidate(batch_size, 1e-3, average=average, average_span=0.4, distill=0.5)
    job = base.Job(net_of([*SMALL[:-1], kind("dropout", p=0.2), LINEAR]), candidate, 2, 3)
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
    order = epoch_order(kernel, 7, 3, n)
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


def test_what_is_too_large_falls_back_in_a_line() -> None:
    spec = InputSpec((4, 96, 96), 256, (0.5,) * 4, (0.2,) * 4)
    view, said = snapshot_of(4, spec=spec), list[str]()
    net = net_of([CLASSES], spec)
    engine = create_engine(EngineConfig("auto", "cpu", 1, 1), view, net, said.append)
    assert engine.name == "torch" and said == [
        "engine=auto takes torch: engine is 'native', but must be 'torch' here: test has 9,437,440 "
        "parameters, but native does up to 1,048,576."
    ]
    assert 0 <= engine.evaluate(net, base.initial_weights(net, 0), view.test) <= 1
