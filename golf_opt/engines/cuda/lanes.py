"""What a lane of the CUDA engine is, on the host and in the device's memory, training or not."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines import background, base
from golf_opt.engines.base import Floats, Tensors
from golf_opt.engines.cuda.devices import Buffer, Device, Program, put
from golf_opt.engines.flat import Layout, unpack
from golf_opt.engines.native import passes
from golf_opt.engines.native.codegen import dropout_nodes
from golf_opt.engines.native.table import Criterion, Distortion, Update
from golf_opt.engines.order import Places, places_of
from golf_opt.task.arch import Net
from golf_opt.task.data import Split
from golf_opt.task.recipe import average_rates, learning_rates

WINDOW = 4  # epochs that a launch may go through

# The structures that kernel/slice.hpp shares with the host, field by field.

LIMIT, DONE, _, NOT_FINITE = range(4)  # `golf::Outcome`

DATA = np.dtype([("images", "u8"), ("labels", "u8"), ("soft", "u8"), ("n", "i8")], align=True)
EPOCH = np.dtype(
    [
        ("rates", "u8"),
        ("order_keys", "u4", 8),
        ("average_rates", "u8"),
        ("distortion", "u4", ctypes.sizeof(Distortion) // 4),
        ("order", "u8"),
        ("worth", "u8"),
    ],
    align=True,
)
RESULT = np.dtype(
    [("loss_sum", "f8"), ("time_s", "f8"), ("correct", "i8"), ("train_correct", "i8")], align=True
)
LANE = np.dtype(
    [
        *((name, "u8") for name in ("state", "average", "mask", "snapshots", "spill", "epochs")),
        *((name, "u8") for name in ("results", "losses", "dropout_prefixes")),
        *((name, "i8") for name in ("num_epochs", "num_dropouts", "num_buffers", "num_floats")),
        ("batch_size", "i8"),
        *((name, "i8") for name in ("steps_before", "train_last", "step", "epochs_done")),
        *((name, "f8") for name in ("loss_sum", "time_s")),
        ("update", f"V{ctypes.sizeof(Update)}"),
        ("criterion", f"V{ctypes.sizeof(Criterion)}"),
        ("half", "i4"),
        ("outcome", "i4"),
    ],
    align=True,
)
BATCHED = np.dtype(
    [("order", "u8"), ("dropout_keys", "u8"), ("gradients", "u8"), ("loss_sum", "f8")], align=True
)


class Images:
    """A split on the device."""

    def __init__(self, device: Device, split: Split) -> None:
        data = passes.Images.of(split)
        parts = (data.images, data.labels, data.soft)
        self._buffers = [None if part is None else put(device, part) for part in parts]
        addresses = [0 if buffer is None else buffer.address for buffer in self._buffers]
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

    def __init__(self, device: Device, run: Run, n: int) -> None:
        floats, nodes = run.at.flat.size, dropout_nodes(run.job.net)
        steps = base.steps_per_epoch(n, run.job.candidate.batch_size)
        self.rates = device.allocate(8 * steps * WINDOW)
        self.average_rates = device.allocate(8 * steps * WINDOW if run.layout.averages else 0)
        self.state = put(device, run.at.flat)
        self.snapshots = device.allocate(4 * floats * WINDOW)
        self.results = device.allocate(RESULT.itemsize * WINDOW)
        self.epochs = device.allocate(EPOCH.itemsize * WINDOW)
        self.spill = device.allocate(
            run.program.info.spill_bytes(run.job.net, run.job.candidate.batch_size)
        )
        self.dropouts = put(
            device, np.append(base.dropout_prefixes(run.job.seed, nodes), np.uint32(0))
        )
        self.mask = None if run.mask is None else put(device, run.mask)
        self._steps, self._n = steps, n
        self.places = Places(np.empty(0, dtype=np.uint32))  # where the recipe looks at losses
        drawn = 4 * n if run.job.candidate.by_loss else 0
        self.order, self.worth, self.losses = (device.allocate(drawn) for _ in range(3))
        self._planned: range = range(0)

    def plan(self, run: Run) -> None:
        """Write what the next epochs need, unless it is there.

        They are WINDOW many, or one where its losses rule the images of the next.
        """
        ahead = 1 if run.at.hardness else WINDOW
        window = range(run.at.epoch, min(run.at.epoch + ahead, run.until))
        if window == self._planned:
            return
        self._planned = window
        rows, drawn = np.zeros(WINDOW, dtype=EPOCH), self._draw(run)
        for row, epoch in enumerate(window):
            rates = learning_rates(run.job.candidate, epoch, run.job.epochs, self._steps)
            averages = average_rates(run.job.candidate, epoch, run.job.epochs, self._steps)
            offset = 8 * self._steps * row
            self.rates.write(np.asarray(rates, dtype=np.float64), offset)
            if averages is not None:
                self.average_rates.write(averages, offset)
            distortion = Distortion.of(run.job.candidate, run.job.seed, epoch)
            rows[row] = (
                self.rates.address + offset,
                base.order_keys(run.job.seed, epoch),
                self.average_rates.address + offset,
                np.frombuffer(bytes(distortion), np.uint32),
                *drawn,
            )
        self.epochs.write(rows)

    def _draw(self, run: Run) -> tuple[int, int]:
        """Write the images of the next epoch and what they count; return the addresses, or 0."""
        if run.at.hardness is None:
            return 0, 0
        self.places = places_of(run.job, run.at.epoch, self._n, run.at.hardness)
        self.order.write(self.places.images)
        if self.places.worth is None:
            return self.order.address, 0
        self.worth.write(self.places.worth)
        return self.order.address, self.worth.address

    def note_losses(self, run: Run, step: int) -> None:
        """Keep the losses of the images that the last launch trained on, up to a step."""
        if run.at.hardness is not None:
            size = run.job.candidate.batch_size
            done = slice(run.at.step * size, step * size)
            losses = self.losses.read().view(np.float32)
            hardness = run.at.hardness.copy()  # the caller has the other
            hardness.note(self.places.images[done], losses[done])
            run.at = replace(run.at, hardness=hardness)

    def lane(self, run: Run) -> npt.NDArray[Any]:
        """Return the lane as the kernel reads it."""
        candidate, nodes = run.job.candidate, dropout_nodes(run.job.net)
        lane = np.zeros((), dtype=LANE)
        for name in ("state", "snapshots", "spill", "epochs", "results"):
            lane[name] = getattr(self, name).address
        lane["losses"] = self.losses.address if run.at.hardness else 0
        lane["mask"] = self.mask.address if self.mask else 0
        lane["dropout_prefixes"], lane["num_dropouts"] = self.dropouts.address, len(nodes)
        lane["num_epochs"] = len(self._planned)
        lane["num_buffers"] = run.layout.num_buffers
        lane["num_floats"] = run.at.flat.size
        if run.layout.averages:
            lane["average"] = self.state.address + 4 * run.layout.average_at
        lane["batch_size"], lane["step"] = candidate.batch_size, run.at.step
        lane["steps_before"] = run.at.epoch * self._steps
        lane["train_last"] = run.job.epochs - 1 - run.at.epoch
        lane["loss_sum"], lane["time_s"] = run.at.loss_sum, run.at.time_s
        lane["update"] = np.void(bytes(Update.of(candidate)))
        lane["criterion"] = np.void(bytes(Criterion.of(candidate)))
        lane["half"] = base.order_half(self._n)
        return lane

    def finished(self, epochs: int) -> list[tuple[Floats, npt.NDArray[Any]]]:
        """Return the tensors and the RESULT of each epoch that the last launch ended."""
        if epochs == 0:
            return []
        flats = self.snapshots.read().view(np.float32).reshape(WINDOW, -1)
        results = self.results.read().view(RESULT)
        return [(flats[row].copy(), results[row]) for row in range(epochs)]


class SinglePass:
    """A net on the device as a lane that does not train."""

    def __init__(
        self, device: Device, program: Program, net: Net, tensors: Tensors, batch_size: int
    ) -> None:
        self._device, self._program, self._net = device, program, net
        info = program.info
        self._shared_bytes = info.shared_bytes(net, batch_size)
        flat = Layout(net, ("weights",), info.padded).join(tensors)
        self._state = put(device, flat)
        self._spill = device.allocate(info.spill_bytes(net, batch_size))
        self._lane = np.zeros((), dtype=LANE)
        self._lane["state"], self._lane["spill"] = self._state.address, self._spill.address
        self._lane["batch_size"] = batch_size
        self._lane["num_dropouts"] = len(dropout_nodes(net))

    def correct(self, split: Split) -> int:
        """Return how many images get their label."""
        info = self._program.info
        blocks = min(self._device.cores, -(-len(split) // info.images))
        counts = self._device.allocate(8 * blocks)
        self._run("golf_correct", 1 if info.place else blocks, split, counts)
        return int(counts.read().view(np.int64).sum())

    def gradients(
        self,
        batch: Split,
        label_smoothing: float,
        dropout_keys: Sequence[int],
        distill: float = 0.0,
        temperature: float = 1.0,
    ) -> tuple[float, Tensors]:
        """Return the mean loss over one batch, `gradients/...` of it and `buffers/...` after it."""
        n, net, padded = len(batch), self._net, self._program.info.padded
        criterion = Criterion(label_smoothing, distill, temperature)
        self._lane["criterion"] = np.void(bytes(criterion))
        order = put(self._device, np.arange(n, dtype=np.uint32))
        keys = put(self._device, np.array([*dropout_keys, 0], dtype=np.uint32))
        found = self._device.allocate(4 * padded)
        addresses = (order.address, keys.address, found.address)
        batched = put(self._device, np.array((*addresses, 0.0), dtype=BATCHED))
        self._run("golf_gradients", 1, batch, batched)
        loss = float(batched.read().view(BATCHED)["loss_sum"][0]) / n
        after = self._state.read().view(np.float32)[3 * padded :]
        gradients = unpack(found.read().view(np.float32), "gradients", net.parameters)
        return loss, gradients | unpack(after, "buffers", net.buffers)

    def _run(self, function: str, blocks: int, split: Split, output: Buffer) -> None:
        images, lane = Images(self._device, split), put(self._device, self._lane)
        arguments = (lane.address, images.address, output.address)
        with self._device.queue():
            self._program.run(function, blocks, self._shared_bytes, *arguments)
            output.read()  # waits, so that the buffers outlive the work
