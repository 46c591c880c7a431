"""Batch norm folded: the same digits, an honest count, and what cannot be folded stays."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import ROOT, Ran, net, random_tensors, residual_net, tiny_net
from fuzzing import fuzz
from hypothesis import given
from hypothesis.strategies import composite, integers, sampled_from

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig, prune_options
from golf_opt.engines.base import Tensors
from golf_opt.engines.native import NativeEngine, compiler
from golf_opt.golf.batch_norm import fold_norms, fold_notes
from golf_opt.golf.pruning.ranking import in_scope
from golf_opt.golf.pruning.rounds import Rounds
from golf_opt.golf.pruning.search import PruningState, flatten
from golf_opt.golf.records import verify as records
from golf_opt.task import layers
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import Split, View, load
from golf_opt.task.forward import logits
from golf_opt.task.inputs import MNIST, InputSpec

Row = dict[str, Any]
NORM: Row = {"kind": "batch_norm"}
NO_BIAS = {"bias": False}
CONV: Row = {"kind": "conv", "channels": 4, "kernel": 5, "stride": 3, **NO_BIAS}
LEAKY: Row = {"kind": "leaky_relu", "slope": 0.1}


def row(kind: str, **options: Any) -> Row:
    return {"kind": kind, **options}


IN_FRONT = {  # of a norm
    "conv": tiny_net(CONV, NORM, LEAKY),
    "conv padded": tiny_net(row("conv", channels=3, kernel=3, padding="same"), NORM, row("gelu")),
    "depthwise": tiny_net(CONV, row("depthwise", kernel=3, padding="same", **NO_BIAS), NORM,
                          row("prelu")),
    "pointwise": tiny_net(CONV, LEAKY, row("pointwise", channels=6, **NO_BIAS), NORM,
                          row("hard_swish")),
    "linear": tiny_net(row("linear", features=12, **NO_BIAS), NORM, row("relu")),
    "means between": tiny_net(CONV, row("avg_pool"), row("dropout"), row("global_avg_pool"), NORM,
                              row("tanh")),
    "read by a sum": tiny_net(CONV, LEAKY, row("pointwise", channels=4), NORM | {"name": "n"},
                              LEAKY, row("add", of="n")),
}  # fmt: skip
BEHIND = {
    "conv": tiny_net(CONV, LEAKY, NORM, row("conv", channels=3, kernel=3, **NO_BIAS)),
    "depthwise": tiny_net(CONV, row("relu"), NORM, row("avg_pool"),
                          row("depthwise", kernel=2, **NO_BIAS), row("tanh")),
    "pointwise": tiny_net(NORM, row("pointwise", channels=2, padding="same", **NO_BIAS),
                          row("max_pool", size=4)),
    "linear": tiny_net(CONV, row("max_pool"), NORM),
    "means between": tiny_net(CONV, row("max_pool"), NORM, row("global_avg_pool")),
}  # fmt: skip
STAY = {
    "padding behind": tiny_net(CONV, LEAKY, NORM, row("depthwise", kernel=3, padding="same"),
                               row("max_pool", size=4)),
    "an activation behind": tiny_net(CONV, LEAKY, NORM, LEAKY),
    "a pool of the largest": tiny_net(CONV, row("max_pool"), NORM, LEAKY),
    "a sum in front": tiny_net(CONV | {"name": "c"}, LEAKY, row("add", of="c"), NORM, LEAKY),
    "a sum reads what is before": tiny_net(CONV | {"name": "c"}, NORM, LEAKY, row("add", of="c")),
    "a sum reads what is between": tiny_net(CONV, row("avg_pool", name="m"), NORM, LEAKY,
                                            row("add", of="m")),
    "a shared layer": tiny_net(CONV, LEAKY, row("pointwise", channels=4, name="p"), NORM, LEAKY,
                               row("reuse", of="p"), NORM, LEAKY),
    "a shared norm": tiny_net(CONV, NORM | {"name": "n"}, LEAKY, row("pointwise", channels=4),
                              row("reuse", of="n")),
}  # fmt: skip


def norms(of: Net) -> int:
    return sum(isinstance(node.layer, layers.BatchNorm) for node in of.nodes)


def check_same(of: Net, tensors: Tensors, images: np.ndarray) -> tuple[Net, Tensors]:
    """Fold, and check that nothing was changed but rounding; return what came out."""
    before = {name: values.copy() for name, values in tensors.items()}
    after, found = fold_norms(of, tensors)
    assert tensors.keys() == before.keys()
    assert all(np.array_equal(tensors[name], before[name]) for name in before)
    expected = logits(of, tensors, images, np.float64)
    scale = float(np.abs(expected).max())
    scores = logits(after, found, images, np.float64)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=3e-6 * scale)
    return after, found


@pytest.mark.parametrize("of", IN_FRONT.values(), ids=list(IN_FRONT))
def test_a_layer_in_front_takes_a_norm_up(of: Net, small_view: View) -> None:
    """Two numbers of a channel become one, its bias, or none where the layer had one."""
    after, _ = check_same(of, random_tensors(of), small_view.test.images)
    assert (norms(of), norms(after)) == (1, 0)
    at = next(p for p, n in enumerate(of.nodes) if isinstance(n.layer, layers.BatchNorm))
    biases = [p.name for p in after.parameters if p.name.endswith(".bias")]
    gained = len(biases) - sum(p.name.endswith(".bias") for p in of.parameters) + 1
    channels = of.nodes[at].input_shape[0]
    assert after.num_params == of.num_params - 2 * channels + gained * channels
    assert after.name == "tiny-folded"
    assert fold_norms(after, fold_norms(of, random_tensors(of))[1])[0] is after


@pytest.mark.parametrize("of", BEHIND.values(), ids=list(BEHIND))
def test_a_layer_behind_takes_a_norm_up(of: Net, small_view: View) -> None:
    after, _ = check_same(of, random_tensors(of), small_view.test.images)
    assert (norms(of), norms(after)) == (1, 0)


@pytest.mark.parametrize("of", STAY.values(), ids=list(STAY))
def test_a_norm_that_cannot_be_folded_stays(of: Net) -> None:
    tensors = random_tensors(of)
    after, found = fold_norms(of, tensors)
    assert after is of and found is tensors
    (note,) = fold_notes(of, after)
    assert note.endswith("cannot be folded exactly and stays")


def test_a_norm_without_shifts_goes_into_a_layer_that_pads(small_view: View) -> None:
    """Zeros at the edge stay zeros, and no layer gains a bias that it does not need."""
    of = STAY["padding behind"]
    tensors = random_tensors(of)
    for name in ("weights/batch_norm1.bias", "buffers/batch_norm1.running_mean"):
        tensors[name] = np.zeros_like(tensors[name])
    after, _ = check_same(of, tensors, small_view.test.images)
    assert after.num_params == of.num_params - 2 * 4
    bare = tiny_net(CONV, NORM, LEAKY)
    tensors = random_tensors(bare)
    tensors["weights/batch_norm1.bias"] = np.zeros(4, np.float32)
    tensors["buffers/batch_norm1.running_mean"] = np.zeros(4, np.float32)
    assert fold_norms(bare, tensors)[0].num_params == bare.num_params - 2 * 4


def test_some_norms_go_and_some_stay(small_view: View) -> None:
    of = residual_net()
    after, found = check_same(of, random_tensors(of), small_view.test.images)
    assert [n.name for n in after.nodes if isinstance(n.layer, layers.BatchNorm)] == ["first"]
    assert after.num_params == of.num_params - 4
    assert fold_notes(of, after) == [
        f"batch norm is folded, {of.num_params:,} parameters become {after.num_params:,}; "
        "first cannot be folded exactly and stays"
    ]
    assert {f"weights/{p.name}" for p in after.parameters} <= found.keys()
    plain = net("c4-5-4")
    assert fold_notes(plain, fold_norms(plain, random_tensors(plain))[0]) == []


@composite
def any_net(draw: Any) -> Net:
    """Up to ten layers that fit each other, norms between many of them."""
    spec = InputSpec((2, 9, 8), 3, (0.4, 0.5), (0.2, 0.3))
    rows: list[Row] = []

    def fits(more: list[Row]) -> bool:
        try:
            build_net({"name": "any", "layers": [*more, row("linear", features=3)]}, spec)
        except UsageError:
            return False
        return True

    for _ in range(draw(integers(1, 10))):
        names = [r["name"] for r in rows if "name" in r] or ["none"]
        bias, padding = draw(sampled_from([True, False])), draw(sampled_from(["same", "valid"]))
        drawn = draw(sampled_from([
            NORM, NORM, NORM, LEAKY, row("tanh"), row("max_pool"), row("avg_pool"), row("scale"),
            row("global_avg_pool"), row("dropout"), row("linear", features=4, bias=bias),
            row("conv", channels=2, kernel=3, padding=padding, bias=bias),
            row("depthwise", kernel=[3, 1], padding=padding, stride=[1, 2], bias=bias),
            row("pointwise", channels=2, bias=bias), row("pointwise", channels=3, bias=bias),
            row("add", of=draw(sampled_from(names))), row("reuse", of=draw(sampled_from(names))),
        ]))  # fmt: skip
        named = drawn if drawn["kind"] == "reuse" else drawn | {"name": f"l{len(rows)}"}
        if fits([*rows, named]):
            rows.append(named)
    return build_net({"name": "any", "layers": [*rows, row("linear", features=3)]}, spec)


@fuzz(150)
@given(any_net(), integers(0, 2**16))
def test_any_net_keeps_its_scores(of: Net, seed: int) -> None:
    tensors = random_tensors(of, seed)
    random = np.random.default_rng(seed)
    for name, values in tensors.items():
        if name.startswith("weights/") and values.ndim == 1:
            tensors[name] = values * random.choice([-1, 0, 1], values.shape).astype(np.float32)
    images = random.integers(0, 256, (7, *of.input.shape), dtype=np.uint8)
    after, found = check_same(of, tensors, images)
    assert fold_norms(after, found)[0] is after
    assert norms(after) <= norms(of)


# --- where it is used ---


def record_of(name: str) -> records.Record:
    return records.load_record(ROOT / "studies" / "records" / "99" / name)


@pytest.fixture(scope="module")
def mnist(mnist_root: Path) -> Split:
    return load(DataConfig("mnist", mnist_root)).test


@pytest.mark.mnist
@pytest.mark.parametrize(
    ("name", "size", "nz"),
    [("2026-11-21_separable-wide", 1578, 1578), ("2026-11-21_separable-wide-rounds", 1578, 837)],
)
def test_a_trained_net_gives_the_same_digits(mnist: Split, name: str, size: int, nz: int) -> None:
    """All 10,000, of the 99.2 % net, and of the same one pruned with its norms."""
    record = record_of(name)
    of, tensors = record.net(MNIST), record.tensors
    after, found = check_same(of, tensors, mnist.images)
    digits = logits(after, found, mnist.images).argmax(axis=1)
    np.testing.assert_array_equal(digits, logits(of, tensors, mnist.images).argmax(axis=1))
    assert int((digits == mnist.labels).sum()) == record.claim.splits.test.correct
    counted = records.count_params(after, found)
    assert (norms(after), counted.dense, counted.nz) == (0, size, nz)


@pytest.mark.mnist
@pytest.mark.parametrize("name", ["conv padded", "depthwise", "pointwise", "linear"])
def test_any_weights_give_the_same_digits(mnist: Split, name: str) -> None:
    of = IN_FRONT[name]
    tensors = random_tensors(of)
    after, found = fold_norms(of, tensors)
    expected = logits(of, tensors, mnist.images, np.float64).argmax(axis=1)
    digits = logits(after, found, mnist.images, np.float64).argmax(axis=1)
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(digits, expected)


NORMED = """
name: normed
layers:
  - {kind: conv, channels: 3, kernel: 5, stride: 3, bias: false}
  - {kind: batch_norm}
  - {kind: leaky_relu, slope: 0.1}
  - {kind: max_pool, size: 4}
  - {kind: pointwise, channels: 6}
  - {kind: batch_norm}
  - {kind: relu}
  - {kind: linear, features: 10}
