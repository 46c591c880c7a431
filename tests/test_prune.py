"""Pruning: the target is kept, ends are the same after a stop, dead channels, foreign weights."""

from __future__ import annotations

import itertools
import json
import pickle
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran, golf_in, net, tiny_net, told
from safetensors.numpy import load_file, save_file

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig, PruneOptions, prune_options
from golf_opt.engines.base import Engine, Job, Tensors, initial_weights
from golf_opt.engines.flat import pack, unpack
from golf_opt.engines.native import NativeEngine, compiler
from golf_opt.engines.torch import TorchEngine
from golf_opt.golf.dead import clear, count, fold, shrink
from golf_opt.golf.net_file import pack_net
from golf_opt.golf.pruning import annealing, surgeon, surgery
from golf_opt.golf.pruning import regrowth as regrowth_module
from golf_opt.golf.pruning.annealing import Annealing
from golf_opt.golf.pruning.folder import PruningFolder, folder_name
from golf_opt.golf.pruning.head import Head
from golf_opt.golf.pruning.ranking import by_magnitude, by_saliency, in_scope
from golf_opt.golf.pruning.regrowth import Regrowth
from golf_opt.golf.pruning.search import Evaluator, PruningState, allowed_errors, flatten
from golf_opt.golf.pruning.weight_pruner import PruningResult, WeightPruner
from golf_opt.golf.source import load_data
from golf_opt.golf.source import load_file as load_trained_file
from golf_opt.golf.weights import read_weights
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import View
from golf_opt.task.forward import logits
from golf_opt.task.inputs import InputSpec
from golf_opt.task.recipe import Candidate

native = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
QUICK = ("-O1",)  # to compile
NET = net("c4-5-4-prelu")
Golf = Callable[..., Ran]


def trained(engine: NativeEngine, which: Net, epochs: int = 30) -> Tensors:
    engine.start(0, Job(which, Candidate(10, 5e-3), seed=3, epochs=epochs))
    while True:
        for part in engine.step():
            if part.result is not None and part.result.epoch == epochs:
                tensors = engine.state(0).tensors
                engine.stop(0)
                return {k: v for k, v in tensors.items() if k.startswith(("weights/", "buffers/"))}


def prune(
    engine: Engine, which: Net, tensors: Tensors, view: View, options: PruneOptions
) -> PruningResult:
    pruner = WeightPruner(engine, which, tensors, view, options)
    for _ in pruner.run():
        pass
    return pruner.result()


@pytest.fixture(scope="module")
def engine(small_view: View) -> NativeEngine:
    if compiler() is None:
        pytest.skip("no C++ compiler")
    return NativeEngine(small_view, lanes=2, flags=QUICK)


