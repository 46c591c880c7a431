"""What this machine's processor is used for: a lane for each core, images side by side."""

from __future__ import annotations

import os
from pathlib import Path

CPU_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def physical_cores() -> int:
    """Return the physical cores that this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed is None:
        return os.cpu_count() or 1
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add(Path(CPU_SIBLINGS.format(cpu)).read_text())
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)


def images_wide(batch_size: int, width: int) -> int:
    """Return how many images to lay side by side in vectors of `width` floats.

    Fewer than fill a vector waste less of small batches, but their vectors span several positions
    of a row, whose ends and shuffles cost a little.
    """

    def cost(images: int) -> float:
        lanes = -(-batch_size // images) * images
        return lanes * (1 + 0.1 * (width // images).bit_length())

    return min((width >> k for k in range(3) if width >> k >= min(4, width)), key=cost)
