"""What compiling costs in a search over nets: core seconds for each net as the cache fills.

    python -m bench.pieces [--nets 300] [--batch-size 8]

Random separable nets, each one's kernels for training and for evaluation, into an empty cache. No
net is trained: the figure is the processor time of the compiler alone.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
from pathlib import Path
from typing import Any

from golf_opt.engines.native import library
from golf_opt.engines.native.engine import images_wide
from golf_opt.task.arch import Net, build_net

CHANNELS = (2, 3, 4, 5, 6, 8, 10, 12, 16)
PARTS = (10, 30, 100, 300, 1000)  # nets so far


def random_net(draw: random.Random) -> Net:
    """Return 3 to 6 separable blocks with two pools among them, 28 -> 14 -> 7, and a linear layer.

    Of a name that is the same for all, as in a search.
    """
    depth = draw.randint(3, 6)
    pools = set(draw.sample(range(depth), 2))
    layers: list[dict[str, Any]] = []
    for block in range(depth):
        layers += [
            {"kind": "depthwise", "kernel": 3, "padding": "same"},
            {"kind": "pointwise", "channels": draw.choice(CHANNELS)},
            {"kind": "relu"},
        ]
        layers += [{"kind": "max_pool"}] if block in pools else []
    return build_net(
        {"name": "random", "layers": [*layers, {"kind": "linear", "features": "classes"}]}
    )


def core_s() -> float:
    """Return the processor time of all ended compilers."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=8)
    given = parser.parse_args()
    _, width = library.vectors()
    draw, before, first = random.Random(0), core_s(), 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GOLF_CACHE"] = folder
        for count in range(1, given.nets + 1):
            net = random_net(draw)
            library.load(net, images_wide(given.batch_size, width), width)
            library.load(net, width, width, trains=False)
            if count in PARTS or count == given.nets:
                after, files = core_s(), len(list(Path(folder).glob("*.so")))
                each = (after - before) / (count - first)
                print(f"nets {first + 1:4} to {count:4}: {each:5.2f} core s each, {files} pieces")
                before, first = after, count


if __name__ == "__main__":
    main()
