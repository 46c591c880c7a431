"""Counting what is left of a net: non-zero parameters, shared tensors once, dead ones noted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golf_opt.engines.base import Tensors
from golf_opt.golf.dead import clear
from golf_opt.task.arch import Net


@dataclass(frozen=True)
class TensorCount:
    """One trained tensor."""

    name: str
    size: int
    nz: int


@dataclass(frozen=True)
class Count:
    """The trained numbers of a net; `dead` of the `nz` non-zero ones cannot change the output."""

    size: int
    nz: int
    dead: int
    tensors: tuple[TensorCount, ...]


def count(net: Net, tensors: Tensors) -> Count:
    """Count `weights/...` that are not zero; a tensor that several layers share counts once."""
    rows = tuple(
        TensorCount(p.name, p.size, int(np.count_nonzero(tensors[f"weights/{p.name}"])))
        for p in net.parameters
    )
    nz = sum(row.nz for row in rows)
    return Count(net.num_params, nz, nz - num_nonzero(net, clear(net, tensors)), rows)


def num_nonzero(net: Net, tensors: Tensors) -> int:
    """Return how many trained numbers are not zero."""
    return sum(int(np.count_nonzero(tensors[f"weights/{p.name}"])) for p in net.parameters)
