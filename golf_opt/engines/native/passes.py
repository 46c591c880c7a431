"""Passes of a net over images in compiled code, without training: scores, counts, gradients.

Each object has memory of its own, so that each thread can have one.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Floats, Tensors
from golf_opt.engines.flat import aligned, pack
from golf_opt.engines.native.table import Criterion, Library
from golf_opt.task.arch import Net
from golf_opt.task.data import Split

CHUNK = 16  # bytes that the kernel loads at once
NEVER = ctypes.c_int32(0)  # the stop flag of what cannot be stopped


@dataclass
class Images:
    """A split as the kernel reads it: images [n, bytes of one] and labels [n], uint8, contiguous.

    The bytes are [channel][y][x], and zeros up to a whole number of CHUNK. `soft` are a teacher's
    scores [n, classes] float32, where there is one.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    soft: Floats | None = None

    @classmethod
    def of(cls, split: Split) -> Images:
        soft = None if split.soft is None else np.ascontiguousarray(split.soft, dtype=np.float32)
        return cls(_in_chunks(split.images), np.ascontiguousarray(split.labels), soft)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def addresses(self) -> dict[str, int | None]:
        """Where each array is, by its name."""
        soft = None if self.soft is None else self.soft.ctypes.data
        return {"images": self.images.ctypes.data, "labels": self.labels.ctypes.data, "soft": soft}


def _in_chunks(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    rows = np.ascontiguousarray(images).reshape(len(images), math.prod(images.shape[1:]))
    rest = -rows.shape[1] % CHUNK
    return np.pad(rows, ((0, 0), (0, rest))) if rest else rows


class ForwardPass:
    """The forward pass of a net over any number of images; its weights are flat."""

    def __init__(self, net: Net, kernel: Library) -> None:
        self._classes = net.input.classes
        self._kernel = kernel
        self._workspace = aligned(kernel.workspace_bytes(kernel.images), np.uint8)

    def correct(
        self, weights: Floats, buffers: Floats, data: Images, stop: ctypes.c_int32 = NEVER
    ) -> int:
        """Return how many images get their label; what it returns after a stop means nothing."""
        images, labels, _ = data.addresses.values()
        net = (weights.ctypes.data, buffers.ctypes.data)
        end = (ctypes.addressof(stop), self._workspace.ctypes.data)
        return int(self._kernel.correct(images, labels, len(data), *net, *end))

    def scores(self, weights: Floats, buffers: Floats, images: npt.NDArray[np.uint8]) -> Floats:
        """Return the class scores of images [n, channels, height, width], [n, classes] float32."""
        images = _in_chunks(images)
        scores = np.empty((len(images), self._classes), dtype=np.float32)
        arrays = (weights, buffers, self._workspace, scores)
        self._kernel.scores(images.ctypes.data, len(images), *(a.ctypes.data for a in arrays))
        return scores


class BackwardPass:
    """The gradients of a net over one batch after the other, each of at most `batch_size` images.

    `buffers` are the net's, as the batches leave them.
    """

    def __init__(self, net: Net, tensors: Tensors, kernel: Library, batch_size: int) -> None:
        self._kernel = kernel
        self._weights = pack(tensors, "weights", net.parameters, kernel.padded_params)
        self.buffers = pack(tensors, "buffers", net.buffers)
        self._workspace = aligned(kernel.workspace_bytes(batch_size), np.uint8)

    def run(
        self,
        data: Images,
        order: npt.NDArray[np.uint32],
        keys: npt.NDArray[np.uint32],
        criterion: Criterion,
        gradients: Floats,
    ) -> float:
        """Write the gradients of the images of `order`; return their mean loss."""
        given = (*data.addresses.values(), len(order))
        net = (array.ctypes.data for array in (self._weights, self.buffers, keys))
        rest = (array.ctypes.data for array in (order, self._workspace, gradients))
        return float(self._kernel.gradients(*given, *net, ctypes.addressof(criterion), *rest))
