"""Tensors in one flat array, as compiled code reads them and as golfing counts weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Floats, Tensors, evaluated
from golf_opt.task.arch import Net
from golf_opt.task.layers import Parameter

ALIGNMENT = 64  # bytes of a cache line and of the widest vector


def aligned(count: int, dtype: type[np.generic] = np.float32) -> npt.NDArray[Any]:
    """Return zeros that start at a cache line."""
    size = count * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype)


def pack(
    tensors: Tensors,
    kind: str,
    of: Sequence[Parameter],
    count: int | None = None,
    missing: float = 0.0,
) -> Floats:
    """Return `<kind>/<name>` of all tensors in one array of `count` float32, or of their size."""
    flat = aligned(sum(tensor.size for tensor in of) if count is None else count)
    at = 0
    for tensor in of:
        values = tensors.get(f"{kind}/{tensor.name}")
        flat[at : at + tensor.size] = missing if values is None else np.ravel(values)
        at += tensor.size
    return flat


def unpack(flat: Floats, kind: str, of: Sequence[Parameter]) -> Tensors:
    """Return the tensors of a flat array by name, as views of it."""
    tensors: Tensors = {}
    at = 0
    for tensor in of:
        tensors[f"{kind}/{tensor.name}"] = flat[at : at + tensor.size].reshape(tensor.shape)
        at += tensor.size
    return tensors


@dataclass(frozen=True)
class Layout:
    """How the tensors of a trial lie in one array: weights, two moments, buffers, averages.

    Each of the first three takes `padded` floats, used or not; `kinds` says which are. Averages of
    weights and buffers, if there are any, lie like those, from a cache line on.
    """

    net: Net
    kinds: tuple[str, ...]  # `weights`, and the moments that the optimiser keeps
    padded: int
    averages: bool = False

    @property
    def num_buffers(self) -> int:
        return sum(buffer.size for buffer in self.net.buffers)

    @property
    def average_at(self) -> int:
        """Where the averages begin."""
        floats = ALIGNMENT // 4
        return -(-(3 * self.padded + self.num_buffers) // floats) * floats

    def join(self, tensors: Tensors) -> Floats:
        """Return all tensors in one array.

        What is missing is zero; averages are the weights and buffers themselves.
        """
        end = 3 * self.padded + self.num_buffers
        more = self.average_at + self.padded + self.num_buffers
        flat = aligned(more if self.averages else end)
        for row, kind in enumerate(self.kinds):
            at = row * self.padded
            flat[at : at + self.padded] = pack(tensors, kind, self.net.parameters, self.padded)
        flat[3 * self.padded : end] = pack(tensors, "buffers", self.net.buffers)
        if self.averages:
            begun = evaluated(tensors)
            weights, buffers = self.evaluated(flat)
            weights[:] = pack(begun, "weights", self.net.parameters, self.padded)
            buffers[:] = pack(begun, "buffers", self.net.buffers)
        return flat

    def evaluated(self, flat: Floats) -> tuple[Floats, Floats]:
        """Return the weights, padded, and the buffers that are evaluated, as views."""
        weights, buffers = 0, 3 * self.padded
        if self.averages:
            weights, buffers = self.average_at, self.average_at + self.padded
        return flat[weights:][: self.padded], flat[buffers:][: self.num_buffers]

    def split(self, flat: Floats) -> Tensors:
        """Return the tensors by name, as views of the array."""
        tensors = unpack(flat[3 * self.padded :], "buffers", self.net.buffers)
        for row, kind in enumerate(self.kinds):
            tensors |= unpack(flat[row * self.padded :], kind, self.net.parameters)
        if self.averages:
            weights, buffers = self.evaluated(flat)
            tensors |= unpack(weights, "average", self.net.parameters)
            tensors |= unpack(buffers, "average", self.net.buffers)
        return tensors
