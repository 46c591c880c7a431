"""The figure of parameters against accuracy: studies, kept records, and what others published."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optuna.trial import FrozenTrial

from golf_opt.utils.files import read_regular
from golf_opt.utils.points import seeds_of
from golf_opt.utils.text import count
from golf_opt.utils.trials import attribute
from golf_opt.visualization.plots import (
    BLACK,
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

MOST_FRONTS = 5  # in the figure of them over time, the newest


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

    Nets of the front have a bar, the 95 % interval of their mean, where the noise of seeds is
    known; those that were confirmed have one of fresh seeds instead.

    Args:
        study: of a family of nets; of any other there is no such figure.
        records: of ours, shown with what others published where the data is MNIST.
    """
    if not study.net_front:
        return None
    nets = [_net(row.trial, size) for size, row in study.sized]
    front = [
        (_net(trial, size), None if trial.number in study.fresh else study.half_interval(trial))
        for size, trial in study.net_front
    ]
    confirmed = [_confirmed(row.trial, size, study) for size, row in study.sized]
    fresh = [row for row in confirmed if row is not None]
    beside = _beside(study.data, records)
    series = [_points(f"nets ({len(nets):,})", nets, BLUE, "circle", 0.35), *beside]
    series += _with_bars("front, 95 %", front, ORANGE)
    series += _with_bars("confirmed, 95 %", fresh, BLACK) if fresh else []
    y_range = _where_fronts_are(front, fresh, beside)
    return Figure(
        "front",
        f"Parameters against accuracy on {study.data}, nets: {len(nets):,}",
        _words_of_front(study, sum(net.accuracy < y_range[0] for net in nets), bool(beside)),
        [Panel("parameters", "accuracy (%)", series, log_x=True, y_range=y_range)],
    )


Barred = tuple[KnownNet, float | None]  # a net, and half the length of its bar in [0, 1]


def _net(trial: FrozenTrial, size: int) -> KnownNet:
    seeds = f", mean of {n} seeds" if (n := seeds_of(trial)) > 1 else ""
    return KnownNet(f"trial {trial.number}{seeds}", size, 100 * value_of(trial))


def _confirmed(trial: FrozenTrial, size: int, study: StudySnapshot) -> Barred | None:
    """Return what fresh seeds gave of a net, if any were tried."""
    fresh = study.fresh.get(trial.number)
    if fresh is None:
        return None
    words = f"trial {trial.number}, mean of {count(fresh.ours.n, 'fresh seed')}"
    return KnownNet(words, size, 100 * fresh.ours.mean), study.half_of(fresh)


def _with_bars(name: str, rows: Sequence[Barred], colour: str) -> list[Series]:
    """Return the front of nets as a line, and each of them with its bar."""
    nets = [net for net, _ in rows]
    bars = [None if half is None else 100 * half for _, half in rows]
    points = _points(name, nets, colour, "circle")
    return [_front(nets, name, colour), replace(points, errors=bars)]


def _where_fronts_are(
    front: Sequence[Barred], fresh: Sequence[Barred], beside: Sequence[Series]
) -> tuple[float, float]:
    """Return a range of percent that the better half of the front has room in.

    The smallest nets are so much worse that with all of them the others would be one line.
    """
    heights = sorted(net.accuracy for net, _ in (*front, *fresh))
    top, middle = heights[-1], statistics.median(heights)
    low = max(heights[0], top - max(3.0 * (top - middle), 1.0))
    ends = [net.accuracy + 100 * (half or 0.0) for net, half in fresh]
    others = [height for series in beside for height in series.y if height is not None]
    high = max([top, *ends, *others])
    margin = 0.05 * (high - low)
    return low - margin, min(100.0, high + margin)


def _words_of_front(study: StudySnapshot, below: int, beside: bool) -> str:
    """Return the caption: what is measured, by whom, and what is not to be seen."""
    words = f"{study.goal.name.capitalize()} after {count(study.epochs, 'epoch')}. "
    ways = {(fresh.ours.n, fresh.epochs) for fresh in study.fresh.values()}
    if ways:
        (fewest, shortest), (most, longest) = min(ways), max(ways)
        seeds = f"{fewest} to " if fewest < most else ""
        epochs = f"{shortest} to " if shortest < longest else ""
        words += f"Confirmed: mean of {seeds}{count(most, 'fresh seed')}, "
        words += f"{epochs}{count(longest, 'epoch')}. "
    else:
        words += "The best of many is lucky too: golf-opt confirm says by how much. "
    words += "Published nets and records: test accuracy. " if beside else ""
    return words + (f"{count(below, 'net')} below what is shown." if below else "")


def _beside(data: str, records: Sequence[KnownNet]) -> list[Series]:
    """Return what others published, and our records, where the data is MNIST."""
    if data != "mnist":
        return []
    dense = [net for net in PUBLISHED if not net.pruned]
    pruned = [net for net in PUBLISHED if net.pruned]
    series = [_points("published", dense, GREY, "square")]
    series.append(_points("pruned", pruned, PINK, "diamond"))
    if records:
        series.append(_points("records here", records, GREEN, "diamond"))
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


def front_over_time(records: Sequence[tuple[datetime.date, KnownNet]]) -> Figure:
    """Nets of the records, and the front of them and of what others published, as it moved.

    Args:
        records: each with the day since when it is known.
    """
    fronts = [("front before", list(PUBLISHED))]
    for day in sorted({day for day, _ in records}):
        nets = [*PUBLISHED, *(net for since, net in records if since <= day)]
        fronts.append((f"front on {day}", nets))
    shown = fronts[-MOST_FRONTS:]
    series: list[Series] = []
    for place, (name, nets) in enumerate(shown, 1):
        by_size = sorted(nets, key=lambda net: (net.count, -net.accuracy))
        newest = place == len(shown)
        line = _front(by_size, name, ORANGE if newest else PALETTE[4])
        look = (0.8, 6.0) if newest else (0.5 + 0.5 * place / len(shown), 2.2)
        # the newest is the broadest, and older ones lie upon it
        series.insert(0, replace(line, opacity=look[0], line=look[1]))
    series += _beside("mnist", [net for _, net in records])
    return Figure(
        "front",
        "Non-zero parameters against test accuracy on MNIST",
        "No net known on a day had both fewer non-zero parameters and a higher accuracy than its "
        "front. Published nets have no day: they were there before.",
        [Panel("non-zero parameters", "test accuracy (%)", series, log_x=True)],
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
    return replace(_points(name, front, colour, "circle"), line=2.0, step=True)


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
