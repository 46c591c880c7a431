"""The keys of `base.data_order` and `base.dropout_key`, in the form that compiled code takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import DROPOUT_KEY
from golf_opt.task import rng


def order_half(n: int) -> int:
    """Return the bits of one half of the permutation of n images."""
    return max(1, ((n - 1).bit_length() + 1) // 2)


def order_keys(seed: int, epoch: int) -> list[int]:
    """Return the key of each of the permutation's rounds."""
    key = rng.derive(seed, "order", epoch)
    return [rng.derive(key, turn) for turn in range(rng.FEISTEL_ROUNDS)]


def dropout_prefixes(seed: int, nodes: Sequence[int]) -> npt.NDArray[np.uint32]:
    """Return the part of `base.dropout_key` in front of the step, [nodes]."""
    return np.array([rng.derive(seed, DROPOUT_KEY, node) for node in nodes], dtype=np.uint32)


def dropout_keys(
    seed: int, nodes: Sequence[int], steps: npt.NDArray[Any]
) -> npt.NDArray[np.uint32]:
    """Return `base.dropout_key` of many steps at once, [steps, nodes]."""
    prefixes = dropout_prefixes(seed, nodes)
    return rng.mix(steps.astype(np.uint32)[:, None] ^ prefixes) + np.uint32(0x9E3779B9)
