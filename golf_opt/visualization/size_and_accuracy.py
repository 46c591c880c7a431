"""The figure of parameters against accuracy: studies, kept records, and what others published."""

from __future__ import annotations

from collections.abc import Sequence

from golf_opt.visualization.figures import BLUE, GREEN, GREY, ORANGE, PINK, Figure, Panel, Series
from golf_opt.visualization.published import PUBLISHED, KnownNet
from golf_opt.visualization.snapshot import StudySnapshot, value_of


def parameters_and_accuracy(
    studies: Sequence[StudySnapshot], records: Sequence[KnownNet] = ()
) -> Figure | None:
    """Each study's best against its number of parameters, on one data set; what others published.

    The line is the front: no study here has both fewer parameters and a higher accuracy.
    """
    first = studies[0]
    best = {study.name: net for study in studies if (net := _best_net(study, first.data))}
    if not best:
        return None
    nets = sorted(best.values(), key=lambda net: (net.count, -net.accuracy))
    mine = best.get(first.name)
    series = [_front(nets)]
    if others := [net for net in nets if net is not mine]:
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
    label = f"{study.name}: {study.objective}, {study.epochs} epochs"
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
