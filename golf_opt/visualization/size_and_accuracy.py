"""The figure of parameters against accuracy: studies, kept records, and what others published."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial

from golf_opt.utils.files import read_regular
from golf_opt.utils.stats import Spread
from golf_opt.utils.trials import attribute
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


def front_of_nets(study: StudySnapshot, records: Sequence[KnownNet] = ()) -> Figure | None:
    """Every net of a search, and the front: none has both fewer parameters and more accuracy.

    Nets that were trained on several seeds have a bar, the 95 % interval of their mean.

    Args:
        study: of a family of nets; of any other there is no such figure.
        records: of ours, shown with what others published where the data is MNIST.
    """
    known = [(attribute(t, "num_params", int) or 0, t) for t in study.complete]
    sized = [(size, trial) for size, trial in known if size > 0]
    if not study.goal.accuracy or len({size for size, _ in sized}) < 2:
        return None
    sized.sort(key=lambda row: (row[0], -value_of(row[1])))
    nets = [KnownNet(f"trial {trial.number}", size, 100 * value_of(trial)) for size, trial in sized]
    series = [_points(f"nets of this search ({len(nets)})", nets, BLUE, "circle", 0.35)]
    series += [*_beside(study.data, records), _front(nets, "front", ORANGE)]
    series += _bars(sized)
    top = max(net.accuracy for net in nets)
    y_range = max(min(net.accuracy for net in nets), top - 8.0) - 0.3, min(100.0, top + 1.0)
    return Figure(
        "front",
        f"Parameters against accuracy on {study.data}, nets: {len(nets)}",
        f"{study.goal.name.capitalize()} of every complete trial after {study.epochs} epochs. The "
        "best of many trials is lucky too: golf-opt confirm says by how much.",
        [Panel("parameters", "accuracy (%)", series, log_x=True, y_range=y_range)],
    )


def _bars(sized: Sequence[tuple[int, FrozenTrial]]) -> list[Series]:
    """Return a series of the nets that several seeds were trained of, if there are any."""
    seeds: dict[int, list[float]] = defaultdict(list)
    sizes: dict[int, int] = {}
    for size, trial in sized:
        point = attribute(trial, "point", int)
        point = trial.number if point is None else point
        seeds[point].append(100 * value_of(trial))
        sizes[point] = size
    spreads = {point: Spread(values) for point, values in seeds.items() if len(values) > 1}
    if not spreads:
        return []
    halves = [(s.interval[1] - s.interval[0]) / 2 for s in spreads.values()]
    heights = [spread.mean for spread in spreads.values()]
    labels = [f"trial {point}, mean of {spread.n} seeds" for point, spread in spreads.items()]
    x = [sizes[point] for point in spreads]
    return [Series("mean of seeds, 95 %", x, heights, GREEN, labels=labels, errors=halves)]


def _beside(data: str, records: Sequence[KnownNet]) -> list[Series]:
    """Return what others published, and our records, where the data is MNIST."""
    if data != "mnist":
        return []
    dense = [net for net in PUBLISHED if not net.pruned]
    pruned = [net for net in PUBLISHED if net.pruned]
    series = [_points("published", dense, GREY, "square")]
    series.append(_points("published, pruned: non-zero", pruned, PINK, "diamond"))
    if records:
        series.append(_points("records kept here: non-zero", records, GREEN, "diamond"))
    return series


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
    series = [_front(nets, "front of the studies", BLUE)]
    if peers:
        for index, study in enumerate(studies):
            if study.name in best:
                colour = PALETTE[index % len(PALETTE)]
                series.append(_points(study.name, [best[study.name]], colour, "star"))
    elif others := [net for net in nets if net is not mine]:
        series.append(_points("best of other studies", others, BLUE, "circle"))
    series += _beside(first.data, records)
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
    size = None if study.best is None else attribute(study.best, "num_params", int)
    if study.best is None or not size or size < 0 or study.data != data:
        return None
    if not study.goal.accuracy:
        return None
    label = f"{study.name}: {study.goal.name}, {study.epochs} epochs"
    return KnownNet(label, size, 100 * value_of(study.best))


def _front(nets: Sequence[KnownNet], name: str, colour: str) -> Series:
    """Return the line through the nets, sorted by size, that beat every smaller one."""
    front: list[KnownNet] = []
    for net in nets:
        if not front or net.accuracy > front[-1].accuracy:
            front.append(net)
    sizes, heights = [net.count for net in front], [net.accuracy for net in front]
    return Series(name, sizes, heights, colour, line=2.0, step=True)


def _points(
    name: str, nets: Sequence[KnownNet], colour: str, symbol: str, opacity: float = 1.0
) -> Series:
    return Series(
        name,
        [net.count for net in nets],
        [net.accuracy for net in nets],
        colour,
        opacity=opacity,
        symbol=symbol,
        labels=[net.label for net in nets],
    )
