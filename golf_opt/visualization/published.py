"""Nets of known size and accuracy on MNIST: what others published, and our records."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KnownNet:
    """A net that somebody described, with the accuracy (percent, on test) that they gave."""

    label: str
    count: int  # parameters; non-zero ones if it is pruned
    accuracy: float
    pruned: bool = False


PUBLISHED = (
    KnownNet("article: 8,5,4 by hand", 1055, 98.06),
    KnownNet("article's author: 7,5,4", 993, 98.12),
    KnownNet("article's author: 6,5,4", 931, 98.12),
    KnownNet("article's author: 5,5,4", 869, 98.14),
    KnownNet("article: c4-5-4, ReLU", 807, 98.16),
    KnownNet("article: c4-5-4, PReLU", 820, 98.39),
    KnownNet("article: ReLU, pruned", 672, 98.00, pruned=True),
    KnownNet("article: PReLU, pruned", 575, 98.00, pruned=True),
    KnownNet("depthwise-separable stack", 697, 99.03),
    KnownNet("one separable block three times", 1936, 99.1),
)


def kept_records(folder: Path) -> list[KnownNet]:
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
                points.append(KnownNet(label, int(params["nz"]), accuracy, pruned))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return points
