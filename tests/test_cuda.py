"""The kernel as thread blocks: emulated on the CPU against PyTorch, and compiled for GPUs.

An emulated block has a thread for each warp, which work side by side between barriers, so what a
GPU would do wrong by its dealing out of work goes wrong here too. What only a GPU shows is in
test_gpu.py.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran
from test_native import (
    EVERYTHING,
    LINEAR,
    NETS,
    POOL,
    RECIPES,
    SMALL,
    net_of,
    oracle_gradients,
    train,
    view_of,
)

from golf_opt import arch
from golf_opt.config import UsageError
from golf_opt.data import View
from golf_opt.engines import base
from golf_opt.engines.cuda import Block, CudaEngine
from golf_opt.engines.cuda.devices import EmulatedProgram, Emulation
from golf_opt.engines.cuda.program import compile_cubin, require_nvrtc
from golf_opt.engines.native import NativeEngine, compiler, library
from golf_opt.engines.native.codegen import dropout_nodes, generate
from golf_opt.engines.torch import TorchEngine
from golf_opt.recipe import Candidate

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
CONF = Path(__file__).parents[1] / "conf"
KERNEL = Path(library.__file__).parent / "kernel"
SMALL_BLOCK = Block(images=8, warps=3)


def has_nvrtc() -> bool:
    try:
        require_nvrtc()
    except UsageError:
        return False
    return True


nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="no NVRTC (a CUDA build of PyTorch brings it)")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOLF_CACHE", str(tmp_path_factory.mktemp("kernels")))
        yield


def emulated(view: View, lanes: int = 1, block: Block = SMALL_BLOCK, **more: Any) -> CudaEngine:
    limit = more.pop("shared_limit", 227 * 1024)
    device = Emulation(shared_limit=limit)
    return CudaEngine(view, lanes, device=device, block=block, **more)


def check_gradients(net: arch.Net, batch_size: int, block: Block, **more: Any) -> None:
    view = view_of(128)
    batch = view.train.take("batch", np.arange(batch_size))
    tensors = base.initial_weights(net, 3)
    keys = [1000 + i for i in range(len(dropout_nodes(net)))]
    loss, expected = oracle_gradients(net, tensors, batch, 0.1, keys)
    found_loss, found = emulated(view, block=block, **more).gradients(
        net, tensors, batch, 0.1, keys
    )
    assert found_loss == pytest.approx(loss, rel=1e-5)
    largest = max(np.abs(expected[name]).max() for name in expected if name.startswith("grad"))
    floor = 1e-2 if net.buffers else 1e-5  # what a normalisation cancels has nothing but noise
    for name, values in expected.items():
        scale = max(np.abs(values).max(), floor * largest)
        assert np.abs(found[name] - values).max() <= 1e-4 * scale, (name, batch_size, block)


@pytest.mark.parametrize("name", NETS)
def test_gradients_match_pytorch(name: str) -> None:
    check_gradients(net_of(NETS[name]), 21, Block(images=8))


@pytest.mark.parametrize(("images", "warps"), [(32, 2), (16, 5), (4, 1)])
def test_gradients_do_not_depend_on_the_layout(images: int, warps: int) -> None:
    for batch_size in (1, 37):
        check_gradients(net_of(NETS["relu"]), batch_size, Block(images, warps))
    check_gradients(net_of(EVERYTHING), 37, Block(images, warps))


@pytest.mark.parametrize("shared_limit", [48 * 1024, 0])
def test_a_net_that_does_not_fit_works_in_global_memory(shared_limit: int) -> None:
    check_gradients(net_of(EVERYTHING), 21, SMALL_BLOCK, shared_limit=shared_limit)


@pytest.mark.parametrize("recipe", [RECIPES[0], RECIPES[2], RECIPES[-1]], ids=str)
def test_losses_along_100_steps_match_pytorch(recipe: dict[str, Any]) -> None:
    """50 epochs of two steps each, the second one smaller; launches end anywhere."""
    view = view_of(20)
    job = base.Job(net_of(SMALL), Candidate(14, 0.002, **recipe), 5, 50)
    found = train(emulated(view, slice_s=0.05), job)
    expected = train(TorchEngine(view, device="cpu", dtype=torch.float64), job)
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-3, abs=1e-5)
    assert [r.lr for r in found] == [r.lr for r in expected]
    assert [r.accuracy for r in found] == [r.accuracy for r in expected]
    assert found[-1].train_accuracy == expected[-1].train_accuracy


def test_a_net_with_every_option_trains_like_the_native_engine() -> None:
    view = view_of(60)
    options = {"optimizer": "adamw", "weight_decay": 0.05, "label_smoothing": 0.1}
    net = net_of(EVERYTHING)
    job = base.Job(net, Candidate(21, 1e-3, schedule="one_cycle", **options), 1, 4)
    tensors = base.initial_weights(net, 1)
    drop = np.random.default_rng(0)
    for parameter in net.parameters:
        if parameter.name.endswith("weight") and len(parameter.shape) > 1:
            mask = (drop.random(parameter.shape) > 0.3).astype(np.float32)
            tensors[f"masks/{parameter.name}"] = mask
    state = base.LaneState(tensors, 0, 0, 0.0, 0.0)
    lanes, oracle = emulated(view), NativeEngine(view, 1, flags=("-O1",))
    found, expected = train(lanes, job, state), train(oracle, job, state)
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-4)
    after, others = lanes.state(0).tensors, oracle.state(0).tensors
    assert after.keys() == others.keys()
    for name, values in after.items():
        assert np.allclose(values, others[name], atol=2e-4), name
        if name.startswith("masks/"):
            assert not after[name.replace("masks", "weights")][values == 0].any()
    assert lanes.evaluate(net, after, view.test) == oracle.evaluate(net, after, view.test)


def test_lanes_of_several_batch_sizes_train_as_if_alone() -> None:
    view = view_of(64)
    net = net_of(SMALL)
    jobs = [base.Job(net, Candidate(size, 2e-3), size, 6) for size in (3, 4, 9, 14, 32)]
    alone = [train(emulated(view, block=None, slice_s=10), job) for job in jobs]  # type: ignore[arg-type]
    engine = emulated(view, lanes=len(jobs), block=None, slice_s=0.01)  # type: ignore[arg-type]
    for lane, job in enumerate(jobs):
        engine.start(lane, job)
    together: list[list[base.EpochResult]] = [[] for _ in jobs]
    while any(len(results) < 6 for results in together):
        for part in engine.step():
            together[part.lane] += [part.result] if part.result else []
    engine.close()

    def numbers(results: list[base.EpochResult]) -> list[tuple[float, ...]]:
        return [(r.epoch, r.loss, r.accuracy, r.lr) for r in results]

    assert [numbers(results) for results in together] == [numbers(results) for results in alone]


def test_a_stopped_trial_goes_on_bit_for_bit_from_any_slice() -> None:
    view = view_of(64)
    job = base.Job(net_of(SMALL), Candidate(6, 2e-3), 2, 5)
    whole = emulated(view, slice_s=10)
    results = train(whole, job)
    engine, parts, state = emulated(view, slice_s=0.0), [], None  # a step in each launch
    for _ in range(12):
        engine.start(0, job, state)
        while not (slices := engine.step()):
            pass
        state = engine.state(0)
        parts += [part.result for part in slices if part.result]
        engine.stop(0)
    assert (state.epoch, state.step) == (1, 1)  # 11 steps are an epoch
    engine = emulated(view, slice_s=0.01)
    parts += train(engine, job, state)
    assert [(r.loss, r.accuracy) for r in parts] == [(r.loss, r.accuracy) for r in results]
    there, here = whole.state(0), engine.state(0)
    assert all(np.array_equal(values, here.tensors[name]) for name, values in there.tensors.items())


def test_a_loss_that_is_not_finite_ends_the_trial() -> None:
    view = view_of(64)
    lanes = emulated(view)
    lanes.start(0, base.Job(net_of([POOL, LINEAR]), Candidate(8, 1e38, optimizer="sgd"), 0, 3))
    parts = lanes.step()
    while not parts or parts[-1].error is None:
        parts = lanes.step()
    assert "training loss became" in str(parts[-1].error) and lanes.step() == []


class Broken(EmulatedProgram):
    """Fails at its fourth slice, as a GPU does: in the middle of the work."""

    count = 0

    def run(self, function: str, blocks: int, shared_bytes: int, *arguments: int | float) -> None:
        Broken.count += function == "golf_slice"
        if Broken.count == 4:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\ndetails")
        super().run(function, blocks, shared_bytes, *arguments)


def test_a_fault_of_the_gpu_is_told_and_the_study_goes_on(
    golf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("golf_opt.engines.cuda.engine.Gpu", lambda: Emulation())
    command = (
        "study", "data=digits", "arch=c4-5-4", "engine=cuda", "engine.lanes=2", "trials=2",
        "epochs=2", "space.batch_size=32", "study.name=s", "pruner=none",
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("golf_opt.engines.cuda.devices.EmulatedProgram", Broken)
        ran: Ran = golf(*command)
    assert ran.status == 1 and "Traceback" not in ran.err
    assert "the GPU failed: CUDA error: an illegal memory access" in ran.err
    assert "wait to go on" in ran.err
    assert golf(*command).status == 0
    trials = [t.state.name for t in study_of(tmp_path).trials]
    assert trials == ["COMPLETE", "COMPLETE"]


def study_of(folder: Path) -> Any:
    import optuna

    return optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/studies/golf.db")


def test_without_a_gpu_the_engine_says_what_it_wants(golf: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ran: Ran = golf("study", "data=digits", "engine=cuda", "trials=1", "epochs=1")
    assert ran.status == 2 and ran.err.count("\n") == 1
    assert "must have an NVIDIA GPU" in ran.err and "engine=native" in ran.err


# --- races ---


@pytest.mark.parametrize(("name", "images"), [("everything", 8), ("relu", 16)])
def test_no_thread_of_a_block_races_another(tmp_path: Path, name: str, images: int) -> None:
    """A thread sanitizer watches every access of the emulated block."""
    (tmp_path / "net.inc").write_text(generate(net_of(NETS[name])))
    source = Path(__file__).with_name("race.cpp")
    command = [
        *library.require_compiler(), "-std=c++17", "-O1", "-g", "-pthread", "-w", "-Wno-psabi",
        "-fsanitize=thread", f"-I{KERNEL}", "-DGOLF_WIDTH=32", "-DGOLF_WARPS=3",
        f"-DGOLF_IMAGES={images}", f'-DGOLF_NET="{tmp_path}/net.inc"',
        str(source), "-o", str(tmp_path / "race"),
    ]  # fmt: skip
    built = subprocess.run(command, capture_output=True, text=True)
    if "tsan" in built.stderr and built.returncode:
        pytest.skip("the compiler has no thread sanitizer")
    assert built.returncode == 0, built.stderr
    options = os.environ | {"TSAN_OPTIONS": "exitcode=66 halt_on_error=1"}
    ran = subprocess.run(
        [tmp_path / "race"], capture_output=True, text=True, env=options, timeout=120
    )
    if "unexpected memory mapping" in ran.stderr:
        pytest.skip("the thread sanitizer does not run on this kernel")
    assert ran.returncode == 0, ran.stderr[:3000]
    assert ran.stdout == "8 launches\n"


# --- machine code ---


@nvrtc
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_the_kernel_compiles_for_gpus(target: str) -> None:
    net = arch.load_arch("c4-5-4", CONF)
    cubin = compile_cubin(net, Block(images=8), 0, target, None)
    assert cubin.read_bytes()[:4] == b"\x7fELF"
    begun = time.monotonic()
    assert compile_cubin(net, Block(images=8), 0, target, None) == cubin  # from the cache
    assert time.monotonic() - begun < 1
