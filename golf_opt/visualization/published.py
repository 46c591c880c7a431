"""Figures that others published for MNIST, and the noise of seeds that was measured here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

SEED_SD = 0.0028  # of final test accuracy: c4-5-4, 18 epochs, the article's optimum, 24 seeds


@dataclass(frozen=True)
class Published:
    """A net that somebody described, with the accuracy (percent, on test) that they gave."""

    label: str
    count: int  # parameters; non-zero ones if it is pruned
    accuracy: float
    pruned: bool = False


PUBLISHED = (
    Published("article: 8,5,4 by hand", 1055, 98.06),
    Published("article's author: 7,5,4", 993, 98.12),
    Published("article's author: 6,5,4", 931, 98.12),
    Published("article's author: 5,5,4", 869, 98.14),
    Published("article: c4-5-4, ReLU", 807, 98.16),
    Published("article: c4-5-4, PReLU", 820, 98.39),
    Published("article: ReLU, pruned", 672, 98.00, pruned=True),
    Published("article: PReLU, pruned", 575, 98.00, pruned=True),
    Published("depthwise-separable stack", 697, 99.03),
    Published("one separable block three times", 1936, 99.1),
)


def kept_records(folder: Path) -> list[Published]:
    """Return our own records of MNIST in studies/records, non-zero parameters and test accuracy.

    A record that cannot be read is left out here; `golf-opt verify` says what is wrong with it.
    """
    points = []
    for path in sorted(folder.glob("*/*/record.json")):
        try:
            record = json.loads(path.read_text())
            test, params = record["splits"]["test"], record["params"]
            if record["data"]["name"] == "mnist":
                label, accuracy = f"record: {record['name']}", 100 * test["correct"] / test["of"]
                pruned = params["nz"] < params["dense"]
                points.append(Published(label, int(params["nz"]), accuracy, pruned))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return points