@pytest.fixture(scope="module", autouse=True)
def few_tries() -> Iterator[None]:
    """The surgeon gives up soon: on so few images another choice of them brings little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surgery, "TRIES", 3)
        yield


@pytest.fixture(scope="module")
def tensors(engine: NativeEngine) -> Tensors:
    """c4-5-4-prelu, good on the small view."""
    made = trained(engine, NET)
    assert engine.evaluate(NET, made, engine._view.test) > 0.9
    return made


# --- brute force ---


@pytest.mark.parametrize(
    ("target", "n", "errors"),
    [(0.98, 10_000, 200), (0.9801, 10_000, 199), (0.98, 70, 1), (0.9, 70, 7), (0.999, 10, 0)],
)
def test_the_target_allows_so_many_errors(target: float, n: int, errors: int) -> None:
    assert allowed_errors(target, n) == errors


def test_a_guide_may_have_fewer_images_than_there_are_lanes(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    few = small_view.test.take("test", np.array([5]))
    evaluator = Evaluator(engine, NET, tensors, few, 0.5)
    evaluator.sort(flatten(NET, tensors))  # into three parts
    assert evaluator.accuracy(flatten(NET, tensors)) == engine.evaluate(NET, tensors, few)
    evaluator.close()


@pytest.mark.parametrize("method", ["index", "magnitude", "saliency", "anneal", "surgeon"])
@pytest.mark.usefixtures("in_a_hurry")
def test_the_target_is_kept(
    engine: NativeEngine, tensors: Tensors, small_view: View, method: str
) -> None:
    pruned = prune(engine, NET, tensors, small_view, prune_options(method=method, target=0.9))
    torch_says = TorchEngine(small_view, 1, "cpu", 1).evaluate(NET, pruned.tensors, small_view.test)
    assert pruned.accuracy == torch_says == pruned.test_accuracy
    assert pruned.accuracy >= 0.9 and 0 < pruned.nz < 600
    assert pruned.removed == 820 - pruned.nz
    values = {k: v for k, v in pruned.tensors.items() if k.startswith("weights/")}
    assert sum(np.count_nonzero(v) for v in values.values()) == pruned.nz
    for name, kept in values.items():
        mask = pruned.tensors[name.replace("weights/", "masks/")]
        assert (mask == (kept != 0)).all()


def test_index_is_one_pass_in_index_order(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    """The article's rule, written out again with the engine's plain evaluation."""
    flat = flatten(NET, tensors)
    for index in range(NET.num_params):
        before, flat[index] = flat[index], 0
        if engine.evaluate(NET, unflat(flat), small_view.test) < 0.9:
            flat[index] = before
    pruned = prune(engine, NET, tensors, small_view, prune_options(method="index", target=0.9))
    assert pruned.state.evaluations == 820 + 1  # and the count at the pass' end
    assert pruned.nz <= np.count_nonzero(flat)  # less what folding removed
    assert pruned.state.log[0]["nz"] == np.count_nonzero(flat)


def unflat(flat: np.ndarray) -> Tensors:
    return unpack(flat, "weights", NET.parameters)


def test_passes_end_when_one_removes_nothing(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    options = prune_options(method="magnitude", target=0.9)
    log = prune(engine, NET, tensors, small_view, options).state.log
    assert len(log) > 1 and log[-1]["removed"] == 0
    assert all(row["removed"] > 0 for row in log[:-1])


def test_an_evaluator_that_looks_at_hard_images_first_counts_the_same(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    flat = flatten(NET, tensors)
    evaluator = Evaluator(engine, NET, {}, small_view.test, 0.8)
    random = np.random.default_rng(0)
    verdicts = []
    for turn in range(40):
        weights = flatten(NET, tensors)
        weights[:820] *= random.random(820) > turn / 100
        if turn % 10 == 0:
            evaluator.sort(flat)
        accuracy = engine.evaluate(NET, unflat(weights), small_view.test)
        assert evaluator.accuracy(weights) == accuracy
        assert evaluator.passes(weights) == (accuracy >= 0.8)
        verdicts.append(accuracy >= 0.8)
    assert set(verdicts) == {True, False}
    evaluator.close()


def test_scope_weights_leaves_biases_and_slopes(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    options = prune_options(method="magnitude", target=0.9, scope="weights")
    pruner = WeightPruner(engine, NET, tensors, small_view, options)
    *_, last = pruner.run()
    rest = ~in_scope(NET, "weights")
    assert rest.sum() == 820 - (64 + 180 + 180 + 360)
    assert (last.weights[:820][rest] != 0).all()
    assert last.nz < 820


@pytest.mark.parametrize("method", ["saliency", "surgeon"])
def test_without_gradients_what_needs_them_is_refused(
    tensors: Tensors, small_view: View, method: str
) -> None:
    torch_engine = TorchEngine(small_view, 1, "cpu", 1)
    with pytest.raises(UsageError, match="engine=native"):
        prune(torch_engine, NET, tensors, small_view, prune_options(method=method, target=0.5))


def test_nets_too_large_for_the_surgeon_are_refused(
    engine: NativeEngine, tensors: Tensors, small_view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surgeon, "LARGEST", 100)
    with pytest.raises(UsageError, match="more than 100 non-zero parameters, of which it has 820"):
        prune(engine, NET, tensors, small_view, prune_options(method="surgeon", target=0.5))


def test_a_net_below_the_target_is_refused(engine: NativeEngine, small_view: View) -> None:
    with pytest.raises(UsageError, match=r"must have the target, 98.00 %, before"):
        prune(engine, NET, initial_weights(NET, 0), small_view, prune_options(target=0.98))


def test_without_a_target_it_is_the_nets_own_less_half_a_point(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    """And one that goes on does so to the same target."""
    for weights in (tensors, initial_weights(NET, 0)):
        own = engine.evaluate(NET, weights, small_view.test)
        pruner = WeightPruner(engine, NET, weights, small_view, prune_options())
        assert pruner.options.aim == pytest.approx(max(1e-6, own - 0.005), abs=1e-6)
        steps = pruner.run()
        while not pruner.state.removed:
            next(steps)
        again = WeightPruner(engine, NET, weights, small_view, prune_options(), pruner.state)
        assert again.options == pruner.options
        assert again.state.nz < 820


def test_saliency_is_what_removal_costs(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    """The least of the ranking cost less training loss than the most of it, one by one."""
    for order in ("first", "second"):
        ranks = by_saliency(engine, NET, {}, small_view.train, order, 0)(flatten(NET, tensors))
        sorted_ = np.argsort(ranks)

        def cost(index: int) -> float:
            flat = flatten(NET, tensors)
            flat[index] = 0
            return engine.gradients(NET, unflat(flat), small_view.train)[0]

        least, most = (np.median([cost(i) for i in part]) for part in (sorted_[:20], sorted_[-20:]))
        assert least < most / 2


def test_magnitude_is_relative_to_its_tensor(tensors: Tensors) -> None:
    flat = flatten(NET, tensors)
    ranks = by_magnitude(NET)(flat)
    scaled = dict(tensors) | {"weights/conv2.weight": tensors["weights/conv2.weight"] * 7}
    assert by_magnitude(NET)(flatten(NET, scaled)) == pytest.approx(ranks, rel=1e-5)
    conv1 = tensors["weights/conv1.weight"].ravel()
    assert ranks[3] == pytest.approx(abs(conv1[3]) / np.sqrt((conv1**2).mean()), rel=1e-5)


@pytest.mark.parametrize("method", ["index", "magnitude", "saliency", "anneal", "surgeon"])
@pytest.mark.usefixtures("in_a_hurry")
def test_a_stopped_search_ends_like_one_that_was_not(
    engine: NativeEngine, tensors: Tensors, small_view: View, method: str, tmp_path: Path
) -> None:
    options = prune_options(method=method, target=0.9)
    whole = prune(engine, NET, tensors, small_view, options)
    folder = PruningFolder(tmp_path)
    pruner = WeightPruner(engine, NET, tensors, small_view, options)
    for stop in (100, 500, 700):
        for step, _ in enumerate(pruner.run()):
            if step == stop:
                break
        folder.save(NET, pruner.state, {})
        pruner = WeightPruner(engine, NET, tensors, small_view, options, folder.load(NET))
    for _ in pruner.run():
        pass
    result = pruner.result()
    assert (result.nz, result.state.evaluations) == (whole.nz, whole.state.evaluations)
    assert all(np.array_equal(result.tensors[k], values) for k, values in whole.tensors.items())


# --- without training ---


def test_a_count_of_errors_may_end_early(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    evaluator = Evaluator(engine, NET, {}, small_view.test, 0.9)
    weights = flatten(NET, initial_weights(NET, 0))
    evaluator.sort(weights)
    whole = evaluator.errors(weights)
    assert whole == round(70 * (1 - engine.evaluate(NET, unflat(weights), small_view.test)))
    assert 0 < evaluator.errors(weights, 0) < whole
    evaluator.close()


@pytest.mark.parametrize("biased", [True, False])
def test_errors_by_the_features_of_the_head_are_those_of_the_whole_net(
    engine: NativeEngine, small_view: View, biased: bool
) -> None:
    """Of every weight and bias of the last layer, changed by itself, and after such changes."""
    layers = [
        {"kind": "conv", "channels": 2, "kernel": 9, "stride": 4},
        {"kind": "prelu"},
        {"kind": "max_pool"},
        {"kind": "linear", "features": 10, "bias": biased},
    ]
    which = build_net(
        {"name": "tiny", "layers": layers}, InputSpec((1, 28, 28), 10, (0.4,), (0.2,))
    )
    flat = flatten(which, random_tensors(which))
    images = small_view.train
    head = Head(which, unpack(flat, "weights", which.parameters), images)
    assert head.first == which.num_params - 10 * (8 + biased)
    random = np.random.default_rng(0)
    for _ in range(2):
        seen = set()
        for index in range(head.first, which.num_params):
            changed = flat.copy()
            changed[index] = random.choice([0, random.normal()])
            now = unpack(changed, "weights", which.parameters)
            right = len(images) - head.errors(index, changed[index])
            assert right == round(engine.evaluate(which, now, images) * len(images)), index
            seen.add(right)
        assert len(seen) > 5
        for index in random.integers(head.first, which.num_params, 9):
            flat[index] = random.normal()
            head.set(index, flat[index])


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annealing and surgery that are soon at an end."""
    for name, value in (("FLIPS", 400), ("HEAD_FLIPS", 2000), ("PATIENCE", 2)):
        monkeypatch.setattr(annealing, name, value)
    monkeypatch.setattr(surgery, "FRACTION", 0.3)
    monkeypatch.setattr(surgery, "CHOICES", 1)
    monkeypatch.setattr(surgery, "TRIES", 1)


