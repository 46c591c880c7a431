"""What a lane of the CUDA engine is, on the host and in the device's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines import background
from golf_opt.engines.cuda.devices import Device, Program, put
from golf_opt.engines.cuda.structs import DATA, EPOCH, LANE, RESULT
from golf_opt.engines.keys import dropout_prefixes, order_half, order_keys
from golf_opt.engines.native.codegen import dropout_nodes
from golf_opt.engines.native.library import Update
from golf_opt.task.data import Split
from golf_opt.task.recipe import learning_rates

WINDOW = 4  # epochs that a launch may go through


class Images:
    """A split on the device."""

    def __init__(self, device: Device, split: Split) -> None:
        self._buffers = [put(device, part) for part in (split.images, split.labels)]
        addresses = [buffer.address for buffer in self._buffers]
        self._data = put(device, np.array((*addresses, len(split)), dtype=DATA))
        self.address = self._data.address


@dataclass(kw_only=True)
class Run(background.Run):
    """A lane at work. `memory` and `at` are the wave's thread's alone."""

    program: Program
    memory: Memory | None = None
    launched: int = 0  # entries of `pending` that its last launch left
    stopped: bool = False

    @property
    def ready(self) -> bool:
        """Whether to launch it: the caller has taken what the launch before the last one left."""
        return not (self.done or self.stopped) and len(self.pending) <= self.launched


class Memory:
    """A lane's part of the device's memory."""

    def __init__(self, device: Device, run: Run, steps: int) -> None:
        floats, nodes = run.at.flat.size, dropout_nodes(run.job.net)
        self.rates = device.allocate(8 * steps * WINDOW)
        self.state = put(device, run.at.flat)
        self.snapshots = device.allocate(4 * floats * WINDOW)
        self.results = device.allocate(RESULT.itemsize * WINDOW)
        self.epochs = device.allocate(EPOCH.itemsize * WINDOW)
        self.spill = device.allocate(
            run.program.info.spill_bytes(run.job.net, run.job.candidate.batch_size)
        )
        self.dropouts = put(device, np.append(dropout_prefixes(run.job.seed, nodes), np.uint32(0)))
        self.mask = None if run.mask is None else put(device, run.mask)
        self._steps = steps
        self._planned: range = range(0)

    def plan(self, run: Run) -> None:
        """Write what the next WINDOW epochs need, unless it is there."""
        window = range(run.at.epoch, min(run.at.epoch + WINDOW, run.job.epochs))
        if window == self._planned:
            return
        self._planned = window
        rows = np.zeros(WINDOW, dtype=EPOCH)
        for row, epoch in enumerate(window):
            rates = learning_rates(run.job.candidate, epoch, run.job.epochs, self._steps)
            offset = 8 * self._steps * row
            self.rates.write(np.asarray(rates, dtype=np.float64), offset)
            rows[row] = (self.rates.address + offset, order_keys(run.job.seed, epoch))
        self.epochs.write(rows)

    def lane(self, run: Run, n: int) -> npt.NDArray[Any]:
        """Return the lane as the kernel reads it."""
        candidate, nodes = run.job.candidate, dropout_nodes(run.job.net)
        lane = np.zeros((), dtype=LANE)
        for name in ("state", "snapshots", "spill", "epochs", "results"):
            lane[name] = getattr(self, name).address
        lane["mask"] = self.mask.address if self.mask else 0
        lane["dropout_prefixes"], lane["num_dropouts"] = self.dropouts.address, len(nodes)
        lane["num_epochs"] = len(self._planned)
        lane["num_buffers"] = run.at.flat.size - 3 * run.layout.padded
        lane["batch_size"], lane["step"] = candidate.batch_size, run.at.step
        lane["steps_before"] = run.at.epoch * self._steps
        lane["train_last"] = run.job.epochs - 1 - run.at.epoch
        lane["loss_sum"], lane["time_s"] = run.at.loss_sum, run.at.time_s
        lane["label_smoothing"] = candidate.label_smoothing
        lane["update"] = np.void(bytes(Update.of(candidate)))
        lane["half"] = order_half(n)
        return lane
