"""The figure of parameters against accuracy: studies, kept records, and what others published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from golf_opt.utils.files import read_regular
from golf_opt.visualization.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    PINK,
    Figure,
    Panel,
    Series,
)
from golf_opt.visualization.snapshot import StudySnapshot, value_of


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
            record = json.loads(read_regular(path))
            test, params = record["splits"]["test"], record["params"]
            if record["data"]["name"] == "mnist":
                label, accuracy = f"record: {record['name']}", 100 * test["correct"] / test["of"]
                pruned = params["nz"] < params["dense"]
                points.append(KnownNet(label, int(params["nz"]), accuracy, pruned))
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
            continue
    return points


def parameters_and_accuracy(
    studies: Sequence[StudySnapshot], records: Sequence[KnownNet] = (), peers: bool = False
) -> Figure | None:
    """Each study's best against its number of parameters, on one data set; what others published.

    The line is the front: no study here has both fewer parameters and a higher accuracy.

    Args:
        studies: the first is the one that the figure is about, and its data set is shown.
        records: of ours.
        peers: it is about all of them alike, and each has its name and colour.
    """
    first = studies[0]
    best = {study.name: net for study in studies if (net := _best_net(study, first.data))}
    if not best:
        return None
    nets = sorted(best.values(), key=lambda net: (net.count, -net.accuracy))
    mine = None if peers else best.get(first.name)
    series = [_front(nets)]
    if peers:
        for index, study in enumerate(studies):
            if study.name in best:
                colour = PALETTE[index % len(PALETTE)]
                series.append(_points(study.name, [best[study.name]], colour, "star"))
    elif others := [net for net in nets if net is not mine]:
        series.append(_points("best of other studies", others, BLUE, "circle"))
    if first.data == "mnist":
        dense = [net for net in PUBLISHED if not net.pruned]
        pruned = [net for net in PUBLISHED if net.pruned]
        series.append(_points("published", dense, GREY, "square"))
        series.append(_points("published, pruned: non-zero", pruned, PINK, "diamond"))
        if records:
            series.append(_points("records kept here: non-zero", records, GREEN, "diamond"))
    if mine is not None:
        series.append(_points("best of this study", [mine], ORANGE, "star"))
    low, top = min(net.accuracy for net in nets), max(net.accuracy for net in nets)
    y_range = max(low, top - 10.0) - 0.5, min(100.0, max(top, 99.2) + 0.3)
    return Figure(
        "parameters-and-accuracy",
        f"Parameters against accuracy on {first.data}, studies: {len(nets)}",
        "The best trial of each study, n = 1 seed: the luck of many trials is in it. "
        "Squares and diamonds: what others published, and records.",
        [Panel("parameters", "accuracy (%)", series, log_x=True, y_range=y_range)],
    )


def _best_net(study: StudySnapshot, data: str) -> KnownNet | None:
    if study.best is None or not study.num_params or study.data != data:
        return None
    if not study.goal.accuracy:
        return None
    label = f"{study.name}: {study.goal.name}, {study.epochs} epochs"
    return KnownNet(label, study.num_params, 100 * value_of(study.best))


def _front(nets: Sequence[KnownNet]) -> Series:
    """Return the line through the nets, sorted by size, that beat every smaller one."""
    front: list[KnownNet] = []
    for net in nets:
        if not front or net.accuracy > front[-1].accuracy:
            front.append(net)
    sizes, heights = [net.count for net in front], [net.accuracy for net in front]
    return Series("front of the studies", sizes, heights, BLUE, line=2.0, step=True)


def _points(name: str, nets: Sequence[KnownNet], colour: str, symbol: str) -> Series:
    return Series(
        name,
        [net.count for net in nets],
        [net.accuracy for net in nets],
        colour,
        symbol=symbol,
        labels=[net.label for net in nets],
    )