@pytest.mark.usefixtures("in_a_hurry")
def test_annealing_gets_below_passes_and_leaves_values_alone(
    engine: NativeEngine, tensors: Tensors, small_view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annealing, "FLIPS", 1500)
    options = prune_options(method="anneal", target=0.9)
    pruner = WeightPruner(engine, NET, tensors, small_view, options)
    for state in pruner.run():
        if state.stage == "passes":
            by_magnitude = state.nz
    assert state.nz < 0.9 * by_magnitude
    assert engine.evaluate(NET, state.tensors(NET), small_view.test) >= 0.9
    left = np.flatnonzero(state.weights)
    assert np.array_equal(state.weights[left], flatten(NET, tensors)[left])


@pytest.mark.usefixtures("in_a_hurry")
def test_annealing_finds_the_fewest_weights_that_any_choice_has(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    """Against every choice of twelve weights of a small net, half of them of the head."""
    brute = prune(engine, NET, tensors, small_view, prune_options(target=0.97))
    flat, scope = brute.state.weights, np.zeros(820, dtype=bool)
    alive = np.flatnonzero(flat)
    scope[np.concatenate([alive[alive < 450][-6:], alive[alive >= 450][:6]])] = True
    size = len(alive)
    evaluator = Evaluator(engine, NET, {}, small_view.test, 0.9)
    sizes = []
    for choice in itertools.product([0, 1], repeat=12):
        chosen = flat.copy()
        chosen[:820][scope] *= choice
        if evaluator.passes(chosen):
            sizes.append(int(np.count_nonzero(chosen)))
    state = PruningState(flat.copy(), {}, evaluator.accuracy(flat))
    for _ in Annealing(NET, flat, scope, evaluator, key=0).run(state):
        pass
    assert size - 12 < min(sizes) < size and len(set(sizes)) > 3
    assert state.nz == min(sizes)
    evaluator.close()


@pytest.mark.usefixtures("in_a_hurry")
def test_the_surgeon_without_training_gets_below_magnitude(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    brute = prune(engine, NET, tensors, small_view, prune_options(target=0.9))
    result = prune(engine, NET, tensors, small_view, prune_options(method="surgeon", target=0.9))
    assert result.nz < 0.9 * brute.nz
    sizes = [row["nz"] for row in result.state.log]
    assert sizes == sorted(sizes, reverse=True) and result.state.log[0]["removed"] > 10


def test_a_single_cut_is_that_of_the_surgeon_and_all_are_tried_in_order_of_cost() -> None:
    random = np.random.default_rng(4)
    each = (random.normal(size=(200, 12)) @ random.normal(size=(12, 12))).astype(np.float32)
    weights = random.normal(size=16).astype(np.float32)
    weights[12:], weights[5] = 0, 0
    scope = np.arange(12) != 7
    cuts = list(surgeon.single(weights, scope, each, 1e-12))
    first = surgeon.remove(weights, scope, each, 1, 1e-12)
    assert cuts[0] == pytest.approx(first, abs=1e-5)
    information = each.T.astype(np.float64) @ each
    rises = [(cut - weights)[:12] @ information @ (cut - weights)[:12] for cut in cuts]
    assert rises == sorted(rises) and len({int(np.flatnonzero(c == 0)[0]) for c in cuts}) > 1
    assert [np.count_nonzero(cut) for cut in cuts] == [10] * 10


def test_the_undecided_images_are_those_with_the_smallest_margins(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    evaluator = Evaluator(engine, NET, {}, small_view.train, 0.9)
    scores = logits(NET, tensors, small_view.train.images)
    right = small_view.train.labels
    best, second = np.sort(scores, axis=1)[:, :-3:-1].T
    own = scores[np.arange(len(right)), right]
    margins = np.where(own == best, best - second, best - own)
    few = evaluator.undecided(flatten(NET, tensors), 0.1)
    limit = np.sort(margins)[len(few) - 1]
    found = {image.tobytes() for image in few.images}
    assert len(few) == round(0.1 * len(right))
    assert found == {image.tobytes() for image in small_view.train.images[margins <= limit]}
    evaluator.close()


# --- rounds ---

ROUNDS = replace(prune_options().rounds, share=0.2, epochs=2, variants=3, patience=1, batch_size=10)


def rounds_options(**more: Any) -> PruneOptions:
    return prune_options(method="rounds", target=0.9, rounds=replace(ROUNDS, **more))


@pytest.fixture(scope="module")
def by_rounds(engine: NativeEngine, tensors: Tensors, small_view: View) -> Any:
    return prune(engine, NET, tensors, small_view, rounds_options())


def test_rounds_get_below_brute_force(
    engine: NativeEngine, tensors: Tensors, small_view: View, by_rounds: Any
) -> None:
    brute = prune(engine, NET, tensors, small_view, prune_options(target=0.9))
    assert by_rounds.nz < 0.7 * brute.nz
    assert by_rounds.accuracy >= 0.9
    assert len(by_rounds.state.log[0]["tried"]) == 3


def test_a_round_that_was_stopped_is_begun_again(
    engine: NativeEngine, tensors: Tensors, small_view: View, by_rounds: Any, tmp_path: Path
) -> None:
    options = rounds_options()
    pruner = WeightPruner(engine, NET, tensors, small_view, options)
    folder = PruningFolder(tmp_path)
    steps = pruner.run()
    for state in steps:
        if state.turn == 2:
            next(steps)  # into the third round
            break
    folder.save(NET, state, {})
    steps.close()
    again = WeightPruner(engine, NET, tensors, small_view, options, folder.load(NET))
    for _ in again.run():
        pass
    result = again.result()
    assert [row["nz"] for row in result.state.log] == [row["nz"] for row in by_rounds.state.log]
    for name, values in by_rounds.tensors.items():
        assert np.array_equal(values, result.tensors[name]), name


def test_regrowth_gets_below_rounds_and_goes_on_where_it_was_stopped(
    engine: NativeEngine, tensors: Tensors, small_view: View, by_rounds: Any, tmp_path: Path
) -> None:
    options = rounds_options(regrow=8, variants=4)
    pruner = WeightPruner(engine, NET, tensors, small_view, options)
    folder = PruningFolder(tmp_path)
    stages = {}
    for state in pruner.run():
        stages[state.stage] = state.nz
        if state.stage == "regrowth" and state.failures and not folder.weights.is_file():
            folder.save(NET, state, {})
            removed_alone = state.nz
    assert list(stages) == ["rounds", "surgery", "regrowth", "passes"]
    assert state.nz < min(removed_alone, by_rounds.nz)
    assert pruner.result().accuracy >= 0.9
    again = WeightPruner(engine, NET, tensors, small_view, options, folder.load(NET))
    assert again.state.stage == "regrowth"
    for _ in again.run():
        pass
    assert again.state.log == state.log
    assert np.array_equal(again.state.weights, state.weights)


def test_held_out_images_are_asked_of_trained_nets_alone(
    engine: NativeEngine, tensors: Tensors, small_view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under rule=holdout, where the options' weight decay is that of each training too."""
    options = replace(rounds_options(regrow=2, variants=2, weight_decay=0.03), rule="holdout")
    jobs: list[Job] = []
    start = NativeEngine.start

    def started(lanes: NativeEngine, lane: int, job: Job, *more: Any) -> None:
        jobs.append(job)
        start(lanes, lane, job, *more)

    monkeypatch.setattr(NativeEngine, "start", started)
    monkeypatch.setattr(Evaluator, "errors", pytest.fail)  # what counts those of untrained cuts
    view = replace(small_view, protocol="holdout")
    pruner = WeightPruner(engine, NET, tensors, view, options)
    stages = dict.fromkeys(state.stage for state in pruner.run())
    assert list(stages) == ["rounds", "regrowth"]
    assert pruner.result().accuracy >= 0.9 and pruner.state.nz < 400
    assert {(job.candidate.optimizer, job.candidate.weight_decay) for job in jobs} == {
        ("adamw", 0.03)
    }


def test_what_comes_back_is_what_gradients_pull_at(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    """At the largest weight of a convolution, taken away, more than at those near zero."""
    options = rounds_options(regrow=1, variants=1)
    pruner = WeightPruner(engine, NET, tensors, small_view, options)
    weights = flatten(NET, tensors)
    strong = int(np.argmax(np.abs(weights[:64])))  # of the first convolution
    weak = np.argsort(np.abs(weights[: NET.num_params]))[:300]
    gone = [*weak, strong]
    weights[gone] = 0
    state = replace(pruner.state, weights=weights)
    regrowth = Regrowth(engine, NET, small_view, pruner._scope, options)
    pull, _ = regrowth._pull(state)
    assert (pull[weak] < pull[strong]).mean() > 0.9
    (grown,) = regrowth._grown(state)
    assert grown.resume is not None
    masks = pack(grown.resume.tensors, "masks", NET.parameters)
    assert 3 <= masks.sum() - np.count_nonzero(weights) <= 24


def test_the_step_of_regrowth_follows_its_success(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    """Twice what went well, half of what did not; as many weights as before only if better."""
    options = rounds_options(regrow=9, variants=4)
    pruner = WeightPruner(engine, NET, tensors, small_view, options)
    regrowth = Regrowth(engine, NET, small_view, pruner._scope, options)
    state, size = replace(pruner.state, level=8, accuracy=0.93), pruner.state.nz
    assert regrowth._steps(state) == [1, 2, 4, 8]

    def close(fewer: int, accuracy: float) -> None:
        weights = state.weights.copy()
        weights[np.flatnonzero(weights)[:fewer]] = 0
        variant = regrowth._variant(weights, {}, 1)
        variant.accuracy, variant.tensors = accuracy, unpack(weights, "weights", NET.parameters)
        regrowth._close(state, [variant])

    close(5, 0.95)
    assert (state.nz, state.accuracy, state.level, state.failures) == (size - 5, 0.95, 10, 0)
    close(7, 0.85)
    assert (state.nz, state.accuracy, state.level, state.failures) == (size - 5, 0.95, 5, 1)
    close(0, 0.97)
    assert (state.nz, state.accuracy, state.level, state.failures) == (size - 5, 0.97, 2, 2)
    close(0, 0.96)
    assert (state.nz, state.accuracy, state.level, state.failures) == (size - 5, 0.97, 1, 3)


@pytest.mark.usefixtures("in_a_hurry")
def test_regrowth_shaves_off_what_can_go_without_training(
    engine: NativeEngine, tensors: Tensors, small_view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regrowth_module, "ONE_BY_ONE", 0)  # it would take long from 820
    options = rounds_options(regrow=1)
    pruner = WeightPruner(engine, NET, tensors, small_view, options)
    regrowth = Regrowth(engine, NET, small_view, pruner._scope, options)
    variant = regrowth._variant(pruner.state.weights, {}, 1)
    variant.accuracy, variant.tensors = pruner.state.accuracy, pruner.state.tensors(NET)
    list(regrowth._shave(variant))
    left = sum(np.count_nonzero(values) for values in variant.tensors.values())
    assert left < pruner.state.nz
    assert engine.evaluate(NET, variant.tensors, small_view.test) == variant.accuracy >= 0.9


def test_nets_too_large_for_the_surgeon_are_left_by_regrowth(
    engine: NativeEngine, tensors: Tensors, small_view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surgeon, "LARGEST", 100)
    options = rounds_options(regrow=1, variants=1)
    pruner = WeightPruner(engine, NET, tensors, small_view, options)
    regrowth = Regrowth(engine, NET, small_view, pruner._scope, options)
    assert list(regrowth.run(pruner.state)) == []


def test_regrowth_needs_gradients(tensors: Tensors, small_view: View) -> None:
    options = rounds_options(regrow=1)
    with pytest.raises(UsageError, match=r"rounds.regrow is 1, but must be 0 with engine=torch"):
        WeightPruner(TorchEngine(small_view, 1, "cpu", 1), NET, tensors, small_view, options)


def test_rounds_work_with_torch(tensors: Tensors, small_view: View) -> None:
    torch_engine = TorchEngine(small_view, 1, "cpu", 1)
    options = rounds_options(share=0.6, epochs=1, variants=1)
    pruner = WeightPruner(torch_engine, NET, tensors, small_view, options)
    for state in pruner.run():
        if state.turn == 1:
            break
    assert state.log[0]["tried"][0][0] <= 820 - round(0.6 * 820)


def test_the_surgeon_finds_the_cheapest_weight_and_makes_up_for_it() -> None:
    """Against least squares: of all ways to remove one weight, the least rise of the loss."""
    random = np.random.default_rng(4)
    each = (random.normal(size=(200, 12)) @ random.normal(size=(12, 12))).astype(np.float32)
    weights = random.normal(size=16).astype(np.float32)
    weights[12:], weights[5] = 0, 0  # padding, and one that is gone
    information = each.T.astype(np.float64) @ each / len(each)
    ways = {}
    for gone in (i for i in range(12) if i not in (5, 7)):
        rest = [i for i in range(12) if i not in (5, gone)]
        after = np.zeros(12)
        pull = information[np.ix_(rest, range(12))] @ weights[:12].astype(np.float64)
        after[rest] = np.linalg.solve(information[np.ix_(rest, rest)], pull)
        change = after - weights[:12]
        ways[gone] = (change @ information @ change, after)
    cheapest = min(ways, key=lambda gone: ways[gone][0])
    scope = np.arange(12) != 7
    cut = surgeon.remove(weights, scope, each, step=1, damping=1e-12)
    assert cut[cheapest] == 0 and cut[5] == 0 and (cut[12:] == 0).all()
    assert cut[:12] == pytest.approx(ways[cheapest][1], abs=1e-4)
    assert np.count_nonzero(surgeon.remove(weights, scope, each, step=4, damping=1e-12)) == 11 - 4


def test_the_gradients_of_each_image_average_to_the_batchs(
    engine: NativeEngine, tensors: Tensors, small_view: View
) -> None:
    batch = small_view.train.take("train", np.arange(24))
    each = engine.gradients_of_each(NET, tensors, batch)
    whole = engine.gradients(NET, tensors, batch)[1]
    flat = np.concatenate([whole[f"gradients/{p.name}"].ravel() for p in NET.parameters])
    assert each.mean(axis=0) == pytest.approx(flat, abs=1e-5)


# --- dead channels ---


def random_tensors(which: Net, seed: int = 0) -> Tensors:
    random = np.random.default_rng(seed)
    tensors = initial_weights(which, seed)
    for name, values in tensors.items():
        noise = random.normal(0, 0.3, values.shape).astype(np.float32)
        tensors[name] = np.abs(noise) + 0.5 if name.endswith("running_var") else values + noise
    return tensors


def same_scores(view: View, a: tuple[Net, Tensors], b: tuple[Net, Tensors]) -> None:
    from golf_opt.engines.torch import build_module

    def scores(which: Net, tensors: Tensors) -> Any:
        module = build_module(which).eval()
        own = module.tensors()
        with torch.no_grad():
            for name, values in own.items():
                values.copy_(torch.from_numpy(np.array(tensors[name])))
            pixels = torch.from_numpy(view.test.images[:20].astype(np.float32)) / 255
            return module((pixels - 0.1307) / 0.3081)

    torch.testing.assert_close(scores(*a), scores(*b), rtol=1e-4, atol=1e-4)


def test_a_channel_that_nothing_reads_is_cleared(small_view: View) -> None:
    tensors = random_tensors(NET)
    tensors["weights/conv3.weight"][:, 2] = 0
    cleared = clear(NET, tensors)
    assert not cleared["weights/conv2.weight"][2].any()
    assert cleared["weights/conv2.bias"][2] == cleared["weights/prelu2.weight"][2] == 0
    assert count(NET, tensors).dead == 4 * 9 + 1 + 1
    assert count(NET, cleared).dead == 0
    same_scores(small_view, (NET, tensors), (NET, cleared))
    small, cut = shrink(NET, cleared)
    assert small.name == "c4-4-4-prelu" and small.num_params == net("c4-4-4-prelu").num_params
    assert count(small, cut).nz == count(NET, cleared).nz
    same_scores(small_view, (NET, tensors), (small, cut))


def test_a_constant_channel_becomes_a_bias(small_view: View) -> None:
    tensors = random_tensors(NET)
    tensors["weights/conv3.weight"][1] = 0
    tensors["weights/conv3.bias"][1] = -0.7  # through the slope, and into the linear layer
    folded = fold(NET, tensors)
    assert not folded["weights/linear1.weight"].reshape(10, 4, 9)[:, 1].any()
    assert (folded["weights/linear1.bias"] != tensors["weights/linear1.bias"]).all()
    assert folded["weights/conv3.bias"][1] == folded["weights/prelu3.weight"][1] == 0
    same_scores(small_view, (NET, tensors), (NET, folded))
    small, cut = shrink(NET, folded)
    assert small.name == "c4-5-3-prelu"
    same_scores(small_view, (NET, tensors), (small, cut))


@pytest.mark.parametrize("name", ["deepml-separable", "separable-697", "deepml-batchnorm"])
def test_dead_channels_go_through_every_layer(small_view: View, name: str) -> None:
    """Of any preset: kill rows and columns at random, fold, shrink, compare."""
    which = net(name)
    random = np.random.default_rng(1)
    tensors = random_tensors(which)
    for key, values in tensors.items():
        if key.startswith("weights/") and values.ndim >= 2 and not key.startswith("weights/linear"):
            values[random.random(len(values)) < 0.3] = 0
    folded = fold(which, tensors)
    same_scores(small_view, (which, tensors), (which, folded))
    small, cut = shrink(which, folded)
    assert small.num_params < which.num_params and small.name == f"{name}-shrunk"
    same_scores(small_view, (which, tensors), (small, cut))


def test_a_channel_that_a_sum_reads_lives_on(small_view: View) -> None:
    """Dead is what neither the next layer nor the sum further on needs; the rest can still go."""
    which = tiny_net(
        {"kind": "conv", "channels": 5, "kernel": 3, "stride": 3},
        {"kind": "tanh", "name": "start"},
        {"kind": "conv", "channels": 6, "kernel": 3, "padding": "same"},
        {"kind": "gelu"},
        {"kind": "pointwise", "channels": 5, "name": "back"},
        {"kind": "add", "of": "start"},
        {"kind": "hard_swish"},
        {"kind": "scale"},
        {"kind": "avg_pool", "size": [3, 4]},
    )
    tensors = random_tensors(which)
    tensors["weights/conv2.weight"][:, 1] = 0  # read by the sum alone
    tensors["weights/linear1.weight"].reshape(10, 5, 6)[:, 2] = 0  # the sum's channel 2 is in vain,
    assert not clear(which, tensors)["weights/back.weight"][2].any()
    assert clear(which, tensors)["weights/conv1.weight"][[1, 2]].all()  # but conv2 reads its start
    tensors["weights/conv2.weight"][:, 2] = 0
    cleared = clear(which, tensors)
    assert cleared["weights/conv1.weight"][1].all() and not cleared["weights/conv1.weight"][2].any()
    assert cleared["weights/scale1.weight"][2] == 0 != cleared["weights/scale1.weight"][1]
    same_scores(small_view, (which, tensors), (which, cleared))
    tensors["weights/back.weight"][3] = 0  # a constant, but for what is added to it
    tensors["weights/conv1.weight"][4] = 0
    tensors["weights/back.weight"][4] = 0  # a constant
    tensors["weights/back.weight"][:, 5] = 0  # inside the block, where a channel may be cut out
    folded = fold(which, tensors)
    last = folded["weights/linear1.weight"].reshape(10, 5, 6)
    assert last[:, 3].all() and not last[:, 4].any()
    same_scores(small_view, (which, tensors), (which, folded))
    small, cut = shrink(which, folded)
    assert [node.output_shape[0] for node in small.nodes] == [5, 5, 5, 5, 5, 5, 5, 5, 5, 10]
    same_scores(small_view, (which, tensors), (small, cut))


def test_the_channels_of_an_image_stay() -> None:
    spec = InputSpec((3, 12, 20), 4, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2))
    rows = [
        {"kind": "scale"},
        {"kind": "conv", "channels": 5, "kernel": [3, 5]},
        {"kind": "tanh"},
        {"kind": "linear", "features": 4},
    ]
    which = build_net({"name": "colour", "layers": rows}, spec)
    tensors = random_tensors(which)
    tensors["weights/conv1.weight"][:, 1] = 0  # green is never looked at
    tensors["weights/conv1.weight"][3] = 0
    small, cut = shrink(which, fold(which, tensors))
    assert [node.output_shape[0] for node in small.nodes] == [3, 4, 4, 4]
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 12, 20), dtype=np.uint8)
    expected = logits(which, tensors, images, np.float64)
    np.testing.assert_allclose(logits(small, cut, images, np.float64), expected, atol=1e-5)


def test_a_shared_tensor_is_left_alone() -> None:
    which = net("reused-separable")
    tensors = random_tensors(which)
    shared = next(node for node in which.nodes if node.shared and node.parameters)
    tensors[f"weights/{shared.name}.weight"][0] = 0
    cleared = clear(which, tensors)
    for parameter in shared.parameters:
        key = f"weights/{parameter.name}"
        assert np.array_equal(cleared[key], tensors[key])
    assert shrink(which, tensors)[0] is which


def test_a_padded_constant_is_not_folded(small_view: View) -> None:
    which = tiny_net(
        {"kind": "conv", "channels": 2, "kernel": 3},
        {"kind": "conv", "channels": 2, "kernel": 3, "padding": "same"},
        {"kind": "max_pool", "size": 5},
    )
    tensors = random_tensors(which)
    tensors["weights/conv1.weight"][0] = 0
    folded = fold(which, tensors)
    assert folded["weights/conv2.weight"][:, 0].all()
    same_scores(small_view, (which, tensors), (which, folded))


# --- weights from a file ---


class Foreign(torch.nn.Module):
    """The 820 net as others write it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 4, 4)
        self.act_a = torch.nn.PReLU(4)
        self.second = torch.nn.Conv2d(4, 5, 3)
        self.act_b = torch.nn.PReLU(5)
        self.third = torch.nn.Conv2d(5, 4, 3)
        self.act_c = torch.nn.PReLU(4)
        self.head = torch.nn.Linear(36, 10)


def check_foreign(found: Tensors, module: Foreign) -> None:
    state = module.state_dict()
    pairs = {"conv1": "first", "prelu2": "act_b", "conv3": "third", "linear1": "head"}
    for ours, theirs in pairs.items():
        assert np.array_equal(found[f"weights/{ours}.weight"], state[f"{theirs}.weight"].numpy())
    assert len(found) == 11


@pytest.mark.parametrize("wrap", [None, "state_dict"])
def test_a_state_dict_with_other_names(tmp_path: Path, wrap: str | None) -> None:
    module, path = Foreign(), tmp_path / "net.pt"
    state = module.state_dict()
    torch.save(state if wrap is None else {wrap: state}, path)
    found, renamed = read_weights(path, NET)
    check_foreign(found, module)
    assert renamed[0] == "first.weight -> conv1.weight" and len(renamed) == 11


def test_safetensors_with_other_names(tmp_path: Path) -> None:
    """The format sorts by name, so that activations may come before the convolutions."""
    module, path = Foreign(), tmp_path / "net.safetensors"
    save_file({name: value.numpy() for name, value in module.state_dict().items()}, path)
    check_foreign(read_weights(path, NET)[0], module)


def test_batch_norm_from_elsewhere(tmp_path: Path) -> None:
    which = net("deepml-batchnorm")
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 16, 3),
        torch.nn.BatchNorm2d(16), torch.nn.Linear(16, 10),
    )  # fmt: skip
    torch.save(module.state_dict(), tmp_path / "net.pth")
    found, _ = read_weights(tmp_path / "net.pth", which)
    assert sorted(found) == sorted(initial_weights(which, 0))
    second = [node for node in which.nodes if node.layer.kind == "batch_norm"][1]
    assert (found[f"buffers/{second.name}.running_var"] == 1).all()


def test_a_pickle_with_code_is_refused_and_not_run(golf: Golf, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    torch.save({"first.weight": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(Evil(), protocol=0))
    for name in ("evil.pt", "evil.pkl", "old.pkl"):
        ran = golf("prune", f"weights={name}", "arch=c4-5-4-prelu", "data=digits", "engine=torch")
        assert ran.status == 2 and ran.err.count("\n") == 1 and name in ran.err
        assert ran.out == ""
    assert not mark.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert mark.exists()  # it would have


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("c4-5-4", "would be left over"),
        ("c4-6-4-prelu", "nothing has the shape of conv2.weight 6x4x3x3"),
    ],
)
def test_weights_of_another_net_are_refused(
    golf: Golf, tmp_path: Path, arch: str, message: str
) -> None:
    torch.save(Foreign().state_dict(), tmp_path / "net.pt")
    ran = golf("prune", "weights=net.pt", f"arch={arch}", "data=digits")
    assert ran.status == 2 and message in ran.err and ran.err.count("\n") == 1


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tensors = initial_weights(NET, 0)
    tensors["weights/conv1.bias"][0] = np.nan
    save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(UsageError, match="not finite"):
        read_weights(tmp_path / "net.safetensors", NET)


@pytest.mark.parametrize("content", [b"", b"no tensors", b"PK\x03\x04", b"\x80\x02."])
def test_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=str(path)):
        read_weights(path, NET)


# --- the command ---

STUDY = (
    "study", "data=digits", "engine=native", "arch=c4-5-4-prelu", "trials=1", "epochs=12",
    "space.batch_size=16", "space.lr=5e-3", "space.step_size=6", "space.gamma=0.5",
    "callbacks.progress.mode=quiet", "study.name=mine",
)  # fmt: skip
PRUNE = ("prune", "study=mine", "target=0.9")


@pytest.fixture
def study(begun: Callable[..., None]) -> None:
    """The study `mine` where `golf` looks for it."""
    begun(*STUDY)


@pytest.fixture(scope="module")
def whole(studies_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where nothing stops the pruning of `mine`."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(studies_of(*STUDY), folder, dirs_exist_ok=True)
    golf_in(folder, *PRUNE)
    return folder


def summaries(tmp_path: Path) -> list[dict[str, Any]]:
    files = sorted((tmp_path / "studies" / "pruned").glob("*/prune.json"))
    return [json.loads(file.read_text()) for file in files]


@native
@pytest.mark.usefixtures("study")
def test_prune_a_study(golf: Golf, tmp_path: Path) -> None:
    ran = golf(*PRUNE, "method=index")
    assert ran.status == 0, ran.err
    (summary,) = summaries(tmp_path)
    assert summary["finished"] and summary["guide"] == "test"
    assert 0.9 <= summary["test_accuracy"] == summary["guide_accuracy"]
    assert f"{summary['nz']} non-zero parameters of 820" in ran.out
    assert summary["seed_of_training"] is not None and summary["trial"] == 0
    assert sum(row["nz"] for row in summary["tensors"]) == summary["nz"]
    assert "done already" in golf(*PRUNE, "method=index").out
    # what it wrote is weights like any other
    (file,) = tmp_path.glob("studies/pruned/*/weights.safetensors")
    ran = golf("prune", f"weights={file}", "arch=c4-5-4-prelu", "data=digits", "target=0.9")
    assert ran.status == 0, ran.err
    assert f"{summary['nz']} of 820 parameters" in ran.out
    assert min(row["nz"] for row in summaries(tmp_path)) < summary["nz"]
    ran = golf("prune", "study=mine", "method=index")
    own = float(re.search(r"parameters, ([\d.]+) % of", ran.out)[1])
    head = ran.out.splitlines()[0]
    assert f"index down to {own - 0.5:.2f} %, its own accuracy less half a point, scope" in head
    targets = [row["options"]["target"] for row in summaries(tmp_path)]
    assert any(abs(100 * target - own + 0.5) < 0.01 for target in targets)


@native
@pytest.mark.usefixtures("study")
def test_holdout_reads_the_test_set_once(
    golf: Golf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = golf(*PRUNE, "rule=holdout")
    assert refused.status == 2 and "golf-opt study protocol=holdout" in refused.err
    assert not (tmp_path / "studies" / "pruned").exists()
    ran = golf(*STUDY, "protocol=holdout", "study.name=careful")
    assert ran.status == 0, ran.err
    readings = []
    evaluate = NativeEngine.evaluate

    def counted(self: NativeEngine, which: Net, tensors: Tensors, split: Any) -> float:
        readings.append(split.name)
        return evaluate(self, which, tensors, split)

    monkeypatch.setattr(NativeEngine, "evaluate", counted)
    ran = golf("prune", "study=careful", "target=0.85", "rule=holdout")
    assert ran.status == 0, ran.err
    assert readings.count("test") == 1
    (summary,) = summaries(tmp_path)
    assert summary["guide"] == "holdout" and summary["guide_accuracy"] >= 0.85
    assert summary["num_guide"] + summary["num_train"] == 1438
    assert "test accuracy" in ran.out and "read once" in ran.out


@native
@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_pruning_goes_on_to_the_same_end(
    golf: Golf,
    golf_process: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    whole: Path,
    how: signal.Signals,
) -> None:
    process = golf_process(*PRUNE)
    folder = tmp_path / "studies" / "pruned"
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/prune.json")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(how)
    out, err = process.communicate(timeout=120)
    (summary,) = summaries(tmp_path)
    assert not summary["finished"] and 0 < summary["nz"] <= 820
    if how != signal.SIGKILL:
        assert process.returncode == 128 + how, err
        assert "the same command goes on" in out
    (file,) = folder.glob("*/weights.safetensors")
    kept = load_file(file)
    assert sum(np.count_nonzero(kept[f"weights/{p.name}"]) for p in NET.parameters) == summary["nz"]
    ran = golf(*PRUNE)
    assert ran.status == 0 and "going on at" in ran.out, ran
    (ended,) = summaries(tmp_path)
    after = load_file(file)
    (undisturbed,) = summaries(whole)
    assert (ended["nz"], ended["log"]) == (undisturbed["nz"], undisturbed["log"])
    twin = load_file(whole / file.relative_to(tmp_path))
    assert all(np.array_equal(after[name], values) for name, values in twin.items())


@native
@pytest.mark.usefixtures("study")
def test_bad_input_is_one_line(golf: Golf, tmp_path: Path) -> None:
    for arguments, message in (
        (("prune",), "study and weights name the net, and neither is given"),
        (("prune", "study=mine", "weights=x", "arch=c4-5-4"), "both are"),
        (("prune", "weights=x"), "weights x cannot be read"),
        (("prune", "study=mine", "arch=c4-5-4"), "a study has its own"),
        (("prune", "study=yours"), "is not in the storage"),
        (("prune", "study=mine", "trial=7"), "trial is 7"),
        (("prune", "study=mine", "target=98"), "target is 98, but must be a share"),
        (("prune", "study=mine", "method=magnitud"), "did you mean 'magnitude'"),
        (("prune", "study=mine", "target=0.9999"), "must have the target"),
        (("prune", "study=mine", "rounds.epochs=0"), "rounds.epochs is 0"),
        (("prune", "weights=none.pt", "arch=c4-5-4"), "cannot be read"),
    ):
        ran = golf(*arguments)
        assert ran.status == 2 and message in ran.err, (arguments, ran)
        assert ran.err.count("\n") == 1
    assert not (tmp_path / "studies" / "pruned").exists()


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    folder = PruningFolder(tmp_path)
    assert folder.load(NET) is None
    folder.weights.write_bytes(b"half")
    with pytest.raises(UsageError, match=f"delete {tmp_path} to begin anew"):
        folder.load(NET)


@pytest.mark.parametrize(
    ("scalars", "order"),
    [
        ({"at": "x"}, [1]),
        ({"log": [1]}, [1]),
        ({"stage": "elsewhere"}, [1]),
        ({"surplus": 1}, [1]),
        ({}, [820]),
        ({}, [-1]),
        ({}, [0.5]),
    ],
)
def test_a_state_of_other_kinds_is_named(
    tmp_path: Path, scalars: dict[str, Any], order: list[float]
) -> None:
    folder = PruningFolder(tmp_path)
    weights = initial_weights(NET, 0)
    state = PruningState(flatten(NET, weights), {}, 0.5, order=np.array([1]))
    folder.save(NET, state, {})
    assert folder.load(NET) is not None
    kept = {
        "accuracy": 0.5, "stage": "passes", "turn": 0, "at": 0, "removed": 0, "level": 0,
        "failures": 0, "evaluations": 0, "time_s": 0.0, "finished": False, "log": [],
    }  # fmt: skip
    header = {"golf_opt": json.dumps({"standing": kept | scalars})}
    save_file(weights | {"order": np.array(order)}, folder.weights, metadata=header)
    with pytest.raises(UsageError, match=f"delete {tmp_path} to begin anew") as refused:
        folder.load(NET)
    assert "\n" not in str(refused.value)


def test_the_folder_is_another_one_for_other_options() -> None:
    tensors = initial_weights(NET, 0)
    names = {
        folder_name("a, trial 1", tensors, prune_options()),
        folder_name("a, trial 1", tensors, prune_options(target=0.97)),
        folder_name("a, trial 1", initial_weights(NET, 1), prune_options()),
    }
    assert len(names) == 3 and all(name.startswith("a-trial-1-magnitude-test-") for name in names)


@native
def test_mnist_820_by_magnitude(golf: Golf, mnist_root: Path, tmp_path: Path) -> None:
    """Two epochs of the real thing: pruned well below half in seconds, target kept."""
    ran = golf(
        "study", "arch=c4-5-4-prelu", "data=mnist", f"data.root={mnist_root}", "trials=1",
        "epochs=2", "space.batch_size=32", "space.lr=4e-3", "study.name=mnist",
        "callbacks.progress.mode=quiet",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    ran = golf("prune", "study=mnist", f"data.root={mnist_root}", "target=0.94")
    assert ran.status == 0, ran.err
    (summary,) = summaries(tmp_path)
    assert summary["num_guide"] == 10_000 and summary["num_train"] == 60_000
    assert summary["test_accuracy"] >= 0.94 and summary["nz"] < 600


def test_a_net_meets_no_images_of_another_shape(golf: Golf, tmp_path: Path) -> None:
    layers = [{"kind": "global_avg_pool"}, {"kind": "linear", "features": "classes"}]
    for name, spec in (
        ("colour", InputSpec((3, 8, 8), 10, (0.5,) * 3, (0.2,) * 3)),
        ("grey", InputSpec((1, 28, 28), 10, (0.4,), (0.2,))),
    ):
        made = build_net({"name": name, "layers": layers}, spec)
        (tmp_path / name).write_bytes(pack_net(made, initial_weights(made, 3), {}))
    for verb in ("prune", "interpret"):
        assert re.search(
            r"data is digits \(1x28x28, 10 classes\), but .*colour as colour takes "
            r"3x8x8, 10 classes; give the data=\.\.\. that it was trained on\.",
            told(golf(verb, "weights=colour", "data=digits")),
        )
    grey = load_trained_file(tmp_path / "grey")
    found = load_data(DataConfig("digits", tmp_path), grey)
    assert found.view("test").input.mean == (0.4,), "a net's images are normalised as its own were"
