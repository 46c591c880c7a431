"""A net's step and its evaluation on a GPU, predicted: where the time goes, epochs a second."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from bench.gpu_model.device import Counted
from bench.gpu_model.machine import Interval
from bench.gpu_model.roofline import RESERVED, GpuModel, Load, Meter
from golf_opt.engines.base import Job
from golf_opt.engines.cuda.engine import CudaEngine
from golf_opt.engines.cuda.program import Block, block_for
from golf_opt.engines.native import library
from golf_opt.engines.speed import made_up
from golf_opt.task.arch import Net
from golf_opt.task.recipe import Candidate

Loads = dict[tuple[str, int], Load]
IMAGES, TESTED = 60_000, 10_000


@dataclass(frozen=True)
class Prediction:
    net: str
    batch_size: int
    block: Block
    gpu: GpuModel
    registers: int
    spill_bytes: int
    shared_bytes: int
    held: int  # blocks on a multiprocessor
    step: Loads
    tested: Loads  # as many images as lie side by side, evaluated

    def total(self, loads: Loads) -> Load:
        whole = Load()
        for load in loads.values():
            whole.add(load)
        return whole

    def cycles(self, loads: Loads) -> float:
        """Of all blocks of a multiprocessor, each with the same to do."""
        whole = self.total(loads)
        return max(whole.cycles, self.held * max(whole.busiest(self.gpu).values()))

    def limit(self, loads: Loads) -> str:
        whole = self.total(loads)
        busiest = whole.busiest(self.gpu)
        most = max(busiest, key=lambda name: busiest[name])
        return most if self.held * busiest[most] >= whole.cycles else "latency"

    @property
    def epoch_s(self) -> tuple[float, float]:
        """Seconds of training and of evaluation in an epoch, with all lanes full."""
        steps, tests = -(-IMAGES // self.batch_size), -(-TESTED // self.block.images)
        hertz = self.gpu.ghz * 1e9
        return steps * self.cycles(self.step) / hertz, tests * self.cycles(self.tested) / hertz

    @property
    def epochs_per_s(self) -> float:
        """Of all lanes together."""
        return self.held * self.gpu.cores / sum(self.epoch_s)

    @property
    def alone_epochs_per_s(self) -> float:
        """Of a single lane."""
        steps, tests = -(-IMAGES // self.batch_size), -(-TESTED // self.block.images)
        cycles = steps * self.total(self.step).cycles + tests * self.total(self.tested).cycles
        return self.gpu.ghz * 1e9 / cycles


Counts = list[list[Interval]]  # of each warp of a block


class Profiler:
    """Counts a net at a batch size and in a layout; architectures with the same PTX share it."""

    def __init__(self, net: Net, batch_size: int, block: Block | None = None) -> None:
        self.net, self.batch_size = net, batch_size
        self.block = block or block_for(batch_size)
        self._counts: dict[str, tuple[Counts, Counts, Counts]] = {}

    def predict(self, gpu: GpuModel) -> Prediction:
        device = Counted(gpu.arch, gpu.shared - RESERVED)
        with self._engine(device, 1, 1) as engine:
            engine.prepare(self.net, (self.batch_size,))
        program = device.last
        size, wide = self.batch_size, self.block.images
        if program.code not in self._counts:
            runs = (size, wide), (2 * size, wide), (size, 2 * wide)
            one, more, tested = (self._launch(device, *images) for images in runs)
            self._counts[program.code] = one, more, tested
        meter = Meter(program.module, gpu, library.sources())
        one, more, tested = (meter.loads(counted) for counted in self._counts[program.code])
        facts, shared = program.facts(), program.info.shared_bytes(self.net, size)
        return Prediction(
            self.net.name, size, self.block, gpu, facts["registers"], facts["spill_bytes"], shared,
            gpu.held(facts["registers"], self.block.warps, shared),
            difference(more, one), difference(tested, one),
        )  # fmt: skip

    def _engine(self, device: Counted, n: int, tested: int) -> contextlib.closing[CudaEngine]:
        view = made_up(self.net.input, n, tested)
        return contextlib.closing(CudaEngine(view, 1, device=device, block=self.block, slice_s=1e6))

    def _launch(self, device: Counted, n: int, tested: int) -> Counts:
        """Count an epoch of n images and its evaluation."""
        with self._engine(device, n, tested) as engine:
            engine.start(0, Job(self.net, Candidate(self.batch_size, 1e-3), 1, 3), until=1)
            while not engine.step():
                pass
        return device.last.counted


def difference(more: Loads, less: Loads) -> Loads:
    found: Loads = {}
    for key, load in more.items():
        found[key] = Load()
        found[key].add(load)
        if key in less:
            found[key].add(less[key], -1)
    return {key: load for key, load in found.items() if load.intervals}
