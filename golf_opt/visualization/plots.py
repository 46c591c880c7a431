"""Figures as plain data; drawn as Plotly's JSON for the dashboard, and as SVG on paper."""

from __future__ import annotations

import io
import json
import math
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Okabe and Ito's palette, told apart by colour-blind readers too
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#888888"
BLACK = "#000000"
PALETTE = (BLUE, ORANGE, GREEN, PINK, "#56B4E9", "#E69F00", BLACK)
PAPER_SYMBOLS = {"circle": "o", "square": "s", "diamond": "D", "star": "*"}
PAPER_STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
    "text.parse_math": False,  # a $ in a study's name is a dollar
    "svg.hashsalt": "golf-opt",  # the same figure is the same file
}
SCREEN_PX = 450  # how high optuna-dashboard shows a figure, whatever the figure says
HEAD_PX, AXIS_PX = 46, 46  # the title above the panels, and the axis below them
LINE_PX = 19  # of the caption, and of the legend
# letters in a line of the title and of the caption, in a window and on a phone
WINDOW, PHONE = (66, 105), (38, 54)
# of Plotly's buttons those stay that a mouse cannot do without: they cover the title
NO_BUTTONS = ("select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d")
# ticks of a decade of a logarithmic axis, the most first
ROUND = (
    (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
    (1, 2, 3, 4, 5, 6, 8),
    (1, 2, 3, 5, 7),
    (1, 2, 5),
    (1, 3),
    (1,),
)
GAP_PX = 52  # between two rows of panels, for the axis of the upper one
_one_at_a_time = threading.Lock()  # matplotlib's settings belong to the process


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
    errors: Sequence[float | None] = ()  # half the length of a bar through each point


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


def plotly_json(figure: Figure, phone: bool = False) -> str:
    """Return the figure as optuna-dashboard keeps Plotly's; written without importing Plotly.

    Args:
        figure: to draw.
        phone: whether it is for a narrow screen.
    """
    rows, columns = screen_grid(len(figure.panels))
    of_title, of_caption = PHONE if phone else WINDOW
    titles, caption = (
        textwrap.wrap(text, most)
        for text, most in ((figure.title, of_title), (figure.caption, of_caption))
    )
    title = "<br>".join([*titles, *(f"<sub>{line}</sub>" for line in caption)])
    head = HEAD_PX + LINE_PX * (len(titles) - 1 + len(caption))
    legend = list(dict.fromkeys(row.name for panel in figure.panels for row in panel.series))
    foot = AXIS_PX + LINE_PX * math.ceil(len(legend) / (2 if phone else 3))
    body = SCREEN_PX - head - foot
    lines = {"gridcolor": "#e5e5e5", "zeroline": False}
    layout: dict[str, Any] = {
        "title": {
            "text": title,
            "font": {"size": 13 if phone else 15},
            "x": 0.02,
            "xanchor": "left",
            "yref": "container",
            "y": 1 - 16 / SCREEN_PX,
            "yanchor": "top",
        },
        "height": SCREEN_PX,
        "margin": {"l": 42 if phone else 60, "r": 8 if phone else 20, "t": head, "b": foot},
        "modebar": {"remove": NO_BUTTONS},
        "template": "none",
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "font": {"color": "#222222"},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": -AXIS_PX / body, "yanchor": "top", "x": 0},
        "shapes": [],
    }
    if phone:
        layout["legend"]["font"] = {"size": 9}
    data: list[dict[str, Any]] = []
    for index, panel in enumerate(figure.panels):
        suffix = "" if index == 0 else str(index + 1)
        row, column = divmod(index, columns)
        layout[f"xaxis{suffix}"] = {
            "title": {"text": panel.x_title, "standoff": 4},
            "type": "log" if panel.log_x else None,
            "domain": _part(column, columns, 0.08),
            "anchor": f"y{suffix}",
            **lines,
            "nticks": 10 // columns,
        }
        if panel.log_x and columns > 1:
            layout[f"xaxis{suffix}"] |= {"dtick": 1, "exponentformat": "power"}
        elif panel.log_x:
            places = round_numbers(panel, 5 if phone else 9)
            words = [f"{place:,g}" for place in places]
            layout[f"xaxis{suffix}"] |= {"tickvals": places, "ticktext": words}
        layout[f"yaxis{suffix}"] = {
            "title": {"text": panel.y_title if column == 0 else ""},
            "range": panel.y_range,
            "domain": _part(rows - 1 - row, rows, GAP_PX / body),
            "anchor": f"x{suffix}",
            **lines,
        }
        if panel.y_ticks:
            at, named = zip(*panel.y_ticks, strict=True)
            layout[f"yaxis{suffix}"] |= {"tickvals": at, "ticktext": named}
        if panel.band:
            layout["shapes"].append(
                {
                    "type": "rect",
                    "layer": "below",
                    "xref": f"x{suffix} domain",
                    "yref": f"y{suffix}",
                    "x0": 0,
                    "x1": 1,
                    "y0": panel.band[0],
                    "y1": panel.band[1],
                    "fillcolor": "#E69F00",
                    "opacity": 0.18,
                    "line": {"width": 0},
                }
            )
        for series in panel.series:
            shown = series.name in legend
            data.append(_trace(series, suffix) | {"showlegend": shown})
            if shown:
                legend.remove(series.name)
    return json.dumps({"data": data, "layout": layout}, allow_nan=False)


def round_numbers(panel: Panel, most: int) -> list[float]:
    """Return the ticks of a logarithmic axis: up to `most` round numbers among what it shows."""
    known = [x for series in panel.series for x in series.x if x and x > 0]
    if not known:
        return []
    decades = range(math.floor(math.log10(min(known))), math.ceil(math.log10(max(known))) + 1)
    for digits in ROUND:
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if 0.9 * min(known) <= tick <= 1.1 * max(known)]
        if len(ticks) <= most:
            break
    return ticks


