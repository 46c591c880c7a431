"""What a lane of the CUDA engine is, on the host and in the device's memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import DROPOUT_KEY, Job, LaneState, Slice, Tensors, initial_weights
from golf_opt.engines.cuda.devices import Buffer, Device, Program
from golf_opt.engines.cuda.structs import DATA, EPOCH, LANE, RESULT
from golf_opt.engines.native.codegen import dropout_nodes
from golf_opt.engines.native.engine import MOMENTS, pack, unpack, update_of
from golf_opt.task import rng
from golf_opt.task.arch import Net
from golf_opt.task.data import Split
from golf_opt.task.recipe import learning_rates

WINDOW = 4  # epochs that a launch may go through
Floats = npt.NDArray[np.float32]


class Images:
    """A split on the device."""

    def __init__(self, device: Device, split: Split) -> None:
        self.n = len(split)
        self._buffers = [device.allocate(part.nbytes) for part in (split.images, split.labels)]
        for buffer, part in zip(self._buffers, (split.images, split.labels), strict=True):
            buffer.write(part)
        self._data = device.allocate(DATA.itemsize)
        self._data.write(np.array((*(b.address for b in self._buffers), self.n), dtype=DATA))

    @property
    def address(self) -> int:
        return self._data.address


@dataclass(frozen=True)
class Place:
    """Where a lane stands."""

    state: Floats  # [weights, first moments, second moments][padded], buffers
    epoch: int  # finished epochs
    step: int  # of the epoch in progress, like the rest
    loss_sum: float
    time_s: float


@dataclass
class Run:
    """A lane at work. `memory` and `at` are the wave's thread's alone."""

    job: Job
    program: Program
    mask: Floats | None
    at: Place
    returned: Place  # at the end of the slice that the caller took last
    memory: Memory | None = None
    pending: deque[tuple[Slice, Place]] = field(default_factory=deque)
    launched: int = 0  # entries of `pending` that its last launch left
    stopped: bool = False
    done: bool = False

    @classmethod
    def of(cls, program: Program, job: Job, state: LaneState | None) -> Run:
        net, tensors = job.net, state.tensors if state else initial_weights(job.net, job.seed)
        count = program.info.padded
        masked = any(name.startswith("masks/") for name in tensors)
        mask = pack(tensors, "masks", net.parameters, count, missing=1.0) if masked else None
        weights = pack(tensors, "weights", net.parameters, count)
        if mask is not None:
            weights *= mask
        moments = [
            pack(tensors, kind, net.parameters, count) for kind in (*moments_of(job), "")[:2]
        ]
        flat = np.concatenate([weights, *moments, flat_buffers(net, tensors)])
        at = state or LaneState({}, 0, 0, 0.0, 0.0)
        place = Place(flat, at.epoch, at.step, at.loss_sum, at.time_s)
        return cls(job, program, mask, place, place)

    def tensors(self) -> Tensors:
        """Return the tensors of the returned state by name."""
        net, count, flat = self.job.net, self.program.info.padded, self.returned.state
        tensors: Tensors = {}
        for row, kind in enumerate(("weights", *moments_of(self.job))):
            tensors |= unpack(flat[row * count : (row + 1) * count], kind, net.parameters)
        tensors |= unpack(flat[3 * count :], "buffers", net.buffers)
        if self.mask is not None:
            tensors |= unpack(self.mask, "masks", net.parameters)
        return {name: values.copy() for name, values in tensors.items()}

    @property
    def ready(self) -> bool:
        """Whether to launch it: the caller has taken what the launch before the last one left."""
        return not (self.done or self.stopped) and len(self.pending) <= self.launched


class Memory:
    """A lane's part of the device's memory."""

    def __init__(self, device: Device, run: Run, steps: int) -> None:
        floats, net = run.at.state.size, run.job.net
        self.rates = device.allocate(8 * steps * WINDOW)
        self.state = device.allocate(4 * floats)
        self.snapshots = device.allocate(4 * floats * WINDOW)
        self.results = device.allocate(RESULT.itemsize * WINDOW)
        self.epochs = device.allocate(EPOCH.itemsize * WINDOW)
        self.spill = device.allocate(
            run.program.info.spill_bytes(net, run.job.candidate.batch_size)
        )
        self.dropouts = device.allocate(4 * len(dropout_nodes(net)) + 4)
        self.dropouts.write(dropout_prefixes(run.job))
        self.state.write(run.at.state)
        self.mask: Buffer | None = None
        if run.mask is not None:
            self.mask = device.allocate(run.mask.nbytes)
            self.mask.write(run.mask)
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
        lane["num_buffers"] = run.at.state.size - 3 * run.program.info.padded
        lane["batch_size"], lane["step"] = candidate.batch_size, run.at.step
        lane["steps_before"] = run.at.epoch * self._steps
        lane["train_last"] = run.job.epochs - 1 - run.at.epoch
        lane["loss_sum"], lane["time_s"] = run.at.loss_sum, run.at.time_s
        lane["label_smoothing"] = candidate.label_smoothing
        lane["update"] = np.void(bytes(update_of(candidate)))
        lane["half"] = order_half(n)
        return lane


def moments_of(job: Job) -> tuple[str, ...]:
    return MOMENTS.get(job.candidate.optimizer, ("momentum",))


def flat_buffers(net: Net, tensors: Mapping[str, npt.NDArray[Any]]) -> Floats:
    return pack(tensors, "buffers", net.buffers, sum(buffer.size for buffer in net.buffers))


def order_half(n: int) -> int:
    """Return the bits of a half of the data order's permutation."""
    return max(1, ((n - 1).bit_length() + 1) // 2)


def order_keys(seed: int, epoch: int) -> list[int]:
    """Return the round keys of `base.data_order`."""
    key = rng.derive(seed, "order", epoch)
    return [rng.derive(key, turn) for turn in range(rng.FEISTEL_ROUNDS)]


def dropout_prefixes(job: Job) -> npt.NDArray[np.uint32]:
    """Return the part of `base.dropout_key` in front of the step, one for each dropout."""
    nodes = dropout_nodes(job.net)
    prefixes = [rng.derive(job.seed, DROPOUT_KEY, node) for node in nodes]
    return np.array([*prefixes, 0], dtype=np.uint32)