"""


def test_what_is_deployed_pruned_and_recorded_is_folded(
    golf: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By commands: 3 x 25 + 18 + 6 + 240 + 10 numbers, and with norms 6 + 12; without 3 biases."""
    monkeypatch.setitem(records.TARGETS, "article", 0.01)
    said = "batch norm is folded, 367 parameters become 352"
    (tmp_path / "normed.yaml").write_text(NORMED)
    made = ("data=digits", "study.name=normed", "trials=1", "epochs=1", "space.batch_size=16",
            "space.lr=1e-2", "pruner=none", "engine=torch")  # fmt: skip
    assert golf("study", "arch=./normed.yaml", *made).status == 0

    ran = golf("deploy", "study=normed", "format=onnx", "output=net.onnx")
    assert ran.status == 0 and said in ran.out, ran
    assert "normed-folded, parameters: 352" in ran.out
    kinds = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert "Conv" in kinds and "BatchNormalization" not in kinds

    ran = golf("prune", "study=normed", "method=index", "engine=torch", "target=0.1")
    assert ran.status == 0 and said in ran.out, ran
    (folder,) = (tmp_path / "studies" / "pruned").iterdir()
    summary = json.loads((folder / "prune.json").read_text())
    assert (summary["arch"], summary["parameters"]) == ("normed-folded", 352)

    make = ("board=article", "data=digits", "study=normed")
    for slug, more in (("whole", ()), ("pruned", (f"source={folder}",))):
        ran = golf("record", *make, f"slug={slug}", *more)
        assert ran.status == 0, ran.err
        record = records.load_record(Path(ran.out.split("record: ")[1].strip()))
        records.verify(record, load(DataConfig("digits", tmp_path)))
        assert record.claim.params.dense == 352
        assert (said in (record.folder / "log.txt").read_text()) == (slug == "whole")


@pytest.mark.mnist
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_the_surgeons_cut_spares_a_pruned_net_once_its_norms_are_folded(mnist_root: Path) -> None:
    """The 868 net loses most digits by the cut of 34 numbers, folded nearly none by one of 33."""
    record = record_of("2026-11-21_separable-wide-rounds")
    of, tensors = record.net(MNIST), record.tensors
    view = load(DataConfig("mnist", mnist_root)).view("test")
    options = prune_options(method="rounds", target=0.99)
    options = replace(options, rounds=replace(options.rounds, variants=1))
    after = []
    with contextlib.closing(NativeEngine(view, lanes=1, flags=("-O1",))) as engine:
        for which, made in ((of, tensors), fold_norms(of, tensors)):
            buffers = {k: v for k, v in made.items() if k.startswith("buffers/")}
            state = PruningState(flatten(which, made), buffers, 0.9902, "rounds")
            rounds = Rounds(engine, which, view, in_scope(which, "all"), options)
            (variant,) = rounds._variants(state, round(0.04 * state.nz))
            assert variant.resume is not None
            after.append(engine.evaluate(which, variant.resume.tensors, view.test))
    assert after[0] < 0.5 < 0.98 < after[1]
