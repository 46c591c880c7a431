"""The CUDA engine: every lane is a thread block, and all lanes of a wave train in one launch.

A launch trains its lanes for a slice of time, over as many epochs as fit, with their evaluations.
What it leaves is read at once, and the next launch follows while the caller handles the results: a
lane may be ahead of its caller by one launch. Lanes form WAVES groups, with a thread and a queue
for each program of each, so that one group's blocks fill the GPU while another's results are read.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.config.errors import UsageError
from golf_opt.engines import base
from golf_opt.engines.background import BackgroundEngine, Place
from golf_opt.engines.base import EngineFault, EpochResult, Job, LaneState, Message, Slice, Tensors
from golf_opt.engines.cuda.devices import Device, Gpu, Program, put
from golf_opt.engines.cuda.lanes import LANE, LIMIT, NOT_FINITE, Images, Memory, Run, SinglePass
from golf_opt.engines.cuda.program import Block, block_for, shown
from golf_opt.engines.native.codegen import generate, unsupported
from golf_opt.task.arch import Net
from golf_opt.task.data import Split, View
from golf_opt.task.recipe import learning_rates

SLICE_S = 0.2
WAVES = 2


class CudaEngine(BackgroundEngine[Run]):
    """Trains on the current GPU, or on an emulated one.

    Args:
        view: the images.
        lanes: trials side by side; None is as many as keep the GPU busy.
        on_message: told in one line before a compile.
        device: where blocks run; None is the GPU.
        block: how a block is laid out; None is by batch size.
        layouts: what tuning found best, by batch size.

    Raises:
        UsageError: there is no GPU.
    """

    name = "cuda"

    def __init__(
        self,
        view: View,
        lanes: int | None = None,
        on_message: Message | None = None,
        *,
        device: Device | None = None,
        block: Block | None = None,
        layouts: Mapping[int, Block] | None = None,
        slice_s: float = SLICE_S,
    ) -> None:
        super().__init__()
        self._device = device or Gpu()
        self.device = self._device.name
        if layouts:  # sums depend on it, so that a trial tells
            self.device += f", tuned ({shown(layouts)})"
        self.num_lanes = lanes or WAVES * self._device.cores
        self._fixed_lanes = lanes is not None
        self._block, self._layouts, self._on_message = block, layouts, on_message
        self._slice_s = float(slice_s)
        self._view = view
        self._loaded: dict[tuple[str, Block, int], Program] = {}  # by header, layout, place
        self._used: dict[tuple[str, int], tuple[Program, int]] = {}  # by net, batch size
        self._loading = threading.Lock()
        self._closed = False
        self._waves: dict[tuple[int, Program], threading.Thread] = {}

    @cached_property
    def _train(self) -> Images:
        return Images(self._device, self._view.train)

    @cached_property
    def _objective(self) -> Images:
        return Images(self._device, self._view.objective)

    def prepare(self, net: Net, batch_sizes: Sequence[int] = (8,)) -> None:
        """Compile what trials of the net need; as many lanes as keep the GPU busy from here on.

        Raises:
            UsageError: the net is none that this engine can do, or it cannot be compiled.
        """
        if why := unsupported(net):
            raise UsageError(f"engine is 'cuda', but must be 'torch' here: {why}.")
        programs = [self._program(net, size) for size in batch_sizes]
        if not self._fixed_lanes:
            held = [
                program.per_core(program.info.shared_bytes(net, size))
                for program, size in zip(programs, batch_sizes, strict=True)
            ]
            self.num_lanes = WAVES * self._device.cores * max(1, max(held))

    def kernels(self) -> list[dict[str, Any]]:
        """Return a row for each compiled program: its layout, registers, memory and occupancy."""
        return [
            {"net": name, "batch_size": size, "images": used.info.images, "warps": used.info.warps}
            | used.facts()
            | {"place": used.info.place, "shared_bytes": shared}
            | {"blocks_per_sm": used.per_core(shared)}
            for (name, size), (used, shared) in self._used.items()
        ]

    # --- the protocol ---

    def start(
        self, lane: int, job: Job, state: LaneState | None = None, until: int | None = None
    ) -> None:
        assert lane not in self._runs and 0 <= lane < self.num_lanes
        base.check_teacher(job, self._view)
        recipe, n = job.candidate, len(self._view.train)
        program = self._program(job.net, recipe.batch_size, **recipe.asks_of_code)
        run = Run.begin(job, state, until, program.info.padded, n, program=program)
        _ = self._train, self._objective  # on the device before any launch
        with self._changed:
            self._runs[lane] = run
            self._changed.notify_all()
        wave = (lane % WAVES, run.program)
        if wave not in self._waves:
            name = f"wave {len(self._waves)}"
            thread = threading.Thread(target=self._work, args=wave, name=name, daemon=True)
            self._waves[wave] = thread
            thread.start()

    def stop(self, lane: int) -> None:
        with self._changed:
            self._runs.pop(lane).stopped = True  # a launch that it is in goes on without an effect
            self._changed.notify_all()

    def evaluate(self, net: Net, tensors: Tensors, split: Split) -> float:
        return self.single_pass(net, tensors, 1).correct(split) / len(split)

    def close(self) -> None:
        for lane in list(self._runs):
            self.stop(lane)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._waves.values():
            thread.join()

    # --- programs ---

    def single_pass(self, net: Net, tensors: Tensors, batch_size: int) -> SinglePass:
        """Return the net on the device, for one pass over up to `batch_size` images at a time."""
        return SinglePass(self._device, self._program(net, batch_size), net, tensors, batch_size)

    def _program(self, net: Net, batch_size: int, **wanted: bool) -> Program:
        """Return the program, of a `Block` as wanted, that keeps in shared memory what fits."""
        block, header = self._block or block_for(batch_size, self._layouts), generate(net)
        block = replace(block, **wanted)
        with self._loading:
            for place in range(3):
                key = (header, block, place)
                if key not in self._loaded:
                    self._loaded[key] = self._device.load(net, block, place, self._on_message)
                program = self._loaded[key]
                shared = program.info.shared_bytes(net, batch_size)
                if shared <= self._device.shared_limit:
                    self._used[net.name, batch_size] = program, shared
                    return program
        raise AssertionError("a program that needs no shared memory fits")

    # --- waves ---

    def _work(self, group: int, program: Program) -> None:
        """The thread of a wave: launch after launch until the engine is closed."""
        try:
            with self._device.queue():
                while lanes := self._await_lanes(group, program):
                    self._launch(program, lanes)
        except BaseException as error:  # shown by the caller's next step
            told = isinstance(error, (EngineFault, UsageError))
            self._fail(error if told else fault_of(error))

    def _await_lanes(self, group: int, program: Program) -> dict[int, Run]:
        """Wait for lanes to launch; there are none when the engine is closed."""
        with self._changed:
            while not self._closed and self._failure is None:
                ready = {
                    lane: run
                    for lane, run in self._runs.items()
                    if lane % WAVES == group and run.program is program and run.ready
                }
                if ready:
                    return ready
                self._changed.wait()
        return {}

    def _launch(self, program: Program, lanes: dict[int, Run]) -> None:
        """Train a slice of every lane and hand over what came of it."""
        for lane, run in list(lanes.items()):
            if run.rests:  # killed between its last epoch and its end
                self._leave(lanes.pop(lane), [(Slice(lane, run.at.epoch, 1.0), run.at)])
        if lanes:
            after = self._slice(program, list(lanes.values()))
            for (lane, run), row in zip(lanes.items(), after, strict=True):
                self._leave(run, self._collect(lane, run, row))

    def _leave(self, run: Run, entries: Sequence[tuple[Slice, Place]]) -> None:
        """Hand over what a launch left of a lane."""
        run.launched = len(entries)
        self._hand_over(run, entries)

    def _slice(self, program: Program, runs: Sequence[Run]) -> npt.NDArray[Any]:
        """Let the device train a slice of every run; return the lanes as it left them."""
        n, shared = len(self._view.train), 0
        rows = np.zeros(len(runs), dtype=LANE)
        for row, run in enumerate(runs):
            batch_size = run.job.candidate.batch_size
            if run.memory is None:
                run.memory = Memory(self._device, run, n)
            run.memory.plan(run)
            rows[row] = run.memory.lane(run)
            shared = max(shared, program.info.shared_bytes(run.job.net, batch_size))
        buffer = put(self._device, rows)
        data = (self._train.address, self._objective.address)
        program.run("golf_slice", len(runs), shared, buffer.address, *data, self._slice_s)
        return buffer.read().view(LANE)

    def _collect(self, lane: int, run: Run, after: npt.NDArray[Any]) -> list[tuple[Slice, Place]]:
        """Turn what a launch left of a lane into slices, each with where the lane stood then."""
        assert run.memory is not None
        steps = base.steps_per_epoch(len(self._view.train), run.job.candidate.batch_size)
        entries: list[tuple[Slice, Place]] = []
        run.memory.note_losses(run, steps if after["epochs_done"] else int(after["step"]))
        for flat, result in run.memory.finished(int(after["epochs_done"])):
            run.at = run.at.next_epoch(flat)
            entries.append((self._result(lane, run, result, steps), run.at))
        epoch, step, loss_sum = run.at.epoch, int(after["step"]), float(after["loss_sum"])
        if step:
            flat = run.memory.state.read().view(np.float32)
            run.at = Place(flat, epoch, step, loss_sum, float(after["time_s"]), run.at.hardness)
        if after["outcome"] == NOT_FINITE:
            entries.append((base.not_finite(lane, epoch + 1, step / steps, loss_sum), run.at))
        elif after["outcome"] == LIMIT and step:
            entries.append((Slice(lane, epoch + 1, step / steps), run.at))
        return entries

    def _result(self, lane: int, run: Run, result: npt.NDArray[Any], steps: int) -> Slice:
        """Return the slice that ends an epoch."""
        n, epoch, job = len(self._view.train), run.at.epoch, run.job
        ended = EpochResult(
            epoch=epoch,
            loss=float(result["loss_sum"]) / n,
            accuracy=int(result["correct"]) / len(self._view.objective),
            lr=float(learning_rates(job.candidate, epoch - 1, job.epochs, steps)[-1]),
            time_s=float(result["time_s"]),
            train_accuracy=int(result["train_correct"]) / n if epoch == job.epochs else None,
        )
        return Slice(lane, epoch, 1.0, ended)


def fault_of(error: BaseException) -> EngineFault:
    """Return what a failure of the GPU, as PyTorch tells it, means to the user."""
    said = str(error).strip().splitlines() or [type(error).__name__]
    fault = EngineFault(f"the GPU failed: {said[0]}")
    fault.__cause__ = error
    return fault
