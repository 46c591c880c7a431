"""The kernel as thread blocks: emulated on the CPU against PyTorch, and compiled for GPUs.

An emulated block has a thread for each warp, which work side by side between barriers, so what a
GPU would do wrong by its dealing out of work goes wrong here too. What only a GPU shows is
marked `gpu`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran
from test_engines import rests_and_goes_on
from test_native import (
    EVERYTHING,
    LINEAR,
    NETS,
    POOL,
    RECIPES,
    SHAPES,
    SMALL,
    masked,
    net_of,
    oracle_gradients,
    snapshot_of,
    train,
)

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig
from golf_opt.engines import base
from golf_opt.engines.cuda import Block, CudaEngine
from golf_opt.engines.cuda.devices import EmulatedProgram, Emulation, Gpu
from golf_opt.engines.cuda.program import (
    compile_cubin,
    compile_with_nvrtc,
    nvrtc_options,
    require_nvrtc,
)
from golf_opt.engines.native import NativeEngine, compiler, library
from golf_opt.engines.native.codegen import dropout_nodes, generate
from golf_opt.engines.torch import TorchEngine
from golf_opt.task import arch, data
from golf_opt.task.data import View
from golf_opt.task.grammar import load_arch
from golf_opt.task.recipe import Candidate

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
KERNEL = Path(library.__file__).parent / "kernel"
SMALL_BLOCK = Block(images=8, warps=3)


def has_nvrtc() -> bool:
    try:
        require_nvrtc()
    except UsageError:
        return False
    return True


nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="no NVRTC (a CUDA build of PyTorch brings it)")


def gpu(test: Any) -> Any:
    """Mark a test that needs a GPU; where there is none it skips and says so."""
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    return pytest.mark.gpu(skip(test))


def emulated(
    view: View, lanes: int = 1, block: Block | None = SMALL_BLOCK, **more: Any
) -> CudaEngine:
    limit = more.pop("shared_limit", 227 * 1024)
    device = more.pop("device", None) or Emulation(shared_limit=limit)
    return CudaEngine(view, lanes, device=device, block=block, **more)


def check_gradients(
    net: arch.Net,
    batch_size: int,
    block: Block | None,
    teacher: dict[str, float] | None = None,
    **more: Any,
) -> None:
    teacher = teacher or {}
    view = snapshot_of(128, spec=net.input)
    batch = view.train.take("batch", np.arange(batch_size))
    tensors = base.initial_weights(net, 3)
    keys = [1000 + i for i in range(len(dropout_nodes(net)))]
    loss, expected = oracle_gradients(net, tensors, batch, 0.1, keys, **teacher)
    single = emulated(view, block=block, **more).single_pass(net, tensors, batch_size)
    found_loss, found = single.gradients(batch, 0.1, keys, **teacher)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    largest = max(np.abs(expected[name]).max() for name in expected if name.startswith("grad"))
    floor = 1e-2 if net.buffers else 1e-5  # what a normalisation cancels has nothing but noise
    for name, values in expected.items():
        scale = max(np.abs(values).max(), floor * largest)
        assert np.abs(found[name] - values).max() <= 1e-4 * scale, (name, batch_size, block)


@pytest.mark.parametrize("name", NETS)
def test_gradients_match_pytorch(name: str) -> None:
    check_gradients(net_of(NETS[name]), 21, SMALL_BLOCK)


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_match_pytorch_on_images_of_any_shape(name: str) -> None:
    spec, layers = SHAPES[name]
    check_gradients(net_of(layers, spec), 21, SMALL_BLOCK)


def test_a_teacher_pulls_as_in_pytorch() -> None:
    teacher = {"distill": 0.6, "temperature": 2.5}
    check_gradients(net_of(NETS["relu"]), 21, SMALL_BLOCK, teacher)


@pytest.mark.parametrize(("images", "warps"), [(32, 2), (4, 5)])
def test_gradients_do_not_depend_on_the_layout(images: int, warps: int) -> None:
    block = Block(images, warps)
    if images == 32:  # wider than the batch
        check_gradients(net_of(NETS["relu"]), 1, block)
    check_gradients(net_of(EVERYTHING), 37, block)


@pytest.mark.parametrize(("name", "limit_kib", "place"), [("relu", 64, 1), ("everything", 0, 2)])
def test_what_does_not_fit_lies_in_global_memory(name: str, limit_kib: int, place: int) -> None:
    net = net_of(NETS[name])
    check_gradients(net, 21, SMALL_BLOCK, shared_limit=limit_kib * 1024)
    view = snapshot_of(64)
    engine = emulated(view, shared_limit=limit_kib * 1024)
    job = base.Job(net, Candidate(9, 2e-3), 3, 2)
    found = train(engine, job)
    expected = train(NativeEngine(view, 1, flags=("-O1",)), job)
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-4)
    assert [row["place"] for row in engine.kernels()] == [place]


@pytest.mark.parametrize("recipe", [RECIPES[0], RECIPES[2], RECIPES[-1]], ids=str)
def test_losses_along_100_steps_match_pytorch(recipe: dict[str, Any]) -> None:
    """50 epochs of two steps each, the second one smaller; launches end anywhere."""
    view = snapshot_of(20)
    job = base.Job(net_of(SMALL), Candidate(14, 0.002, **recipe), 5, 50)
    found = train(emulated(view, slice_s=0.05), job)
    expected = train(TorchEngine(view, device="cpu", dtype=torch.float64), job)
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-3, abs=1e-5)
    assert [r.lr for r in found] == [r.lr for r in expected]
    assert [r.accuracy for r in found] == [r.accuracy for r in expected]
    assert found[-1].train_accuracy == expected[-1].train_accuracy


def test_a_net_with_every_option_trains_like_the_native_engine() -> None:
    view = snapshot_of(60)
    options = {"optimizer": "adamw", "weight_decay": 0.05, "label_smoothing": 0.1}
    options |= {"average": "ema"}
    net = net_of(EVERYTHING)
    job = base.Job(net, Candidate(21, 1e-3, schedule="one_cycle", **options), 1, 4)
    state = masked(net)
    lanes, oracle = emulated(view), NativeEngine(view, 1, flags=("-O1",))
    found, expected = train(lanes, job, state), train(oracle, job, state)
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-4)
    after, others = lanes.state(0).tensors, oracle.state(0).tensors
    assert after.keys() == others.keys()
    for name, values in after.items():
        assert np.allclose(values, others[name], atol=2e-4), name
        if name.startswith("masks/"):
            assert not after[name.replace("masks", "weights")][values == 0].any()
    assert [r.accuracy for r in found] == [r.accuracy for r in expected]
    assert lanes.evaluate(net, lanes.state(0).net, view.test) == found[-1].accuracy
    assert lanes.evaluate(net, lanes.state(0).net, view.train) == found[-1].train_accuracy


def train_all(engine: base.Engine, jobs: list[base.Job]) -> list[list[base.EpochResult]]:
    """Train jobs in as many lanes as there are; return each one's epochs."""
    waiting, at = list(enumerate(jobs)), {}
    results: list[list[base.EpochResult]] = [[] for _ in jobs]
    while waiting or at:
        for lane in set(range(engine.num_lanes)) - set(at):
            if waiting:
                at[lane], job = waiting.pop(0)
                engine.start(lane, job)
        for part in engine.step():
            results[at[part.lane]] += [part.result] if part.result else []
            if len(results[at[part.lane]]) == jobs[at[part.lane]].epochs:
                engine.stop(part.lane)
                del at[part.lane]
    engine.close()
    return results


