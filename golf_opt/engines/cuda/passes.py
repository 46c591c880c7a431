"""One pass of a net on the device: to count what it gets right, or for a batch's gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from golf_opt.engines.base import Tensors
from golf_opt.engines.cuda.devices import Buffer, Device, Program, put
from golf_opt.engines.cuda.lanes import Images
from golf_opt.engines.cuda.structs import BATCHED, LANE
from golf_opt.engines.flat import Layout, unpack
from golf_opt.engines.native.codegen import dropout_nodes
from golf_opt.task.arch import Net
from golf_opt.task.data import Split


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
        self._lane["num_buffers"] = flat.size - 3 * info.padded
        self._lane["num_dropouts"] = len(dropout_nodes(net))

    def correct(self, split: Split) -> int:
        """Return how many images get their label."""
        info = self._program.info
        blocks = min(self._device.cores, -(-len(split) // info.images))
        counts = self._device.allocate(8 * blocks)
        self._run("golf_correct", 1 if info.place else blocks, split, counts)
        return int(counts.read().view(np.int64).sum())

    def gradients(
        self, batch: Split, label_smoothing: float, dropout_keys: Sequence[int]
    ) -> tuple[float, Tensors]:
        """Return the mean loss over one batch, `gradients/...` of it and `buffers/...` after it."""
        n, net, padded = len(batch), self._net, self._program.info.padded
        self._lane["label_smoothing"] = label_smoothing
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
