"""Pictures of one trial, drawn when somebody looks at it: nothing is made or kept while it trains.

learning-curve   accuracy and training loss by epoch
confusion        which digit was taken for which, on the split of the objective
mistakes         the images that the net is most wrong about
weights          the kernels of every convolution
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Tensors
from golf_opt.task.arch import Net
from golf_opt.task.data import Split
from golf_opt.task.forward import logits
from golf_opt.task.goals import Goal
from golf_opt.task.inputs import InputSpec
from golf_opt.task.layers import Conv, Module
from golf_opt.visualization.plots import BLUE, ORANGE, paper, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Image = TypeVar("Image", str, bytes)
MOST_MISTAKES = 40
CURVE_ROWS = 32  # of the picture of a signal
MOST_KERNELS = 16  # of one layer, each way


def learning_curve(
    title: str, goal: Goal, values: Sequence[float | None], losses: Sequence[float]
) -> str:
    """Return what is optimised (left axis) and training loss (right axis) against the epoch.

    Args:
        title: above the frame.
        goal: what is optimised; an accuracy is drawn in percent.
        values: after each epoch; None where there is none.
        losses: of each epoch, in nats, NaN where there is none.
    """
    with paper() as new:
        canvas = new(5.6, 3.4)
        left = canvas.subplots()
        name = "accuracy" if goal.accuracy else goal.name
        points = [math.nan if value is None else goal.scaled(value) for value in values]
        left.plot(range(1, len(points) + 1), points, "o-", color=BLUE, label=name)
        left.set(title=title, xlabel="epoch")
        left.set_ylabel(f"{name} (%), circles" if goal.accuracy else name, color=BLUE)
        left.xaxis.get_major_locator().set_params(integer=True)
        if any(map(math.isfinite, losses)):
            right = left.twinx()
            right.plot(range(1, len(losses) + 1), losses, "s--", color=ORANGE, ms=4, label="loss")
            right.set_ylabel("training loss (nats), squares", color=ORANGE)
            right.grid(False)
            right.spines["right"].set_visible(True)
        return to_svg(canvas)


@dataclass(frozen=True)
class Readings:
    """What a net says about every image of a split."""

    split: Split
    input: InputSpec
    scores: npt.NDArray[np.float32]  # [n, classes]

    @property
    def guesses(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.scores.argmax(axis=1), dtype=np.int64)

    @property
    def accuracy(self) -> float:
        return float((self.guesses == self.split.labels).mean())


def read(net: Net, tensors: Tensors, split: Split) -> Readings:
    """Run a net on a split, in NumPy: PyTorch takes longer to import than these nets to run."""
    return Readings(split, net.input, logits(net, tensors, split.images))


def confusion(title: str, readings: Readings) -> str:
    """Return the table of classes and what they were taken for, counts of images."""
    return confusion_matrix(title, readings.split.labels, readings.guesses, readings.input, to_svg)


def confusion_matrix(
    title: str,
    labels: npt.NDArray[np.integer[Any]],
    guesses: npt.NDArray[np.integer[Any]],
    spec: InputSpec,
    write: Callable[[Canvas], Image],
) -> Image:
    """Return the table of classes [n] and what they were taken for [n], as `write` gives it."""
    classes = spec.classes
    side = max(4.8, min(16.0, 0.48 * classes))  # inches; beyond that the numbers get small
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels.astype(np.int64), guesses), 1)
    wrong = counts * (1 - np.eye(classes, dtype=np.int64))
    with paper() as new:
        canvas = new(side, side)
        ax = canvas.subplots()
        ax.imshow(wrong, cmap="Blues", vmin=0, vmax=max(1, wrong.max()))
        for row, column in np.ndindex(classes, classes):
            if counts[row, column]:
                dark = wrong[row, column] > 0.6 * wrong.max()
                ax.text(
                    column, row, str(counts[row, column]), ha="center", va="center",
                    fontsize=min(8, 8 * 33 / classes),
                    color="white" if dark else "#999999" if row == column else "black",
                )  # fmt: skip
        ax.set(xlabel="taken for", ylabel="class", title=title)
        ax.set_xticks(range(classes), spec.class_names, rotation=90 if spec.names else 0)
        ax.set_yticks(range(classes), spec.class_names)
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        return write(canvas)


def mistakes(title: str, readings: Readings) -> str:
    """Return the images with the largest gap between the wrong score and the right one."""
    labels = readings.split.labels.astype(np.int64)
    scores = readings.scores
    gap = scores.max(axis=1) - scores[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(readings.guesses != labels)
    wrong = wrong[np.argsort(-gap[wrong], kind="stable")][:MOST_MISTAKES]
    across = 8
    rows = max(1, -(-len(wrong) // across))
    names = readings.input.class_names
    with paper() as new:
        canvas = new(5.6, 0.5 + 0.75 * rows)
        ax = canvas.subplots()
        for place, index in enumerate(wrong):
            row, column = divmod(place, across)
            top, left = row * 36 + 8, column * 32 + 2
            image = in_colour(readings.split.images[index])
            extent = (left, left + 28, top + 28, top)
            ax.imshow(image, cmap="gray_r", vmin=0, vmax=255, extent=extent)
            words = f"{names[labels[index]]} as {names[readings.guesses[index]]}"
            ax.text(left + 14, top - 2, words, ha="center", fontsize=8)
        ax.set(xlim=(0, across * 32), ylim=(rows * 36, 0), aspect="equal")
        ax.set_title(title)
        ax.set_axis_off()
        return to_svg(canvas)


def weights(title: str, net: Net, tensors: Tensors) -> str:
    """Return the kernels of each convolution: a row an output channel, a column an input."""
    layers = [
        (name.removesuffix(".weight"), np.asarray(tensors[f"weights/{name}"]))
        for name in _kernels(net)
    ]
    sheets = [mosaic(values[:MOST_KERNELS, :MOST_KERNELS]) for _, values in layers]
    with paper() as new:
        canvas = new(max(5.6, 1.6 * len(layers)), 3.4)
        if not layers:
            canvas.suptitle(f"{title}: it has no convolution.")
            return to_svg(canvas)
        canvas.suptitle(f"{title}. Blue below zero, red above; each layer has its own scale.")
        widths = [max(13, sheet.shape[1]) for sheet in sheets]
        axes = canvas.subplots(1, len(layers), squeeze=False, width_ratios=widths).flat
        for (name, values), sheet, ax in zip(layers, sheets, axes, strict=True):
            top = float(np.abs(values).max()) or 1.0
            ax.imshow(sheet, cmap="RdBu_r", vmin=-top, vmax=top)
            out, into, height, width = values.shape
            ax.set_title(f"{name}: {out} x {into}\n{height}x{width}, up to {top:.2f}", fontsize=8)
            ax.set_axis_off()
        return to_svg(canvas)


def _kernels(net: Net) -> list[str]:
    """Return the names of the weights of convolutions; of a module, those of their shape."""
    own = [node for node in net.nodes if not node.shared]
    return [f"{node.name}.weight" for node in own if isinstance(node.layer, Conv)] + [
        p.name for node in own if isinstance(node.layer, Module) for p in node.parameters
        if len(p.shape) == 4
    ]  # fmt: skip


def in_colour(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an image [channels, height, width] as it is drawn: [h, w], or [h, w, 3] of colours."""
    return np.moveaxis(image, 0, -1) if len(image) == 3 else in_grey(image[None])[0]