def test_lanes_of_several_batch_sizes_train_as_if_alone() -> None:
    view = snapshot_of(64)
    net = net_of(SMALL)
    jobs = [base.Job(net, Candidate(size, 2e-3), size, 6) for size in (3, 4, 9, 14, 32)]
    alone = [train(emulated(view, block=None, slice_s=10), job) for job in jobs]
    together = train_all(emulated(view, lanes=len(jobs), block=None, slice_s=0.01), jobs)

    def numbers(results: list[base.EpochResult]) -> list[tuple[float, ...]]:
        return [(r.epoch, r.loss, r.accuracy, r.lr) for r in results]

    assert [numbers(results) for results in together] == [numbers(results) for results in alone]


def test_a_stopped_trial_goes_on_bit_for_bit_from_any_slice() -> None:
    view = snapshot_of(64)
    job = base.Job(net_of(SMALL), Candidate(6, 2e-3, average="swa", average_span=0.9), 2, 5)
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


def test_a_lane_rests_and_goes_on_bit_for_bit() -> None:
    job = base.Job(net_of(SMALL), Candidate(6, 2e-3), 2, 4)
    rests_and_goes_on(emulated(snapshot_of(64), lanes=2, slice_s=10), job, train)


def test_a_trial_begun_by_the_native_engine_goes_on() -> None:
    view = snapshot_of(64)
    job = base.Job(net_of(SMALL), Candidate(6, 2e-3), 2, 4)
    whole = train(NativeEngine(view, 1, flags=("-O1",)), job)
    begun = NativeEngine(view, 1, flags=("-O1",))
    begun.start(0, job)
    while not any(part.result for part in begun.step()):
        pass
    state = begun.state(0)
    rest = train(emulated(view), job, state)
    assert state.epoch == 1 and [r.epoch for r in rest] == [2, 3, 4]
    assert [r.loss for r in rest] == pytest.approx([r.loss for r in whole[1:]], rel=1e-4)


