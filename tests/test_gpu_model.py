"""The kernel as NVRTC compiles it, run on the CPU thread by thread, and what is predicted of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_cuda import check_gradients, nvrtc
from test_native import NETS, SMALL, net_of, snapshot_of, train

from bench.gpu_model import __main__ as command
from bench.gpu_model.device import Counted
from bench.gpu_model.machine import wavefronts
from bench.gpu_model.profile import Prediction, Profiler
from bench.gpu_model.roofline import GPUS, GpuModel
from golf_opt.engines import base
from golf_opt.engines.cuda import Block, CudaEngine
from golf_opt.engines.native import NativeEngine, compiler
from golf_opt.task.grammar import load_arch
from golf_opt.task.recipe import Candidate

pytestmark = [nvrtc, pytest.mark.skipif(compiler() is None, reason="no C++ compiler")]
H100 = GPUS[1]


def test_gradients_of_the_compiled_kernel_match_pytorch() -> None:
    """The header for GPUs too: its shuffles, its groups of threads, its order of adding."""
    check_gradients(net_of(NETS["relu"]), 11, Block(images=8, warps=3), device=Counted())


def test_the_compiled_kernel_trains_and_evaluates_like_the_native_engine() -> None:
    view, job = snapshot_of(40), base.Job(net_of(SMALL), Candidate(14, 2e-3), 5, 2)
    found = train(CudaEngine(view, 1, device=Counted(), slice_s=1e6), job)
    expected = train(NativeEngine(view, 1, flags=("-O1",)), job)
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=1e-4)
    assert [r.accuracy for r in found] == [r.accuracy for r in expected]
    assert found[-1].train_accuracy == expected[-1].train_accuracy


@pytest.mark.parametrize(
    ("addresses", "width", "count"),
    [
        (np.arange(32) * 4, 4, 1),  # neighbours
        (np.zeros(32, int), 4, 1),  # all want the same
        (np.arange(32) * 8, 4, 2),  # every other word
        (np.arange(32) * 128, 4, 32),  # all in one bank
        (np.arange(32) * 16, 16, 4),  # four words each
        (np.arange(32) // 8 * 128 + np.arange(32) % 8 * 4, 4, 4),  # groups of 8
        (np.arange(32), 1, 1),  # bytes of eight words
    ],
)
def test_bank_conflicts_are_counted(addresses: np.ndarray, width: int, count: int) -> None:
    assert wavefronts(addresses.astype(np.int64), width) == count


def test_blocks_on_a_multiprocessor_are_as_in_the_occupancy_calculator() -> None:
    assert H100.held(registers=128, warps=8, shared_bytes=1024) == 2
    assert H100.held(registers=64, warps=8, shared_bytes=1024) == 4
    assert H100.held(registers=32, warps=8, shared_bytes=100 * 1024) == 2
    assert H100.held(registers=32, warps=1, shared_bytes=0) == 32


@pytest.fixture(scope="module")
def predicted() -> Prediction:
    return Profiler(load_arch("c4-5-4"), 14).predict(H100)


def multiply_adds(images: int, side: int) -> dict[str, int]:
    """By hand, of c4-5-4's convolutions for one pass: kernels 4, 3, 3, channels 4, 5, 4, two pools.

    A row is walked in vectors of 32 / images positions; what is behind its end is computed too.
    """
    wide = 32 // images

    def whole(positions: int) -> int:
        return -(-positions // wide) * wide

    forward = backward = 0
    for inputs, outputs, kernel, rows, pool in (
        (1, 4, 4, 24, 2),
        (4, 5, 3, 10, 2),
        (5, 4, 3, 3, 1),
    ):
        taps = inputs * outputs * kernel**2
        forward += taps * rows * pool * whole(rows // pool)
        backward += taps * rows * whole(rows)
        if inputs > 1:
            side = rows + kernel - 1
            backward += taps * rows * whole(side + (side % 2 if pool > 1 else 0))
    return {"forward": images * forward, "backward": images * backward}


def test_the_multiply_adds_counted_are_those_of_the_layers(predicted: Prediction) -> None:
    by_name: dict[str, int] = {}
    for (name, _), load in predicted.step.items():
        by_name[name] = by_name.get(name, 0) + load.fused
    passes = 2  # of 8 images each
    expected = multiply_adds(predicted.block.images, 28)
    assert by_name["conv tile"] == passes * expected["forward"]
    ways = ("conv weight_block", "conv input_tile", "cuda add_kept")  # the last is inlined in both
    linear = 36 * 10 * 16  # of the weights of the head
    assert sum(by_name[name] for name in ways) == passes * expected["backward"] + linear


def test_a_prediction_is_bounded_by_what_it_is_made_of(predicted: Prediction) -> None:
    whole = predicted.total(predicted.step)
    assert predicted.held >= 1 and predicted.spill_bytes == 0
    for cycles in whole.busiest(H100).values():
        assert predicted.cycles(predicted.step) >= predicted.held * cycles
    assert whole.needed <= whole.shared and 0 < whole.warps <= 8 * whole.slowest
    peak = H100.cores * H100.lanes * H100.ghz * 1e9
    per_epoch = whole.fused * (60_000 / 14)
    assert predicted.epochs_per_s < peak / per_epoch
    assert predicted.alone_epochs_per_s < predicted.epochs_per_s / (H100.cores * 0.9)


def test_the_table_is_written_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predicted: Prediction
) -> None:
    def predict(of: Profiler, gpu: GpuModel) -> Prediction:
        return predicted

    monkeypatch.setattr(Profiler, "predict", predict)
    output = tmp_path / "model.json"
    monkeypatch.setattr("sys.argv", ["model", "--batch-sizes", "14", f"--output={output}"])
    command.main()
    told = json.loads(output.read_text())
    assert told["measured"] is False and len(told["rows"]) == 6
    row = told["rows"][0]
    assert row["epochs_per_s"] == pytest.approx(predicted.epochs_per_s, abs=0.1)
    assert row["step"]["limit"] in ("latency", "issue", "fp32", "fp64", "shared memory")
