"""What a figure is, as plain data: plots.py draws it for a browser or on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's palette, told apart by colour-blind readers too
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#888888"
PALETTE = (BLUE, ORANGE, GREEN, PINK, "#56B4E9", "#E69F00", "#000000")


@dataclass(frozen=True)
class Series:
    """Points, or a line with gaps where y is None."""

    name: str
    x: Sequence[Any]
    y: Sequence[float | None]
    colour: str
    line: float = 0.0  # width in pixels; 0: points
    opacity: float = 1.0
    symbol: str = "circle"  # circle, square, diamond, star, x
    labels: Sequence[str] = ()  # of each point, told on hovering
    step: bool = False  # a line that goes sideways, then up


@dataclass(frozen=True)
class Panel:
    x_title: str
    y_title: str
    series: Sequence[Series]
    log_x: bool = False
    y_range: tuple[float, float] | None = None
    band: tuple[float, float] | None = None  # of y, shaded
    y_ticks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Figure:
    key: str  # letters and hyphens: the figure's id in a page
    title: str
    caption: str
    panels: Sequence[Panel]