def in_grey(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return images [n, channels, height, width] as [n, height, width], the mean of channels.

    A signal, one row, becomes a picture of its curve.
    """
    grey = images[:, 0] if images.shape[1] == 1 else images.mean(axis=1)
    return _curves(grey[:, 0], 255 if images.dtype == np.uint8 else 1) if _is_signal(grey) else grey


def _is_signal(images: npt.NDArray[Any]) -> bool:
    return bool(images.shape[-2] == 1 < images.shape[-1])


def _curves(signals: npt.NDArray[Any], top: int) -> npt.NDArray[Any]:
    """Return pictures [n, CURVE_ROWS, width] of signals [n, width] from 0 to `top`."""
    level = np.rint((1 - signals / top) * (CURVE_ROWS - 1))[:, None]
    before = np.concatenate([level[..., :1], level[..., :-1]], axis=2)
    rows = np.arange(CURVE_ROWS)[:, None]
    drawn = (rows >= np.minimum(level, before)) & (rows <= np.maximum(level, before))
    return np.where(drawn, top, 0).astype(signals.dtype)


def tall(tiles: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return tiles [..., height, width] so that a single row can be seen."""
    return np.repeat(tiles, CURVE_ROWS // 2, axis=-2) if _is_signal(tiles) else tiles


def mosaic(tiles: npt.NDArray[Any], gap: int = 1) -> npt.NDArray[Any]:
    """Return tiles [rows, columns, h, w] side by side as one image, with NaN between them."""
    rows, columns, height, width = tiles.shape
    canvas = np.full((rows, columns, height + gap, width + gap), np.nan)
    canvas[:, :, :height, :width] = tiles
    whole = canvas.transpose(0, 2, 1, 3).reshape(rows * (height + gap), columns * (width + gap))
    return whole[: -gap or None, : -gap or None]