def screen_grid(panels: int) -> tuple[int, int]:
    """Return rows and columns for so many panels: on a screen no more than two rows are high."""
    rows = 1 if panels < 4 else 2
    return rows, math.ceil(panels / rows)


def grid(panels: int) -> tuple[int, int]:
    """Return rows and columns on paper: 1 x n up to three panels, then close to a square."""
    columns = panels if panels < 4 else math.ceil(math.sqrt(panels))
    return math.ceil(panels / columns), columns


def _part(index: int, count: int, gap: float) -> list[float]:
    """Return the part of [0, 1] that belongs to one of `count` panels."""
    width = (1 - gap * (count - 1)) / count
    begin = index * (width + gap)
    return [round(begin, 4), round(min(1.0, begin + width), 4)]


def _trace(series: Series, suffix: str) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": series.name,
        "legendgroup": series.name,
        "x": list(series.x),
        "y": [None if value is None else round(value, 4) for value in series.y],
        "opacity": series.opacity,
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
    }
    if series.labels:
        trace |= {
            "text": list(series.labels),
            "hovertemplate": "%{text}<br>%{x}, %{y:.2f}<extra></extra>",
        }
    if series.line:
        shape = "hv" if series.step else "linear"
        width = {"color": series.colour, "width": series.line, "shape": shape}
        return trace | {"mode": "lines", "line": width, "connectgaps": False}
    if series.errors:
        bars = {"type": "data", "array": list(series.errors), "thickness": 1.5, "width": 4}
        trace["error_y"] = bars | {"color": series.colour}
    size = 13 if series.symbol == "star" else 8
    marker = {"color": series.colour, "symbol": series.symbol, "size": size}
    return trace | {"mode": "markers", "marker": marker}


def svg(figure: Figure, width: float = 8.0) -> str:
    """Return the figure as an SVG element: text as outlines, no script, no reference outside.

    Args:
        figure: to draw.
        width: in inches; a narrow one has a legend of two columns.
    """
    with paper() as new:
        rows, columns = grid(len(figure.panels))
        canvas = new(width, 0.6 + 2.9 * rows)
        axes = canvas.subplots(rows, columns, squeeze=False).flat
        for index, (panel, ax) in enumerate(zip(figure.panels, axes, strict=False)):
            _draw(panel, ax, index % columns == 0)
        for ax in list(axes)[len(figure.panels) :]:
            ax.set_visible(False)
        handles = {
            label: handle
            for ax in canvas.axes
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        if len(handles) > 1:
            canvas.legend(
                handles.values(), handles.keys(), loc="outside lower center",
                ncols=min(4 if width > 6 else 2, len(handles)), frameon=False,
            )  # fmt: skip
        return to_svg(canvas)


@contextmanager
def paper() -> Iterator[Any]:
    """Give a function (width, height in inches) -> matplotlib figure, styled for a white page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    with _one_at_a_time, rc_context(PAPER_STYLE):  # type: ignore[arg-type]
        yield lambda width, height: Canvas(figsize=(width, height), layout="constrained")


def to_svg(canvas: Canvas) -> str:
    """Return a matplotlib figure as an `<svg>` element."""
    file = io.StringIO()
    canvas.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def to_png(canvas: Canvas, dpi: float | None = None) -> bytes:
    """Return a matplotlib figure as a PNG file, the same bytes for the same figure."""
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=dpi or canvas.dpi, metadata={"Software": None})
    return file.getvalue()


def _draw(panel: Panel, ax: Axes, first: bool) -> None:
    from matplotlib.ticker import LogLocator

    for series in panel.series:
        x: Sequence[Any] = [math.nan if value is None else value for value in series.x]
        y = [math.nan if value is None else value for value in series.y]
        look: Mapping[str, Any] = {
            "color": series.colour,
            "alpha": series.opacity,
            "label": series.name,
        }
        if series.line:
            style = "steps-post" if series.step else "default"
            width = 0.7 * series.line
            ax.plot(x, y, lw=width, drawstyle=style, solid_capstyle="butt", **look)
        else:
            size = 9 if series.symbol == "star" else 4.5
            ax.plot(x, y, PAPER_SYMBOLS[series.symbol], ms=size, mew=0, **look)
            if series.errors:
                bars = [math.nan if half is None else half for half in series.errors]
                ax.errorbar(x, y, bars, fmt="none", ecolor=series.colour, elinewidth=1, capsize=2)
    if panel.band:
        ax.axhspan(*panel.band, color="#E69F00", alpha=0.18, lw=0)
    if panel.log_x:
        ax.set_xscale("log")
        ends = [value for series in panel.series for value in series.x if value]
        decades = math.log10(max(ends) / min(ends)) if ends else 1.0
        ax.xaxis.set_major_formatter("{x:g}")
        if decades < 1.5:
            ax.xaxis.set_minor_locator(LogLocator(subs=(2.0, 4.0, 6.0, 8.0)))
        ax.xaxis.set_minor_formatter("{x:g}" if decades < 1.5 else "")
    if panel.y_range:
        ax.set_ylim(*panel.y_range)
    if panel.y_ticks:
        ax.set_yticks([place for place, _ in panel.y_ticks], [word for _, word in panel.y_ticks])
    ax.set_xlabel(panel.x_title)
    if first:
        ax.set_ylabel(panel.y_title)
