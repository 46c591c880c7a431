"""The pictures of `golf-opt interpret`, drawn with matplotlib and returned as PNG.

Nearly all of them are mosaics: tiles of numbers in rows and columns, drawn as one image, because a
hundred small axes take matplotlib seconds. Channels, features and classes count from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from golf_opt.visualization.pictures import in_colour, mosaic
from golf_opt.visualization.plots import to_png

Array = npt.NDArray[Any]
SIGNED, POSITIVE, INK = "PuOr_r", "cividis", "gray"  # each readable by colour-blind eyes
FRAME = "#666666"
PRUNED, SURVIVES = "#dddddd", "#0072B2"  # of Okabe and Ito's palette
DPI = 110
WIDTH = 11.0  # inches of the page
MAX_TICKS = 40


def wrapped(tiles: Array, columns: int) -> Array:
    """Return tiles [n, h, w] in rows, [rows, columns, h, w]; NaN where there is none."""
    rows = -(-len(tiles) // columns)
    grid = np.full((rows * columns, *tiles.shape[1:]), np.nan)
    grid[: len(tiles)] = tiles
    return grid.reshape(rows, columns, *tiles.shape[1:])


def show_mosaic(
    ax: Axes,
    tiles: Array,
    rows: Sequence[object],
    columns: Sequence[object],
    gap: int = 1,
    **options: Any,
) -> AxesImage:
    """Draw tiles [rows, columns, h, w] with a frame around each and a label for each row."""
    image = ax.imshow(mosaic(tiles, gap), interpolation="nearest", aspect="equal", **options)
    _, _, height, width = tiles.shape
    steps = (height + gap, width + gap)
    frames = [
        Rectangle((x * steps[1] - 0.5, y * steps[0] - 0.5), width, height)
        for y in range(tiles.shape[0])
        for x in range(tiles.shape[1])
        if not np.isnan(tiles[y, x]).all()
    ]
    lines = PatchCollection(frames, facecolor="none", edgecolor=FRAME, linewidth=0.6)
    ax.add_collection(lines)
    ax.set_xlim(-1, tiles.shape[1] * steps[1] - gap)  # half a cell wider: room for the frames
    ax.set_ylim(tiles.shape[0] * steps[0] - gap, -1)
    _label(ax, "x", steps[1], width, columns)
    _label(ax, "y", steps[0], height, rows)
    ax.spines[:].set_visible(False)
    return image


def _label(ax: Axes, axis: str, step: int, size: int, labels: Sequence[object]) -> None:
    """Label the tiles' centres; only every so many where there are too many to read."""
    every = -(-len(labels) // MAX_TICKS)
    centres = [step * i + (size - 1) / 2 for i in range(0, len(labels), every)]
    getattr(ax, f"set_{axis}ticks")(centres, [str(label) for label in labels[::every]])
    ax.tick_params(axis, length=0)  # type: ignore[arg-type]


def _figure(
    height: float,
    title: str,
    rows: int = 1,
    layout: Literal["compressed", "constrained"] = "compressed",
    width: float = WIDTH,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, one below the other; `compressed`: of square tiles."""
    figure = Figure(figsize=(width, height), layout=layout, dpi=DPI)
    axes = figure.subplots(rows, 1, squeeze=False, **options)[:, 0]
    figure.suptitle(title, fontsize=13)
    return figure, list(axes)


def _height(tiles: Array, gap: int = 1, widest: float = 0.8, width: float = WIDTH - 2) -> float:
    """Return the inches that a mosaic is high where it fills `width`, or its tiles are widest."""
    rows, columns, high, wide = tiles.shape
    across = min(width, columns * widest)
    return float(across * rows * (high + gap) / (columns * (wide + gap)))


def _limit(values: Array) -> float:
    """The largest magnitude, which the two ends of a signed colour scale stand for."""
    return max(1e-12, float(np.nanmax(np.abs(values))))


def channel_outputs(
    title: str, digits: Sequence[str], images: Array, outputs: Array, where: str
) -> bytes:
    """Draw what every channel of the first layer makes of one image a class.

    Args:
        title: above the picture.
        digits: the classes.
        images: [classes, height, width], bytes.
        outputs: [classes, channels, h, w].
        where: the name of the layer, such as `conv1 + prelu1`.
    """
    largest = np.abs(outputs).max(axis=(0, 2, 3)).clip(1e-12)  # of each channel
    tiles = (outputs / largest[:, None, None]).transpose(1, 0, 2, 3)
    heights = [_height(grid, 2, widest=0.77) for grid in (images[None], tiles)]
    figure, (top, bottom) = _figure(sum(heights) + 1.4, title, 2, height_ratios=heights)
    show_mosaic(top, images[None].astype(float), ["input"], digits, 2, cmap=INK, vmin=0, vmax=255)
    labels = [f"channel {c}   (±{value:.3g})" for c, value in enumerate(largest)]
    shown = show_mosaic(bottom, tiles, labels, digits, 2, cmap=SIGNED, vmin=-1, vmax=1)
    bottom.set_xlabel("class")
    bar = figure.colorbar(shown, ax=[top, bottom], fraction=0.03)
    bar.set_label(f"output of {where},\nas a share of the channel's largest magnitude")
    return to_png(figure)


def class_features(title: str, means: Array, across: int = 72) -> bytes:
    """Draw the mean activation of every feature in each class, grouped by channel.

    Args:
        title: above the picture.
        means: [classes, channels, features of a channel].
        across: features in a row of groups.
    """
    classes, channels, each = means.shape
    per_row = min(channels, max(1, across // each))
    rows = [range(at, min(at + per_row, channels)) for at in range(0, channels, per_row)]
    figure, axes = _figure(1.0 + 2.7 * len(rows), title, len(rows), "constrained")
    signed = means.min() < 0
    low = -_limit(means) if signed else 0.0
    for ax, group in zip(axes, rows, strict=True):
        gap = 1 if each > 1 else 0
        tiles = np.full((1, per_row, classes, each), np.nan)
        tiles[0, : len(group)] = means[:, group].transpose(1, 0, 2)
        shown = ax.imshow(
            mosaic(tiles, gap), cmap=SIGNED if signed else POSITIVE, vmin=low, vmax=_limit(means),
            interpolation="nearest", aspect="auto",
        )  # fmt: skip
        ax.spines[:].set_visible(False)
        ax.set(yticks=range(classes), ylabel="class")
        _number_features(ax, group, each, gap)
    axes[-1].set_xlabel("feature")
    figure.colorbar(shown, ax=axes, fraction=0.03).set_label("mean activation")
    return to_png(figure)


def _number_features(ax: Axes, channels: range, each: int, gap: int) -> None:
    """Number features below the axis, and name their channels above it."""
    total = len(channels) * each
    every = -(-total // MAX_TICKS)
    places = [(c, i) for c in range(len(channels)) for i in range(each)][::every]
    ax.set_xticks(
        [c * (each + gap) + i for c, i in places],
        [str((channels[0] + c) * each + i) for c, i in places],
    )
    ax.tick_params("x", labelsize=8)
    if each > 1:
        above = ax.secondary_xaxis("top")
        step = -(-len(channels) // 12)
        above.set_xticks(
            [c * (each + gap) + (each - 1) / 2 for c in range(0, len(channels), step)],
            [f"channel {channels[c]}" for c in range(0, len(channels), step)],
        )
        above.tick_params("x", length=0)
        above.spines[:].set_visible(False)


def ascent_rows(title: str, rows: Sequence[tuple[str, Array]], across: int = 12) -> bytes:
    """Draw images [n, height, width] in [0, 1], a labelled block for each layer."""
    across = min(across, max(len(images) for _, images in rows))
    grids = [wrapped(images, across) for _, images in rows]
    heights = [_height(grid, 2, widest=1.0, width=WIDTH - 2.2) + 0.45 for grid in grids]
    figure, axes = _figure(sum(heights) + 0.8, title, len(rows), height_ratios=heights)
    for ax, (name, images), grid in zip(axes, rows, grids, strict=True):
        starts = _starts(len(grid), across)
        numbers = range(min(across, len(images)))
        shown = show_mosaic(ax, grid, starts, numbers, 2, cmap=INK, vmin=0, vmax=1)
        ax.set_anchor("W")
        ax.set_title(name, loc="left", fontsize=10)
    axes[-1].set_xlabel("channel")
    _ink_bar(figure, axes, shown)
    return to_png(figure)


def _ink_bar(figure: Figure, axes: Sequence[Axes], shown: AxesImage) -> None:
    bar = figure.colorbar(shown, ax=list(axes), fraction=0.02, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["background", "no effect", "ink"])


def ascent_grid(
    title: str, tiles: Array, rows: Sequence[str] | None, columns: Sequence[str], across: str
) -> bytes:
    """Draw images [rows, columns, height, width] in [0, 1]; `across` is what the columns are.

    Without labels for rows, the tiles are numbered on from row to row.
    """
    rows = rows or _starts(*tiles.shape[:2])
    figure, (ax,) = _figure(_height(tiles, 2, width=WIDTH - 2.4) + 1.3, title)
    shown = show_mosaic(ax, tiles, rows, columns, 2, cmap=INK, vmin=0, vmax=1)
    ax.set_xlabel(across)
    _ink_bar(figure, [ax], shown)
    return to_png(figure)


def filters(title: str, tiles: Array, rows: str, columns: str) -> bytes:
    """Draw kernels [rows, columns, k, k]; a weight of exactly zero is grey.

    `rows` and `columns` say what these are. Without a word for rows, the tiles are numbered on
    from row to row, and may end in NaN.
    """
    down, wide, high, across = tiles.shape
    single = high == across == 1
    gap = 0 if single else 1  # single numbers need none
    tall = high / across
    tile = min(0.3 if single else 0.9, (WIDTH - 2.6) / wide, 18 / (down * tall))  # inches
    width = max(5.0, wide * tile + 2.6)
    figure, (ax,) = _figure(max(1.3, down * tile * tall) + 1.3, title, width=width)
    limit = _limit(tiles)
    labels = list(map(str, range(down))) if rows else _starts(down, wide)
    shown = show_mosaic(ax, tiles, labels, range(wide), gap, cmap=SIGNED, vmin=-limit, vmax=limit)
    zeros = mosaic(np.where(tiles == 0, 1.0, np.nan), gap)
    ax.imshow(zeros, cmap=ListedColormap([PRUNED]), interpolation="nearest", aspect="equal")
    ax.set(xlabel=columns, ylabel=rows)
    figure.colorbar(shown, ax=ax, fraction=0.05).set_label("weight")
    return to_png(figure)


def _starts(down: int, wide: int) -> list[str]:
    """Label rows of tiles that are numbered on from row to row with their first number."""
    return [f"{row * wide} +" if down > 1 else "" for row in range(down)]


def survivors(title: str, tensors: Sequence[tuple[str, Array]]) -> bytes:
    """Draw for every tensor which of its numbers are not zero, [outputs, groups, numbers].

    Where that is too wide, a group is one cell, and its shade the share that is not zero.
    """
    cells = [_survival(values) for _, values in tensors]
    widest = max(flat.shape[1] for flat in cells)
    cell = min(0.2, (WIDTH - 0.5) / widest)  # inches, the same in all tensors
    heights = [max(0.1, len(flat) * cell) + 0.4 for flat in cells]
    figure, axes = _figure(
        sum(heights) + 0.6, title, len(tensors), "constrained", height_ratios=heights
    )
    colours = LinearSegmentedColormap.from_list("survival", [PRUNED, SURVIVES])
    for ax, (name, values), flat in zip(axes, tensors, cells, strict=True):
        wide = np.pad(flat, ((0, 0), (0, widest - flat.shape[1])), constant_values=np.nan)
        ax.imshow(wide, cmap=colours, vmin=0, vmax=1, interpolation="nearest", aspect="equal")
        ax.set_anchor("W")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        count = f"{np.count_nonzero(values):,} of {values.size:,}"
        ax.set_title(f"{name}: {count}", loc="left", fontsize=9)
    return to_png(figure)


def _survival(values: Array, most: int = 400) -> Array:
    """Return [outputs, cells] of ones and zeros with NaN between groups, or of shares."""
    outputs, groups, each = values.shape
    kept = (values != 0).astype(float)
    if groups * (each + 1) > most:
        shares: Array = kept.mean(axis=2)
        return shares
    gaps = np.full((outputs, groups, 1), np.nan)
    return np.concatenate([kept, gaps], axis=2).reshape(outputs, -1)[:, :-1]


def mistakes(title: str, images: Array, captions: Sequence[str]) -> bytes:
    """Draw misclassified images [n, channels, height, width] uint8, a caption below each."""
    across = 10 if max(map(len, captions), default=0) <= len("0 → 0  100 %") else 6
    rows = max(1, -(-len(images) // across))
    figure, (ax,) = _figure(1.08 * 10 / across * rows + 0.6, title)
    step = 38  # from image to image: 28, to which each is stretched, and room for the caption
    ax.set_xlim(-2, across * step)
    ax.set_ylim(rows * step, -4)
    ax.set_aspect("equal")
    ax.axis("off")
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = i % across * step + 4, i // across * step
        ax.imshow(in_colour(image), cmap=INK, vmin=0, vmax=255, extent=(x, x + 28, y + 28, y))
        ax.text(x + 14, y + 29, caption, ha="center", va="top", fontsize=9)
    return to_png(figure)
