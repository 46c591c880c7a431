"""A trial's learning curve as SVG.

Written here and not by a plotting library for one reason: a trial of a tiny net takes two seconds
of a core, and matplotlib's 50 ms a picture (0.1 s with its layout engine) were the largest cost
outside of training. This takes 0.2 ms and 3 KB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

# Okabe and Ito's palette, told apart by colour-blind readers too
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 570, 50, 320  # of the frame
TICKS = 5


def learning_curve(title: str, accuracies: Sequence[float], losses: Sequence[float]) -> str:
    """Return accuracy (percent, left axis) and training loss (right axis) against the epoch.

    Args:
        title: above the frame; escaped.
        accuracies: after each epoch, shares in [0, 1].
        losses: of each epoch, in nats; as many.
    """
    percents = [100 * accuracy for accuracy in accuracies]
    left, right = ticks(min(percents), max(percents)), ticks(min(losses), max(losses))
    last = len(percents)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 28, escape(title), "middle", "black", 'font-size="16"'),
        _text((LEFT + RIGHT) / 2, HEIGHT - 18, "epoch", "middle", "black"),
        _text(20, TOP - 12, "accuracy (%), circles", "start", BLUE),
        _text(WIDTH - 10, TOP - 12, "training loss (nats), squares", "end", ORANGE),
    ]
    for value in left:
        y = _scale(value, left, BOTTOM, TOP)
        parts += [
            _line(LEFT, y, RIGHT, y, "#dddddd"),
            _text(LEFT - 8, y + 4, f"{value:g}", "end", BLUE),
        ]
    parts += [
        _text(RIGHT + 8, _scale(value, right, BOTTOM, TOP) + 4, f"{value:g}", "start", ORANGE)
        for value in right
    ]
    parts += [
        _text(_x(epoch, last), BOTTOM + 20, str(epoch), "middle", GREY)
        for epoch in sorted({*range(1, last + 1, math.ceil(last / 10)), last})
    ]
    parts.append(
        f'<rect x="{LEFT}" y="{TOP}" width="{RIGHT - LEFT}" height="{BOTTOM - TOP}" '
        f'fill="none" stroke="{GREY}"/>'
    )
    loss_points = [(_x(i, last), _scale(v, right, BOTTOM, TOP)) for i, v in enumerate(losses, 1)]
    points = [(_x(i, last), _scale(v, left, BOTTOM, TOP)) for i, v in enumerate(percents, 1)]
    parts.append(_curve(loss_points, ORANGE, 'stroke-dasharray="5 4"'))
    parts += [
        f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="{ORANGE}"/>'
        for x, y in loss_points
    ]
    parts.append(_curve(points, BLUE))
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{BLUE}"/>' for x, y in points]
    return "\n".join([*parts, "</svg>"])


def ticks(low: float, high: float) -> list[float]:
    """Return round values, evenly spaced, from at most `low` to at least `high`."""
    span = max(high - low, 1e-3 * max(abs(high), 1.0))
    raw = span / TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [round(step * i, 10) for i in range(first, last + 1)]


def _scale(value: float, axis: Sequence[float], at_first: float, at_last: float) -> float:
    return at_first + (value - axis[0]) / (axis[-1] - axis[0]) * (at_last - at_first)


def _x(epoch: int, last: int) -> float:
    margin = 20
    share = (epoch - 1) / (last - 1) if last > 1 else 0.5
    return LEFT + margin + share * (RIGHT - LEFT - 2 * margin)


def _text(x: float, y: float, text: str, anchor: str, colour: str, extra: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}" {extra}>{text}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _curve(points: Sequence[tuple[float, float]], colour: str, extra: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" {extra}/>'