def test_a_loss_that_is_not_finite_ends_the_trial() -> None:
    view = snapshot_of(64)
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
        "-DGOLF_READER=MixedLoader", "-DGOLF_BY_LOSS=1", "-DGOLF_MIXED=1",
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
def test_the_kernel_compiles_for_gpus(target: str, tmp_path: Path) -> None:
    """In registers and shared memory: that is what it is fast by."""
    net = load_arch("c4-5-4")
    options = nvrtc_options(Block(images=8), 0, target)
    cubin = compile_with_nvrtc(generate(net), options, tmp_path)
    assert cubin.read_bytes()[:4] == b"\x7fELF"
    report, ptx = (tmp_path / "made.log").read_text(), (tmp_path / "made.ptx").read_text()
    found = re.search(
        r"'golf_slice'.*?(\d+) bytes spill stores.*?Used (\d+) registers", report, re.S
    )
    assert found is not None, report
    spilled, registers = int(found[1]), int(found[2])
    assert registers <= 128, "two blocks of 256 threads no longer share a multiprocessor"
    assert spilled <= (200 if target == "sm_80" else 0)
    entry = ptx[ptx.index(".entry golf_slice") :]
    loads = Counter(re.findall(r"\bld\.(shared|global|param|local)?[.a-z0-9]*", entry))
    assert loads["shared"] > 10 * loads[""], "the compiler no longer sees what is shared memory"
    assert re.search(r"\bld\.shared\.v4\.", entry), "weights are no longer read four at a time"
    assert "golf_info" in ptx


@nvrtc
def test_machine_code_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLF_CACHE", str(tmp_path))
    net = net_of([POOL, LINEAR])
    said: list[str] = []
    first = compile_cubin(net, Block(images=8), 0, "sm_90", said.append)
    monkeypatch.setattr("golf_opt.engines.cuda.program.compile_with_nvrtc", None)
    assert compile_cubin(net, Block(images=8), 0, "sm_90", said.append) == first
    assert len(said) == 1 and "sm_90" in said[0]


# --- on a GPU; `pytest -m gpu` runs these alone ---


@gpu
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("limit_kib", [227, 48, 0])
def test_gradients_on_a_gpu_match_pytorch(name: str, limit_kib: int) -> None:
    device = Gpu()
    device.shared_limit = min(device.shared_limit, limit_kib * 1024)
    for batch_size in (5, 21):
        check_gradients(net_of(NETS[name]), batch_size, None, device=device)


@gpu
@pytest.mark.mnist
@pytest.mark.timeout(900)
def test_24_seeds_on_a_gpu_have_the_mean_of_the_cpu(mnist_root: Path) -> None:
    view = data.load(DataConfig("mnist", mnist_root)).view("test")
    net, optimum = load_arch("c4-5-4"), Candidate(14, 8e-4, step_size=5, gamma=0.62)
    jobs = [base.Job(net, optimum, seed, 18) for seed in range(24)]
    means, errors = [], []
    for engine in (CudaEngine(view, lanes=len(jobs)), NativeEngine(view)):
        finals = np.array([results[-1].accuracy for results in train_all(engine, jobs)])
        print(f"{engine.name}: mean {finals.mean():.4f}, sd {finals.std(ddof=1):.4f}, n 24")
        means.append(finals.mean())
        errors.append(finals.std(ddof=1) / len(jobs) ** 0.5)
    assert abs(means[0] - means[1]) <= 2 * float(np.hypot(*errors))


@gpu
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.timeout(900)
def test_a_sanitizer_finds_nothing_on_a_gpu(tool: str) -> None:
    """On a short run: the gradients of the net with every layer kind, and a slice of training."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    code = """
from test_cuda import *
check_gradients(net_of(EVERYTHING), 21, None, device=Gpu())
train(CudaEngine(snapshot_of(64), 1), base.Job(net_of(EVERYTHING), Candidate(9, 2e-3), 3, 1))
"""
    command = [sanitizer, "--tool", tool, "--error-exitcode", "66", sys.executable, "-c", code]
    folder = str(Path(__file__).parent)
    ran = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": folder}
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
